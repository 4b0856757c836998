//! Repairs: each is on record, then durable as the end of a lease, and settled like every other end.
//!
//! An orphan whose lease nobody knows is adopted under the name that it bears; one whose lease has ended already under a new
//! name, since an end is kept. Adopted leases belong to a session of their own that was never open: `writ lease reconcile`.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use writ_api::control::{FindingKind, Mended, Repair};
use writ_audit::{Entry, Outcome};
use writ_core::{
    Authority, LeaseEnd, LeaseId, LeaseState, Level, Receipt, Refusal, RefusalKind, RoleName, Scope,
    SessionId, SpiffeId, TargetName, fault_point,
};

use super::{FINDINGS_MAX, survey, survey::Found};
use crate::{
    broker::Broker,
    door::Unlocked,
    fault,
    leases::{self, Which},
    records,
    store::{Change, LeaseRecord, SessionRecord},
};

/// Orphans that are adopted in one durable step.
const ADOPT_MAX: usize = 64;
/// How long a command waits for what it began; the rest goes on without it.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks at whether it is done.
const WAIT_STEP: Duration = Duration::from_millis(25);

/// What stands for the workload, the role and the target of an adopted lease.
const WORKLOAD: &str = "spiffe://writ.local/reconcile";
const NAME: &str = "reconcile";
/// What stands for where an adopted lease may be used: nowhere (RFC 6761 §6.4).
const NOWHERE: &str = "reconcile.invalid:1";

/// Repairs what is found *now* of `wanted`. In the order of `wanted`.
///
/// # Errors
/// What [`survey`] returns; [`RefusalKind::AuditUnavailable`] before anything is done.
pub(crate) async fn repair(
    broker: &Broker,
    open: &Unlocked,
    uid: u32,
    wanted: &[LeaseId],
) -> Result<Vec<Repair>, Refusal> {
    if wanted.len() > FINDINGS_MAX {
        let why = format!("more than {FINDINGS_MAX} repairs at once");
        return Err(Refusal::new(RefusalKind::Limit, why, "ask for fewer"));
    }
    let _one = broker.operations.reconciling.lock().await;
    let mut found = survey(broker, open).await?.found;
    found.retain(|found| wanted.contains(&found.finding.lease));
    let mut begun = Vec::new();
    let orphans = |found: &&Found| found.finding.kind == FindingKind::Orphan;
    let adopted: Vec<&Found> = found.iter().filter(orphans).collect();
    for some in adopted.chunks(ADOPT_MAX) {
        begun.extend(adopt(broker, open, uid, some).await?);
    }
    for lost in found.iter().filter(|found| !orphans(found)) {
        begun.push(end(broker, open, uid, lost).await?);
    }
    broker.leases.ending.notify_one();
    let until = Instant::now() + WAIT_MAX;
    let mut repairs: Vec<Repair> = Vec::with_capacity(wanted.len());
    for lease in wanted {
        let mut mended = Mended::Agrees;
        for one in begun.iter().filter(|one| one.finding == *lease) {
            mended = worse(mended, outcome(broker, one, until).await);
        }
        repairs.push(Repair { lease: *lease, mended });
    }
    Ok(repairs)
}

/// A repair that is durable, or why it is not.
struct Begun {
    /// The lease that the finding names.
    finding: LeaseId,
    /// The lease that is settled for it.
    lease: LeaseId,
    failed: Option<String>,
}

async fn adopt(broker: &Broker, open: &Unlocked, uid: u32, some: &[&Found]) -> Result<Vec<Begun>, Refusal> {
    let entries = join_all(some.iter().map(|found| records::repair(broker, open, uid, &found.finding))).await;
    let entries = entries.into_iter().collect::<Result<Vec<Entry>, Refusal>>()?;
    fault_point!("reconcile.recorded");
    let done = adopted(broker, uid, some).await;
    fault_point!("reconcile.adopted");
    for entry in entries {
        entry.close(&match &done {
            Ok(_) => Outcome { reason: Some("begun"), ..Outcome::ok() },
            Err(_) => Outcome::failed("store"),
        });
    }
    Ok(match done {
        Ok(begun) => begun,
        Err(refusal) => some
            .iter()
            .map(|found| Begun {
                finding: found.finding.lease,
                lease: found.finding.lease,
                failed: Some(refusal.detail.clone()),
            })
            .collect(),
    })
}

/// Makes it durable, in one step, that `some` must go.
async fn adopted(broker: &Broker, uid: u32, some: &[&Found]) -> Result<Vec<Begun>, Refusal> {
    let at = broker.clock.now();
    let session = SessionId::new(at, &broker.random_bytes()?);
    let mut changes = vec![Change::OpenSession(session_record(broker, uid, session)?)];
    let mut begun = Vec::with_capacity(some.len());
    for found in some {
        let Some(receipt) = &found.receipt else { continue };
        let finding = found.finding.lease;
        let known = broker.store.lease(finding).await.map_err(fault::store)?;
        let twice = begun.iter().any(|begun: &Begun| begun.lease == finding);
        let lease =
            if known.is_some() || twice { LeaseId::new(at, &broker.random_bytes()?) } else { finding };
        changes.push(Change::OpenLease(lease_record(broker, found, receipt, session, lease)?));
        changes.push(Change::RevokeLease { lease, at, end: LeaseEnd::Orphaned });
        begun.push(Begun { finding, lease, failed: None });
    }
    changes.push(Change::EndSession { session, at, end: NAME.to_owned() });
    broker.store.apply(changes).await.map_err(fault::store)?;
    Ok(begun)
}

/// Ends a lease that stands for nothing.
async fn end(broker: &Broker, open: &Unlocked, uid: u32, found: &Found) -> Result<Begun, Refusal> {
    let finding = found.finding.lease;
    let entry = records::repair(broker, open, uid, &found.finding).await?;
    // Whoever owns it: what another daemon on the same store holds is ended there.
    leases::cancel(broker, LeaseEnd::Lost, Which::Lease(finding));
    let ended = leases::finish(broker, LeaseEnd::Lost, &[finding], Vec::new()).await;
    fault_point!("reconcile.lost");
    entry.close(&match &ended {
        Ok(()) => Outcome { reason: Some("begun"), ..Outcome::ok() },
        Err(_) => Outcome::failed("store"),
    });
    Ok(Begun { finding, lease: finding, failed: ended.err().map(|fault| fault.to_string()) })
}

/// Waits for one repair, until `until` at the longest.
async fn outcome(broker: &Broker, begun: &Begun, until: Instant) -> Mended {
    if let Some(why) = &begun.failed {
        return Mended::Failed { why: why.clone() };
    }
    loop {
        match broker.store.lease(begun.lease).await {
            Ok(Some(lease)) if lease.state == LeaseState::Ended => return Mended::Done,
            Ok(_) if Instant::now() < until => sleep(WAIT_STEP).await,
            Ok(_) => return Mended::Begun { why: "upstream has not confirmed it yet".to_owned() },
            Err(fault) => return Mended::Begun { why: fault.to_string() },
        }
    }
}

/// Of two accounts under one lease's name the outcome that matters.
fn worse(one: Mended, other: Mended) -> Mended {
    let weight = |mended: &Mended| match mended {
        Mended::Agrees => 0,
        Mended::Done => 1,
        Mended::Begun { .. } => 2,
        Mended::Failed { .. } => 3,
    };
    if weight(&other) >= weight(&one) { other } else { one }
}

fn session_record(broker: &Broker, uid: u32, session: SessionId) -> Result<SessionRecord, Refusal> {
    let at = broker.clock.now();
    Ok(SessionRecord {
        session,
        boot: broker.boot,
        workload: parsed::<SpiffeId>(WORKLOAD)?,
        role: parsed::<RoleName>(NAME)?,
        requester: format!("uid {uid}"),
        program: "writ lease reconcile".to_owned(),
        directory: String::new(),
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        level: Level::Confined,
        prompt_sha256: None,
        resumed_from: None,
        opened_at: at,
        expires_at: at,
        ended_at: None,
        end: None,
    })
}

fn lease_record(
    broker: &Broker,
    found: &Found,
    receipt: &Receipt,
    session: SessionId,
    lease: LeaseId,
) -> Result<LeaseRecord, Refusal> {
    let at = broker.clock.now();
    Ok(LeaseRecord {
        lease,
        session,
        boot: broker.boot,
        workload: parsed::<SpiffeId>(WORKLOAD)?,
        role: parsed::<RoleName>(NAME)?,
        target: parsed::<TargetName>(NAME)?,
        credential: Some(found.finding.credential.clone()),
        engine: found.engine.clone(),
        version: 0,
        scope: Scope { authority: parsed::<Authority>(NOWHERE)?, grants: Vec::new() },
        receipt: receipt.clone(),
        lane: found.finding.lane.clone(),
        revealed: false,
        state: LeaseState::Pending,
        end: None,
        revoked: None,
        issued_at: at,
        expires_at: at,
        ended_at: None,
    })
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| fault::internal(&error))
}
