//! The key that signs checkpoints, and the one that checks them.
//!
//! Ed25519 (RFC 8032). The broker alone holds the signing half; the public half is text that an operator can write
//! down, so that a log is verified without the broker. Absent: rotation. A log has one key for its life.

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Signs checkpoints. `Debug` shows the public half only.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// Makes a new key, as PKCS#8 for the caller to seal and keep.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the system has no randomness.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let document = key.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Takes a key that the caller kept, PKCS#8 version 1 or 2.
    ///
    /// # Errors
    /// [`KeyError::Private`] when it is no Ed25519 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(Self).map_err(|_| KeyError::Private)
    }

    /// The half that checks what this one signs.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        let mut key = [0; ED25519_PUBLIC_KEY_LEN];
        for (to, from) in key.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        Verifier(key)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        for (to, from) in signature.iter_mut().zip(self.0.sign(message).as_ref()) {
            *to = *from;
        }
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier())
    }
}

/// Checks checkpoints. Its text form is `writ-audit-ed25519:` and the 32 bytes in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier([u8; ED25519_PUBLIC_KEY_LEN]);

impl Verifier {
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Verifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let encoded = text.strip_prefix(KEY_PREFIX).ok_or(KeyError::Public)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyError::Public)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Public)
    }
}

/// A key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key could be made.
    #[error("cannot make a signing key: the system gave no randomness")]
    Generate,
    /// Not a private key.
    #[error("the audit signing key is not an Ed25519 key in PKCS#8")]
    Private,
    /// Not a public key's text.
    #[error("an audit public key is `{KEY_PREFIX}` and 43 characters of base64url")]
    Public,
}

/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;
const KEY_PREFIX: &str = "writ-audit-ed25519:";
