//! Why a password is not changed, or not yet: for the log, for operators. It never quotes a value.

use writ_core::{CredentialName, EngineFault, Refusal, RefusalKind};

use crate::{keyring::KeyringFault, store::StoreFault, values};

/// Why a password is not changed, or not yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateFault {
    #[error("no credential of writ.toml says at which account {0} is the password")]
    Nowhere(CredentialName),
    #[error("{name} opens more than one account ({accounts}): changed at one, it would not open the others")]
    Shared { name: CredentialName, accounts: String },
    #[error("the value of {0} is read from elsewhere: writ could not put the new one there")]
    Elsewhere(CredentialName),
    #[error("a rotation of {0} is under way")]
    Busy(CredentialName),
    #[error("neither the old nor the new value of {0} opens its account: somebody else changed it")]
    Neither(CredentialName),
    #[error("the server took the new value of {0}, which does not open the account yet")]
    Unseen(CredentialName),
    #[error("{0}")]
    Engine(#[from] EngineFault),
    #[error("{0}")]
    Store(#[from] StoreFault),
    #[error("{0}")]
    Keyring(#[from] KeyringFault),
    #[error("the new value of {name} cannot be used: {why}")]
    Unusable { name: CredentialName, why: values::Unusable },
    #[error("{}", .0.detail)]
    Refused(Refusal),
}

impl RotateFault {
    /// The stable word in the log.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Nowhere(_) | Self::Shared { .. } | Self::Elsewhere(_) => "not-rotatable",
            Self::Busy(_) => "busy",
            Self::Neither(_) => "neither-works",
            Self::Unseen(_) => "not-seen",
            Self::Engine(EngineFault::Unreachable { .. }) => "unreachable",
            Self::Engine(_) => "engine",
            Self::Store(_) | Self::Keyring(_) => "store",
            Self::Unusable { .. } => "unusable",
            Self::Refused(_) => "refused",
        }
    }

    /// What an operator is told.
    pub(crate) fn refuse(self, name: &CredentialName) -> Refusal {
        let (kind, next) = match &self {
            Self::Nowhere(_) => (
                RefusalKind::Invalid,
                "name the password of an engine's administrator, or a static role".to_owned(),
            ),
            Self::Shared { .. } => {
                (RefusalKind::Invalid, "give each account a password of its own".to_owned())
            }
            Self::Elsewhere(_) => (
                RefusalKind::Invalid,
                format!("change it where it is kept, or keep it here: `writ credential set {name}`"),
            ),
            Self::Busy(_) => {
                (RefusalKind::Invalid, "wait for it, then look: `writ credential list`".to_owned())
            }
            Self::Neither(_) => {
                (RefusalKind::UpstreamFailed, format!("set the one that works: `writ credential set {name}`"))
            }
            Self::Engine(EngineFault::NoValue { .. } | EngineFault::Config { .. }) => {
                (RefusalKind::NoCredential, "mend it, then try again".to_owned())
            }
            Self::Engine(_) | Self::Unseen(_) => (
                RefusalKind::UpstreamFailed,
                "nothing is lost: writ goes on by itself, and `writ credential list` says when it is done"
                    .to_owned(),
            ),
            Self::Store(_) | Self::Keyring(_) | Self::Unusable { .. } => {
                (RefusalKind::Internal, "see the daemon's log, then `writ doctor`".to_owned())
            }
            Self::Refused(refusal) => return refusal.clone(),
        };
        Refusal::new(kind, self.to_string(), next)
    }
}
