//! Where a sealed record belongs, as the bytes that it is bound to.

use std::fmt;

use aws_lc_rs::rand;
use writ_core::{CredentialName, SessionId};

use super::KeyringFault;

/// One state directory, for its life: 16 random bytes in the clear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstallationId([u8; 16]);

/// Where a sealed record belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The data keys, under the root key.
    Keyring,
    /// One version of a credential's value.
    Credential { name: CredentialName, version: u32 },
    /// The bytes of a file before it was rewritten, by its path and the SHA-256 of what it was rewritten to.
    Original { path: String, written_sha256: [u8; 32] },
    /// The content of a repository's file as a person trusted it.
    Trust { path: String },
    /// What the next daemon needs to go on with a session. It is with the session's launcher.
    Keepsake { session: SessionId },
    /// What an engine remembers under a key. Not secret: sealed so that whoever else writes the store cannot have written it.
    Remembered { key: String },
    /// The key that placeholders are derived with.
    PlaceholderKey,
    /// The key under which the audit log hashes values.
    AuditHashKey,
    /// The key that signs the audit log's checkpoints, PKCS#8.
    AuditSigningKey,
}

impl InstallationId {
    /// What this installation's things are known by elsewhere: 8 lowercase hexadecimal digits.
    pub fn mark(self) -> String {
        self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Place {
    /// Associated data: every field with a fixed size or its length, so that no two places have the same bytes.
    pub(super) fn bytes(&self, installation: InstallationId, key: u32) -> Vec<u8> {
        let mut bytes = b"writ sealed v1\0".to_vec();
        bytes.extend_from_slice(&installation.0);
        bytes.extend_from_slice(&key.to_be_bytes());
        let mut text = |text: &str| {
            // Names have at most 63 bytes, paths 4096 and kinds are ours, so the length fits.
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        match self {
            Self::Keyring => text("keyring"),
            Self::PlaceholderKey => text("placeholder key"),
            Self::AuditHashKey => text("audit hash key"),
            Self::AuditSigningKey => text("audit signing key"),
            Self::Credential { name, version } => {
                text("credential");
                text(name.as_str());
                bytes.extend_from_slice(&version.to_be_bytes());
            }
            Self::Keepsake { session } => {
                text("keepsake");
                bytes.extend_from_slice(session.as_bytes());
            }
            Self::Remembered { key } => {
                text("remembered");
                text(key);
            }
            Self::Trust { path } => {
                text("trust");
                text(path);
            }
            Self::Original { path, written_sha256 } => {
                text("original");
                text(path);
                bytes.extend_from_slice(written_sha256);
            }
        }
        bytes
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyring => f.write_str("the keyring"),
            Self::Credential { name, version } => write!(f, "credential {name}, version {version},"),
            Self::Keepsake { session } => write!(f, "the keepsake of session {session}"),
            Self::Remembered { key } => write!(f, "what is remembered as {key}"),
            Self::Trust { path } => write!(f, "the trust in {path}"),
            Self::Original { path, .. } => write!(f, "the original of {path}"),
            Self::PlaceholderKey => f.write_str("the placeholder key"),
            Self::AuditHashKey => f.write_str("the audit hash key"),
            Self::AuditSigningKey => f.write_str("the audit signing key"),
        }
    }
}

impl InstallationId {
    /// # Errors
    /// [`KeyringFault::Random`].
    pub fn generate() -> Result<Self, KeyringFault> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| KeyringFault::Random)?;
        Ok(Self(bytes))
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstallationId({self})")
    }
}
