//! One lease, from a permit to the sealed credential.

use std::time::Duration;

use tokio::time::timeout;
use writ_api::seal::{self, Place};
use writ_core::{
    BoxFuture, Engine, EngineFault, Granted, LeaseEnd, LeaseId, LeaseState, Minted, Permit, Receipt, Refusal,
    RefusalKind,
};

use super::{BrokerTools, table::Barred};
use crate::{
    broker::Broker,
    config::ResolvedCredential,
    deadline::Deadline,
    door::Unlocked,
    fault,
    sessions::Session,
    store::{Change, LeaseRecord, StoreFault},
    values,
};

/// The longest that making a credential may take, a person's confirmation at a key included.
const MINT_MAX: Duration = Duration::from_secs(60);
/// How often a credential may be replaced under an acquisition before that is given up.
const ATTEMPTS: usize = 3;

/// Makes a lease under `permit` and seals its credential to the session. A new version that comes in between is acquired
/// instead.
///
/// Invariant: the lease is durable, with its receipt, before the engine does anything outside.
pub(crate) async fn issue(
    broker: &Broker,
    open: &Unlocked,
    session: &Session,
    permit: &Permit,
    credential: &ResolvedCredential,
) -> Result<Granted, Refusal> {
    for _ in 1..ATTEMPTS {
        match attempt(broker, open, session, permit, credential).await {
            // Only a replaced credential ends a flight so.
            Err(refusal) if refusal.kind == RefusalKind::LeaseExpired => {}
            answer => return answer,
        }
    }
    attempt(broker, open, session, permit, credential).await
}

async fn attempt(
    broker: &Broker,
    open: &Unlocked,
    session: &Session,
    permit: &Permit,
    credential: &ResolvedCredential,
) -> Result<Granted, Refusal> {
    let name = &permit.asked().credential;
    let engine = broker.engines.engine(&credential.engine).ok_or_else(|| fault::engine(name))?;
    let tools = BrokerTools { broker, open };
    let issued_at = broker.clock.now();
    let lease = LeaseId::new(issued_at, &broker.random_bytes()?);
    let target = permit.asked().target.clone();
    let flight = broker.leases.take_off(lease, session.id(), target, name.clone()).map_err(barred)?;
    // Again, now that whoever ends the session sees the flight.
    broker.sessions.identify(session.id(), broker.clock.as_ref())?;
    let deadline = Deadline::new(broker.clock.as_ref(), permit.expires_at());
    if deadline.has_passed(broker.clock.as_ref()) {
        return Err(fault::session_over());
    }

    let receipt = within(name, engine.plan(permit, lease, &credential.engine_config, &tools)).await?;
    let record = record(broker, permit, engine, lease, &receipt, issued_at);
    broker.store.apply(vec![Change::OpenLease(record)]).await.map_err(unopened)?;
    let minted: Minted =
        within(name, engine.mint(permit, &receipt, &credential.engine_config, &tools)).await?;
    values::check(&minted.secret).map_err(|unusable| unusable.refuse(name))?;
    let activate = Change::ActivateLease { lease, version: minted.version };
    broker.store.apply(vec![activate]).await.map_err(fault::store)?;
    let place = Place::Lease { session: session.id(), lease };
    let sealed = seal::seal(&minted.secret, session.recipient(), &place).map_err(fault::seal)?;
    flight.land(deadline).map_err(overtaken)?;
    Ok(Granted {
        lease,
        credential: Some(name.clone()),
        credential_type: engine.name().to_owned(),
        scope: permit.scope().clone(),
        issued_at,
        expires_at: permit.expires_at(),
        sealed: Some(sealed),
    })
}

fn record(
    broker: &Broker,
    permit: &Permit,
    engine: &dyn Engine,
    lease: LeaseId,
    receipt: &Receipt,
    issued_at: writ_core::Timestamp,
) -> LeaseRecord {
    LeaseRecord {
        lease,
        session: permit.principal().session,
        boot: broker.boot,
        workload: permit.principal().workload.clone(),
        role: permit.principal().role.clone(),
        target: permit.asked().target.clone(),
        credential: permit.asked().credential.clone(),
        engine: engine.name().to_owned(),
        version: 0,
        scope: permit.scope().clone(),
        receipt: receipt.clone(),
        state: LeaseState::Pending,
        end: None,
        revoked: None,
        issued_at,
        expires_at: permit.expires_at(),
        ended_at: None,
    }
}

/// Waits for an engine, but not for ever.
async fn within<T>(
    name: &writ_core::CredentialName,
    work: BoxFuture<'_, Result<T, EngineFault>>,
) -> Result<T, Refusal> {
    match timeout(MINT_MAX, work).await {
        Ok(done) => done.map_err(|engine| fault::minting(&engine)),
        Err(_) => Err(fault::minting(&EngineFault::Outside {
            credential: name.clone(),
            detail: format!("it took more than {} seconds", MINT_MAX.as_secs()),
        })),
    }
}

fn barred(barred: Barred) -> Refusal {
    match barred {
        Barred::Crowded => Refusal::new(
            RefusalKind::Limit,
            "too many leases are alive at once",
            "end sessions that are not needed (`writ session list`)",
        ),
        Barred::Revoked => revoked(),
    }
}

fn revoked() -> Refusal {
    Refusal::new(
        RefusalKind::LeaseRevoked,
        "an operator revoked this session's lease on the target",
        "start a new run, if the operator agrees",
    )
}

/// What the lease was asked for changed while it was made.
fn overtaken(end: LeaseEnd) -> Refusal {
    match end {
        LeaseEnd::SessionEnded | LeaseEnd::Orphaned => fault::session_over(),
        LeaseEnd::Revoked => revoked(),
        LeaseEnd::Superseded | LeaseEnd::Expired => Refusal::new(
            RefusalKind::LeaseExpired,
            "the credential was replaced while the lease was made",
            "try again: the next request acquires the new version",
        ),
    }
}

fn unopened(fault: StoreFault) -> Refusal {
    match fault {
        // The store knows that the session is over: no lease slips in behind its end.
        StoreFault::Missing(_) | StoreFault::Conflict(_) => fault::session_over(),
        fault => fault::store(fault),
    }
}
