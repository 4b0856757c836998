//! Faults of the broker's parts, as refusals that a caller may see.
//!
//! The sentence is safe for the session or the operator; what only an operator should read goes to the log of the daemon.

use writ_api::seal::SealFault;
use writ_audit::LogFault;
use writ_core::{CredentialName, EngineFault, Refusal, RefusalKind};

use crate::store::StoreFault;

/// The one answer about a session that is unknown, over, or somebody else's.
pub(crate) fn session_over() -> Refusal {
    Refusal::new(RefusalKind::SessionEnded, "this session is over", "start a new run")
}

pub(crate) fn locked() -> Refusal {
    Refusal::new(
        RefusalKind::Locked,
        "writ is locked: its keys are sealed with a passphrase",
        "run `writ unlock`",
    )
}

pub(crate) fn stopping() -> Refusal {
    Refusal::new(RefusalKind::BrokerUnavailable, "writ is stopping", "try again")
}

pub(crate) fn store(fault: StoreFault) -> Refusal {
    tracing::error!(%fault, "the store failed");
    let next = match fault {
        StoreFault::DiskFull => "free some space",
        _ => "see the daemon's log, then `writ doctor`",
    };
    Refusal::new(RefusalKind::Internal, fault.to_string(), next)
}

pub(crate) fn log(fault: &LogFault) -> Refusal {
    tracing::error!(%fault, "the audit log takes no record");
    Refusal::new(
        RefusalKind::AuditUnavailable,
        format!("no record, no credential: {fault}"),
        "ask the operator to mend the audit log",
    )
}

pub(crate) fn seal(_: SealFault) -> Refusal {
    Refusal::new(
        RefusalKind::Internal,
        "the credential could not be sealed to the session",
        "start a new run",
    )
}

pub(crate) fn minting(fault: &EngineFault) -> Refusal {
    let (kind, next) = match fault {
        EngineFault::NoValue { .. } => (RefusalKind::NoCredential, "ask the operator to set the credential"),
        EngineFault::Config { .. } => (RefusalKind::NoCredential, "ask the operator to mend writ.toml"),
        EngineFault::Outside { .. } | EngineFault::Unreachable { .. } => {
            (RefusalKind::NoCredential, "try again, or ask the operator")
        }
        EngineFault::Memory(_) | EngineFault::Receipt(_) => {
            (RefusalKind::Internal, "ask the operator: see the daemon's log")
        }
    };
    Refusal::new(kind, fault.to_string(), next)
}

pub(crate) fn engine(name: &CredentialName) -> Refusal {
    Refusal::new(
        RefusalKind::NoCredential,
        format!("the engine of {name} is not in this writ"),
        "ask the operator to mend writ.toml",
    )
}

pub(crate) fn randomness() -> Refusal {
    Refusal::new(RefusalKind::Internal, "the system gave no randomness", "try again")
}

pub(crate) fn internal(fault: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%fault, "writ failed");
    Refusal::new(RefusalKind::Internal, fault.to_string(), "see the daemon's log, then `writ doctor`")
}
