//! A longer life for a lease that is alive: what the program holds stays, only its end moves.
//!
//! ```text
//!   authorize ─► RenewLease durable ─► engine.renew ─► the end in memory
//! ```
//!
//! The end in memory is the one that counts while this daemon lives: it is moved last, so whatever fails or crashes before leaves a
//! lease that dies earlier than the store or the upstream would let it, never later. Where the engine fails, the store's end is put
//! back; where that fails as well, it names an instant that the lease will not reach. What the engine did although it failed is
//! harmless for the same reason: the revocation at the old end removes it.
//!
//! Policy is asked again, as for a new lease. It may have become narrower: a lease keeps its scope, so one whose scope is no
//! longer what policy gives is not renewed. Absent: a notice. The data plane acquires anew in the last fifth
//! of a lease that it uses, and is told of the new end then.

use std::time::Duration;

use tokio::time::timeout;
use writ_core::{
    Action, Asked, EngineFault, LeaseId, LeaseState, Permit, Refusal, RefusalKind, Timestamp, authorize,
    fault_point,
};

use super::BrokerTools;
use crate::{
    broker::Broker,
    confirm,
    deadline::Deadline,
    door::Unlocked,
    fault,
    store::{Change, LeaseRecord, StoreFault},
};

/// The longest that an engine may take.
const RENEW_MAX: Duration = Duration::from_secs(30);

/// Lets a lease live for as long as policy gives it now, never beyond its session. Returns when it ends.
///
/// # Errors
/// The refusal: policy's, [`RefusalKind::LeaseExpired`] for one that is not alive here, the engine's, the store's. The lease
/// ends when it would have.
pub(crate) async fn renew(broker: &Broker, open: &Unlocked, lease: LeaseId) -> Result<Timestamp, Refusal> {
    let record = broker.store.lease(lease).await.map_err(fault::store)?;
    let clock = broker.clock.as_ref();
    let lives = broker.leases.expires_at(&lease, clock).is_some();
    let alive = |record: &LeaseRecord| record.state == LeaseState::Active && lives;
    let record = record.filter(alive).ok_or_else(over)?;
    let permit = permitted(broker, &record).await?;
    fault_point!("renew.authorized");
    let expires_at = permit.expires_at();
    if expires_at <= record.expires_at {
        return Ok(record.expires_at);
    }
    // Taken before the engine works: what that takes is not added.
    let deadline = Deadline::new(broker.clock.as_ref(), expires_at);
    let put = |expires_at| broker.store.apply(vec![Change::RenewLease { lease, expires_at }]);
    put(expires_at).await.map_err(ended)?;
    fault_point!("renew.stored");
    if let Err(refusal) = extend(broker, open, &record, expires_at).await {
        if let Err(fault) = put(record.expires_at).await {
            tracing::debug!(%lease, %fault, "the end of a lease that was not renewed could not be put back");
        }
        fault_point!("renew.put-back");
        return Err(refusal);
    }
    fault_point!("renew.extended");
    if !broker.leases.renew(&lease, deadline, broker.clock.as_ref()) {
        return Err(over());
    }
    fault_point!("renew.landed");
    Ok(expires_at)
}

/// Whether its session would get the same lease now.
async fn permitted(broker: &Broker, record: &LeaseRecord) -> Result<Permit, Refusal> {
    let session = broker.sessions.identify(record.session, broker.clock.as_ref())?;
    let rules = broker.rules.in_force()?;
    let target = rules.target(&record.target)?;
    let action = if record.revealed { Action::Reveal } else { Action::Inject };
    let asked = Asked { action, target: target.name.clone(), credential: target.credential.clone() };
    let context = session.context(broker.clock.as_ref());
    let permit = authorize(&rules.policy, session.principal(), &asked, &context)?;
    session.still_serves(&target.route())?;
    if permit.scope() != &record.scope || asked.credential != record.credential {
        return Err(Refusal::new(
            RefusalKind::Denied,
            format!("what the lease on {} allows is no longer what the rules say", record.target),
            "acquire anew: start a new run",
        ));
    }
    if let Some(name) = &record.credential {
        let credential = rules.credential(name)?;
        broker.quarantines.check(&record.role, name)?;
        confirm::check(broker.store.as_ref(), target, credential).await?;
    }
    Ok(permit)
}

async fn extend(
    broker: &Broker,
    open: &Unlocked,
    record: &LeaseRecord,
    expires_at: Timestamp,
) -> Result<(), Refusal> {
    let Some(name) = &record.credential else { return Ok(()) };
    let engine = broker.engines.engine(&record.engine).ok_or_else(|| fault::engine(name))?;
    if !engine.is_of(&record.receipt, record.lease) {
        let foreign = EngineFault::Receipt("it is of another lease".to_owned());
        return Err(fault::minting(&foreign));
    }
    let tools = BrokerTools { broker, open };
    match timeout(RENEW_MAX, engine.renew(&record.receipt, expires_at, &tools)).await {
        Ok(done) => done.map_err(|engine| fault::minting(&engine)),
        Err(_) => Err(Refusal::new(
            RefusalKind::UpstreamFailed,
            format!("{name} could not be renewed within {} seconds", RENEW_MAX.as_secs()),
            "try again",
        )),
    }
}

fn over() -> Refusal {
    Refusal::new(RefusalKind::LeaseExpired, "the lease is not alive", "start a new run")
}

fn ended(fault: StoreFault) -> Refusal {
    match fault {
        StoreFault::Missing(_) | StoreFault::Conflict(_) => over(),
        fault => fault::store(fault),
    }
}
