//! A broker that does as it is told.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};
use writ_api::seal::{Place, seal};
use writ_core::{
    AcquireAsk, BoxFuture, Brokerage, Clock, Grant, Granted, LeaseEnd, LeaseId, Lost, Notice, RecipientKey,
    Refusal, Scope, Secret, SessionId, Tiding, Ttl, WatchAnswer, WatchAsk,
};

use super::Standing;

pub struct Broker {
    clock: Arc<Standing>,
    state: Mutex<State>,
    /// Acquisitions so far.
    pub asked: AtomicUsize,
    /// Acquisitions wait here while it has no permits.
    pub gate: Semaphore,
    news: Notify,
    looks: AtomicUsize,
    looked: Notify,
}

#[derive(Default)]
struct State {
    credentials: HashMap<String, (String, String)>,
    recipient: Option<RecipientKey>,
    grants: Option<Vec<Grant>>,
    ttl: Option<Ttl>,
    refusal: Option<Refusal>,
    pending: Vec<WatchAnswer>,
    upto: u64,
    told: Vec<String>,
    leases: Vec<LeaseId>,
}

/// Stands for a secret that the program holds.
pub const HELD: &str = "held by the program";

impl Broker {
    pub fn new(clock: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::default(),
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(usize::MAX >> 4),
            news: Notify::new(),
            looks: AtomicUsize::new(0),
            looked: Notify::new(),
        })
    }

    pub fn credential(&self, name: &str, host: &str, secret: &str) {
        self.state.lock().unwrap().credentials.insert(name.into(), (host.into(), secret.into()));
    }

    pub fn recipient(&self, key: RecipientKey) {
        self.state.lock().unwrap().recipient = Some(key);
    }

    pub fn grants(&self, grants: Vec<Grant>) {
        self.state.lock().unwrap().grants = Some(grants);
    }

    pub fn ttl(&self, ttl: &str) {
        self.state.lock().unwrap().ttl = Some(ttl.parse().unwrap());
    }

    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.state.lock().unwrap().refusal = refusal;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// What the launcher was told, once it was told something.
    pub async fn told(&self) -> Vec<String> {
        loop {
            let told = self.state.lock().unwrap().told.clone();
            if !told.is_empty() {
                return told;
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn last_lease(&self) -> LeaseId {
        *self.state.lock().unwrap().leases.last().unwrap()
    }

    /// The lease that the next acquisition will make.
    pub fn next_lease(&self) -> LeaseId {
        self.number(self.asked())
    }

    fn number(&self, count: usize) -> LeaseId {
        let mut random = [0; 10];
        random[0] = u8::try_from(count).unwrap();
        LeaseId::new(self.clock.now(), &random)
    }

    /// Ends the newest lease, and waits until the proxy has heard.
    pub async fn end_lease(&self, end: LeaseEnd) {
        let lease = self.last_lease();
        self.say(vec![Notice::LeaseEnded { lease, end }], false).await;
    }

    pub async fn end_session(&self, session: SessionId) {
        self.say(vec![Notice::SessionEnded { session }], false).await;
    }

    /// A heartbeat that was heard.
    pub async fn beat(&self) {
        self.say(Vec::new(), false).await;
    }

    pub async fn say(&self, notices: Vec<Notice>, missed: bool) {
        let seen = self.looks.load(Ordering::SeqCst);
        {
            let mut state = self.state.lock().unwrap();
            state.upto += notices.len() as u64;
            let upto = state.upto;
            state.pending.push(WatchAnswer { upto, missed, notices });
        }
        self.news.notify_one();
        // The look after the one that takes this answer is asked when the answer was acted on.
        loop {
            let looked = self.looked.notified();
            if self.looks.load(Ordering::SeqCst) > seen && self.state.lock().unwrap().pending.is_empty() {
                return;
            }
            looked.await;
        }
    }
}

impl Brokerage for Broker {
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>> {
        Box::pin(async move {
            let count = self.asked.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let mut state = self.state.lock().unwrap();
            if let Some(refusal) = &state.refusal {
                return Err(refusal.clone());
            }
            let name = ask.target.to_string();
            let (host, secret) = state.credentials[&name].clone();
            // What the program holds has one lease, and its secret does not come this way.
            let held = secret == HELD;
            let lease = self.number(if held { 0 } else { count });
            let issued_at = self.clock.now();
            let place = Place::Lease { session: ask.session, lease };
            state.leases.push(lease);
            Ok(Granted {
                lease,
                credential: (!secret.is_empty()).then(|| name.parse().unwrap()),
                credential_type: "static".into(),
                scope: Scope {
                    authority: host.parse().unwrap(),
                    grants: state.grants.clone().unwrap_or_else(|| vec![Grant::default()]),
                },
                issued_at,
                expires_at: issued_at.saturating_add(state.ttl.unwrap_or("15m".parse().unwrap())),
                sealed: (!secret.is_empty() && !held).then(|| {
                    let secret = Secret::new(secret.into_bytes());
                    seal(&secret, state.recipient.as_ref().unwrap(), &place).unwrap()
                }),
            })
        })
    }

    fn watch(&self, _: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>> {
        Box::pin(async move {
            self.looks.fetch_add(1, Ordering::SeqCst);
            self.looked.notify_waiters();
            loop {
                let next = {
                    let mut state = self.state.lock().unwrap();
                    (!state.pending.is_empty()).then(|| state.pending.remove(0))
                };
                match next {
                    Some(answer) => return Ok(answer),
                    None => self.news.notified().await,
                }
            }
        })
    }

    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>> {
        self.state.lock().unwrap().told.push(tiding.text);
        Box::pin(async { Ok(()) })
    }
}

/// Longest that a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
