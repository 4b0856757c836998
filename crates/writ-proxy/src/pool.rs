//! Upstream connections: bounded, kept, and owned by one worker.
//!
//! ```text
//!   HTTP/1.1   a stack of idle connections; one request each; the warmest first
//!   HTTP/2     one shared connection
//! ```
//!
//! There is a pool for each route of each session on each worker: no two sessions share a connection, and no two threads a lock on
//! the way of a request. Nothing is dialled that is not used at once. Which protocol a service speaks is found out by the first
//! connection (ALPN), for which the others wait.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use writ_core::RefusalKind;

use crate::{body::Upload, dial, proxy::Plane, refuse::Refused, session::Route, upstream};

/// Requests under way to one target from one worker; a further one waits. It bounds the connections too.
const IN_FLIGHT_MAX: usize = 512;
/// How long an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest for the TLS handshake with a service.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that a connection may take to be ready again after its answer was read.
const READY_MAX: Duration = Duration::from_secs(5);
/// Largest response head.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// Read buffer of an HTTP/1.1 connection.
pub(crate) const BUFFER_MAX: usize = 256 * 1024;
/// Flow-control windows of HTTP/2.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
/// Pings that find a dead shared connection while requests wait on it.
const PING_EVERY: Duration = Duration::from_secs(30);

type Http1 = http1::SendRequest<Upload>;
type Http2 = http2::SendRequest<Upload>;

/// The connections of one worker to one target of one session.
pub(crate) struct Pool {
    kept: Mutex<Stock>,
    room: Arc<Semaphore>,
    /// Whether the service was seen to speak HTTP/1.1: then requests dial without waiting for each other.
    speaks_h1: AtomicBool,
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Stock {
    idle: Vec<Idle>,
    shared: Option<Shared>,
    /// The tasks that drive the connections, to be cut.
    driving: Vec<AbortHandle>,
}

struct Idle {
    sender: Http1,
    dialled: Arc<str>,
    since: Instant,
}

struct Shared {
    sender: Http2,
    dialled: Arc<str>,
    used: Instant,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            speaks_h1: AtomicBool::new(false),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// Closes every connection, in use or not.
    pub(crate) fn cut(&self) {
        let stock = std::mem::take(&mut *self.stock());
        for task in &stock.driving {
            task.abort();
        }
    }

    /// Closes what was not used for a while.
    pub(crate) fn tidy(&self) {
        let mut stock = self.stock();
        stock.idle.retain(|idle| idle.since.elapsed() < IDLE_MAX && idle.sender.is_ready());
        if stock
            .shared
            .as_ref()
            .is_some_and(|shared| shared.used.elapsed() >= IDLE_MAX || shared.sender.is_closed())
        {
            // Requests on it finish first: the connection closes with its last stream.
            stock.shared = None;
        }
    }

    fn warm(&self) -> Option<(Sender, Arc<str>)> {
        let mut stock = self.stock();
        while let Some(idle) = stock.idle.pop() {
            if idle.sender.is_ready() {
                return Some((Sender::One(idle.sender), idle.dialled));
            }
        }
        let shared = stock.shared.as_mut().filter(|shared| !shared.sender.is_closed())?;
        shared.used = Instant::now();
        Some((Sender::Many(shared.sender.clone()), shared.dialled.clone()))
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    fn drive(&mut self, task: AbortHandle) {
        self.driving.retain(|one| !one.is_finished());
        self.driving.push(task);
    }
}

enum Sender {
    One(Http1),
    Many(Http2),
}

/// A connection to send one request on.
pub(crate) struct Way {
    sender: Sender,
    dialled: Arc<str>,
    reused: bool,
    route: Arc<Route>,
    worker: usize,
    room: OwnedSemaphorePermit,
}

impl Way {
    /// A kept connection, or a new one.
    pub(crate) async fn get(plane: &Plane, route: &Arc<Route>, worker: usize) -> Result<Self, Refused> {
        let gone = || upstream::failed(route, "cannot be reached from here");
        let pool = route.pools.get(worker).ok_or_else(gone)?;
        let room = pool.room.clone().acquire_owned().await.map_err(|_| gone())?;
        let way =
            |(sender, dialled), reused| Self { sender, dialled, reused, route: route.clone(), worker, room };
        if let Some(warm) = pool.warm() {
            return Ok(way(warm, true));
        }
        if pool.speaks_h1.load(Ordering::Relaxed) {
            return Ok(way(connect(plane, route, pool).await?, false));
        }
        let _turn = pool.dialling.lock().await;
        if let Some(warm) = pool.warm() {
            return Ok(way(warm, true));
        }
        Ok(way(connect(plane, route, pool).await?, false))
    }

    pub(crate) fn dialled(&self) -> Arc<str> {
        self.dialled.clone()
    }

    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::Many(_))
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match &mut self.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Many(sender) => sender.try_send_request(request).await,
        }
    }

    /// To be given back when the answer's body is read.
    pub(crate) fn keep(self) -> Kept {
        Kept(self)
    }
}

/// A connection whose answer is being read. Dropped, it is closed; given back, it serves the next request.
pub(crate) struct Kept(Way);

impl Kept {
    pub(crate) fn give_back(self) {
        let Way { sender: Sender::One(mut sender), dialled, route, worker, room, .. } = self.0 else {
            return;
        };
        if sender.is_ready() {
            put(&route, worker, Idle { sender, dialled, since: Instant::now() });
        } else if !sender.is_closed() {
            tokio::spawn(async move {
                if let Ok(Ok(())) = timeout(READY_MAX, sender.ready()).await {
                    put(&route, worker, Idle { sender, dialled, since: Instant::now() });
                }
                drop(room);
            });
        }
    }
}

fn put(route: &Route, worker: usize, idle: Idle) {
    if let Some(pool) = route.pools.get(worker) {
        pool.stock().idle.push(idle);
    }
}

async fn connect(plane: &Plane, route: &Route, pool: &Pool) -> Result<(Sender, Arc<str>), Refused> {
    let (stream, address) = dial::dial(&*plane.names, &route.plan).await?;
    let dialled: Arc<str> = address.to_string().into();
    let tls = match timeout(TLS_TIMEOUT, route.tls.connect(route.server_name.clone(), stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(fault)) => return Err(untrusted(route, &fault)),
        Err(_) => return Err(upstream::failed(route, "took too long for the TLS handshake")),
    };
    let sender = if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        let sender = many(tls, pool).await;
        if let Ok(sender) = &sender {
            let shared = Shared { sender: sender.clone(), dialled: dialled.clone(), used: Instant::now() };
            pool.stock().shared = Some(shared);
        }
        sender.map(Sender::Many)
    } else {
        pool.speaks_h1.store(true, Ordering::Relaxed);
        one(tls, pool).await.map(Sender::One)
    };
    Ok((sender.map_err(|_| upstream::failed(route, "broke off the connection"))?, dialled))
}

async fn one(tls: TlsStream<TcpStream>, pool: &Pool) -> hyper::Result<Http1> {
    let mut builder = http1::Builder::new();
    builder.max_header_size(HEAD_MAX).max_buf_size(BUFFER_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(tls)).await?;
    pool.stock().drive(tokio::spawn(connection).abort_handle());
    Ok(sender)
}

async fn many(tls: TlsStream<TcpStream>, pool: &Pool) -> hyper::Result<Http2> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY);
    let (sender, connection) = builder.handshake(TokioIo::new(tls)).await?;
    pool.stock().drive(tokio::spawn(connection).abort_handle());
    Ok(sender)
}

fn untrusted(route: &Route, fault: &std::io::Error) -> Refused {
    let detail = format!("the TLS handshake with {} failed: {fault}", route.plan.authority);
    let next = "if the service has a CA of its own, the operator can name it with `tls_ca` of the target";
    Refused::new(RefusalKind::UpstreamFailed, detail, next)
}
