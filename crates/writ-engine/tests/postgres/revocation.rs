//! What is left of a login when it was revoked: nothing, whatever it did.

use std::sync::atomic::Ordering;

use serde_json::json;
use writ_core::{EngineFault, Revoked, Tools as _};
use writ_testkit::{
    Ca,
    postgres::{Postgres, PostgresConfig},
};

use crate::{
    bench::{Bench, Broker, engine, permit, without_oid},
    support::place_at,
};

/// P2 and P3: `DROP ROLE` alone leaves a session with what it became by `SET ROLE`.
#[tokio::test]
async fn open_sessions_end_even_as_the_template() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let template = &bench.place.template;
    let mut sessions = Vec::new();
    for held in [
        format!("SET ROLE {template}"),
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM orders; FETCH c".to_owned(),
        "CREATE TEMP TABLE mine (id int); INSERT INTO mine VALUES (1)".to_owned(),
        "SELECT pg_advisory_lock(7)".to_owned(),
        format!("BEGIN; SET LOCAL ROLE {template}; LOCK TABLE orders IN ACCESS SHARE MODE"),
    ] {
        let session = bench.session(&issued).await;
        session.batch_execute(&held).await.unwrap();
        sessions.push((held, session));
    }
    let asleep = bench.session(&issued).await;
    let asleep = tokio::spawn(async move { asleep.batch_execute("SELECT pg_sleep(600)").await });
    assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    assert_eq!((bench.sessions(&issued), bench.roles()), ("0".to_owned(), "0".to_owned()));
    assert!(asleep.await.unwrap().is_err());
    for (held, session) in sessions {
        assert!(session.batch_execute("SELECT 1").await.is_err(), "{held}");
    }
    assert!(!bench.psql(&issued, "SELECT 1").status.success());
}

/// P1 and P5: rights of its own, objects in two databases, default privileges, large objects, rights it gave.
#[tokio::test]
async fn what_it_made_and_holds_goes_with_it_in_every_database() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let other = bench.place.server.database().unwrap();
    let me = &issued.login.user;
    bench.admin(&format!("CREATE ROLE friend_{me} LOGIN"));
    for database in [&bench.place.database, &other] {
        let setup = format!(
            "GRANT CREATE, USAGE ON SCHEMA public TO {me}; GRANT TEMP ON DATABASE {database} TO {me} WITH GRANT OPTION"
        );
        bench.place.server.run(database, &setup).unwrap();
        let agent = bench.session_in(&issued, database).await;
        let sql = format!(
            "CREATE TABLE mine (id serial PRIMARY KEY); CREATE VIEW seen AS SELECT * FROM mine; \
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE mood AS ENUM ('ok'); \
             SELECT lo_create(0); GRANT SELECT ON mine TO friend_{me}; \
             GRANT TEMP ON DATABASE {database} TO friend_{me}; \
             ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO friend_{me}"
        );
        agent.batch_execute(&sql).await.unwrap();
    }
    bench.admin(&format!("GRANT SELECT ON payments TO {me}"));
    assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    assert_eq!(bench.roles(), "0");
    for database in [&bench.place.database, &other] {
        let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname IN ('mine', 'seen')), \
                    (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) FROM pg_default_acl)";
        assert_eq!(bench.place.server.run(database, left).unwrap(), "0|0|0", "{database}");
    }
    // Nothing that it gave outlives it.
    bench.admin(&format!("DROP ROLE friend_{me}"));
}

#[tokio::test]
async fn what_others_built_upon_its_objects_is_not_lost() {
    for reassign in [false, true] {
        let bench = Bench::new();
        let template = bench.place.template.clone();
        let owned = if reassign { format!("reassign:{template}") } else { "drop".to_owned() };
        let bench = bench.with(json!({ "owned": owned }));
        let issued = bench.issue().await;
        let heir = match reassign {
            true => template,
            false => format!("writ_estate_{}", &issued.login.user[5..13]),
        };
        bench.admin(&format!("GRANT CREATE ON SCHEMA public TO {}", issued.login.user));
        let agent = bench.session(&issued).await;
        agent.batch_execute("CREATE TABLE mine (id int); CREATE TABLE alone (id int)").await.unwrap();
        bench.admin("CREATE VIEW report AS SELECT * FROM mine");
        bench.revoke(&issued.receipt).await.unwrap();
        assert_eq!(bench.roles(), "0");
        let owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('mine', 'alone')";
        assert_eq!(bench.admin(owners), heir);
        assert_eq!(bench.admin("SELECT count(*) FROM report"), "0");
    }
}

/// A function that runs as its owner, and a view of another's upon it so that it cannot simply be dropped: whoever inherits
/// it must lend it nothing, least of all the administrator.
#[tokio::test]
async fn what_it_left_behind_gains_no_rights_by_its_heir() {
    let bench = Bench::new();
    let template = &bench.place.template;
    bench.admin(&format!("GRANT CREATE ON SCHEMA public TO {template}"));
    for reassign in [false, true] {
        let owned = if reassign { format!("reassign:{template}") } else { "drop".to_owned() };
        let bench = Bench::at(bench.place.clone()).with(json!({ "owned": owned }));
        let (issued, accomplice) = (bench.issue().await, bench.issue().await);
        let agent = bench.session(&issued).await;
        let trap = format!(
            "CREATE FUNCTION who() RETURNS text LANGUAGE sql AS 'SELECT current_user::text'; \
             CREATE FUNCTION cards() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER \
             AS 'BEGIN RETURN QUERY SELECT card FROM payments; END'; \
             CREATE VIEW seen AS SELECT card FROM payments; GRANT SELECT ON seen TO PUBLIC; \
             SET ROLE {template}; CREATE VIEW bait AS SELECT who(), (SELECT count(*) FROM cards())"
        );
        agent.batch_execute(&trap).await.unwrap();
        assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
        let other = bench.session(&accomplice).await;
        let runs_as: String = other.query_one("SELECT who()", &[]).await.unwrap().get(0);
        let estate = format!("writ_estate_{}", &issued.login.user[5..13]);
        let heir = if reassign { template } else { &estate };
        assert_eq!(runs_as, *heir, "it runs as its heir, whoever calls it");
        assert_eq!(bench.admin("SELECT who()"), *heir);
        for sql in ["SELECT * FROM cards()", "SELECT * FROM seen", "SELECT * FROM bait"] {
            assert_eq!(crate::bench::refused(&other, sql).await, "42501", "{sql}");
        }
        if !reassign {
            let rights = "SELECT rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication \
                          OR rolbypassrls OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid)";
            assert_eq!(bench.admin(&format!("{rights} FROM pg_roles r WHERE rolname = '{estate}'")), "f");
        }
        bench.revoke(&accomplice.receipt).await.unwrap();
        bench.admin("DROP VIEW bait, seen; DROP FUNCTION who(), cards()");
    }
}

/// P6: the administrator of a hosted server is no superuser.
#[tokio::test]
async fn an_administrator_without_superuser_rights_is_enough() {
    let bench = Bench::new();
    let (template, database) = (&bench.place.template, &bench.place.database);
    let admin = format!("admin_of_{template}");
    bench.admin(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'plain'; GRANT {template} TO {admin} WITH ADMIN OPTION"
    ));
    let mut place = bench.place.clone();
    place.password = "plain".to_owned();
    let bench = Bench::at(place).with(json!({ "user": admin }));
    let other = bench.place.server.database().unwrap();
    let issued = bench.issue().await;
    for database in [database, &other] {
        let grant = format!("GRANT CREATE ON SCHEMA public TO {template}");
        bench.place.server.run(database, &grant).unwrap();
        let agent = bench.session_in(&issued, database).await;
        agent.batch_execute("CREATE TABLE mine (id int)").await.unwrap();
    }
    let agent = bench.session(&issued).await;
    agent.batch_execute(&format!("SET ROLE {template}")).await.unwrap();
    assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    assert!(agent.batch_execute("SELECT 1").await.is_err());
    assert_eq!((bench.sessions(&issued), bench.roles()), ("0".to_owned(), "0".to_owned()));
}

/// Somebody dropped the role under an open session: whoever may not end it says how they could, and the others go on.
#[tokio::test]
async fn a_session_without_a_name_is_ended_by_who_may_signal() {
    let bench = Bench::new();
    let template = bench.place.template.clone();
    let admin = format!("admin_of_{template}");
    bench.admin(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'plain'; GRANT {template} TO {admin} WITH ADMIN OPTION"
    ));
    let mut place = bench.place.clone();
    place.password = "plain".to_owned();
    let bench = Bench::at(place).with(json!({ "user": admin }));
    let (nameless, other) = (bench.issue().await, bench.issue().await);
    let agent = bench.session(&nameless).await;
    bench.admin(&format!("DROP ROLE {}", nameless.login.user));
    let (stuck, gone) = tokio::join!(bench.revoke(&nameless.receipt), bench.revoke(&other.receipt));
    assert!(stuck.unwrap_err().to_string().contains("GRANT pg_signal_backend"));
    assert_eq!(gone.unwrap(), Revoked::Gone);
    bench.admin(&format!("GRANT pg_signal_backend TO {admin}"));
    assert_eq!(bench.revoke(&nameless.receipt).await.unwrap(), Revoked::Gone);
    assert!(agent.batch_execute("SELECT 1").await.is_err());
    assert_eq!(bench.sessions(&nameless), "0");
}

#[tokio::test]
async fn a_revocation_may_begin_anywhere_and_be_repeated() {
    let bench = Bench::new();
    // Never made.
    let planned = bench.plan().await;
    assert_eq!(bench.revoke(&planned).await.unwrap(), Revoked::Gone);
    // Made, and the answer was lost: the receipt has no number.
    let issued = bench.issue().await;
    let agent = bench.session(&issued).await;
    let bare = without_oid(&issued.receipt);
    assert_eq!(bench.revoke(&bare).await.unwrap(), Revoked::Gone);
    assert_eq!(bench.revoke(&bare).await.unwrap(), Revoked::Gone);
    assert!(agent.batch_execute("SELECT 1").await.is_err());
    // Stopped after each of its steps, and taken up by another life of the broker.
    for done in [
        "ALTER ROLE {} NOLOGIN VALID UNTIL 'epoch'",
        "ALTER ROLE {} NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
        "ALTER ROLE {} NOLOGIN; DROP OWNED BY {}",
        // Somebody else's hand: the session lives on, and has no name any more.
        "DROP ROLE {}",
    ] {
        let issued = bench.issue().await;
        let agent = bench.session(&issued).await;
        agent.batch_execute(&format!("SET ROLE {}", bench.place.template)).await.unwrap();
        bench.admin(&done.replace("{}", &issued.login.user));
        assert_eq!(engine().revoke(&issued.receipt, &bench.broker).await.unwrap(), Revoked::Gone, "{done}");
        assert_eq!((bench.sessions(&issued), bench.roles()), ("0".to_owned(), "0".to_owned()), "{done}");
        assert!(agent.batch_execute("SELECT 1").await.is_err(), "{done}");
    }
}

/// Making again, because an answer was lost, gives one role with the newer password; never what was revoked.
#[tokio::test]
async fn making_twice_makes_one_and_never_undoes_a_revocation() {
    let bench = Bench::new();
    let planned = bench.plan().await;
    let first = bench.mint(&planned).await.unwrap();
    let second = bench.mint(&planned).await.unwrap();
    assert_eq!(first.receipt, second.receipt);
    assert_eq!(bench.roles(), "1");
    assert!(!bench.psql(&first, "SELECT 1").status.success());
    assert!(bench.psql(&second, "SELECT 1").status.success());
    bench.admin(&format!("ALTER ROLE {} NOLOGIN", second.login.user));
    let fault = bench.mint(&planned).await.err().unwrap();
    assert!(fault.to_string().contains("is being removed"), "{fault}");
    bench.revoke(&planned).await.unwrap();
    assert_eq!(bench.roles(), "0");
}

#[tokio::test]
async fn prepared_transactions_are_undone() {
    let settings = vec!["max_prepared_transactions = 10".to_owned()];
    let server =
        Postgres::start(&Ca::mint().unwrap(), PostgresConfig { settings, ..PostgresConfig::default() });
    let server: &'static Postgres = Box::leak(Box::new(server.unwrap()));
    let bench = Bench::at(place_at(server));
    let admin = format!("admin_of_{}", bench.place.template);
    bench.admin(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'plain'; GRANT {} TO {admin} WITH ADMIN OPTION",
        bench.place.template
    ));
    let mut place = bench.place.clone();
    place.password = "plain".to_owned();
    let plain = Bench::at(place).with(json!({ "user": admin }));
    bench.admin(&format!("GRANT CREATE ON SCHEMA public TO {}", bench.place.template));
    for bench in [&bench, &plain] {
        let issued = bench.issue().await;
        let agent = bench.session(&issued).await;
        agent
            .batch_execute("BEGIN; CREATE TABLE later (id int); PREPARE TRANSACTION 'it''s mine'")
            .await
            .unwrap();
        drop(agent);
        assert_eq!(bench.admin("SELECT count(*) FROM pg_prepared_xacts"), "1");
        assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
        assert_eq!(bench.admin("SELECT count(*) FROM pg_prepared_xacts"), "0");
        assert_eq!(bench.roles(), "0");
    }
    server.crash().unwrap();
}

/// One that cannot be removed keeps none of its batch from being removed, and says why.
#[tokio::test]
async fn a_bad_entry_fails_alone() {
    let bench = Bench::new();
    let mut issued = Vec::new();
    for _ in 0..9 {
        issued.push(bench.issue().await);
    }
    // One owns a database, which nothing drops in passing; one has a table that somebody else has locked.
    let (owner, locked) = (&issued[2], &issued[5]);
    bench.admin(&format!("GRANT CREATE ON SCHEMA public TO {}", locked.login.user));
    let agent = bench.session(locked).await;
    agent.batch_execute("CREATE TABLE held (id int)").await.unwrap();
    let database = bench.place.server.database().unwrap();
    bench.admin(&format!("ALTER DATABASE {database} OWNER TO {}", owner.login.user));
    let (holder, link) = writ_engine::postgres::connect(
        &bench.endpoint(&bench.place.database),
        Some(&writ_core::Secret::new(bench.place.password.clone().into_bytes())),
        "holder",
    )
    .await
    .unwrap();
    tokio::spawn(async move { drop(link.await) });
    holder.batch_execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let outcomes =
        futures_util::future::join_all(issued.iter().map(|issued| bench.revoke(&issued.receipt))).await;
    for (at, outcome) in outcomes.iter().enumerate() {
        match at {
            2 | 5 => assert!(matches!(outcome, Err(EngineFault::Outside { .. })), "{at}: {outcome:?}"),
            _ => assert!(matches!(outcome, Ok(Revoked::Gone)), "{at}: {outcome:?}"),
        }
    }
    assert!(outcomes[2].as_ref().unwrap_err().to_string().contains("2BP01"), "{:?}", outcomes[2]);
    assert!(outcomes[5].as_ref().unwrap_err().to_string().contains("lock timeout"), "{:?}", outcomes[5]);
    // What cannot go yet cannot log in either.
    assert!(!bench.psql(owner, "SELECT 1").status.success());
    assert!(!bench.psql(locked, "SELECT 1").status.success());
    holder.batch_execute("ROLLBACK").await.unwrap();
    bench.admin(&format!("ALTER DATABASE {database} OWNER TO root_of_db"));
    for one in [owner, locked] {
        assert_eq!(bench.revoke(&one.receipt).await.unwrap(), Revoked::Gone);
    }
    assert_eq!(bench.roles(), "0");
}

#[tokio::test]
async fn what_was_remembered_is_enough_for_another_life_of_the_broker() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    // A broker that never heard of the connection cannot tell, and says so.
    let stranger = Broker::new(&bench.place.password);
    assert!(matches!(engine().revoke(&issued.receipt, &stranger).await, Err(EngineFault::Memory(_))));
    assert_eq!(engine().revoke(&issued.receipt, &bench.broker).await.unwrap(), Revoked::Gone);
    assert_eq!(bench.roles(), "0");
}

#[tokio::test]
async fn a_connection_that_is_not_what_its_digest_says_is_refused_before_any_password_is_fetched() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let key = issued.receipt.0["connection"].as_str().unwrap();
    let known = bench.broker.recall(key).await.unwrap().unwrap();
    let stranger = Broker::new(&bench.place.password);
    let mut other = known.clone();
    other["dial"] = "127.0.0.1:1".into();
    stranger.remember(key, other).await.unwrap();
    let fault = engine().revoke(&issued.receipt, &stranger).await.unwrap_err();
    assert!(matches!(&fault, EngineFault::Memory(why) if why.contains("another connection")), "{fault}");
    assert_eq!(stranger.fetched.load(Ordering::Relaxed), 0);
    stranger.remember(key, known).await.unwrap();
    assert_eq!(engine().revoke(&issued.receipt, &stranger).await.unwrap(), Revoked::Gone);
}

#[tokio::test]
async fn a_receipt_is_of_the_lease_in_the_name_of_its_login_and_of_no_other() {
    let bench = Bench::new();
    let (lease, other) = (bench.lease(), bench.lease());
    let receipt = bench.engine.plan(&permit(), lease, &bench.place.config, &bench.broker).await.unwrap();
    assert!(bench.engine.is_of(&receipt, lease));
    assert!(!bench.engine.is_of(&receipt, other));
}
