//! A home with a configuration, brokers on it one after the other, and a data plane that only takes notes.

use std::{
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use writ_api::{
    control::Value,
    run::{Open, Opened},
    seal::{self, Place, Recipient},
};
use writ_audit::{Event, Events, Kind, Verdict};
use writ_core::{
    AcquireAsk, BoxFuture, Clock, CredentialName, DataPlane, Door, Engine, Granted, LeaseId, Level,
    NamedAddress, OpenFault, RecipientKey, Refusal, RequestId, Secret, SessionId, SessionPlan, SessionReady,
    Timestamp,
};

use crate::{
    Broker, BrokerConfig, Engines, credentials,
    keyring::{Installation, InstallationFault},
    seal::{SealPlaces, seal as seal_of},
    sessions::{self, Attached, Peer},
    store::{
        Change, Claim, CredentialVersion, LeaseFilter, LeaseRecord, Options, OriginalRecord, Orphan,
        Orphaned, PendingValue, Place as StorePlace, SessionRecord, SqliteStore, Store, StoreFault, Stuck,
    },
};

pub const KEY: &str = "sk-real-0123456789-real";

/// A clock that stands until it is told.
pub struct TestClock(Mutex<(i64, Duration)>);

impl TestClock {
    pub fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        now.0 += i64::try_from(time.as_millis()).unwrap();
        now.1 += time;
    }

    /// Sets the wall clock alone.
    pub fn step(&self, millis: i64) {
        self.0.lock().unwrap().0 += millis;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.lock().unwrap().0)
    }

    fn boottime(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

/// A data plane that takes notes.
pub struct Plane {
    pub recipient: Recipient,
    pub plans: Mutex<Vec<SessionPlan>>,
    /// What it packed for the last one: the id of the session that began it.
    pub authority: Mutex<Vec<u8>>,
    /// What it says about targets with other ports.
    pub named: Mutex<Vec<NamedAddress>>,
    /// Kinds of all doors that it was given.
    pub doors: Mutex<Vec<Door>>,
    pub fails: AtomicBool,
}

impl DataPlane for Plane {
    fn recipient(&self) -> RecipientKey {
        self.recipient.key().clone()
    }

    fn open(
        &self,
        plan: SessionPlan,
        doors: Vec<(Door, OwnedFd)>,
    ) -> BoxFuture<'_, Result<SessionReady, OpenFault>> {
        Box::pin(async move {
            if self.fails.load(Ordering::SeqCst) {
                return Err(OpenFault("no".into()));
            }
            let place = Place::Authority { session: plan.session };
            let authority = match &plan.authority {
                Some(sealed) => self.recipient.open(sealed, &place).unwrap(),
                None => Secret::new(plan.session.to_string().into_bytes()),
            };
            *self.authority.lock().unwrap() = authority.expose().to_vec();
            let authority = seal::seal(&authority, &plan.keeper, &place).unwrap();
            self.plans.lock().unwrap().push(plan);
            self.doors.lock().unwrap().extend(doors.into_iter().map(|(door, _)| door));
            Ok(SessionReady {
                ca_pem: "PEM".into(),
                recipient: self.recipient.key().clone(),
                named: self.named.lock().unwrap().clone(),
                authority,
            })
        })
    }

    fn extend(&self, _: SessionId, doors: Vec<(Door, OwnedFd)>) -> BoxFuture<'_, Result<(), OpenFault>> {
        self.doors.lock().unwrap().extend(doors.into_iter().map(|(door, _)| door));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A real store whose disk can be full.
struct Faulty {
    sound: SqliteStore,
    broken: Arc<AtomicBool>,
}

impl Store for Faulty {
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreFault>> {
        if self.broken.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(StoreFault::DiskFull)));
        }
        self.sound.apply(changes)
    }

    fn credential(
        &self,
        name: CredentialName,
        version: Option<u32>,
    ) -> BoxFuture<'_, Result<Option<CredentialVersion>, StoreFault>> {
        self.sound.credential(name, version)
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<CredentialVersion>, StoreFault>> {
        self.sound.credentials()
    }

    fn originals(&self) -> BoxFuture<'_, Result<Vec<OriginalRecord>, StoreFault>> {
        self.sound.originals()
    }

    fn session(&self, session: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreFault>> {
        self.sound.session(session)
    }

    fn sessions(&self, ended: bool) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreFault>> {
        self.sound.sessions(ended)
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<Option<LeaseRecord>, StoreFault>> {
        self.sound.lease(lease)
    }

    fn leases(&self, filter: LeaseFilter) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.sound.leases(filter)
    }

    fn lanes(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<String>, StoreFault>> {
        self.sound.lanes(now)
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.sound.claim(claim)
    }

    fn orphan(&self, ask: Orphan) -> BoxFuture<'_, Result<Orphaned, StoreFault>> {
        self.sound.orphan(ask)
    }

    fn stuck(&self, before: Timestamp) -> BoxFuture<'_, Result<Vec<Stuck>, StoreFault>> {
        self.sound.stuck(before)
    }

    fn pending(&self) -> BoxFuture<'_, Result<Vec<PendingValue>, StoreFault>> {
        self.sound.pending()
    }

    fn meta(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreFault>> {
        self.sound.meta(key)
    }
}

/// A home directory, over several lives of the broker.
pub struct Home {
    pub dir: TempDir,
    pub clock: Arc<TestClock>,
}

/// One life.
pub struct Life {
    pub broker: Arc<Broker>,
    pub plane: Arc<Plane>,
}

impl Home {
    pub fn new() -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(TestClock(Mutex::new((1_800_000_000_000, Duration::from_secs(500))))),
        };
        home.write(&home.text("key-file"));
        home
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("writ.toml")
    }

    pub fn write(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn text(&self, seal: &str) -> String {
        let uid = rustix::process::getuid().as_raw();
        format!(
            r#"version = 1
[seal]
kind = "{seal}"
accept_below_confined = true
[[credential]]
name = "c"
env = ["C_KEY"]
[[credential]]
name = "other"
env = ["OTHER_KEY"]
[[target]]
name = "t"
host = "t.example"
inject = {{ kind = "bearer" }}
credential = "c"
[[target]]
name = "u"
host = "u.example"
inject = {{ kind = "bearer" }}
credential = "other"
[[role]]
name = "dev"
ttl = "15m"
ttl_max = "1h"
prompt_file = "AGENTS.md"
grants = [{{ target = "t", methods = ["POST"], paths = ["/v1/*"] }}]
[[role]]
name = "ops"
ttl_max = "1h"
grants = [{{ target = "u" }}]
[[workload]]
spiffe_id = "spiffe://writ.local/dev/me"
selectors = ["unix:uid:{uid}"]
role = "dev"
"#
        )
    }

    pub fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    pub async fn life(&self) -> Life {
        self.life_with("key-file", Engines::default()).await
    }

    pub async fn life_of(&self, engine: Arc<dyn Engine>) -> Life {
        self.life_with("key-file", Engines::new(vec![engine])).await
    }

    pub async fn life_with(&self, seal: &str, engines: Engines) -> Life {
        let installation = Installation::open(&self.dir.path().join("state"), seal).await.unwrap();
        self.life_in(installation, engines).await
    }

    /// Another home, of another daemon, with the same root key.
    pub fn sibling(&self) -> Self {
        let sibling = Self::new();
        let state = sibling.dir.path().join("state");
        std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        // The mode goes with it.
        std::fs::copy(self.dir.path().join("state/root.key"), state.join("root.key")).unwrap();
        sibling
    }

    pub async fn installation_at(&self, place: &StorePlace) -> Result<Installation, InstallationFault> {
        let state = self.dir.path().join("state");
        Installation::open_shared(&state, "key-file", &SealPlaces::within(&state), place).await
    }

    /// A life on a server that other homes may share.
    pub async fn life_at(&self, place: &StorePlace) -> Life {
        self.life_in(self.installation_at(place).await.unwrap(), Engines::default()).await
    }

    /// A life whose store takes no changes while the switch is on.
    pub async fn life_on_a_faulty_store(&self) -> (Life, Arc<AtomicBool>) {
        let state = self.dir.path().join("state");
        drop(Installation::open(&state, "key-file").await.unwrap());
        let broken = Arc::new(AtomicBool::new(false));
        let sound = SqliteStore::open(&state.join("writ.db"), Options::default()).unwrap();
        let store = Arc::new(Faulty { sound, broken: broken.clone() });
        let seal = seal_of("key-file", &SealPlaces::within(&state)).unwrap();
        let installation = Installation::with(store, seal.into()).await.unwrap();
        (self.life_in(installation, Engines::default()).await, broken)
    }

    async fn life_in(&self, installation: Installation, engines: Engines) -> Life {
        let config = BrokerConfig {
            config: self.config(),
            audit: self.audit(),
            installation,
            engines,
            clock: self.clock.clone(),
            random: Arc::new(|bytes| aws_lc_rs::rand::fill(bytes).is_ok()),
        };
        let broker = Broker::start(config).await.unwrap();
        let plane = Arc::new(Plane {
            recipient: Recipient::generate().unwrap(),
            authority: Mutex::default(),
            plans: Mutex::default(),
            named: Mutex::default(),
            doors: Mutex::default(),
            fails: AtomicBool::new(false),
        });
        broker.set_data_plane(plane.clone());
        Life { broker, plane }
    }

    /// What the log says of attempts of one kind: `action verdict reason`.
    pub async fn log(&self, life: &Life, kind: Kind) -> Vec<String> {
        life.broker.unlocked().unwrap().log.flush().await.unwrap();
        let events: Vec<Event> = Events::read(&self.audit()).unwrap().map(Result::unwrap).collect();
        let line = |event: &Event| {
            let reason = event.outcome.reason.clone().unwrap_or_default();
            format!("{} {} {reason}", event.action, event.outcome.result.as_str()).trim().to_owned()
        };
        let open = events.iter().filter(|event| event.outcome.result == Verdict::Pending).count();
        assert_eq!(open, 0, "every attempt has its outcome");
        events.iter().filter(|event| event.kind == kind).map(line).collect()
    }
}

impl Life {
    pub async fn set(&self, name: &str, value: &str) -> Result<(u32, usize), Refusal> {
        let place = Place::Control { purpose: format!("credential {name}") };
        let secret = Secret::new(value.as_bytes().to_vec());
        let value =
            Value::Sealed { value: seal::seal(&secret, self.broker.recipient.key(), &place).unwrap() };
        credentials::set(&self.broker, self.broker.unlocked()?, &name.parse().unwrap(), value).await
    }

    pub async fn open(&self) -> (Opened, Attached) {
        self.open_as(&ask_open()).await.unwrap()
    }

    pub async fn open_as(&self, ask: &Open) -> Result<(Opened, Attached), Refusal> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sessions::open(&self.broker, &myself(), ask, vec![(Door::Proxy, listener.into())]).await
    }

    pub async fn acquire(&self, session: SessionId, target: &str) -> Result<Granted, Refusal> {
        self.broker.acquire(ask(session, target)).await
    }

    /// What the data plane would put on the wire.
    pub fn opened(&self, session: SessionId, granted: &Granted) -> Option<String> {
        let place = Place::Lease { session, lease: granted.lease };
        let secret = self.plane.recipient.open(granted.sealed.as_ref()?, &place).ok()?;
        Some(String::from_utf8(secret.expose().to_vec()).unwrap())
    }
}

pub fn ask(session: SessionId, target: &str) -> AcquireAsk {
    let request = RequestId::new(Timestamp::from_millis(1), &[7; 10]);
    AcquireAsk { session, target: target.parse().unwrap(), request }
}

pub fn ask_open() -> Open {
    Open {
        version: writ_api::VERSION,
        role: None,
        ttl: None,
        program: std::fs::canonicalize("/proc/self/exe").unwrap(),
        script: None,
        level: Level::Advisory,
        doors: vec![Door::Proxy],
        password_sha256: Some("ab".repeat(32)),
        resumed_from: None,
        keepsake: None,
        variables: vec!["PATH".into(), "C_KEY".into(), "OPENAI_API_KEY".into()],
        recipient: None,
        by_hand: false,
    }
}

pub fn myself() -> Peer {
    Peer {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: i32::try_from(std::process::id()).unwrap(),
        process: writ_sys::own_pidfd().unwrap(),
    }
}

/// Waits for something that another task or thread does: as long as it takes, but not for ever.
pub async fn until(what: impl AsyncFn() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while !what().await {
        assert!(std::time::Instant::now() < patience, "it never happened");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}
