//! The kill matrix: the daemon dies by SIGKILL at every named place and at seeded ones, starts again, and what PostgreSQL has
//! must be what the leases say. Every time.
//!
//! ```text
//!   trial   three runs with two logins each ─► a lease revoked, one renewed, the administrator's password changed, the server
//!           surveyed, one run ended, one launcher killed                                      the daemon dies somewhere
//!           ─► whoever needs it starts it again ─► settled: logins in the server = active leases, by name
//!           ─► the last run ends, the daemon stops: no login is left
//! ```
//!
//! With the order of intent and effect reversed the same trials must find orphans, or they would prove nothing. Fifty trials run
//! here; `WRIT_CRASH_TRIALS=1000` makes it the whole matrix, whose result is in `docs/crash-safety.md`. Seeds are printed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that the helpers here are tests"
)]

mod world;

use std::{collections::BTreeMap, fmt, time::Duration};

use world::{Trial, World};
use writ_core::fault_points::FAULT_POINTS;

/// Trials, where the environment does not say.
const TRIALS: u64 = 50;
/// When a trial is given up that does not come to rest; with orphans none does, and what is waited for is that they are still there.
const SETTLES: Duration = Duration::from_secs(60);
const NEVER_SETTLES: Duration = Duration::from_secs(5);
/// Points that one trial visits, about: seeds choose among so many.
const SPAN: u64 = 64;

/// Where the daemon dies.
#[derive(Clone, Copy, Debug)]
enum Kill {
    At(&'static str, u64),
    Seed(u64),
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(name, nth) => write!(f, "{name}:{nth}"),
            Self::Seed(seed) => write!(f, "seed {seed}"),
        }
    }
}

impl Kill {
    fn variables(self) -> Vec<(&'static str, String)> {
        match self {
            Self::At(name, nth) => vec![("WRIT_FAULT", format!("{name}:{nth}"))],
            Self::Seed(seed) => {
                vec![("WRIT_FAULT_SEED", seed.to_string()), ("WRIT_FAULT_SPAN", SPAN.to_string())]
            }
        }
    }
}

fn trials() -> u64 {
    std::env::var("WRIT_CRASH_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(TRIALS)
}

/// The first seed, so that a failure can be tried again alone.
fn first_seed() -> u64 {
    std::env::var("WRIT_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Every point at its first visit, then seeds.
fn kills() -> impl Iterator<Item = Kill> {
    let named = FAULT_POINTS.iter().map(|name| Kill::At(name, 1));
    named.chain((first_seed()..).map(Kill::Seed))
}

#[test]
fn whatever_dies_whenever_no_login_is_orphaned_and_no_lease_lost() {
    let mut world = World::open("kills", SETTLES);
    let (mut died, mut at): (u64, BTreeMap<String, u64>) = (0, BTreeMap::new());
    for (number, kill) in (0..trials()).zip(kills()) {
        let trial = world.trial(&kill.variables());
        let Trial { died_at, settled, left, .. } = &trial;
        println!("trial {number}, {kill}: died at {}, {trial}", died_at.as_deref().unwrap_or("no place"));
        assert!(settled.is_ok(), "trial {number}, {kill}: {trial}\n{}", world.told());
        assert!(left.is_empty(), "trial {number}, {kill}: logins are left: {left:?}\n{}", world.told());
        if let Some(place) = died_at {
            died += 1;
            *at.entry(place.clone()).or_default() += 1;
        }
    }
    println!("{died} kills in {} trials, at {at:#?}", trials());
    assert!(died * 2 > trials(), "the daemon died in {died} of {} trials only: nothing was proved", trials());
    world.close();
}

#[test]
fn with_effect_before_intent_the_same_trials_find_orphans() {
    let mut world = World::open("reversed", NEVER_SETTLES);
    world.reconciles = false;
    let mut orphans = 0;
    for nth in 1..=3 {
        let mut variables = Kill::At("issue.minted", nth).variables();
        variables.push(("WRIT_FAULT_REVERSED", "1".to_owned()));
        let trial = world.trial(&variables);
        println!("reversed, issue.minted:{nth}: {trial}");
        orphans += trial.left.len();
        assert!(world.reconcile(), "`writ lease reconcile` repairs what is broken nevertheless");
    }
    assert!(orphans > 0, "a store that is told after the effect lost nothing: the matrix would not notice");
    world.close();
}
