//! Placeholders: what the agent holds in a key's stead.
//!
//! A placeholder has its vendor's prefix, alphabet and length, names itself (`writ`), and is otherwise derived from a key of
//! this installation and the credential's name: stable from run to run, worthless elsewhere. It is found by table, never by
//! parsing. `spec/placeholder.md` has the exact derivation and vectors. Where a vendor's keys end in a checksum, the
//! placeholder's does not match on purpose: scanners that check it stay silent.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The letters of a vendor's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alphabet {
    /// `0-9A-Za-z`
    Base62,
    /// `0-9A-Za-z-_`
    Base64Url,
}

/// The shape of a vendor's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub prefix: &'static str,
    pub suffix: &'static str,
    /// Of the whole key.
    pub length: usize,
    pub alphabet: Alphabet,
}

/// The mark that follows the vendor's prefix.
const MARK: &str = "writ";

impl Shape {
    /// What a credential without a preset gets: `writ_` and 40 letters.
    pub const GENERIC: Self = Self { prefix: "writ_", suffix: "", length: 49, alphabet: Alphabet::Base62 };

    /// Builds the placeholder. `stream` yields pseudo-random bytes: HMAC-SHA-256 of the installation's key over the credential's
    /// name and a block counter, as `spec/placeholder.md` says.
    pub fn build(&self, stream: impl IntoIterator<Item = u8>) -> Placeholder {
        let body = self.length.saturating_sub(self.prefix.len() + MARK.len() + self.suffix.len());
        let letters: &[u8] = match self.alphabet {
            Alphabet::Base62 => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            Alphabet::Base64Url => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_",
        };
        let letter = |byte: u8| {
            letters.get(usize::from(byte) % letters.len()).map_or('0', |letter| char::from(*letter))
        };
        let body: String = stream.into_iter().take(body).map(letter).collect();
        Placeholder(format!("{}{MARK}{body}{}", self.prefix, self.suffix))
    }
}

/// A shape-valid stand-in for a key.
///
/// Invariant: printable ASCII without spaces, with [`Placeholder::MARK`] in it. So it is never empty, which would be found
/// everywhere, and a header can carry it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Placeholder(String);

/// A text from the wire is not a placeholder.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a placeholder consists of at most 1024 letters, digits and signs, \"writ\" among them")]
pub struct PlaceholderError;

/// The longest placeholder.
const PLACEHOLDER_MAX: usize = 1024;

impl TryFrom<String> for Placeholder {
    type Error = PlaceholderError;

    fn try_from(text: String) -> Result<Self, PlaceholderError> {
        let plain = text.len() <= PLACEHOLDER_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain && text.contains(MARK) { Ok(Self(text)) } else { Err(PlaceholderError) }
    }
}

impl From<Placeholder> for String {
    fn from(placeholder: Placeholder) -> String {
        placeholder.0
    }
}

impl Placeholder {
    /// What every placeholder contains: a cheap first look before the table.
    pub const MARK: &'static str = MARK;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_wire_is_judged() {
        let read = |text: &str| serde_json::from_value::<Placeholder>(text.into());
        let built = Shape::GENERIC.build((0..=255).cycle());
        assert_eq!(read(built.as_str()).unwrap(), built);
        for bad in ["", "sk-proj-abc", "writ a", "writ\n", "writ\u{e9}", &"writ".repeat(300)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn placeholders_have_the_vendor_shape() {
        for preset in crate::PRESETS {
            let placeholder = preset.shape.build((0..=255).cycle());
            assert_eq!(placeholder.as_str().len(), preset.shape.length, "{}", preset.name);
            assert!(
                placeholder.as_str().starts_with(&format!("{}writ", preset.shape.prefix)),
                "{}",
                preset.name
            );
            assert!(placeholder.as_str().ends_with(preset.shape.suffix));
        }
    }
}
