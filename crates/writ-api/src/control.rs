//! The operator's questions to the broker, on `control.sock`: one frame each way, as often as wanted.
//!
//! A secret crosses sealed to the key that [`Answer::Hello`] names, even on this private socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use writ_core::{
    CredentialName, LeaseEnd, LeaseId, LeaseState, Level, Placeholder, RecipientKey, Refusal, RoleName,
    Scope, Sealed, SessionId, SpiffeId, TargetName, Timestamp,
};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Always the first.
    Hello {
        version: u32,
    },
    Status,
    /// Opens a passphrase seal. Sealed for the purpose `unlock`.
    Unlock {
        passphrase: Sealed,
    },
    /// Stores a new version of a credential. A sealed value is bound to the purpose `credential NAME`.
    CredentialSet {
        name: CredentialName,
        value: Value,
    },
    CredentialList,
    /// Revokes its leases, then removes every version.
    CredentialRemove {
        name: CredentialName,
    },
    /// Whether a value is the one that is stored. A sealed value is bound to the purpose `compare NAME`.
    CredentialCompare {
        name: CredentialName,
        value: Sealed,
    },
    /// What agents hold in the credential's stead.
    PlaceholderShow {
        name: CredentialName,
    },
    /// Keeps the bytes of a file before `writ init` rewrites it, sealed as a credential is. Bound to the purpose
    /// [`OriginalName::purpose`]. Takes the place of an earlier one of the same name.
    OriginalKeep {
        name: OriginalName,
        original_sha256: String,
        content: Sealed,
    },
    OriginalList,
    /// Gives an original back, sealed to `recipient`. Refused while a program runs that could ask the same.
    OriginalOpen {
        name: OriginalName,
        recipient: RecipientKey,
    },
    /// Drops an original: its file has it back.
    OriginalForget {
        name: OriginalName,
    },
    SessionList {
        ended: bool,
    },
    SessionShow {
        session: SessionId,
    },
    SessionRevoke {
        session: SessionId,
    },
    LeaseList {
        ended: bool,
    },
    LeaseShow {
        lease: LeaseId,
    },
    LeaseRevoke {
        lease: LeaseId,
    },
    /// Lets a revealed lease live for another TTL of its role, if policy still grants it.
    LeaseRenew {
        lease: LeaseId,
    },
    /// What exists upstream without a lease, and what leases claim that upstream lacks. Changes nothing.
    LeaseSurvey,
    /// Repairs those of these that another survey, made now, finds as well: revokes what has no lease, and ends leases that claim
    /// what is gone.
    LeaseReconcile {
        repair: Vec<LeaseId>,
    },
    /// Changes the password of a credential upstream, and keeps the new one.
    CredentialRotate {
        name: CredentialName,
    },
    /// Proves that a person asks, for the rest of this connection. Sealed for the purpose `prove`. Needed before a change while a
    /// session below `confined` is alive, where [`Status::proof`] says so.
    Prove {
        passphrase: Sealed,
    },
    /// What the `writ.toml` of the repository around `directory` asks for, and what trusting it would change.
    TrustShow {
        directory: PathBuf,
    },
    /// Trusts that file, as it was shown.
    TrustGrant {
        path: PathBuf,
        /// SHA-256 of the file that was shown, hexadecimal: another one is refused.
        sha256: String,
    },
    /// Hosts that sessions tried, refused or let through, since an instant or since the log begins.
    Seen {
        since: Option<Timestamp>,
    },
    /// Ends every session, then the daemon.
    Stop,
}

/// Which original: the file, and what it was rewritten to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OriginalName {
    /// Absolute, without symbolic links.
    pub path: String,
    /// SHA-256 of the file as writ wrote it, hexadecimal.
    pub written_sha256: String,
}

impl OriginalName {
    /// What the content is bound to when it crosses the socket, in either direction.
    pub fn purpose(&self) -> String {
        format!("original {} {}", self.written_sha256, self.path)
    }
}

/// Where a credential's value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Value {
    Sealed {
        value: Sealed,
    },
    /// A reference that is read at each acquisition: `cmd://…`, `file:///…`.
    Reference {
        reference: String,
    },
}

/// What the broker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Hello {
        version: u32,
        recipient: RecipientKey,
    },
    Status(Status),
    Done,
    CredentialSet {
        version: u32,
        leases_revoked: usize,
    },
    Credentials {
        credentials: Vec<CredentialRow>,
    },
    /// `None`: no value is stored.
    Compared {
        same: Option<bool>,
    },
    Placeholder {
        placeholder: Placeholder,
    },
    Originals {
        originals: Vec<OriginalRow>,
    },
    Original {
        content: Sealed,
    },
    Sessions {
        sessions: Vec<SessionRow>,
    },
    Leases {
        leases: Vec<LeaseRow>,
    },
    Survey(Survey),
    /// In the order of the findings.
    Reconciled {
        repairs: Vec<Repair>,
    },
    Rotated {
        version: u32,
        /// Leases on the old value that were ended.
        leases_ended: usize,
    },
    Trust(TrustView),
    /// The most recent first; `more` were left out.
    Seen {
        hosts: Vec<SeenRow>,
        more: usize,
    },
    Refused(Refusal),
}

/// What upstreams have, compared with the leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Credentials whose upstream answered.
    pub surveyed: Vec<CredentialName>,
    /// Those whose upstream could not be asked, and why.
    pub unreachable: Vec<Unreached>,
    pub findings: Vec<Finding>,
    /// Findings that did not fit into the answer.
    pub more: usize,
    /// Accounts upstream that a lease stands for.
    pub agreed: usize,
}

/// An upstream that gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    pub credential: CredentialName,
    pub why: String,
}

/// One difference between an upstream and the leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub credential: CredentialName,
    pub lease: LeaseId,
    /// Its name upstream; empty where upstream has none.
    pub name: String,
    /// Where it is, such as `postgres db.example:5432`.
    pub lane: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// It exists upstream, and no lease stands for it: to be revoked.
    Orphan,
    /// A lease is alive, and upstream does not have it: the lease is to be ended.
    Lost,
}

/// What became of a finding that was to be repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    pub lease: LeaseId,
    pub mended: Mended,
}

/// The outcome of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mended {
    /// Gone upstream, verified, and its lease has ended.
    Done,
    /// The survey that was made for the repair did not find it: nothing was done.
    Agrees,
    /// It is durable that it must go, and it is tried again until it does.
    Begun { why: String },
    /// Nothing was done.
    Failed { why: String },
}

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub pid: i32,
    pub started_at: Timestamp,
    pub locked: bool,
    pub seal: String,
    pub sessions: usize,
    pub leases: usize,
    /// Public key of the audit checkpoints, base64; absent while locked.
    pub audit_key: Option<String>,
    /// The last checkpoint of the audit log that the store remembers, as `writ-audit` writes it.
    pub audit_anchor: Option<serde_json::Value>,
    pub config: String,
    /// Sessions that are alive below `confined`: their agents can reach this socket.
    pub below_confined: usize,
    /// What a command that grants or changes something must show now.
    pub proof: Proof,
    /// Roles that get no more leases on a credential, because earlier ones cannot be revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
}

/// A role that gets no more leases on a credential for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub role: RoleName,
    pub credential: CredentialName,
    /// Leases that have been `revoking` for too long.
    pub leases: u64,
    /// Since when the oldest of them has.
    pub since: Timestamp,
}

/// What a command that grants or changes something must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Nothing: every agent is confined, and this socket is not in its view.
    Nothing,
    /// The passphrase, by [`Ask::Prove`]: an agent below `confined` is alive.
    Passphrase,
    /// Nothing, although an agent below `confined` is alive: the seal is a key file, and `accept_below_confined` accepts that.
    NoWall,
}

/// A repository's `writ.toml`, which asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustView {
    pub path: PathBuf,
    /// Of the file as it was shown, hexadecimal.
    pub sha256: String,
    pub state: TrustState,
    /// What it asks for, a line each.
    pub asks: Vec<String>,
    /// Compared with what was trusted before: lines that begin with `+` or `-`.
    pub differences: Vec<String>,
    /// What it asks for in vain, because your own configuration does not have it, and what to do, a line each.
    pub missing: Vec<String>,
}

/// Whether a repository's file has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustState {
    Trusted,
    /// Another content was trusted: this one has no effect.
    Changed,
    Untrusted,
}

/// One host and port, and what became of attempts to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRow {
    pub host: String,
    /// Absent where the record has none.
    pub port: Option<u16>,
    pub refused: u64,
    pub tunnelled: u64,
    pub used: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    pub roles: Vec<String>,
    /// Why the last refusal was one, as a stable word.
    pub reason: Option<String>,
    /// Lines of `writ.toml` that would allow what was refused; empty where nothing was, or where no line would.
    pub lines: Vec<String>,
}

/// A credential, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRow {
    pub name: CredentialName,
    /// The newest version; 0 where it is read by reference or not set yet.
    pub version: u32,
    pub set_at: Option<Timestamp>,
    /// `sealed`, or the scheme of its reference, or `missing`.
    pub source: String,
    pub owner: Option<String>,
    pub env: Vec<String>,
    pub targets: Vec<TargetName>,
    pub leases: usize,
    /// A new value waits to be seen working upstream: either may be in force there.
    pub rotating: bool,
}

/// A file that writ rewrote, without what was in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalRow {
    #[serde(flatten)]
    pub name: OriginalName,
    pub original_sha256: String,
    pub kept_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub session: SessionId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub requester: String,
    pub program: String,
    pub directory: String,
    pub pid: i32,
    pub level: Level,
    pub prompt_sha256: Option<String>,
    /// The session of an earlier daemon whose program lives on in this one.
    pub resumed_from: Option<SessionId>,
    pub opened_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub end: Option<String>,
    pub leases: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    pub lease: LeaseId,
    pub session: SessionId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub target: TargetName,
    /// Absent where the target takes none.
    pub credential: Option<CredentialName>,
    pub version: u32,
    pub scope: Scope,
    pub state: LeaseState,
    pub end: Option<LeaseEnd>,
    /// `gone` or `use-blocked`: what the end achieved upstream.
    pub revoked: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// The program holds the credential.
    pub revealed: bool,
    /// Where its revocation queues.
    pub lane: String,
}
