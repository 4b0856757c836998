//! *No record, no credential*: disks that are full, broken, or gone, and what is left after them.
#![expect(clippy::unwrap_used, reason = "tests: a failure here is a failed test")]

mod common;

use std::{fs, io, path::Path};

use common::{Disk, START, World, events, ok, use_of};
use writ_audit::{Kind, LogFault, SegmentDir, Step, Stream, Verdict, What};

fn start(world: &World, dir: &Path, disk: &Disk) -> Stream {
    let heads = world.checkpoints(dir);
    Stream::start(world.config("broker", Some(heads)), disk.source(dir, "broker")).unwrap()
}

#[test]
fn a_full_disk_refuses_until_it_is_reopened_and_leaves_a_gap() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = start(&world, dir.path(), &disk);
    stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    stream.flush().wait().unwrap();
    let open_over_the_fault = stream.open_durable(&use_of(START)).wait().unwrap();
    disk.set_full(true);

    let fault = stream.open_durable(&use_of(START + 1)).wait().unwrap_err();
    let LogFault::Failed { step: Step::Write, kind: io::ErrorKind::StorageFull, .. } = &fault else {
        panic!("{fault:?}");
    };
    assert!(fault.to_string().contains("cannot write to segment 1"), "{fault}");
    // For every later one, although the disk has room again: what was lost must not pass unnoticed.
    disk.set_full(false);
    assert_eq!(stream.open(&use_of(START + 2)).unwrap_err(), fault);
    assert_eq!(stream.flush().wait().unwrap_err(), fault);
    assert_eq!(stream.fault(), Some(fault));

    stream.reopen().wait().unwrap();
    assert_eq!(stream.fault(), None);
    let after = stream.open_durable(&use_of(START + 3)).wait().unwrap();
    // Its attempt is on the disk, but the numbers after the fault are not those before: no outcome may land on
    // another's attempt.
    open_over_the_fault.close(&ok());
    after.close(&ok());
    stream.close().unwrap();

    let report = world.verify(dir.path());
    assert_eq!(report.problems, []);
    assert_eq!(report.streams[0].gaps, 1);
    let mut seen: Vec<_> =
        events(dir.path()).into_iter().map(|e| (e.sequence, e.kind, e.outcome.result)).collect();
    seen.sort_by_key(|(sequence, ..)| *sequence);
    assert_eq!(
        seen,
        [
            (2, Kind::Use, Verdict::Ok),
            (4, Kind::Use, Verdict::Unknown),
            (5, Kind::Gap, Verdict::Unknown),
            (6, Kind::Use, Verdict::Ok)
        ]
    );
}

#[test]
fn a_failed_sync_is_a_failed_log() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let stream = start(&world, dir.path(), &disk);
    disk.set_broken_sync(true);
    let signed = world.verify(dir.path()).checkpoints;
    let fault = stream.open_durable(&use_of(START)).wait().unwrap_err();
    assert!(matches!(fault, LogFault::Failed { step: Step::Sync, .. }), "{fault:?}");
    // What is not durable is not signed: after a power loss it would look like a cut.
    assert_eq!(world.verify(dir.path()).checkpoints, signed);
    assert!(stream.open(&use_of(START)).is_err());
    assert!(stream.reopen().wait().is_err(), "the disk is still broken");
    assert!(stream.open(&use_of(START)).is_err());
    disk.set_broken_sync(false);
    stream.reopen().wait().unwrap();
    stream.open(&use_of(START)).unwrap().close(&ok());
    stream.close().unwrap();
    assert_eq!(world.verify(dir.path()).problems, []);
}

#[test]
fn a_new_segment_that_finds_no_room_is_a_failed_log() {
    let (world, dir, disk) = (World::new(), tempfile::tempdir().unwrap(), Disk::default());
    let mut config = world.config("broker", Some(world.checkpoints(dir.path())));
    config.segment_bytes = 600;
    let stream = Stream::start(config, disk.source(dir.path(), "broker")).unwrap();
    stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    disk.set_full(true);
    let fault = stream.open_durable(&use_of(START)).wait().unwrap_err();
    assert!(matches!(fault, LogFault::Failed { step: Step::Create, segment: 2, .. }), "{fault:?}");
}

type Vanish = fn(&Path, &Path);

#[test]
fn a_file_that_is_gone_or_replaced_is_a_failed_log() {
    let ways: [Vanish; 3] = [
        |file, _| fs::remove_file(file).unwrap(),
        |file, aside| fs::rename(file, aside).unwrap(),
        |file, aside| {
            fs::rename(file, aside).unwrap();
            fs::copy(aside, file).unwrap();
        },
    ];
    for vanish in ways {
        let (world, dir, aside) = (World::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
        stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
        vanish(&dir.path().join("broker-000001.seg"), &aside.path().join("aside"));
        let fault = stream.open_durable(&use_of(START)).wait().unwrap_err();
        assert!(matches!(fault, LogFault::Gone { segment: 1, .. }), "{fault:?}");
        assert!(matches!(stream.open(&use_of(START)), Err(LogFault::Gone { .. })));
        assert!(stream.close().is_err());
    }
}

#[test]
fn a_file_that_is_gone_is_seen_without_a_record() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    fs::remove_file(dir.path().join("broker-000001.seg")).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while stream.fault().is_none() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(matches!(stream.open(&use_of(START)), Err(LogFault::Gone { .. })));
}

#[test]
fn checkpoints_that_cannot_be_signed_stop_the_stream() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    fs::remove_file(dir.path().join("checkpoints")).unwrap();
    let fault = stream.open_durable(&use_of(START)).wait().unwrap_err();
    assert!(matches!(fault, LogFault::Failed { step: Step::Checkpoint, .. }), "{fault:?}");
}

#[test]
fn a_log_that_lost_signed_records_is_not_continued() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    for _ in 0..3 {
        stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    }
    stream.close().unwrap();
    let file = dir.path().join("broker-000001.seg");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..200]).unwrap();
    let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
    let config = world.config("broker", Some(world.checkpoints(dir.path())));
    let fault = Stream::start(config, Box::new(source)).unwrap_err();
    assert!(matches!(fault, LogFault::Damaged { .. }), "{fault:?}");
    assert!(!world.verify(dir.path()).is_sound());
}

#[test]
fn damage_before_the_end_is_not_built_upon() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = world.stream(dir.path(), "broker", &world.checkpoints(dir.path()));
    for _ in 0..3 {
        stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    }
    stream.close().unwrap();
    let file = dir.path().join("broker-000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    bytes[150] ^= 1;
    fs::write(&file, bytes).unwrap();
    let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
    let fault = Stream::start(world.config("broker", None), Box::new(source)).unwrap_err();
    assert!(matches!(fault, LogFault::Damaged { segment: 1, offset: 0, .. }), "{fault:?}");
    let what = world.verify(dir.path()).problems[0].what.clone();
    assert_eq!(what, What::Changed);
}

/// Places at which a crash can tear the last block, in every field of it: recovery cuts it, says so, and goes on.
#[test]
fn every_torn_end_is_cut_and_said() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stream = Stream::start(
        world.config("broker", None),
        Box::new(SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap()),
    )
    .unwrap();
    stream.open_durable(&use_of(START)).wait().unwrap().close(&ok());
    stream.close().unwrap();
    let file = dir.path().join("broker-000001.seg");
    let sound = fs::read(&file).unwrap();
    for length in (1..sound.len()).step_by(5) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("broker-000001.seg");
        let mut torn = sound[..length].to_vec();
        torn.resize(sound.len() + 64, 0);
        fs::write(&file, &torn).unwrap();
        let source = SegmentDir::new(dir.path(), "broker".parse().unwrap()).unwrap();
        let heads = world.rare_checkpoints(dir.path());
        let mut config = world.config("broker", Some(heads));
        config.segment_bytes = 4096;
        let stream = Stream::start(config, Box::new(source)).unwrap();
        stream.record(&use_of(START), &ok()).unwrap();
        stream.close().unwrap();
        let report = world.verify(dir.path());
        assert_eq!((report.problems.as_slice(), report.streams[0].gaps), (&[][..], 1), "torn at {length}");
    }
}
