//! What a login may do, and what it may not do about its end.

use serde_json::json;
use writ_core::{EngineFault, Revoked};

use crate::bench::{Bench, refused};

const DENIED: &str = "42501";

#[tokio::test]
async fn a_login_reads_the_orders_and_cannot_see_the_payments() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let orders = bench.psql(&issued, "SELECT id FROM orders");
    assert_eq!(String::from_utf8_lossy(&orders.stdout), "7\n");
    for sql in ["SELECT card FROM payments", "INSERT INTO orders VALUES (1)", "DROP TABLE orders"] {
        assert!(!bench.psql(&issued, sql).status.success(), "{sql}");
    }
    let agent = bench.session(&issued).await;
    assert_eq!(refused(&agent, "SELECT * FROM payments").await, DENIED);
    assert_eq!(refused(&agent, "COPY orders TO PROGRAM 'true'").await, DENIED);
    assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
}

#[tokio::test]
async fn the_database_knows_the_lease() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let lease = &issued.login.user[issued.login.user.len() - 32..];
    let comment =
        bench.admin(&format!("SELECT shobj_description('{}'::regrole, 'pg_authid')", issued.login.user));
    let comment: serde_json::Value = serde_json::from_str(&comment).unwrap();
    assert_eq!(comment["lease"].as_str().unwrap().replace('-', ""), lease);
    assert_eq!(comment["workload"], "spiffe://writ.local/agent/x");
    let settings = bench.admin(&format!(
        "SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{}'::regrole",
        issued.login.user
    ));
    assert_eq!(settings, format!("{{application_name=writ:{}}}", comment["lease"].as_str().unwrap()));
    bench.revoke(&issued.receipt).await.unwrap();
}

/// P10: one iteration, which libpq takes as well as rustls' neighbor does.
#[tokio::test]
async fn the_server_keeps_a_verifier_of_one_iteration_and_no_password() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let kept =
        bench.admin(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", issued.login.user));
    assert!(kept.starts_with("SCRAM-SHA-256$1:") && !kept.contains(&issued.password), "{kept}");
    assert!(bench.psql(&issued, "SELECT 1").status.success());
    assert!(!bench.place.server.log().contains(&issued.password));
    bench.revoke(&issued.receipt).await.unwrap();
}

#[tokio::test]
async fn an_agent_can_neither_free_itself_nor_live_longer() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (agent, me, template) = (bench.session(&issued).await, &issued.login.user, &bench.place.template);
    bench.admin("CREATE ROLE accomplice_of_rights");
    for sql in [
        "SET ROLE root_of_db".to_owned(),
        "SET SESSION AUTHORIZATION root_of_db".to_owned(),
        format!("SET SESSION AUTHORIZATION {template}"),
        format!("ALTER ROLE {me} VALID UNTIL 'infinity'"),
        format!("ALTER ROLE {me} CONNECTION LIMIT -1"),
        format!("ALTER ROLE {me} SUPERUSER"),
        format!("ALTER ROLE {me} CREATEROLE"),
        format!("COMMENT ON ROLE {me} IS 'nobody'"),
        format!("GRANT {template} TO accomplice_of_rights"),
        format!("ALTER ROLE {template} LOGIN"),
        format!("DROP ROLE {me}"),
        "CREATE ROLE another LOGIN".to_owned(),
        "CREATE DATABASE another".to_owned(),
    ] {
        assert_eq!(refused(&agent, &sql).await, DENIED, "{sql}");
    }
    // "session user cannot be renamed"
    assert_eq!(refused(&agent, &format!("ALTER ROLE {me} RENAME TO somebody")).await, "0A000");
    // Its template's rights are its own already, and no more come with the name.
    agent.batch_execute(&format!("SET ROLE {template}")).await.unwrap();
    assert_eq!(refused(&agent, "SELECT * FROM payments").await, DENIED);
    assert_eq!(refused(&agent, &format!("ALTER ROLE {me} VALID UNTIL 'infinity'")).await, DENIED);
    bench.revoke(&issued.receipt).await.unwrap();
    bench.admin("DROP ROLE accomplice_of_rights");
}

/// Any role may change its own password; so may whoever stole it. It moves nothing of the end.
#[tokio::test]
async fn a_login_that_changed_its_password_dies_like_any_other() {
    let bench = Bench::new();
    let mut issued = bench.issue().await;
    let end = format!("SELECT rolvaliduntil FROM pg_roles WHERE rolname = '{}'", issued.login.user);
    let before = bench.admin(&end);
    let agent = bench.session(&issued).await;
    agent.batch_execute(&format!("ALTER ROLE {} PASSWORD 'stolen'", issued.login.user)).await.unwrap();
    issued.password = "stolen".to_owned();
    assert!(bench.psql(&issued, "SELECT 1").status.success());
    assert_eq!(bench.admin(&end), before);
    bench.revoke(&issued.receipt).await.unwrap();
    assert!(!bench.psql(&issued, "SELECT 1").status.success());
    assert!(agent.batch_execute("SELECT 1").await.is_err());
}

#[tokio::test]
async fn templates_that_could_free_a_login_are_refused() {
    let bench = Bench::new();
    let template = &bench.place.template;
    let powers = [
        ("SUPERUSER", "is a superuser"),
        ("CREATEROLE", "may create and alter roles"),
        ("REPLICATION", "by replication"),
        ("BYPASSRLS", "row security"),
        ("IN ROLE pg_read_server_files", "files or programs"),
        ("IN ROLE pg_write_server_files", "files or programs"),
        ("IN ROLE pg_execute_server_program", "files or programs"),
        ("IN ROLE pg_signal_backend", "what others do"),
        ("IN ROLE pg_maintain", "what others do"),
        ("IN ROLE pg_create_subscription", "what others do"),
        ("ADMIN", "may grant a role on"),
    ];
    for (power, why) in powers {
        // What the server's version does not know, nobody can be a member of.
        if let Some(role) = power.strip_prefix("IN ROLE ")
            && bench.admin(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'")) == "0"
        {
            assert!(["pg_maintain", "pg_create_subscription"].contains(&role), "{role}");
            continue;
        }
        // Not the template itself: a role that its members reach through it.
        let grant = match power {
            "ADMIN" => format!(
                "CREATE ROLE powerful_{template}; GRANT powerful_{template} TO {template} WITH ADMIN OPTION"
            ),
            _ => format!("CREATE ROLE powerful_{template} {power}; GRANT powerful_{template} TO {template}"),
        };
        bench.admin(&grant);
        // Another engine, whose verdict is not from before.
        let bench = Bench::at(bench.place.clone());
        let fault = bench.mint(&bench.plan().await).await.err().unwrap();
        assert!(
            matches!(&fault, EngineFault::Config { .. }) && fault.to_string().contains(why),
            "{power}: {fault}"
        );
        assert_eq!(bench.roles(), "0");
        let bench = bench.with(json!({ "allow_privileged": true }));
        let issued = bench.issue().await;
        bench.revoke(&issued.receipt).await.unwrap();
        bench.admin(&format!("DROP ROLE powerful_{template}"));
    }
    let bench = bench.with(json!({ "member_of": ["no_such_role"] }));
    let fault = bench.mint(&bench.plan().await).await.err().unwrap();
    assert!(
        matches!(&fault, EngineFault::Config { .. }) && fault.to_string().contains("no_such_role"),
        "{fault}"
    );
}

/// P4, and the last line of defence: the server's clock, whatever the broker's says.
#[tokio::test]
async fn the_end_is_by_the_servers_clock() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let left = format!(
        "SELECT round(extract(epoch FROM rolvaliduntil - now()) / 10) FROM pg_roles WHERE rolname = '{}'",
        issued.login.user
    );
    // 15 minutes and the grace of one.
    assert_eq!(bench.admin(&left), "96");
    let later = writ_core::Timestamp::from_millis(crate::bench::NOW.millis() + 3_600_000);
    bench.engine.renew(&issued.receipt, later, &bench.broker).await.unwrap();
    assert_eq!(bench.admin(&left), "366");
    bench.admin(&format!("ALTER ROLE {} VALID UNTIL 'epoch'", issued.login.user));
    assert!(!bench.psql(&issued, "SELECT 1").status.success());
    // A lease that has ended gets no login, and one that was revoked no more time.
    bench.broker.set_now(later);
    let late = bench.mint(&bench.plan().await).await.err().unwrap();
    assert!(late.to_string().contains("ended"), "{late}");
    bench.revoke(&issued.receipt).await.unwrap();
    assert!(bench.engine.renew(&issued.receipt, later, &bench.broker).await.is_err());
    assert_eq!(bench.roles(), "0");
}

#[tokio::test]
async fn sessions_of_a_login_are_limited() {
    let bench = Bench::new().with(json!({ "connection_limit": 1 }));
    let issued = bench.issue().await;
    let _one = bench.session(&issued).await;
    let two = bench.psql(&issued, "SELECT 1");
    assert!(String::from_utf8_lossy(&two.stderr).contains("too many connections"));
    bench.revoke(&issued.receipt).await.unwrap();
}
