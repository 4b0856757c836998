//! The opening of a session: who is at the other end, what may it be, and what does it get.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use writ_api::run::{FromBroker, Open, Opened};
use writ_audit::{Attempt, Kind, Outcome};
use writ_core::{
    Door, Principal, Refusal, RefusalKind, Secret, SessionId, SessionPlan, SessionReady, fault_point,
};

use super::{
    Attached, End, Facts, LINES_MAX, Peer, Session, answer, end,
    prepare::{Prepared, prepare, user_name},
    resume,
};
use crate::{broker::Broker, door::Unlocked, fault, leases, records, store::Change};

/// The longest that the data plane may take to serve a listener.
const SERVE_MAX: Duration = Duration::from_secs(10);

/// Opens a session for `peer`, which is reached through `doors`.
///
/// # Errors
/// A refusal, whose reason is recorded.
pub(crate) async fn open(
    broker: &Broker,
    peer: &Peer,
    ask: &Open,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<(Opened, Attached), Refusal> {
    let door = broker.unlocked()?;
    let prepared = prepare(broker, door, peer, ask, &doors).await;
    let facts = Arc::new(facts(peer, prepared.as_ref().ok()));
    let resumed = ask.resumed_from.map(|old| format!("resumed_from {old}"));
    let wanted = prepared.as_ref().ok().map(|prepared| (prepared.rules.clone(), prepared.targets.clone()));
    let recorded = door.log.open_durable(&Attempt {
        action: Some("open"),
        scope: resumed.as_deref(),
        ..records::attempt(Kind::Session, broker, Some(&facts))
    });
    // Two files, and neither needs the other's: what has an effect waits for both.
    let (entry, prepared) = tokio::join!(recorded, keep(broker, prepared));
    let entry = match entry {
        Ok(entry) => entry,
        Err(full) => {
            if let Ok(prepared) = &prepared {
                unserved(broker, prepared.record.session).await;
            }
            return Err(fault::log(&full));
        }
    };
    let opened = match prepared {
        Ok(prepared) => establish(broker, door, ask, prepared, facts, doors).await,
        Err(refusal) => Err(refusal),
    };
    match &opened {
        Ok(_) => entry.close(&Outcome::ok()),
        Err(refusal) => entry.close(&records::refused(refusal.kind)),
    }
    let (mut opened, mut attached) = opened?;
    if let (Some((rules, targets)), Some(recipient)) = (wanted, &ask.recipient) {
        opened.revealed = leases::reveal(broker, door, &rules, &targets, opened.session, recipient).await;
        attached.doors.login = opened.revealed.iter().map(|one| one.authority.clone()).collect();
    }
    Ok((opened, attached))
}

/// Makes it durable.
async fn keep(broker: &Broker, prepared: Result<Prepared, Refusal>) -> Result<Prepared, Refusal> {
    let prepared = prepared?;
    let change = Change::OpenSession(prepared.record.clone());
    broker.store.apply(vec![change]).await.map_err(fault::store)?;
    fault_point!("session.opened");
    Ok(prepared)
}

/// Has it served, and hands it over.
async fn establish(
    broker: &Broker,
    door: &Unlocked,
    ask: &Open,
    mut prepared: Prepared,
    facts: Arc<Facts>,
    sockets: Vec<(Door, OwnedFd)>,
) -> Result<(Opened, Attached), Refusal> {
    let session = prepared.record.session;
    let plan = answer::plan(broker, door, ask, &prepared);
    let routes = plan.routes.clone();
    prepared.doors.local.clone_from(&plan.local);
    let mut ready = match serve(broker, plan, prepared.kept.take(), sockets).await {
        Ok(ready) => ready,
        Err(refusal) => {
            unserved(broker, session).await;
            return Err(refusal);
        }
    };
    if prepared.doors.network().is_none() {
        ready.named.clear();
    }
    let (lines, receiver) = mpsc::channel(LINES_MAX);
    let over = watch::Sender::new(None);
    for text in std::mem::take(&mut prepared.said) {
        let _ = lines.try_send(FromBroker::Said { text });
    }
    let keepsake = resume::keepsake(broker, door, session, &ready);
    let mut opened = answer::opened(door, ask, &prepared, ready.clone());
    let Prepared { record, deadline, mut doors, .. } = prepared;
    doors.named = ready.named;
    let network = doors.network();
    let attached = Attached { session, lines: receiver, doors, over: over.subscribe() };
    let alive = Session {
        principal: Principal { workload: record.workload, session, role: record.role },
        level: record.level,
        prompt_sha256: record.prompt_sha256,
        deadline,
        recipient: ready.recipient,
        network,
        facts,
        routes: routes.into_iter().map(|route| (route.target.clone(), route)).collect(),
        revealed: std::sync::Mutex::default(),
        lines,
        over,
    };
    broker.sessions.alive().insert(session, Arc::new(alive));
    // Whoever stops the broker ends the sessions that it sees; one that comes after is ended here.
    if broker.is_stopping() {
        let _ = end(broker, session, End::Stopped).await;
        return Err(fault::stopping());
    }
    match keepsake {
        Ok(keepsake) => opened.keepsake = keepsake,
        Err(refusal) => {
            let _ = end(broker, session, End::Unserved).await;
            return Err(refusal);
        }
    }
    Ok((opened, attached))
}

async fn unserved(broker: &Broker, session: SessionId) {
    let (at, end) = (broker.clock.now(), End::Unserved.as_str().to_owned());
    if let Err(fault) = broker.store.apply(vec![Change::EndSession { session, at, end }]).await {
        tracing::error!(%fault, "a session that was not served could not be ended in the store");
    }
}

async fn serve(
    broker: &Broker,
    mut plan: SessionPlan,
    kept: Option<Secret>,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<SessionReady, Refusal> {
    let unserved = |why: String| Refusal::new(RefusalKind::BrokerUnavailable, why, "try again");
    let served = timeout(SERVE_MAX, async {
        match broker.data_plane().await {
            Some(data_plane) => {
                plan.authority = resume::passed_on(data_plane.as_ref(), plan.session, kept.as_ref())?;
                data_plane.open(plan, doors).await.map_err(|fault| unserved(fault.to_string()))
            }
            None => Err(fault::stopping()),
        }
    });
    served.await.unwrap_or_else(|_| Err(unserved("the proxy did not serve the session in time".to_owned())))
}

fn facts(peer: &Peer, prepared: Option<&Prepared>) -> Facts {
    let record = prepared.map(|prepared| &prepared.record);
    Facts {
        workload: record.map(|record| record.workload.to_string()),
        role: record.map(|record| record.role.to_string()),
        session: record.map(|record| record.session.to_string()),
        requester: record.map_or_else(|| user_name(peer.uid), |record| record.requester.clone()),
    }
}
