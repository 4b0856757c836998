//! Sealing: a secret for one recipient (HPKE base mode, RFC 9180).
//!
//! The suite is DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, from rustls and aws-lc. The `info` string binds a sealed
//! secret to its purpose and its place, such as one lease of one session: moved elsewhere it does not open.

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use writ_core::{LeaseId, RecipientKey, Sealed, Secret, SessionId};

/// Why a secret could not be sealed or opened. It says no more, on purpose.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    #[error("the recipient's key is not an X25519 key")]
    Key,
    #[error("the sealed secret does not open: wrong recipient, wrong place, or damaged")]
    Open,
}

const SUITE: &dyn Hpke = DH_KEM_X25519_HKDF_SHA256_AES_256;

/// A key pair that secrets are sealed to. It lives and dies in one process.
pub struct Recipient {
    public: RecipientKey,
    private: HpkePrivateKey,
}

impl Recipient {
    /// # Errors
    /// [`SealFault::Key`] when the system gives no randomness.
    pub fn generate() -> Result<Self, SealFault> {
        let (public, private) = SUITE.generate_key_pair().map_err(|_| SealFault::Key)?;
        Ok(Self { public: RecipientKey(STANDARD.encode(public.0)), private })
    }

    /// The same from 32 random bytes of the caller's. For a process that starts for one key: the library's own randomness takes tens of
    /// milliseconds to begin.
    ///
    /// # Errors
    /// [`SealFault::Key`] when the library does not take them.
    pub fn from_random(bytes: &[u8; 32]) -> Result<Self, SealFault> {
        let fault = |_| SealFault::Key;
        let private = PrivateKey::from_private_key(&X25519, bytes).map_err(|_| SealFault::Key)?;
        let public = private.compute_public_key().map_err(fault)?;
        let public = RecipientKey(STANDARD.encode(public.as_ref()));
        Ok(Self { public, private: HpkePrivateKey::from(bytes.to_vec()) })
    }

    pub fn key(&self) -> &RecipientKey {
        &self.public
    }

    /// Opens what was sealed to this key for `place`.
    ///
    /// # Errors
    /// [`SealFault::Open`].
    pub fn open(&self, sealed: &Sealed, place: &Place) -> Result<Secret, SealFault> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| SealFault::Open);
        let (enc, ciphertext) = (EncapsulatedSecret(decode(&sealed.enc)?), decode(&sealed.ciphertext)?);
        let plain =
            SUITE.open(&enc, &place.info(), b"", &ciphertext, &self.private).map_err(|_| SealFault::Open)?;
        Ok(Secret::new(plain))
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipient({})", self.public.0)
    }
}

/// What a sealed secret is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A credential on its way to the data plane.
    Lease { session: SessionId, lease: LeaseId },
    /// A session's authority on its way between the planes.
    Authority { session: SessionId },
    /// A value or passphrase on its way from the operator to the broker.
    Control { purpose: String },
}

impl Place {
    fn info(&self) -> Vec<u8> {
        match self {
            Self::Lease { session, lease } => format!("writ lease v1 {session} {lease}").into_bytes(),
            Self::Authority { session } => format!("writ authority v1 {session}").into_bytes(),
            Self::Control { purpose } => format!("writ control v1 {purpose}").into_bytes(),
        }
    }
}

/// Seals a secret to a key, for one place.
///
/// # Errors
/// [`SealFault::Key`] when the key is malformed.
pub fn seal(secret: &Secret, key: &RecipientKey, place: &Place) -> Result<Sealed, SealFault> {
    let public = HpkePublicKey(STANDARD.decode(&key.0).map_err(|_| SealFault::Key)?);
    let (enc, ciphertext) =
        SUITE.seal(&place.info(), b"", secret.expose(), &public).map_err(|_| SealFault::Key)?;
    Ok(Sealed { enc: STANDARD.encode(enc.0), ciphertext: STANDARD.encode(ciphertext) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_for_its_recipient_at_its_place_only() {
        let place = Place::Control { purpose: "credential openai".into() };
        let (one, other) = (Recipient::from_random(&[7; 32]).unwrap(), Recipient::generate().unwrap());
        let sealed = seal(&Secret::new(b"value".to_vec()), one.key(), &place).unwrap();
        assert_eq!(one.open(&sealed, &place).unwrap().expose(), b"value");
        assert!(other.open(&sealed, &place).is_err());
        assert!(one.open(&sealed, &Place::Control { purpose: "credential github".into() }).is_err());
        let mut damaged = sealed.clone();
        damaged.ciphertext.replace_range(..1, if sealed.ciphertext.starts_with('A') { "B" } else { "A" });
        assert!(one.open(&damaged, &place).is_err());
        assert!(seal(&Secret::new(vec![1]), &RecipientKey("AAAA".into()), &place).is_err());
    }

    /// Points of low order give everybody the same shared secret (RFC 7748 §6.1, RFC 9180 §7.1.4).
    #[test]
    fn malformed_keys_and_texts_are_refused() {
        let place = Place::Control { purpose: "unlock".into() };
        let secret = || Secret::new(b"value".to_vec());
        let one = [[1].as_slice(), &[0; 31]].concat();
        for key in [vec![], vec![9; 31], vec![9; 33], vec![0; 32], one.clone()] {
            let key = RecipientKey(STANDARD.encode(&key));
            assert!(seal(&secret(), &key, &place).is_err(), "{key:?}");
        }
        let recipient = Recipient::generate().unwrap();
        let sealed = seal(&secret(), recipient.key(), &place).unwrap();
        for enc in [vec![], vec![9; 31], vec![9; 33], vec![0; 32], one] {
            let damaged = Sealed { enc: STANDARD.encode(enc), ..sealed.clone() };
            assert!(recipient.open(&damaged, &place).is_err(), "{damaged:?}");
        }
        for ciphertext in ["", "AA==", "!", "AAAAAAAAAAAAAAAAAAAAAA=="] {
            let damaged = Sealed { ciphertext: ciphertext.into(), ..sealed.clone() };
            assert!(recipient.open(&damaged, &place).is_err(), "{ciphertext}");
        }
    }

    /// No two places have the same `info`, whatever a purpose says.
    #[test]
    fn places_are_told_apart() {
        use writ_core::Timestamp;
        let at = |byte| Timestamp::from_millis(byte);
        let (session, lease) = (SessionId::new(at(1), &[0; 10]), LeaseId::new(at(2), &[0; 10]));
        let info = Place::Lease { session, lease }.info();
        let purpose = String::from_utf8(info.clone()).unwrap();
        assert_ne!(Place::Control { purpose }.info(), info);
        assert_ne!(Place::Authority { session }.info(), info);
        let purpose = String::from_utf8(Place::Authority { session }.info()).unwrap();
        assert_ne!(Place::Control { purpose }.info(), Place::Authority { session }.info());
        let (other, swapped) = (LeaseId::new(at(1), &[0; 10]), SessionId::new(at(2), &[0; 10]));
        assert_ne!(Place::Lease { session: swapped, lease: other }.info(), info);
    }
}
