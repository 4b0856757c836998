//! Identify: who is calling. The listener is the session's, and its password, where it has one, is asked for on every CONNECT.
//!
//! ```text
//!   CONNECT host:port          no or wrong password   407, and the connection stays open for another try
//!                              leads somewhere        200, then what `lead` says
//!                              leads nowhere          403, recorded, and the launcher is told once
//!   anything else              403: credentials go over https alone, and through CONNECT alone
//! ```
//!
//! Absent: the agent's process. In *advisory* runs the password is what there is; in *confined* ones the listener cannot be reached
//! from anywhere else, and there is none.

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
    lead::{self, Lead},
    pool::HEAD_MAX,
    record::{self, Toward},
    refuse::{self, Refused},
    relay::{self, Passing},
    tunnel::{Site, Tunnel},
};

/// Longest that a connection may wait with its first, or its next, CONNECT.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest `Proxy-Authorization` that is looked at.
const PASSWORD_MAX: usize = 1024;

/// A connection of which is known where it leads.
pub(crate) struct Caller {
    pub(crate) lead: Ready,
    pub(crate) stream: TcpStream,
    /// What was read of it already.
    pub(crate) early: Bytes,
}

/// Where a connection leads, with what had to be done before it could be said so.
pub(crate) enum Ready {
    /// TLS ends here.
    Serve(Site),
    /// Its bytes pass, to a service that has accepted the connection.
    Pass(Box<Passing>),
}

type Slot = Mutex<Option<(Ready, OnUpgrade)>>;

/// Answers proxy requests until one CONNECT is good. `None`: the connection is over.
pub(crate) async fn identify(tunnel: &Arc<Tunnel>, stream: TcpStream) -> Option<Caller> {
    let slot: Arc<Slot> = Arc::default();
    let service = service_fn(|request| {
        let answer = answer(tunnel, &slot, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_header_size(HEAD_MAX);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok()?;
    let (lead, upgrade) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some(Caller { lead, stream: parts.io.into_inner(), early: parts.read_buf })
}

async fn answer(tunnel: &Arc<Tunnel>, slot: &Slot, mut request: Request<Incoming>) -> Response<Answer> {
    if !knows_password(tunnel, &request) {
        return refuse::unauthenticated();
    }
    match ready(tunnel, &request).await {
        Ok(lead) => {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((lead, hyper::upgrade::on(&mut request)));
            Response::new(Answer::EMPTY)
        }
        Err(refused) => {
            let host = request.uri().host().unwrap_or("-");
            let toward = Toward { scheme: "https", host, port: request.uri().port_u16() };
            record::refused(tunnel, &refused, toward, Some(request.method().as_str()));
            refused.response()
        }
    }
}

async fn ready(tunnel: &Arc<Tunnel>, request: &Request<Incoming>) -> Result<Ready, Refused> {
    match lead::by_name(&tunnel.session, &authority(request)?)? {
        Lead::Serve(site) => Ok(Ready::Serve(site)),
        Lead::Pass(passage) => relay::open(tunnel, passage).await.map(Ready::Pass),
    }
}

/// The password of Basic, or the token of Bearer, whatever the user's name.
fn knows_password(tunnel: &Tunnel, request: &Request<Incoming>) -> bool {
    if !tunnel.session.asks_password() {
        return true;
    }
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

/// The one authority that a CONNECT names.
fn authority(request: &Request<Incoming>) -> Result<Authority, Refused> {
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
    Ok(authority)
}
