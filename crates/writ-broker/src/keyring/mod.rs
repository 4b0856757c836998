//! The keyring: what is sensitive at rest is sealed here.
//!
//! ```text
//! root key (from a seal) ──HKDF──► wrapping key ──AES-256-GCM──► data keys 1…n ──AES-256-GCM──► records
//! ```
//!
//! A sealed record is bound to its [`Place`] (installation, kind, name, version) as associated data: moved to another row, or to
//! another installation, it does not open. Nonces are random, 96 bits, drawn by the cipher's own implementation; one data key is
//! good for 2³² records (NIST SP 800-38D §8.3), and [`Keyring::rotate`] adds the next. Old data keys stay, for what they sealed.
//! Absent: sealing old records anew after a rotation, and protection against an older copy of the same row, which opens.

mod installation;
mod place;
mod placeholder;
#[cfg(test)]
mod tests;
mod vault;

pub use installation::{Installation, InstallationFault};
pub use place::{InstallationId, Place};
pub use placeholder::placeholder;
pub use vault::Vault;

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf, rand,
};
use subtle::ConstantTimeEq;
use writ_core::Secret;
use zeroize::Zeroizing;

use crate::seal::RootKey;

/// Why something could not be sealed or opened. It says no more about the key or the value, on purpose.
#[derive(Debug, thiserror::Error)]
pub enum KeyringFault {
    /// The key of another installation, or a wrong passphrase.
    #[error("the root key does not belong to this store: give the key file or passphrase it was made with")]
    WrongRootKey,
    /// Changed since it was sealed, or sealed for another place.
    #[error("{0} is damaged, or was moved here from another place: restore a backup")]
    Damaged(Place),
    /// Sealed with a data key that this keyring does not have.
    #[error("{place} is sealed with data key {number}, which this keyring does not have: restore a backup")]
    UnknownKey { place: Place, number: u32 },
    /// Sealed by a newer writ.
    #[error("{place} has sealing format {format}, this writ knows {FORMAT}: use the newer writ")]
    UnknownFormat { place: Place, format: u8 },
    #[error("the keyring is full: it has {KEYS_MAX} data keys")]
    Full,
    #[error("the system gives no random numbers")]
    Random,
}

/// The data keys of one installation, open in memory.
pub struct Keyring {
    installation: InstallationId,
    keys: BTreeMap<u32, DataKey>,
}

struct DataKey {
    bytes: Zeroizing<[u8; KEY_LEN]>,
    cipher: RandomizedNonceKey,
}

impl Keyring {
    /// A new keyring with one data key.
    ///
    /// # Errors
    /// [`KeyringFault::Random`].
    pub fn create(installation: InstallationId) -> Result<Self, KeyringFault> {
        let mut keyring = Self { installation, keys: BTreeMap::new() };
        keyring.rotate()?;
        Ok(keyring)
    }

    /// The keyring under the root key, to be stored.
    ///
    /// # Errors
    /// [`KeyringFault::Random`].
    pub fn wrap(&self, root: &RootKey) -> Result<Vec<u8>, KeyringFault> {
        let derived = Derived::from(root, self.installation)?;
        let mut plain = Zeroizing::new(Vec::with_capacity(self.keys.len() * ENTRY_LEN + TAG_LEN));
        for (number, key) in &self.keys {
            plain.extend_from_slice(&number.to_be_bytes());
            plain.extend_from_slice(&*key.bytes);
        }
        let sealed = encrypt(&derived.wrapping, &Place::Keyring.bytes(self.installation, 0), &plain)?;
        Ok([&[FORMAT][..], &derived.check, &sealed].concat())
    }

    /// Opens what [`Keyring::wrap`] made.
    ///
    /// # Errors
    /// [`KeyringFault::WrongRootKey`] when the root key is another one, [`KeyringFault::Damaged`] when it is the right one and
    /// the bytes have changed.
    pub fn unwrap(
        root: &RootKey,
        installation: InstallationId,
        wrapped: &[u8],
    ) -> Result<Self, KeyringFault> {
        let damaged = || KeyringFault::Damaged(Place::Keyring);
        let (format, rest) = wrapped.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(KeyringFault::UnknownFormat { place: Place::Keyring, format: *format });
        }
        let (check, sealed) = rest.split_first_chunk::<CHECK_LEN>().ok_or_else(damaged)?;
        let derived = Derived::from(root, installation)?;
        let place = Place::Keyring.bytes(installation, 0);
        let Some(plain) = decrypt(&derived.wrapping, &place, sealed) else {
            let right = bool::from(derived.check.ct_eq(check));
            return Err(if right { damaged() } else { KeyringFault::WrongRootKey });
        };
        let mut keys = BTreeMap::new();
        for entry in plain.chunks(ENTRY_LEN) {
            let (number, key) = entry.split_first_chunk::<4>().ok_or_else(damaged)?;
            let key: &[u8; KEY_LEN] = key.try_into().map_err(|_| damaged())?;
            keys.insert(u32::from_be_bytes(*number), DataKey::new(Zeroizing::new(*key))?);
        }
        if keys.is_empty() { Err(damaged()) } else { Ok(Self { installation, keys }) }
    }

    /// Adds a data key, used from now on. Old ones still open. Returns its number.
    ///
    /// # Errors
    /// [`KeyringFault::Full`], [`KeyringFault::Random`].
    pub fn rotate(&mut self) -> Result<u32, KeyringFault> {
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyringFault::Full);
        }
        let number = self.keys.last_key_value().map_or(1, |(number, _)| number.saturating_add(1));
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *bytes).map_err(|_| KeyringFault::Random)?;
        self.keys.insert(number, DataKey::new(bytes)?);
        Ok(number)
    }

    /// Seals a secret for one place: format, key number, nonce, ciphertext, tag.
    ///
    /// # Errors
    /// [`KeyringFault::Random`].
    pub fn seal(&self, place: &Place, secret: &Secret) -> Result<Vec<u8>, KeyringFault> {
        let (number, key) = self.keys.last_key_value().ok_or(KeyringFault::Random)?;
        let sealed = encrypt(&key.cipher, &place.bytes(self.installation, *number), secret.expose())?;
        Ok([&[FORMAT][..], &number.to_be_bytes(), &sealed].concat())
    }

    /// Opens what [`Keyring::seal`] made for the same place.
    ///
    /// # Errors
    /// [`KeyringFault::Damaged`] for any change and for another place, [`KeyringFault::UnknownKey`],
    /// [`KeyringFault::UnknownFormat`].
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Secret, KeyringFault> {
        let damaged = || KeyringFault::Damaged(place.clone());
        let (format, rest) = sealed.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(KeyringFault::UnknownFormat { place: place.clone(), format: *format });
        }
        let (number, sealed) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let number = u32::from_be_bytes(*number);
        let unknown = || KeyringFault::UnknownKey { place: place.clone(), number };
        let key = self.keys.get(&number).ok_or_else(unknown)?;
        let plain = decrypt(&key.cipher, &place.bytes(self.installation, number), sealed);
        plain.map(|mut plain| Secret::new(std::mem::take(&mut *plain))).ok_or_else(damaged)
    }

    pub fn installation(&self) -> InstallationId {
        self.installation
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} data keys)", self.keys.len())
    }
}

impl DataKey {
    fn new(bytes: Zeroizing<[u8; KEY_LEN]>) -> Result<Self, KeyringFault> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &*bytes).map_err(|_| KeyringFault::Random)?;
        Ok(Self { bytes, cipher })
    }
}

/// What a root key is used as. HKDF-SHA-256 (RFC 5869), salted with the installation.
struct Derived {
    wrapping: RandomizedNonceKey,
    /// Tells a wrong key from a damaged keyring. Gives away nothing but that.
    check: [u8; CHECK_LEN],
}

impl Derived {
    fn from(root: &RootKey, installation: InstallationId) -> Result<Self, KeyringFault> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, installation.as_bytes()).extract(root.expose());
        let mut wrapping = Zeroizing::new([0; KEY_LEN]);
        let mut check = [0; CHECK_LEN];
        expand(&secret, b"writ keyring wrap v1", &mut *wrapping)?;
        expand(&secret, b"writ keyring check v1", &mut check)?;
        let wrapping = RandomizedNonceKey::new(&AES_256_GCM, &*wrapping).map_err(|_| KeyringFault::Random)?;
        Ok(Self { wrapping, check })
    }
}

fn expand(secret: &hkdf::Prk, info: &[u8], out: &mut [u8]) -> Result<(), KeyringFault> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let info = [info];
    let filled = secret.expand(&info, Length(out.len())).and_then(|material| material.fill(out));
    filled.map_err(|_| KeyringFault::Random)
}

/// Nonce, ciphertext, tag.
fn encrypt(cipher: &RandomizedNonceKey, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyringFault> {
    // Room for the tag from the start: a vector that grows leaves the plaintext behind.
    let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + TAG_LEN));
    text.extend_from_slice(plain);
    let nonce =
        cipher.seal_in_place_append_tag(Aad::from(place), &mut *text).map_err(|_| KeyringFault::Random)?;
    Ok([&nonce.as_ref()[..], &text].concat())
}

fn decrypt(cipher: &RandomizedNonceKey, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let len = cipher.open_in_place(nonce, Aad::from(place), &mut text).ok()?.len();
    text.truncate(len);
    Some(text)
}

/// The first byte of everything sealed.
const FORMAT: u8 = 1;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const CHECK_LEN: usize = 16;
/// A data key's number and bytes.
const ENTRY_LEN: usize = 4 + KEY_LEN;
/// Data keys in one keyring.
const KEYS_MAX: usize = 10_000;
