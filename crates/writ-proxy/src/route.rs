//! Route: which credential, which upstream. Everything that could be read in two ways is refused here.
//!
//! One [`Target`] comes out, and scope, injection and dialling all look at it: the authority is the connection's, the path is canonical,
//! and the very bytes that are judged are sent. The agent's placeholder, if it stands in the head, is found here as well, since at any
//! place but a declared one it means that somebody tries to carry a credential away.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, request::Parts};
use writ_core::{Authority, CanonicalPath, RefusalKind, RequestId};

use crate::{
    lease::Now,
    names,
    placeholder::{Found, Where},
    record,
    refuse::Refused,
    session::Route,
    tunnel::{Site, Tunnel},
};

/// One request, located.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) request: RequestId,
    /// When it came.
    pub(crate) came: Now,
    pub(crate) route: Arc<Route>,
    pub(crate) path: CanonicalPath,
    /// The placeholder of the route's credential, where the request carries it at a declared place.
    pub(crate) placeholder: Option<String>,
}

pub(crate) fn find(tunnel: &Tunnel, parts: &Parts) -> Result<Target, Refused> {
    let came = tunnel.plane.now();
    let routes = listed(tunnel, came)?;
    let first = routes.first().ok_or_else(|| unlisted(tunnel.site.host()))?;
    same_authority(parts, first)?;
    no_upgrade(&parts.headers)?;
    expectation(&parts.headers)?;
    no_override(parts)?;
    let path = CanonicalPath::parse(parts.uri.path(), first.plan.encoded_slash)
        .map_err(|fault| Refused::ambiguous(fault.to_string()))?;
    let found = tunnel.session.placeholders.scan(parts);
    // Two targets behind one authority differ by their credential: the placeholder tells which is meant.
    let holds = |route: &&Arc<Route>| found.iter().any(|one| route.is_of(one.entry));
    let route = routes.iter().find(holds).unwrap_or(first);
    connection_names(&parts.headers, route)?;
    let placeholder = at_home(tunnel, route, &found)?;
    let request = names::request_id(came.wall).ok_or_else(record::no_randomness)?;
    Ok(Target { request, came, route: route.clone(), path, placeholder })
}

fn listed(tunnel: &Tunnel, now: Now) -> Result<&Arc<[Arc<Route>]>, Refused> {
    if tunnel.session.is_over() || tunnel.session.expired(now.wall) {
        let next = "start the program again under `writ run`";
        return Err(Refused::new(RefusalKind::SessionEnded, "the session of this program is over", next));
    }
    match &tunnel.site {
        Site::Listed(routes) => Ok(routes),
        Site::Quiet(authority) => Err(unlisted(authority.host().as_str())),
        Site::Misdirected { connect, sni } => Err(Refused::misdirected(format!(
            "the connection was opened to {connect} but asked in TLS for {sni}"
        ))),
    }
}

pub(crate) fn unlisted(host: &str) -> Refused {
    let detail = format!("{host} is not listed for the role of this session");
    Refused::new(
        RefusalKind::UnlistedHost,
        detail,
        "ask the operator to add a target for it and to grant it to the role",
    )
}

/// CONNECT, `Host`, `:authority` and absolute form must all name the connection's authority (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn same_authority(parts: &Parts, route: &Route) -> Result<(), Refused> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refused::ambiguous("the request has more than one Host"));
    }
    let absolute = parts.uri.authority();
    if host.is_none() && absolute.is_none() {
        return Err(Refused::ambiguous("the request names no host"));
    }
    if parts.uri.scheme_str().is_some_and(|scheme| scheme != "https") {
        return Err(Refused::ambiguous("the request is for another scheme than https"));
    }
    let ours = |text: &[u8]| {
        text == route.host.as_bytes()
            || std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse::<Authority>().ok())
                .is_some_and(|authority| authority == route.plan.authority)
    };
    let named =
        host.map(HeaderValue::as_bytes).into_iter().chain(absolute.map(|one| one.as_str().as_bytes()));
    for text in named {
        if !ours(text) {
            let text = String::from_utf8_lossy(text).into_owned();
            return Err(Refused::misdirected(format!(
                "the request names {text:?} on a connection to {}",
                route.plan.authority
            )));
        }
    }
    Ok(())
}

/// WebSockets end here: 426 sends the agents that try one first to plain requests. Other upgrades are optional and are dropped.
fn no_upgrade(headers: &HeaderMap) -> Result<(), Refused> {
    let websocket = |value: &HeaderValue| {
        value.as_bytes().to_ascii_lowercase().windows(9).any(|part| part == b"websocket")
    };
    if headers.get_all(header::UPGRADE).iter().any(websocket) {
        let detail = "WebSockets are not carried by this version of writ";
        let refused = Refused::new(
            RefusalKind::OutOfScope,
            detail,
            "send plain requests; streamed responses are carried",
        );
        return Err(refused.with_status(StatusCode::UPGRADE_REQUIRED));
    }
    Ok(())
}

/// RFC 9110 §10.1.1 knows one expectation, and it is answered on this side.
fn expectation(headers: &HeaderMap) -> Result<(), Refused> {
    match headers.get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refused::ambiguous("the request expects something other than 100-continue"))
        }
        _ => Ok(()),
    }
}

/// Services that obey these would do something else than what is judged here: another method, or another path.
fn no_override(parts: &Parts) -> Result<(), Refused> {
    // Gateways between servers and programs (RFC 3875 §4.1.18) do not tell '_' from '-'.
    let same = |name: &HeaderName, one: &&str| {
        let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
        name.as_str().len() == one.len() && name.as_str().bytes().map(dashed).eq(one.bytes())
    };
    if let Some(name) = parts.headers.keys().find(|name| OVERRIDES.iter().any(|one| same(name, one))) {
        let detail = format!("the header {name} asks for another method or path than the request's own");
        return Err(Refused::ambiguous(detail));
    }
    let query = parts.uri.query().unwrap_or_default();
    let keys = query.split(['&', ';']).filter_map(|pair| pair.split('=').next());
    if keys.map(parameter).any(|key| OVERRIDE_PARAMETERS.contains(&key.as_str())) {
        return Err(Refused::ambiguous("the query asks for another method than the request's own"));
    }
    Ok(())
}

/// Method overrides of Rack, Symfony, Laravel, ASP.NET and Google's APIs; path overrides of IIS and Symfony.
const OVERRIDES: &[&str] =
    &["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];
/// The same in a query, in the form that [`parameter`] makes.
const OVERRIDE_PARAMETERS: &[&str] =
    &["_method", "x_http_method_override", "x_http_method", "x_method_override"];

/// A parameter's name as the most generous server reads it: unescaped, without leading spaces, `.` and ` ` as `_` (PHP).
fn parameter(raw: &str) -> String {
    let mut name = String::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let mut byte = *byte;
        if let (b'%', [high, low, tail @ ..]) = (byte, tail)
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            rest = tail;
            byte = u8::try_from(high * 16 + low).unwrap_or(byte);
        }
        match byte {
            b'+' | b' ' if name.is_empty() => {}
            b'+' | b' ' | b'.' | b'-' => name.push('_'),
            other => name.push(char::from(other.to_ascii_lowercase())),
        }
    }
    name
}

/// `Connection` may not name what the credential or the message's bounds depend on: it would be removed on the way.
fn connection_names(headers: &HeaderMap, route: &Route) -> Result<(), Refused> {
    for token in crate::headers::connection_tokens(headers) {
        let Ok(name) = HeaderName::from_bytes(token) else {
            return Err(Refused::ambiguous("the Connection header has something that is no name"));
        };
        let declared = route.places.iter().any(|place| place.header.as_ref() == Some(&name));
        if declared || KEPT.contains(&name) {
            return Err(Refused::ambiguous(format!(
                "the Connection header names {name}, which may not be dropped"
            )));
        }
    }
    Ok(())
}

const KEPT: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
];

/// The route's own placeholder at a declared place, or none; any other is refused as an attempt to carry a credential away.
fn at_home(tunnel: &Tunnel, route: &Route, found: &[Found<'_>]) -> Result<Option<String>, Refused> {
    let declared = |at: &Where| match at {
        Where::Header(name) => {
            route.places.iter().any(|place| place.header.as_ref().is_none_or(|header| header == name))
        }
        Where::Uri => false,
    };
    let mut own = None;
    for one in found {
        let ours = route.is_of(one.entry);
        if !ours || !declared(&one.at) {
            return Err(elsewhere(tunnel, one));
        }
        own = Some(one.entry.placeholder.as_str().to_owned());
    }
    Ok(own)
}

fn elsewhere(tunnel: &Tunnel, found: &Found<'_>) -> Refused {
    let host = tunnel.site.host();
    let place = match &found.at {
        Where::Header(name) => format!("in the header {name}"),
        Where::Uri => "in the URL".to_owned(),
    };
    let detail = format!(
        "the placeholder of credential {} does not belong {place} of a request to {host}",
        found.entry.credential
    );
    let alarm = format!(
        "possible exfiltration: a request to {host} carried the placeholder of credential {} {place}; it was refused",
        found.entry.credential
    );
    Refused::new(
        RefusalKind::PlaceholderElsewhere,
        detail,
        "send it only to the service that it is for, where its key would stand",
    )
    .with_alarm(alarm)
}

/// Whether a message of this version carries its authority in the URI.
pub(crate) fn is_h2(version: Version) -> bool {
    version == Version::HTTP_2
}
