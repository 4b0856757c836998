//! The upstream half of an end: the engine removes the credential and verifies that it is gone.
//!
//! One owner: only the revocation task settles, one lease at a time, so no two calls of an engine meet over one lease.

use std::time::Duration;

use tokio::time::timeout;
use writ_core::{LeaseState, Revoked};

use super::BrokerTools;
use crate::{
    broker::Broker,
    door::Unlocked,
    records,
    store::{Change, LeaseRecord},
};

/// The longest that one attempt may take.
const REVOKE_MAX: Duration = Duration::from_secs(30);

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Done(Revoked),
    /// The credential may live on upstream: the lease stays `revoking`.
    NotYet,
}

/// Revokes what `lease` made, verified, and ends it.
pub(crate) async fn settle(broker: &Broker, open: &Unlocked, lease: &LeaseRecord) -> Settled {
    debug_assert_eq!(lease.state, LeaseState::Revoking);
    let tools = BrokerTools { broker, open };
    let revoked = match broker.engines.engine(&lease.engine) {
        // Nothing was handed out, so nothing lives on.
        _ if lease.credential.is_none() => Revoked::Gone,
        Some(engine) => match timeout(REVOKE_MAX, engine.revoke(&lease.receipt, &tools)).await {
            Ok(Ok(revoked)) => revoked,
            Ok(Err(fault)) => return not_yet(open, broker, lease, &fault.to_string()),
            Err(_) => return not_yet(open, broker, lease, "the engine did not answer in time"),
        },
        None => return not_yet(open, broker, lease, "its engine is not in this writ"),
    };
    let change = Change::EndLease { lease: lease.lease, at: broker.clock.now(), revoked };
    match broker.store.apply(vec![change]).await {
        Ok(()) => {
            records::lease_settled(broker, open, lease, Ok(revoked));
            Settled::Done(revoked)
        }
        Err(fault) => not_yet(open, broker, lease, &fault.to_string()),
    }
}

fn not_yet(open: &Unlocked, broker: &Broker, lease: &LeaseRecord, why: &str) -> Settled {
    tracing::warn!(lease = %lease.lease, why, "a lease could not be revoked yet; it is tried again");
    records::lease_settled(broker, open, lease, Err(()));
    Settled::NotYet
}
