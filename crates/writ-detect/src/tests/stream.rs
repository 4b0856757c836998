//! Streams: equal to the oracle under every chunking, never holding more than they must, never copying in vain.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::oracle::{self, Pair};
use crate::encode::Form;
use crate::needles::{NeedleSource, Needles};
use crate::scrub::Scrubber;

/// Random cases of each property. The generator's seed is fixed, so that a failure repeats.
const CASES: u32 = 600;

/// The packed searcher wherever it can be had, and the automaton by force.
const SEARCHERS: [usize; 2] = [64, 0];

fn pairs(needles: &[&str]) -> Vec<Pair> {
    needles
        .iter()
        .enumerate()
        .map(|(i, needle)| (needle.as_bytes().to_vec(), vec![b'0' + i as u8; i]))
        .collect()
}

/// A set of exactly these needles, without other spellings.
fn literal(pairs: &[Pair], packed_max: usize) -> Arc<Needles> {
    let sources: Vec<_> =
        pairs.iter().map(|(value, replacement)| NeedleSource { value, replacement }).collect();
    Arc::new(Needles::with_forms(&sources, &[Form::Literal], packed_max).unwrap())
}

/// Sends `text` in the pieces that `cuts` (ascending) make of it. After every piece, what came out and what is held
/// must be what the oracle says of the text so far: nothing late, nothing early.
fn check(needles: &Arc<Needles>, pairs: &[Pair], text: &[u8], cuts: &[usize]) {
    let mut scrubber = Scrubber::new(needles.clone());
    let mut shown = Vec::new();
    let mut start = 0;
    let shared = Bytes::copy_from_slice(text);
    for &cut in cuts.iter().chain([&text.len()]) {
        let mut out: Vec<Bytes> = Vec::new();
        scrubber.push(shared.slice(start..cut), &mut out);
        assert!(out.iter().all(|piece| !piece.is_empty()));
        shown.extend(out.concat());
        let (expected, hold) = oracle::replace(pairs, &text[..cut], true);
        let at = || format!("{} cut at {cuts:?}, after {cut}", text.escape_ascii());
        assert_eq!(shown.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", at());
        assert_eq!(scrubber.hold(), hold, "{}", at());
        start = cut;
    }
    let mut out: Vec<Bytes> = Vec::new();
    scrubber.flush(&mut out);
    shown.extend(out.concat());
    let (expected, _) = oracle::replace(pairs, text, false);
    assert_eq!(
        shown.escape_ascii().to_string(),
        expected.escape_ascii().to_string(),
        "flushed, cut at {cuts:?}"
    );
    assert_eq!(needles.scrub_value(text).unwrap_or_else(|| text.to_vec()), expected);
    assert_eq!(scrubber.hold(), 0);
}

fn run<S: Strategy>(strategy: S, test: impl Fn(S::Value)) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    outcome.unwrap();
}

/// Needles that are prefixes of, inside, or overlapping each other, and texts that come close to them.
const ADVERSARIAL: &[(&[&str], &[&str])] = &[
    (&["aaaaaaab"], &["aaaaaaaaaaaaaaabaaaaaaab", "aaaaaaaabaaaaaaa", "baaaaaabaaaaaaaabaaaaaaaaaaaaaaaaa"]),
    (&["aaaaaaaa"], &["aaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaabaaaaaaaab"]),
    (
        &["abcdefgh", "abcdefghijkl", "abcdefghijklmnop"],
        &["abcdefghijklmnop", "abcdefghijklmnoXabcdefghijkXabcdefghX", "abcdefghijklabcdefghijklmno"],
    ),
    (
        &["abababab", "bababababa", "abababababababac"],
        &["ababababababababacabababababab", "babababababababacab"],
    ),
    // A long needle that dies late, with a short one inside it, at its start, or in the middle.
    (
        &["xabcdefghy-never", "abcdefgh", "defghy-nev"],
        &["xabcdefghy-neverxabcdefghy-nevexabcdefgh", "xabcdefghy-nev"],
    ),
    // The end of one is the start of the other.
    (
        &["aaaabbbb", "bbbbcccc", "bbbbccccdddd"],
        &["aaaabbbbccccdddd", "aaabbbbccccdddaaaabbbb", "aaaabbbbbbbbccccddd"],
    ),
    // The first byte occurs again and again (the missing border of a well-known masker).
    (&["AKIAIOSFODNN7EXAMPLE"], &["AKIAKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLAKIAIOSFODNN7EXAMPLE"]),
];

/// Every text in one piece, in every two pieces and in every three.
#[test]
fn short_streams_equal_the_oracle_under_every_chunking() {
    for (needles, texts) in ADVERSARIAL {
        let pairs = pairs(needles);
        for packed_max in SEARCHERS {
            let set = literal(&pairs, packed_max);
            for text in texts.iter().map(|text| text.as_bytes()) {
                check(&set, &pairs, text, &[]);
                for first in 0..=text.len() {
                    check(&set, &pairs, text, &[first]);
                    for second in first..=text.len() {
                        check(&set, &pairs, text, &[first, second]);
                    }
                }
                check(&set, &pairs, text, &(0..text.len()).collect::<Vec<_>>());
            }
        }
    }
}

/// Parts of needles strung together, in an alphabet so poor that nearly every place looks like a start.
#[test]
fn random_streams_equal_the_oracle_under_random_chunkings() {
    let needle = vec(prop::sample::select(b"ab".to_vec()), 8..15);
    let part = (any::<Index>(), any::<Index>(), any::<Index>());
    let cuts = vec(any::<Index>(), 0..12);
    run((vec(needle, 1..6), vec(part, 0..24), cuts), |(needles, parts, cuts)| {
        let pairs: Vec<Pair> =
            needles.into_iter().enumerate().map(|(i, needle)| (needle, vec![b'0' + i as u8; i])).collect();
        let mut text = Vec::new();
        for (which, one, other) in parts {
            let needle = &pairs[which.index(pairs.len())].0;
            let (one, other) = (one.index(needle.len() + 1), other.index(needle.len() + 1));
            text.extend_from_slice(&needle[one.min(other)..one.max(other)]);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        for packed_max in SEARCHERS {
            check(&literal(&pairs, packed_max), &pairs, &text, &cuts);
        }
    });
}

/// The real thing: all spellings of two secrets, whole and cut short, between pieces of ordinary text.
#[test]
fn streams_of_encoded_secrets_equal_the_oracle() {
    let secrets = ["sk-proj-a/B+c&d\"e~~~???", "ada:sk-proj-a/B+c&d\"e~~~???"];
    let sources = secrets.map(|secret| NeedleSource { value: secret.as_bytes(), replacement: b"[writ:x]" });
    let mut pairs: Vec<Pair> = Vec::new();
    for secret in secrets {
        for form in Form::ALL {
            form.spell(secret.as_bytes(), &mut |text| pairs.push((text.to_vec(), b"[writ:x]".to_vec())));
        }
    }
    let sets =
        SEARCHERS.map(|packed_max| Arc::new(Needles::with_forms(&sources, Form::ALL, packed_max).unwrap()));
    let filler = prop::sample::select(vec![
        "",
        "data: {\"t\":\"",
        "\\u00e9",
        "&#x27;",
        "%2F",
        "sk-proj-",
        "\"}\n\n",
        "c2st",
    ]);
    let part = (filler, any::<Index>(), any::<Index>(), any::<bool>());
    run((vec(part, 0..9), vec(any::<Index>(), 0..12)), |(parts, cuts)| {
        let mut text = Vec::new();
        for (filler, which, end, whole) in parts {
            let needle = &pairs[which.index(pairs.len())].0;
            let end = if whole { needle.len() } else { end.index(needle.len()) };
            text.extend_from_slice(&needle[..end]);
            text.extend_from_slice(filler.as_bytes());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        sets.iter().for_each(|set| check(set, &pairs, &text, &cuts));
    });
}

fn example() -> Arc<Needles> {
    let source = NeedleSource { value: b"sk-proj-0123456789abcdef", replacement: b"[writ:openai]" };
    Arc::new(Needles::new(&[source]).unwrap())
}

fn push(scrubber: &mut Scrubber, piece: &Bytes) -> Vec<Bytes> {
    let mut out = Vec::new();
    scrubber.push(piece.clone(), &mut out);
    out
}

fn is_within(part: &Bytes, whole: &Bytes) -> bool {
    whole.as_ptr_range().contains(&part.as_ptr())
}

#[test]
fn a_piece_without_a_hit_leaves_as_the_same_buffer() {
    let mut scrubber = Scrubber::new(example());
    // Long and short, and with heads of needles that come to nothing.
    for text in
        ["x".repeat(65_536), "data: {\"ok\":1}\n\n".into(), "!".into(), "sk-proj-0123 and sk-proj-99.".into()]
    {
        let piece = Bytes::from(text);
        let out = push(&mut scrubber, &piece);
        assert_eq!(out.len(), 1);
        assert_eq!((out[0].as_ptr(), out[0].len()), (piece.as_ptr(), piece.len()));
        assert_eq!(scrubber.hold(), 0);
    }
    assert_eq!(scrubber.hits(), 0);
}

#[test]
fn around_a_hit_the_buffer_is_sliced_and_not_copied() {
    let mut scrubber = Scrubber::new(example());
    let piece = Bytes::from_static(b"key=sk-proj-0123456789abcdef; ok");
    let out = push(&mut scrubber, &piece);
    assert_eq!(out, [&b"key="[..], b"[writ:openai]", b"; ok"]);
    assert!(is_within(&out[0], &piece) && is_within(&out[2], &piece));
    assert_eq!(scrubber.hits(), 1);

    // With a live prefix at the end, the rest still leaves as it is.
    let piece = Bytes::from_static(b"the last word is sk-");
    let out = push(&mut scrubber, &piece);
    assert_eq!(out, [&b"the last word is "[..]]);
    assert!(is_within(&out[0], &piece));
    assert_eq!(scrubber.hold(), 3);
}

#[test]
fn flush_releases_what_is_held_and_the_stream_goes_on() {
    let mut scrubber = Scrubber::new(example());
    let mut out: Vec<Bytes> = Vec::new();
    scrubber.push(Bytes::from_static(b"sk-proj-0123"), &mut out);
    assert_eq!((out.concat(), scrubber.hold()), (Vec::new(), 12));
    scrubber.flush(&mut out);
    scrubber.flush(&mut out);
    assert_eq!((out.concat(), scrubber.hold()), (b"sk-proj-0123".to_vec(), 0));
    // As documented: the needle lies across the flush.
    scrubber.push(Bytes::from_static(b"456789abcdef sk-proj-0123456789abcdef"), &mut out);
    assert_eq!(out.concat(), b"sk-proj-0123456789abcdef [writ:openai]");
}

/// A shorter needle that was only waiting for a longer one is still replaced at the end.
#[test]
fn flush_replaces_what_is_complete() {
    let pairs = pairs(&["unused--", "abcdefgh", "abcdefghijkl"]);
    let mut scrubber = Scrubber::new(literal(&pairs, 64));
    let mut out: Vec<Bytes> = Vec::new();
    scrubber.push(Bytes::from_static(b"abcdefghijk"), &mut out);
    assert_eq!(scrubber.hold(), 11);
    scrubber.flush(&mut out);
    assert_eq!(out.concat(), b"1ijk");
    assert_eq!(scrubber.hits(), 1);
}

/// The whole secret in pieces of one byte, as a slow upstream would send it.
#[test]
fn a_secret_in_single_bytes_is_held_and_replaced() {
    let mut scrubber = Scrubber::new(example());
    let mut out: Vec<Bytes> = Vec::new();
    for (i, byte) in b"sk-proj-0123456789abcdef".iter().enumerate() {
        assert_eq!((scrubber.hold(), out.len()), (i, 0));
        scrubber.push(Bytes::copy_from_slice(&[*byte]), &mut out);
    }
    assert_eq!((scrubber.hold(), out.concat()), (0, b"[writ:openai]".to_vec()));
}
