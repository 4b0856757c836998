//! The end of a session here although another daemon on the same store owns it.
//!
//! The end is durable at once, which lets nothing new begin; the store tells the owner, who ends what it holds within a second.
//! An owner that is dead needs no telling.

use writ_core::{LeaseEnd, Refusal};

use crate::{
    broker::Broker,
    fault,
    sessions::End,
    store::{Change, LeaseFilter, LeaseRecord, SessionRecord},
};

/// Ends a session that another boot owns, with its leases. Harmless for one of our own, and for one that has ended.
///
/// # Errors
/// The store's fault.
pub(crate) async fn revoke_session(broker: &Broker, session: &SessionRecord) -> Result<(), Refusal> {
    if session.boot == broker.boot || session.ended_at.is_some() {
        return Ok(());
    }
    let at = broker.clock.now();
    // First the session: from then on no lease can be opened in it.
    let end = Change::EndSession { session: session.session, at, end: End::Revoked.as_str().to_owned() };
    broker.store.apply(vec![end]).await.map_err(fault::store)?;
    let filter = LeaseFilter { session: Some(session.session), ..LeaseFilter::default() };
    let leases = broker.store.leases(filter).await.map_err(fault::store)?;
    let end =
        |lease: &LeaseRecord| Change::RevokeLease { lease: lease.lease, at, end: LeaseEnd::SessionEnded };
    broker.store.apply(leases.iter().map(end).collect()).await.map_err(fault::store)?;
    broker.leases.ending.notify_one();
    Ok(())
}
