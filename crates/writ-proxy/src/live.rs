//! What is alive: the leases held here, and the broker behind them.
//!
//! ```text
//!   broker ─watch─► Revoked, SessionEnded   mark the lease, cut its connections on both sides
//!                   Expired                 mark the lease; an open response gets a minute
//!                   nothing for 3 s         mark all leases lost, cut everything, refuse until it speaks again
//! ```
//!
//! Invariant: a lease enters [`Live`] before any request can use it, and a notice about it that came first is remembered, so that no
//! order of acquisition and revocation leaves it alive.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use writ_core::{Clock, LeaseId, Notice, Refusal, RefusalKind, WatchAnswer, WatchAsk};

use crate::{
    lease::{Lease, Life, Now},
    proxy::Plane,
    session::{Route, Session},
};

/// Silence of the broker after which nothing is used any more.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often silence and grace are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Pause after the broker could not be reached.
const RETRY: Duration = Duration::from_millis(100);
/// Ends that are remembered for leases still on their way here.
const ENDED_MAX: usize = 4096;

/// Everything the watch loop needs to know about leases.
pub(crate) struct Live {
    heard: AtomicU64,
    lost: AtomicBool,
    epoch: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    leases: HashMap<LeaseId, Holding>,
    ended: VecDeque<(LeaseId, Life)>,
}

struct Holding {
    lease: Arc<Lease>,
    route: Weak<Route>,
    session: Weak<Session>,
}

impl Live {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        let heard = AtomicU64::new(millis(clock.boottime()));
        Self { heard, lost: AtomicBool::new(false), epoch: AtomicU64::new(0), held: Mutex::default() }
    }

    /// The present world. A lease that was asked for in another is not taken in.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether the broker spoke lately. Judged at use, so that a loop that slept cannot extend a life.
    pub(crate) fn connected(&self, now: Now) -> Result<(), Refusal> {
        let silent =
            millis(now.boot).saturating_sub(self.heard.load(Ordering::Relaxed)) > millis(SILENCE_MAX);
        if silent || self.lost.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }

    /// Takes a fresh lease in, unless it ended on its way here. One that is held already, and that the broker renewed, lives on as
    /// the one that is held.
    pub(crate) fn install(
        &self,
        epoch: u64,
        session: &Arc<Session>,
        route: &Arc<Route>,
        lease: Arc<Lease>,
    ) -> Result<Arc<Lease>, Refusal> {
        let mut held = self.held();
        if let Some((_, life)) = held.ended.iter().find(|(id, _)| *id == lease.id) {
            lease.end(*life);
        }
        if self.epoch() != epoch {
            return Err(lost());
        }
        if session.is_over() {
            lease.end(Life::SessionEnded);
        }
        if let Some(known) = held.leases.get(&lease.id)
            && known.lease.life() == Life::Alive
            && lease.life() == Life::Alive
        {
            known.lease.prolong(&lease);
            route.slot.store(Some(known.lease.clone()));
            return Ok(known.lease.clone());
        }
        let holding =
            Holding { lease: lease.clone(), route: Arc::downgrade(route), session: Arc::downgrade(session) };
        if lease.life() == Life::Alive {
            held.leases.insert(lease.id, holding);
            route.slot.store(Some(lease.clone()));
        }
        Ok(lease)
    }

    fn end_lease(&self, id: LeaseId, life: Life) {
        let ended = {
            let mut held = self.held();
            if held.ended.len() >= ENDED_MAX {
                held.ended.pop_front();
            }
            held.ended.push_back((id, life));
            match held.leases.get(&id) {
                Some(holding) => {
                    holding.lease.end(life);
                    // An expired lease stays known until its grace is over.
                    (life != Life::Expired).then(|| held.leases.remove(&id)).flatten()
                }
                None => None,
            }
        };
        if let Some(holding) = ended {
            holding.cut();
        }
    }

    /// Drops every lease. With `silent`, refuses until the broker speaks again.
    fn lose(&self, silent: bool) {
        let all: Vec<Holding> = {
            let mut held = self.held();
            self.epoch.fetch_add(1, Ordering::SeqCst);
            self.lost.store(silent, Ordering::SeqCst);
            held.ended.clear();
            held.leases.drain().map(|(_, holding)| holding).collect()
        };
        for holding in all {
            holding.lease.end(Life::Lost);
            holding.cut();
        }
    }

    /// Forgets the leases of a session that is over. Its connections are cut by the session itself.
    pub(crate) fn end_session(&self, session: &Arc<Session>) {
        let mut held = self.held();
        held.leases.retain(|_, holding| {
            let ours = std::ptr::eq(holding.session.as_ptr(), Arc::as_ptr(session));
            if ours {
                holding.lease.end(Life::SessionEnded);
            }
            !ours
        });
    }

    /// Forgets leases whose time, and whose responses' grace, is over.
    fn expire(&self, now: Now) {
        let over: Vec<Holding> = {
            let mut held = self.held();
            for holding in held.leases.values().filter(|holding| !holding.lease.within_ttl(now)) {
                holding.lease.end(Life::Expired);
            }
            let ids: Vec<LeaseId> =
                held.leases.iter().filter(|(_, one)| one.lease.past_grace(now)).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| held.leases.remove(id)).collect()
        };
        for holding in over {
            holding.finish();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    /// Cuts whatever is open under this lease, on both sides.
    fn cut(&self) {
        self.finish();
        if let Some(route) = self.route.upgrade() {
            route.cut();
        }
    }

    /// Cuts the agent's connections that are open under this lease. What they held of upstream connections closes with them; others may
    /// serve the lease that came after this one, and stay.
    fn finish(&self) {
        if let Some(session) = self.session.upgrade() {
            session.cut(&self.lease);
        }
        if let Some(route) = self.route.upgrade() {
            route.forget(&self.lease);
        }
    }
}

/// Listens to the broker for as long as the proxy runs.
pub(crate) async fn watch(plane: Arc<Plane>) {
    let mut since = 0;
    loop {
        let answer = {
            let mut news = plane.brokerage.watch(WatchAsk { since });
            loop {
                tokio::select! {
                    answer = &mut news => break answer,
                    () = sleep(TICK) => tick(&plane, &mut since),
                }
            }
        };
        match answer {
            Ok(answer) => since = hear(&plane, answer),
            Err(_) => sleep(RETRY).await,
        }
        tick(&plane, &mut since);
    }
}

fn hear(plane: &Plane, answer: WatchAnswer) -> u64 {
    if answer.missed {
        plane.live.lose(false);
    }
    for notice in answer.notices {
        match notice {
            Notice::LeaseEnded { lease, end } => plane.live.end_lease(lease, end.into()),
            Notice::SessionEnded { session } => plane.end_session(session),
        }
    }
    plane.live.heard.store(millis(plane.clock.boottime()), Ordering::Relaxed);
    plane.live.lost.store(false, Ordering::SeqCst);
    answer.upto
}

fn tick(plane: &Plane, since: &mut u64) {
    let now = plane.now();
    if plane.live.connected(now).is_err() {
        // In the next world the broker is asked from its beginning.
        *since = 0;
        if !plane.live.lost.swap(true, Ordering::SeqCst) {
            plane.live.lose(true);
            plane.cut_relays();
        }
    }
    plane.live.expire(now);
    plane.tidy();
}

fn lost() -> Refusal {
    Refusal::new(
        RefusalKind::BrokerUnavailable,
        "the broker has not been heard from, so no credential is used",
        "try again in a few seconds; see `writ doctor`",
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
