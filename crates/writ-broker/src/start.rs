//! The life of a broker: started, idle, stopped.
//!
//! What another life left behind is dead before anything is served: its sessions are over, and its leases are in nobody's memory. In the
//! store they become `revoking` in the background, and are settled upstream from their stored receipts. Absent: sockets and the lock that admits one daemon; those are the daemon's.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use writ_api::seal::{Recipient, SealFault};
use writ_core::{BootId, Clock, DataPlane};

use crate::{
    broker::{Broker, Random},
    door::{self, DoorFault},
    keyring::Installation,
    leases::{Engines, Table, quarantine::Quarantines},
    operations::Operations,
    rules::RuleBook,
    sessions::{self, End, Sessions},
    settling::Settling,
    store::StoreFault,
    tasks::{self, heartbeat::Pulse, lanes::Lanes},
    watch::Watch,
};

/// What a broker is made of.
pub struct BrokerConfig {
    /// The person's `writ.toml`. It need not exist yet.
    pub config: PathBuf,
    /// The directory of the audit log.
    pub audit: PathBuf,
    pub installation: Installation,
    pub engines: Engines,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<Random>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    #[error("the system gave no randomness")]
    Random,
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Door(#[from] DoorFault),
    #[error("no key for operators could be made: {0}")]
    Recipient(#[from] SealFault),
}

/// How long a stop waits for revocations upstream. What is not done then, the next start goes on with.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The longest that saying good-bye to a shared store may take.
const RETIRE_MAX: Duration = Duration::from_secs(3);

impl Broker {
    /// Starts a broker: ends what another life left, opens the door if the seal asks nobody, begins the background work.
    /// Needs a tokio runtime, on which the work stays.
    ///
    /// # Errors
    /// [`StartFault`]. A faulty configuration is none: it refuses sessions until it is mended.
    pub async fn start(config: BrokerConfig) -> Result<Arc<Self>, StartFault> {
        let BrokerConfig { config, audit, installation, engines, clock, random } = config;
        let mut bytes = [0; 10];
        if !random(&mut bytes) {
            return Err(StartFault::Random);
        }
        let started_at = clock.now();
        let boot = BootId::new(started_at, &bytes);
        let store = installation.store().clone();
        if let Some(shared) = store.shared() {
            shared.enlist(boot, installation.node().map(str::to_owned)).await?;
        }
        let recovered =
            tasks::recovery::sessions(store.as_ref(), &tasks::recovery::ask(boot, started_at)).await?;
        let locked = installation.is_locked();
        let broker = Arc::new(Self {
            clock,
            random,
            boot,
            started_at,
            store,
            installation,
            audit,
            engines,
            rules: RuleBook::new(&config),
            recipient: Recipient::generate()?,
            door: OnceLock::new(),
            opening: tokio::sync::Mutex::default(),
            unlocked: watch::Sender::new(false),
            recovered: Mutex::new(recovered),
            data_plane: watch::Sender::new(None),
            watch: Watch::default(),
            leases: Table::default(),
            lanes: Lanes::default(),
            quarantines: Quarantines::default(),
            setting: tokio::sync::Mutex::default(),
            operations: Operations::default(),
            sessions: Sessions::default(),
            pulse: Pulse::default(),
            settling: Settling::default(),
            draining: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            busy: watch::Sender::new(0),
        });
        if let Err(refusal) = broker.rules.newest() {
            tracing::warn!(%refusal, "the configuration is not in force");
        }
        if !locked {
            door::open(&broker).await?;
        }
        if broker.store.shared().is_some() {
            broker.pulse.felt(broker.clock.boottime());
        }
        tokio::spawn(tasks::heartbeat::run(broker.clone()));
        tokio::spawn(tasks::news::run(broker.clone()));
        tokio::spawn(tasks::expiry::run(broker.clone()));
        tokio::spawn(tasks::recovery::run(broker.clone()));
        tokio::spawn(tasks::renewal::run(broker.clone()));
        tokio::spawn(tasks::revocation::run(broker.clone()));
        tokio::spawn(tasks::anchor::run(broker.clone()));
        tokio::spawn(tasks::rotation::run(broker.clone()));
        Ok(broker)
    }

    /// Names the data plane, once. Sessions wait for it, a few seconds at most.
    pub fn set_data_plane(&self, data_plane: Arc<dyn DataPlane>) {
        let first = self.data_plane.send_if_modified(|named| {
            let first = named.is_none();
            named.get_or_insert(data_plane);
            first
        });
        if !first {
            tracing::error!("a second data plane was named; the first stays");
        }
    }

    /// Whether nobody is connected, which includes that no session is open.
    pub fn idle(&self) -> bool {
        *self.busy.borrow() == 0
    }

    /// Whether it waits for [`unlock`](writ_api::control::Ask::Unlock).
    pub fn is_locked(&self) -> bool {
        self.open_door().is_none()
    }

    /// Waits until the broker has been idle for the whole of `grace`.
    pub async fn until_idle(&self, grace: Duration) {
        let mut busy = self.busy.subscribe();
        loop {
            if busy.wait_for(|busy| *busy == 0).await.is_err() {
                return;
            }
            if timeout(grace, busy.wait_for(|busy| *busy > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the broker was told to stop: by [`Broker::stop`] or by an operator.
    pub async fn until_stopped(&self) {
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Ends every session, settles what can be settled at once, closes the log. Repeating it is harmless.
    pub async fn stop(&self) {
        self.drain().await;
        self.stopping.send_replace(true);
        if let Some(open) = self.open_door() {
            let log = open.log.clone();
            let closed = tokio::task::spawn_blocking(move || log.close()).await;
            if let Err(fault) = tasks::anchor::pass(self, &mut None).await {
                tracing::warn!(%fault, "the last checkpoint of the audit log is not remembered");
            }
            if let Ok(Err(fault)) = closed {
                tracing::debug!(%fault, "the audit log was not closed cleanly");
            }
        }
        if let Some(shared) = self.store.shared() {
            // Not said, it takes the others a little longer to notice.
            if !matches!(timeout(RETIRE_MAX, shared.retire(self.boot)).await, Ok(Ok(()))) {
                tracing::warn!("the store could not be told that this daemon ends");
            }
        }
    }

    /// The first half of a stop: nothing new, and everything that is open ends.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        for session in self.sessions.all() {
            if let Err(fault) = sessions::end(self, session, End::Stopped).await {
                tracing::error!(%fault, "the end of a session is not durable; the next start ends it");
            }
        }
        if timeout(SETTLE_MAX, tasks::revocation::pass(self)).await.is_err() {
            tracing::warn!("some leases could not be revoked upstream yet; the next start goes on");
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// How a session ended that its broker did not survive.
pub(crate) const ORPHANED: &str = "orphaned";
