//! One connection of an agent: from its door, through TLS, to its requests.
//!
//! The connection belongs to one authority and so to one target. It is registered with its session while it lives, and with each lease
//! while a request is under way: cutting is aborting its task, which costs a request nothing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use writ_audit::Stream;
use writ_core::{Authority, Host, RefusalKind};

use crate::{
    capture,
    door::Entry,
    hello,
    identify::{Caller, Ready, identify},
    lease::Lease,
    pool::{BUFFER_MAX, CONNECTION_WINDOW, HEAD_MAX, STREAM_WINDOW},
    proxy::Plane,
    record::{self, Toward},
    refuse::Refused,
    relay::{self, Passing},
    serve,
    session::{Route, Session},
};

/// Longest for the TLS handshake with an agent.
pub(crate) const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that one HTTP/2 connection of an agent may have under way.
const STREAMS_MAX: u32 = 128;

/// Where a connection leads.
pub(crate) enum Site {
    /// To a service, with the targets behind its authority.
    Listed(Arc<[Arc<Route>]>),
    /// Nowhere, politely.
    Quiet(Authority),
    /// The connection and SNI disagree.
    Misdirected { connect: Authority, sni: Host },
}

/// A connection, as its requests see it.
pub(crate) struct Tunnel {
    pub(crate) plane: Arc<Plane>,
    pub(crate) session: Arc<Session>,
    pub(crate) worker: usize,
    pub(crate) open: Arc<Open>,
    pub(crate) site: Site,
}

/// The leases under which requests of one connection are under way.
#[derive(Default)]
pub(crate) struct Open {
    leases: Mutex<Vec<Arc<Lease>>>,
    /// The connection is gone.
    closed: AtomicBool,
    /// Its bytes pass untouched.
    relay: AtomicBool,
}

impl Site {
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Listed(routes) => routes.first().map_or("-", |route| route.plan.authority.host().as_str()),
            Self::Quiet(authority) | Self::Misdirected { connect: authority, .. } => {
                authority.host().as_str()
            }
        }
    }

    /// In the words of the record. Whatever its port, it is HTTP over TLS.
    pub(crate) fn toward(&self) -> Toward<'_> {
        let port = match self {
            Self::Listed(routes) => routes.first().map(|route| route.plan.authority.port()),
            Self::Quiet(authority) | Self::Misdirected { connect: authority, .. } => Some(authority.port()),
        };
        Toward { scheme: "https", host: self.host(), port }
    }

    fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Listed(routes) => routes.first().map(|route| &route.plan.authority),
            Self::Quiet(authority) | Self::Misdirected { connect: authority, .. } => Some(authority),
        }
    }
}

impl Open {
    pub(crate) fn enter(&self, lease: &Arc<Lease>) {
        self.leases().push(lease.clone());
    }

    pub(crate) fn leave(&self, lease: &Arc<Lease>) {
        let mut leases = self.leases();
        if let Some(at) = leases.iter().position(|one| Arc::ptr_eq(one, lease)) {
            leases.swap_remove(at);
        }
    }

    pub(crate) fn holds(&self, lease: &Arc<Lease>) -> bool {
        self.leases().iter().any(|one| Arc::ptr_eq(one, lease))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn mark_relay(&self) {
        self.relay.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_relay(&self) -> bool {
        self.relay.load(Ordering::SeqCst)
    }

    fn leases(&self) -> MutexGuard<'_, Vec<Arc<Lease>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    pub(crate) fn audit(&self) -> &Stream {
        self.plane.audit(self.worker)
    }
}

/// What the acceptor hands to a worker.
pub(crate) struct Arrival {
    pub(crate) plane: Arc<Plane>,
    pub(crate) session: Arc<Session>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) worker: usize,
    pub(crate) number: u64,
    pub(crate) open: Arc<Open>,
    pub(crate) stream: std::net::TcpStream,
    pub(crate) room: OwnedSemaphorePermit,
    /// Held until the connection has said what it wants.
    pub(crate) unread: OwnedSemaphorePermit,
}

/// Removes the connection from its session when its task ends, however it ends.
struct Leave {
    session: Arc<Session>,
    number: u64,
    open: Arc<Open>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.open.closed.store(true, Ordering::SeqCst);
        self.session.leave(self.number);
    }
}

/// Serves one connection to its end.
pub(crate) async fn run(arrival: Arrival) {
    let Arrival { plane, session, entry, worker, number, open, stream, room, unread } = arrival;
    let _leave = Leave { session: session.clone(), number, open: open.clone(), _room: room };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let _ = stream.set_nodelay(true);
    // Before it is known where it leads, the connection leads nowhere.
    let tunnel = |site| {
        Arc::new(Tunnel { plane: plane.clone(), session: session.clone(), worker, open: open.clone(), site })
    };
    let Ok(nowhere) = "writ.invalid".parse() else { return };
    let nowhere = tunnel(Site::Quiet(nowhere));
    let mut unread = Some(unread);
    let caller = match &*entry {
        Entry::Proxy => identify(&nowhere, stream).await,
        Entry::Captured(port) => capture::captured(&nowhere, stream, *port, &mut unread).await,
        Entry::Named(authority) => capture::named(&nowhere, stream, authority, &mut unread).await,
        Entry::Local(port) => capture::local(&nowhere, stream, *port, &mut unread).await,
    };
    let Some(Caller { lead, stream, early }) = caller else { return };
    match lead {
        Ready::Pass(passing) => pass(passing, stream, early).await,
        Ready::Serve(site) => {
            let tls = timeout(TLS_TIMEOUT, terminate(&nowhere, site, stream, early)).await;
            drop(unread);
            let Ok(Some((site, tls))) = tls else { return };
            speak(tunnel(site), tls).await;
        }
    }
}

/// Passes bytes on; where they are TLS, under the name that was judged.
async fn pass(mut passing: Box<Passing>, mut stream: TcpStream, mut early: Bytes) {
    if let Some(name) = passing.passage.sni().cloned() {
        let hello = match timeout(TLS_TIMEOUT, hello::read(&mut stream, &early)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(fault)) => {
                let next = "speak TLS on port 443";
                passing.refuse(Refused::new(RefusalKind::Ambiguous, fault.to_string(), next));
                return;
            }
            Err(_) => return,
        };
        if hello.sni.is_some_and(|sni| sni.parse().ok().as_ref() != Some(&name)) {
            passing.refuse(Refused::misdirected(DISAGREE));
            hello::deny(stream).await;
            return;
        }
        early = hello.bytes.into();
    }
    relay::carry(passing, stream, early).await;
}

/// Terminates TLS under the name that the connection was opened to, which SNI must give too if it gives one.
async fn terminate(
    nowhere: &Arc<Tunnel>,
    site: Site,
    mut stream: TcpStream,
    early: Bytes,
) -> Option<(Site, TlsStream<Early>)> {
    let session = &nowhere.session;
    let hello = hello::read(&mut stream, &early).await.ok()?;
    let connect = site.authority()?.clone();
    let asked = hello.sni.map(|sni| sni.parse::<Host>());
    let sni = match asked {
        None => connect.host().clone(),
        Some(Ok(sni)) if sni == *connect.host() || session.is_known(&sni) => sni,
        // Under a name that is none of the session's there is no certificate, so it is refused below HTTP.
        Some(_) => {
            record::refused(nowhere, &Refused::misdirected(DISAGREE), site.toward(), None);
            hello::deny(stream).await;
            return None;
        }
    };
    let Some(config) = session.ca.config(&sni) else {
        record::refused(nowhere, &Refused::uncertified(&sni), site.toward(), None);
        hello::deny(stream).await;
        return None;
    };
    let site = if sni == *connect.host() { site } else { Site::Misdirected { connect, sni } };
    if let Site::Misdirected { .. } = site {
        record::refused(nowhere, &Refused::misdirected(DISAGREE), site.toward(), None);
    }
    let stream = Early { early: hello.bytes.into(), stream };
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
    Some((site, start.into_stream(config).await.ok()?))
}

const DISAGREE: &str = "the connection and SNI name different hosts";

async fn speak(tunnel: Arc<Tunnel>, tls: TlsStream<Early>) {
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| serve::serve(tunnel.clone(), request));
    // How a connection ends is the agent's affair; what was under way on it is recorded by its exchanges.
    let _ = if h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX));
        builder.serve_connection(TokioIo::new(tls), service).await
    } else {
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_MAX).max_buf_size(BUFFER_MAX).half_close(false);
        builder.serve_connection(TokioIo::new(tls), service).await
    };
}

/// A TCP stream, with what was read of it too early in front.
pub(crate) struct Early {
    early: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Early {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let now = self.early.len().min(buffer.remaining());
        buffer.put_slice(self.early.get(..now).unwrap_or_default());
        self.early.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
