//! Placeholders from the installation's key. `spec/placeholder.md` says it in full, with vectors.

use aws_lc_rs::hmac;
use writ_core::{CredentialName, Placeholder, Shape};

/// The placeholder of one credential: HMAC-SHA-256 (RFC 2104) over the name and a block counter, in the vendor's shape.
pub fn placeholder(key: &[u8; 32], credential: &CredentialName, shape: &Shape) -> Placeholder {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let block = |counter: u32| {
        let mut context = hmac::Context::with_key(&key);
        context.update(DOMAIN);
        context.update(credential.as_str().as_bytes());
        context.update(&counter.to_be_bytes());
        let tag = context.sign();
        tag.as_ref().to_vec()
    };
    shape.build((0..=u32::MAX).flat_map(block))
}

/// Keeps these tags apart from any other use of the key.
const DOMAIN: &[u8] = b"writ placeholder v1\0";

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use writ_core::Alphabet;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        key: String,
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        credential: CredentialName,
        prefix: String,
        suffix: String,
        length: usize,
        alphabet: Alphabet,
        placeholder: String,
    }

    #[test]
    fn vectors() {
        let text = include_str!("../../../../spec/placeholder-vectors.json");
        let Vectors { key, vectors } = serde_json::from_str(text).unwrap();
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&key[2 * index..2 * index + 2], 16).unwrap();
        }
        assert!(vectors.len() >= 6);
        for vector in vectors {
            let Vector { credential, prefix, suffix, length, alphabet, placeholder: expected } = vector;
            let letters = length - prefix.len() - "writ".len() - suffix.len();
            let shape = Shape { prefix: prefix.leak(), suffix: suffix.leak(), length, alphabet };
            assert_eq!(placeholder(&bytes, &credential, &shape).as_str(), expected, "{credential}");
            let mut other = bytes;
            other[31] ^= 1;
            let depends_on_key = placeholder(&other, &credential, &shape).as_str() != expected;
            assert_eq!(depends_on_key, letters > 0, "{credential}");
        }
    }
}
