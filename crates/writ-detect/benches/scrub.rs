//! How fast bytes pass. The needles are those of one lease: a key, the pair of Basic, and its base64.
//!
//! The goal is 3 GB/s per core without a hit, and well under a microsecond for an event.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use writ_detect::{NeedleSource, Needles, Scrubber};

const KEY: &str = "sk-proj-Zk3vQ9wXb7LrT2mHcYd8NfGsJ4aPeU6o1iK5xVzB0qRtWyMnC";

fn main() {
    divan::main();
}

#[expect(clippy::expect_used, reason = "a benchmark stops on a fault of its own")]
fn needles() -> Arc<Needles> {
    let pair = format!("x-access-token:{KEY}");
    let basic = STANDARD.encode(&pair);
    let sources =
        [KEY, &pair, &basic].map(|value| NeedleSource { value: value.as_bytes(), replacement: b"[writ:x]" });
    Arc::new(Needles::new(&sources).expect("a valid set"))
}

/// Log-like text of exactly `len` bytes, the same at every run, with the key every `every` lines.
fn log(len: usize, every: Option<usize>) -> Bytes {
    let mut text = String::new();
    for line in 0usize.. {
        if text.len() >= len {
            break;
        }
        let (ms, id) = (line * 37 % 1000, line.wrapping_mul(2_654_435_761) % 1_000_000_007);
        text.push_str(&format!(
            "2026-03-04T05:06:07.{ms:03}Z INFO service=api request={id:08x} path=/v1/items/{line} "
        ));
        text.push_str("status=200 msg=\"user session checked, cache hit\" duration_ms=");
        text.push_str(&ms.to_string());
        if every.is_some_and(|every| line % every == every - 1) {
            text.push_str(" authorization=\"Bearer ");
            text.push_str(KEY);
            text.push('"');
        }
        text.push('\n');
    }
    text.truncate(len);
    text.into()
}

/// So many that the packed searcher gives way to the automaton.
#[expect(clippy::expect_used, reason = "a benchmark stops on a fault of its own")]
fn many_needles() -> Arc<Needles> {
    let keys: Vec<String> = ('a'..='p').map(|c| format!("{c}x{KEY}")).collect();
    let sources: Vec<_> =
        keys.iter().map(|key| NeedleSource { value: key.as_bytes(), replacement: b"[writ:x]" }).collect();
    Arc::new(Needles::new(&sources).expect("a valid set"))
}

fn bench(bencher: Bencher<'_, '_>, piece: &Bytes) {
    bench_with(bencher, needles(), piece);
}

fn bench_with(bencher: Bencher<'_, '_>, needles: Arc<Needles>, piece: &Bytes) {
    let mut scrubber = Scrubber::new(needles);
    let mut out: Vec<Bytes> = Vec::with_capacity(64);
    bencher.counter(BytesCount::new(piece.len())).bench_local(|| {
        out.clear();
        scrubber.push(black_box(piece.clone()), &mut out);
        out.len()
    });
}

#[divan::bench]
fn log_64k_without_hit(bencher: Bencher<'_, '_>) {
    bench(bencher, &log(65_536, None));
}

#[divan::bench]
fn log_64k_without_hit_16_keys(bencher: Bencher<'_, '_>) {
    bench_with(bencher, many_needles(), &log(65_536, None));
}

#[divan::bench]
fn log_64k_with_4_hits(bencher: Bencher<'_, '_>) {
    bench(bencher, &log(65_536, Some(100)));
}

#[divan::bench]
fn body_1k(bencher: Bencher<'_, '_>) {
    bench(bencher, &log(1024, None));
}

#[divan::bench]
fn event_101(bencher: Bencher<'_, '_>) {
    let mut event = String::from(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" the next word\"}}],\"id\":\"chatcmpl-9\"}",
    );
    event.truncate(99);
    while event.len() < 99 {
        event.insert(event.len() - 1, ' ');
    }
    event.push_str("\n\n");
    bench(bencher, &event.into());
}

/// A piece so small that only the look for a live prefix counts.
#[divan::bench]
fn piece_7_that_starts_nothing(bencher: Bencher<'_, '_>) {
    bench(bencher, &Bytes::from_static(b"!!!!!!!"));
}

/// Escapes share their first bytes with needles: the searcher stops at many of them.
#[divan::bench(args = ["\\u00e9", "\\u003c", "&#x27;", "&#39;", "%20", "%2F", "sk-proj-"])]
fn text_64k_with_one_in_100_bytes(bencher: Bencher<'_, '_>, escape: &str) {
    let line = format!(
        "plain words of a page or a report, of which there are many more than there are escapes {escape}\n"
    );
    let text = line.repeat(800).into_bytes();
    bench(bencher, &Bytes::copy_from_slice(text.get(..65_536).unwrap_or_default()));
}

#[divan::bench]
fn header_value(bencher: Bencher<'_, '_>) {
    let needles = needles();
    bencher.bench_local(|| needles.scrub_value(black_box(b"text/event-stream; charset=utf-8")));
}

#[divan::bench]
fn build_a_set() -> Arc<Needles> {
    needles()
}
