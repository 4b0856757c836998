//! Keys in files: what looks like one, where env files keep them, which files there are, and how one file takes another's place.
//!
//! ```text
//!   search.rs     which files of a work tree to look into
//!   text.rs       keys in a file's bytes, and the same bytes with placeholders in their stead
//!   file.rs       reads a file and replaces it, whole or not at all
//!   leftovers.rs  keys that earlier, unconfined runs left in the home directory
//! ```
//!
//! Nothing here talks to the broker or prints. A key that is shown is shown by [`mask`].

pub mod file;
pub mod leftovers;
pub mod search;
pub mod text;

use aws_lc_rs::digest::{SHA256, digest};
use writ_core::{PRESETS, Placeholder, Preset};

/// Shorter values could be read out of what a mask leaves.
const MASK_MIN: usize = 24;
/// Letters of a key's end that a mask shows.
const MASK_TAIL: usize = 4;
/// A random key has more different letters than this; a word or a row of the same letter has not.
const DISTINCT_MIN: usize = 10;

/// A key as it may be shown: `sk-proj-…abcd`.
pub fn mask(key: &str) -> String {
    let tail = key.len().saturating_sub(MASK_TAIL);
    match (key.len() >= MASK_MIN && key.is_ascii(), key.get(tail..)) {
        (true, Some(tail)) => format!("{}…{tail}", longest_prefix(key)),
        _ => format!("{} characters", key.chars().count()),
    }
}

/// The longest known beginning of a service's keys.
fn longest_prefix(key: &str) -> &'static str {
    let known = PRESETS.iter().flat_map(|preset| {
        preset.key_prefixes.iter().copied().chain([preset.shape.prefix]).filter(|one| key.starts_with(one))
    });
    known.max_by_key(|prefix| prefix.len()).unwrap_or_default()
}

/// The service whose keys begin like this one: of two, the one with the longer beginning.
pub fn service(key: &str) -> Option<&'static Preset> {
    let length = |preset: &Preset| {
        preset.key_prefixes.iter().filter(|one| key.starts_with(**one)).map(|one| one.len()).max()
    };
    let known = PRESETS.iter().filter_map(|preset| Some((length(preset)?, preset)));
    // Of two that are alike the first, which is the one for the API.
    known.rev().max_by_key(|(length, _)| *length).map(|(_, preset)| preset)
}

/// Whether a text is a key of a known service, and random enough to be a real one.
pub fn is_real_key(text: &str) -> bool {
    writ_core::looks_like_key(text) && is_random(text.get(longest_prefix(text).len()..).unwrap_or_default())
}

/// Whether a text was made by [`writ_core::Shape::build`].
pub fn is_placeholder(text: &str) -> bool {
    let shapes = PRESETS.iter().map(|preset| preset.shape).chain([writ_core::Shape::GENERIC]);
    shapes
        .into_iter()
        .any(|shape| text.strip_prefix(shape.prefix).is_some_and(|rest| rest.starts_with(Placeholder::MARK)))
}

/// Digits beside letters, or both cases, and no few letters over and over.
pub fn is_random(text: &str) -> bool {
    let has = |is: fn(&u8) -> bool| text.bytes().any(|byte| is(&byte));
    let digits = has(u8::is_ascii_digit);
    let (lower, upper) = (has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase));
    let distinct = text.bytes().collect::<std::collections::BTreeSet<_>>().len();
    distinct > DISTINCT_MIN && [digits, lower, upper].iter().filter(|has| **has).count() >= 2
}

/// SHA-256 (FIPS 180-4), hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-proj-0aB1cD2eF3gH4iJ5kL6mN7oP8qR9";

    #[test]
    fn a_mask_shows_the_vendor_and_four_letters() {
        assert_eq!(mask(KEY), "sk-proj-…8qR9");
        assert_eq!(mask("ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9"), "ghp_…8qR9");
        assert_eq!(mask("0aB1cD2eF3gH4iJ5kL6mN7oP8qR9"), "…8qR9");
        assert_eq!(mask("hunter2"), "7 characters");
        assert_eq!(mask("ééééééééééééé"), "13 characters");
    }

    #[test]
    fn real_keys_are_told_from_examples_and_placeholders() {
        assert!(is_real_key(KEY));
        for text in [
            "sk-your-api-key-goes-here",
            "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "sk-proj-000000000000000000000000000000",
            "sk-proj-writ0aB1cD2eF3gH4iJ5kL6mN7oP8qR9",
            "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9",
        ] {
            assert!(!is_real_key(text), "{text}");
        }
        assert!(is_placeholder("sk-proj-writ0aB1cD2eF3gH4iJ5kL6mN7oP8qR9") && !is_placeholder(KEY));
        assert!(is_placeholder("writ_writ0aB1cD2eF3gH4iJ5kL6mN7oP8qR9"));
    }

    #[test]
    fn services_by_the_longest_beginning() {
        let name = |key| service(key).map(|preset| preset.name);
        assert_eq!(name("sk-proj-abc"), Some("openai"));
        assert_eq!(name("sk-ant-api03-abc"), Some("anthropic"));
        assert_eq!(name("github_pat_abc"), Some("github"));
        assert_eq!(name("nothing"), None);
    }
}
