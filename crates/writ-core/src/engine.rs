//! Secrets engines and sources: where credentials come from.
//!
//! ```text
//!   plan ──receipt──► (stored) ──► mint ──credential──► renew … ──► revoke(receipt), verified
//!                                   survey: what exists upstream, lease or not
//! ```
//!
//! An engine works in two steps, so that intent is durable before effect: [`Engine::plan`] yields a receipt with everything that
//! revocation will need, the lease is stored with it, and only then does [`Engine::mint`] touch the outside world. After a
//! crash between any two instructions the receipt is enough to revoke what may or may not exist.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BoxFuture, CredentialName, LeaseId, Permit, Secret, Timestamp, Ttl};

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
    /// Who the secret belongs to, where that is not said by the secret itself.
    pub login: Option<Login>,
    /// What revocation needs that was known only now, such as an object's number upstream. It takes the planned receipt's place,
    /// and is durable before anyone gets the credential. `None`: the planned one is enough.
    pub receipt: Option<Receipt>,
}

impl Minted {
    /// A secret that speaks for itself.
    pub fn bare(secret: Secret, version: u32) -> Self {
        Self { secret, version, login: None, receipt: None }
    }
}

/// An account of a service that asks for a name and a password. Nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub database: String,
}

/// Something that exists upstream and bears this installation's mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Surveyed {
    /// The lease under which it was made.
    pub lease: LeaseId,
    /// Its name upstream.
    pub name: String,
    /// Enough to revoke it.
    pub receipt: Receipt,
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
    /// The server did not answer at all: whatever else is to be done on that [lane](Engine::lane) will fail as well.
    #[error("{lane} cannot be reached: {detail}")]
    Unreachable { lane: String, detail: String },
    /// The broker's own store did not keep or find what the engine remembers.
    #[error("what the engine remembers could not be kept or read: {0}")]
    Memory(String),
    /// The receipt is not one of this engine's.
    #[error("the receipt of a lease cannot be read: {0}")]
    Receipt(String),
}

/// What the broker lends to engines.
pub trait Tools: Send + Sync {
    /// The broker's clock, to turn an instant into a length of time. The upstream's clock judges the rest.
    fn now(&self) -> Timestamp;
    /// Marks what this installation makes upstream: 8 lowercase hexadecimal digits. Another installation at the same
    /// upstream has others.
    fn mark(&self) -> String;
    /// The value of another credential, of the engine `static`, wherever it is kept: that of an administrator.
    fn current(&self, credential: &CredentialName) -> BoxFuture<'_, Result<Secret, EngineFault>>;
    /// Keeps `value` under `key` for as long as the installation lives: how an upstream is reached, which many receipts share.
    /// Durable when it returns, and never changed: keys are digests of their values. Nothing secret.
    fn remember(&self, key: &str, value: Value) -> BoxFuture<'_, Result<(), EngineFault>>;
    /// What was remembered.
    fn recall(&self, key: &str) -> BoxFuture<'_, Result<Option<Value>, EngineFault>>;
    /// The newest version of a sealed static value.
    fn latest(&self, credential: &CredentialName) -> BoxFuture<'_, Result<u32, EngineFault>>;
    /// One version of a sealed static value.
    fn value(&self, credential: &CredentialName, version: u32) -> BoxFuture<'_, Result<Secret, EngineFault>>;
    /// Takes a version of a static role's password out of force, now that a lease on it has ended: if no other lease holds it, it
    /// is changed. True if it is not in force any more; false if somebody still holds it.
    fn release(
        &self,
        credential: &CredentialName,
        _version: u32,
    ) -> BoxFuture<'_, Result<bool, EngineFault>> {
        let detail = "nobody here changes passwords".to_owned();
        let fault = EngineFault::Outside { credential: credential.clone(), detail };
        Box::pin(std::future::ready(Err(fault)))
    }
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

    /// Where revocations under this receipt queue, such as `postgres db.example:5432`: what is dead on one lane keeps no other
    /// waiting. Not secret; shown to operators.
    fn lane(&self, _: &Receipt) -> String {
        self.name().to_owned()
    }

    /// Whether `receipt` can be the receipt of `lease`. Receipts come from a store that others may write: where what was made
    /// bears its lease, a receipt of another one is refused.
    fn is_of(&self, _receipt: &Receipt, _lease: LeaseId) -> bool {
        true
    }

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

    /// Lets what was made under `receipt` live until `expires_at`, never beyond. What has no life of its own upstream has
    /// nothing to do.
    ///
    /// # Errors
    /// [`EngineFault`]. The credential lives as long as it did before, or as long as was asked.
    fn renew<'a>(
        &'a self,
        _receipt: &'a Receipt,
        _expires_at: Timestamp,
        _tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Everything upstream that bears [`Tools::mark`], whether a lease is known for it or not; `None` where nothing can be
    /// listed.
    ///
    /// # Errors
    /// [`EngineFault`] when it cannot be told.
    fn survey<'a>(
        &'a self,
        _credential: &'a CredentialName,
        _config: &'a Value,
        _tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Option<Vec<Surveyed>>, EngineFault>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The [lane](Self::lane) of what is made under this configuration, where it can be told: a survey says nothing about what was
    /// made elsewhere, under an earlier configuration.
    fn surveys(&self, _credential: &CredentialName, _config: &Value) -> Option<String> {
        None
    }

    /// How a password that lives on is changed, where the engine can.
    fn rotation(&self) -> Option<&dyn Rotation> {
        None
    }

    /// Whether what it makes is a [`Login`], which is revealed, and not a value that can be put into a request.
    fn makes_logins(&self) -> bool {
        false
    }

    /// A configuration that works, for the reference page and the conformance suite.
    fn example(&self) -> Value;
}

/// Changes a password that lives on upstream. The broker keeps what may be in force: the next one is durable, as *pending*,
/// before anything is changed, and takes the place of the current one when it was seen to work.
///
/// ```text
///   pending durable ─► set ─► test(next) ─► promoted, durable       after a crash: test(next) first, then set again
/// ```
pub trait Rotation: Send + Sync {
    /// The stored credential whose value is the password that `config` speaks of.
    ///
    /// # Errors
    /// [`EngineFault::Config`] where there is none to rotate.
    fn password_of(&self, credential: &CredentialName, config: &Value)
    -> Result<CredentialName, EngineFault>;

    /// The account that the value of `password` opens according to this configuration, such as
    /// `postgres writ_admin@db.example:5432`; `None` where the configuration does not speak of `password`. A password that opens
    /// two accounts cannot be changed at one of them.
    fn account(
        &self,
        credential: &CredentialName,
        config: &Value,
        password: &CredentialName,
    ) -> Option<String> {
        let own = self.password_of(credential, config).ok()?;
        (own == *password).then(|| format!("{credential}"))
    }

    /// How long a password stays, where the configuration says it.
    fn every(&self, _credential: &CredentialName, _config: &Value) -> Option<Ttl> {
        None
    }

    /// A new password that the upstream accepts, of at least 128 random bits.
    ///
    /// # Errors
    /// [`EngineFault::Outside`] without randomness.
    fn next(&self, credential: &CredentialName, config: &Value) -> Result<Secret, EngineFault>;

    /// Makes `next` the password, logged in with `current`. Repeating it is harmless. Where an administrator changes it, `current`
    /// is not needed, and is empty the first time.
    ///
    /// # Errors
    /// [`EngineFault`]. Either password may be in force then: [`test`](Self::test) tells.
    fn set<'a>(
        &'a self,
        credential: &'a CredentialName,
        config: &'a Value,
        current: &'a Secret,
        next: &'a Secret,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>>;

    /// Whether `candidate` opens the account, tried by a new login.
    ///
    /// # Errors
    /// [`EngineFault::Unreachable`] when it cannot be told.
    fn test<'a>(
        &'a self,
        credential: &'a CredentialName,
        config: &'a Value,
        candidate: &'a Secret,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<bool, EngineFault>>;
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
