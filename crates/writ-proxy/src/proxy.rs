//! The data plane as a whole: its threads, its sessions, its seam to the broker.
//!
//! ```text
//!   control thread   one acceptor per door ──round robin──► worker threads, one runtime each
//!                    the watch loop, the names              connections live and die on their worker
//! ```
//!
//! A passed listener cannot be opened again with SO_REUSEPORT, so one acceptor hands connections out. Everything that is shared between
//! workers is read, not locked, on the way of a request.

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::watch,
};
use writ_api::seal::Recipient;
use writ_audit::Stream;
use writ_core::{
    BoxFuture, Brokerage, Clock, DataPlane, Door, OpenFault, RecipientKey, SessionId, SessionPlan,
    SessionReady,
};

use crate::{
    dial::Names,
    door,
    lease::Now,
    live::{self, Live},
    session::Session,
};

/// Longest that stopping waits for a thread's blocking name look-ups.
const STOP_MAX: Duration = Duration::from_secs(1);
/// What ALPN offers services, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the data plane is made of.
pub struct ProxyConfig {
    /// Worker threads, at least one; one per core.
    pub workers: usize,
    /// The broker, in process or over a link. It is called on the proxy's threads.
    pub brokerage: Arc<dyn Brokerage>,
    /// Where uses are recorded: one stream for each worker, or fewer, which are then shared. At least one.
    pub audit: Vec<Stream>,
    pub clock: Arc<dyn Clock>,
    /// What services are verified against where a target has no `tls_ca`.
    pub roots: Roots,
    /// Where names lead: [`SystemNames`](crate::SystemNames).
    pub names: Arc<dyn Names>,
}

/// Trust anchors for services.
#[derive(Clone)]
pub struct Roots(RootCertStore);

/// Why PEM text is no set of trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum RootsFault {
    #[error("the trust anchors are not PEM")]
    Pem,
    #[error("a trust anchor is not a certificate")]
    Certificate,
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    #[error("the proxy needs at least one worker and one audit stream")]
    Nothing,
    #[error("the proxy's TLS configuration cannot be made")]
    Tls(#[source] rustls::Error),
    #[error("the system gives no randomness")]
    Random,
    #[error("the proxy's threads cannot be started")]
    Thread(#[source] io::Error),
}

/// The running data plane. Dropped, it stops.
pub struct Proxy {
    plane: Arc<Plane>,
    control: Handle,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What every thread of the proxy shares.
pub(crate) struct Plane {
    pub(crate) brokerage: Arc<dyn Brokerage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Arc<dyn Names>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) client: ClientConfig,
    /// What outlives a session comes back sealed to it.
    pub(crate) recipient: Recipient,
    pub(crate) live: Live,
    pub(crate) workers: Vec<Handle>,
    audit: Vec<Stream>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Connections so far: which worker is next.
    pub(crate) connections: AtomicU64,
}

impl Roots {
    /// The system's trust anchors, or Mozilla's where the system has none.
    pub fn system() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Self(roots)
    }

    /// Exactly the certificates in `pem`.
    ///
    /// # Errors
    /// [`RootsFault`] names what is wrong with the text.
    pub fn from_pem(pem: &str) -> Result<Self, RootsFault> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|_| RootsFault::Pem)?).map_err(|_| RootsFault::Certificate)?;
        }
        if roots.is_empty() { Err(RootsFault::Pem) } else { Ok(Self(roots)) }
    }
}

impl Proxy {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StartFault`] when there is nothing to start, or the system gives no threads.
    pub fn start(config: ProxyConfig) -> Result<Self, StartFault> {
        if config.workers == 0 || config.audit.is_empty() {
            return Err(StartFault::Nothing);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = client_config(&provider, config.roots.0).map_err(StartFault::Tls)?;
        let recipient = Recipient::generate().map_err(|_| StartFault::Random)?;
        let mut runtimes = Vec::with_capacity(config.workers);
        for _ in 0..config.workers {
            runtimes.push(Builder::new_current_thread().enable_all().build().map_err(StartFault::Thread)?);
        }
        let control = Builder::new_current_thread().enable_all().build().map_err(StartFault::Thread)?;
        let plane = Arc::new(Plane {
            live: Live::new(&*config.clock),
            brokerage: config.brokerage,
            clock: config.clock,
            names: config.names,
            provider,
            client,
            recipient,
            workers: runtimes.iter().map(|runtime| runtime.handle().clone()).collect(),
            audit: config.audit,
            sessions: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let handle = control.handle().clone();
        handle.spawn(live::watch(plane.clone()));
        let proxy = Self { plane, control: handle, stop, threads: Mutex::default() };
        let named =
            runtimes.into_iter().enumerate().map(|(index, runtime)| (format!("proxy-{index}"), runtime));
        for (name, runtime) in named.chain([("proxy-control".to_owned(), control)]) {
            let thread = drive(name, runtime, stopped.clone()).map_err(StartFault::Thread)?;
            proxy.threads().push(thread);
        }
        Ok(proxy)
    }

    /// Ends every session and every thread. Blocks until they are gone; the second call does nothing.
    pub fn stop(&self) {
        let sessions: Vec<SessionId> = self.plane.sessions().keys().copied().collect();
        for session in sessions {
            self.plane.end_session(session);
        }
        let _ = self.stop.send(true);
        for thread in std::mem::take(&mut *self.threads()) {
            let _ = thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, plan: SessionPlan, doors: Vec<(Door, OwnedFd)>) -> Result<SessionReady, OpenFault> {
        if doors.is_empty() {
            return Err(OpenFault("it has no door".to_owned()));
        }
        let (session, authority) = Session::new(&self.plane, plan)?;
        let session = Arc::new(session);
        let ready = SessionReady {
            ca_pem: session.ca.root_pem().to_owned(),
            recipient: session.recipient.key().clone(),
            named: session.named()?,
            authority,
        };
        {
            let mut sessions = self.plane.sessions();
            if sessions.contains_key(&session.id) {
                return Err(OpenFault("it is open already".to_owned()));
            }
            sessions.insert(session.id, session.clone());
        }
        door::open(&self.plane, &session, &self.control, doors)
            .inspect_err(|_| self.plane.end_session(session.id))?;
        Ok(ready)
    }

    fn add(&self, session: SessionId, doors: Vec<(Door, OwnedFd)>) -> Result<(), OpenFault> {
        let session = self.plane.sessions().get(&session).cloned();
        let session = session.ok_or_else(|| OpenFault("it is not open".to_owned()))?;
        door::open(&self.plane, &session, &self.control, doors)
    }
}

impl DataPlane for Proxy {
    fn recipient(&self) -> RecipientKey {
        self.plane.recipient.key().clone()
    }

    fn open(
        &self,
        plan: SessionPlan,
        doors: Vec<(Door, OwnedFd)>,
    ) -> BoxFuture<'_, Result<SessionReady, OpenFault>> {
        Box::pin(async move { self.serve(plan, doors) })
    }

    fn extend(
        &self,
        session: SessionId,
        doors: Vec<(Door, OwnedFd)>,
    ) -> BoxFuture<'_, Result<(), OpenFault>> {
        Box::pin(async move { self.add(session, doors) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Plane {
    pub(crate) fn now(&self) -> Now {
        Now { wall: self.clock.now(), boot: self.clock.boottime() }
    }

    /// The audit stream of a worker.
    pub(crate) fn audit(&self, worker: usize) -> &Stream {
        // There is at least one, and a remainder is less than their number.
        #[expect(clippy::indexing_slicing, reason = "start() refuses an empty list")]
        &self.audit[worker % self.audit.len()]
    }

    pub(crate) fn client_config(&self, roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
        client_config(&self.provider, roots)
    }

    pub(crate) fn end_session(&self, id: SessionId) {
        let session = self.sessions().remove(&id);
        if let Some(session) = session {
            session.end();
            self.live.end_session(&session);
        }
    }

    /// Cuts everything that passes untouched: it may not outlive the broker's word.
    pub(crate) fn cut_relays(&self) {
        for session in self.sessions().values() {
            session.cut_relays();
        }
    }

    /// Closes what nobody uses any more.
    pub(crate) fn tidy(&self) {
        let sessions: Vec<Arc<Session>> = self.sessions().values().cloned().collect();
        for session in sessions {
            session.tidy();
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// A thread that drives one runtime until the proxy stops.
fn drive(name: String, runtime: Runtime, mut stopped: watch::Receiver<bool>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(async {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
        runtime.shutdown_timeout(STOP_MAX);
    })
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("sessions", &self.plane.sessions().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}
