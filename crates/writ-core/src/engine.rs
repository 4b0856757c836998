//! Secrets engines and sources: where credentials come from.
//!
//! An engine works in two steps, so that intent is durable before effect: [`Engine::plan`] yields a receipt with everything that
//! revocation will need, the lease is stored with it, and only then does [`Engine::mint`] touch the outside world. After a
//! crash between any two instructions the receipt is enough to revoke what may or may not exist.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BoxFuture, CredentialName, LeaseId, Permit, Secret};

/// What revocation needs, and nothing secret: an engine's own serde type, erased to JSON at this boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(pub Value);

/// A credential that was made.
#[derive(Debug)]
pub struct Minted {
    pub secret: Secret,
    /// The version of a static value, 1 or more; 0 where the engine has none.
    pub version: u32,
}

/// What a revocation achieved, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revoked {
    /// The credential no longer exists upstream.
    Gone,
    /// The key lives on upstream; writ only stopped using it. Exposure counts it as alive.
    UseBlocked,
}

/// Why an engine could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineFault {
    /// The operator erred: the configuration of the credential is wrong.
    #[error("the configuration of {credential} is wrong: {detail}")]
    Config { credential: CredentialName, detail: String },
    /// There is no value to use.
    #[error("{credential} has no value: {detail}")]
    NoValue { credential: CredentialName, detail: String },
    /// The outside failed; trying again may help.
    #[error("{credential} could not be obtained: {detail}")]
    Outside { credential: CredentialName, detail: String },
    /// The receipt is not one of this engine's.
    #[error("the receipt of a lease cannot be read: {0}")]
    Receipt(String),
}

/// What the broker lends to engines.
pub trait Tools: Send + Sync {
    /// The newest version of a sealed static value.
    fn latest(&self, credential: &CredentialName) -> BoxFuture<'_, Result<u32, EngineFault>>;
    /// One version of a sealed static value.
    fn value(&self, credential: &CredentialName, version: u32) -> BoxFuture<'_, Result<Secret, EngineFault>>;
    /// Reads a reference such as `cmd://…` through the source of its scheme.
    fn read(
        &self,
        credential: &CredentialName,
        reference: &str,
    ) -> BoxFuture<'_, Result<Secret, EngineFault>>;
}

/// Makes and revokes credentials. One implementation is one file of `writ-engine`.
pub trait Engine: Send + Sync {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Checks a credential's configuration. Unknown keys are errors.
    ///
    /// # Errors
    /// [`EngineFault::Config`] names the key.
    fn check(&self, credential: &CredentialName, config: &Value) -> Result<(), EngineFault>;

    /// What minting will do, with nothing done yet.
    ///
    /// # Errors
    /// [`EngineFault::Config`] or [`EngineFault::NoValue`].
    fn plan<'a>(
        &'a self,
        permit: &'a Permit,
        lease: LeaseId,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>>;

    /// Makes the credential that `receipt` describes, valid until [`Permit::expires_at`] at the longest.
    ///
    /// # Errors
    /// Any [`EngineFault`]. The receipt stays revocable whatever happened.
    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        receipt: &'a Receipt,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>>;

    /// Removes what was made under `receipt` and verifies that it is gone. Repeating it is harmless.
    ///
    /// # Errors
    /// [`EngineFault::Outside`] when it could not be verified: the lease stays `revoking`.
    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>>;

    /// A configuration that works, for the reference page and the conformance suite.
    fn example(&self) -> Value;
}

/// Why a source gave nothing. `detail` never quotes the value.
#[derive(Debug, thiserror::Error)]
#[error("{reference}: {detail}")]
pub struct SourceFault {
    pub reference: String,
    pub detail: String,
}

/// Reads an existing secret from where a person keeps it. One implementation is one file of `writ-engine`.
pub trait Source: Send + Sync {
    /// The scheme of its references, without `://`.
    fn scheme(&self) -> &'static str;

    /// Reads the secret behind the whole reference, at most 64 KiB.
    ///
    /// # Errors
    /// [`SourceFault`] when there is none, it is too large, or it took too long.
    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Secret, SourceFault>>;

    /// An example of a reference.
    fn example(&self) -> &'static str;
}
