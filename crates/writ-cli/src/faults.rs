//! What the test build `writ-faults` does at the points of [`FAULT_POINTS`]. The product is built without this file.
//!
//! ```text
//!   WRIT_FAULT=NAME[:N][:kill|pause|error]   at the N-th time (1) that the process is at NAME: SIGKILL (default), SIGSTOP, or
//!                                            the point's own fault, where it has one
//!   WRIT_FAULT_SEED=S                        SIGKILL at the k-th point of whatever name, k of 1 to WRIT_FAULT_SPAN (64) by S
//!   WRIT_FAULT_MARK=FILE                     the name and the count are written there first; where the file exists, nothing happens
//!   WRIT_FAULT_REVERSED=1                    leases are opened in the store when they are active: tests must notice
//! ```
//!
//! It happens once in a process, and with a mark once altogether: whoever restarts inherits the variables.

use std::{
    collections::HashMap,
    env, fs,
    io::Write,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};
use writ_core::fault_points::{self, FAULT_POINTS, Hook};

use crate::env_vars::{WRIT_FAULT, WRIT_FAULT_MARK, WRIT_FAULT_REVERSED, WRIT_FAULT_SEED, WRIT_FAULT_SPAN};

/// The program that has the hook. The product has not, even where it was built beside this one.
const PROGRAM: &str = "writ-faults";
/// How many points a seed chooses among, if it is not said.
const SPAN: u64 = 64;

/// Installs the hook that the environment asks for, in the test build.
///
/// # Errors
/// What is wrong with a variable: a test that does not do what it says would prove nothing.
pub fn install(program: &str) -> Result<(), String> {
    if program != PROGRAM {
        return Ok(());
    }
    let text = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name: &str| match text(name).map(|text| text.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(format!("{name} is not a number")),
    };
    let fault = match (text(WRIT_FAULT), number(WRIT_FAULT_SEED)?) {
        (Some(_), Some(_)) => return Err(format!("{WRIT_FAULT} and {WRIT_FAULT_SEED} exclude each other")),
        (Some(text), None) => Some(Fault::parse(&text)?),
        (None, Some(seed)) => Some(Fault::seeded(seed, number(WRIT_FAULT_SPAN)?.unwrap_or(SPAN))),
        (None, None) => None,
    };
    let mark = text(WRIT_FAULT_MARK).map(PathBuf::from);
    let hits = Mutex::new(HashMap::new());
    let hit = move |name: &'static str| {
        let Some(fault) = &fault else { return false };
        let mut hits = hits.lock().unwrap_or_else(PoisonError::into_inner);
        fault.counts(name, &mut hits) && marked(mark.as_ref(), name, fault) && fault.act()
    };
    let reversed = text(WRIT_FAULT_REVERSED).is_some();
    fault_points::install(Hook { hit: Box::new(hit), reversed });
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    /// `None`: any.
    name: Option<&'static str>,
    /// From 1.
    at: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Kill,
    Pause,
    Error,
}

impl Fault {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let known = FAULT_POINTS.iter().copied().find(|known| *known == name);
        let mut fault = Self { name: known, at: 1, what: What::Kill };
        if known.is_none() {
            return Err(format!("{WRIT_FAULT} names no fault point: {name:?}"));
        }
        for part in parts {
            match part {
                "kill" => fault.what = What::Kill,
                "pause" => fault.what = What::Pause,
                "error" => fault.what = What::Error,
                number => {
                    let number = number.parse().ok().filter(|number| *number > 0);
                    fault.at = number.ok_or_else(|| format!("{WRIT_FAULT} has no meaning: {part:?}"))?;
                }
            }
        }
        Ok(fault)
    }

    /// The mixing function of SplitMix64 (Steele, Lea, Flood 2014), so that neighboring seeds choose far apart.
    fn seeded(seed: u64, span: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Self { name: None, at: 1 + mixed % span.max(1), what: What::Kill }
    }

    /// Counts a visit, and tells whether it is the one.
    fn counts(&self, name: &'static str, hits: &mut HashMap<&'static str, u64>) -> bool {
        let key = match self.name {
            Some(wanted) if wanted != name => return false,
            Some(wanted) => wanted,
            None => "",
        };
        let count = hits.entry(key).or_insert(0);
        *count += 1;
        *count == self.at
    }

    fn act(&self) -> bool {
        let signal = match self.what {
            What::Kill => Signal::KILL,
            What::Pause => Signal::STOP,
            What::Error => return true,
        };
        if let Err(error) = kill_process(getpid(), signal) {
            tracing::error!(%error, "the fault did not happen");
        }
        false
    }
}

/// Leaves the mark, on the disk. False where it is there already: the fault has happened.
fn marked(mark: Option<&PathBuf>, name: &str, fault: &Fault) -> bool {
    let Some(path) = mark else { return true };
    let Ok(mut file) = fs::OpenOptions::new().write(true).create_new(true).open(path) else { return false };
    let written = writeln!(file, "{name} {}", fault.at).and_then(|()| file.sync_all());
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_name_a_count_and_what_happens() {
        let fault = |at, what| Fault { name: Some("issue.opened"), at, what };
        for (text, expected) in [
            ("issue.opened", fault(1, What::Kill)),
            ("issue.opened:3", fault(3, What::Kill)),
            ("issue.opened:2:pause", fault(2, What::Pause)),
            ("issue.opened:error", fault(1, What::Error)),
        ] {
            assert_eq!(Fault::parse(text), Ok(expected), "{text}");
        }
        for bad in ["", "issue", "issue.opened:0", "issue.opened:-1", "issue.opened:die", "issue.opened:"] {
            assert!(Fault::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_happens_at_the_nth_visit_and_once() {
        let fault = Fault { name: Some("end.told"), at: 2, what: What::Error };
        let mut hits = HashMap::new();
        let visits = ["end.told", "end.marked", "end.told", "end.told"];
        assert_eq!(visits.map(|name| fault.counts(name, &mut hits)), [false, false, true, false]);
        let any = Fault { name: None, ..fault };
        hits.clear();
        assert_eq!(visits.map(|name| any.counts(name, &mut hits)), [false, true, false, false]);
    }

    #[test]
    fn seeds_choose_every_point_of_the_span_and_nothing_beyond() {
        let chosen: std::collections::BTreeSet<u64> =
            (0..400).map(|seed| Fault::seeded(seed, 16).at).collect();
        assert_eq!(chosen, (1..=16).collect());
        assert_eq!(Fault::seeded(7, 0).at, 1);
    }

    #[test]
    fn a_mark_is_left_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let fault = Fault { name: None, at: 5, what: What::Kill };
        assert!(marked(Some(&path), "end.told", &fault));
        assert_eq!(fs::read_to_string(&path).unwrap(), "end.told 5\n");
        assert!(!marked(Some(&path), "end.told", &fault));
    }
}
