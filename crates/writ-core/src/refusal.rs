//! Refusals: one stable kind, a sentence, and the next step.
//!
//! A refusal travels from wherever something is judged to the program that asked, as RFC 9457 problem details. It tells an
//! authenticated session the rule of its own role, and never a secret. How it looks on the wire is the proxy's matter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was wrong. The name is stable: it is the problem's `type` and the reason in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// No target of the role has this host.
    UnlistedHost,
    /// The request is outside the scope of the lease.
    OutOfScope,
    /// Policy says no.
    Denied,
    /// No registration entry names this workload.
    UnknownWorkload,
    /// The lease was revoked.
    LeaseRevoked,
    /// The lease ran out and could not be renewed.
    LeaseExpired,
    /// The session is over.
    SessionEnded,
    /// The request can be read in two ways, or asks for something unsafe.
    Ambiguous,
    /// A placeholder turned up where it does not belong.
    PlaceholderElsewhere,
    /// The name leads to an address that is not allowed.
    ForbiddenAddress,
    /// The credential does not exist or its source did not give it.
    NoCredential,
    /// The broker waits for `writ unlock`.
    Locked,
    /// The audit log cannot take a record.
    AuditUnavailable,
    /// The broker cannot be reached.
    BrokerUnavailable,
    /// The upstream could not be reached or broke off.
    UpstreamFailed,
    /// The upstream answers in an encoding that cannot be scrubbed.
    UpstreamEncoding,
    /// A limit was reached.
    Limit,
    /// What was issued before could not be revoked for too long: nothing new is made meanwhile.
    Quarantined,
    /// The question itself is malformed.
    Invalid,
    /// Something that was named does not exist.
    NotFound,
    /// The store, the disk or the machine failed.
    Internal,
}

/// A refusal, ready to be shown to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// What happened, in one sentence.
    pub detail: String,
    /// What to do about it.
    pub next: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), next: next.into() }
    }
}

impl RefusalKind {
    /// The stable name.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::UnlistedHost => "unlisted-host",
            Self::OutOfScope => "out-of-scope",
            Self::Denied => "denied",
            Self::UnknownWorkload => "unknown-workload",
            Self::LeaseRevoked => "lease-revoked",
            Self::LeaseExpired => "lease-expired",
            Self::SessionEnded => "session-ended",
            Self::Ambiguous => "ambiguous",
            Self::PlaceholderElsewhere => "placeholder-elsewhere",
            Self::ForbiddenAddress => "forbidden-address",
            Self::NoCredential => "no-credential",
            Self::Locked => "locked",
            Self::AuditUnavailable => "audit-unavailable",
            Self::BrokerUnavailable => "broker-unavailable",
            Self::UpstreamFailed => "upstream-failed",
            Self::UpstreamEncoding => "upstream-encoding",
            Self::Limit => "limit",
            Self::Quarantined => "quarantined",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Internal => "internal",
        }
    }

    /// The title of the problem, the same for every instance of the kind (RFC 9457 §3.1.4).
    pub const fn title(self) -> &'static str {
        match self {
            Self::UnlistedHost => "This host is not listed for the role",
            Self::OutOfScope => "The request is outside the lease's scope",
            Self::Denied => "Policy denies it",
            Self::UnknownWorkload => "No registration entry names this workload",
            Self::LeaseRevoked => "The lease was revoked",
            Self::LeaseExpired => "The lease has expired",
            Self::SessionEnded => "The session is over",
            Self::Ambiguous => "The request is ambiguous or unsafe",
            Self::PlaceholderElsewhere => "A placeholder was sent where it does not belong",
            Self::ForbiddenAddress => "The name leads to an address that is not allowed",
            Self::NoCredential => "There is no such credential",
            Self::Locked => "writ is locked",
            Self::AuditUnavailable => "The audit log cannot take a record",
            Self::BrokerUnavailable => "The broker cannot be reached",
            Self::UpstreamFailed => "The upstream failed",
            Self::UpstreamEncoding => "The upstream's encoding cannot be scrubbed",
            Self::Limit => "A limit was reached",
            Self::Quarantined => "Earlier credentials could not be revoked yet",
            Self::Invalid => "The request is malformed",
            Self::NotFound => "There is no such thing",
            Self::Internal => "writ failed",
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}
