//! Whether a command that grants or changes something must prove that a person asks.
//!
//! A confined agent does not see the control socket. One below `confined` is its user, and no check of ancestry is a wall; so while
//! one is alive, such commands need the passphrase of the seal. A key file can be read by the same agent: there is no wall then,
//! which `accept_below_confined` accepted, and the status says it.

use std::time::Duration;

use tokio::time::sleep;
use writ_api::{
    control::{Ask, Proof},
    seal::Place,
};
use writ_core::{Refusal, RefusalKind, Sealed};

use crate::{broker::Broker, keyring::InstallationFault};

/// The pause after a wrong passphrase.
pub(super) const WRONG_PAUSE: Duration = Duration::from_secs(1);

/// What is needed now.
pub(super) fn needed(broker: &Broker) -> Proof {
    match (broker.sessions.below_confined(), broker.installation.asks()) {
        (0, _) => Proof::Nothing,
        (_, true) => Proof::Passphrase,
        (_, false) => Proof::NoWall,
    }
}

/// # Errors
/// [`RefusalKind::Denied`] for a command that needs proof on a connection that gave none.
pub(super) fn check(broker: &Broker, proved: bool, ask: &Ask) -> Result<(), Refusal> {
    if proved || !changes(ask) || needed(broker) != Proof::Passphrase {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::Denied,
        "a program runs below confined and could ask for the same, so this needs the passphrase",
        "run it in a terminal and give the passphrase, or end what runs: `writ session list`",
    ))
}

/// Whether a command grants or changes something. What only ends is never held up, nor what only looks.
fn changes(ask: &Ask) -> bool {
    match ask {
        Ask::CredentialSet { .. }
        | Ask::CredentialRemove { .. }
        | Ask::CredentialCompare { .. }
        | Ask::OriginalKeep { .. }
        | Ask::OriginalOpen { .. }
        | Ask::OriginalForget { .. }
        | Ask::TrustGrant { .. } => true,
        Ask::Hello { .. }
        | Ask::Status
        | Ask::Unlock { .. }
        | Ask::Prove { .. }
        | Ask::CredentialList
        | Ask::PlaceholderShow { .. }
        | Ask::OriginalList
        | Ask::SessionList { .. }
        | Ask::SessionShow { .. }
        | Ask::SessionRevoke { .. }
        | Ask::LeaseList { .. }
        | Ask::LeaseShow { .. }
        | Ask::LeaseRevoke { .. }
        | Ask::TrustShow { .. }
        | Ask::Seen { .. }
        | Ask::Stop => false,
    }
}

/// Judges a passphrase that was given as proof.
///
/// # Errors
/// [`RefusalKind::Denied`] for a wrong one.
pub(super) async fn prove(broker: &Broker, passphrase: &Sealed) -> Result<(), Refusal> {
    let place = Place::Control { purpose: "prove".to_owned() };
    let passphrase = broker.recipient.open(passphrase, &place).map_err(|_| {
        Refusal::new(RefusalKind::Invalid, "the passphrase was not sealed to this daemon", "try again")
    })?;
    match broker.installation.prove(passphrase).await {
        Ok(()) => Ok(()),
        Err(fault) => {
            sleep(WRONG_PAUSE).await;
            Err(unopened(&fault, "try again"))
        }
    }
}

/// Why a passphrase opened nothing, and what to do about a wrong one.
pub(super) fn unopened(fault: &InstallationFault, again: &str) -> Refusal {
    match fault {
        InstallationFault::WrongPassphrase => {
            Refusal::new(RefusalKind::Denied, "the passphrase is wrong", again)
        }
        fault => Refusal::new(RefusalKind::Invalid, fault.to_string(), "see `writ doctor`"),
    }
}
