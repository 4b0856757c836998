//! One session: who may speak on its listener, and where its requests may go.
//!
//! A session is made from the broker's plan and holds everything that its connections share. It ends at once: when
//! [`Session::end`] has returned, its doors are closing, its connections are being torn down on the threads that own them, and no
//! request of it is served any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use subtle::ConstantTimeEq;
use tokio::{sync::Semaphore, task::AbortHandle};
use tokio_rustls::TlsConnector;
use writ_api::seal::{self, Place as SealPlace, Recipient};
use writ_core::{
    Authority, CAPTURED_PORTS, Egress, Host, Injector, NamedAddress, OpenFault, PathPattern, Place,
    PlaceholderEntry, RefusalKind, RoutePlan, Sealed, SessionId, SessionPlan, Tiding, Timestamp,
};

use crate::{
    acquire::Gate,
    assigned::{Assigned, Exhausted},
    ca::SessionCa,
    inject,
    kept::{Certificates, Facts, Kept},
    lease::{Lease, Life},
    placeholder::Table,
    pool::Pool,
    proxy::Plane,
    tunnel::Open,
};

/// Connections that one session may have open; a further one waits.
const CONNECTIONS_MAX: usize = 1024;
/// Of these, how many may not have said yet what they want; so those that never say it leave room for the others.
const UNREAD_MAX: usize = 256;
/// Hosts about which the launcher is told, once each, for one kind of refusal: what an agent can cause at will must not use up
/// what is left for an alarm.
const TOLD_MAX: usize = 256;

/// One run of an agent, as the data plane knows it.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) id_text: String,
    pub(crate) workload: String,
    pub(crate) role: String,
    pub(crate) requester: String,
    pub(crate) placeholders: Table,
    pub(crate) ca: SessionCa,
    pub(crate) recipient: Recipient,
    pub(crate) connections: Arc<Semaphore>,
    /// Connections that have not said yet what they want.
    pub(crate) unread: Arc<Semaphore>,
    pub(crate) names: Assigned,
    pub(crate) egress: Egress,
    /// Ports of the host's loopback that it may reach.
    pub(crate) local: Vec<u16>,
    expires_at: Timestamp,
    /// `None` where nobody else can reach its doors.
    password: Option<[u8; 32]>,
    routes: HashMap<Authority, Arc<[Arc<Route>]>>,
    quiet: HashSet<Host>,
    over: AtomicBool,
    told: Mutex<HashMap<&'static str, HashSet<String>>>,
    tunnels: Mutex<HashMap<u64, (AbortHandle, Arc<Open>)>>,
    doors: Mutex<Vec<AbortHandle>>,
}

/// One target of a session, ready to be used.
pub(crate) struct Route {
    pub(crate) plan: RoutePlan,
    /// The one canonical authority, in the forms in which it is needed.
    pub(crate) host: HeaderValue,
    pub(crate) uri: http::uri::Authority,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) tls: TlsConnector,
    pub(crate) places: Vec<DeclaredPlace>,
    /// The present lease; the slow path is taken when there is none.
    pub(crate) slot: ArcSwapOption<Lease>,
    pub(crate) gate: Gate,
    /// One for each worker, so that a connection stays on the thread that made it.
    pub(crate) pools: Vec<Pool>,
}

/// A place at which the credential may stand.
pub(crate) struct DeclaredPlace {
    pub(crate) injector: &'static dyn Injector,
    pub(crate) place: Place,
    pub(crate) paths: Vec<PathPattern>,
    /// `None` where the placeholder alone says which header.
    pub(crate) header: Option<HeaderName>,
}

impl Session {
    /// The session, and what outlives it, sealed to the plan's keeper.
    pub(crate) fn new(plane: &Plane, plan: SessionPlan) -> Result<(Self, Sealed), OpenFault> {
        let malformed = || OpenFault("password_sha256 is not 64 hexadecimal digits".into());
        let password = match &plan.password_sha256 {
            Some(text) => Some(hex32(text).ok_or_else(malformed)?),
            None => None,
        };
        // TLS to a tunnelled target does not end here, so no certificate is made for it.
        let served = plan.routes.iter().filter(|route| !route.tunnel);
        let hosts = served.map(|route| route.authority.host().clone());
        let hosts = hosts.chain(plan.quiet_hosts.iter().cloned()).collect();
        let now = plane.clock.now();
        let mut kept = match &plan.authority {
            Some(sealed) => before(plane, plan.session, sealed)?,
            None => afresh(hosts, now, plan.expires_at)?,
        };
        let hosts = kept.facts.hosts.iter().cloned();
        let ca = SessionCa::new(&plane.provider, &kept.certificates, hosts, now, plan.expires_at)?;
        let names = match kept.facts.lives {
            0 => Assigned::new(),
            lives => Assigned::again(&kept.facts.names, lives),
        };
        kept.facts.names = numbered(&names, &plan.routes)?;
        let keepsake =
            seal::seal(&kept.pack()?, &plan.keeper, &SealPlace::Authority { session: plan.session })
                .map_err(|fault| OpenFault(fault.to_string()))?;
        // Resumption state of its own: no upstream can link two sessions by a ticket.
        let mut client = plane.client.clone();
        client.resumption = rustls::client::Resumption::in_memory_sessions(TLS_SESSIONS);
        let client = Arc::new(client);
        let mut routes: HashMap<Authority, Vec<Arc<Route>>> = HashMap::new();
        for route in plan.routes {
            let route = Arc::new(Route::new(plane, &client, route)?);
            routes.entry(route.plan.authority.clone()).or_default().push(route);
        }
        let session = Self {
            id: plan.session,
            id_text: plan.session.to_string(),
            workload: plan.workload.to_string(),
            role: plan.role.to_string(),
            requester: plan.requester,
            placeholders: Table::new(&plan.placeholders),
            ca,
            recipient: Recipient::generate().map_err(|_| OpenFault("no randomness for its key".into()))?,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            unread: Arc::new(Semaphore::new(UNREAD_MAX)),
            names,
            egress: plan.egress,
            local: plan.local,
            expires_at: plan.expires_at,
            password,
            routes: routes.into_iter().map(|(authority, routes)| (authority, routes.into())).collect(),
            quiet: plan.quiet_hosts.into_iter().collect(),
            over: AtomicBool::new(false),
            told: Mutex::default(),
            tunnels: Mutex::default(),
            doors: Mutex::default(),
        };
        Ok((session, keepsake))
    }

    pub(crate) fn asks_password(&self) -> bool {
        self.password.is_some()
    }

    /// Compares in constant time what a caller's password hashes to.
    pub(crate) fn knows(&self, hashed: &[u8]) -> bool {
        self.password.is_some_and(|password| password.ct_eq(hashed).into())
    }

    /// Addresses for the targets that are not at a captured port, so that doors can be made for them.
    pub(crate) fn named(&self) -> Result<Vec<NamedAddress>, OpenFault> {
        let mut named = Vec::new();
        for authority in self.routes.keys().filter(|one| !CAPTURED_PORTS.contains(&one.port())) {
            let addresses =
                self.names.assign(authority.host()).map_err(|fault| OpenFault(fault.to_string()))?;
            let addresses = vec![addresses.v4.into(), addresses.v6.into()];
            named.push(NamedAddress { authority: authority.clone(), addresses });
        }
        named.sort_by(|one, other| one.authority.cmp(&other.authority));
        Ok(named)
    }

    /// Whether TLS to this host ends here at some port.
    pub(crate) fn serves(&self, host: &Host) -> bool {
        let ends_here = |routes: &Arc<[Arc<Route>]>| routes.iter().any(|route| !route.plan.tunnel);
        self.routes.iter().any(|(authority, routes)| authority.host() == host && ends_here(routes))
    }

    pub(crate) fn routes(&self, authority: &Authority) -> Option<&Arc<[Arc<Route>]>> {
        self.routes.get(authority)
    }

    pub(crate) fn is_quiet(&self, host: &Host) -> bool {
        self.quiet.contains(host)
    }

    /// Whether the session's certificates cover this name.
    pub(crate) fn is_known(&self, host: &Host) -> bool {
        self.is_quiet(host) || self.serves(host)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether its time is over, by the clock.
    pub(crate) fn expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Tells the person who watches the run, once for each `host` and kind. Never waits.
    pub(crate) fn tell(
        &self,
        plane: &Arc<Plane>,
        kind: RefusalKind,
        host: &str,
        text: impl FnOnce() -> String,
    ) {
        let fresh = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let told = told.entry(kind.slug()).or_default();
            told.len() < TOLD_MAX && told.insert(host.to_owned())
        };
        if fresh {
            let (plane, tiding) = (plane.clone(), Tiding { session: self.id, text: text() });
            tokio::spawn(async move { plane.brokerage.tell(tiding).await });
        }
    }

    /// Registers a connection, so that it can be cut. `false` when the session is over.
    pub(crate) fn enter(&self, number: u64, task: AbortHandle, open: Arc<Open>) -> bool {
        let mut tunnels = self.tunnels();
        let over = self.is_over();
        if !over && !open.is_closed() {
            tunnels.insert(number, (task, open));
        }
        !over
    }

    pub(crate) fn leave(&self, number: u64) {
        self.tunnels().remove(&number);
    }

    /// Cuts every connection with an open request or response under `lease`. Idle ones stay: their next request is told why.
    pub(crate) fn cut(&self, lease: &Arc<Lease>) {
        for (task, open) in self.tunnels().values() {
            if open.holds(lease) {
                task.abort();
            }
        }
    }

    /// Cuts every connection whose bytes pass untouched.
    pub(crate) fn cut_relays(&self) {
        for (task, _) in self.tunnels().values().filter(|(_, open)| open.is_relay()) {
            task.abort();
        }
    }

    /// The acceptors of its doors.
    pub(crate) fn doors(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: no new connection, every open one cut, leases and the upstream's connections gone.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        for acceptor in self.doors().drain(..) {
            acceptor.abort();
        }
        for route in self.routes.values().flat_map(|routes| routes.iter()) {
            if let Some(lease) = route.slot.swap(None) {
                lease.end(Life::SessionEnded);
            }
            route.cut();
        }
        for (_, (task, _)) in self.tunnels().drain() {
            task.abort();
        }
    }

    /// Closes upstream connections that nobody has used for a while.
    pub(crate) fn tidy(&self) {
        for route in self.routes.values().flat_map(|routes| routes.iter()) {
            route.pools.iter().for_each(Pool::tidy);
        }
    }

    fn tunnels(&self) -> MutexGuard<'_, HashMap<u64, (AbortHandle, Arc<Open>)>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What outlived the session before this one.
fn before(plane: &Plane, session: SessionId, sealed: &Sealed) -> Result<Kept, OpenFault> {
    let opened = plane.recipient.open(sealed, &SealPlace::Authority { session });
    let mut kept = Kept::unpack(&opened.map_err(|fault| OpenFault(fault.to_string()))?)?;
    kept.facts.lives = kept.facts.lives.saturating_add(1);
    Ok(kept)
}

fn afresh(hosts: Vec<Host>, now: Timestamp, expires_at: Timestamp) -> Result<Kept, OpenFault> {
    let certificates = Certificates::new(&hosts, now, expires_at)?;
    Ok(Kept { certificates, facts: Facts { hosts, names: Vec::new(), lives: 0 } })
}

/// Names with doors, in an order of their own, so that the same configuration has the same addresses.
fn numbered(names: &Assigned, routes: &[RoutePlan]) -> Result<Vec<(Host, u32)>, OpenFault> {
    let late = routes.iter().filter(|route| !CAPTURED_PORTS.contains(&route.authority.port()));
    let hosts: BTreeSet<&Host> = late.map(|route| route.authority.host()).collect();
    let number = |host: &Host| Ok((host.clone(), names.number(host)?));
    hosts
        .into_iter()
        .map(number)
        .collect::<Result<_, Exhausted>>()
        .map_err(|fault| OpenFault(fault.to_string()))
}

impl Route {
    fn new(plane: &Plane, client: &Arc<ClientConfig>, plan: RoutePlan) -> Result<Self, OpenFault> {
        let fault = |what: &str| OpenFault(format!("target {}: {what}", plan.target));
        let text = plan.authority.to_string();
        let mut places = Vec::new();
        for injection in &plan.injections {
            let injector =
                inject::injector(&injection.place).ok_or_else(|| fault("no such way to inject"))?;
            let header = inject::header(&injection.place).map_err(|_| fault("not a header's name"))?;
            places.push(DeclaredPlace {
                injector,
                place: injection.place.clone(),
                paths: injection.paths.clone(),
                header,
            });
        }
        let tls = match &plan.tls_ca {
            None => client.clone(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(|_| fault("tls_ca is not PEM"))?;
                    roots.add(certificate).map_err(|_| fault("tls_ca is not a certificate"))?;
                }
                Arc::new(
                    plane.client_config(roots).map_err(|_| fault("its TLS configuration cannot be made"))?,
                )
            }
        };
        let host = plan.authority.host().as_str().to_owned();
        Ok(Self {
            host: HeaderValue::from_str(&text).map_err(|_| fault("its host cannot stand in a header"))?,
            uri: text.parse().map_err(|_| fault("its host cannot stand in a URI"))?,
            server_name: ServerName::try_from(host).map_err(|_| fault("its host is not a server's name"))?,
            tls: TlsConnector::from(tls),
            places,
            slot: ArcSwapOption::empty(),
            gate: Gate::default(),
            pools: (0..plane.workers.len()).map(|_| Pool::new()).collect(),
            plan,
        })
    }

    /// Whether the placeholder stands for the credential of this route.
    pub(crate) fn is_of(&self, entry: &PlaceholderEntry) -> bool {
        self.plan.credential.as_ref() == Some(&entry.credential)
    }

    /// Empties the slot if this lease is in it.
    pub(crate) fn forget(&self, lease: &Arc<Lease>) {
        let present = self.slot.load();
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, lease)) {
            self.slot.compare_and_swap(&present, None);
        }
    }

    /// Closes every upstream connection.
    pub(crate) fn cut(&self) {
        self.pools.iter().for_each(Pool::cut);
    }
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// TLS sessions of upstreams that are remembered, for a quicker second connection.
const TLS_SESSIONS: usize = 64;
