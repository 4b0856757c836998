//! Revealed leases: logins that the session's program holds, made when the session opens.
//!
//! ```text
//!   session alive ─► per target, all at once:  attempt durable ─► authorize(reveal) ─► issue ─► sealed to the launcher
//!                                              exactly one outcome, whatever happens
//!   data plane ─► acquire ─► held: the same lease, no secret, nothing made
//! ```
//!
//! A login that cannot be had is a line for the person, not the end of the run: the program may do without it. What is revealed ends
//! with its lease, like every credential: revocation cuts the connections that lead through the session's doors, and the engine
//! removes the login upstream.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::timeout;
use writ_api::run::Revealed;
use writ_core::{
    AcquireAsk, Action, Asked, Granted, Permit, RecipientKey, Refusal, RefusalKind, RequestId, Reveal,
    SessionId, authorize,
};

use super::issue::{Made, issue_to, revoked};
use crate::{broker::Broker, config::ResolvedTarget, confirm, door::Unlocked, records, rules::Rules};

/// The longest that a run waits for its logins: a person sits before it.
const REVEAL_MAX: Duration = Duration::from_secs(15);
/// Where an engine's own table says how its server is verified, as all engines write it.
const TLS: &str = "tls";
const TLS_DISABLED: &str = "disable";
const TLS_CA: &str = "tls_ca";

/// Makes the logins of a session that is alive, all at once, sealed to `recipient`. Whoever watches the run is told of those that
/// are missing.
pub(crate) async fn reveal(
    broker: &Broker,
    open: &Unlocked,
    rules: &Rules,
    targets: &[Arc<ResolvedTarget>],
    session: SessionId,
    recipient: &RecipientKey,
) -> Vec<Revealed> {
    let wanted = targets.iter().filter_map(|target| Some((target, target.reveal?)));
    let made = join_all(wanted.map(async |(target, how)| {
        let made = recorded(broker, open, rules, target, session, how, recipient).await;
        made.map_err(|refusal| (target, refusal))
    }));
    let mut revealed = Vec::new();
    for made in made.await {
        match made {
            Ok(one) => revealed.push(one),
            Err((target, refusal)) => broker.sessions.tell(session, missing(target, &refusal)),
        }
    }
    revealed
}

/// The lease that the session's program holds for a target, as it stands now. No secret.
///
/// # Errors
/// [`RefusalKind::LeaseRevoked`]; [`RefusalKind::NoCredential`] where the program holds none.
pub(crate) fn held(
    broker: &Broker,
    session: &crate::sessions::Session,
    permit: &Permit,
) -> Result<Granted, Refusal> {
    let target = &permit.asked().target;
    if broker.leases.is_barred(&session.id(), target) {
        return Err(revoked());
    }
    let known = session.revealed(target);
    let clock = broker.clock.as_ref();
    let alive = known.and_then(|known| Some((broker.leases.expires_at(&known.lease, clock)?, known)));
    match alive {
        Some((expires_at, known)) => Ok(Granted { expires_at, ..known }),
        None => Err(Refusal::new(
            RefusalKind::NoCredential,
            format!("the program of this session holds no login for {target}"),
            "start a new run",
        )),
    }
}

async fn recorded(
    broker: &Broker,
    open: &Unlocked,
    rules: &Rules,
    target: &ResolvedTarget,
    session: SessionId,
    how: Reveal,
    recipient: &RecipientKey,
) -> Result<Revealed, Refusal> {
    let request = RequestId::new(broker.clock.now(), &broker.random_bytes()?);
    let ask = AcquireAsk { session, target: target.name.clone(), request };
    let asked = records::asked(broker, open, rules, &ask, Some(records::REVEAL)).await?;
    let made = timeout(REVEAL_MAX, made(broker, open, rules, target, session, how, recipient)).await;
    let made = made.unwrap_or_else(|_| Err(slow()));
    asked.close(broker.clock.as_ref(), made.as_ref().map(|one| one.lease));
    made
}

async fn made(
    broker: &Broker,
    open: &Unlocked,
    rules: &Rules,
    target: &ResolvedTarget,
    session: SessionId,
    how: Reveal,
    recipient: &RecipientKey,
) -> Result<Revealed, Refusal> {
    let session = broker.sessions.identify(session, broker.clock.as_ref())?;
    let Some(name) = &target.credential else { return Err(no_login(target)) };
    let credential = rules.credential(name)?;
    let asked = Asked { action: Action::Reveal, target: target.name.clone(), credential: Some(name.clone()) };
    let context = session.context(broker.clock.as_ref());
    let permit = authorize(&rules.policy, session.principal(), &asked, &context)?;
    confirm::check(broker.store.as_ref(), target, credential).await?;
    let made = issue_to(broker, open, &session, &permit, Some(credential), recipient).await?;
    let Made { mut granted, login: Some(login) } = made else { return Err(no_login(target)) };
    let Some(sealed) = granted.sealed.take() else { return Err(no_login(target)) };
    let own = |key: &str| credential.engine_config.get(key).and_then(Value::as_str);
    let revealed = Revealed {
        target: target.name.clone(),
        credential: credential.name.clone(),
        lease: granted.lease,
        reveal: how,
        env: credential.env.clone(),
        authority: target.authority.clone(),
        tls: own(TLS) != Some(TLS_DISABLED),
        tls_ca: target.tls_ca.clone().or_else(|| own(TLS_CA).map(str::to_owned)),
        login,
        expires_at: granted.expires_at,
        sealed,
    };
    session.reveals(target.name.clone(), granted);
    Ok(revealed)
}

/// What the person is told of a login that could not be had.
fn missing(target: &ResolvedTarget, refusal: &Refusal) -> String {
    format!("no login for {}: {}; {}", target.name, refusal.detail, refusal.next)
}

fn no_login(target: &ResolvedTarget) -> Refusal {
    Refusal::new(
        RefusalKind::NoCredential,
        format!("the credential of {} is no login", target.name),
        "ask the operator to mend writ.toml",
    )
}

fn slow() -> Refusal {
    Refusal::new(
        RefusalKind::NoCredential,
        format!("the server gave no login within {} seconds", REVEAL_MAX.as_secs()),
        "see whether the server answers, then start a new run",
    )
}
