//! Finding placeholders in a request's head.
//!
//! A placeholder is found by table, never by its looks. The mark that each contains is the cheap first look; the eight bytes after it
//! are the key into the table. What Basic encodes is looked into as well.

use std::collections::HashMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{
    HeaderName, HeaderValue,
    header::{AUTHORIZATION, PROXY_AUTHORIZATION},
    request::Parts,
};
use memchr::memmem::Finder;
use writ_core::{Placeholder, PlaceholderEntry};

/// Bytes after the mark by which a placeholder is looked up.
const KEY: usize = 8;
/// Base64 as programs write it, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Every placeholder of the installation.
pub(crate) struct Table {
    mark: Finder<'static>,
    by_key: HashMap<[u8; KEY], Vec<usize>>,
    entries: Vec<PlaceholderEntry>,
}

/// Where one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Header(HeaderName),
    /// The path or the query.
    Uri,
}

/// One placeholder in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<'t> {
    pub(crate) entry: &'t PlaceholderEntry,
    pub(crate) at: Where,
}

impl Table {
    pub(crate) fn new(entries: &[PlaceholderEntry]) -> Self {
        let mut by_key: HashMap<[u8; KEY], Vec<usize>> = HashMap::new();
        let mark = Finder::new(Placeholder::MARK);
        for (index, entry) in entries.iter().enumerate() {
            let text = entry.placeholder.as_str().as_bytes();
            // The mark may stand in the vendor's prefix, or by chance in the body: each is a way in.
            for at in mark.find_iter(text) {
                if let Some(key) = key(text, at) {
                    by_key.entry(key).or_default().push(index);
                }
            }
        }
        Self { mark: mark.into_owned(), by_key, entries: entries.to_vec() }
    }

    /// Every placeholder in the head of a request. Allocates only where there is one.
    pub(crate) fn scan(&self, parts: &Parts) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        if let Some(path) = parts.uri.path_and_query() {
            self.look(path.as_str().as_bytes(), &Where::Uri, &mut found);
        }
        for (name, value) in &parts.headers {
            let at = || Where::Header(name.clone());
            if self.mark.find(value.as_bytes()).is_some() {
                self.look(value.as_bytes(), &at(), &mut found);
            }
            if (name == AUTHORIZATION || name == PROXY_AUTHORIZATION)
                && let Some(plain) = basic(value)
            {
                self.look(&plain, &at(), &mut found);
            }
        }
        found
    }

    fn look<'t>(&'t self, text: &[u8], at: &Where, found: &mut Vec<Found<'t>>) {
        for mark in self.mark.find_iter(text) {
            let candidates = key(text, mark).and_then(|key| self.by_key.get(&key));
            for entry in candidates.into_iter().flatten().filter_map(|index| self.entries.get(*index)) {
                let fresh = !found.iter().any(|one| one.at == *at && std::ptr::eq(one.entry, entry));
                if fresh && memchr::memmem::find(text, entry.placeholder.as_str().as_bytes()).is_some() {
                    found.push(Found { entry, at: at.clone() });
                }
            }
        }
    }
}

/// The bytes after the mark. Every shape has more of them than this.
fn key(text: &[u8], mark: usize) -> Option<[u8; KEY]> {
    text.get(mark + Placeholder::MARK.len()..)?.first_chunk::<KEY>().copied()
}

/// What `Basic …` encodes (RFC 7617 §2).
pub(crate) fn basic(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    BASE64.decode(rest.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn entry(credential: &str, placeholder: &str) -> PlaceholderEntry {
        let placeholder = serde_json::from_value(serde_json::Value::String(placeholder.into())).unwrap();
        PlaceholderEntry { credential: credential.parse().unwrap(), placeholder }
    }

    #[test]
    fn found_wherever_they_stand() {
        let (one, other) = ("sk-writ0123456789abcdef", "writ_writABCDEFGHIJKL");
        let table = Table::new(&[entry("one", one), entry("other", other)]);
        let scan = |uri: &str, name: &str, value: &str| -> Vec<(String, Where)> {
            let request = Request::builder().uri(uri).header(name, value).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            table.scan(&parts).into_iter().map(|f| (f.entry.credential.to_string(), f.at)).collect()
        };
        let basic = format!("Basic {}", BASE64.encode(format!("x:{one}")));
        let at = |name: &'static str| Where::Header(HeaderName::from_static(name));
        assert_eq!(
            scan("/a", "authorization", &format!("Bearer {one}")),
            [("one".into(), at("authorization"))]
        );
        assert_eq!(scan("/a", "authorization", &basic), [("one".into(), at("authorization"))]);
        assert_eq!(
            scan("/a", "authorization", basic.trim_end_matches('=')),
            [("one".into(), at("authorization"))]
        );
        assert_eq!(scan(&format!("/a?k={other}"), "x-a", "writ"), [("other".into(), Where::Uri)]);
        assert_eq!(scan("/a", "cookie", &format!("{one}; {other}")).len(), 2);
        assert_eq!(scan("/written", "x-a", "writ0123456789abcdef"), []);
    }
}
