//! A real PostgreSQL server for the engine that needs one, with roles of each test's own.
#![expect(clippy::unwrap_used, reason = "tests: a failure here is a failed test")]

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use writ_testkit::postgres::{ADMIN, HOST, Postgres};

/// A database of its own, a template role of its own, and what an engine is told about them.
#[derive(Clone)]
pub struct Place {
    pub server: &'static Postgres,
    pub database: String,
    pub template: String,
    /// The administrator's password.
    pub password: String,
    /// The table `config`.
    pub config: Value,
}

/// A place of the server that all tests of this process share.
pub fn place() -> Place {
    let (server, _) = Postgres::shared().unwrap();
    place_at(server)
}

/// A place at `server`.
pub fn place_at(server: &'static Postgres) -> Place {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let database = server.database().unwrap();
    let template = format!("orders_read_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let setup = format!(
        "CREATE ROLE {template} NOLOGIN; CREATE TABLE orders (id int); CREATE TABLE payments (card text); \
         INSERT INTO orders VALUES (7); INSERT INTO payments VALUES ('4111'); \
         GRANT USAGE ON SCHEMA public TO {template}; GRANT SELECT ON orders TO {template}"
    );
    server.run(&database, &setup).unwrap();
    let config = json!({
        "server": format!("{HOST}:{}", server.port()),
        "dial": format!("127.0.0.1:{}", server.port()),
        "database": database,
        "user": ADMIN,
        "password": "orders-admin",
        "member_of": [template],
        "tls_ca": fs::read_to_string(server.ca_file()).unwrap(),
    });
    Place { server, database, template, password: server.password().to_owned(), config }
}
