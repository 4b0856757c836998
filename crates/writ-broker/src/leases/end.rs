//! The end of leases: durable first, then told. What follows upstream is `settle`.

use writ_core::{LeaseEnd, LeaseId, Notice, fault_point};

use super::Which;
use crate::{
    broker::Broker,
    records,
    store::{Change, LeaseRecord, StoreFault},
};

/// Ends every lease that `which` selects: alive or in flight. Returns how many were alive.
///
/// # Errors
/// The store's fault. The holders were told nevertheless, nothing new is handed out, and the reconciler goes on trying.
pub(crate) async fn end(broker: &Broker, end: LeaseEnd, which: Which<'_>) -> Result<usize, StoreFault> {
    let leases = cancel(broker, end, which);
    let durable = finish(broker, end, &leases, Vec::new()).await;
    if durable.is_err() {
        broker.leases.ending.notify_one();
    }
    durable.map(|()| leases.len())
}

/// Ends one lease, whoever owns it: what belongs to another daemon, or to a dead one that is not tidied up yet, is ended in the
/// store alone.
///
/// # Errors
/// As [`end`].
pub(crate) async fn end_known(broker: &Broker, lease: &LeaseRecord, how: LeaseEnd) -> Result<(), StoreFault> {
    if lease.boot == broker.boot {
        return end(broker, how, Which::Lease(lease.lease)).await.map(drop);
    }
    finish(broker, how, &[lease.lease], Vec::new()).await
}

/// Marks the leases, so that none of them lands any more, and returns those that were alive.
pub(crate) fn cancel(broker: &Broker, end: LeaseEnd, which: Which<'_>) -> Vec<LeaseId> {
    broker.leases.mark(end, which)
}

/// Drops every lease at once, alive or in flight: the holders are told before anything is written, and the reconciler makes the ends
/// durable. Returns how many were alive.
pub(crate) fn drop_all(broker: &Broker, end: LeaseEnd) -> usize {
    let leases = cancel(broker, end, Which::All);
    broker.watch.push(leases.iter().map(|lease| Notice::LeaseEnded { lease: *lease, end }));
    broker.leases.ending.notify_one();
    leases.len()
}

/// Ends in one durable step. It holds up whoever issues at the same time by a few milliseconds.
const PART: usize = 500;

/// Makes the end of marked leases durable, the first of them together with `also`, and tells the holders. Many are ended in
/// parts, so that whoever issues meanwhile waits for a part and not for all.
pub(crate) async fn finish(
    broker: &Broker,
    end: LeaseEnd,
    leases: &[LeaseId],
    also: Vec<Change>,
) -> Result<(), StoreFault> {
    if leases.is_empty() && also.is_empty() {
        return Ok(());
    }
    let mut also = Some(also);
    let mut durable = Ok(());
    let (first, others) = leases.split_at(leases.len().min(PART));
    for part in std::iter::once(first).chain(others.chunks(PART)) {
        if !part.is_empty() || also.is_some() {
            let done = finish_part(broker, end, part, also.take().unwrap_or_default()).await;
            durable = durable.and(done);
        }
        if !others.is_empty() {
            // The log takes what it is given only as fast as the disk.
            if let Some(open) = broker.open_door() {
                let _ = open.log.flush().await;
            }
        }
    }
    // Whoever calls this in vain rings when it is worth another try.
    if durable.is_ok() {
        broker.leases.ending.notify_one();
    }
    durable
}

async fn finish_part(
    broker: &Broker,
    end: LeaseEnd,
    leases: &[LeaseId],
    also: Vec<Change>,
) -> Result<(), StoreFault> {
    fault_point!("end.marked");
    let at = broker.clock.now();
    let mut changes = also;
    changes.extend(leases.iter().map(|lease| Change::RevokeLease { lease: *lease, at, end }));
    let durable = broker.store.apply(changes).await;
    fault_point!("end.durable");
    // Told even if the store failed: stopping is the safe side.
    broker.watch.push(leases.iter().map(|lease| Notice::LeaseEnded { lease: *lease, end }));
    records::leases_ended(broker, leases, end, durable.is_ok());
    if durable.is_ok() {
        broker.leases.forget(leases.iter().copied());
    }
    fault_point!("end.told");
    durable
}
