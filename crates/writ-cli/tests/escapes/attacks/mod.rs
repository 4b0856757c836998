//! The attacks, as data. A script is Python; it ends with `got()` when it has what it wanted, and is refused by an `OSError`.

mod lasting;
mod reach;
mod remains;

pub use lasting::{LOGIN_FILES, SPOOLS};

use crate::{account::Account, scene::Scene};

/// As whom an attack is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    AsBoth,
    /// An ordinary user does not get it in any case.
    AsRoot,
}

/// What shows that an attack succeeded.
#[derive(Clone, Copy)]
pub enum Evidence {
    /// The script says so.
    Says,
    /// The host shows it afterwards.
    Host(fn(&Scene) -> bool),
    /// The host shows it while the script, which says `HOLDING`, waits for the end of its input: the answer is what went wrong for others.
    Meanwhile(fn(&Scene) -> Option<String>),
}

pub struct Attack {
    pub name: &'static str,
    pub does: &'static str,
    pub held_by: &'static str,
    pub runs: Runs,
    pub evidence: Evidence,
    pub script: &'static str,
    /// What is different on this machine: an agent before this one can have left it.
    pub before: fn(&Account),
    /// Where the program starts, and where writ's own files are.
    pub starts_in: &'static str,
    pub writ_home: &'static str,
    /// How many files each process may have open, where that is less than elsewhere: the daemon as well.
    pub descriptors: Option<u32>,
}

/// The attack of that name.
pub fn named(name: &str) -> &'static Attack {
    all().find(|attack| attack.name == name).unwrap()
}

/// Every attack, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [reach::ATTACKS, remains::ATTACKS, lasting::ATTACKS].into_iter().flatten()
}

const fn says(name: &'static str, does: &'static str, held_by: &'static str, script: &'static str) -> Attack {
    let (runs, evidence) = (Runs::AsBoth, Evidence::Says);
    Attack {
        name,
        does,
        held_by,
        runs,
        evidence,
        script,
        before: |_| {},
        starts_in: "work",
        writ_home: "writ",
        descriptors: None,
    }
}

const fn shows(
    name: &'static str,
    does: &'static str,
    held_by: &'static str,
    shown: fn(&Scene) -> bool,
    script: &'static str,
) -> Attack {
    Attack { evidence: Evidence::Host(shown), ..says(name, does, held_by, script) }
}

const fn as_root(attack: Attack) -> Attack {
    Attack { runs: Runs::AsRoot, ..attack }
}

const fn after(attack: Attack, before: fn(&Account)) -> Attack {
    Attack { before, ..attack }
}

const VIEW: &str = "the view is an allow-list";
const NETWORK: &str = "a network namespace without a route";
const PROCESSES: &str = "a PID namespace of its own";
