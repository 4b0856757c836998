//! Passwords that writ chooses, and what the server keeps of them: SCRAM-SHA-256 verifiers (RFC 5803, RFC 7677).
//!
//! A server keeps `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`. The iterations slow down whoever guesses a password
//! from a stolen verifier. A [`password`] has 190 random bits, so there is nothing to guess, and [`ONCE`] is enough: the
//! server hashes at `CREATE ROLE` and at every login, and both become several times faster. For a password that a person
//! chose, or that lives on, [`CUSTOMARY`] is used.

use std::num::NonZeroU32;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac, pbkdf2, rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use writ_core::Secret;
use zeroize::Zeroizing;

/// For passwords of at least 128 random bits that live as long as a lease.
pub(super) const ONCE: NonZeroU32 = NonZeroU32::MIN;
/// PostgreSQL's own number, and the least that RFC 7677 §4 asks for.
pub(super) const CUSTOMARY: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(iterations) => iterations,
    None => NonZeroU32::MIN,
};
/// Letters of a password: 62^32 is more than 2^190.
const PASSWORD_LEN: usize = 32;
/// Bytes of a salt, as the server itself takes.
const SALT_LEN: usize = 16;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// There is no randomness.
#[derive(Debug)]
pub(super) struct NoRandomness;

/// A new password: 32 letters and digits, so that it needs no quoting in a URL, a service file or a shell.
pub(super) fn password() -> Result<Secret, NoRandomness> {
    let mut letters = Vec::with_capacity(PASSWORD_LEN);
    let mut bytes = Zeroizing::new([0; 2 * PASSWORD_LEN]);
    while letters.len() < PASSWORD_LEN {
        rand::fill(bytes.as_mut()).map_err(|_| NoRandomness)?;
        // Six bits each; 62 and 63 name no letter and are passed over, so that all are equally likely.
        let drawn = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 0x3f)).copied());
        letters.extend(drawn.take(PASSWORD_LEN - letters.len()));
    }
    Ok(Secret::new(letters))
}

/// What a server is told instead of `password`.
pub(super) fn verifier(password: &Secret, iterations: NonZeroU32) -> Result<String, NoRandomness> {
    let mut salt = [0; SALT_LEN];
    rand::fill(&mut salt).map_err(|_| NoRandomness)?;
    Ok(salted(password, iterations, &salt))
}

/// RFC 5802 §3, with letters and digits only: SASLprep leaves them as they are.
fn salted(password: &Secret, iterations: NonZeroU32, salt: &[u8; SALT_LEN]) -> String {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.expose(), salted.as_mut());
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
    let stored = digest(&SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let [salt, stored, server] =
        [salt.as_slice(), stored.as_ref(), server.as_ref()].map(|b| STANDARD.encode(b));
    format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's hashlib for the same password and salt.
    #[test]
    fn a_verifier_is_that_of_the_standard() {
        let password = Secret::new(b"pencil".to_vec());
        let salt = *b"sixteen byte sal";
        assert_eq!(salted(&password, CUSTOMARY, &salt), VECTOR_4096);
        assert_eq!(salted(&password, ONCE, &salt), VECTOR_1);
    }

    #[test]
    fn passwords_are_long_and_never_the_same() {
        let (one, other) = (password().unwrap(), password().unwrap());
        assert_eq!(one.len(), PASSWORD_LEN);
        assert!(one.expose().iter().all(u8::is_ascii_alphanumeric));
        assert_ne!(one.expose(), other.expose());
        assert_ne!(verifier(&one, ONCE).unwrap(), verifier(&one, ONCE).unwrap());
    }

    const VECTOR_4096: &str = "SCRAM-SHA-256$4096:c2l4dGVlbiBieXRlIHNhbA==$ycA8cgNknDVohDLVffrZrO4DdzXncUlupexLx+LfQS0=:q48yQhrFGnKyVWA7ABTRDih627YUzSAB97px2D+htpI=";
    const VECTOR_1: &str = "SCRAM-SHA-256$1:c2l4dGVlbiBieXRlIHNhbA==$HW5E41k5YCxRwsApwvl2t8uFx415+Ob7LfLM94phqrs=:Wn44idKxLNc+0TZ1HhfUhvT1wXB6FDsDKaxdGj8HAgA=";
}
