//! Acquire: the lease on a target, from the cache or from the broker.
//!
//! The usual way reads one pointer. The slow way asks the broker once, however many requests wait: the first asks, the others get its
//! answer, granted or refused. The question goes on when whoever asked it goes away, because the broker will have made a lease.
//! A lease in the last fifth of its life is renewed beside the requests that go on using it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use writ_api::seal;
use writ_core::{AcquireAsk, Granted, Refusal, RefusalKind, RequestId, Secret};
use writ_detect::{NeedleFault, NeedleSource, Needles};

use crate::{
    lease::{Lease, Parts},
    proxy::Plane,
    refuse::Refused,
    route::Target,
    session::{Route, Session},
    tunnel::Tunnel,
};

/// Longest that the broker may take to decide.
const ACQUIRE_MAX: Duration = Duration::from_secs(60);

/// One question at a time for each target of a session.
#[derive(Default)]
pub(crate) struct Gate {
    turn: Arc<tokio::sync::Mutex<()>>,
    answers: AtomicU64,
    refused: Mutex<Option<Refusal>>,
}

pub(crate) async fn lease(tunnel: &Tunnel, target: &Target) -> Result<Arc<Lease>, Refused> {
    let now = target.came;
    tunnel.plane.live.connected(now)?;
    if let Some(lease) = target.route.slot.load_full()
        && lease.usable(now).is_ok()
    {
        if lease.take_renewal(now) {
            tokio::spawn(ask(
                tunnel.plane.clone(),
                tunnel.session.clone(),
                target.route.clone(),
                target.request,
            ));
        }
        return Ok(lease);
    }
    Ok(first(tunnel, target).await?)
}

async fn first(tunnel: &Tunnel, target: &Target) -> Result<Arc<Lease>, Refusal> {
    let (route, gate) = (&target.route, &target.route.gate);
    let seen = gate.answers.load(Ordering::SeqCst);
    let turn = gate.turn.clone().lock_owned().await;
    if let Some(lease) = route.slot.load_full()
        && lease.usable(tunnel.plane.now()).is_ok()
    {
        return Ok(lease);
    }
    if gate.answers.load(Ordering::SeqCst) != seen
        && let Some(refusal) = gate.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    {
        return Err(refusal);
    }
    let (plane, session, route) = (tunnel.plane.clone(), tunnel.session.clone(), route.clone());
    let request = target.request;
    let task = tokio::spawn(async move {
        let answer = ask(plane, session, route.clone(), request).await;
        *route.gate.refused.lock().unwrap_or_else(PoisonError::into_inner) = answer.as_ref().err().cloned();
        route.gate.answers.fetch_add(1, Ordering::SeqCst);
        drop(turn);
        answer
    });
    task.await.unwrap_or_else(|_| Err(broken("the question to the broker was broken off")))
}

async fn ask(
    plane: Arc<Plane>,
    session: Arc<Session>,
    route: Arc<Route>,
    request: RequestId,
) -> Result<Arc<Lease>, Refusal> {
    let epoch = plane.live.epoch();
    let ask = AcquireAsk { session: session.id, target: route.plan.target.clone(), request };
    let answer = timeout(ACQUIRE_MAX, plane.brokerage.acquire(ask)).await;
    let granted = answer.map_err(|_| {
        Refusal::new(RefusalKind::BrokerUnavailable, "the broker took too long to decide", "try again")
    })??;
    if granted.scope.authority != route.plan.authority || granted.credential != route.plan.credential {
        return Err(broken("the broker granted another credential or another host than was asked for"));
    }
    let parts = prepare(&session, &route, &granted)?;
    let lease = Arc::new(Lease::new(&granted, parts, plane.now()));
    plane.live.install(epoch, &session, &route, lease)
}

/// Opens the credential, once, and makes of it what requests and answers need.
fn prepare(session: &Session, route: &Route, granted: &Granted) -> Result<Parts, Refusal> {
    let (credential, sealed) = match (&granted.credential, &granted.sealed) {
        (Some(credential), Some(sealed)) => (credential, sealed),
        (None, None) => return without_credential(),
        // The program holds it: nothing of it passes here but bytes.
        (Some(_), None) if route.plan.reveals() => return without_credential(),
        _ => return Err(broken("the broker granted half a credential")),
    };
    let place = seal::Place::Lease { session: session.id, lease: granted.lease };
    let secret = session
        .recipient
        .open(sealed, &place)
        .map_err(|_| broken("the credential does not open for this session"))?;
    let mut rendered = Vec::with_capacity(route.places.len());
    for declared in &route.places {
        let one = declared.injector.render(&declared.place, &secret);
        rendered.push(one.map_err(|fault| unusable(route, &fault.to_string()))?);
    }
    let replacement = format!("[writ:{credential}]");
    let mut forms: Vec<&[u8]> =
        rendered.iter().flat_map(|one| one.forms.iter().map(Secret::expose)).collect();
    forms.sort_unstable();
    forms.dedup();
    let sources: Vec<NeedleSource<'_>> =
        forms.into_iter().map(|value| NeedleSource { value, replacement: replacement.as_bytes() }).collect();
    let needles = Needles::same_length(&sources).map_err(|fault| match fault {
        NeedleFault::TooShort { .. } => unusable(route, "it is too short to be found again in an answer"),
        _ => unusable(route, "it is too long, or has too many forms, to be found again in an answer"),
    })?;
    Ok(Parts { rendered, needles: Arc::new(needles) })
}

/// What a lease without a credential is made of: nothing to put in, and nothing to find again.
fn without_credential() -> Result<Parts, Refusal> {
    let needles = Needles::new(&[]).map_err(|_| broken("the search for nothing cannot be made"))?;
    Ok(Parts { rendered: Vec::new(), needles: Arc::new(needles) })
}

fn unusable(route: &Route, why: &str) -> Refusal {
    let detail = format!("the credential of target {} cannot be used: {why}", route.plan.target);
    Refusal::new(
        RefusalKind::NoCredential,
        detail,
        "ask the operator to set it again with `writ credential set`",
    )
}

fn broken(detail: &str) -> Refusal {
    Refusal::new(RefusalKind::Internal, detail, "try again; if it stays, see `writ doctor`")
}
