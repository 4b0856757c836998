//! News for the holders of leases: numbered notices, and a heartbeat.
//!
//! A holder asks for everything after the last number that it knows. The answer comes at once if there is news and after
//! [`HEARTBEAT`] if there is none, so that silence means that the broker is lost. Old notices are dropped from a bounded
//! ring; who was too slow is told so (`missed`) and drops everything.
//!
//! Invariant: what a notice says is durable before it is pushed, except where the store itself failed: then stopping is the
//! safe side. Absent: addressing. Every data plane hears of every lease, and ignores those that it does not hold.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use writ_core::{Notice, WatchAnswer, WatchAsk};

/// The longest wait for news.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Notices that are kept for slow holders.
const RING: usize = 4096;
/// Notices in one answer. More follow at once in the next; each is about 100 bytes, and a frame takes 1 MiB.
const ANSWER_MAX: usize = 1024;

/// The ring of notices.
pub struct Watch {
    ring: Mutex<Ring>,
    /// The number of the last notice.
    upto: watch::Sender<u64>,
    capacity: usize,
    heartbeat: Duration,
}

#[derive(Default)]
struct Ring {
    upto: u64,
    notices: VecDeque<Notice>,
}

impl Default for Watch {
    fn default() -> Self {
        Self::with(RING, HEARTBEAT)
    }
}

impl Watch {
    fn with(capacity: usize, heartbeat: Duration) -> Self {
        Self { ring: Mutex::default(), upto: watch::Sender::new(0), capacity, heartbeat }
    }

    /// Tells every holder, in this order.
    pub fn push(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut ring = self.lock();
        for notice in notices {
            if ring.notices.len() >= self.capacity {
                ring.notices.pop_front();
            }
            ring.notices.push_back(notice);
            ring.upto = ring.upto.saturating_add(1);
        }
        let upto = ring.upto;
        drop(ring);
        self.upto.send_replace(upto);
    }

    /// Waits for news after `ask.since`, [`HEARTBEAT`] at the longest.
    pub async fn answer(&self, ask: WatchAsk) -> WatchAnswer {
        let mut news = self.upto.subscribe();
        // A number from the future belongs to another life of the broker: answered at once, as missed.
        let _ = timeout(self.heartbeat, news.wait_for(|upto| *upto != ask.since)).await;
        self.since(ask.since)
    }

    fn since(&self, since: u64) -> WatchAnswer {
        let ring = self.lock();
        let kept = u64::try_from(ring.notices.len()).unwrap_or(u64::MAX);
        let dropped = ring.upto.saturating_sub(kept);
        if since > ring.upto || since < dropped {
            return WatchAnswer { upto: ring.upto, missed: true, notices: Vec::new() };
        }
        let known = usize::try_from(since.saturating_sub(dropped)).unwrap_or(usize::MAX);
        let notices: Vec<Notice> = ring.notices.iter().skip(known).take(ANSWER_MAX).cloned().collect();
        let told = u64::try_from(notices.len()).unwrap_or(u64::MAX);
        WatchAnswer { upto: since.saturating_add(told), missed: false, notices }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use writ_core::{LeaseEnd, LeaseId, SessionId, Timestamp};

    use super::*;

    fn notice(number: u8) -> Notice {
        Notice::SessionEnded { session: SessionId::new(Timestamp::from_millis(0), &[number; 10]) }
    }

    /// A wait that would be noticed.
    const LONG: Duration = Duration::from_secs(3600);

    fn ask(since: u64) -> WatchAsk {
        WatchAsk { since }
    }

    #[tokio::test]
    async fn silence_is_a_heartbeat() {
        let watch = Watch::with(2, Duration::from_millis(20));
        let begin = Instant::now();
        let answer = watch.answer(ask(0)).await;
        assert_eq!(answer, WatchAnswer { upto: 0, missed: false, notices: vec![] });
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn news_ends_the_wait_and_nothing_is_told_twice() {
        let watch = Watch::with(RING, LONG);
        let (answer, ()) = tokio::join!(watch.answer(ask(0)), async { watch.push([notice(1)]) });
        assert_eq!((answer.upto, answer.notices), (1, vec![notice(1)]));
        let lease = LeaseId::new(Timestamp::from_millis(0), &[9; 10]);
        watch.push([notice(2), Notice::LeaseEnded { lease, end: LeaseEnd::Revoked }]);
        let answer = watch.answer(ask(1)).await;
        assert_eq!((answer.upto, answer.notices.len()), (3, 2));
    }

    #[tokio::test]
    async fn who_is_too_slow_or_of_another_life_is_told() {
        let watch = Watch::with(2, LONG);
        watch.push((1..=3).map(notice));
        assert!(watch.answer(ask(0)).await.missed);
        assert_eq!(watch.answer(ask(1)).await.notices, [notice(2), notice(3)]);
        let answer = watch.answer(ask(9)).await;
        assert!(answer.missed && answer.upto == 3);
    }

    #[tokio::test]
    async fn a_long_answer_comes_in_parts_without_a_gap() {
        let watch = Watch::with(RING, LONG);
        watch.push((0..=255).cycle().take(1500).map(notice));
        let first = watch.answer(ask(0)).await;
        let second = watch.answer(ask(first.upto)).await;
        assert_eq!((first.notices.len(), second.notices.len(), second.upto), (1024, 476, 1500));
    }
}
