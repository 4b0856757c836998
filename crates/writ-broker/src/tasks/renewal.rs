//! Renews what programs hold themselves: revealed leases of live sessions, in the last third of their life.
//!
//! What is injected is acquired anew by the data plane when it is used; a login in a program's environment has nobody who would. A lease
//! that policy no longer gives expires, and so does one that cannot be renewed in time. Each lane has its own worker, so a
//! database that does not answer keeps no other waiting.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{task::JoinSet, time::sleep};
use writ_core::{LeaseId, Refusal, RefusalKind};

use crate::{broker::Broker, door::Unlocked, leases, store::StoreFault};

/// Leases that are renewed at once on one lane. An engine makes few transactions of them.
const CONCURRENT_MAX: usize = 64;
/// The pause before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The longest sleep.
const PERIOD: Duration = Duration::from_secs(30);

/// What waits, by lane.
type Waiting = BTreeMap<String, Vec<LeaseId>>;

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    let (mut waiting, mut busy) = (Waiting::new(), HashSet::new());
    let mut workers = JoinSet::new();
    broker.until_unlocked().await;
    loop {
        if let Err(fault) = gather(&broker, &mut waiting).await {
            tracing::error!(%fault, "leases that are to be renewed could not be read");
        }
        let idle: Vec<String> = waiting.keys().filter(|lane| !busy.contains(*lane)).cloned().collect();
        for lane in idle {
            let leases = waiting.remove(&lane).unwrap_or_default();
            busy.insert(lane.clone());
            let broker = broker.clone();
            workers.spawn(async move {
                if let Some(open) = broker.open_door() {
                    renew(&broker, open, leases).await;
                }
                lane
            });
        }
        let next = broker.leases.next_renewal(broker.clock.as_ref()).unwrap_or(PERIOD).min(PERIOD);
        tokio::select! {
            () = sleep(next) => {}
            () = broker.leases.revealed.notified() => {}
            Some(ended) = workers.join_next() => match ended {
                Ok(lane) => drop(busy.remove(&lane)),
                // A panic in an engine: what it had expires.
                Err(_) => busy.clear(),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// One pass: whatever is due was tried once when it returns.
#[cfg(test)]
pub(crate) async fn pass(broker: &Broker) -> Result<(), StoreFault> {
    let mut waiting = Waiting::new();
    gather(broker, &mut waiting).await?;
    if let Some(open) = broker.open_door() {
        for leases in waiting.into_values() {
            renew(broker, open, leases).await;
        }
    }
    Ok(())
}

/// Sorts what is due by lane.
async fn gather(broker: &Broker, waiting: &mut Waiting) -> Result<(), StoreFault> {
    for lease in broker.leases.take_renewals(broker.clock.as_ref()) {
        match broker.store.lease(lease).await {
            Ok(Some(record)) => waiting.entry(record.lane).or_default().push(lease),
            Ok(None) => {}
            Err(fault) => {
                again(broker, lease);
                return Err(fault);
            }
        }
    }
    Ok(())
}

async fn renew(broker: &Broker, open: &Unlocked, leases: Vec<LeaseId>) {
    let each = async |lease: LeaseId| match leases::renew(broker, open, lease).await {
        Ok(expires_at) => tracing::debug!(%lease, ?expires_at, "renewed"),
        Err(refusal) => {
            tracing::info!(%lease, %refusal, "a lease is not renewed");
            if passes(&refusal) {
                again(broker, lease);
            }
        }
    };
    stream::iter(leases).for_each_concurrent(CONCURRENT_MAX, each).await;
}

/// Whether another attempt may end otherwise before the lease does.
fn passes(refusal: &Refusal) -> bool {
    !matches!(
        refusal.kind,
        RefusalKind::Denied
            | RefusalKind::LeaseExpired
            | RefusalKind::SessionEnded
            | RefusalKind::Quarantined
    )
}

fn again(broker: &Broker, lease: LeaseId) {
    broker.leases.renew_at(lease, broker.clock.boottime().saturating_add(RETRY));
}
