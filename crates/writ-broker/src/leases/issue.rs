//! One lease, from a permit to the sealed credential.

use std::time::Duration;

use tokio::time::timeout;
use writ_api::seal::{self, Place};
use writ_core::{
    Action, BoxFuture, Engine, EngineFault, Granted, LeaseEnd, LeaseId, LeaseState, Login, Minted, Permit,
    Receipt, RecipientKey, Refusal, RefusalKind, Tools, fault_point,
};

use super::{
    BrokerTools,
    table::{Barred, Booking},
};
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
/// What stands for the engine of a lease without a credential.
pub(crate) const NO_ENGINE: &str = "none";
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
    credential: Option<&ResolvedCredential>,
) -> Result<Granted, Refusal> {
    let made = issue_to(broker, open, session, permit, credential, session.recipient()).await?;
    Ok(made.granted)
}

/// The same, sealed to a key of whoever is to have it.
pub(super) async fn issue_to(
    broker: &Broker,
    open: &Unlocked,
    session: &Session,
    permit: &Permit,
    credential: Option<&ResolvedCredential>,
    recipient: &RecipientKey,
) -> Result<Made, Refusal> {
    if let Some(credential) = credential {
        broker.quarantines.check(&permit.principal().role, &credential.name)?;
    }
    for _ in 1..ATTEMPTS {
        match attempt(broker, open, session, permit, credential, recipient).await {
            // Only a replaced credential ends a flight so.
            Err(refusal) if refusal.kind == RefusalKind::LeaseExpired => {}
            answer => return answer,
        }
    }
    attempt(broker, open, session, permit, credential, recipient).await
}

/// A lease, and whose account its secret opens.
pub(super) struct Made {
    pub granted: Granted,
    pub login: Option<Login>,
}

async fn attempt(
    broker: &Broker,
    open: &Unlocked,
    session: &Session,
    permit: &Permit,
    credential: Option<&ResolvedCredential>,
    recipient: &RecipientKey,
) -> Result<Made, Refusal> {
    let maker = Maker::of(broker, credential)?;
    let quota = broker.rules.in_force()?.role(&permit.principal().role)?.quota;
    let tools = BrokerTools { broker, open };
    let issued_at = broker.clock.now();
    let lease = LeaseId::new(issued_at, &broker.random_bytes()?);
    let booking = Booking {
        lease,
        principal: permit.principal(),
        target: &permit.asked().target,
        credential: permit.asked().credential.as_ref(),
        revealed: permit.asked().action == Action::Reveal,
        quota,
    };
    let flight =
        broker.leases.take_off(&booking, broker.clock.as_ref()).map_err(|why| barred(permit, why))?;
    // Again, now that whoever ends the session sees the flight.
    broker.sessions.identify(session.id(), broker.clock.as_ref())?;
    let deadline = Deadline::new(broker.clock.as_ref(), permit.expires_at());
    if deadline.has_passed(broker.clock.as_ref()) {
        return Err(fault::session_over());
    }

    let receipt = maker.plan(permit, lease, &tools).await?;
    let record = record(broker, permit, maker, lease, &receipt, issued_at);
    let lane = record.lane.clone();
    fault_point!("issue.planned");
    broker.store.apply(vec![Change::OpenLease(record)]).await.map_err(unopened)?;
    fault_point!("issue.opened");
    let minted = maker.mint(permit, &receipt, &tools).await?;
    fault_point!("issue.minted");
    if broker.lanes.reached(&lane) {
        broker.leases.ending.notify_one();
    }
    let activate = Change::ActivateLease {
        lease,
        version: minted.as_ref().map_or(0, |made| made.version),
        receipt: minted.as_ref().and_then(|made| made.receipt.clone()),
    };
    broker.store.apply(vec![activate]).await.map_err(fault::store)?;
    fault_point!("issue.activated");
    let place = Place::Lease { session: session.id(), lease };
    let sealed = minted.as_ref().map(|made| seal::seal(&made.secret, recipient, &place));
    let sealed = sealed.transpose().map_err(fault::seal)?;
    flight.land(deadline, broker.clock.as_ref()).map_err(overtaken)?;
    fault_point!("issue.landed");
    let granted = Granted {
        lease,
        credential: permit.asked().credential.clone(),
        credential_type: maker.name().to_owned(),
        scope: permit.scope().clone(),
        issued_at,
        expires_at: permit.expires_at(),
        sealed,
    };
    Ok(Made { granted, login: minted.and_then(|made| made.login) })
}

/// Where what a lease hands out comes from.
#[derive(Clone, Copy)]
enum Maker<'a> {
    Engine(&'a dyn Engine, &'a ResolvedCredential),
    /// The target takes no credential: the lease is a scope and a life.
    Nothing,
}

impl<'a> Maker<'a> {
    fn of(broker: &'a Broker, credential: Option<&'a ResolvedCredential>) -> Result<Self, Refusal> {
        let Some(credential) = credential else { return Ok(Self::Nothing) };
        let engine = broker.engines.engine(&credential.engine);
        let engine = engine.ok_or_else(|| fault::engine(&credential.name))?;
        Ok(Self::Engine(engine, credential))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Engine(engine, _) => engine.name(),
            Self::Nothing => NO_ENGINE,
        }
    }

    fn lane(self, receipt: &Receipt) -> String {
        match self {
            Self::Engine(engine, _) => engine.lane(receipt),
            Self::Nothing => NO_ENGINE.to_owned(),
        }
    }

    async fn plan(self, permit: &Permit, lease: LeaseId, tools: &dyn Tools) -> Result<Receipt, Refusal> {
        match self {
            Self::Engine(engine, of) => {
                within(&of.name, engine.plan(permit, lease, &of.engine_config, tools)).await
            }
            Self::Nothing => Ok(Receipt(serde_json::Value::Null)),
        }
    }

    /// What was made, usable.
    async fn mint(
        self,
        permit: &Permit,
        receipt: &Receipt,
        tools: &dyn Tools,
    ) -> Result<Option<Minted>, Refusal> {
        let Self::Engine(engine, of) = self else { return Ok(None) };
        let minted = within(&of.name, engine.mint(permit, receipt, &of.engine_config, tools)).await?;
        values::check(&minted.secret).map_err(|unusable| unusable.refuse(&of.name))?;
        Ok(Some(minted))
    }
}

fn record(
    broker: &Broker,
    permit: &Permit,
    maker: Maker<'_>,
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
        engine: maker.name().to_owned(),
        version: 0,
        scope: permit.scope().clone(),
        receipt: receipt.clone(),
        lane: maker.lane(receipt),
        revealed: permit.asked().action == Action::Reveal,
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

fn barred(permit: &Permit, barred: Barred) -> Refusal {
    let role = &permit.principal().role;
    match barred {
        Barred::Crowded => Refusal::new(
            RefusalKind::Limit,
            "too many leases are alive at once",
            "end sessions that are not needed (`writ session list`)",
        ),
        Barred::Quota { leases_max } => Refusal::new(
            RefusalKind::Limit,
            format!("the role {role} has {leases_max} leases alive for this workload, its `leases_max`"),
            "try again when one has ended, or ask the operator to raise `leases_max` of the role",
        ),
        Barred::Rate { rate, wait } => Refusal::new(
            RefusalKind::Limit,
            format!("the role {role} took {rate} leases for this workload, its `issue_rate`"),
            format!(
                "try again in {} s, or ask the operator to raise `issue_rate` of the role",
                wait.as_millis().div_ceil(1000).max(1)
            ),
        ),
        Barred::Revoked => revoked(),
    }
}

pub(super) fn revoked() -> Refusal {
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
