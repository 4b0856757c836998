//! What survives the process: credentials, sessions, leases.
//!
//! One trait, so that SQLite and PostgreSQL hold the same promises under one test suite. Writes are values ([`Change`]): a
//! caller hands over what must happen together, the implementation groups the callers' jobs into one durable transaction with
//! a savepoint each, and answers when it is on disk. The store never sees a plaintext: what is sensitive arrives sealed by the
//! keyring. Absent: the audit log, which is no table.

mod names;
pub(crate) mod postgres;
#[cfg(feature = "fault-points")]
mod reversed;
mod sqlite;
#[cfg(test)]
mod suite;

pub use postgres::{Place, PlaceFault, PostgresStore};
#[cfg(feature = "fault-points")]
pub(crate) use reversed::reversed;
pub use sqlite::{Options, SqliteStore};

use serde::{Deserialize, Serialize};
use writ_core::{
    BootId, BoxFuture, CredentialName, LeaseEnd, LeaseId, LeaseState, Level, Receipt, Revoked, RoleName,
    Scope, SessionId, SpiffeId, TargetName, Timestamp,
};

/// One version of a credential's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialVersion {
    pub name: CredentialName,
    /// 1 for the first.
    pub version: u32,
    pub value: StoredValue,
    pub set_at: Timestamp,
}

#[derive(Clone, PartialEq, Eq)]
pub enum StoredValue {
    /// Ciphertext of the keyring, bound to the credential and its version.
    Sealed(Vec<u8>),
    /// `cmd://…` or `file:///…`, read at each acquisition.
    Reference(String),
}

impl std::fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sealed(_) => f.write_str("Sealed(…)"),
            Self::Reference(reference) => write!(f, "Reference({reference:?})"),
        }
    }
}

/// The value that a credential is about to have: while it is there, either may be in force upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingValue {
    pub name: CredentialName,
    /// The version that it will be.
    pub version: u32,
    /// Ciphertext of the keyring, bound to the credential and that version.
    pub sealed: Vec<u8>,
    pub set_at: Timestamp,
}

impl std::fmt::Debug for PendingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingValue({}, version {})", self.name, self.version)
    }
}

/// The bytes of a file as they were before writ rewrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct OriginalRecord {
    pub path: String,
    /// Of the file as writ wrote it.
    pub written_sha256: [u8; 32],
    pub original_sha256: [u8; 32],
    /// Ciphertext of the keyring, bound to both names.
    pub sealed: Vec<u8>,
    pub kept_at: Timestamp,
}

impl std::fmt::Debug for OriginalRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OriginalRecord({:?}, {:?})", self.path, self.kept_at)
    }
}

/// One run of an agent, with the facts that were known when it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub session: SessionId,
    pub boot: BootId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub requester: String,
    pub program: String,
    pub directory: String,
    pub pid: i32,
    pub level: Level,
    pub prompt_sha256: Option<String>,
    /// The session of another life of the broker whose program lives on in this one.
    pub resumed_from: Option<SessionId>,
    pub opened_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub end: Option<String>,
}

/// One lease, with what its revocation needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub lease: LeaseId,
    pub session: SessionId,
    /// The life of the broker that owns it: start-up ends what another boot owned.
    pub boot: BootId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub target: TargetName,
    /// `None` where the target takes none: the lease is a scope and a life.
    pub credential: Option<CredentialName>,
    pub engine: String,
    pub version: u32,
    pub scope: Scope,
    pub receipt: Receipt,
    /// Where its revocation queues: [`Engine::lane`](writ_core::Engine::lane).
    pub lane: String,
    /// The program holds the credential itself.
    pub revealed: bool,
    pub state: LeaseState,
    pub end: Option<LeaseEnd>,
    pub revoked: Option<Revoked>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// Something that must be durable. What names a lease or a session that there is not is [`StoreFault::Missing`].
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// [`StoreFault::Conflict`] if that version exists.
    PutCredential(CredentialVersion),
    /// Removes every version; [`StoreFault::Missing`] if there is none.
    RemoveCredential(CredentialName),
    /// Takes the place of an earlier one of the same path and written hash.
    PutOriginal(OriginalRecord),
    /// [`StoreFault::Missing`] if there is none.
    RemoveOriginal { path: String, written_sha256: [u8; 32] },
    /// [`StoreFault::Conflict`] if there is one of that identifier.
    OpenSession(SessionRecord),
    /// Keeps the first end if there is one already.
    EndSession { session: SessionId, at: Timestamp, end: String },
    /// In state `pending`, before anything is done outside. [`StoreFault::Missing`] without its session,
    /// [`StoreFault::Conflict`] if that has ended, or if the lease exists: no lease slips in behind the end of a session.
    OpenLease(LeaseRecord),
    /// `pending` to `active`; [`StoreFault::Conflict`] from any other state. A receipt takes the place of the planned one.
    ActivateLease { lease: LeaseId, version: u32, receipt: Option<Receipt> },
    /// Moves the end of an `active` lease; [`StoreFault::Conflict`] in any other state.
    RenewLease { lease: LeaseId, expires_at: Timestamp },
    /// `pending` or `active` to `revoking`; keeps the first end. Harmless on a lease that is revoking or ended.
    RevokeLease { lease: LeaseId, at: Timestamp, end: LeaseEnd },
    /// Puts off the next attempt to settle a `revoking` lease, by [`RETRY_AHEAD_MAX`] at the most. Harmless in another state.
    RetryLease { lease: LeaseId, at: Timestamp },
    /// `revoking` to `ended`. Harmless on a lease that has ended, whose first outcome stays; [`StoreFault::Conflict`] while it
    /// is alive.
    EndLease { lease: LeaseId, at: Timestamp, revoked: Revoked },
    /// The next value of a credential, before anything upstream is changed. [`StoreFault::Conflict`] if there is one already, which
    /// may be in force.
    PutPending(PendingValue),
    /// Harmless if there is none.
    DropPending(CredentialName),
    /// The same as [`Change::PutMeta`]; [`StoreFault::Conflict`] if there is one: of two daemons that begin at once, one does.
    AddMeta { key: String, value: Vec<u8> },
    /// A small named value of the installation, such as the wrapped keyring. Takes the place of an earlier one.
    PutMeta { key: String, value: Vec<u8> },
}

/// Which leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    pub session: Option<SessionId>,
    pub credential: Option<CredentialName>,
    /// Not owned by this boot.
    pub other_boot: Option<BootId>,
    /// Also those that have ended.
    pub ended: bool,
}

/// The furthest that [`Change::RetryLease`] puts off, in milliseconds. What is further away was put off before the clock was set
/// back, and is due.
pub const RETRY_AHEAD_MAX: i64 = 10 * 60 * 1000;

/// Asks for leases of one lane to settle: in state `revoking`, due, and claimed by no other boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub boot: BootId,
    pub lane: String,
    pub now: Timestamp,
    /// Until when no other boot gets them. A store that only one daemon can open has no need to remember it.
    pub until: Timestamp,
    /// How many at the most; those that have been due for longest first.
    pub limit: u32,
}

/// Asks for an end of what nobody owns any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Who asks, and lives.
    pub boot: BootId,
    pub at: Timestamp,
    /// The end of sessions, as [`Change::EndSession`] has it. Leases end as [`LeaseEnd::Orphaned`].
    pub end: String,
    /// How many sessions, or leases, at the most.
    pub limit: u32,
}

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphaned {
    pub sessions: Vec<SessionId>,
    pub leases: Vec<LeaseId>,
}

/// Leases of one role and credential that have been `revoking` for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub role: RoleName,
    /// `None`: leases without a credential.
    pub credential: Option<CredentialName>,
    pub leases: u64,
    /// Since when the oldest has been `revoking`.
    pub since: Timestamp,
}

/// What another daemon on the same store did to what this one owns. Durable before it is told; telling it twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Lease {
        lease: LeaseId,
        end: LeaseEnd,
    },
    Session {
        session: SessionId,
    },
    /// A new value, or none: what was made from the old one ends so.
    Credential {
        credential: CredentialName,
        end: LeaseEnd,
    },
}

/// What a heartbeat learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Alive,
    /// Another daemon declared this boot dead, for ever: what it owned is ended, or is about to be.
    Dead,
}

/// What a store does for several daemons that share it. They judge each other by the store's clock.
pub trait Shared: Send + Sync {
    /// Makes `boot` known, as the one whose store this is. To be called once, before it owns anything. Earlier boots of the same
    /// `node`, a state directory that has one daemon at a time, are dead from then on.
    fn enlist(&self, boot: BootId, node: Option<String>) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// Says that `boot` lives. One that has not said so for 15 seconds may be declared dead.
    fn beat(&self, boot: BootId) -> BoxFuture<'_, Result<Beat, StoreFault>>;

    /// Says that `boot` is over, so that nobody has to wait for that.
    fn retire(&self, boot: BootId) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// Waits for news of `boot`, and returns some of them. They count as acted on when the next are asked for; a future that is
    /// dropped loses none.
    fn news(&self, boot: BootId) -> BoxFuture<'_, Result<Vec<News>, StoreFault>>;
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    #[error("{0} exists already")]
    Conflict(String),
    #[error("there is no {0}")]
    Missing(String),
    /// Written by a newer writ.
    #[error(
        "the store has schema {found}, this writ knows up to {known}: use the newer writ, or restore the backup made before the upgrade"
    )]
    Downgrade { found: i64, known: i64 },
    #[error(
        "the store is on a network file system ({0}), where locks and durability do not hold: move the state directory to a local disk"
    )]
    NetworkFileSystem(String),
    /// Others can read it, or put something in its place.
    #[error("the store's {what}: run {fix}")]
    Exposed { what: &'static str, fix: String },
    /// Of another kind than is needed.
    #[error("the database cannot be writ's store: {0}")]
    Unsuitable(String),
    #[error("the store is damaged: {0}; restore a backup")]
    Damaged(String),
    #[error("the disk is full: free some space; nothing was changed")]
    DiskFull,
    #[error("the store's file is gone or was replaced: stop writ, put it back, start again")]
    Replaced,
    #[error("the store failed: {0}")]
    Io(String),
}

/// The store. Every method may be called from any thread.
pub trait Store: Send + Sync {
    /// Does all of `changes` durably and in order, or none of them. A caller that stops waiting may find them done.
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// One version, or the newest.
    fn credential(
        &self,
        name: CredentialName,
        version: Option<u32>,
    ) -> BoxFuture<'_, Result<Option<CredentialVersion>, StoreFault>>;

    /// The newest version of each, by name.
    fn credentials(&self) -> BoxFuture<'_, Result<Vec<CredentialVersion>, StoreFault>>;

    /// By path, of one path the newest first; 1,000 at the most.
    fn originals(&self) -> BoxFuture<'_, Result<Vec<OriginalRecord>, StoreFault>>;

    fn session(&self, session: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreFault>>;

    /// The newest first (identifiers begin with the time), 1,000 at the most; with `ended` also those that have ended.
    fn sessions(&self, ended: bool) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreFault>>;

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<Option<LeaseRecord>, StoreFault>>;

    /// The newest first; all that are alive, of the ended ones 1,000 at the most.
    fn leases(&self, filter: LeaseFilter) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>>;

    /// The lanes on which leases are to be settled and due.
    fn lanes(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<String>, StoreFault>>;

    /// Claims leases to settle and returns them. Another claim of the same boot may return them again.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>>;

    /// Ends sessions and leases of boots that are dead, durably, and returns them; empty when there is none. Sessions come first:
    /// an answer that names leases was given when no session was left. A store that only one daemon can open takes every boot
    /// but the asking one for dead; one that several share, those whose heartbeat stopped.
    fn orphan(&self, ask: Orphan) -> BoxFuture<'_, Result<Orphaned, StoreFault>>;

    /// What has been `revoking` since `before` or earlier, by role and credential, of all boots.
    fn stuck(&self, before: Timestamp) -> BoxFuture<'_, Result<Vec<Stuck>, StoreFault>>;

    /// The pending values, by name.
    fn pending(&self) -> BoxFuture<'_, Result<Vec<PendingValue>, StoreFault>>;

    fn meta(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreFault>>;

    /// What a store does that several daemons share; `None` for one that only one can open.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }
}
