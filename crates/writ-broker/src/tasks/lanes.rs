//! The queues of revocation: one a lane, each with its own worker and its own pauses.
//!
//! What is dead on one lane keeps no other waiting. A lane on which nobody answers pauses as a whole; a lease that fails by
//! itself is put off alone. Pauses double from [`RETRY_MIN`] to [`RETRY_MAX`] by the clock that does not step. They are in memory:
//! a new life tries everything once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use writ_core::LeaseId;

/// The pause after the first failure.
pub(crate) const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(300);

/// All lanes that were ever in use, which are few: servers, not leases.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
}

/// One lane.
#[derive(Default)]
pub(crate) struct Lane {
    /// Whoever holds it settles the leases of this lane: one owner.
    pub working: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the lane as a whole: zero while it is well.
    pause: Duration,
    due: Duration,
    retries: HashMap<LeaseId, Retry>,
}

#[derive(Clone, Copy)]
struct Retry {
    due: Duration,
    pause: Duration,
}

impl Lanes {
    pub(crate) fn lane(&self, name: &str) -> Arc<Lane> {
        let mut lanes = self.all();
        if let Some(lane) = lanes.get(name) {
            return lane.clone();
        }
        lanes.entry(name.to_owned()).or_default().clone()
    }

    /// Something was done upstream on this lane: somebody answers there. True if that is news.
    pub(crate) fn reached(&self, name: &str) -> bool {
        let lane = self.all().get(name).cloned();
        lane.is_some_and(|lane| {
            let mut state = lane.state();
            let news = !state.pause.is_zero();
            (state.pause, state.due) = (Duration::ZERO, Duration::ZERO);
            news
        })
    }

    /// How long until the next attempt that is known of here.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        let lanes = self.all();
        let next = lanes.values().filter_map(|lane| {
            let state = lane.state();
            let whole = (!state.pause.is_zero()).then_some(state.due);
            // What is due already was rung for, or is being worked on.
            state.retries.values().map(|retry| retry.due).chain(whole).filter(|due| *due > now).min()
        });
        next.min().map(|due| due.saturating_sub(now))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Whether it may be tried now.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.state().due <= now
    }

    /// Whether nobody answered when it was last tried.
    pub(crate) fn is_away(&self) -> bool {
        !self.state().pause.is_zero()
    }

    /// Nobody answers.
    pub(crate) fn away(&self, now: Duration) -> Duration {
        let mut state = self.state();
        state.pause = longer(state.pause);
        state.due = now.saturating_add(state.pause);
        state.pause
    }

    /// Somebody answers, and these leases have ended.
    pub(crate) fn done(&self, leases: &[LeaseId]) {
        let mut state = self.state();
        (state.pause, state.due) = (Duration::ZERO, Duration::ZERO);
        for lease in leases {
            state.retries.remove(lease);
        }
    }

    /// These leases failed by themselves: how long each is put off.
    pub(crate) fn failed(&self, leases: &[LeaseId], now: Duration) -> Vec<(LeaseId, Duration)> {
        let mut state = self.state();
        // What has been due for long was settled by somebody else.
        state.retries.retain(|_, retry| retry.due.saturating_add(RETRY_MAX) > now);
        let mut pauses = Vec::with_capacity(leases.len());
        for lease in leases {
            let pause = longer(state.retries.get(lease).map_or(Duration::ZERO, |retry| retry.pause));
            state.retries.insert(*lease, Retry { due: now.saturating_add(pause), pause });
            pauses.push((*lease, pause));
        }
        pauses
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).clamp(RETRY_MIN, RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use writ_core::Timestamp;

    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_lane_that_is_away_pauses_longer_and_longer_and_wakes_no_other() {
        let lanes = Lanes::default();
        let (dead, well) = (lanes.lane("dead"), lanes.lane("well"));
        let pauses: Vec<u64> = (0..11).map(|_| dead.away(secs(100)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(!dead.is_due(secs(399)) && dead.is_due(secs(400)) && dead.is_away());
        assert!(well.is_due(secs(0)) && !well.is_away());
        assert_eq!(lanes.next(secs(100)), Some(secs(300)));
    }

    #[test]
    fn whoever_reaches_it_ends_the_pause() {
        let lanes = Lanes::default();
        assert!(!lanes.reached("unknown"));
        let lane = lanes.lane("a");
        lane.away(secs(1));
        assert!(lanes.reached("a") && !lanes.reached("a"));
        assert!(lane.is_due(secs(1)) && lanes.next(secs(1)).is_none());
    }

    #[test]
    fn a_lease_that_fails_is_put_off_alone() {
        let lanes = Lanes::default();
        let lane = lanes.lane("a");
        let id = |number| LeaseId::new(Timestamp::from_millis(0), &[number; 10]);
        assert_eq!(lane.failed(&[id(1)], secs(10)), [(id(1), secs(1))]);
        assert_eq!(lane.failed(&[id(1), id(2)], secs(11)), [(id(1), secs(2)), (id(2), secs(1))]);
        assert!(lane.is_due(secs(11)));
        assert_eq!(lanes.next(secs(11)), Some(secs(1)));
        lane.done(&[id(2)]);
        assert_eq!(lanes.next(secs(11)), Some(secs(2)));
        // Whoever was settled elsewhere is forgotten.
        lane.failed(&[id(2)], secs(1000));
        assert_eq!(lane.state().retries.len(), 1);
    }
}
