//! Request paths: normalized once, refused where two readers could disagree.
//!
//! Policy judges the very bytes that are sent upstream. So a path is brought to one form (RFC 3986 §6.2.2: unreserved
//! characters unescaped, others escaped, escapes in upper case) and everything that some server decodes or collapses again is
//! refused: dot segments in any spelling, empty segments, encoded slashes, backslashes, double encoding, overlong UTF-8, control
//! characters. Absent: case folding and Unicode normalization. A grant that is read more strictly than the server reads it
//! only refuses more.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::quote::quoted;

/// Paths longer than this are refused.
const PATH_MAX: usize = 8 * 1024;

/// A path in the form in which it is judged and sent. Without the query. Parsing the form again yields the form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath(String);

/// Why a path is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is longer than 8 KiB")]
    Length,
    #[error("the path must begin with '/'")]
    Relative,
    #[error("the path has a dot segment, which servers resolve differently")]
    DotSegment,
    #[error("the path has an empty segment ('//'), which servers collapse differently")]
    EmptySegment,
    #[error("the path has an encoded slash, which servers decode differently")]
    EncodedSlash,
    #[error(
        "the path has a backslash, '?', '#', a control character, a byte outside ASCII or escapes that are not UTF-8"
    )]
    Character,
    #[error("the path has a broken or doubled percent escape")]
    Escape,
    #[error("a pattern begins with '/' and uses '*' only as a whole segment or as its last character: {0:?}")]
    Pattern(String),
}

impl CanonicalPath {
    /// Normalizes `raw`. `encoded_slash` lets `%2F` stay as an opaque part of its segment (GitLab names projects so); what it
    /// separates is judged as segments are.
    ///
    /// # Errors
    /// [`PathError`] names what is ambiguous.
    pub fn parse(raw: &str, encoded_slash: bool) -> Result<Self, PathError> {
        if raw.len() > PATH_MAX {
            return Err(PathError::Length);
        }
        if !raw.starts_with('/') {
            return Err(PathError::Relative);
        }
        let path = unescape(raw)?;
        if path.len() > PATH_MAX {
            return Err(PathError::Length);
        }
        judge_escapes(&path)?;
        if !encoded_slash && path.contains(ENCODED_SLASH) {
            return Err(PathError::EncodedSlash);
        }
        judge_segments(&path)?;
        Ok(Self(path))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `%2F` in canonical form.
const ENCODED_SLASH: &str = "%2F";
/// `;` in canonical form, where it is escaped.
const ENCODED_SEMICOLON: &str = "%3B";
/// A space in canonical form.
const ENCODED_SPACE: &str = "%20";

fn unescape(raw: &str) -> Result<String, PathError> {
    let mut path = String::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                keep_escape(hex(*high, *low).ok_or(PathError::Escape)?, &mut path)?;
            }
            (b'%', _) => return Err(PathError::Escape),
            (b'\\' | b'?' | b'#' | 0..=0x20 | 0x7f.., _) => return Err(PathError::Character),
            // RFC 3986 has no place for these: programs that escape them and programs that do not mean the same.
            (b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}', _) => {
                escape(*byte, &mut path)
            }
            (plain, _) => path.push(char::from(*plain)),
        }
    }
    Ok(path)
}

fn keep_escape(value: u8, path: &mut String) -> Result<(), PathError> {
    match value {
        b'\\' | 0..0x20 | 0x7f => return Err(PathError::Character),
        unreserved if unreserved.is_ascii_alphanumeric() || b"-._~".contains(&unreserved) => {
            path.push(char::from(unreserved));
        }
        other => escape(other, path),
    }
    Ok(())
}

fn escape(value: u8, path: &mut String) {
    path.push_str(&format!("%{value:02X}"));
}

/// Judges the escapes of the canonical form, where nothing can be hidden in them any more: `%25%34%31` has become `%2541`.
fn judge_escapes(path: &str) -> Result<(), PathError> {
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (value, tail) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => (hex(*high, *low).ok_or(PathError::Escape)?, tail),
            _ => (*byte, tail),
        };
        rest = tail;
        // A server that decodes twice would read another path.
        if value == b'%' && matches!(tail, [high, low, ..] if hex(*high, *low).is_some()) {
            return Err(PathError::Escape);
        }
        decoded.push(value);
    }
    // Some servers read overlong forms such as `%C0%AE` as the ASCII that they stand for.
    std::str::from_utf8(&decoded).map_or(Err(PathError::Character), |_| Ok(()))
}

fn judge_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_none() {
            return Ok(());
        }
        segment.split(ENCODED_SLASH).try_for_each(judge_segment)?;
    }
    Ok(())
}

/// Judges what is left of a segment to servers that strip path parameters (`..;x`) or trailing dots and spaces (`..%20`).
fn judge_segment(segment: &str) -> Result<(), PathError> {
    let name = segment.split(';').next().unwrap_or_default();
    let name = name.split(ENCODED_SEMICOLON).next().unwrap_or_default();
    let mut left = name;
    while let Some(shorter) = left.strip_suffix('.').or_else(|| left.strip_suffix(ENCODED_SPACE)) {
        left = shorter;
    }
    match (left, name.contains('.')) {
        ("", true) => Err(PathError::DotSegment),
        ("", false) => Err(PathError::EmptySegment),
        _ => Ok(()),
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which paths a grant covers: `/v1/*` everything below `/v1/` but not `/v1/` itself, `/repos/*/issues` with one segment in the
/// middle, `/v1/messages*` everything with that beginning, `/v1/models` exactly that path, `/*` every path.
///
/// A segment may hold `%2F` only where the target says so; `*` in the middle then covers it as a part of that segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

impl PathPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let (body, open) = self.0.strip_suffix('*').map_or((self.0.as_str(), false), |body| (body, true));
        let mut pattern = body.split('/');
        let mut segments = path.0.split('/');
        loop {
            match (pattern.next(), segments.next()) {
                (None, None) => return true,
                (Some(last), Some(segment)) if open && pattern.clone().next().is_none() => {
                    // Many servers take `/v1/` for `/v1`, which is not below itself.
                    let below = !last.is_empty() || !segment.is_empty() || body == "/";
                    return below && segment.starts_with(last);
                }
                (Some(want), Some(segment)) if want == segment || (want == "*" && !segment.is_empty()) => {}
                _ => return false,
            }
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let fault = || PathError::Pattern(quoted(text));
        let (body, open) = text.strip_suffix('*').map_or((text, false), |body| (body, true));
        let stars =
            !body.ends_with('*') && body.split('/').all(|segment| segment == "*" || !segment.contains('*'));
        // What an open pattern covers goes on: with a letter that neither ends a segment nor completes an escape.
        let whole = if open { format!("{body}x") } else { body.to_owned() };
        let canonical = CanonicalPath::parse(&whole, true).map_err(|_| fault())?;
        if stars && body.starts_with('/') && canonical.as_str() == whole {
            Ok(Self(text.to_owned()))
        } else {
            Err(fault())
        }
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form() {
        for (raw, canonical) in [
            ("/", "/"),
            ("/v1/%63hat", "/v1/chat"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/", "/a/"),
            ("/a%20b", "/a%20b"),
            ("/100%25", "/100%25"),
            ("/100%25g", "/100%25g"),
            ("/{a}", "/%7Ba%7D"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a...b/.git/..a", "/a...b/.git/..a"),
        ] {
            assert_eq!(CanonicalPath::parse(raw, true).unwrap().as_str(), canonical);
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (raw, why) in [
            ("v1", PathError::Relative),
            ("", PathError::Relative),
            ("*", PathError::Relative),
            ("/a/../b", PathError::DotSegment),
            ("/a/.", PathError::DotSegment),
            ("/a/%2e%2E/b", PathError::DotSegment),
            ("/a/..;x/b", PathError::DotSegment),
            ("/a//b", PathError::EmptySegment),
            ("//a", PathError::EmptySegment),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a%5cb", PathError::Character),
            ("/a\\b", PathError::Character),
            ("/a%00", PathError::Character),
            ("/a%0d%0ab", PathError::Character),
            ("/a b", PathError::Character),
            ("/é", PathError::Character),
            ("/%252e%252e/a", PathError::Escape),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
            ("/a%+1", PathError::Escape),
            ("/a?b", PathError::Character),
            ("/a#b", PathError::Character),
        ] {
            assert_eq!(CanonicalPath::parse(raw, false), Err(why), "{raw}");
        }
    }

    /// Each was accepted once.
    #[test]
    fn hidden_ambiguities_are_refused() {
        for (raw, encoded_slash, why) in [
            ("/%25%34%31", false, PathError::Escape),
            ("/%252%65%252%65/a", false, PathError::Escape),
            ("/a/..%3bx/b", false, PathError::DotSegment),
            ("/a/..%20/b", false, PathError::DotSegment),
            ("/a/.../b", false, PathError::DotSegment),
            ("/a/;/b", false, PathError::EmptySegment),
            ("/a/;x", false, PathError::EmptySegment),
            ("/a/%3Bx/b", false, PathError::EmptySegment),
            ("/a/%20/b", false, PathError::EmptySegment),
            ("/a%2F..%2Fb", true, PathError::DotSegment),
            ("/a%2F%2e", true, PathError::DotSegment),
            ("/a%2F%2Fb", true, PathError::EmptySegment),
            ("/a/%2Fb", true, PathError::EmptySegment),
            ("/a%2F/b", true, PathError::EmptySegment),
            ("/a%2f", true, PathError::EmptySegment),
            ("/%C0%AE%C0%AE/a", false, PathError::Character),
            ("/a%C0%AFb", false, PathError::Character),
            ("/%ff", false, PathError::Character),
        ] {
            assert_eq!(CanonicalPath::parse(raw, encoded_slash), Err(why), "{raw}");
        }
        let long = format!("/{}", "{".repeat(PATH_MAX / 2));
        assert_eq!(
            CanonicalPath::parse(&long, false),
            Err(PathError::Length),
            "the canonical form is longer"
        );
    }

    /// Rails, Grape and Django take `DELETE /projects/1/` for `DELETE /projects/1`.
    #[test]
    fn what_is_below_a_resource_is_not_the_resource() {
        let below: PathPattern = "/projects/1/*".parse().unwrap();
        assert!(!below.matches(&CanonicalPath::parse("/projects/1/", false).unwrap()));
        assert!(below.matches(&CanonicalPath::parse("/projects/1/issues/", false).unwrap()));
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, path: &str| {
            pattern.parse::<PathPattern>().unwrap().matches(&CanonicalPath::parse(path, true).unwrap())
        };
        assert!(check("/*", "/") && check("/*", "/a/b"));
        assert!(check("/v1/*", "/v1/a/b") && check("/v1/*", "/v1/a/"));
        assert!(!check("/v1/*", "/v1") && !check("/v1/*", "/v10/a") && !check("/v1/*", "/V1/a"));
        assert!(
            check("/v1/messages*", "/v1/messages") && check("/v1/messages*", "/v1/messages/count_tokens")
        );
        assert!(check("/repos/*/issues", "/repos/x/issues"));
        assert!(
            !check("/repos/*/issues", "/repos/x/y/issues")
                && !check("/repos/*/issues", "/repos//issues".replace("//", "/").as_str())
        );
        assert!(
            check("/v1/models", "/v1/models")
                && !check("/v1/models", "/v1/models/")
                && !check("/v1/models", "/v1/model")
        );
        assert!(
            check("/group%2F*", "/group%2Fproject/issues") && check("/.well-known/.*", "/.well-known/.x")
        );
        for bad in ["", "*", "x*", "v1", "/a*b", "/**", "/a/../*", "/%61", "/%2*", "/{owner}", "/a?b"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }
}
