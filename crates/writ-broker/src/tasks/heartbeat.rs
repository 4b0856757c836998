//! Says that this daemon lives, where several share a store, and stops it in time when it cannot.
//!
//! ```text
//!   a beat a second ── none went through for 10 s ──► every lease is dropped, none is made      (until one goes through)
//!                   └─ "you are dead" ──────────────► every lease and session ends, and so does the daemon
//! ```
//!
//! Others end what this daemon owns once the server has not heard of it for 15 seconds. Before that it drops its leases on its own,
//! judged by the clock that does not step and runs on while the machine sleeps: a daemon that was stopped for longer finds that out
//! before it does anything else. Whoever was declared dead stays dead; the launchers start the next daemon and go on there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use writ_core::{Clock, LeaseEnd, Refusal, RefusalKind};

use crate::{
    broker::Broker,
    leases,
    sessions::{self, End},
    store::{Beat, Shared},
};

/// How often it beats.
const PERIOD: Duration = Duration::from_secs(1);
/// The longest that one beat may take.
const BEAT_MAX: Duration = Duration::from_secs(3);
/// Without a beat for this long, nothing is handed out or used.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// When the store last heard of this daemon, by the clock that does not step.
pub(crate) struct Pulse(AtomicU64);

/// For a store that is not shared: there is nobody to lose touch with.
const ALONE: u64 = u64::MAX;

impl Default for Pulse {
    fn default() -> Self {
        Self(AtomicU64::new(ALONE))
    }
}

impl Pulse {
    /// The store heard of us, at `since_boot` or later.
    pub(crate) fn felt(&self, since_boot: Duration) {
        let millis = u64::try_from(since_boot.as_millis()).unwrap_or(ALONE - 1);
        self.0.store(millis, Ordering::SeqCst);
    }

    fn is_silent(&self, clock: &dyn Clock) -> bool {
        match self.0.load(Ordering::SeqCst) {
            ALONE => false,
            last => clock.boottime().saturating_sub(Duration::from_millis(last)) > SILENCE_MAX,
        }
    }

    /// Whether leases may be made.
    ///
    /// # Errors
    /// [`RefusalKind::BrokerUnavailable`] while the store has not heard of this daemon for too long.
    pub(crate) fn check(&self, clock: &dyn Clock) -> Result<(), Refusal> {
        if !self.is_silent(clock) {
            return Ok(());
        }
        let what = "writ has lost touch with its store";
        Err(Refusal::new(RefusalKind::BrokerUnavailable, what, "try again in a moment"))
    }
}

pub(crate) async fn run(broker: Arc<Broker>) {
    let Some(shared) = broker.store.shared() else { return };
    let mut stopping = broker.stopping.subscribe();
    loop {
        if pass(&broker, shared).await == Beat::Dead {
            return;
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// One pass. [`Beat::Dead`]: everything has ended.
pub(crate) async fn pass(broker: &Broker, shared: &dyn Shared) -> Beat {
    let clock = broker.clock.as_ref();
    // First of all: this may be the first thing that is done after a long sleep.
    drop_leases_if_silent(broker);
    let asked = clock.boottime();
    match timeout(BEAT_MAX, shared.beat(broker.boot)).await {
        Ok(Ok(Beat::Alive)) => broker.pulse.felt(asked),
        Ok(Ok(Beat::Dead)) => {
            die(broker).await;
            return Beat::Dead;
        }
        Ok(Err(fault)) => tracing::warn!(%fault, "the store did not take the heartbeat"),
        Err(_) => tracing::warn!("the store did not take the heartbeat in time"),
    }
    drop_leases_if_silent(broker);
    Beat::Alive
}

fn drop_leases_if_silent(broker: &Broker) {
    if broker.pulse.is_silent(broker.clock.as_ref()) {
        let dropped = leases::drop_all(broker, LeaseEnd::Superseded);
        if dropped > 0 {
            tracing::error!(dropped, "out of touch with the store: every lease was dropped");
        }
    }
}

/// Others have ended what is ours, or are about to.
async fn die(broker: &Broker) {
    tracing::error!("another daemon on the same store took this one for dead: everything ends here");
    broker.draining.store(true, Ordering::SeqCst);
    leases::drop_all(broker, LeaseEnd::Orphaned);
    let ends = broker.sessions.all().into_iter().map(|session| sessions::end(broker, session, End::Fenced));
    for fault in join_all(ends).await.into_iter().filter_map(Result::err) {
        tracing::warn!(%fault, "the end of a session is left to the other daemon");
    }
    broker.stopping.send_replace(true);
}
