//! Makes the ends of leases and sessions durable that were not, and settles them upstream.
//!
//! ```text
//!   lanes that are due ──► a worker each:  claim ─► settle, all at once ─► EndLease durable ─► claim …
//!                                            nobody answers: the lane pauses · one fails: that lease is put off
//! ```
//!
//! A lease that could not be revoked upstream stays `revoking` and is tried again for ever ([`super::lanes`] has the pauses). A lane
//! has one worker and nobody else settles, so every outside effect has one owner.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{pin, task::JoinSet, time::sleep};
use writ_core::{LeaseEnd, LeaseId, Timestamp, fault_point};

use super::lanes::{Lane, RETRY_MIN};
use crate::{
    broker::Broker,
    door::Unlocked,
    leases::{self, quarantine},
    sessions,
    store::{Change, Claim, StoreFault},
};

/// Leases that are settled at once on one lane. An engine makes few transactions of them.
const BATCH_MAX: u32 = 256;
/// Lanes that are worked on at once; the others wait for a worker.
const WORKERS_MAX: usize = 32;
/// How long no other daemon gets what was claimed: longer than an attempt takes.
const CLAIM_MILLIS: i64 = 60_000;
/// Ends that are made durable in one step.
const ENDS_MAX: usize = 500;
/// It looks at least this often, for what nobody rang for.
const PERIOD: Duration = Duration::from_secs(30);

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    let mut workers = JoinSet::new();
    loop {
        let next = match begin(&broker, &mut workers).await {
            Ok(next) => next,
            Err(fault) => {
                tracing::error!(%fault, "ends of leases could not be made durable yet");
                RETRY_MIN
            }
        };
        let pause = sleep(next);
        pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = broker.leases.ending.notified() => break,
                // A worker that found nothing to do is no news.
                Some(ended) = workers.join_next() => if ended.unwrap_or(true) { break },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }
}

/// Makes ends durable and starts a worker on every lane that is due and has none. Returns how long until there is more to do.
async fn begin(broker: &Arc<Broker>, workers: &mut JoinSet<bool>) -> Result<Duration, StoreFault> {
    make_durable(broker).await?;
    let Some(open) = broker.open_door() else { return Ok(PERIOD) };
    quarantine::review(broker, open).await?;
    for name in broker.store.lanes(broker.clock.now()).await? {
        let lane = broker.lanes.lane(&name);
        let due = lane.is_due(broker.clock.boottime());
        if !due || workers.len() >= WORKERS_MAX || lane.working.try_lock().is_err() {
            continue;
        }
        let broker = broker.clone();
        workers.spawn(async move {
            match broker.open_door() {
                Some(open) => work(&broker, open, &name, &lane).await,
                None => false,
            }
        });
    }
    Ok(broker.lanes.next(broker.clock.boottime()).unwrap_or(PERIOD).min(PERIOD))
}

/// One pass: whatever is due was tried once when it returns. Returns how long until there is more to do.
pub(crate) async fn pass(broker: &Broker) -> Result<Duration, StoreFault> {
    make_durable(broker).await?;
    let Some(open) = broker.open_door() else { return Ok(PERIOD) };
    let lanes = broker.store.lanes(broker.clock.now()).await?;
    let each = async |name: String| {
        let lane = broker.lanes.lane(&name);
        work(broker, open, &name, &lane).await;
    };
    stream::iter(lanes).for_each_concurrent(WORKERS_MAX, each).await;
    quarantine::review(broker, open).await?;
    Ok(broker.lanes.next(broker.clock.boottime()).unwrap_or(PERIOD).min(PERIOD))
}

/// Settles one lane until nothing on it is due. Whether it found something.
async fn work(broker: &Broker, open: &Unlocked, name: &str, lane: &Lane) -> bool {
    let _owner = lane.working.lock().await;
    let mut found = false;
    loop {
        if !lane.is_due(broker.clock.boottime()) {
            return found;
        }
        match batch(broker, open, name, lane).await {
            Ok(true) => found = true,
            Ok(false) => return found,
            Err(fault) => {
                let pause = lane.away(broker.clock.boottime());
                tracing::error!(%fault, lane = name, ?pause, "the store failed while leases were settled");
                return true;
            }
        }
    }
}

/// Claims some leases and tries each of them once. Whether there were any.
async fn batch(broker: &Broker, open: &Unlocked, name: &str, lane: &Lane) -> Result<bool, StoreFault> {
    let now = broker.clock.now();
    let claim = Claim {
        boot: broker.boot,
        lane: name.to_owned(),
        now,
        until: later(now, CLAIM_MILLIS),
        // One asks for all whether somebody answers again.
        limit: if lane.is_away() { 1 } else { BATCH_MAX },
    };
    let leases = broker.store.claim(claim).await?;
    if leases.is_empty() {
        return Ok(false);
    }
    let settled = leases::settle(broker, open, &leases).await?;
    if settled.unreachable {
        let pause = lane.away(broker.clock.boottime());
        tracing::warn!(lane = name, ?pause, "nobody answers there: revocations wait");
    } else {
        lane.done(&settled.done);
    }
    let put_off = lane.failed(&settled.failed, broker.clock.boottime());
    let now = broker.clock.now();
    let changes = put_off.into_iter().map(|(lease, pause)| {
        let at = later(now, i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        Change::RetryLease { lease, at }
    });
    broker.store.apply(changes.collect()).await?;
    fault_point!("settle.put-off");
    Ok(true)
}

fn later(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.millis().saturating_add(millis))
}

/// Ends in the store what is marked in memory: flights that did not land, and ends that the store did not take.
async fn make_durable(broker: &Broker) -> Result<(), StoreFault> {
    sessions::finish_ending(broker).await?;
    let at = broker.clock.now();
    let change = |(lease, end): &(LeaseId, LeaseEnd)| Change::RevokeLease { lease: *lease, at, end: *end };
    for some in broker.leases.to_end().chunks(ENDS_MAX) {
        match broker.store.apply(some.iter().map(change).collect()).await {
            Ok(()) => broker.leases.forget(some.iter().map(|(lease, _)| *lease)),
            Err(StoreFault::Missing(_)) => {
                for one in some {
                    match broker.store.apply(vec![change(one)]).await {
                        // It never came to be: the flight ended before its first durable trace.
                        Ok(()) | Err(StoreFault::Missing(_)) => broker.leases.forget([one.0]),
                        Err(fault) => return Err(fault),
                    }
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
