//! A million leases through `acquire`: how large, how long to be ready again, and who waits while many expire.
//!
//! Run with the other tests it makes few and only has to come to its end. As a benchmark, for minutes and with a gigabyte of disk:
//! `WRIT_SCALE=1000000 cargo test --release -p writ-broker --lib scale -- --nocapture`. The engine
//! does nothing outside, so that only writ is measured: store, log, policy and table are the real ones.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use writ_core::{LeaseEnd, SessionId};

use super::{
    harness::{Home, Life},
    lanes::{Mode, Servers, home},
    recovery::kill,
};
use crate::{
    leases::{self, Which},
    store::{Change, SessionRecord},
    tasks,
};

const CALLERS: usize = 64;
/// Leases of one session, less than it may have.
const EACH: usize = 200;
/// A tenth of all, and no more than this.
const EXPIRING: usize = 100_000;

#[test]
fn many_leases_expire_while_others_are_made() {
    let leases = std::env::var("WRIT_SCALE").map_or(2_000, |text| text.parse().unwrap());
    let expiring = EXPIRING.min(leases / 10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(leases, expiring));
}

async fn measure(leases: usize, expiring: usize) {
    let servers = Arc::new(Servers::default());
    let home = home("leases_max = 4000000000\nissue_rate = \"4000000000/s\"");
    let life = Arc::new(home.life_of(servers.clone()).await);
    let sessions = sessions(&life, &home, leases / EACH + 100).await;
    let (before, start) = (resident(), Instant::now());
    acquire(&life, &sessions[..expiring / EACH], "u").await;
    home.clock.pass(Duration::from_secs(300));
    acquire(&life, &sessions[expiring / EACH..leases / EACH], "t").await;
    let (taken, bytes) = (start.elapsed(), resident().saturating_sub(before));
    let made = life.broker.leases.count(Which::All);
    assert_eq!(made, leases / EACH * EACH);
    println!(
        "{made} leases in {:.0} s, {:.0} a second",
        taken.as_secs_f64(),
        made as f64 / taken.as_secs_f64()
    );
    println!("resident: {} bytes a lease", bytes / made.max(1));

    servers.set("c", Mode::Away);
    for session in &sessions[leases / EACH - 5..leases / EACH] {
        leases::end(&life.broker, LeaseEnd::Superseded, Which::Session(*session)).await.unwrap();
    }
    let spare = &sessions[leases / EACH..];
    let quiet = latencies(&life, &spare[..50], async || true).await;
    home.clock.pass(Duration::from_secs(600));
    let begun = Instant::now();
    let expiry = life.clone();
    let expired = tokio::spawn(async move {
        tasks::expiry::pass(&expiry.broker).await;
        begun.elapsed()
    });
    let busy = latencies(&life, &spare[50..], async || expired.is_finished()).await;
    println!("{expiring} expired durably in {:.2} s", expired.await.unwrap().as_secs_f64());
    let target = expiring / EACH * EACH;
    until_long(async || servers.asked("other") >= target).await;
    println!("and were settled {:.2} s after they were due", begun.elapsed().as_secs_f64());
    println!("issue p50 / p99, quiet: {}; while they expired: {}", shares(quiet), shares(busy));

    let life = Arc::into_inner(life).unwrap();
    kill(life).await;
    let start = Instant::now();
    let _life = home.life_of(servers).await;
    println!("ready again in {:.2} s", start.elapsed().as_secs_f64());
}

/// Sessions like one that was opened, more than a daemon has.
async fn sessions(life: &Life, home: &Home, number: usize) -> Vec<SessionId> {
    let (opened, attached) = life.open().await;
    // Nobody watches its launcher.
    std::mem::forget(attached);
    let record = life.broker.store.session(opened.session).await.unwrap().unwrap();
    let mut sessions = Vec::new();
    for index in 0..number {
        let mut random = [8; 10];
        random[..8].copy_from_slice(&(index as u64).to_be_bytes());
        let session = SessionId::new(writ_core::Clock::now(home.clock.as_ref()), &random);
        life.broker.sessions.double(opened.session, session);
        sessions.push(session);
    }
    for some in sessions.chunks(500) {
        let open =
            |session: &SessionId| Change::OpenSession(SessionRecord { session: *session, ..record.clone() });
        life.broker.store.apply(some.iter().map(open).collect()).await.unwrap();
    }
    sessions
}

async fn acquire(life: &Arc<Life>, sessions: &[SessionId], target: &'static str) {
    let mut callers = tokio::task::JoinSet::new();
    for some in sessions.chunks(sessions.len().div_ceil(CALLERS).max(1)) {
        let (life, some) = (life.clone(), some.to_vec());
        callers.spawn(async move {
            for session in some {
                for _ in 0..EACH {
                    life.acquire(session, target).await.unwrap();
                }
            }
        });
    }
    callers.join_all().await;
}

/// How long an issue takes, by four callers, until `done` and 50 times each at the least.
async fn latencies(life: &Arc<Life>, sessions: &[SessionId], done: impl AsyncFn() -> bool) -> Vec<Duration> {
    let mut taken = Vec::new();
    for round in 0..EACH * sessions.len() / 4 {
        let sessions = &sessions[round * 4 / EACH..];
        let one = async || {
            let start = Instant::now();
            life.acquire(sessions[0], "t").await.unwrap();
            start.elapsed()
        };
        let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
        taken.extend([a, b, c, d]);
        if round >= 50 && done().await {
            break;
        }
    }
    taken
}

fn shares(mut taken: Vec<Duration>) -> String {
    taken.sort_unstable();
    let at = |share: usize| taken[(taken.len() - 1) * share / 100].as_secs_f64() * 1e3;
    format!("{:.2} / {:.2} ms of {}", at(50), at(99), taken.len())
}

async fn until_long(what: impl AsyncFn() -> bool) {
    while !what().await {
        tokio::task::yield_now().await;
    }
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
