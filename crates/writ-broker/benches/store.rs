//! Issues per second: what an acquisition costs the store, beside the least that SQLite takes for the same rows.
//!
//! One issue is two jobs: `OpenLease`, durable before anything happens outside, and `ActivateLease`. The raw program writes the
//! same rows with the same schema and settings on one thread, in groups as large as there are callers, without channel, savepoint
//! or answers. Both run in turns on the same disk, several rounds; the table has the medians. A second table has the same issues on a
//! PostgreSQL server of its own, with `fsync`, on the loopback network; it stands in the directory for temporary files.
//!
//! `cargo bench -p writ-broker --bench store`

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark may stop at the first surprise"
)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use serde_json::json;
use writ_broker::store::{
    Change, LeaseRecord, Options, Place, PostgresStore, SessionRecord, SqliteStore, Store,
};
use writ_core::{BootId, LeaseId, LeaseState, Level, Receipt, Scope, SessionId, Timestamp};
use writ_testkit::{
    Ca,
    postgres::{ADMIN, Postgres, PostgresConfig},
};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
const CALLERS: [usize; 3] = [1, 16, 64];
/// Connections and settings as the store has them.
const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
    PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA wal_autocheckpoint = 1024";

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test --benches` only builds it.
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| callers | issues/s | raw issues/s | ratio | issue p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|");
    for callers in CALLERS {
        let (mut ours, mut bare, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = directory.path().join("writ.db");
            let (rate, taken) = runtime.block_on(async {
                store(Arc::new(SqliteStore::open(&path, Options::default()).unwrap()), callers).await
            });
            ours.push(rate);
            times.extend(taken);
            bare.push(raw(&directory.path().join("raw.db"), callers));
        }
        let (ours, bare) = (median(&mut ours), median(&mut bare));
        let (p50, p99) = shares(&mut times);
        let ratio = ours / bare;
        println!("| {callers} | {ours:.0} | {bare:.0} | {ratio:.2} | {p50:.2} | {p99:.2} |");
    }
    println!("\n| callers | issues/s on PostgreSQL | issue p50 ms | p99 ms |");
    println!("|---|---|---|---|");
    let config = PostgresConfig { durable: true, ..PostgresConfig::default() };
    let server = Postgres::start(&Ca::mint().unwrap(), config).unwrap();
    for callers in CALLERS {
        let (mut ours, mut times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let place = place(&server);
            let (rate, taken) = runtime.block_on(async {
                store(Arc::new(PostgresStore::open(&place).await.unwrap()), callers).await
            });
            ours.push(rate);
            times.extend(taken);
        }
        let (p50, p99) = shares(&mut times);
        println!("| {callers} | {:.0} | {p50:.2} | {p99:.2} |", median(&mut ours));
    }
}

/// An empty database on the server.
fn place(server: &Postgres) -> Place {
    let (_, file) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
    std::fs::write(&file, server.password()).unwrap();
    let url = format!("postgres://{ADMIN}@127.0.0.1:{}/{}", server.port(), server.database().unwrap());
    Place { url, password_file: Some(file), tls_ca: None, dial: None }
}

/// Median and 99th percentile, in milliseconds.
fn shares(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    (at(50), at(99))
}

/// Callers that issue one lease after another, each waiting for its own.
async fn store(store: Arc<dyn Store>, callers: usize) -> (f64, Vec<Duration>) {
    store.apply(vec![Change::OpenSession(session())]).await.unwrap();
    let start = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(&store);
        running.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < ROUND {
                let begun = Instant::now();
                let row = lease(caller, times.len());
                let lease = row.lease;
                store.apply(vec![Change::OpenLease(row)]).await.unwrap();
                store.apply(vec![Change::ActivateLease { lease, version: 1, receipt: None }]).await.unwrap();
                times.push(begun.elapsed());
            }
            times
        });
    }
    let times: Vec<Duration> = running.join_all().await.into_iter().flatten().collect();
    (times.len() as f64 / start.elapsed().as_secs_f64(), times)
}

/// The same rows, a group in one transaction, then their activation in another.
fn raw(path: &Path, group: usize) -> f64 {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(SETTINGS).unwrap();
    connection.execute_batch(include_str!("../src/store/sqlite/migrations/0001.sql")).unwrap();
    let row = session();
    let sql = "INSERT INTO sessions (id, boot, workload, role, requester, program, directory, pid, level, opened_at, expires_at)
         VALUES (?1, ?2, 'w', 'r', 'ada', 'p', 'd', 1, 'advisory', 1, 2)";
    connection.execute(sql, params![row.session.as_bytes(), row.boot.as_bytes()]).unwrap();
    let insert = "INSERT INTO leases (id, session, boot, workload, role, target, credential, engine, version, scope, receipt,
             state, issued_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 'pending', ?12, ?13)";
    let update = "UPDATE leases SET state = 'active', version = ?2 WHERE id = ?1 AND state = 'pending'";
    let (mut issued, start) = (0, Instant::now());
    while start.elapsed() < ROUND {
        let rows: Vec<LeaseRecord> = (0..group).map(|caller| lease(caller, issued)).collect();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for row in &rows {
            let mut statement = connection.prepare_cached(insert).unwrap();
            let (scope, receipt) = (json!(row.scope).to_string(), json!(row.receipt).to_string());
            let values = params![
                row.lease.as_bytes(),
                row.session.as_bytes(),
                row.boot.as_bytes(),
                row.workload.as_str(),
                row.role.as_str(),
                row.target.as_str(),
                row.credential.as_ref().map(writ_core::CredentialName::as_str),
                row.engine,
                row.version,
                scope,
                receipt,
                row.issued_at.millis(),
                row.expires_at.millis(),
            ];
            statement.execute(values).unwrap();
        }
        connection.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
        for row in &rows {
            connection.prepare_cached(update).unwrap().execute(params![row.lease.as_bytes(), 1]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        issued += group;
    }
    issued as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn session() -> SessionRecord {
    SessionRecord {
        session: SessionId::new(Timestamp::from_millis(1), &[1; 10]),
        boot: BootId::new(Timestamp::from_millis(1), &[2; 10]),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        requester: "ada".to_owned(),
        program: "/usr/bin/claude".to_owned(),
        directory: "/home/ada/project".to_owned(),
        pid: 4711,
        level: Level::Advisory,
        prompt_sha256: None,
        resumed_from: None,
        opened_at: Timestamp::from_millis(1),
        expires_at: Timestamp::from_millis(i64::MAX),
        ended_at: None,
        end: None,
    }
}

/// A lease as the broker would open it; identifiers rise with the time, as they do there.
fn lease(caller: usize, number: usize) -> LeaseRecord {
    let session = session();
    let mut random = [0; 10];
    random[..8].copy_from_slice(&(caller as u64).to_be_bytes());
    random[8..].copy_from_slice(&(number as u16).to_be_bytes());
    let now = Timestamp::from_millis(1_790_000_000_000 + number as i64);
    LeaseRecord {
        lease: LeaseId::new(now, &random),
        session: session.session,
        boot: session.boot,
        workload: session.workload,
        role: session.role,
        target: "openai".parse().unwrap(),
        credential: "openai".parse().ok(),
        engine: "static".to_owned(),
        version: 0,
        scope: Scope {
            authority: "api.openai.com".parse().unwrap(),
            grants: vec![writ_core::Grant {
                methods: vec!["POST".to_owned()],
                paths: vec!["/v1/*".parse().unwrap()],
            }],
        },
        receipt: Receipt(json!({"credential": "openai", "version": 1})),
        lane: "static".into(),
        revealed: false,
        state: LeaseState::Pending,
        end: None,
        revoked: None,
        issued_at: now,
        expires_at: Timestamp::from_millis(1_790_000_900_000),
        ended_at: None,
    }
}
