//! The server that tests stand on is real: TLS, passwords, a crash and a freeze.

use writ_testkit::{
    Ca,
    postgres::{Postgres, PostgresConfig},
};

#[test]
fn a_server_of_ones_own() {
    let server =
        Postgres::start(&Ca::mint().unwrap(), PostgresConfig { durable: true, ..PostgresConfig::default() })
            .unwrap();
    let database = server.database().unwrap();
    server.run(&database, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").unwrap();
    let tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(server.run(&database, tls).unwrap(), "t");
    let wrong = server.psql("root_of_db", "wrong", &database, "SELECT 1").unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("password authentication failed"));
    server.crash().unwrap();
    assert!(server.run(&database, "SELECT 1").is_err());
    server.restart().unwrap();
    assert_eq!(server.run(&database, "SELECT n FROM kept").unwrap(), "7");
}

#[test]
fn a_server_that_is_shared() {
    let (server, _) = Postgres::shared().unwrap();
    let (one, other) = (server.database().unwrap(), server.database().unwrap());
    assert_ne!(one, other);
    assert_eq!(server.run(&one, "SELECT current_database()").unwrap(), one);
}
