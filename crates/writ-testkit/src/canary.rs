//! Canary keys, and the search for what is left of them.
//!
//! "0 bytes of a key" means here: no 16-byte window of a canary, raw or in an encoding that the scrubber knows.
//! A window that was encoded together with its neighbors can be found in base64 only at the bits that do not
//! depend on them, so each alignment gives one needle of the characters that are the window's alone.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of a window.
const WINDOW: usize = 16;
/// The alphabet of the random part of every vendor's key.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Whose key a canary looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `sk-proj-…`, 164 characters.
    OpenAi,
    /// `sk-ant-api03-…`, 108 characters.
    Anthropic,
    /// `AIza…`, 39 characters.
    Gemini,
    /// `github_pat_…`, 93 characters.
    GitHub,
    /// `glpat-…`, 26 characters.
    GitLab,
    /// 40 characters of no vendor.
    Plain,
    /// 40 characters, a third of them with a meaning in URLs, JSON and HTML.
    Awkward,
}

impl Shape {
    fn parts(self) -> (&'static str, usize) {
        match self {
            Self::OpenAi => ("sk-proj-", 156),
            Self::Anthropic => ("sk-ant-api03-", 95),
            Self::Gemini => ("AIza", 35),
            Self::GitHub => ("github_pat_", 82),
            Self::GitLab => ("glpat-", 20),
            Self::Plain | Self::Awkward => ("", 40),
        }
    }
}

/// A real key of a test: unique, of a vendor's shape, and findable.
pub struct Canary {
    shape: Shape,
    value: String,
    needles: OnceLock<Option<AhoCorasick>>,
}

impl Canary {
    /// A new one. Falls back to a value derived from the time where the system gives no randomness.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let mut seed = [0u8; 8];
        if crate::random(&mut seed).is_err() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            seed = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(1).to_le_bytes();
        }
        Self::from_seed(shape, u64::from_le_bytes(seed))
    }

    /// The same value for the same seed.
    #[must_use]
    pub fn from_seed(shape: Shape, seed: u64) -> Self {
        let (prefix, random) = shape.parts();
        let mut state = seed;
        let mut value = prefix.to_owned();
        for n in 0..random {
            let drawn = splitmix(&mut state);
            value.push(match (shape, n % 3) {
                (Shape::Awkward, 0) => pick(b"/+=&<>\"'%~!", drawn),
                _ => pick(ALPHABET, drawn),
            });
        }
        Self { shape, value, needles: OnceLock::new() }
    }

    /// The key itself.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// At how many places of `haystack` a window of the key begins, raw or encoded. 0 means clean.
    #[must_use]
    pub fn windows(&self, haystack: &[u8]) -> usize {
        let needles = self.needles.get_or_init(|| AhoCorasick::new(needles(self.value.as_bytes())).ok());
        // An automaton that cannot be built must not read as clean.
        needles.as_ref().map_or(usize::MAX, |n| n.find_overlapping_iter(haystack).count())
    }
}

impl std::fmt::Debug for Canary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canary").field("shape", &self.shape).finish_non_exhaustive()
    }
}

fn needles(key: &[u8]) -> BTreeSet<Vec<u8>> {
    key.windows(WINDOW).flat_map(of_window).collect()
}

fn of_window(window: &[u8]) -> Vec<Vec<u8>> {
    let each = |form: &dyn Fn(u8) -> String| window.iter().map(|b| form(*b)).collect::<String>().into_bytes();
    let reserved = |b: u8| !(b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let mut out = vec![
        window.to_vec(),
        each(&|b| format!("{b:02x}")),
        each(&|b| format!("{b:02X}")),
        each(&|b| format!("%{b:02x}")),
        each(&|b| format!("%{b:02X}")),
        each(&|b| if reserved(b) { format!("%{b:02X}") } else { char::from(b).to_string() }),
        each(&|b| if reserved(b) { format!("%{b:02x}") } else { char::from(b).to_string() }),
        each(&|b| format!("\\u{b:04x}")),
        each(&|b| format!("\\u{b:04X}")),
        each(&json_plain),
        each(&json_for_html),
        each(&json_with_slashes),
        each(&|b| format!("&#{b};")),
        each(&|b| format!("&#x{b:x};")),
        each(&|b| format!("&#x{b:X};")),
        each(&html_escaped),
    ];
    for alignment in 0..3 {
        out.push(aligned(&STANDARD_NO_PAD, window, alignment));
        out.push(aligned(&URL_SAFE_NO_PAD, window, alignment));
    }
    out
}

/// The base64 characters that `window` alone decides when `alignment` bytes of a group stand before it.
fn aligned(engine: &impl base64::Engine, window: &[u8], alignment: usize) -> Vec<u8> {
    let padded: Vec<u8> = std::iter::repeat_n(0, alignment).chain(window.iter().copied()).collect();
    let first = (alignment * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    engine.encode(padded).into_bytes().into_iter().take(end).skip(first).collect()
}

/// As RFC 8259 demands and no more.
fn json_plain(byte: u8) -> String {
    match byte {
        b'"' => "\\\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        _ => char::from(byte).to_string(),
    }
}

/// As writers that think of HTML, such as Go's.
fn json_for_html(byte: u8) -> String {
    match byte {
        b'<' | b'>' | b'&' => format!("\\u{byte:04x}"),
        _ => json_plain(byte),
    }
}

/// As writers that think of `</script>`, such as PHP's.
fn json_with_slashes(byte: u8) -> String {
    if byte == b'/' { "\\/".to_owned() } else { json_plain(byte) }
}

fn html_escaped(byte: u8) -> String {
    match byte {
        b'"' => "&quot;".to_owned(),
        b'\'' => "&#39;".to_owned(),
        b'&' => "&amp;".to_owned(),
        b'<' => "&lt;".to_owned(),
        b'>' => "&gt;".to_owned(),
        _ => char::from(byte).to_string(),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for values that must only be distinct.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick(alphabet: &[u8], drawn: u64) -> char {
    let index = usize::try_from(drawn % alphabet.len() as u64).unwrap_or(0);
    alphabet.get(index).copied().map_or('A', char::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    const ALL: [Shape; 7] = [
        Shape::OpenAi,
        Shape::Anthropic,
        Shape::Gemini,
        Shape::GitHub,
        Shape::GitLab,
        Shape::Plain,
        Shape::Awkward,
    ];

    #[test]
    fn a_window_is_found_in_every_encoding_and_at_every_offset() {
        for shape in ALL {
            let canary = Canary::from_seed(shape, 7);
            let bytes = canary.value().as_bytes();
            for (start, window) in bytes.windows(WINDOW).enumerate() {
                for pad in 0..3 {
                    let text = [&b"\0\0"[..pad], window, b"\0\0"].concat();
                    for hay in [STANDARD.encode(&text), URL_SAFE.encode(&text), crate::hex(&text)] {
                        assert!(canary.windows(hay.as_bytes()) > 0, "{shape:?} {start} {pad}");
                    }
                    assert_eq!(canary.windows(&text), 1, "{shape:?} {start} {pad}");
                }
            }
        }
    }

    #[test]
    fn fifteen_bytes_and_other_canaries_are_clean() {
        for shape in ALL {
            let (canary, other) = (Canary::from_seed(shape, 1), Canary::from_seed(shape, 2));
            let short = &canary.value().as_bytes()[20 - WINDOW..19];
            assert_eq!(short.len(), WINDOW - 1);
            assert_eq!(canary.windows(short), 0, "{shape:?}");
            assert_eq!(canary.windows(other.value().as_bytes()), 0, "{shape:?}");
            assert_eq!(canary.windows(STANDARD.encode(other.value()).as_bytes()), 0, "{shape:?}");
        }
    }

    #[test]
    fn escapes_are_found_too() {
        let canary = Canary::from_seed(Shape::Awkward, 3);
        let json = serde_json::to_string(canary.value()).unwrap();
        assert!(canary.windows(json.as_bytes()) > 0, "{json}");
        let forms: [&dyn Fn(u8) -> String; 7] = [
            &|b| format!("%{b:02X}"),
            &|b| format!("\\u{b:04x}"),
            &|b| format!("&#{b};"),
            &|b| format!("&#x{b:x};"),
            &html_escaped,
            &json_for_html,
            &json_with_slashes,
        ];
        for form in forms {
            let hay: String = canary.value().bytes().map(form).collect();
            assert!(canary.windows(hay.as_bytes()) > 0, "{hay}");
        }
    }

    #[test]
    fn canaries_are_unique_and_do_not_print_themselves() {
        let (a, b) = (Canary::new(Shape::OpenAi), Canary::new(Shape::OpenAi));
        assert_ne!(a.value(), b.value());
        assert_eq!(a.windows(format!("{a:?}").as_bytes()), 0);
    }
}
