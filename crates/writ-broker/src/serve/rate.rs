//! How many frames a connection may send: a bucket of [`BURST`] that fills at [`PER_SECOND`].

use std::time::Duration;

/// Frames at once.
const BURST: u32 = 64;
/// Frames per second in the long run.
const PER_SECOND: u32 = 50;

/// One connection's bucket.
pub(super) struct Bucket {
    /// Frames that are left, in parts of a second.
    left: Duration,
    seen: Duration,
}

impl Bucket {
    pub(super) fn new(now: Duration) -> Self {
        Self { left: full(), seen: now }
    }

    /// Takes one frame; returns how long the connection must wait before it is served, zero within the rate.
    pub(super) fn take(&mut self, now: Duration) -> Duration {
        let refilled = self.left.saturating_add(now.saturating_sub(self.seen)).min(full());
        self.seen = now;
        let wait = cost().saturating_sub(refilled);
        self.left = refilled.saturating_sub(cost());
        wait
    }
}

fn cost() -> Duration {
    Duration::from_secs(1) / PER_SECOND
}

fn full() -> Duration {
    cost().saturating_mul(BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(Duration::ZERO);
        let waits = (0..BURST).map(|_| bucket.take(Duration::ZERO)).filter(|wait| !wait.is_zero()).count();
        assert_eq!(waits, 0);
        assert_eq!(bucket.take(Duration::ZERO), cost());
        assert_eq!(bucket.take(Duration::from_secs(60)), Duration::ZERO);
    }
}
