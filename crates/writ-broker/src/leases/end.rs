//! The end of leases: durable first, then told. What follows upstream is `settle`.

use writ_core::{LeaseEnd, LeaseId, Notice};

use super::table::Row;
use crate::{
    broker::Broker,
    records,
    store::{Change, StoreFault},
};

/// Ends every lease that `which` selects: alive or in flight. Returns how many were alive.
///
/// # Errors
/// The store's fault. The holders were told nevertheless, nothing new is handed out, and the reconciler goes on trying.
pub(crate) async fn end(
    broker: &Broker,
    end: LeaseEnd,
    which: impl Fn(&LeaseId, &Row) -> bool,
) -> Result<usize, StoreFault> {
    let leases = cancel(broker, end, which);
    finish(broker, end, &leases, Vec::new()).await?;
    Ok(leases.len())
}

/// Marks the leases, so that none of them lands any more, and returns those that were alive.
pub(crate) fn cancel(broker: &Broker, end: LeaseEnd, which: impl Fn(&LeaseId, &Row) -> bool) -> Vec<LeaseId> {
    broker.leases.mark(end, which)
}

/// Makes the end of marked leases durable, together with `also`, and tells the holders.
pub(crate) async fn finish(
    broker: &Broker,
    end: LeaseEnd,
    leases: &[LeaseId],
    also: Vec<Change>,
) -> Result<(), StoreFault> {
    if leases.is_empty() && also.is_empty() {
        return Ok(());
    }
    let at = broker.clock.now();
    let mut changes = also;
    changes.extend(leases.iter().map(|lease| Change::RevokeLease { lease: *lease, at, end }));
    let durable = broker.store.apply(changes).await;
    // Told even if the store failed: stopping is the safe side.
    broker.watch.push(leases.iter().map(|lease| Notice::LeaseEnded { lease: *lease, end }));
    records::leases_ended(broker, leases, end, durable.is_ok());
    if durable.is_ok() {
        broker.leases.forget(leases.iter().copied());
    }
    broker.leases.ending.notify_one();
    durable
}
