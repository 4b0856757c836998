//! What a record costs: the pair of a use at saturation, and durable opens with 1, 16 and 64 callers.
//!
//! `use_pairs` counts wall time of one caller while the log thread hashes, writes and syncs beside it; refusals by a full
//! queue are waited out and counted in. On one pinned core the same figure is the whole CPU of a pair, both threads.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot run has no figure")]

use std::{sync::Arc, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use writ_audit::{
    Attempt, CHECKPOINT_INTERVAL, CheckpointLog, FieldKey, HeadSink, Kind, LogFault, Outcome, PathView,
    SegmentDir, Signer, Stream, StreamConfig,
};

fn main() {
    divan::main();
}

/// Pairs in one sample: some seconds of a busy proxy core.
const PAIRS: usize = 100_000;
/// Durable opens in one sample, over all callers.
const DURABLE: usize = 2_048;

struct Log {
    stream: Stream,
    _dir: tempfile::TempDir,
}

fn log() -> Log {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
    let heads = CheckpointLog::open(dir.path(), signer, CHECKPOINT_INTERVAL).unwrap();
    let mut config = StreamConfig::new(
        "proxy-0".parse().unwrap(),
        FieldKey::new(&[1; 32]),
        Arc::new(|| 1_795_219_200_000_000),
    );
    config.heads = Some(Arc::new(heads) as Arc<dyn HeadSink>);
    let source = SegmentDir::new(dir.path(), "proxy-0".parse().unwrap()).unwrap();
    Log { stream: Stream::start(config, Box::new(source)).unwrap(), _dir: dir }
}

fn attempt(plain: bool) -> Attempt<'static> {
    Attempt {
        request_id: Some("0196f3a0-0000-7000-8000-000000000001"),
        workload: Some("spiffe://writ.local/dev/claude"),
        role: Some("dev"),
        session: Some("0196f3a0-0000-7000-8000-000000000002"),
        requester: Some("ada"),
        credential: Some("openai"),
        credential_type: Some("static"),
        method: Some("POST"),
        scheme: Some("https"),
        host: Some("api.openai.com"),
        port: Some(443),
        path: Some(PathView { path: "/v1/chat/completions", plain }),
        lease: Some("0196f3a0-0000-7000-8000-000000000003"),
        within_ttl: Some(true),
        target: Some("openai"),
        ..Attempt::new(Kind::Use, 1_795_219_200_000_000)
    }
}

fn outcome() -> Outcome<'static> {
    Outcome {
        duration: Some(1500),
        status: Some(200),
        bytes_up: Some(512),
        bytes_down: Some(2048),
        dialled: Some("192.0.2.1:443"),
        ..Outcome::ok()
    }
}

fn pair(stream: &Stream, attempt: &Attempt<'_>, outcome: &Outcome<'_>) {
    loop {
        match stream.open(attempt) {
            Ok(entry) => return entry.close(outcome),
            Err(LogFault::Full { .. }) => std::thread::sleep(Duration::from_micros(50)),
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// The path is on the caller's allow-list.
#[divan::bench(sample_count = 30, sample_size = 1)]
fn use_pairs_plain_path(bencher: Bencher<'_, '_>) {
    pairs(bencher, true);
}

/// The path's three segments are hashed.
#[divan::bench(sample_count = 30, sample_size = 1)]
fn use_pairs_hashed_path(bencher: Bencher<'_, '_>) {
    pairs(bencher, false);
}

fn pairs(bencher: Bencher<'_, '_>, plain_path: bool) {
    let log = log();
    let (attempt, outcome) = (attempt(plain_path), outcome());
    bencher.counter(ItemsCount::new(PAIRS)).bench_local(|| {
        (0..PAIRS).for_each(|_| pair(&log.stream, &attempt, &outcome));
        log.stream.flush().wait().unwrap();
    });
}

#[divan::bench(args = [1, 16, 64], sample_count = 20, sample_size = 1)]
fn durable_opens(bencher: Bencher<'_, '_>, callers: usize) {
    let log = log();
    let (attempt, outcome) = (attempt(true), outcome());
    bencher.counter(ItemsCount::new(DURABLE)).bench_local(|| {
        std::thread::scope(|scope| {
            for _ in 0..callers {
                scope.spawn(|| {
                    for _ in 0..DURABLE / callers {
                        log.stream.open_durable(&attempt).wait().unwrap().close(&outcome);
                    }
                });
            }
        });
    });
}
