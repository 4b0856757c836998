//! Secret bytes, and how they cross a process.
//!
//! Invariant: a [`Secret`] has no `Display`, `Serialize` or `Clone`, prints nothing in `Debug`, and is zeroed when it goes. It is
//! read only through [`Secret::expose`], which the repository's tidy check confines to listed files. What leaves a process is
//! [`Sealed`] to one recipient's key.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Confidential bytes.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; no copy is left behind.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret under one recipient's public key (HPKE, RFC 9180; made and opened by `writ-api`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The encapsulated key, base64.
    pub enc: String,
    /// The ciphertext, base64.
    pub ciphertext: String,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

/// The public key that a secret is sealed to, base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipientKey(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2-hunter2".to_vec())), "Secret(…)");
        let sealed = Sealed { enc: "e".into(), ciphertext: "c".into() };
        assert_eq!(format!("{sealed:?}"), "Sealed(…)");
    }
}
