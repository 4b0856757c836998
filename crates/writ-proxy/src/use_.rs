//! Use: is the lease alive, is the request in its scope, is it on the record.
//!
//! All in memory: one atomic of the lease, two clocks, the scope that the broker granted. The log accepts the attempt before the
//! request may leave; if it cannot, the request is refused.

use std::sync::Arc;

use http::request::Parts;

use crate::{lease::Lease, record::Exchange, refuse::Refused, route::Target, tunnel::Tunnel};

pub(crate) fn open(
    tunnel: &Arc<Tunnel>,
    target: &Target,
    lease: Arc<Lease>,
    parts: &Parts,
) -> Result<Exchange, Refused> {
    let now = tunnel.plane.now();
    // Marked as in use first, judged then: a revocation in between finds the mark and cuts.
    let mut exchange = Exchange::begin(tunnel, lease, now);
    tunnel.plane.live.connected(now)?;
    exchange.lease.usable(now)?;
    exchange.lease.scope.check(parts.method.as_str(), &target.path)?;
    exchange.record(target, parts.method.as_str(), now)?;
    Ok(exchange)
}
