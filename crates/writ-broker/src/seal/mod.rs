//! Seals: where the root key comes from.
//!
//! The root key wraps the keyring and nothing else, so another seal means wrapping one small value anew. An implementation is one
//! file, plus its `mod` line and its line in [`SEALS`]; every entry passes the same conformance test. Absent so far: Shamir shares,
//! cloud key services and TPMs, and the change from one seal to another.

mod key_file;
mod passphrase;
#[cfg(test)]
mod tests;

pub use key_file::KeyFile;
pub use passphrase::{Cost, PASSPHRASE_MAX, PASSPHRASE_MIN, Passphrase};

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use serde_json::Value;
use writ_core::Secret;
use zeroize::Zeroizing;

/// Gives the root key, in whatever way.
pub trait Seal: Send + Sync {
    /// The name in the configuration and in the store.
    fn kind(&self) -> &'static str;

    /// Whether a person has to say something each time.
    fn asks(&self) -> bool;

    /// Makes the root key of a new installation, and the parameters that are stored in the clear to find it again. May take a
    /// second of a core and 64 MiB.
    ///
    /// # Errors
    /// [`SealFault`].
    fn create(&self, passphrase: Option<&Secret>) -> Result<(RootKey, Value), SealFault>;

    /// Finds the root key again. Whether it is the right one shows when the keyring opens.
    ///
    /// # Errors
    /// [`SealFault`].
    fn unseal(&self, parameters: &Value, passphrase: Option<&Secret>) -> Result<RootKey, SealFault>;
}

/// A kind of seal.
pub struct SealEntry {
    pub kind: &'static str,
    /// For the reference page.
    pub about: &'static str,
    pub build: fn(&SealPlaces) -> Box<dyn Seal>,
}

/// Where seals may keep something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealPlaces {
    /// The root key's file, where the seal is `key-file`.
    pub key_file: PathBuf,
}

impl SealPlaces {
    /// The usual places in a state directory.
    pub fn within(state: &Path) -> Self {
        Self { key_file: state.join("root.key") }
    }
}

/// Every kind of seal.
pub const SEALS: &[SealEntry] = &[
    SealEntry {
        kind: KeyFile::KIND,
        about: "32 random bytes in a file of mode 0600: protects backups and against other users",
        build: |places| Box::new(KeyFile::new(places.key_file.clone())),
    },
    SealEntry {
        kind: Passphrase::KIND,
        about: "derived from a passphrase with Argon2id: writ starts locked until it is told",
        build: |_| Box::new(Passphrase::new(Cost::STANDARD)),
    },
];

/// Builds the seal of that kind.
///
/// # Errors
/// [`SealFault::UnknownKind`].
pub fn seal(kind: &str, places: &SealPlaces) -> Result<Box<dyn Seal>, SealFault> {
    let entry = SEALS.iter().find(|entry| entry.kind == kind);
    entry.map(|entry| (entry.build)(places)).ok_or_else(|| {
        let known: Vec<&str> = SEALS.iter().map(|entry| entry.kind).collect();
        SealFault::UnknownKind { kind: kind.to_owned(), known: known.join(", ") }
    })
}

/// The key that wraps the keyring: 256 bits.
pub struct RootKey(Zeroizing<[u8; ROOT_KEY_LEN]>);

/// Bytes of a root key.
pub const ROOT_KEY_LEN: usize = 32;

impl RootKey {
    pub fn new(bytes: Zeroizing<[u8; ROOT_KEY_LEN]>) -> Self {
        Self(bytes)
    }

    /// # Errors
    /// [`SealFault::Random`].
    pub fn generate() -> Result<Self, SealFault> {
        let mut bytes = Zeroizing::new([0; ROOT_KEY_LEN]);
        rand::fill(&mut *bytes).map_err(|_| SealFault::Random)?;
        Ok(Self(bytes))
    }

    /// The bytes themselves. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8; ROOT_KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(…)")
    }
}

/// Why there is no root key. Paths and modes are named, for the person whose files they are.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    #[error("there is no seal {kind:?}; there are {known}")]
    UnknownKind { kind: String, known: String },
    #[error("a passphrase is needed: run writ unlock")]
    PassphraseNeeded,
    #[error("a passphrase must have {PASSPHRASE_MIN} to {PASSPHRASE_MAX} bytes")]
    PassphraseLength,
    #[error("the key file {} is gone: put it back from its backup; without it nothing sealed can be read", .0.display())]
    KeyFileMissing(PathBuf),
    #[error("the key file {0} has mode {mode:04o}: run chmod 600 {0}", .path.display())]
    KeyFileMode { path: PathBuf, mode: u32 },
    #[error("the key file {0} belongs to user {uid}, not to you: run chown {own} {0}", .path.display())]
    KeyFileOwner { path: PathBuf, uid: u32, own: u32 },
    #[error("the key file {} is a symbolic link: put the file itself there", .0.display())]
    KeyFileLink(PathBuf),
    #[error("the key file {} is not a regular file of {ROOT_KEY_LEN} bytes: put it back from its backup", .0.display())]
    KeyFileForm(PathBuf),
    #[error("the key file {} cannot be read or written: {source}", .path.display())]
    KeyFileIo { path: PathBuf, source: io::Error },
    #[error("what the store says about its seal cannot be used: {0}")]
    Parameters(String),
    #[error("the system gives no random numbers")]
    Random,
}
