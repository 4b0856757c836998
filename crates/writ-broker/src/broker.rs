//! One request for a credential: the page to read first.
//!
//! ```text
//!   asked ─► identify ─► authorize ─► issue ─► outcome
//!   record,  who is      may they:    durable  exactly one,
//!   durable  asking      a permit     before   on every path
//!                                     effect
//! ```
//!
//! *No record, no credential*: the attempt is on the disk before anything is decided. A session that is unknown, over or
//! somebody else's gets one uniform answer. What exists only once the seal is open, the keys and the log, stands behind
//! [`Broker::unlocked`]. Absent: approvals; every permit is settled for now.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
};

use tokio::sync::watch;
use writ_api::seal::Recipient;
use writ_core::{
    AcquireAsk, Action, Asked, BootId, BoxFuture, Brokerage, Clock, DataPlane, Granted, Lost, Refusal,
    Tiding, Timestamp, WatchAnswer, WatchAsk, authorize,
};

use crate::{
    confirm,
    door::Unlocked,
    fault,
    keyring::Installation,
    leases::{self, Engines, Table, quarantine::Quarantines},
    operations::Operations,
    records,
    rules::{RuleBook, Rules},
    sessions::Sessions,
    settling::Settling,
    store::Store,
    tasks::{heartbeat::Pulse, lanes::Lanes, recovery::Recovered},
    watch::Watch,
};

/// The control plane of one daemon.
pub struct Broker {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Random>,
    pub(crate) boot: BootId,
    pub(crate) started_at: Timestamp,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) installation: Installation,
    /// The directory of the audit log.
    pub(crate) audit: PathBuf,
    pub(crate) engines: Engines,
    pub(crate) rules: RuleBook,
    /// Operators seal what they send to this key.
    pub(crate) recipient: Recipient,
    pub(crate) door: OnceLock<Unlocked>,
    /// One opening of the door at a time.
    pub(crate) opening: tokio::sync::Mutex<()>,
    pub(crate) unlocked: watch::Sender<bool>,
    pub(crate) recovered: Mutex<Recovered>,
    pub(crate) data_plane: watch::Sender<Option<Arc<dyn DataPlane>>>,
    pub(crate) watch: Watch,
    pub(crate) leases: Table,
    /// Where leases are settled: one owner a lane.
    pub(crate) lanes: Lanes,
    pub(crate) quarantines: Quarantines,
    /// One change of credentials at a time.
    pub(crate) setting: tokio::sync::Mutex<()>,
    pub(crate) operations: Operations,
    pub(crate) sessions: Sessions,
    /// When a shared store last heard of this daemon.
    pub(crate) pulse: Pulse,
    pub(crate) settling: Settling,
    /// Nothing new is begun.
    pub(crate) draining: AtomicBool,
    /// Everything ends.
    pub(crate) stopping: watch::Sender<bool>,
    /// Connections that are served now.
    pub(crate) busy: watch::Sender<usize>,
}

/// Fills a slice with randomness; false if the system has none.
pub type Random = dyn Fn(&mut [u8]) -> bool + Send + Sync;

impl Broker {
    /// Answers one request for a credential: a lease, or a refusal that says why and what to do.
    ///
    /// # Errors
    /// The refusal; its reason is recorded as the attempt's outcome.
    pub async fn acquire(&self, ask: AcquireAsk) -> Result<Granted, Refusal> {
        let open = self.unlocked()?;
        let rules = self.rules.in_force()?;
        let asked = records::asked(self, open, &rules, &ask, None).await?;
        let answer = self.answer(open, &rules, &ask).await;
        asked.close(self.clock.as_ref(), answer.as_ref().map(|granted| granted.lease));
        answer
    }

    async fn answer(&self, open: &Unlocked, rules: &Rules, ask: &AcquireAsk) -> Result<Granted, Refusal> {
        self.pulse.check(self.clock.as_ref())?;
        let session = self.sessions.identify(ask.session, self.clock.as_ref())?;
        let target = rules.target(&ask.target)?;
        let credential = target.credential.as_ref().map(|name| rules.credential(name)).transpose()?;
        let asked = Asked {
            action: if target.reveal.is_some() { Action::Reveal } else { Action::Inject },
            target: target.name.clone(),
            credential: target.credential.clone(),
        };
        let context = session.context(self.clock.as_ref());
        let permit = authorize(&rules.policy, session.principal(), &asked, &context)?;
        session.still_serves(&target.route())?;
        if let Some(credential) = credential {
            confirm::check(self.store.as_ref(), target, credential).await?;
        }
        if target.reveal.is_some() {
            // The program holds it already: nothing is made, and no secret passes.
            return leases::held(self, &session, &permit);
        }
        leases::issue(self, open, &session, &permit, credential).await
    }
}

impl Brokerage for Broker {
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>> {
        Box::pin(Broker::acquire(self, ask))
    }

    fn watch(&self, ask: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>> {
        Box::pin(async move { Ok(self.watch.answer(ask).await) })
    }

    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>> {
        self.sessions.tell(tiding.session, tiding.text);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Broker {
    /// The keys and the log.
    ///
    /// # Errors
    /// [`RefusalKind::Locked`] until the seal is open.
    pub(crate) fn unlocked(&self) -> Result<&Unlocked, Refusal> {
        self.door.get().ok_or_else(fault::locked)
    }

    pub(crate) fn open_door(&self) -> Option<&Unlocked> {
        self.door.get()
    }

    /// The data plane. Waits for it: it starts when the seal is open, and whoever opened it may be quicker.
    pub(crate) async fn data_plane(&self) -> Option<Arc<dyn DataPlane>> {
        let mut data_plane = self.data_plane.subscribe();
        data_plane.wait_for(Option::is_some).await.ok().and_then(|named| named.clone())
    }

    /// Ten random bytes, for an identifier.
    pub(crate) fn random_bytes(&self) -> Result<[u8; 10], Refusal> {
        let mut bytes = [0; 10];
        if (self.random)(&mut bytes) { Ok(bytes) } else { Err(fault::randomness()) }
    }
}
