//! The set itself: its limits, and that it tells nothing.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::{Expect, expect};
use zeroize::ZeroizeOnDrop;

use crate::needles::{MAX_SOURCES, MAX_VALUE_LEN, Needle, NeedleSource, Needles};
use crate::scrub::Scrubber;

fn source(value: &[u8]) -> NeedleSource<'_> {
    NeedleSource { value, replacement: b"[writ:x]" }
}

fn check_fault(sources: &[NeedleSource<'_>], expected: Expect) {
    expected.assert_eq(&Needles::new(sources).unwrap_err().to_string());
}

#[test]
fn sets_beyond_the_limits_are_refused() {
    check_fault(
        &[source(b"long enough"), source(b"hunter2")],
        expect!["secret 1 is shorter than 8 bytes, too short to be scrubbed"],
    );
    check_fault(&[source(b"")], expect!["secret 0 is shorter than 8 bytes, too short to be scrubbed"]);
    check_fault(
        &[source(&[b'x'; MAX_VALUE_LEN + 1])],
        expect!["secret 0 is longer than 8192 bytes, too long to be scrubbed"],
    );
    check_fault(&[source(b"12345678"); MAX_SOURCES + 1], expect!["17 secrets to scrub are more than 16"]);
}

#[test]
fn sets_at_the_limits_work() {
    let longest = b"0123456789abcdef".repeat(MAX_VALUE_LEN / 16);
    let needles = Needles::new(&[source(b"12345678"), source(&longest)]).unwrap();
    assert_eq!(needles.scrub_value(b"is 12345678 it").as_deref(), Some(&b"is [writ:x] it"[..]));
    assert_eq!(needles.scrub_value(&longest).as_deref(), Some(&b"[writ:x]"[..]));

    // More heads than the packed searcher takes: the automaton is chosen, and finds all.
    let values: Vec<String> =
        (b'a'..).take(MAX_SOURCES).map(|c| String::from(char::from(c)).repeat(12)).collect();
    let sources: Vec<_> = values.iter().map(|value| source(value.as_bytes())).collect();
    let needles = Needles::new(&sources).unwrap();
    for value in &values {
        assert_eq!(needles.scrub_value(format!("<{value}>").as_bytes()).as_deref(), Some(&b"<[writ:x]>"[..]));
    }
}

#[test]
fn an_empty_set_finds_nothing() {
    let needles = Arc::new(Needles::new(&[]).unwrap());
    assert_eq!(needles.scrub_value(b"anything at all"), None);
    let mut out: Vec<Bytes> = Vec::new();
    Scrubber::new(needles).push(Bytes::from_static(b"anything at all"), &mut out);
    assert_eq!(out, ["anything at all"]);
}

#[test]
fn a_value_without_a_needle_is_none() {
    let needles = Needles::new(&[source(b"sk-proj-0123456789")]).unwrap();
    for value in [&b""[..], b"sk-proj-", b"sk-proj-012345678", b"text/html; charset=utf-8", b"\xff\x00"] {
        assert_eq!(needles.scrub_value(value), None);
    }
}

#[test]
fn of_equal_spellings_the_first_source_gives_the_replacement() {
    let sources = ["[first]", "[second]"]
        .map(|replacement| NeedleSource { value: b"0123456789", replacement: replacement.as_bytes() });
    let needles = Needles::new(&sources).unwrap();
    for text in ["0123456789", "30313233343536373839", "MDEyMzQ1Njc4O"] {
        assert_eq!(needles.scrub_value(text.as_bytes()).as_deref(), Some(&b"[first]"[..]), "{text}");
    }
}

/// The whole output stands here: no needle, no replacement, no held byte.
#[test]
fn debug_prints_no_secret() {
    let value = b"sk-proj-0123456789";
    expect!["NeedleSource { .. }"].assert_eq(&format!("{:?}", source(value)));
    let needles = Arc::new(Needles::new(&[source(value)]).unwrap());
    expect!["Needles { count: 16, .. }"].assert_eq(&format!("{needles:?}"));
    let mut scrubber = Scrubber::new(needles);
    let mut out: Vec<Bytes> = Vec::new();
    scrubber.push(Bytes::from_static(b"sk-proj-01234"), &mut out);
    expect!["Scrubber { needles: Needles { count: 16, .. }, hold: 13, hits: 0, .. }"]
        .assert_eq(&format!("{scrubber:?}"));
}

/// Does not compile when a needle is no longer wiped on drop.
#[test]
fn needles_are_wiped() {
    fn wiped<T: ZeroizeOnDrop>() {}
    wiped::<Needle>();
}

#[test]
fn replacements_of_the_same_length() {
    let sources = [NeedleSource { value: b"sk-secret-0123456789", replacement: b"[writ:name]" }];
    let needles = Needles::same_length(&sources).unwrap();
    let clean = needles.scrub_value(b"a sk-secret-0123456789 b c2stc2VjcmV0LTAxMjM0NTY3ODk= c").unwrap();
    assert_eq!(clean, b"a [writ:name]********* b [writ:name]***************k= c");
    let short = [NeedleSource { value: b"sk-12345", replacement: b"[writ:long-name]" }];
    let clean = Needles::same_length(&short).unwrap().scrub_value(b"<sk-12345>").unwrap();
    assert_eq!(clean, b"<[writ:lo>");
}
