//! What holds for every text, each judged by a reader that shares no code with ours.
//!
//! The readers are naive on purpose: a server that decodes twice, one that collapses slashes, one that resolves dot segments, one
//! that folds case; a host parser after the WHATWG URL standard and one after `inet_aton`; a backtracking matcher for patterns.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a failure here is a failed test")]

use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};
use serde::{Serialize, de::DeserializeOwned};
use writ_core::{
    Authority, CanonicalPath, CredentialName, Host, PathPattern, Placeholder, RoleName, Selector, SessionId,
    SpiffeId, TargetName, Timestamp, TrustDomain, Ttl,
};

/// What paths are made of, the harmless pieces thrice as often as the others.
const PIECES: &[&str] = &[
    "a", "B", "v1", "x.y", "-", "~", "*", "%C3%A9", "{", "%7B", "%7e", "%61", ":", "@", "%3A", "%3F", "%23",
    "2", "5", "e", "F", "41", "%25", "%32", "%35", "%65", "%2F", "%2f", ".", "..", "%2e", "%2E", ";", "%3b",
    "%20", "/", "//", "\\", "%5c", "%", "%0a", "%00", "?", "#", " ", "é", "%C0%AE", "%c0%af", "%ff",
    "%u002e",
];

fn path() -> impl Strategy<Value = String> {
    let harmless = select(&PIECES[..17]);
    let any = select(PIECES);
    let piece = prop_oneof![5 => Just("/"), 8 => harmless, 4 => any];
    vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.map(|two| u8::from_str_radix(two, 16)) {
            Some(Ok(value)) if path[at] == b'%' => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

fn collapse(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for byte in path {
        if !(*byte == b'/' && out.last() == Some(&b'/')) {
            out.push(*byte);
        }
    }
    out
}

/// RFC 3986 §5.2.4, and a backslash is a slash.
fn resolve(path: &[u8]) -> Vec<u8> {
    let path: Vec<u8> = path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    let mut kept: Vec<&[u8]> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match *segment {
            b".." => {
                kept.pop();
            }
            b"." => {}
            segment => kept.push(segment),
        }
        if last && matches!(*segment, b"." | b"..") {
            kept.push(b"");
        }
    }
    let mut out = Vec::new();
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    out
}

fn strip_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    segments.map(|one| one.split(|byte| *byte == b';').next().unwrap()).collect::<Vec<_>>().join(&b'/')
}

/// As file names on Windows: trailing dots and spaces do not count.
fn trim(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let trimmed = segments.map(|one| {
        let end = one.iter().rposition(|byte| !b". ".contains(byte)).map_or(0, |at| at + 1);
        &one[..end]
    });
    trimmed.collect::<Vec<_>>().join(&b'/')
}

fn accepted(raw: &str, encoded_slash: bool) -> Option<CanonicalPath> {
    CanonicalPath::parse(raw, encoded_slash).ok()
}

fn check_readings(raw: &str, encoded_slash: bool) {
    let Some(path) = accepted(raw, encoded_slash) else { return };
    let form = path.as_str().as_bytes();
    assert_eq!(accepted(path.as_str(), encoded_slash).as_ref(), Some(&path), "the form of a form is itself");
    let once = decode(form);
    assert_eq!(decode(raw.as_bytes()), once, "a server reads what was sent");
    assert_eq!(decode(&once), once, "decoding twice is decoding once");
    assert!(String::from_utf8(once.clone()).is_ok());
    for seen in [&once, &strip_parameters(&once), &trim(&once), &trim(&strip_parameters(&once))] {
        assert_eq!(&collapse(seen), seen, "no empty segment: {raw:?}");
        assert_eq!(&resolve(seen), seen, "no dot segment: {raw:?}");
        assert_eq!(resolve(&collapse(&resolve(seen))), *seen);
    }
    let folded = form.to_ascii_lowercase();
    assert_eq!(
        decode(&folded).to_ascii_lowercase(),
        once.to_ascii_lowercase(),
        "case folds alike before and after"
    );
}

/// Character by character, trying everything.
fn matches(pattern: &[u8], before: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*'] if before == b"/" => true,
        [b'*'] if before.ends_with(b"/") => !path.is_empty(),
        [b'*'] => true,
        [b'*', rest @ ..] => (1..=path.len())
            .take_while(|end| path[end - 1] != b'/')
            .any(|end| matches(rest, b"*", &path[end..])),
        [byte, rest @ ..] => {
            let before = [before, &[*byte]].concat();
            path.first() == Some(byte) && matches(rest, &before, &path[1..])
        }
    }
}

fn segments() -> impl Strategy<Value = String> {
    vec(select(&["a", "ab", "b", "*", "a%2Fb", "%7B", "a;x", "A"][..]), 0..5).prop_map(|all| all.join("/"))
}

/// The host parser of the WHATWG URL standard (§3.5), for ASCII: the domain, or nothing where it is an address or a failure.
fn whatwg_domain(text: &str) -> Option<String> {
    let text = String::from_utf8(decode(text.as_bytes())).ok()?.to_lowercase();
    let forbidden = |c: char| c.is_control() || " #/:<>?@[\\]^|%".contains(c);
    if text.is_empty() || text.contains(forbidden) {
        return None;
    }
    let mut parts: Vec<&str> = text.split('.').collect();
    if parts.last() == Some(&"") && parts.len() > 1 {
        parts.pop();
    }
    let last = parts.last()?;
    let digits = !last.is_empty() && last.chars().all(|c| c.is_ascii_digit());
    if digits || ipv4_number(last).is_some() { None } else { Some(text) }
}

fn ipv4_number(part: &str) -> Option<u128> {
    let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None if part.is_empty() => return None,
        None => (part, 10),
    };
    if digits.is_empty() { Some(0) } else { u128::from_str_radix(digits, radix).ok() }
}

/// What the C library takes for an address: one to four numbers of any base.
fn inet_aton(text: &str) -> bool {
    let parts: Vec<&str> = text.trim_end_matches('.').split('.').collect();
    parts.len() <= 4 && parts.iter().all(|part| ipv4_number(part).is_some())
}

fn host() -> impl Strategy<Value = String> {
    let labels = select(
        &[
            "a",
            "API",
            "0",
            "127",
            "1",
            "0x7f",
            "0X",
            "0x",
            "017",
            "9z",
            "xn--bcher-kva",
            "a_b",
            "a-b",
            "-",
            "é",
            "",
        ][..],
    );
    let ends =
        select(&["", ".", ":443", ":8443", ":", ":0", "/", "%2e", "@x", "\u{ff0e}1", "[::1]", ":1:2"][..]);
    (vec(labels, 1..6), ends).prop_map(|(labels, end)| format!("{}{end}", labels.join(".")))
}

/// Reads, writes and reads again, as text and as JSON.
fn round_trips<T>(text: &str)
where
    T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let json: Result<T, _> = serde_json::from_value(text.into());
    let Ok(value) = text.parse::<T>() else {
        assert!(json.is_err(), "serde takes what the parser refuses: {text:?}");
        return;
    };
    assert_eq!(json.unwrap(), value);
    assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
}

proptest! {
    #![proptest_config(Config::with_cases(4096))]

    #[test]
    fn every_reader_sees_the_same_path(raw in path(), encoded_slash: bool) {
        check_readings(&raw, encoded_slash);
    }

    #[test]
    fn any_bytes_at_all_are_a_path_or_an_error(raw: String, encoded_slash: bool) {
        check_readings(&format!("/{raw}"), encoded_slash);
        let _ = raw.parse::<PathPattern>();
    }

    #[test]
    fn patterns_match_what_a_naive_matcher_matches(
        pattern in segments(), end in select(&["", "*", "/*", "/"][..]), path in segments(), slash: bool,
    ) {
        let Ok(pattern) = format!("/{pattern}{end}").parse::<PathPattern>() else { return Ok(()) };
        let Some(path) = accepted(&format!("/{path}{}", if slash { "/" } else { "" }), true) else { return Ok(()) };
        let naive = matches(pattern.as_str().as_bytes(), b"", path.as_str().as_bytes());
        prop_assert_eq!(pattern.matches(&path), naive, "{} on {}", pattern.as_str(), path);
        prop_assert_eq!(String::from(pattern.clone()).parse::<PathPattern>().ok(), Some(pattern));
    }

    #[test]
    fn an_authority_is_a_domain_to_everybody(text in prop_oneof![host(), any::<String>()]) {
        round_trips::<Authority>(&text);
        round_trips::<Host>(&text);
        let Ok(authority) = text.parse::<Authority>() else { return Ok(()) };
        let host = authority.host().as_str();
        prop_assert_eq!(whatwg_domain(host), Some(host.to_owned()));
        prop_assert!(!inet_aton(host) && host.parse::<std::net::IpAddr>().is_err());
        let typed = text.split(':').next().unwrap_or_default();
        prop_assert_eq!(whatwg_domain(typed), Some(host.to_owned()), "as it was typed");
        prop_assert!(authority.to_string().parse::<http::uri::Authority>().is_ok_and(|uri| uri.host() == host));
    }

    #[test]
    fn names_are_written_as_they_are_read(text in prop_oneof![
        "[a-z0-9._-]{0,70}", "spiffe://[a-z.:@-]{0,9}(/[a-zA-Z.%]{0,3}){0,3}", any::<String>(),
    ]) {
        round_trips::<CredentialName>(&text);
        round_trips::<TargetName>(&text);
        round_trips::<RoleName>(&text);
        round_trips::<TrustDomain>(&text);
        round_trips::<SpiffeId>(&text);
        round_trips::<Selector>(&text);
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert!(id.trust_domain().parse::<TrustDomain>().is_ok());
        }
        if let Ok(placeholder) = Placeholder::try_from(text.clone()) {
            prop_assert_eq!(placeholder.as_str(), &text);
            prop_assert!(http::HeaderValue::from_str(&text).is_ok() && text.len() >= 4);
        }
    }

    #[test]
    fn lifetimes_and_instants(secs in 1..=Ttl::MAX.secs(), text in "[0-9]{0,21}[smhd ]?[a-z]?", now: i64, then: i64) {
        let ttl = Ttl::from_secs(secs).unwrap();
        prop_assert_eq!(ttl.to_string().parse::<Ttl>(), Ok(ttl));
        round_trips::<Ttl>(&text);
        let (now, then) = (Timestamp::from_millis(now), Timestamp::from_millis(then));
        prop_assert!(now.saturating_add(ttl) >= now);
        prop_assert!(now.saturating_since(then).is_zero() == (now <= then));
        let id = SessionId::new(now, &[7; 10]);
        prop_assert_eq!(id.to_string().parse::<SessionId>().ok(), Some(id));
    }
}

/// The readers above must be able to say no, or they prove nothing.
#[test]
fn the_readers_notice() {
    assert_eq!(decode(b"/%2541"), b"/%41");
    assert_eq!(collapse(b"/a//b"), b"/a/b");
    assert_eq!(resolve(b"/a/../b/."), b"/b/");
    assert_eq!(strip_parameters(b"/a/..;x/b"), b"/a/../b");
    assert_eq!(trim(b"/a/.. /b."), b"/a//b");
    for address in ["127.0.0.1", "0x7f.1", "2130706433", "017700000001", "a.0x", "1.2.3.4."] {
        assert_eq!(whatwg_domain(address), None, "{address}");
    }
    assert!(
        matches(b"/a/*/c", b"", b"/a/b/c") && !matches(b"/a/*", b"", b"/a/") && matches(b"/*", b"", b"/")
    );
    // Enough of the made-up texts are accepted.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let made = |runner: &mut proptest::test_runner::TestRunner| {
        proptest::strategy::ValueTree::current(&path().new_tree(runner).unwrap())
    };
    let taken = (0..1000).filter(|_| accepted(&made(&mut runner), true).is_some()).count();
    assert!(taken > 100, "{taken} of 1000");
}
