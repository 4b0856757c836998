//! One request, from an agent to its upstream and back. Each line of [`carry`] is a stage, and each stage is the module of that name.
//!
//! Who is calling was settled when the connection was made ([`identify`](crate::identify)): its session and its authority come with the
//! [`Tunnel`]. What is settled here is one request; nothing that it says changes where it goes.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;

use crate::{
    acquire, body::Answer, headers, inject, record, record::Exchange, refuse::Refused, route, route::Target,
    scrub, tunnel::Tunnel, upstream, use_,
};

/// Answers every request: with the service's response, or with a refusal that is on the record.
pub(crate) async fn serve(
    tunnel: Arc<Tunnel>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (parts, body) = request.into_parts();
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let answer = carry(&tunnel, parts, body).await;
    Ok(answer.unwrap_or_else(|refused| {
        record::refused(&tunnel, &refused, tunnel.site.toward(), Some(method.as_str()));
        refused.shaped(&tunnel.site, uri.path()).response()
    }))
}

async fn carry(tunnel: &Arc<Tunnel>, parts: Parts, body: Incoming) -> Result<Response<Answer>, Refused> {
    let target = route::find(tunnel, &parts)?; // which credential, which upstream
    let lease = acquire::lease(tunnel, &target).await?; // from the cache, or from the broker
    let mut exchange = use_::open(tunnel, &target, lease, &parts)?; // alive? in scope? the attempt is recorded
    let answer = through(tunnel, &target, &mut exchange, parts, body).await;
    let reply = answer.map_err(|refused| exchange.refuse(refused))?;
    Ok(scrub::answer(reply, exchange)) // credential out, on every path back; the outcome is recorded at the end
}

async fn through(
    tunnel: &Tunnel,
    target: &Target,
    exchange: &mut Exchange,
    mut parts: Parts,
    body: Incoming,
) -> Result<upstream::Reply, Refused> {
    headers::clean_request(&mut parts);
    inject::inject(target, &exchange.lease, &mut parts)?; // placeholder out, credential in
    let reply = upstream::send(tunnel, target, exchange, parts, body).await?; // only to the host that the lease names
    scrub::readable(target, reply) // what cannot be read cannot be scrubbed
}
