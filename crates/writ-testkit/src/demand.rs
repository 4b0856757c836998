//! Which key a host demands, in which header, and what is wrong with a request that carries something else.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::seen::{State, Violation};

/// Headers in which the providers that we know take a credential.
const CREDENTIAL_HEADERS: [&str; 5] =
    ["authorization", "x-api-key", "x-goog-api-key", "private-token", "api-key"];
/// Headers that only a proxy adds or consumes (RFC 9110 §7.6, §11.7; RFC 7239).
const PROXY_HEADERS: [&str; 9] = [
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// How a key is written into a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Presentation {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// `Authorization: token KEY`, of GitHub.
    Token,
    /// `Authorization: Basic base64(USER:KEY)`, RFC 7617.
    Basic {
        /// The user name.
        user: String,
    },
    /// `NAME: KEY`.
    Header {
        /// Name of the header, any case.
        name: String,
    },
}

impl Presentation {
    /// The header's name, lower case.
    #[must_use]
    pub fn header(&self) -> String {
        match self {
            Self::Header { name } => name.to_ascii_lowercase(),
            _ => AUTHORIZATION.as_str().to_owned(),
        }
    }

    /// The header's value for `key`.
    #[must_use]
    pub fn render(&self, key: &str) -> String {
        match self {
            Self::Bearer => format!("Bearer {key}"),
            Self::Token => format!("token {key}"),
            Self::Basic { user } => format!("Basic {}", STANDARD.encode(format!("{user}:{key}"))),
            Self::Header { .. } => key.to_owned(),
        }
    }
}

/// A host that answers only to one key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Demand {
    /// Host without port.
    pub host: String,
    /// The real key.
    pub key: String,
    /// Ways to present it; any one of them.
    pub accepts: Vec<Presentation>,
}

impl Demand {
    /// `host` with the forms that its provider documents; Bearer for a host that nobody knows.
    #[must_use]
    pub fn of(host: &str, key: &str) -> Self {
        let header = |name: &str| Presentation::Header { name: name.to_owned() };
        let accepts = match host {
            "api.anthropic.com" => vec![header("x-api-key"), Presentation::Bearer],
            "generativelanguage.googleapis.com" => vec![header("x-goog-api-key")],
            "api.github.com" => vec![Presentation::Bearer, Presentation::Token],
            "gitlab.com" => vec![header("private-token"), Presentation::Bearer],
            _ => vec![Presentation::Bearer],
        };
        Self { host: host.to_owned(), key: key.to_owned(), accepts }
    }

    /// `host` with exactly one form.
    #[must_use]
    pub fn exactly(host: &str, key: &str, form: Presentation) -> Self {
        Self { host: host.to_owned(), key: key.to_owned(), accepts: vec![form] }
    }
}

impl std::fmt::Debug for Demand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Demand")
            .field("host", &self.host)
            .field("accepts", &self.accepts)
            .finish_non_exhaustive()
    }
}

/// What credential a request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presented {
    /// None.
    Nothing,
    /// The host's real key, in a form that it accepts, and nothing else.
    Real,
    /// Anything else.
    Other,
    /// The host demands none.
    NotDemanded,
}

/// Judges what `parts` present to `host`.
pub(crate) fn presented(state: &State, host: &str, parts: &Parts) -> Presented {
    let Some(demand) = state.demands.iter().find(|d| d.host == host) else { return Presented::NotDemanded };
    let found = credentials(state, &parts.headers);
    let [(name, value)] = found.as_slice() else {
        return if found.is_empty() { Presented::Nothing } else { Presented::Other };
    };
    let matches = |form: &Presentation| form.header() == *name && form.render(&demand.key) == *value;
    if demand.accepts.iter().any(matches) { Presented::Real } else { Presented::Other }
}

/// Everything about `parts` that must never have left a proxy. `sni` is the name of the TLS handshake.
pub(crate) fn violations(state: &State, sni: Option<&str>, parts: &Parts) -> Vec<Violation> {
    let host = authority(parts);
    let mut out = Vec::new();
    for name in parts.headers.keys().map(http::HeaderName::as_str) {
        if PROXY_HEADERS.contains(&name) {
            out.push(Violation::ProxyHeader { name: name.to_owned() });
        }
    }
    let target = parts.uri.to_string();
    if holds_placeholder(state, &target) {
        out.push(Violation::Placeholder { place: "target".to_owned() });
    }
    for (name, value) in lines(&parts.headers) {
        if holds_placeholder(state, &value) {
            out.push(Violation::Placeholder { place: name });
        }
    }
    let found = credentials(state, &parts.headers);
    if found.len() > 1 {
        out.push(Violation::DuplicateCredential { names: found.into_iter().map(|(n, _)| n).collect() });
    }
    out.extend(misplaced_keys(state, host_only(&host), &target, &parts.headers));
    let agrees = sni.is_none_or(|sni| host_only(&host).eq_ignore_ascii_case(sni));
    if !agrees || parts.headers.get_all(http::header::HOST).iter().count() > 1 {
        out.push(Violation::HostMismatch { sni: sni.unwrap_or_default().to_owned(), host });
    }
    out
}

/// Whether `text` holds one of the placeholders that the test named, raw or in Basic.
pub(crate) fn holds_placeholder(state: &State, text: &str) -> bool {
    let basic = text.strip_prefix("Basic ").and_then(|b| STANDARD.decode(b).ok());
    let basic = basic.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    state.placeholders.iter().any(|p| text.contains(p.as_str()) || basic.contains(p.as_str()))
}

/// `:authority` or `Host`, as sent; empty when there is none.
pub(crate) fn authority(parts: &Parts) -> String {
    let uri = parts.uri.authority().map(|a| a.as_str().to_owned());
    let host =
        || parts.headers.get(http::header::HOST).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    uri.or_else(host).unwrap_or_default()
}

/// `authority` without its port.
pub(crate) fn host_only(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Header lines in order, names lower case.
pub(crate) fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(line).collect()
}

fn misplaced_keys(state: &State, host: &str, target: &str, headers: &HeaderMap) -> Vec<Violation> {
    let mut out = Vec::new();
    for demand in &state.demands {
        let here = demand.host == host;
        let in_target = target.contains(demand.key.as_str());
        let in_header = || lines(headers).iter().any(|(_, v)| carries(v, &demand.key));
        if here && in_target {
            out.push(Violation::KeyInQuery);
        }
        // Two demands may share one key on purpose, as GitHub's API and its git server do.
        let shared = state.demands.iter().any(|d| d.host == host && d.key == demand.key);
        if !here && !shared && (in_target || in_header()) {
            out.push(Violation::ForeignKey { owner: demand.host.clone() });
        }
    }
    out
}

fn carries(value: &str, key: &str) -> bool {
    let basic = value.strip_prefix("Basic ").and_then(|b| STANDARD.decode(b).ok());
    let in_basic = basic.is_some_and(|b| String::from_utf8_lossy(&b).contains(key));
    value.contains(key) || in_basic
}

fn credentials(state: &State, headers: &HeaderMap) -> Vec<(String, String)> {
    let own: Vec<String> =
        state.demands.iter().flat_map(|d| d.accepts.iter().map(Presentation::header)).collect();
    let authenticates = |name: &str| CREDENTIAL_HEADERS.contains(&name) || own.iter().any(|o| o == name);
    lines(headers).into_iter().filter(|(name, _)| authenticates(name)).collect()
}
