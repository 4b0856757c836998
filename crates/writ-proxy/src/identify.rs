//! Identify: who is calling. The listener is the session's, and its password is asked for on every CONNECT.
//!
//! ```text
//!   CONNECT host:port          no or wrong password   407, and the connection stays open for another try
//!                              listed host            200, then TLS is terminated here
//!                              quiet host             200, and each request is refused in HTTP
//!                              any other              403, recorded, and the launcher is told once
//!   anything else              403: credentials go over https alone, and through CONNECT alone
//! ```
//!
//! Absent: the agent's process. In *advisory* runs the password is what there is; in *confined* ones the listener cannot be reached
//! from anywhere else.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    Method, Request, Response,
    header::{HOST, PROXY_AUTHORIZATION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use writ_core::{Authority, RefusalKind};

use crate::{
    body::Answer,
    pool::HEAD_MAX,
    record,
    refuse::{self, Refused},
    route,
    tunnel::{Site, Tunnel},
};

/// Longest that a connection may wait with its first, or its next, CONNECT.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest `Proxy-Authorization` that is looked at.
const PASSWORD_MAX: usize = 1024;

/// A connection that may speak TLS now.
pub(crate) struct Caller {
    pub(crate) site: Site,
    pub(crate) stream: TcpStream,
    /// What the agent sent without waiting for the answer to its CONNECT.
    pub(crate) early: Bytes,
}

type Slot = Mutex<Option<(Site, OnUpgrade)>>;

/// Answers proxy requests until one CONNECT is good. `None`: the connection is over.
pub(crate) async fn identify(tunnel: &Arc<Tunnel>, stream: TcpStream) -> Option<Caller> {
    let slot: Arc<Slot> = Arc::default();
    let service = service_fn(|request| {
        let answer = answer(tunnel, &slot, request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_header_size(HEAD_MAX);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok()?;
    let (site, upgrade) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some(Caller { site, stream: parts.io.into_inner(), early: parts.read_buf })
}

fn answer(tunnel: &Arc<Tunnel>, slot: &Slot, mut request: Request<Incoming>) -> Response<Answer> {
    if !knows_password(tunnel, &request) {
        return refuse::unauthenticated();
    }
    match site(tunnel, &request) {
        Ok(site) => {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((site, hyper::upgrade::on(&mut request)));
            Response::new(Answer::EMPTY)
        }
        Err(refused) => {
            let host = request.uri().host().unwrap_or("-");
            record::refused(tunnel, &refused, host, Some(request.method().as_str()));
            refused.response()
        }
    }
}

/// The password of Basic, or the token of Bearer, whatever the user's name.
fn knows_password(tunnel: &Tunnel, request: &Request<Incoming>) -> bool {
    let mut values = request.headers().get_all(PROXY_AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, rest)) =
        value.to_str().ok().filter(|text| text.len() <= PASSWORD_MAX).and_then(|text| text.split_once(' '))
    else {
        return false;
    };
    let password = if scheme.eq_ignore_ascii_case("bearer") {
        rest.trim().as_bytes().to_vec()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let Ok(pair) = STANDARD.decode(rest.trim()) else { return false };
        let colon = pair.iter().position(|byte| *byte == b':');
        match colon.and_then(|colon| pair.get(colon + 1..)) {
            Some(password) => password.to_vec(),
            None => return false,
        }
    } else {
        return false;
    };
    tunnel.session.knows(digest::digest(&digest::SHA256, &password).as_ref())
}

fn site(tunnel: &Arc<Tunnel>, request: &Request<Incoming>) -> Result<Site, Refused> {
    if request.method() != Method::CONNECT {
        let detail = "writ carries https through CONNECT, and nothing in the clear";
        return Err(Refused::new(RefusalKind::Denied, detail, "use an https:// address"));
    }
    let named = request.uri().authority().ok_or_else(|| Refused::ambiguous("CONNECT names no host"))?;
    let authority: Authority = named.as_str().parse().map_err(|fault: writ_core::AuthorityError| {
        let next = "name the host as it is in its certificate";
        Refused {
            status: Some(http::StatusCode::FORBIDDEN),
            ..Refused::new(RefusalKind::UnlistedHost, fault.to_string(), next)
        }
    })?;
    for host in request.headers().get_all(HOST) {
        if host
            .to_str()
            .ok()
            .and_then(|text| text.parse::<Authority>().ok())
            .is_none_or(|host| host != authority)
        {
            return Err(Refused::ambiguous(format!("CONNECT is to {authority}, but its Host is another")));
        }
    }
    if let Some(routes) = tunnel.session.routes(&authority) {
        return Ok(Site::Listed(routes.clone()));
    }
    if tunnel.session.is_quiet(authority.host()) {
        return Ok(Site::Quiet(authority.host().clone()));
    }
    let refused = route::unlisted(&authority.to_string());
    let alarm = format!("{authority} is not listed for role {}: refused", tunnel.session.role);
    Err(refused.with_alarm(alarm))
}
