//! SIGKILL in the middle of writing: the test program starts itself as the writer, and kills it.
#![expect(clippy::unwrap_used, reason = "tests: a failure here is a failed test")]

mod common;

use std::{
    collections::HashSet,
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::{START, World, events, ok, use_of};
use writ_audit::{Attempt, CheckpointLog, Kind, SegmentDir, Signer, Stream, Verdict};

const ROLE: &str = "WRIT_AUDIT_CRASH_DIR";
/// Durable records that the parent waits for before it kills.
const ACKNOWLEDGED: usize = 300;

/// The child: writes until it is killed, and says which durable records it was promised.
#[test]
fn writer() {
    let Ok(dir) = env::var(ROLE) else { return };
    let dir = Path::new(&dir);
    let signer = Signer::from_pkcs8(&std::fs::read(dir.join("key")).unwrap()).unwrap();
    let log = dir.join("log");
    let heads = CheckpointLog::open(&log, signer, std::time::Duration::ZERO).unwrap();
    let mut config = World::new().config("broker", Some(std::sync::Arc::new(heads)));
    config.segment_bytes = 64 << 10;
    let source = SegmentDir::new(&log, "broker".parse().unwrap()).unwrap();
    let stream = Stream::start(config, Box::new(source)).unwrap();
    for at in 0.. {
        let id = format!("durable-{at}");
        let attempt = Attempt { request_id: Some(&id), ..use_of(START + at) };
        let entry = stream.open_durable(&attempt).wait().unwrap();
        println!("\n{id}");
        for _ in 0..8 {
            stream.record(&use_of(START + at), &ok()).unwrap();
        }
        if at % 2 == 0 {
            entry.close(&ok());
        } else {
            std::mem::forget(entry);
        }
    }
}

fn run_and_kill(dir: &Path) -> HashSet<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(ROLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut promised = HashSet::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if line.starts_with("durable-") && promised.insert(line) && promised.len() == ACKNOWLEDGED {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(promised.len() >= ACKNOWLEDGED, "the writer ended by itself");
    promised
}

#[test]
fn a_killed_writer_keeps_its_promises_and_shows_a_gap() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("log");
    std::fs::write(dir.path().join("key"), world.pkcs8()).unwrap();
    let mut promised = HashSet::new();
    for round in 1..=3 {
        // The ids repeat in every round; the gaps tell the rounds apart.
        promised.extend(run_and_kill(dir.path()));
        let stream = world.stream(&log, "broker", &world.checkpoints(&log));
        stream.record(&use_of(START), &ok()).unwrap();
        stream.close().unwrap();
        let report = world.verify(&log);
        assert_eq!(report.problems, []);
        // Killed, then opened by this test: a gap for each; the child after a clean end: none.
        assert_eq!(report.streams.iter().map(|stream| stream.gaps).sum::<u64>(), round);
    }
    let events = events(&log);
    let recorded: HashSet<_> = events.iter().filter_map(|event| event.request_id.clone()).collect();
    let lost: Vec<_> = promised.difference(&recorded).collect();
    assert_eq!(lost, Vec::<&String>::new());
    assert_eq!(events.iter().filter(|event| event.kind == Kind::Gap).count(), 3);
    let unknown = events.iter().filter(|e| e.kind == Kind::Use && e.outcome.result == Verdict::Unknown);
    assert!(unknown.count() >= 3 * (ACKNOWLEDGED / 2), "attempts without an outcome read as unknown");
}
