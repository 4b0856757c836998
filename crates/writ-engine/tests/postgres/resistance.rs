//! What an agent can do against its own revocation, and that it is of no use.

use std::process::{Command, Stdio};

use serde_json::json;
use writ_core::Revoked;
use writ_testkit::until;

use crate::bench::{Bench, Issued};

/// As the administrator of the whole server, and as one who may only create roles.
fn benches() -> [Bench; 2] {
    let whole = Bench::new();
    let template = whole.place.template.clone();
    let admin = format!("admin_of_{template}");
    whole.admin(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'plain'; GRANT {template} TO {admin} WITH ADMIN OPTION"
    ));
    let mut place = whole.place.clone();
    place.password = "plain".to_owned();
    [whole, Bench::at(place).with(json!({ "user": admin }))]
}

/// The key of the lock under which its role is made and removed: it is in its name.
fn key(issued: &Issued) -> i64 {
    let name = &issued.login.user;
    u64::from_str_radix(&name[name.len() - 16..], 16).unwrap().cast_signed()
}

async fn is_gone(bench: &Bench, issued: &Issued) {
    assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    assert_eq!(bench.sessions(issued), "0");
    let role = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", issued.login.user);
    assert_eq!(bench.admin(&role), "0");
}

#[tokio::test]
async fn it_takes_the_lock_of_its_removal() {
    for bench in benches() {
        let issued = bench.issue().await;
        let agent = bench.session(&issued).await;
        agent.batch_execute(&format!("SELECT pg_advisory_lock({})", key(&issued))).await.unwrap();
        is_gone(&bench, &issued).await;
        assert!(agent.batch_execute("SELECT * FROM orders").await.is_err());
    }
}

#[tokio::test]
async fn a_mate_takes_the_lock_of_its_removal() {
    let [bench, _] = benches();
    let (issued, mate) = (bench.issue().await, bench.issue().await);
    let agent = bench.session(&mate).await;
    agent.batch_execute(&format!("SELECT pg_advisory_lock({})", key(&issued))).await.unwrap();
    is_gone(&bench, &issued).await;
    is_gone(&bench, &mate).await;
}

#[tokio::test]
async fn it_holds_its_own_row() {
    for bench in benches() {
        let issued = bench.issue().await;
        let agent = bench.session(&issued).await;
        agent.batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'").await.unwrap();
        is_gone(&bench, &issued).await;
        assert!(agent.batch_execute("SELECT * FROM orders").await.is_err());
    }
}

/// A backend that was accepted and sleeps before it appears wakes up as the template, long after its role is gone.
#[tokio::test]
async fn it_hides_a_session_that_starts() {
    for bench in benches() {
        let issued = bench.issue().await;
        let server = bench.place.server;
        let mut hidden = Command::new("psql")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("PGPASSWORD", &issued.password)
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", server.ca_file())
            .env("PGHOSTADDR", "127.0.0.1")
            .env("PGOPTIONS", format!("-c role={} -c post_auth_delay=600", bench.place.template))
            .args(["-X", "-w", "-h", "db.example", "-p", &server.port().to_string()])
            .args(["-U", &issued.login.user, "-d", &issued.login.database, "-c", "SELECT * FROM orders"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let starting = "SELECT count(*) FROM pg_locks l WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass \
             AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid)";
        let hides = || bench.admin(starting) == "1";
        assert!(until(std::time::Duration::from_secs(30), hides), "nothing hides");
        is_gone(&bench, &issued).await;
        assert!(!hidden.wait().unwrap().success(), "it read after its end");
    }
}
