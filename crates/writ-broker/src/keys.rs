//! What the broker needs of the installation's keys, once the seal is open.

use writ_core::{CredentialName, Placeholder, Secret, Shape};

/// A sealed value did not open, or could not be sealed.
#[derive(Debug, thiserror::Error)]
#[error("the keyring failed: {0}")]
pub struct KeyFault(pub String);

/// The installation's keys.
pub trait Keys: Send + Sync {
    /// Seals one version of a credential's value, bound to its place.
    fn seal_value(&self, name: &CredentialName, version: u32, value: &Secret) -> Result<Vec<u8>, KeyFault>;
    /// Opens it again.
    fn open_value(&self, name: &CredentialName, version: u32, sealed: &[u8]) -> Result<Secret, KeyFault>;
    fn placeholder(&self, name: &CredentialName, shape: &Shape) -> Placeholder;
}
