//! The upstream half of an end: the engine removes the credential and verifies that it is gone.
//!
//! One owner: only a worker of the revocation task settles, and a lane has one worker, so no two calls of an engine meet over one
//! lease. What waits on a lane is handed to the engine together, which does it in few transactions of its own.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use writ_core::{EngineFault, LeaseId, LeaseState, Revoked, fault_point};

use super::BrokerTools;
use crate::{
    broker::Broker,
    door::Unlocked,
    records,
    store::{Change, LeaseRecord, StoreFault},
};

/// The longest that one attempt may take.
const REVOKE_MAX: Duration = Duration::from_secs(30);

/// What came of one attempt at the leases of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Ended, and durably so.
    pub done: Vec<LeaseId>,
    /// Each failed by itself: it stays `revoking`.
    pub failed: Vec<LeaseId>,
    /// Nobody answered, so that nothing can be done on this lane now.
    pub unreachable: bool,
}

enum Failure {
    Unreachable(String),
    Own(String),
}

/// Revokes what `leases`, all of one lane, made, verified, and ends them.
///
/// # Errors
/// The store's: all that did not fail are gone upstream, and stay `revoking`.
pub(crate) async fn settle(
    broker: &Broker,
    open: &Unlocked,
    leases: &[LeaseRecord],
) -> Result<Settled, StoreFault> {
    fault_point!("settle.claimed");
    let answers = join_all(leases.iter().map(|lease| revoke(broker, open, lease))).await;
    let at = broker.clock.now();
    let (mut changes, mut settled, mut away) = (Vec::new(), Settled::default(), Vec::new());
    for (lease, answer) in leases.iter().zip(&answers) {
        match answer {
            Ok(revoked) => {
                changes.push(Change::EndLease { lease: lease.lease, at, revoked: *revoked });
                settled.done.push(lease.lease);
            }
            Err(Failure::Unreachable(why)) => away.push((lease, why)),
            Err(Failure::Own(why)) => {
                not_yet(broker, open, lease, why);
                settled.failed.push(lease.lease);
            }
        }
    }
    broker.store.apply(changes).await?;
    fault_point!("settle.ended");
    for (lease, answer) in leases.iter().zip(&answers) {
        if let Ok(revoked) = answer {
            records::lease_settled(broker, open, lease, Ok(*revoked));
        }
    }
    settled.unreachable = settled.done.is_empty() && !away.is_empty();
    // One line for a lane that is away, not one for each lease on it.
    let told = if settled.unreachable { 1 } else { away.len() };
    for (lease, why) in away.iter().take(told) {
        not_yet(broker, open, lease, why);
    }
    if !settled.unreachable {
        // Somebody answered, so these failed by themselves.
        settled.failed.extend(away.iter().map(|(lease, _)| lease.lease));
    }
    Ok(settled)
}

async fn revoke(broker: &Broker, open: &Unlocked, lease: &LeaseRecord) -> Result<Revoked, Failure> {
    debug_assert_eq!(lease.state, LeaseState::Revoking);
    // Nothing was handed out, so nothing lives on.
    if lease.credential.is_none() {
        return Ok(Revoked::Gone);
    }
    let Some(engine) = broker.engines.engine(&lease.engine) else {
        return Err(Failure::Own("its engine is not in this writ".to_owned()));
    };
    if !engine.is_of(&lease.receipt, lease.lease) {
        return Err(Failure::Own("its receipt in the store is of another lease: nothing is done".to_owned()));
    }
    let tools = BrokerTools { broker, open };
    let answer = match timeout(REVOKE_MAX, engine.revoke(&lease.receipt, &tools)).await {
        Ok(Ok(revoked)) => Ok(revoked),
        Ok(Err(fault @ EngineFault::Unreachable { .. })) => Err(Failure::Unreachable(fault.to_string())),
        Ok(Err(fault)) => Err(Failure::Own(fault.to_string())),
        Err(_) => Err(Failure::Own("the engine did not answer in time".to_owned())),
    };
    fault_point!("settle.revoked");
    answer
}

fn not_yet(broker: &Broker, open: &Unlocked, lease: &LeaseRecord, why: &str) {
    tracing::warn!(lease = %lease.lease, lane = lease.lane, why, "a lease could not be revoked yet; it is tried again");
    records::lease_settled(broker, open, lease, Err(()));
}
