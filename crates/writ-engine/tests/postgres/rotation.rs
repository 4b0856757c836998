//! The administrator's password changes, and the leases that were made before stay revocable.

use std::sync::atomic::Ordering;

use writ_core::{EngineFault, Revoked, Secret};
use writ_engine::postgres::connect::{Endpoint, connect};
use writ_testkit::{
    Ca,
    postgres::{Postgres, PostgresConfig},
};

use crate::{
    bench::{Bench, engine},
    support::place_at,
};

#[tokio::test]
async fn a_password_is_changed_and_tried_by_logging_in() {
    let bench = Bench::new();
    let admin = format!("admin_of_{}", bench.place.template);
    bench.admin(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'first'; GRANT {} TO {admin} WITH ADMIN OPTION",
        bench.place.template
    ));
    let mut place = bench.place.clone();
    place.password = "first".to_owned();
    let bench = Bench::at(place).with(serde_json::json!({ "user": admin }));
    let issued = [bench.issue().await, bench.issue().await];
    let fetched = bench.broker.fetched.load(Ordering::Relaxed);

    let name = "orders".parse().unwrap();
    let (config, tools) = (&bench.place.config, &bench.broker);
    let rotation = bench.engine.rotation().unwrap();
    assert_eq!(rotation.password_of(&name, config).unwrap().as_str(), "orders-admin");
    let (current, next) = (Secret::new(b"first".to_vec()), rotation.next(&name, config).unwrap());
    assert!(rotation.test(&name, config, &current, tools).await.unwrap());
    assert!(!rotation.test(&name, config, &next, tools).await.unwrap());
    rotation.set(&name, config, &current, &next, tools).await.unwrap();
    assert!(rotation.test(&name, config, &next, tools).await.unwrap());
    assert!(!rotation.test(&name, config, &current, tools).await.unwrap());
    let kept = bench.admin(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{admin}'"));
    assert!(kept.starts_with("SCRAM-SHA-256$4096:"), "{kept}");

    // What is open stays open; what has to be opened anew asks for the new one, and is not stopped by the old.
    *bench.broker.password.lock().unwrap() = String::from_utf8(next.expose().to_vec()).unwrap();
    assert_eq!(bench.broker.fetched.load(Ordering::Relaxed), fetched);
    bench.admin(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{admin}'"));
    assert_eq!(bench.revoke(&issued[0].receipt).await.unwrap(), Revoked::Gone);
    let third = bench.issue().await;
    assert_eq!(bench.revoke(&third.receipt).await.unwrap(), Revoked::Gone);
    assert_eq!(engine().revoke(&issued[1].receipt, tools).await.unwrap(), Revoked::Gone);
    assert_eq!(bench.roles(), "0");

    // A wrong password is no silence, and is not quoted.
    *bench.broker.password.lock().unwrap() = "no-such-password".to_owned();
    let fault = engine().mint(&crate::bench::permit(), &bench.plan().await, config, tools).await.unwrap_err();
    assert!(matches!(&fault, EngineFault::Outside { .. }), "{fault}");
    assert!(
        fault.to_string().contains("refuses the login") && !fault.to_string().contains("no-such"),
        "{fault}"
    );
}

/// `psql` gives these servers what they ask for.
#[tokio::test]
async fn a_server_that_asks_for_the_password_or_its_md5_is_not_given_it() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let lines = "host all asked_plainly all password\nhost all asked_for_md5 all md5\nhost all all all scram-sha-256\n";
    std::fs::write(rules.path(), lines).unwrap();
    let rules = rules.into_temp_path();
    std::fs::set_permissions(&rules, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let settings = vec![format!("hba_file = {}", rules.display())];
    let server =
        Postgres::start(&Ca::mint().unwrap(), PostgresConfig { settings, ..PostgresConfig::default() });
    let server: &'static Postgres = Box::leak(Box::new(server.unwrap()));
    let bench = Bench::at(place_at(server));
    bench.admin(
        "CREATE ROLE proven LOGIN PASSWORD 'its-own'; CREATE ROLE asked_plainly LOGIN PASSWORD 'its-own'; \
         SET password_encryption = 'md5'; CREATE ROLE asked_for_md5 LOGIN PASSWORD 'its-own'",
    );
    let database = &bench.place.database;
    for (user, let_in) in [("proven", true), ("asked_plainly", false), ("asked_for_md5", false)] {
        assert!(server.psql(user, "its-own", database, "SELECT 1").unwrap().status.success(), "{user}");
        let endpoint = Endpoint { user: user.to_owned(), ..bench.endpoint(database) };
        let connected = connect(&endpoint, Some(&Secret::new(b"its-own".to_vec())), "test").await;
        assert_eq!(connected.is_ok(), let_in, "{user}: {:?}", connected.err());
    }
}
