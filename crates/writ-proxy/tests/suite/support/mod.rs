//! A proxy with everything around it: a broker that does as the test says, services that answer as the test says, a clock that
//! stands still, an audit log on disk, and clients that say exactly what they are told.

mod broker;
mod client;
mod space;
mod upstream;

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;
use tokio::time::timeout;
use writ_api::seal::{self, Recipient};
use writ_audit::{Event, Events, FieldKey, Kind, SegmentDir, Stream, StreamConfig};
use writ_core::{
    Clock, DataPlane, Door, Egress, Injection, Level, NamedAddress, OpenFault, Place, PlaceholderEntry,
    RoutePlan, Sealed, SessionId, SessionPlan, Shape, Timestamp,
};
use writ_proxy::{Names, Proxy, ProxyConfig, Roots, SystemNames};

pub use broker::Broker;
pub use broker::{HELD, PATIENCE};
pub use client::{Raw, Sender, basic, connect_request, get, post, text, trusting};
pub use space::{Inside, OWN, Space, isolated, parrot, query};
pub use upstream::{Reply, Upstream, echo, full, reply, shared};

pub const HOST: &str = "api.vendor.example";
pub const OTHER: &str = "other.vendor.example";
pub const QUIET: &str = "telemetry.vendor.example";
pub const SECRET: &str = "sk-real-Zq3vT8mW1xY5nB7kLc0d";
pub const OTHER_SECRET: &str = "key-of-the-other-0987654321";
pub const PASSWORD: &str = "correct-horse-battery";
/// `printf correct-horse-battery | sha256sum`
const PASSWORD_SHA256: &str = "62249369389075490555a758353aec61500c6218fa597252d52dc4bd0148f12d";

/// A clock that moves when it is told to.
pub struct Standing {
    start: i64,
    moved: AtomicI64,
}

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.start + self.moved.load(Ordering::SeqCst))
    }

    fn boottime(&self) -> Duration {
        Duration::from_millis(u64::try_from(1_000_000 + self.moved.load(Ordering::SeqCst)).unwrap())
    }
}

pub struct World {
    pub proxy: Proxy,
    pub broker: Arc<Broker>,
    pub clock: Arc<Standing>,
    pub upstream: Upstream,
    pub session: SessionId,
    pub address: SocketAddr,
    pub ca_pem: String,
    pub named: Vec<NamedAddress>,
    pub plan: SessionPlan,
    pub keeper: Recipient,
    pub authority: Sealed,
    pub stream: Stream,
    log: TempDir,
}

/// What a test may want otherwise.
pub struct Setup {
    pub plan: SessionPlan,
    pub names: Arc<dyn Names>,
    pub workers: usize,
    /// Without any, a proxy's door on loopback is made.
    pub doors: Vec<(Door, OwnedFd)>,
}

pub fn placeholder(credential: &str) -> PlaceholderEntry {
    let shape = Shape { prefix: "sk-", suffix: "", length: 40, ..Shape::GENERIC };
    let seed = credential.bytes().fold(7_u8, u8::wrapping_add);
    let stream = (0..64_u8).map(move |at| at.wrapping_mul(31).wrapping_add(seed));
    PlaceholderEntry { credential: credential.parse().unwrap(), placeholder: shape.build(stream) }
}

pub fn injection(place: Place) -> Injection {
    Injection { place, paths: Vec::new() }
}

pub fn route(name: &str, host: &str, upstream: &Upstream) -> RoutePlan {
    RoutePlan {
        target: name.parse().unwrap(),
        authority: host.parse().unwrap(),
        credential: Some(name.parse().unwrap()),
        tunnel: false,
        injections: vec![
            injection(Place::Bearer),
            injection(Place::Header { name: "x-api-key".into() }),
            injection(Place::Basic { user: "x-access-token".into() }),
        ],
        dial: Some(upstream.address.to_string()),
        tls_ca: Some(upstream.ca_pem.clone()),
        allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        encoded_slash: false,
        pass_unscrubbed: false,
        refuse_as_400: vec!["/v1/responses*".parse().unwrap()],
    }
}

impl World {
    /// Two targets behind one upstream, which echoes what reaches it.
    pub async fn new() -> Self {
        Self::with(Upstream::start(&["h2", "http/1.1"], echo).await, |_| {}).await
    }

    pub async fn with(upstream: Upstream, change: impl FnOnce(&mut Setup)) -> Self {
        let clock = Arc::new(Standing { start: wall(), moved: AtomicI64::new(0) });
        let session = SessionId::new(clock.now(), &[7; 10]);
        let keeper = Recipient::generate().unwrap();
        let mut setup = Setup {
            plan: SessionPlan {
                session,
                workload: "spiffe://writ.local/test".parse().unwrap(),
                role: "dev".parse().unwrap(),
                requester: "ada".into(),
                level: Level::Advisory,
                expires_at: clock.now().saturating_add("8h".parse().unwrap()),
                password_sha256: Some(PASSWORD_SHA256.into()),
                egress: Egress::Listed,
                local: Vec::new(),
                routes: vec![route("vendor", HOST, &upstream), route("other", OTHER, &upstream)],
                placeholders: vec![placeholder("vendor"), placeholder("other"), placeholder("foreign")],
                quiet_hosts: vec![QUIET.parse().unwrap()],
                keeper: keeper.key().clone(),
                authority: None,
            },
            names: Arc::new(SystemNames),
            workers: 2,
            doors: Vec::new(),
        };
        change(&mut setup);
        let broker = Broker::new(clock.clone());
        broker.credential("vendor", HOST, SECRET);
        broker.credential("other", OTHER, OTHER_SECRET);
        let log = TempDir::new().unwrap();
        let stream = audit(log.path());
        let proxy = Proxy::start(ProxyConfig {
            workers: setup.workers,
            brokerage: broker.clone(),
            audit: vec![stream.clone()],
            clock: clock.clone(),
            roots: Roots::from_pem(&upstream.ca_pem).unwrap(),
            names: setup.names,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if setup.doors.is_empty() {
            setup.doors.push((Door::Proxy, listener.into()));
        }
        let plan = setup.plan.clone();
        let ready = proxy.open(setup.plan, setup.doors).await.unwrap();
        broker.recipient(ready.recipient);
        let (ca_pem, named, authority) = (ready.ca_pem, ready.named, ready.authority);
        Self {
            proxy,
            broker,
            clock,
            upstream,
            session,
            address,
            ca_pem,
            named,
            plan,
            keeper,
            authority,
            stream,
            log,
        }
    }

    /// The session's daemon is lost: another session goes on for the same agent, with a plan that may be another.
    pub async fn go_on(&mut self, change: impl FnOnce(&mut SessionPlan)) -> Result<(), OpenFault> {
        let place = |session| seal::Place::Authority { session };
        let kept = self.keeper.open(&self.authority, &place(self.session)).unwrap();
        let session = SessionId::new(self.clock.now(), &[8; 10]);
        let authority = seal::seal(&kept, &self.proxy.recipient(), &place(session)).unwrap();
        let mut plan = SessionPlan { session, authority: Some(authority), ..self.plan.clone() };
        change(&mut plan);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ready = self.proxy.open(plan.clone(), vec![(Door::Proxy, listener.into())]).await?;
        assert_eq!(ready.ca_pem, self.ca_pem, "the agent trusts no other");
        self.broker.recipient(ready.recipient);
        (self.session, self.address, self.plan, self.named) = (session, address, plan, ready.named);
        self.authority = ready.authority;
        Ok(())
    }

    pub fn client(&self, alpn: &'static str) -> client::Client<'_> {
        client::Client { world: self, alpn }
    }

    /// Lets time pass, and the broker be heard meanwhile.
    pub async fn advance(&self, duration: Duration) {
        let step = Duration::from_secs(2);
        let mut left = duration;
        while !left.is_zero() {
            let now = left.min(step);
            self.silence(now);
            self.broker.beat().await;
            left -= now;
        }
    }

    /// Lets time pass without a word from the broker.
    pub fn silence(&self, duration: Duration) {
        self.clock.moved.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Everything on record, in the order in which it ended.
    pub async fn events(&self) -> Vec<Event> {
        self.stream.flush().await.unwrap();
        Events::read(self.log.path()).unwrap().map(Result::unwrap).collect()
    }

    /// Waits until the uses on record are as many, all with an outcome, and returns them.
    pub async fn uses(&self, count: usize) -> Vec<Event> {
        timeout(PATIENCE, self.uses_at_last(count)).await.expect("uses in time")
    }

    async fn uses_at_last(&self, count: usize) -> Vec<Event> {
        loop {
            let uses: Vec<Event> =
                self.events().await.into_iter().filter(|event| event.kind == Kind::Use).collect();
            let open = uses.iter().any(|event| event.outcome.result == writ_audit::Verdict::Pending);
            if uses.len() >= count && !open {
                assert_eq!(uses.len(), count, "{uses:#?}");
                return uses;
            }
            tokio::task::yield_now().await;
        }
    }

    pub async fn refusals(&self) -> Vec<(String, String)> {
        let refused = |event: Event| {
            (event.kind == Kind::Refused).then(|| (event.action, event.resource.host.unwrap_or_default()))
        };
        self.events().await.into_iter().filter_map(refused).collect()
    }

    /// The same, with ports, once there are so many.
    pub async fn refused(&self, count: usize) -> Vec<(String, String, u16)> {
        timeout(PATIENCE, self.refused_at_last(count)).await.expect("refusals in time")
    }

    async fn refused_at_last(&self, count: usize) -> Vec<(String, String, u16)> {
        loop {
            let refused = |event: Event| {
                let resource = event.resource;
                (event.kind == Kind::Refused).then(|| {
                    (event.action, resource.host.unwrap_or_default(), resource.port.unwrap_or_default())
                })
            };
            let refused: Vec<_> = self.events().await.into_iter().filter_map(refused).collect();
            if refused.len() >= count {
                assert_eq!(refused.len(), count, "{refused:?}");
                return refused;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn audit(dir: &Path) -> Stream {
    let name: writ_audit::StreamName = "proxy-0".parse().unwrap();
    let mut config =
        StreamConfig::new(name.clone(), FieldKey::new(&[9; 32]), Arc::new(|| wall().unsigned_abs() * 1000));
    config.sync_delay = Duration::from_millis(1);
    config.segment_bytes = 4 << 20;
    Stream::start(config, Box::new(SegmentDir::new(dir, name).unwrap())).unwrap()
}

fn wall() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
