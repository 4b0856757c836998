//! One connection, one request: accept, handshake, record, judge, answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::answer::{self, Asked, Body};
use crate::ca::Ca;
use crate::demand::{self, Presented};
use crate::generic;
use crate::providers;
use crate::seen::{Abort, Connection, Seen, Shared, Violation};

/// Most bytes of a request body that are kept. Longer ones are answered 413.
const BODY_MAX: usize = 64 << 20;

/// The TLS side: leaves by name, ALPN as asked.
pub(crate) fn tls(
    ca: &Arc<Ca>,
    shared: &Arc<Shared>,
    http1_only: bool,
    no_alpn: bool,
) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let resolver = Leaves { ca: Arc::clone(ca), shared: Arc::clone(shared) };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = match (no_alpn, http1_only) {
        (true, _) => Vec::new(),
        (_, true) => vec![b"http/1.1".to_vec()],
        _ => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let abort = Arc::new(Abort::default());
        let id = shared.change(|s| {
            let id = s.connections.len() as u64;
            s.connections.push(Connection { id, sni: None, alpn: None, established: false, open: true });
            s.aborts.insert(id, Arc::clone(&abort));
            id
        });
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let socket = Socket { tcp, abort: Arc::clone(&abort) };
            tokio::select! {
                _ = connection(id, socket, tls, Arc::clone(&shared), Arc::clone(&abort)) => {}
                () = abort.notify.notified() => {}
            }
            shared.change(|s| {
                s.aborts.remove(&id);
                s.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.open = false);
            });
        });
    }
}

/// What the answering of a request knows of its connection.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) abort: Arc<Abort>,
    connection: u64,
    sni: Option<String>,
}

async fn connection(
    id: u64,
    socket: Socket,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    abort: Arc<Abort>,
) -> io::Result<()> {
    let faults = shared.read(|s| s.faults.clone());
    if faults.refuse_connections {
        abort.reset.store(true, Ordering::Release);
        return Ok(());
    }
    if faults.stall_handshake {
        std::future::pending::<()>().await;
    }
    socket.tcp.set_nodelay(true)?;
    let stream = tls.accept(socket).await?;
    let (_, session) = stream.get_ref();
    let sni = session.server_name().map(str::to_owned);
    let alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
    shared.change(|s| {
        for connection in s.connections.iter_mut().filter(|c| c.id == id) {
            connection.sni.clone_from(&sni);
            connection.alpn.clone_from(&alpn);
            connection.established = true;
        }
    });
    let context = Arc::new(Context { shared, abort, connection: id, sni });
    http(stream, alpn.as_deref() == Some("h2"), context).await.map_err(io::Error::other)
}

async fn http(stream: TlsStream<Socket>, h2: bool, context: Arc<Context>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move { request_in(&context, request).await }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).serve_connection(io, service).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).serve_connection(io, service).with_upgrades().await
    }
}

async fn request_in(context: &Context, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let (id, presented, violations) = record(context, &parts);
    let faults = context.shared.read(|s| s.faults.clone());
    if faults.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
    }
    if violations.iter().any(Violation::refuses) {
        return Ok(answer::violation(&violations));
    }
    if let Some(status) = faults.status {
        return Ok(answer::status(status));
    }
    let host = demand::authority(&parts);
    let host = demand::host_only(&host).to_ascii_lowercase();
    if matches!(presented, Presented::Nothing | Presented::Other) {
        return Ok(providers::unauthorized(&host, presented));
    }
    if generic::takes_body(parts.uri.path()) {
        return Ok(generic::with_body(&parts, body));
    }
    let Some(body) = whole(context, id, body).await else {
        return Ok(answer::status(StatusCode::PAYLOAD_TOO_LARGE.as_u16()));
    };
    let asked = Asked { host, parts, body, event_interval: Duration::from_millis(faults.event_interval_ms) };
    if let Some(response) = providers::answer(context, &asked) {
        return Ok(response);
    }
    generic::answer(context, &asked).await
}

fn record(context: &Context, parts: &http::request::Parts) -> (usize, Presented, Vec<Violation>) {
    let host = demand::authority(parts);
    context.shared.change(|s| {
        let presented = demand::presented(s, &demand::host_only(&host).to_ascii_lowercase(), parts);
        let violations = demand::violations(s, context.sni.as_deref(), parts);
        let id = s.seen.len();
        s.seen.push(Seen {
            id,
            connection: context.connection,
            sni: context.sni.clone(),
            version: format!("{:?}", parts.version),
            method: parts.method.to_string(),
            host: host.clone(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: demand::lines(&parts.headers),
            body_len: 0,
            body_sha256: None,
            presented,
            violations: violations.clone(),
        });
        (id, presented, violations)
    })
}

async fn whole(context: &Context, id: usize, body: Incoming) -> Option<Bytes> {
    let body = Limited::new(body, BODY_MAX).collect().await.ok()?.to_bytes();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    context.shared.change(|s| {
        let leaks = demand::holds_placeholder(s, &String::from_utf8_lossy(&body));
        if let Some(seen) = s.seen.get_mut(id) {
            seen.body_len = body.len() as u64;
            seen.body_sha256 = Some(crate::hex(digest.as_ref()));
            seen.violations.extend(leaks.then_some(Violation::PlaceholderInBody));
        }
    });
    Some(body)
}

struct Leaves {
    ca: Arc<Ca>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaves")
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without a name there is no certificate: a proxy that forgets SNI must fail here.
        let name = hello.server_name()?;
        let defect = self.shared.read(|s| s.faults.leaf);
        self.ca.leaf(name, defect).ok()
    }
}

/// A TCP stream that ends with a reset when its connection's [`Abort`] says so.
struct Socket {
    tcp: TcpStream,
    abort: Arc<Abort>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.abort.reset.load(Ordering::Acquire) {
            // With zero linger the close that follows sends RST, not FIN. Failure leaves an orderly end.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

mod socket_io {
    //! Delegation of the stream traits; nothing but forwarding.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Socket;

    impl AsyncRead for Socket {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tcp).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.tcp).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tcp).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tcp).poll_shutdown(cx)
        }
    }
}
