//! Makes the ends of leases and sessions durable that were not, and settles them upstream.
//!
//! A lease that could not be revoked upstream stays `revoking` and is tried again for ever, at intervals that double up to
//! [`RETRY_MAX`]. Nobody else settles, so every outside effect has one owner.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;
use writ_core::{LeaseId, LeaseState};

use crate::{
    broker::Broker,
    leases::{self, Settled},
    sessions,
    store::{Change, LeaseFilter, StoreFault},
};

/// The pause after the first failure.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A pass happens at least this often, for what nobody rang for.
const PERIOD: Duration = Duration::from_secs(30);

/// What is to be tried again, and when by the clock that does not step.
#[derive(Default)]
pub(crate) struct Retries(HashMap<LeaseId, Retry>);

#[derive(Clone, Copy)]
struct Retry {
    due: Duration,
    pause: Duration,
}

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    loop {
        let next = match pass(&broker).await {
            Ok(next) => next,
            Err(fault) => {
                tracing::error!(%fault, "ends of leases could not be made durable yet");
                RETRY_MIN
            }
        };
        tokio::select! {
            () = sleep(next) => {}
            () = broker.leases.ending.notified() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// One pass; a second one waits. Returns when the next is due at the latest.
pub(crate) async fn pass(broker: &Broker) -> Result<Duration, StoreFault> {
    let mut retries = broker.retries.lock().await;
    sessions::finish_ending(broker).await?;
    make_durable(broker).await?;
    let Some(open) = broker.open_door() else { return Ok(PERIOD) };
    let leases = broker.store.leases(LeaseFilter::default()).await?;
    let revoking = |lease: &LeaseId| {
        leases.iter().any(|known| known.lease == *lease && known.state == LeaseState::Revoking)
    };
    retries.0.retain(|lease, _| revoking(lease));
    for lease in leases.iter().filter(|lease| lease.state == LeaseState::Revoking) {
        let now = broker.clock.boottime();
        if retries.0.get(&lease.lease).is_some_and(|retry| retry.due > now) {
            continue;
        }
        match leases::settle(broker, open, lease).await {
            Settled::Done(_) => drop(retries.0.remove(&lease.lease)),
            Settled::NotYet => retries.later(lease.lease, broker.clock.boottime()),
        }
    }
    let now = broker.clock.boottime();
    Ok(retries.0.values().map(|retry| retry.due.saturating_sub(now)).min().unwrap_or(PERIOD).min(PERIOD))
}

/// Ends in the store what is marked in memory: flights that did not land, and ends that the store did not take.
async fn make_durable(broker: &Broker) -> Result<(), StoreFault> {
    for (lease, end) in broker.leases.to_end() {
        let at = broker.clock.now();
        match broker.store.apply(vec![Change::RevokeLease { lease, at, end }]).await {
            // It never came to be: the flight ended before its first durable trace.
            Ok(()) | Err(StoreFault::Missing(_)) => broker.leases.forget([lease]),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

impl Retries {
    fn later(&mut self, lease: LeaseId, now: Duration) {
        let pause =
            self.0.get(&lease).map_or(RETRY_MIN, |retry| retry.pause.saturating_mul(2).min(RETRY_MAX));
        self.0.insert(lease, Retry { due: now.saturating_add(pause), pause });
    }
}
