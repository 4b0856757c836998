//! One connection of an agent: from its CONNECT, through TLS, to its requests.
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
use writ_core::Host;

use crate::{
    identify::{Caller, identify},
    lease::Lease,
    pool::{BUFFER_MAX, CONNECTION_WINDOW, HEAD_MAX, STREAM_WINDOW},
    proxy::Plane,
    record,
    refuse::Refused,
    serve,
    session::{Route, Session},
};

/// Longest for the TLS handshake with an agent.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that one HTTP/2 connection of an agent may have under way.
const STREAMS_MAX: u32 = 128;

/// Where a connection leads.
pub(crate) enum Site {
    /// To a service, with the targets behind its authority.
    Listed(Arc<[Arc<Route>]>),
    /// Nowhere, politely.
    Quiet(Host),
    /// CONNECT and SNI disagree.
    Misdirected { connect: Host, sni: Host },
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
}

impl Site {
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Listed(routes) => routes.first().map_or("-", |route| route.plan.authority.host().as_str()),
            Self::Quiet(host) | Self::Misdirected { connect: host, .. } => host.as_str(),
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
    pub(crate) worker: usize,
    pub(crate) number: u64,
    pub(crate) open: Arc<Open>,
    pub(crate) stream: std::net::TcpStream,
    pub(crate) room: OwnedSemaphorePermit,
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
    let Arrival { plane, session, worker, number, open, stream, room } = arrival;
    let _leave = Leave { session: session.clone(), number, open: open.clone(), _room: room };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let _ = stream.set_nodelay(true);
    // Before CONNECT is answered the connection leads nowhere.
    let tunnel = |site| {
        Arc::new(Tunnel { plane: plane.clone(), session: session.clone(), worker, open: open.clone(), site })
    };
    let Ok(nowhere) = "writ.invalid".parse() else { return };
    let Some(caller) = identify(&tunnel(Site::Quiet(nowhere)), stream).await else { return };
    let Ok(Some((site, tls))) = timeout(TLS_TIMEOUT, terminate(&session, caller)).await else { return };
    let tunnel = tunnel(site);
    if let Site::Misdirected { .. } = tunnel.site {
        let refused = Refused::misdirected("CONNECT and SNI disagree");
        record::refused(&tunnel, &refused, tunnel.site.host(), None);
    }
    speak(tunnel, tls).await;
}

/// Terminates TLS under the name that CONNECT gave, which SNI must give too if it gives one.
async fn terminate(session: &Session, caller: Caller) -> Option<(Site, TlsStream<Early>)> {
    let stream = Early { early: caller.early, stream: caller.stream };
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
    let connect: Host = caller.site.host().parse().ok()?;
    let sni = match start.client_hello().server_name() {
        Some(name) => name.parse().ok()?,
        None => connect.clone(),
    };
    // Where the other name is one of the session's, the refusal can be said in HTTP; where not, there is no certificate to say it under.
    let config =
        if sni == connect || session.is_known(&sni) { session.ca.config(&sni)? } else { return None };
    let site = if sni == connect { caller.site } else { Site::Misdirected { connect, sni } };
    Some((site, start.into_stream(config).await.ok()?))
}

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
