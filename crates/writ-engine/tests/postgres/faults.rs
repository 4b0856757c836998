//! Servers that are not there, not theirs, or die in the middle.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio_postgres::Client;
use writ_core::{EngineFault, Receipt, Revoked, Secret};
use writ_engine::postgres::{ConnectFault, Tls, connect, connect::Endpoint};
use writ_testkit::{
    Ca,
    postgres::{Postgres, PostgresConfig},
};

use crate::{
    bench::{Bench, engine, permit},
    support::place_at,
};

fn own_server() -> &'static Postgres {
    let server = Postgres::start(&Ca::mint().unwrap(), PostgresConfig::default()).unwrap();
    Box::leak(Box::new(server))
}

#[tokio::test]
async fn whoever_is_not_the_server_gets_no_password() {
    let bench = Bench::new();
    let good = bench.endpoint(&bench.place.database);
    let password = Secret::new(bench.place.password.clone().into_bytes());
    let stranger = Ca::mint().unwrap().pem().to_owned();
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    for (what, endpoint) in [
        ("another authority", Endpoint { tls: Tls::VerifyFull(Some(stranger)), ..good.clone() }),
        ("another name", Endpoint { host: "other.example".to_owned(), ..good.clone() }),
        ("its address as a name", Endpoint { host: "127.0.0.1".to_owned(), ..good.clone() }),
        ("nobody there", Endpoint { dial: Some(closed), ..good.clone() }),
    ] {
        let fault = connect(&endpoint, Some(&password), "test").await.err().unwrap();
        assert!(matches!(fault, ConnectFault::Unreachable(_)), "{what}: {fault:?}");
    }
    let far = Endpoint { dial: Some("192.0.2.1:5432".parse().unwrap()), tls: Tls::Disable, ..good.clone() };
    let fault = connect(&far, Some(&password), "test").await.err().unwrap();
    assert!(matches!(fault, ConnectFault::Endpoint(_)), "{fault:?}");
    let near = Endpoint { tls: Tls::Disable, ..good.clone() };
    assert!(connect(&near, Some(&password), "test").await.is_ok());
    let elsewhere = Endpoint { database: "no_such_database".to_owned(), ..good };
    let fault = connect(&elsewhere, Some(&password), "test").await.err().unwrap();
    assert!(matches!(fault, ConnectFault::Refused(_)), "{fault:?}");
}

/// The channel is bound: SCRAM-SHA-256-PLUS.
#[tokio::test]
async fn tls_carries_the_login_and_the_session() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let agent = bench.session(&issued).await;
    let row = agent.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    let admins = bench.admin(
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'writ'",
    );
    assert_eq!(admins, "t");
    bench.revoke(&issued.receipt).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_says_so_by_its_lane() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let bench = Bench::new().with(json!({ "dial": closed.to_string() }));
    let receipt = bench.plan().await;
    let lane = format!("postgres db.example:{}", bench.place.server.port());
    assert_eq!(bench.engine.lane(&receipt), lane);
    for fault in [bench.mint(&receipt).await.err().unwrap(), bench.revoke(&receipt).await.unwrap_err()] {
        assert!(matches!(&fault, EngineFault::Unreachable { lane: said, .. } if *said == lane), "{fault}");
        assert!(!fault.to_string().contains(&bench.place.password));
    }
}

/// A server that is there and does not answer keeps nobody waiting but those who want something of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_server_delays_no_other() {
    let dead = own_server();
    let (bench, other) = (Bench::new(), Bench::at(place_at(dead)));
    // One engine for both, as in a broker.
    let planned = other.plan().await;
    dead.freeze(true).unwrap();
    let permit = permit();
    let stuck = bench.engine.mint(&permit, &planned, &other.place.config, &other.broker);
    let begun = Instant::now();
    let alive = async {
        for _ in 0..20 {
            let issued = bench.issue().await;
            bench.revoke(&issued.receipt).await.unwrap();
        }
        begun.elapsed()
    };
    let (fault, took) = tokio::join!(stuck, alive);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(matches!(fault, Err(EngineFault::Unreachable { .. })), "{fault:?}");
    dead.freeze(false).unwrap();
    assert_eq!(other.revoke(&planned).await.unwrap(), Revoked::Gone);
    assert_eq!(other.roles(), "0");
    dead.crash().unwrap();
}

/// The server, which does not wait for its disk where nobody asks for it, dies while logins are made and removed; whatever the callers were told, the receipts revoke what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_mid_flight_leaves_nothing() {
    let server = own_server();
    let bench = Bench::at(place_at(server));
    let kept = bench.issue().await;
    for _ in 0..5 {
        let mut planned = Vec::new();
        for _ in 0..60 {
            planned.push(bench.plan().await);
        }
        let work = join_all(planned.iter().map(async |receipt| {
            drop(bench.mint(receipt).await);
            drop(bench.revoke(receipt).await);
        }));
        let crash = tokio::task::spawn_blocking(|| {
            std::thread::yield_now();
            server.restart().unwrap();
        });
        let (_, crashed) = tokio::join!(work, crash);
        crashed.unwrap();
        // It is up again: what was open is opened anew without a word.
        let outcomes = join_all(planned.iter().map(|receipt| bench.revoke(receipt))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Revoked::Gone))), "{outcomes:?}");
        assert_eq!(bench.roles(), "1");
    }
    server.restart().unwrap();
    assert!(bench.psql(&kept, "SELECT 1").status.success());
    let next = bench.issue().await;
    for issued in [kept, next] {
        assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    }
    assert_eq!(bench.roles(), "0");
    server.crash().unwrap();
}

/// A revocation that found nothing stays true, though the login was still waiting to be made.
#[tokio::test]
async fn what_was_revoked_while_it_waited_is_never_made() {
    let bench = Bench::new();
    let (first, second) = (bench.plan().await, bench.plan().await);
    // The worker is open, and then held up by the lock of the first name.
    let warm = bench.issue().await;
    let holder = admin(&bench).await;
    holder.batch_execute(&format!("SELECT pg_advisory_lock({})", lock_of(&first))).await.unwrap();
    let held = async { bench.mint(&first).await.map(drop) };
    let others = async {
        waits(&bench).await;
        let revoked = async {
            let gone = bench.revoke(&second).await;
            holder.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
            gone
        };
        // In this order: the login is in the queue when it is revoked.
        tokio::join!(bench.mint(&second), revoked)
    };
    let (held, (queued, revoked)) = tokio::join!(held, others);
    let queued = queued.map(drop);
    assert!(held.is_ok() && matches!(revoked, Ok(Revoked::Gone)), "{held:?} {revoked:?}");
    assert!(queued.unwrap_err().to_string().contains("revoked before"));
    assert_eq!(bench.roles(), "2");
    for receipt in [&first, &warm.receipt] {
        bench.revoke(receipt).await.unwrap();
    }
    assert_eq!(bench.roles(), "0");
}

/// Another life of the broker died with its transaction in the air: the revocation waits until it is known what came of it.
#[tokio::test]
async fn a_revocation_waits_for_a_transaction_that_is_in_the_air() {
    let bench = Bench::new();
    let planned = bench.plan().await;
    let role = planned.0["role"].as_str().unwrap().to_owned();
    let dying = admin(&bench).await;
    let begun = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({}); CREATE ROLE {role} LOGIN IN ROLE {}",
        lock_of(&planned),
        bench.place.template
    );
    dying.batch_execute(&begun).await.unwrap();
    let commit = async {
        waits(&bench).await;
        dying.batch_execute("COMMIT").await.unwrap();
    };
    let fresh = engine();
    let (revoked, ()) = tokio::join!(fresh.revoke(&planned, &bench.broker), commit);
    assert_eq!(revoked.unwrap(), Revoked::Gone);
    assert_eq!(bench.roles(), "0");
}

async fn admin(bench: &Bench) -> Client {
    let password = Secret::new(bench.place.password.clone().into_bytes());
    let (client, link) =
        connect(&bench.endpoint(&bench.place.database), Some(&password), "holder").await.unwrap();
    tokio::spawn(async move { drop(link.await) });
    client
}

/// Until somebody waits for an advisory lock in the place's database.
async fn waits(bench: &Bench) {
    let client = admin(bench).await;
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
               WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()";
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
}

/// The key under which a role is made and removed: the last 16 digits of its name.
fn lock_of(receipt: &Receipt) -> i64 {
    let role = receipt.0["role"].as_str().unwrap();
    u64::from_str_radix(&role[role.len() - 16..], 16).unwrap().cast_signed()
}
