//! What the broker writes into the audit log, and the one place where an attempt gets its outcome.
//!
//! *No record, no credential*: [`asked`] resolves when the attempt is on the disk, and nothing is decided before. Whatever
//! happens then, [`Asked::close`] gives the attempt exactly one outcome; a future that is dropped in between ends as
//! `unknown` by the entry's own backstop. Names and ids are recorded, values never.

use std::time::Duration;

use writ_audit::{Attempt, Entry, Kind, Outcome, Verdict};
use writ_core::{
    AcquireAsk, Clock, CredentialName, LeaseEnd, LeaseId, Refusal, RefusalKind, Revoked, RoleName, Scope,
    SessionId,
};

use crate::{
    broker::Broker, config::ResolvedTarget, door::Unlocked, fault, leases::NO_ENGINE, rules::Rules,
    sessions::Facts, start::ORPHANED, store::LeaseRecord,
};

/// The action of an acquisition whose credential is handed to the program.
pub(crate) const REVEAL: &str = "reveal";

/// An attempt that is on the disk and waits for its outcome.
#[must_use = "an attempt needs an outcome"]
pub(crate) struct Asked {
    entry: Entry,
    started: Duration,
}

/// Records that a session asks for a target, durably. `action` is [`REVEAL`] where it asks for what a program is to hold.
pub(crate) async fn asked(
    broker: &Broker,
    open: &Unlocked,
    rules: &Rules,
    ask: &AcquireAsk,
    action: Option<&str>,
) -> Result<Asked, Refusal> {
    let started = broker.clock.boottime();
    let (request, session) = (ask.request.to_string(), ask.session.to_string());
    let known = broker.sessions.known(ask.session);
    let facts = known.as_ref().map(|session| session.facts());
    let target = rules.resolved.target(&ask.target);
    let name = target.and_then(|target| target.credential.as_ref());
    let credential = name.and_then(|name| rules.resolved.credential(name));
    let scope =
        known.as_ref().zip(target).map(|(known, target)| scope(rules, &known.principal().role, target));
    let attempt = Attempt {
        request_id: Some(&request),
        session: Some(&session),
        action,
        target: Some(ask.target.as_str()),
        credential: name.map(CredentialName::as_str),
        credential_type: target
            .map(|_| credential.map_or(NO_ENGINE, |credential| credential.engine.as_str())),
        scope: scope.as_deref(),
        scheme: Some("https"),
        host: target.map(|target| target.authority.host().as_str()),
        port: target.map(|target| target.authority.port()),
        ..attempt(Kind::Acquire, broker, facts)
    };
    let entry = open.log.open_durable(&attempt).await.map_err(|full| fault::log(&full))?;
    Ok(Asked { entry, started })
}

impl Asked {
    /// The outcome.
    pub(crate) fn close(self, clock: &dyn Clock, answer: Result<LeaseId, &Refusal>) {
        let duration = Some(micros(clock.boottime().saturating_sub(self.started)));
        match answer {
            Ok(lease) => {
                let lease = lease.to_string();
                self.entry.close(&Outcome { lease: Some(&lease), duration, ..Outcome::ok() });
            }
            Err(refusal) => self.entry.close(&Outcome { duration, ..refused(refusal.kind) }),
        }
    }
}

/// Records a step in a session's life: `open`, `end`.
pub(crate) fn session(
    broker: &Broker,
    open: &Unlocked,
    facts: &Facts,
    action: &str,
    outcome: &Outcome<'_>,
) -> Result<(), Refusal> {
    let attempt = Attempt { action: Some(action), ..attempt(Kind::Session, broker, Some(facts)) };
    open.log.record(&attempt, outcome).map_err(|full| fault::log(&full))
}

/// Records what another life of the broker left behind.
pub(crate) fn recovered(broker: &Broker, open: &Unlocked, sessions: &[SessionId], leases: &[LeaseId]) {
    for session in sessions {
        let session = session.to_string();
        let attempt =
            Attempt { action: Some("end"), session: Some(&session), ..attempt(Kind::Session, broker, None) };
        lost(open.log.record(&attempt, &Outcome { reason: Some(ORPHANED), ..Outcome::ok() }));
    }
    leases_ended(broker, leases, LeaseEnd::Orphaned, true);
}

/// Records that leases ended. Their end has happened, so a log that is full does not stop it.
pub(crate) fn leases_ended(broker: &Broker, leases: &[LeaseId], end: LeaseEnd, durable: bool) {
    let Some(open) = broker.open_door() else { return };
    for lease in leases {
        let lease = lease.to_string();
        let attempt =
            Attempt { action: Some(end.as_str()), lease: Some(&lease), ..attempt(Kind::Lease, broker, None) };
        let outcome = if durable { Outcome::ok() } else { Outcome::failed("store") };
        lost(open.log.record(&attempt, &outcome));
    }
}

/// Records what an end achieved upstream.
pub(crate) fn lease_settled(
    broker: &Broker,
    open: &Unlocked,
    lease: &LeaseRecord,
    result: Result<Revoked, ()>,
) {
    let (id, session) = (lease.lease.to_string(), lease.session.to_string());
    let attempt = Attempt {
        action: Some("settle"),
        lease: Some(&id),
        session: Some(&session),
        workload: Some(lease.workload.as_str()),
        role: Some(lease.role.as_str()),
        credential: lease.credential.as_ref().map(CredentialName::as_str),
        credential_type: Some(&lease.engine),
        target: Some(lease.target.as_str()),
        ..attempt(Kind::Lease, broker, None)
    };
    let outcome = match result {
        Ok(revoked) => Outcome { reason: Some(achieved(revoked)), ..Outcome::ok() },
        Err(()) => Outcome::failed("not-yet"),
    };
    lost(open.log.record(&attempt, &outcome));
}

/// Records that a role is quarantined on a credential, or is no more.
pub(crate) fn quarantine(broker: &Broker, open: &Unlocked, action: &str, which: &(RoleName, CredentialName)) {
    let (role, credential) = which;
    let attempt = Attempt {
        action: Some(action),
        role: Some(role.as_str()),
        credential: Some(credential.as_str()),
        ..attempt(Kind::Lease, broker, None)
    };
    lost(open.log.record(&attempt, &Outcome::ok()));
}

/// Records an operator's command, durably, before it is done.
pub(crate) async fn command(
    broker: &Broker,
    open: &Unlocked,
    command: Command<'_>,
) -> Result<Entry, Refusal> {
    let requester = format!("uid {}", command.uid);
    let attempt = Attempt {
        action: Some(command.action),
        requester: Some(&requester),
        credential: command.credential,
        session: command.session,
        lease: command.lease,
        ..attempt(Kind::Control, broker, None)
    };
    open.log.open_durable(&attempt).await.map_err(|full| fault::log(&full))
}

/// An operator's command, without its values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Command<'a> {
    pub action: &'a str,
    pub uid: u32,
    pub credential: Option<&'a str>,
    pub session: Option<&'a str>,
    pub lease: Option<&'a str>,
}

/// The outcome that a refusal is: `failed` where writ or the outside could not, `refused` where it would not.
pub(crate) fn refused(kind: RefusalKind) -> Outcome<'static> {
    let verdict = match kind {
        RefusalKind::Internal
        | RefusalKind::AuditUnavailable
        | RefusalKind::BrokerUnavailable
        | RefusalKind::UpstreamFailed => Verdict::Failed,
        _ => Verdict::Refused,
    };
    Outcome { reason: Some(kind.slug()), ..Outcome::new(verdict) }
}

/// The stable word for what a revocation achieved.
pub(crate) const fn achieved(revoked: Revoked) -> &'static str {
    match revoked {
        Revoked::Gone => "gone",
        Revoked::UseBlocked => "use-blocked",
    }
}

pub(crate) fn attempt<'a>(kind: Kind, broker: &Broker, facts: Option<&'a Facts>) -> Attempt<'a> {
    let millis = u64::try_from(broker.clock.now().millis()).unwrap_or(0);
    let attempt = Attempt::new(kind, millis.saturating_mul(1000));
    match facts {
        None => attempt,
        Some(facts) => Attempt {
            workload: facts.workload.as_deref(),
            role: facts.role.as_deref(),
            session: facts.session.as_deref(),
            requester: Some(&facts.requester),
            ..attempt
        },
    }
}

/// What the role's grants at a target amount to: the scope that is asked for.
fn scope(rules: &Rules, role: &RoleName, target: &ResolvedTarget) -> String {
    let grants = rules.resolved.role(role).map(|role| role.grants.as_slice()).unwrap_or_default();
    let grants = grants.iter().filter(|grant| grant.target == target.name).map(|grant| grant.grant.clone());
    Scope { authority: target.authority.clone(), grants: grants.collect() }.to_string()
}

fn lost(recorded: Result<(), writ_audit::LogFault>) {
    if let Err(fault) = recorded {
        tracing::error!(%fault, "an end could not be recorded; it happened nevertheless");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
