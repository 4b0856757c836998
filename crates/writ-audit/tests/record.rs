//! Recording: what is accepted, what is refused, what stands in the files, and what is read back.

mod common;

use std::{
    fs,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Waker},
    time::Duration,
};

use common::{Disk, START, World, events, is_full, key, ok, use_of};
use expect_test::expect;
use writ_audit::{
    Attempt, Filter, Kind, LogFault, MAX_OPEN_ENTRIES, Outcome, PathView, SegmentDir, Stream, Tail, Verdict,
};

#[test]
fn an_attempt_and_its_outcome_are_one_event() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    let attempt = Attempt {
        request_id: Some("r-9"),
        workload: Some("spiffe://writ.local/dev/claude"),
        role: Some("dev"),
        session: Some("s-7"),
        requester: Some("ada (1000)"),
        credential: Some("openai"),
        credential_type: Some("static"),
        scope: Some("POST /v1/*"),
        method: Some("POST"),
        scheme: Some("https"),
        host: Some("api.openai.com"),
        port: Some(443),
        dialled: None,
        path: Some(PathView { path: "/v1/chat?key=canary#frag", plain: true }),
        lease: None,
        within_ttl: Some(true),
        action: None,
        target: Some("openai"),
        ..Attempt::new(Kind::Acquire, START)
    };
    let outcome = Outcome {
        duration: Some(2500),
        status: Some(200),
        bytes_up: Some(1),
        bytes_down: Some(1 << 40),
        scrubbed: Some(2),
        lease: Some("l-3"),
        dialled: Some("[2001:db8::1]:443"),
        ..Outcome::ok()
    };
    stream.open(&attempt).unwrap().close(&outcome);
    stream.close().unwrap();
    let event = &events(dir.path())[0];
    expect![[r#"
        {
          "time": "2026-11-21T00:00:00Z",
          "stream": "broker",
          "sequence": 2,
          "kind": "acquire",
          "actor": {
            "workload": "spiffe://writ.local/dev/claude",
            "role": "dev",
            "requester": "ada (1000)"
          },
          "action": "acquire",
          "resource": {
            "credential": "openai",
            "credential_type": "static",
            "target": "openai",
            "scope": "POST /v1/*",
            "method": "POST",
            "scheme": "https",
            "host": "api.openai.com",
            "port": 443,
            "dialled": "[2001:db8::1]:443",
            "path": "/v1/chat"
          },
          "outcome": {
            "result": "ok",
            "duration_us": 2500,
            "status": 200,
            "bytes_up": 1,
            "bytes_down": 1099511627776,
            "scrubbed": 2
          },
          "lease_id": "l-3",
          "within_ttl": true,
          "session_id": "s-7",
          "request_id": "r-9"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(event).unwrap());
    let text = serde_json::to_string(event).unwrap();
    assert_eq!(&serde_json::from_str::<writ_audit::Event>(&text).unwrap(), event);
}

/// Everything an agent chooses may hold a secret; none of it may reach the disk.
#[test]
fn values_off_the_allow_list_never_reach_the_disk() {
    const CANARY: &str = "CANARY-0123456789abcdef";
    /// Short enough for a method.
    const METHOD_LEN: usize = 12;
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "proxy-0", &world.checkpoints(dir.path()));
    let path = format!("/bot{CANARY}/send/{CANARY}");
    let query = format!("/plain?token={CANARY}");
    let fragment = format!("/plain#{CANARY}");
    let control = format!("role\n{CANARY}");
    let terminal = format!("\u{9b}31m{CANARY}");
    let host = format!("evil.example/{CANARY}");
    let base = Attempt::new(Kind::Use, START);
    let attempts = [
        Attempt { path: Some(PathView { path: &path, plain: false }), ..base },
        Attempt { path: Some(PathView { path: &query, plain: true }), ..base },
        Attempt { path: Some(PathView { path: &fragment, plain: false }), ..base },
        Attempt { method: Some(&CANARY[..METHOD_LEN]), ..base },
        Attempt { scheme: Some(CANARY), ..base },
        Attempt { action: Some(CANARY), ..base },
        Attempt { credential_type: Some(CANARY), ..base },
        Attempt { role: Some(&control), ..base },
        Attempt { path: Some(PathView { path: &terminal, plain: true }), ..base },
        Attempt { host: Some(&host), ..base },
    ];
    for attempt in &attempts {
        stream.record(attempt, &Outcome { dialled: Some(&host), ..Outcome::refused(CANARY) }).unwrap();
    }
    stream.close().unwrap();
    let bytes = fs::read(dir.path().join("proxy-0-000001.seg")).unwrap();
    assert!(!bytes.windows(8).any(|window| CANARY.as_bytes().windows(8).any(|part| part == window)));

    let events = events(dir.path());
    assert_eq!(events.len(), attempts.len());
    let hashed = key().hash("path", CANARY);
    let bot = key().hash("path", &format!("bot{CANARY}"));
    let expected = format!("/{bot}/{}/{hashed}", key().hash("path", "send"));
    assert_eq!(events[0].resource.path.as_deref(), Some(expected.as_str()));
    assert_eq!(events[1].resource.path.as_deref(), Some("/plain"));
    assert_eq!(events[3].resource.method, Some(key().hash("method", &CANARY[..METHOD_LEN])));
    assert_eq!(events[3].outcome.reason, Some(key().hash("reason", CANARY)));
    assert!(hashed.starts_with("h:") && hashed.len() == 24);
}

#[test]
fn long_values_are_cut_and_stay_distinct() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    let long = "é".repeat(100_000);
    let slashes = "/a".repeat(50_000);
    let attempt = Attempt {
        role: Some(&long),
        scope: Some(&long),
        host: Some(&long),
        path: Some(PathView { path: &slashes, plain: false }),
        ..Attempt::new(Kind::Refused, START)
    };
    stream.record(&attempt, &Outcome::refused("too-long")).unwrap();
    stream.close().unwrap();
    let event = &events(dir.path())[0];
    let role = event.actor.role.as_deref().unwrap();
    assert!(role.len() <= 256 && role.starts_with("éé"));
    assert!(role.ends_with(&format!("~{}", key().hash("role", &long))));
    assert!(event.resource.scope.as_deref().unwrap().len() <= 1024);
    assert_eq!(event.resource.host, Some(key().hash("host", &long)));
    assert!(event.resource.path.as_deref().unwrap().len() <= 1024);
}

#[test]
fn every_ending_reads_as_itself() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    let outcomes =
        [ok(), Outcome::refused("host-not-listed"), Outcome::failed("dial"), Outcome::cut("revoked")];
    for outcome in &outcomes {
        stream.record(&use_of(START), outcome).unwrap();
    }
    drop(stream.open(&use_of(START)).unwrap());
    let pending = stream.open(&use_of(START)).unwrap();
    stream.flush().wait().unwrap();
    let endings = || -> Vec<_> {
        let pairs = events(dir.path()).into_iter().map(|event| (event.outcome.result, event.outcome.reason));
        pairs.map(|(result, reason)| (result, reason.unwrap_or_default())).collect()
    };
    let mut expected = vec![
        (Verdict::Ok, String::new()),
        (Verdict::Refused, "host-not-listed".to_owned()),
        (Verdict::Failed, "dial".to_owned()),
        (Verdict::Cut, "revoked".to_owned()),
        (Verdict::Unknown, "dropped".to_owned()),
        (Verdict::Pending, String::new()),
    ];
    let sorted = |mut endings: Vec<(Verdict, String)>| {
        endings.sort_by_key(|(verdict, _)| verdict.as_str());
        endings
    };
    assert_eq!(sorted(endings()), sorted(expected.clone()));
    stream.close().unwrap();
    pending.close(&ok());
    expected[5] = (Verdict::Unknown, writ_audit::NO_OUTCOME.to_owned());
    assert_eq!(sorted(endings()), sorted(expected));
    assert!(matches!(stream.open(&use_of(START)), Err(LogFault::Closed { .. })));
}

#[test]
fn a_use_reaches_the_disk_by_itself() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = Stream::start(world.config("proxy-0", None), disk.source(dir.path(), "proxy-0")).unwrap();
    let synced = disk.listen();
    let entry = stream.open(&use_of(START)).unwrap();
    synced.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(events(dir.path())[0].outcome.result, Verdict::Pending);
    entry.close(&ok());
    synced.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(events(dir.path())[0].outcome.result, Verdict::Ok);
}

#[test]
fn a_durable_open_waits_for_the_disk_and_shares_it() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = Stream::start(world.config("broker", None), disk.source(dir.path(), "broker")).unwrap();
    disk.hold();
    let mut first = stream.open_durable(&use_of(START));
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut first).poll(&mut context).is_pending(), "it is not on the disk yet");
    let rest: Vec<_> = (1..64).map(|at| stream.open_durable(&use_of(START + at))).collect();
    let before = disk.syncs();
    disk.release();
    first.wait().unwrap().close(&ok());
    for durable in rest {
        durable.wait().unwrap().close(&ok());
    }
    assert!(disk.syncs() - before <= 66, "64 that wait together cost a few syncs");
    assert_eq!(events(dir.path()).len(), 64);
}

#[test]
fn a_queue_that_is_full_refuses_and_recovers() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = Stream::start(world.config("proxy-0", None), disk.source(dir.path(), "proxy-0")).unwrap();
    disk.hold();
    let fault = loop {
        match stream.open(&use_of(START)) {
            Ok(entry) => entry.close(&Outcome::ok()),
            Err(fault) => break fault,
        }
    };
    assert!(is_full(&fault), "{fault}");
    disk.release();
    stream.flush().wait().unwrap();
    stream.open(&use_of(START)).unwrap().close(&ok());
    stream.close().unwrap();
}

#[test]
fn open_entries_are_bounded_and_each_has_room_for_its_outcome() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = Stream::start(world.config("proxy-0", None), disk.source(dir.path(), "proxy-0")).unwrap();
    let mut open = Vec::new();
    while open.len() < MAX_OPEN_ENTRIES {
        match stream.open(&Attempt::new(Kind::Use, START)) {
            Ok(entry) => open.push(entry),
            Err(fault) => {
                assert!(is_full(&fault));
                stream.flush().wait().unwrap();
            }
        }
    }
    assert!(is_full(&stream.open(&use_of(START)).unwrap_err()));
    disk.hold();
    for entry in open {
        entry.close(&ok());
    }
    disk.release();
    stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    stream.close().unwrap();
    let events = events(dir.path());
    assert_eq!(events.len(), MAX_OPEN_ENTRIES + 1);
    assert!(events.iter().all(|event| event.outcome.result == Verdict::Ok));
}

#[test]
fn one_writer_at_a_time() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let heads = world.checkpoints(dir.path());
    let stream = world.stream(dir.path(), "broker", &heads);
    let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
    let second = Stream::start(world.config("broker", None), Box::new(source));
    assert!(matches!(second, Err(LogFault::InUse { .. })));
    stream.close().unwrap();
}

#[test]
fn a_tail_sees_what_ends_after_it_began_and_new_streams() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let heads = world.checkpoints(dir.path());
    let broker = world.stream(dir.path(), "broker", &heads);
    broker.record(&use_of(START), &ok()).unwrap();
    let open = broker.open(&use_of(START + 1)).unwrap();
    broker.flush().wait().unwrap();
    let mut tail = Tail::from_now(dir.path()).unwrap();
    assert_eq!(tail.poll().unwrap(), []);
    open.close(&ok());
    broker.flush().wait().unwrap();
    let proxy = world.stream(dir.path(), "proxy-0", &heads);
    proxy.record(&use_of(START), &ok()).unwrap();
    proxy.flush().wait().unwrap();
    let seen: Vec<_> = tail.poll().unwrap().into_iter().map(|event| (event.stream, event.sequence)).collect();
    assert_eq!(seen, [("proxy-0".to_owned(), 2), ("broker".to_owned(), 4)]);
    assert_eq!(tail.poll().unwrap(), []);
}

#[test]
fn a_tail_follows_over_segments() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = world.config("broker", None);
    config.segment_bytes = 1400;
    let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
    let stream = Stream::start(config, Box::new(source)).unwrap();
    let mut tail = Tail::from_start(dir.path());
    let mut seen = 0;
    for at in 0..40 {
        stream.record(&use_of(START + at), &ok()).unwrap();
        stream.flush().wait().unwrap();
        seen += if at % 7 == 0 { tail.poll().unwrap().len() } else { 0 };
    }
    stream.close().unwrap();
    seen += tail.poll().unwrap().len();
    assert_eq!(seen, 40);
    assert_eq!(events(dir.path()).len(), 40);
    assert!(fs::read_dir(dir.path()).unwrap().count() > 5);
}

#[test]
fn events_of_all_streams_come_in_order_and_filters_choose() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let heads = world.checkpoints(dir.path());
    let streams = ["broker", "proxy-0", "proxy-1"].map(|name| world.stream(dir.path(), name, &heads));
    for at in 0..30_u64 {
        let stream = &streams[usize::try_from(at % 3).unwrap()];
        let session = if at % 2 == 0 { "even" } else { "odd" };
        stream.record(&Attempt { session: Some(session), ..use_of(START + at) }, &ok()).unwrap();
    }
    streams.iter().for_each(|stream| stream.close().unwrap());
    let all = events(dir.path());
    assert_eq!(all.len(), 30);
    assert!(all.is_sorted_by_key(|event| event.time));
    let count = |filter: Filter| all.iter().filter(|event| filter.matches(event)).count();
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(count(Filter::default()), 30);
    assert_eq!(count(Filter { session: text("even"), ..Filter::default() }), 15);
    assert_eq!(count(Filter { host: text("other"), ..Filter::default() }), 0);
    assert_eq!(count(Filter { lease: text("l-1"), credential: text("openai"), ..Filter::default() }), 30);
    assert_eq!(count(Filter { role: text("dev"), ..Filter::default() }), 0);
    assert_eq!(
        count(Filter { since: Some(all[10].time), until: Some(all[20].time), ..Filter::default() }),
        10
    );
    assert_eq!(count(Filter { kind: Some(Kind::Acquire), ..Filter::default() }), 0);
    assert_eq!(count(Filter { result: Some(Verdict::Ok), ..Filter::default() }), 30);
    assert_eq!(count(Filter { workload: text("spiffe://writ.local/dev/claude"), ..Filter::default() }), 30);
}

#[test]
fn many_callers_share_a_stream_and_every_attempt_has_its_own_outcome() {
    const CALLERS: u64 = 16;
    const EACH: u64 = 500;
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "proxy-0", &world.checkpoints(dir.path()));
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let stream = &stream;
            scope.spawn(move || {
                for at in 0..EACH {
                    let id = caller * EACH + at;
                    let text = id.to_string();
                    let attempt = Attempt { request_id: Some(&text), ..use_of(START) };
                    let entry = match at % 100 {
                        0 => stream.open_durable(&attempt).wait().unwrap(),
                        _ => stream.open(&attempt).unwrap(),
                    };
                    entry.close(&Outcome { bytes_up: Some(id), ..ok() });
                }
            });
        }
    });
    stream.close().unwrap();
    let events = events(dir.path());
    let mut ids: Vec<u64> = events.iter().map(|event| event.outcome.bytes_up.unwrap()).collect();
    assert!(events.iter().all(|e| e.request_id == e.outcome.bytes_up.map(|id| id.to_string())));
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..CALLERS * EACH));
    let report = world.verify(dir.path());
    assert_eq!((report.problems.as_slice(), report.streams[0].attempts), (&[][..], CALLERS * EACH));
}

#[test]
fn a_durable_open_that_is_abandoned_reads_as_unknown() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    drop(stream.open_durable(&use_of(START)));
    stream.close().unwrap();
    let event = &events(dir.path())[0];
    assert_eq!((event.outcome.result, event.outcome.reason.as_deref()), (Verdict::Unknown, Some("dropped")));
}

#[test]
fn the_last_clone_of_a_stream_ends_it_cleanly() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let heads = world.checkpoints(dir.path());
    let stream = world.stream(dir.path(), "broker", &heads);
    let entry = stream.clone().open(&use_of(START)).unwrap();
    drop(stream);
    let again = loop {
        let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
        match Stream::start(world.config("broker", Some(heads.clone())), Box::new(source)) {
            Err(LogFault::InUse { .. }) => {}
            started => break started.unwrap(),
        }
    };
    entry.close(&ok());
    again.close().unwrap();
    let report = world.verify(dir.path());
    assert_eq!((report.problems.as_slice(), report.streams[0].gaps), (&[][..], 0));
    assert_eq!(report.streams[0].unknown, 1);
}

/// `writ audit verify` and `tail` beside a daemon: rotation, checkpoints and half-written blocks are no problems.
#[test]
fn a_log_that_is_being_written_verifies_and_is_read() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let heads = world.checkpoints(dir.path());
    let mut config = world.config("proxy-0", Some(heads.clone()));
    config.segment_bytes = 4096;
    config.sync_delay = Duration::ZERO;
    let source = SegmentDir::new(dir.path(), "proxy-0".parse().unwrap()).unwrap();
    let stream = Stream::start(config, Box::new(source)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                stream.record(&use_of(START + written), &ok()).unwrap();
                written += 1;
                if written % 16 == 0 {
                    stream.flush().wait().unwrap();
                }
            }
            stream.close().unwrap();
            written
        });
        let mut tail = Tail::from_start(dir.path());
        let mut seen = 0;
        for _ in 0..40 {
            assert_eq!(world.verify(dir.path()).problems, []);
            seen += tail.poll().unwrap().len() as u64;
        }
        done.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap();
        seen += tail.poll().unwrap().len() as u64;
        assert_eq!(seen, written);
    });
    assert_eq!(world.verify(dir.path()).problems, []);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Whatever an agent chooses, the record is taken, verified and read back.
    #[test]
    fn any_text_makes_a_sound_record(
        name in "\\PC{0,300}|.{0,40}", path in ".{0,60}", plain: bool, host in ".{0,300}",
        method in ".{0,20}", port: u16, start: u64, duration: Option<u64>, bytes: u64,
    ) {
        let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
        let stream = world.stream(dir.path(), "proxy-0", &world.checkpoints(dir.path()));
        let attempt = Attempt {
            role: Some(&name), scope: Some(&name), action: Some(&name), method: Some(&method), host: Some(&host),
            path: Some(PathView { path: &path, plain }), port: Some(port), ..Attempt::new(Kind::Use, start)
        };
        let outcome = Outcome { duration, bytes_up: Some(bytes), lease: Some(&name), ..Outcome::failed(&name) };
        stream.record(&attempt, &outcome).unwrap();
        stream.close().unwrap();
        assert_eq!(world.verify(dir.path()).problems, []);
        let event = &events(dir.path())[0];
        assert_eq!((event.resource.port, event.outcome.bytes_up), (Some(port), Some(bytes)));
        let admitted = name.len() <= 256 && !name.chars().any(char::is_control);
        assert_eq!(event.actor.role.as_deref() == Some(name.as_str()), admitted);
    }
}
