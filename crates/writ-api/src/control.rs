//! The operator's questions to the broker, on `control.sock`: one frame each way, as often as wanted.
//!
//! A secret crosses sealed to the key that [`Answer::Hello`] names, even on this private socket.

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
    Refused(Refusal),
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
    pub credential: CredentialName,
    pub version: u32,
    pub scope: Scope,
    pub state: LeaseState,
    pub end: Option<LeaseEnd>,
    /// `gone` or `use-blocked`: what the end achieved upstream.
    pub revoked: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}
