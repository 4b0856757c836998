//! Which keys are taken over: one question each.

use writ_api::{
    control::{Answer, Ask, CredentialRow},
    seal::{self, Place as Seal},
};

use super::find::{Found, Key};
use crate::{client::Control, commands::ask::Questions, fault::Fault, output::Output};

/// A key that is taken over.
pub(super) struct Chosen {
    /// Of [`Found::keys`].
    pub key: usize,
    /// Its value is to be sealed; else it is sealed already.
    pub seal: bool,
}

/// With no credential yet: the first value of each service that the person wants.
pub(super) fn first(output: Output, questions: &Questions, found: &Found) -> Result<Vec<Chosen>, Fault> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for (number, key) in found.keys.iter().enumerate() {
        let name = &key.service.name;
        if chosen.iter().any(|one| found.keys.get(one.key).is_some_and(|other| other.service.name == *name)) {
            left(output, found, key);
        } else if questions.question(&question(found, key))? {
            chosen.push(Chosen { key: number, seal: true });
        }
    }
    Ok(chosen)
}

/// With credentials: a key that is sealed already only leaves the files.
pub(super) fn again(
    output: Output,
    questions: &Questions,
    control: &mut Control,
    found: &Found,
    rows: &[CredentialRow],
) -> Result<Vec<Chosen>, Fault> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for (number, key) in found.keys.iter().enumerate() {
        let name = &key.service.name;
        let one_sealed = chosen
            .iter()
            .any(|one| one.seal && found.keys.get(one.key).is_some_and(|o| o.service.name == *name));
        let missing = rows.iter().any(|row| row.name == *name && row.source == "missing");
        let (place, shown) = (key.stands_in(&found.files), key.masked());
        match compare(control, key)? {
            Some(true)
                if questions
                    .question(&format!("Put the placeholder of {name} for {shown} in {place}?"))? =>
            {
                chosen.push(Chosen { key: number, seal: false });
            }
            Some(true) => {}
            None if missing && !one_sealed => {
                if questions.question(&question(found, key))? {
                    chosen.push(Chosen { key: number, seal: true });
                }
            }
            // Whoever said yes to everything did not mean another key under the same name.
            _ if questions.yes() || one_sealed => left(output, found, key),
            _ => {
                let ask = format!("{name} holds another value. Seal {shown}, in {place}, in its stead?");
                if questions.question(&ask)? {
                    chosen.push(Chosen { key: number, seal: true });
                }
            }
        }
    }
    Ok(chosen)
}

fn question(found: &Found, key: &Key) -> String {
    let then = if key.in_a_file() { ", and put its placeholder there" } else { "" };
    format!(
        "Seal {} ({}, in {}) as credential {}{then}?",
        key.seen_in(),
        key.masked(),
        key.stands_in(&found.files),
        key.service.name
    )
}

fn left(output: Output, found: &Found, key: &Key) {
    output.say(&format!(
        "{} in {} is another key than {}'s, and is left as it is",
        key.masked(),
        key.stands_in(&found.files),
        key.service.name
    ));
}

/// Whether the value is the sealed one; `None` where no value is sealed.
fn compare(control: &mut Control, key: &Key) -> Result<Option<bool>, Fault> {
    let name = key.service.name.clone();
    let place = Seal::Control { purpose: format!("compare {name}") };
    let value = seal::seal(&key.secret(), control.recipient(), &place)
        .map_err(|fault| Fault::new(fault.to_string(), "try again"))?;
    match control.ask(&Ask::CredentialCompare { name, value })? {
        Answer::Compared { same } => Ok(same),
        _ => Err(Fault::new("the daemon answered another question", "writ stop")),
    }
}
