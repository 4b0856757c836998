//! How a refusal looks on the wire.
//!
//! Problem details (RFC 9457), and beside them the `error.message` that the SDKs of LLM vendors print. The status decides what a
//! program does next, and was chosen by what agents do: 403 stops them with our sentence; 401, 407, 409, 429 and 5xx are retried in
//! silence, so no decision of writ has one of those (but 407, for the proxy's own password). `x-should-retry: false` says it again
//! to those who listen.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, PROXY_AUTHENTICATE, UPGRADE},
};
use serde::Serialize;
use writ_core::{CanonicalPath, Host, Refusal, RefusalKind};

use crate::{body::Answer, session::Route, tunnel::Site};

/// Asks SDKs not to repeat the request.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
pub(crate) const NO: HeaderValue = HeaderValue::from_static("false");

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// Another status than the kind's.
    pub(crate) status: Option<StatusCode>,
    /// Whether the log has it already, as the outcome of an attempt.
    pub(crate) recorded: bool,
    /// What the person who watches the run is told, beyond the refusal itself.
    pub(crate) alarm: Option<String>,
    /// The address that may not be dialled.
    pub(crate) address: Option<IpAddr>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, status: None, recorded: false, alarm: None, address: None }
    }
}

impl Refused {
    pub(crate) fn new(kind: RefusalKind, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Refusal::new(kind, detail, next).into()
    }

    /// Something that can be read in two ways.
    pub(crate) fn ambiguous(detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Ambiguous, detail, "send the request in one unambiguous form")
    }

    /// The request names another authority than its connection (RFC 9110 §15.5.20).
    pub(crate) fn misdirected(detail: impl Into<String>) -> Self {
        let next = "send it on a connection of its own, with the same name in CONNECT, SNI and Host";
        Self {
            status: Some(StatusCode::MISDIRECTED_REQUEST),
            ..Self::new(RefusalKind::Ambiguous, detail, next)
        }
    }

    /// A host that came into the configuration after the agent had got its certificates from a daemon that is gone.
    pub(crate) fn uncertified(host: &Host) -> Self {
        let detail = format!(
            "{host} was not among the hosts of this run when it began, and its certificates name no other"
        );
        let alarm = format!(
            "{host} came into the configuration after this run had begun: start a new run to reach it"
        );
        Self::new(RefusalKind::UnlistedHost, detail, "start a new run").with_alarm(alarm)
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(crate) fn with_alarm(self, alarm: String) -> Self {
        Self { alarm: Some(alarm), ..self }
    }

    /// In the form of the service: 400 where its own programs would repeat after 403.
    pub(crate) fn shaped(self, site: &Site, path: &str) -> Self {
        let Site::Listed(routes) = site else { return self };
        let Ok(path) = CanonicalPath::parse(path, true) else { return self };
        let fits = |route: &Arc<Route>| route.plan.refuse_as_400.iter().any(|pattern| pattern.matches(&path));
        let decision = self.status.is_none() && status(self.refusal.kind) == StatusCode::FORBIDDEN;
        if decision && routes.iter().any(fits) { self.with_status(StatusCode::BAD_REQUEST) } else { self }
    }

    /// What happened and what to do, for protocols that have one line for it.
    pub(crate) fn sentence(&self) -> String {
        format!("writ: {}. Next: {}", self.refusal.detail, self.refusal.next)
    }

    pub(crate) fn response(&self) -> Response<Answer> {
        let status = self.status.unwrap_or(status(self.refusal.kind));
        let mut response = problem(&self.refusal, status);
        if status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 §15.5.22: say which protocol would do.
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        response
    }
}

/// The answer to whoever has not shown the session's password: the same to all, and nothing about the session.
pub(crate) fn unauthenticated() -> Response<Answer> {
    let refusal = Refusal::new(
        RefusalKind::Denied,
        "this proxy needs the password of its session",
        "use the proxy address that `writ run` put into the environment, password included",
    );
    let mut response = problem(&refusal, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"writ\""));
    response
}

const fn status(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Ambiguous | RefusalKind::Invalid => StatusCode::BAD_REQUEST,
        RefusalKind::UpstreamFailed | RefusalKind::UpstreamEncoding => StatusCode::BAD_GATEWAY,
        _ => StatusCode::FORBIDDEN,
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    next: &'a str,
    error: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    message: String,
    r#type: &'a str,
}

fn problem(refusal: &Refusal, status: StatusCode) -> Response<Answer> {
    let slug = refusal.kind.slug();
    let problem = Problem {
        r#type: format!("urn:writ:refusal:{slug}"),
        title: refusal.kind.title(),
        status: status.as_u16(),
        detail: &refusal.detail,
        next: &refusal.next,
        error: Message { message: format!("writ: {}. Next: {}", refusal.detail, refusal.next), r#type: slug },
    };
    // Strings and a number always serialize; an empty body would still carry the status.
    let text = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Answer::Text(Some(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SHOULD_RETRY, NO);
    response
}
