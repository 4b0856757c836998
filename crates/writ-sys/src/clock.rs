//! A monotonic clock that goes on while the machine sleeps.
//!
//! A lease of fifteen minutes must not outlive a laptop's night. The standard library's `Instant` stands still
//! during sleep on Linux, and the wall clock can be set back.

use std::time::Duration;

/// Time since the machine started, time asleep included (`CLOCK_BOOTTIME`, `clock_gettime(2)`). It cannot fail and
/// never goes back. Only differences mean anything.
///
/// macOS: the monotonic clock, which counts sleep there. Other systems: the monotonic clock, which may not.
pub fn boottime() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_uptime_and_never_goes_back() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        let (before, first, second, after) = (uptime(), boottime(), boottime(), uptime());
        let rounding = Duration::from_millis(10);
        assert!(first <= second);
        assert!(before <= first + rounding && second <= after + rounding, "{before:?} {first:?} {after:?}");
    }
}
