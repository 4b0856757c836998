//! Header hygiene: what belongs to one connection stays there (RFC 9110 §7.6.1).
//!
//! Absent on purpose: `Via`, `Forwarded` and `X-Forwarded-*` are not added. The service sees the agent's request as the agent would
//! have sent it.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, CONNECTION, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFERER, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const DIGEST: HeaderName = HeaderName::from_static("digest");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Headers of one hop, in requests.
const REQUEST_HOP: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    EXPECT,
];

/// Headers of one hop, in responses, and those that would lead the agent round the proxy.
const RESPONSE_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_CONNECTION,
    PROXY_STATUS,
    TRANSFER_ENCODING,
    UPGRADE,
    TRAILER,
    ALT_SVC,
];

/// Digests of a body that the scrubber may change.
const DIGESTS: [HeaderName; 4] = [CONTENT_MD5, DIGEST, CONTENT_DIGEST, REPR_DIGEST];

/// Makes a request's head fit for the service: no headers of this hop, no user information in `Referer`, and no compression, so
/// that the answer can be read.
pub(crate) fn clean_request(parts: &mut Parts) {
    let headers = &mut parts.headers;
    let named: Vec<HeaderName> =
        connection_tokens(headers).filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    for name in REQUEST_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    // gRPC needs this one, and only in this form (RFC 9113 §8.2.2).
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
    if headers.get(REFERER).is_some_and(|value| value.as_bytes().contains(&b'@')) {
        headers.remove(REFERER);
    }
    headers.insert(ACCEPT_ENCODING, IDENTITY);
}

/// Makes a response's head fit for the agent.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            connection_tokens(headers).filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
        for name in &named {
            headers.remove(name);
        }
    }
    for name in RESPONSE_HOP.iter().chain(&DIGESTS) {
        headers.remove(name);
    }
}

/// The names in `Connection`, without the two that mean the connection itself.
pub(crate) fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(CONNECTION).iter();
    let tokens = lines.flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    tokens.filter(|token| {
        !token.is_empty()
            && !token.eq_ignore_ascii_case(b"close")
            && !token.eq_ignore_ascii_case(b"keep-alive")
    })
}
