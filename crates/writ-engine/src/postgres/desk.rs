//! One desk for each way to reach a server: a queue of logins to make and a queue of logins to remove, each served by one
//! worker with one connection.
//!
//! ```text
//!   mint, renew ──► queue ──► worker ── takes what waits, 50 at the most ──► one transaction
//!   revoke ───────► queue ──► worker ── … of its own connection: a table that is locked keeps no login from being made
//! ```
//!
//! The two workers meet in two places: in the server, by a lock on each name, and in [`Pending`], which tells a login that is
//! still waiting to be made that it is not wanted any more. So a revocation that found nothing stays true.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    batch::BATCH_MAX,
    config::Owned,
    connect::Endpoint,
    mint::{self, Birth},
    receipt::RoleName,
    revoke::{self, Death},
    session::{Session, Trouble},
};

/// After so long without work a connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How many may wait in a queue; whoever comes then waits to get in.
const QUEUE_MAX: usize = 1024;

/// The two queues of a server.
pub(super) struct Desk {
    births: mpsc::Sender<Birth>,
    deaths: mpsc::Sender<Death>,
    pub(super) pending: Arc<Pending>,
}

impl Desk {
    /// Starts both workers; they end with the desk.
    pub(super) fn open(endpoint: Endpoint, owned: Owned) -> Self {
        let (endpoint, pending) = (Arc::new(endpoint), Arc::new(Pending::default()));
        let (births, mut waiting) = mpsc::channel(QUEUE_MAX);
        let (mut session, shared) = (Session::new(Arc::clone(&endpoint)), Arc::clone(&pending));
        tokio::spawn(async move {
            while let Some(batch) = next(&mut waiting, &mut session).await {
                mint::run(&mut session, batch, &shared).await;
            }
        });
        let (deaths, mut waiting) = mpsc::channel(QUEUE_MAX);
        let mut session = Session::new(endpoint);
        tokio::spawn(async move {
            while let Some(batch) = next(&mut waiting, &mut session).await {
                revoke::run(&mut session, batch, &owned).await;
            }
        });
        Self { births, deaths, pending }
    }

    /// Whether its workers are still there: they end with the runtime that they were started on.
    pub(super) fn is_open(&self) -> bool {
        !self.births.is_closed() && !self.deaths.is_closed()
    }

    pub(super) fn births(&self) -> &mpsc::Sender<Birth> {
        &self.births
    }

    pub(super) fn deaths(&self) -> &mpsc::Sender<Death> {
        &self.deaths
    }
}

/// What waits in a queue; while nothing does, the connection is closed after a while.
async fn next<J>(waiting: &mut mpsc::Receiver<J>, session: &mut Session) -> Option<Vec<J>> {
    let mut batch = Vec::new();
    loop {
        let taken = if session.is_open() {
            match timeout(IDLE, waiting.recv_many(&mut batch, BATCH_MAX)).await {
                Ok(taken) => taken,
                Err(_) => {
                    session.close();
                    continue;
                }
            }
        } else {
            waiting.recv_many(&mut batch, BATCH_MAX).await
        };
        return (taken > 0).then_some(batch);
    }
}

/// Puts one request into a queue and waits for its answer.
pub(super) async fn ask<J, T>(
    queue: &mpsc::Sender<J>,
    request: J,
    answer: oneshot::Receiver<Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let closed = || Trouble::Unreachable("the engine is closing".to_owned());
    queue.send(request).await.map_err(|_| closed())?;
    answer.await.map_err(|_| closed())?
}

/// Logins that were asked for and are not made yet, and which of them are not wanted any more.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<RoleName, bool>>);

/// A place in [`Pending`], for as long as the login may still be made.
pub(super) struct Waiting {
    pending: Arc<Pending>,
    role: RoleName,
}

impl Pending {
    pub(super) fn enter(self: &Arc<Self>, role: &RoleName) -> Waiting {
        self.names().insert(role.clone(), false);
        Waiting { pending: Arc::clone(self), role: role.clone() }
    }

    pub(super) fn cancel(&self, role: &RoleName) {
        if let Some(cancelled) = self.names().get_mut(role) {
            *cancelled = true;
        }
    }

    pub(super) fn is_cancelled(&self, role: &RoleName) -> bool {
        self.names().get(role).copied().unwrap_or(false)
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<RoleName, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.names().remove(&self.role);
    }
}
