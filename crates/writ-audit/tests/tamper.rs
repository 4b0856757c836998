//! `verify` against whoever can write to the folder: every byte flipped, every cut, every exchange.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a failure here is a failed test")]

mod common;

use std::{fs, path::Path};

use common::{START, World, ok, use_of};
use writ_audit::{Anchor, SegmentDir, Stream, What, verify};

/// Two streams, three segments of `broker`, closed cleanly; returns the anchor that the broker would remember.
fn small_log(world: &World, dir: &Path) -> Anchor {
    let heads = world.rare_checkpoints(dir);
    let mut config = world.config("broker", Some(heads.clone()));
    config.segment_bytes = 1400;
    let source = SegmentDir::new(dir, "broker".parse().unwrap()).unwrap();
    let broker = Stream::start(config, Box::new(source)).unwrap();
    let proxy = world.stream(dir, "proxy-0", &heads);
    for at in 0..8 {
        broker.open_durable(&use_of(START + at)).wait().unwrap().close(&ok());
        broker.flush().wait().unwrap();
    }
    proxy.open(&use_of(START)).unwrap().close(&ok());
    proxy.close().unwrap();
    broker.close().unwrap();
    heads.anchor().unwrap()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn an_untouched_log_is_sound() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let anchor = small_log(&world, dir.path());
    let report = verify(dir.path(), &world.verifier(), Some(&anchor)).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.last, Some(anchor));
    let broker = &report.streams[0];
    assert_eq!((broker.attempts, broker.outcomes, broker.unknown, broker.unsigned), (8, 8, 0, 0));
    assert!(broker.segments >= 3, "{broker:?}");
}

#[test]
fn every_flipped_byte_is_found() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    small_log(&world, dir.path());
    let mut flips = 0;
    for file in files(dir.path()) {
        let sound = fs::read(&file).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            assert!(!world.verify(dir.path()).is_sound(), "{} byte {at}", file.display());
            flips += 1;
        }
        fs::write(&file, &sound).unwrap();
    }
    assert!(flips > 4000, "{flips}");
    assert!(world.verify(dir.path()).is_sound());
}

#[test]
fn every_cut_of_a_stream_is_found() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    small_log(&world, dir.path());
    for file in files(dir.path()).into_iter().filter(|file| file.extension().is_some()) {
        let sound = fs::read(&file).unwrap();
        for length in 0..sound.len() {
            fs::write(&file, &sound[..length]).unwrap();
            assert!(!world.verify(dir.path()).is_sound(), "{} cut at {length}", file.display());
        }
        fs::write(&file, &sound).unwrap();
    }
}

#[test]
fn every_cut_of_the_checkpoints_is_found() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let anchor = small_log(&world, dir.path());
    let file = dir.path().join("checkpoints");
    let sound = fs::read(&file).unwrap();
    for length in 0..sound.len() {
        fs::write(&file, &sound[..length]).unwrap();
        let report = verify(dir.path(), &world.verifier(), Some(&anchor)).unwrap();
        assert!(!report.is_sound(), "cut at {length}");
    }
    // A checkpoint less, and nobody remembers it: this, and only this, takes the anchor.
    fs::write(&file, &sound[..sound.len() - 200]).unwrap();
    let report = world.verify(dir.path());
    assert!(report.is_sound());
    assert!(report.streams.iter().any(|stream| stream.unsigned > 0));
}

#[test]
fn a_log_taken_back_as_a_whole_is_found_by_the_anchor() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    small_log(&world, dir.path());
    let before: Vec<_> = files(dir.path()).into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect();
    let anchor = small_log(&world, dir.path());
    for file in files(dir.path()) {
        fs::remove_file(file).unwrap();
    }
    for (file, bytes) in before {
        fs::write(file, bytes).unwrap();
    }
    assert!(world.verify(dir.path()).is_sound());
    let report = verify(dir.path(), &world.verifier(), Some(&anchor)).unwrap();
    assert_eq!(whats(&report), [What::AnchorMissing { number: anchor.number }]);
}

fn whats(report: &writ_audit::Report) -> Vec<What> {
    report.problems.iter().map(|problem| problem.what.clone()).collect()
}

/// Where the blocks of a segment begin and end.
fn blocks(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let mut at = 0;
    while at + 136 <= bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
        blocks.push(at..at + 136 + length);
        at += 136 + length;
    }
    blocks
}

/// Its name, what is done to the folder, and what must be found.
type Case = (&'static str, fn(&Path), fn(&What) -> bool);

#[test]
fn every_exchange_is_found_and_named() {
    let cases: [Case; 11] = [
        ("two blocks swapped", swap_blocks, |what| matches!(what, What::BrokenChain)),
        ("a block left out", drop_block, |what| matches!(what, What::BrokenChain)),
        ("a block twice", repeat_block, |what| matches!(what, What::BrokenChain)),
        ("first segment gone", |d| remove(d, "broker-000001.seg"), |w| matches!(w, What::MissingSegment)),
        ("middle segment gone", |d| remove(d, "broker-000002.seg"), |w| matches!(w, What::MissingSegment)),
        ("last segment gone", remove_last, |what| matches!(what, What::Truncated { .. })),
        ("a segment twice", repeat_segment, |what| matches!(what, What::Foreign { .. })),
        ("a stream gone", |d| remove(d, "proxy-0-000001.seg"), |w| matches!(w, What::MissingStream)),
        ("a stream planted", plant_stream, |what| matches!(what, What::UnknownStream)),
        ("checkpoints gone", |d| remove(d, "checkpoints"), |w| matches!(w, What::NoCheckpoints)),
        ("two checkpoints swapped", swap_checkpoints, |w| matches!(w, What::CheckpointOrder { .. })),
    ];
    for (name, touch, expected) in cases {
        let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
        small_log(&world, dir.path());
        touch(dir.path());
        let report = world.verify(dir.path());
        let problem = report.problems.iter().find(|problem| expected(&problem.what));
        let problem = problem.unwrap_or_else(|| panic!("{name}: {:?}", report.problems));
        assert!(problem.to_string().contains(". "), "{name}: no advice in {problem}");
    }
}

fn remove(dir: &Path, name: &str) {
    fs::remove_file(dir.join(name)).unwrap();
}

fn remove_last(dir: &Path) {
    let last = files(dir).into_iter().rfind(|file| file.to_str().unwrap().contains("broker-")).unwrap();
    fs::remove_file(last).unwrap();
}

fn repeat_segment(dir: &Path) {
    let last = files(dir).into_iter().rfind(|file| file.to_str().unwrap().contains("broker-")).unwrap();
    let number: u32 = last.file_stem().unwrap().to_str().unwrap().split('-').nth(1).unwrap().parse().unwrap();
    fs::copy(&last, dir.join(format!("broker-{:06}.seg", number + 1))).unwrap();
}

fn plant_stream(dir: &Path) {
    fs::copy(dir.join("proxy-0-000001.seg"), dir.join("proxy-1-000001.seg")).unwrap();
}

fn rewrite(dir: &Path, order: fn(&mut Vec<std::ops::Range<usize>>)) {
    let file = dir.join("broker-000001.seg");
    let bytes = fs::read(&file).unwrap();
    let mut ranges = blocks(&bytes);
    order(&mut ranges);
    fs::write(file, ranges.into_iter().flat_map(|range| bytes[range].to_vec()).collect::<Vec<_>>()).unwrap();
}

fn swap_blocks(dir: &Path) {
    rewrite(dir, |blocks| blocks.swap(1, 2));
}

fn drop_block(dir: &Path) {
    rewrite(dir, |blocks| blocks.retain(|block| block.start == 0 || block.start > 200));
}

fn repeat_block(dir: &Path) {
    rewrite(dir, |blocks| blocks.insert(1, blocks[1].clone()));
}

fn swap_checkpoints(dir: &Path) {
    let file = dir.join("checkpoints");
    let mut bytes = fs::read(&file).unwrap();
    let (first, second) = bytes.split_at_mut(200);
    first.swap_with_slice(&mut second[..200]);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_forged_chain_needs_the_key() {
    let (world, forger, dir) = (World::new(), World::new(), tempfile::tempdir().unwrap());
    small_log(&forger, dir.path());
    let report = world.verify(dir.path());
    assert!(whats(&report).contains(&What::CheckpointChanged { number: 1 }));
}

#[test]
fn a_stranger_in_the_folder_is_named() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    small_log(&world, dir.path());
    fs::write(dir.path().join("broker-1.seg"), b"").unwrap();
    assert_eq!(whats(&world.verify(dir.path())), [What::UnknownFile { name: "broker-1.seg".to_owned() }]);
}

#[test]
fn padding_must_be_zero() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    small_log(&world, dir.path());
    for name in ["broker-000001.seg", "proxy-0-000001.seg"] {
        let file = dir.path().join(name);
        let sound = fs::read(&file).unwrap();
        let mut padded = sound.clone();
        padded.extend_from_slice(&[0; 512]);
        fs::write(&file, &padded).unwrap();
        assert!(world.verify(dir.path()).is_sound(), "{name}: zeros are padding");
        for at in sound.len()..padded.len() {
            let mut bytes = padded.clone();
            bytes[at] = 1;
            fs::write(&file, &bytes).unwrap();
            assert!(!world.verify(dir.path()).is_sound(), "{name} byte {at}");
        }
        fs::write(&file, &sound).unwrap();
    }
}
