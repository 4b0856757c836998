//! Sessions: one run of an agent each, bound to the peer that opened it.
//!
//! ```text
//!   open   attest ─► register ─► record ─► data plane ─► alive        (open.rs)
//!   end    marked ─► durable, with its leases ─► told ─► recorded      (end.rs)
//! ```
//!
//! A session is alive in memory or it is over. One that is unknown, one that is over and one that belongs to somebody else get
//! the same answer. A new life of the broker
//! ends what the last one left, and a launcher whose program lives on opens anew and says so (resume.rs).

mod answer;
mod doors;
mod end;
mod extend;
mod open;
mod prepare;
mod prompt;
mod resume;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};
use writ_api::run::FromBroker;
use writ_core::{
    Clock, Context, Granted, Level, Principal, RecipientKey, Refusal, RoutePlan, SessionId, TargetName,
};

pub(crate) use doors::Doors;
pub(crate) use end::{End, end, finish_ending};
pub(crate) use extend::extend;
pub(crate) use open::open;
pub(crate) use prepare::Peer;
pub(crate) use prompt::hex;

use crate::{deadline::Deadline, fault};

/// Sessions at once.
pub(crate) const SESSIONS_MAX: usize = 256;
/// Lines for the launcher that wait; more are lost.
const LINES_MAX: usize = 64;

/// The sessions of this life of the broker.
#[derive(Default)]
pub(crate) struct Sessions {
    alive: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Over, but not durably so yet.
    ending: Mutex<HashMap<SessionId, String>>,
}

/// One session that is alive.
pub(crate) struct Session {
    principal: Principal,
    level: Level,
    prompt_sha256: Option<String>,
    deadline: Deadline,
    recipient: RecipientKey,
    /// The cookie of its network namespace, if it has one of its own.
    network: Option<u64>,
    facts: Arc<Facts>,
    /// Where the data plane was told that each target is. What has changed since needs a new session.
    routes: HashMap<TargetName, RoutePlan>,
    /// What its program holds: leases without their secrets.
    revealed: Mutex<HashMap<TargetName, Granted>>,
    lines: mpsc::Sender<FromBroker>,
    over: watch::Sender<Option<String>>,
}

/// What the log says of whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub workload: Option<String>,
    pub role: Option<String>,
    pub session: Option<String>,
    pub requester: String,
}

/// The launcher's end of a session.
pub(crate) struct Attached {
    pub session: SessionId,
    pub lines: mpsc::Receiver<FromBroker>,
    /// What may be added.
    pub doors: Doors,
    /// Why it is over, once it is.
    pub over: watch::Receiver<Option<String>>,
}

impl Sessions {
    /// The session, if it is alive now.
    ///
    /// # Errors
    /// One answer for unknown, ended and expired.
    pub(crate) fn identify(&self, session: SessionId, clock: &dyn Clock) -> Result<Arc<Session>, Refusal> {
        let found = self.alive().get(&session).cloned();
        found.filter(|session| !session.deadline.has_passed(clock)).ok_or_else(fault::session_over)
    }

    /// A session that the log may speak of, whether its time is up or not.
    pub(crate) fn known(&self, session: SessionId) -> Option<Arc<Session>> {
        self.alive().get(&session).cloned()
    }

    /// A line for the person who watches the run; lost rather than waited for.
    pub(crate) fn tell(&self, session: SessionId, text: String) {
        if let Some(session) = self.alive().get(&session) {
            let _ = session.lines.try_send(FromBroker::Said { text });
        }
    }

    pub(crate) fn all(&self) -> Vec<SessionId> {
        self.alive().keys().copied().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.alive().len()
    }

    /// Whether a session that is alive has that network namespace for its own.
    pub(crate) fn has_network(&self, network: u64) -> bool {
        self.alive().values().any(|session| session.network == Some(network))
    }

    /// Those below `confined`: their agents can reach what their user can.
    pub(crate) fn below_confined(&self) -> usize {
        self.alive().values().filter(|session| session.level < Level::Confined).count()
    }

    /// Those whose time is up.
    pub(crate) fn expired(&self, clock: &dyn Clock) -> Vec<SessionId> {
        let alive = self.alive();
        alive.values().filter(|session| session.deadline.has_passed(clock)).map(|one| one.id()).collect()
    }

    /// How long until the next session may expire.
    pub(crate) fn next(&self, clock: &dyn Clock) -> Option<std::time::Duration> {
        self.alive().values().map(|session| session.deadline.left(clock)).min()
    }

    fn alive(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> MutexGuard<'_, HashMap<SessionId, String>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Sessions {
    /// A session like `known`, for a benchmark that needs more of them than a daemon has.
    pub(crate) fn double(&self, known: SessionId, session: SessionId) {
        let known = self.known(known).unwrap();
        let double = Session {
            principal: Principal { session, ..known.principal.clone() },
            level: known.level,
            prompt_sha256: known.prompt_sha256.clone(),
            deadline: known.deadline,
            recipient: known.recipient.clone(),
            network: known.network,
            facts: known.facts.clone(),
            routes: known.routes.clone(),
            revealed: Mutex::default(),
            lines: known.lines.clone(),
            over: watch::Sender::new(None),
        };
        self.alive().insert(session, Arc::new(double));
    }
}

impl Session {
    pub(crate) fn id(&self) -> SessionId {
        self.principal.session
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn recipient(&self) -> &RecipientKey {
        &self.recipient
    }

    /// Notes what its program was given.
    pub(crate) fn reveals(&self, target: TargetName, granted: Granted) {
        self.revealed.lock().unwrap_or_else(PoisonError::into_inner).insert(target, granted);
    }

    /// What its program was given for a target.
    pub(crate) fn revealed(&self, target: &TargetName) -> Option<Granted> {
        self.revealed.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned()
    }

    /// The circumstances of a question that this session asks now.
    pub(crate) fn context(&self, clock: &dyn Clock) -> Context {
        Context {
            now: clock.now(),
            level: self.level,
            requester: self.facts.requester.clone(),
            prompt_sha256: self.prompt_sha256.clone(),
            session_expires_at: self.deadline.at,
        }
    }

    /// Whether the data plane still serves `target` as the rules have it now.
    ///
    /// # Errors
    /// [`writ_core::RefusalKind::Denied`] when the target is elsewhere since the session began, or was added later.
    pub(crate) fn still_serves(&self, route: &RoutePlan) -> Result<(), Refusal> {
        match self.routes.get(&route.target) {
            Some(known) if known == route => Ok(()),
            _ => Err(Refusal::new(
                writ_core::RefusalKind::Denied,
                format!("the target {} was changed or added since this session began", route.target),
                "start a new run",
            )),
        }
    }
}
