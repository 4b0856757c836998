//! Request paths: normalized once, refused where two readers could disagree.
//!
//! Policy judges the very bytes that are sent upstream. So a path is brought to one form (RFC 3986 §6.2.2: unreserved
//! characters unescaped, escapes in upper case) and everything that some server decodes or collapses again is refused: dot
//! segments in any spelling, empty segments, encoded slashes, backslashes, double encoding, control characters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Paths longer than this are refused.
const PATH_MAX: usize = 8 * 1024;

/// A path in the form in which it is judged and sent. Without the query.
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
    #[error("the path has a backslash, a control character or a byte outside ASCII")]
    Character,
    #[error("the path has a broken or doubled percent escape")]
    Escape,
    #[error("a pattern begins with '/' and uses '*' only as a whole segment or as its last character: {0:?}")]
    Pattern(String),
}

impl CanonicalPath {
    /// Normalizes `raw`. `encoded_slash` lets `%2F` stay as an opaque part of its segment (GitLab names projects so).
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
        let path = unescape(raw, encoded_slash)?;
        let mut segments = path.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            // `..;x` is a dot segment to servers that strip path parameters.
            if matches!(segment.split(';').next(), Some("." | "..")) {
                return Err(PathError::DotSegment);
            }
            if segment.is_empty() && segments.peek().is_some() {
                return Err(PathError::EmptySegment);
            }
        }
        Ok(Self(path))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn unescape(raw: &str, encoded_slash: bool) -> Result<String, PathError> {
    let mut path = String::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                keep_escape(hex(*high, *low).ok_or(PathError::Escape)?, encoded_slash, tail, &mut path)?;
            }
            (b'%', _) => return Err(PathError::Escape),
            (b'\\' | 0..=0x20 | 0x7f.., _) => return Err(PathError::Character),
            (plain, _) => path.push(char::from(*plain)),
        }
    }
    Ok(path)
}

fn keep_escape(value: u8, encoded_slash: bool, ahead: &[u8], path: &mut String) -> Result<(), PathError> {
    match value {
        b'/' if !encoded_slash => Err(PathError::EncodedSlash),
        b'\\' | 0..0x20 | 0x7f => Err(PathError::Character),
        // `%2561`: a server that decodes twice would read another path.
        b'%' if matches!(ahead, [high, low, ..] if hex(*high, *low).is_some()) => Err(PathError::Escape),
        unreserved if unreserved.is_ascii_alphanumeric() || b"-._~".contains(&unreserved) => {
            path.push(char::from(unreserved));
            Ok(())
        }
        other => {
            path.push_str(&format!("%{other:02X}"));
            Ok(())
        }
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

/// Which paths a grant covers: `/v1/*` everything below `/v1/`, `/repos/*/issues` with one segment in the middle,
/// `/v1/messages*` everything with that beginning, `/v1/models` exactly that path.
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
                    return segment.starts_with(last);
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
        let fault = || PathError::Pattern(text.to_owned());
        let body = text.strip_suffix('*').unwrap_or(text);
        let stars =
            !body.ends_with('*') && body.split('/').all(|segment| segment == "*" || !segment.contains('*'));
        let canonical = CanonicalPath::parse(body, true).map_err(|_| fault())?;
        if stars && canonical.as_str() == body { Ok(Self(text.to_owned())) } else { Err(fault()) }
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
        ] {
            assert_eq!(CanonicalPath::parse(raw, false), Err(why), "{raw}");
        }
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, path: &str| {
            pattern.parse::<PathPattern>().unwrap().matches(&CanonicalPath::parse(path, true).unwrap())
        };
        assert!(check("/*", "/") && check("/*", "/a/b"));
        assert!(check("/v1/*", "/v1/a/b") && check("/v1/*", "/v1/"));
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
        for bad in ["", "v1", "/a*b", "/**", "/a/../*", "/%61"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }
}
