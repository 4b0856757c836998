//! What is PostgreSQL's own: the suite on it, and everything that can happen to a connection or a server.

use std::sync::Arc;

use writ_testkit::postgres::{ADMIN, Postgres};

use super::{Place, PostgresStore, boots, changes, listen, rows};
use crate::store::{Store, suite};

/// A database of one's own on the shared server.
fn place() -> Place {
    let (server, _) = Postgres::shared().unwrap();
    place_on(server, &server.database().unwrap())
}

fn place_on(server: &Postgres, database: &str) -> Place {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), server.password()).unwrap();
    let url = format!("postgres://{ADMIN}@127.0.0.1:{}/{database}", server.port());
    Place { url, password_file: Some(file.into_temp_path().keep().unwrap()), tls_ca: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_promises_of_the_store() {
    suite::check_store(async || {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&place()).await.unwrap());
        store
    })
    .await;
}

/// A slip in a statement that is seldom needed shows here.
#[tokio::test]
async fn every_statement_is_understood() {
    let place = place();
    drop(PostgresStore::open(&place).await.unwrap());
    let link = super::Server::of(&place).unwrap().connect(None).await.unwrap();
    for sql in [changes::ALL, rows::ALL, boots::ALL, listen::ALL].concat() {
        assert!(link.prepare(sql).await.is_ok(), "{sql}");
    }
}
