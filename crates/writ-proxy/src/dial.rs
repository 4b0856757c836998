//! Resolving and dialling, as one function.
//!
//! Whoever asks for a connection gets one to an address that was judged, from the very answers that were judged: there is no second
//! look-up that could answer otherwise. `dial` of a route changes where the name leads; the name itself, which TLS verifies,
//! stays.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use writ_core::{BoxFuture, Refusal, RefusalKind, RoutePlan};

use crate::address;

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
pub(crate) async fn dial(names: &dyn Names, plan: &RoutePlan) -> Result<(TcpStream, SocketAddr), Refusal> {
    let authority = &plan.authority;
    let answers = match timeout(RESOLVE_TIMEOUT, resolve(names, plan)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(_)) => return Err(failed(format!("the name of {authority} does not resolve"))),
        Err(_) => return Err(failed(format!("resolving the name of {authority} took too long"))),
    };
    address::judge(&answers, &plan.allow_private).map_err(|fault| {
        Refusal::new(
            RefusalKind::ForbiddenAddress,
            format!("{authority} is not dialled: {fault}"),
            "if the address is meant, the operator can open its network with `allow_private` of the target",
        )
    })?;
    for address in answers.into_iter().take(TRIES_MAX) {
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            let _ = stream.set_nodelay(true);
            return Ok((stream, address));
        }
    }
    Err(failed(format!("{authority} does not accept a connection")))
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

fn failed(detail: String) -> Refusal {
    Refusal::new(RefusalKind::UpstreamFailed, detail, "check the network, then try again")
}
