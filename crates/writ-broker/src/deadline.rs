//! When something ends, judged by two clocks.
//!
//! The wall clock is what people and other machines read, and it may step. The time since boot never steps back and counts
//! suspension. What has passed by *either* is over: a clock that is set back, or a laptop that slept, never lengthens a life.

use std::time::Duration;

use writ_core::{Clock, Timestamp};

/// An instant on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    pub at: Timestamp,
    since_boot: Duration,
}

impl Deadline {
    /// The deadline that is now `at` by the wall clock.
    pub fn new(clock: &dyn Clock, at: Timestamp) -> Self {
        let left = at.saturating_since(clock.now());
        Self { at, since_boot: clock.boottime().saturating_add(left) }
    }

    /// The instant by the clock that does not step.
    pub fn since_boot(&self) -> Duration {
        self.since_boot
    }

    pub fn has_passed(&self, clock: &dyn Clock) -> bool {
        self.left(clock).is_zero()
    }

    /// How long until it has passed; zero when it has.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        let wall = self.at.saturating_since(clock.now());
        wall.min(self.since_boot.saturating_sub(clock.boottime()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Set(Mutex<(i64, u64)>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.lock().unwrap().0)
        }

        fn boottime(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
    }

    #[test]
    fn neither_clock_can_lengthen_a_life() {
        let clock = Set(Mutex::new((1_000_000, 500)));
        let set = |wall, boot| *clock.0.lock().unwrap() = (wall, boot);
        let deadline = Deadline::new(&clock, Timestamp::from_millis(1_001_000));
        assert_eq!(deadline.left(&clock), Duration::from_millis(1000));
        set(1_000_999, 1499);
        assert!(!deadline.has_passed(&clock));
        set(1_001_000, 600); // the wall clock ran ahead
        assert!(deadline.has_passed(&clock));
        set(100, 1500); // the wall clock was set back
        assert!(deadline.has_passed(&clock));
        set(100, 1499);
        assert_eq!(deadline.left(&clock), Duration::from_millis(1));
    }

    #[test]
    fn the_past_has_passed() {
        let clock = Set(Mutex::new((1_000_000, 500)));
        for at in [i64::MIN, -1, 0, 1_000_000] {
            assert!(Deadline::new(&clock, Timestamp::from_millis(at)).has_passed(&clock), "{at}");
        }
        let end = Deadline::new(&clock, Timestamp::from_millis(i64::MAX));
        assert!(!end.has_passed(&clock));
    }
}
