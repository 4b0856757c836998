//! Resolving and dialling, as one function.
//!
//! Whoever asks for a connection gets one to an address that was judged, from the very answers that were judged: there is no second
//! look-up that could answer otherwise. `dial` of a route changes where the name leads; the name itself, which TLS verifies,
//! stays.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use writ_core::{Authority, BoxFuture, RefusalKind, RoutePlan};

use crate::{address, refuse::Refused};

/// Longest that all answers of a name together may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const TRIES_MAX: usize = 4;

/// Where names lead. A parameter, because tests must not depend on the world's.
pub trait Names: Send + Sync {
    /// All addresses of `host`, with `port`.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Names for SystemNames {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// A TCP connection to where the route's name leads, if it may be dialled.
pub(crate) async fn dial(names: &dyn Names, plan: &RoutePlan) -> Result<(TcpStream, SocketAddr), Refused> {
    let authority = &plan.authority;
    let answers = answers(authority, resolve(names, plan)).await?;
    address::judge(&answers, &plan.allow_private).map_err(|fault| {
        let next =
            "if the address is meant, the operator can open its network with `allow_private` of the target";
        forbidden(authority, &fault, fault.address(), next)
    })?;
    connect(authority, answers).await
}

/// A TCP connection to a host that no target names: only at public addresses, and never back to this machine.
pub(crate) async fn dial_public(
    names: &dyn Names,
    authority: &Authority,
) -> Result<(TcpStream, SocketAddr), Refused> {
    let asked = names.resolve(authority.host().as_str(), authority.port());
    let answers = answers(authority, asked).await?;
    public(authority, answers).await
}

/// The same, to an address that the agent named.
pub(crate) async fn dial_address(address: SocketAddr) -> Result<(TcpStream, SocketAddr), Refused> {
    public(&address, vec![address]).await
}

/// A TCP connection to a port of this machine's own loopback.
pub(crate) async fn dial_local(port: u16) -> Result<(TcpStream, SocketAddr), Refused> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    connect(&address, vec![address]).await
}

async fn answers(
    what: &impl fmt::Display,
    asked: impl Future<Output = io::Result<Vec<SocketAddr>>>,
) -> Result<Vec<SocketAddr>, Refused> {
    match timeout(RESOLVE_TIMEOUT, asked).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(_)) => Err(failed(format!("the name of {what} does not resolve"))),
        Err(_) => Err(failed(format!("resolving the name of {what} took too long"))),
    }
}

async fn public(
    what: &impl fmt::Display,
    answers: Vec<SocketAddr>,
) -> Result<(TcpStream, SocketAddr), Refused> {
    let next = "if the address is meant, the operator can add a target for it with `allow_private`";
    address::judge(&answers, &[]).map_err(|fault| forbidden(what, &fault, fault.address(), next))?;
    let (stream, address) = connect(what, answers).await?;
    // A machine's public address is its own as well: what listens there may trust whoever is on the machine.
    if stream.local_addr().is_ok_and(|own| own.ip() == address.ip()) {
        let why = "it leads to an address of this machine";
        return Err(forbidden(what, &why, Some(address.ip()), next));
    }
    Ok((stream, address))
}

async fn connect(
    what: &impl fmt::Display,
    answers: Vec<SocketAddr>,
) -> Result<(TcpStream, SocketAddr), Refused> {
    for address in answers.into_iter().take(TRIES_MAX) {
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            let _ = stream.set_nodelay(true);
            return Ok((stream, address));
        }
    }
    Err(failed(format!("{what} does not accept a connection")))
}

async fn resolve(names: &dyn Names, plan: &RoutePlan) -> io::Result<Vec<SocketAddr>> {
    let Some(elsewhere) = &plan.dial else {
        return names.resolve(plan.authority.host().as_str(), plan.authority.port()).await;
    };
    if let Ok(address) = elsewhere.parse() {
        return Ok(vec![address]);
    }
    let parts = elsewhere.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or(io::ErrorKind::InvalidInput)?;
    names.resolve(host, port).await
}

fn forbidden(
    what: &impl fmt::Display,
    why: &impl fmt::Display,
    address: Option<IpAddr>,
    next: &str,
) -> Refused {
    let detail = format!("{what} is not dialled: {why}");
    let alarm = format!("{detail}; {next}");
    Refused { address, ..Refused::new(RefusalKind::ForbiddenAddress, detail, next).with_alarm(alarm) }
}

fn failed(detail: String) -> Refused {
    Refused::new(RefusalKind::UpstreamFailed, detail, "check the network, then try again")
}
