//! Proof that a person asks: where an agent below `confined` could reach the control socket as well, the broker wants the
//! passphrase before it grants or changes something.

use writ_api::{
    control::{Answer, Ask, Proof},
    seal::{self, Place},
};

use super::daemon_control::read_passphrase;
use crate::{client::Control, fault::Fault};

/// Gives the proof, if one is wanted now. It holds for this connection.
///
/// # Errors
/// The broker's refusal of a wrong passphrase, and where there is nobody who could type it.
pub fn give(control: &mut Control) -> Result<(), Fault> {
    let Answer::Status(status) = control.ask(&Ask::Status)? else { return Ok(()) };
    if status.locked || status.proof != Proof::Passphrase {
        return Ok(());
    }
    let passphrase = read_passphrase("a program runs below confined; passphrase: ")?;
    let place = Place::Control { purpose: "prove".to_owned() };
    let passphrase = seal::seal(&passphrase, control.recipient(), &place)
        .map_err(|fault| Fault::new(fault.to_string(), "try again"))?;
    control.ask(&Ask::Prove { passphrase }).map(drop)
}
