//! Upstream: sends the request to the host that the lease names, and nowhere else.
//!
//! The form of the message follows the connection: origin form and `Host` on HTTP/1.1, `:authority` on HTTP/2, both from the route and
//! never from the request. Redirects are the agent's to follow, by a request of its own that is judged from scratch. A request that a
//! kept connection turns out not to have sent is tried once more on another.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri, Version,
    header::{COOKIE, HOST, TE},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::timeout;
use writ_core::RefusalKind;

use crate::{
    body::Upload,
    pool::{Kept, Way},
    record::Exchange,
    refuse::Refused,
    route::{self, Target},
    session::Route,
    tunnel::Tunnel,
};

/// Longest that a service may think before its first byte: what the patient SDKs allow.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A service's answer, and the connection that goes back to its pool when the body is read.
pub(crate) struct Reply {
    pub(crate) response: Response<Incoming>,
    pub(crate) kept: Kept,
}

pub(crate) async fn send(
    tunnel: &Tunnel,
    target: &Target,
    exchange: &mut Exchange,
    parts: Parts,
    body: Incoming,
) -> Result<Reply, Refused> {
    let route = &target.route;
    if !body.is_end_stream() {
        exchange.up = Some(Arc::new(AtomicU64::new(0)));
    }
    let split_cookies = route::is_h2(parts.version);
    let mut request = Request::from_parts(parts, Upload::new(body, exchange.up.clone()));
    if split_cookies {
        join_cookies(&mut request);
    }
    let path = path_and_query(target, request.uri())?;
    loop {
        let mut way = Way::get(&tunnel.plane, route, tunnel.worker).await?;
        // The way may have been waited for, longer than the lease lives.
        let now = tunnel.plane.now();
        tunnel.plane.live.connected(now)?;
        exchange.lease.usable(now)?;
        exchange.dialled = Some(way.dialled());
        shape(&mut request, route, &path, way.is_h2())?;
        let reused = way.is_reused();
        match timeout(HEAD_TIMEOUT, way.send(request)).await {
            Ok(Ok(response)) => return Ok(Reply { response, kept: way.keep() }),
            Ok(Err(mut fault)) => match fault.take_message() {
                Some(unsent) if reused => request = unsent,
                _ => return Err(failed(route, "broke off before it answered")),
            },
            Err(_) => return Err(failed(route, "did not answer in time")),
        }
    }
}

/// The judged path, and the query as it came.
fn path_and_query(target: &Target, uri: &Uri) -> Result<PathAndQuery, Refused> {
    let path = target.path.as_str();
    if let Some(same) = uri.path_and_query().filter(|one| one.path() == path) {
        return Ok(same.clone());
    }
    let text = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    text.parse().map_err(|_| Refused::ambiguous("the path cannot be written in one form"))
}

fn shape(request: &mut Request<Upload>, route: &Route, path: &PathAndQuery, h2: bool) -> Result<(), Refused> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path.clone());
    if h2 {
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(route.uri.clone());
        request.headers_mut().remove(HOST);
        *request.version_mut() = Version::HTTP_2;
    } else {
        request.headers_mut().insert(HOST, route.host.clone());
        request.headers_mut().remove(TE);
        *request.version_mut() = Version::HTTP_11;
    }
    *request.uri_mut() =
        Uri::from_parts(uri).map_err(|_| Refused::ambiguous("the path cannot be written in one form"))?;
    Ok(())
}

/// HTTP/2 may split `Cookie`; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(request: &mut Request<Upload>) {
    let crumbs: Vec<&[u8]> = request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        request.headers_mut().insert(COOKIE, whole);
    }
}

pub(crate) fn failed(route: &Route, what: &str) -> Refused {
    let detail = format!("{} {what}", route.plan.authority);
    Refused::new(RefusalKind::UpstreamFailed, detail, "try again later")
}
