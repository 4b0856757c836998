//! Capture: programs that know nothing of proxies. A connection arrives where it was meant to go, and is led from there.
//!
//! ```text
//!   local address ─► the name that it was given for ─► lead ─► served like a CONNECT to that name
//!                 ├► one that a lost daemon gave ─► the name in SNI, on port 443
//!                 └► none: an address, which is refused, or passes under egress = "public" if it is a public one
//! ```
//!
//! Inside of a session's namespace every address is local, so the address that a connection was accepted on is the one that its
//! program meant. A refusal is said in the protocol of the port, so that whoever runs the program reads it: an alert of TLS, a
//! response of HTTP, a disconnect of SSH. Absent: judging `Host` on port 80, where nothing is served and no credential passes.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, header::CONNECTION};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use writ_core::{Authority, RefusalKind};

use crate::{
    hello::{self, Hello, HelloFault},
    identify::{Caller, Ready},
    lead::{self, HTTP, HTTPS, Lead, Passage, SSH},
    pool::HEAD_MAX,
    record::{self, Toward},
    refuse::Refused,
    relay,
    tunnel::{TLS_TIMEOUT, Tunnel},
};

/// Longest that a program is waited for with the request that is going to be refused.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of a refused request's body that is read, so that its sender gets to read the refusal.
const BODY_MAX: usize = 64 * 1024;
/// The largest text in a disconnect of SSH.
const TEXT_MAX: usize = 1024;

/// A connection at one of the captured ports.
pub(crate) async fn captured(
    tunnel: &Arc<Tunnel>,
    stream: TcpStream,
    port: u16,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    // A v4 address may arrive in its v6 form.
    let meant = stream.local_addr().ok()?.ip().to_canonical();
    if meant.is_loopback() || meant.is_unspecified() {
        own_loopback(tunnel, stream, port);
        return None;
    }
    if port == HTTPS && tunnel.session.names.may_adopt(meant) {
        return adopted(tunnel, stream, meant, unread).await;
    }
    let (host, name) = match tunnel.session.names.name(meant) {
        Some(name) => (name.to_string(), Some(name)),
        None => (meant.to_string(), None),
    };
    let led = match name {
        Some(name) => lead::by_name(&tunnel.session, &Authority::new(name, port)),
        None => lead::by_address(&tunnel.session, SocketAddr::new(meant, port)),
    };
    arrive(tunnel, stream, led, lead::toward(&host, port), unread).await
}

/// A connection to an address that a daemon before this one gave for a name: the agent says which.
async fn adopted(
    tunnel: &Arc<Tunnel>,
    mut stream: TcpStream,
    meant: IpAddr,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    let address = meant.to_string();
    let hello = greeting(tunnel, &mut stream, lead::toward(&address, HTTPS)).await?;
    let asked = hello.sni.and_then(|sni| sni.parse().ok());
    let name = asked.and_then(|asked| tunnel.session.names.adopt(meant, &asked));
    let led = match &name {
        Some(name) => lead::by_name(&tunnel.session, &Authority::new(name.clone(), HTTPS)),
        None => lead::by_address(&tunnel.session, SocketAddr::new(meant, HTTPS)),
    };
    let host = name.map_or(address, |name| name.to_string());
    go(tunnel, stream, hello.bytes.into(), led, lead::toward(&host, HTTPS), unread).await
}

/// A connection at the address and the port of one target.
pub(crate) async fn named(
    tunnel: &Arc<Tunnel>,
    stream: TcpStream,
    authority: &Authority,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    let led = lead::by_name(&tunnel.session, authority);
    let toward = lead::toward(authority.host().as_str(), authority.port());
    arrive(tunnel, stream, led, toward, unread).await
}

/// A connection that leads to the host's loopback.
pub(crate) async fn local(
    tunnel: &Arc<Tunnel>,
    stream: TcpStream,
    port: u16,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    let toward = Toward { scheme: "tcp", host: "localhost", port: Some(port) };
    arrive(tunnel, stream, Ok(Lead::Pass(Passage::Local(port))), toward, unread).await
}

async fn arrive(
    tunnel: &Arc<Tunnel>,
    mut stream: TcpStream,
    led: Result<Lead, Refused>,
    toward: Toward<'_>,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    // What a program says first is read first: a refusal that crosses it would be lost.
    let early = match toward.port {
        Some(HTTPS) => Bytes::from(greeting(tunnel, &mut stream, toward).await?.bytes),
        _ => Bytes::new(),
    };
    go(tunnel, stream, early, led, toward, unread).await
}

/// The beginning of TLS; `None` where there is none, which is on record then.
async fn greeting(tunnel: &Arc<Tunnel>, stream: &mut TcpStream, toward: Toward<'_>) -> Option<Hello> {
    match timeout(TLS_TIMEOUT, hello::read(stream, &[])).await.ok()? {
        Ok(hello) => Some(hello),
        Err(HelloFault::Closed) => None,
        Err(fault) => {
            let next = "speak TLS on port 443";
            let refused = Refused::new(RefusalKind::Ambiguous, fault.to_string(), next);
            record::refused(tunnel, &refused, toward, None);
            None
        }
    }
}

async fn go(
    tunnel: &Arc<Tunnel>,
    stream: TcpStream,
    early: Bytes,
    led: Result<Lead, Refused>,
    toward: Toward<'_>,
    unread: &mut Option<OwnedSemaphorePermit>,
) -> Option<Caller> {
    let ready = match led {
        Ok(Lead::Serve(site)) => Ok(Ready::Serve(site)),
        // It has said what it wants; what it waits for now is not its own doing.
        Ok(Lead::Pass(passage)) => {
            unread.take();
            relay::open(tunnel, passage).await.map(Ready::Pass)
        }
        Err(refused) => Err(refused),
    };
    match ready {
        Ok(lead) => Some(Caller { lead, stream, early }),
        Err(refused) => {
            record::refused(tunnel, &refused, toward, None);
            refuse(stream, &refused, toward.port).await;
            None
        }
    }
}

/// Says the refusal in the protocol that the port stands for.
async fn refuse(stream: TcpStream, refused: &Refused, port: Option<u16>) {
    let failed = refused.refusal.kind == RefusalKind::UpstreamFailed;
    match port {
        // What failed may be tried again: it looks like a network that failed.
        Some(HTTPS | SSH) if failed => drop(stream.set_zero_linger()),
        Some(HTTPS) => hello::deny(stream).await,
        Some(HTTP) => refuse_http(stream, refused).await,
        Some(SSH) => hello::farewell(stream, &ssh_disconnect(&refused.sentence())).await,
        _ => {}
    }
}

async fn refuse_http(stream: TcpStream, refused: &Refused) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let body = Limited::new(request.into_body(), BODY_MAX).collect();
        let _ = timeout(REQUEST_TIMEOUT, body).await;
        let mut response = refused.response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_header_size(HEAD_MAX)
        .keep_alive(false);
    // The refusal is on record; how the connection ends is the agent's affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// What OpenSSH prints as the reason of a disconnect: `SSH_MSG_DISCONNECT` before any key is agreed on (RFC 4253 §4.2, §6, §11.1).
fn ssh_disconnect(text: &str) -> Vec<u8> {
    const DISCONNECT: u8 = 1;
    const NOT_ALLOWED_TO_CONNECT: u32 = 1;
    const BLOCK: usize = 8;
    let text: String = text.chars().filter(|one| !one.is_control()).take(TEXT_MAX).collect();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(0).to_be_bytes();
    let mut payload = vec![DISCONNECT];
    payload.extend_from_slice(&NOT_ALLOWED_TO_CONNECT.to_be_bytes());
    payload.extend_from_slice(&length(text.len()));
    payload.extend_from_slice(text.as_bytes());
    payload.extend_from_slice(&length(0));
    // At least four bytes of padding, to a whole number of blocks with the five bytes before.
    let padding = 4 + (BLOCK - (5 + payload.len() + 4) % BLOCK) % BLOCK;
    let mut word = b"SSH-2.0-writ\r\n".to_vec();
    word.extend_from_slice(&length(1 + payload.len() + padding));
    word.push(u8::try_from(padding).unwrap_or(4));
    word.extend_from_slice(&payload);
    word.resize(word.len() + padding, 0);
    word
}

/// A wildcard listener takes the session's own loopback too. There it must look as if nobody listened.
fn own_loopback(tunnel: &Arc<Tunnel>, stream: TcpStream, port: u16) {
    let detail = format!("port {port} of the session's own loopback is writ's");
    let next = "let the server listen on another port, such as 8080";
    let alarm = format!(
        "localhost:{port} was refused: inside of a run the ports 80, 443 and 22 are writ's; use another port"
    );
    let refused = Refused::new(RefusalKind::ForbiddenAddress, detail, next).with_alarm(alarm);
    record::refused(tunnel, &refused, lead::toward("localhost", port), None);
    let _ = stream.set_zero_linger();
}
