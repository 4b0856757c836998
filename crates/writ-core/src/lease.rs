//! The life of a lease.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a lease stands. A lease is never forgotten before its end is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// Durable, the credential not yet made: recovery revokes it.
    Pending,
    /// In use.
    Active,
    /// To be ended upstream, tried again until that is verified.
    Revoking,
    /// Ended, and verified as far as the engine can.
    Ended,
}

/// How a lease came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseEnd {
    /// Its time ran out: new requests are refused, an open response may finish.
    Expired,
    /// An operator ended it, or removed its credential: connections are cut, and the session gets no other lease on this target.
    Revoked,
    /// A new version of the credential took its place: connections are cut, the next use acquires the new one.
    Superseded,
    /// Its session ended: connections are cut.
    SessionEnded,
    /// It belonged to another life of the broker, or nobody knew of it any more.
    Orphaned,
    /// What was made for it is gone upstream, behind writ's back: connections are cut, the next use acquires another.
    Lost,
}

impl LeaseState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Ended => "ended",
        }
    }
}

impl LeaseEnd {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Superseded => "superseded",
            Self::SessionEnded => "session-ended",
            Self::Orphaned => "orphaned",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for LeaseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
