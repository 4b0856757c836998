//! The parts that every answer is made of: bodies, JSON, event streams, errors.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::seen::{Shared, Violation};

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that passed all checks, with its whole body.
pub(crate) struct Asked {
    pub(crate) host: String,
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
    pub(crate) event_interval: Duration,
}

impl Asked {
    /// The parameter `name` of the query, undecoded.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        let pairs = self.parts.uri.query().unwrap_or_default().split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The parameter `name` as a number, or `otherwise`.
    pub(crate) fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.param(name).and_then(|v| v.parse().ok()).unwrap_or(otherwise)
    }

    /// The body as JSON; `Null` when it is none.
    pub(crate) fn json(&self) -> Fields {
        Fields(serde_json::from_slice(&self.body).unwrap_or(Value::Null))
    }
}

/// The fields of a JSON body.
pub(crate) struct Fields(Value);

impl Fields {
    /// The field `name`; `Null` when there is none.
    pub(crate) fn at(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Whether there are fields at all.
    pub(crate) fn is_object(&self) -> bool {
        self.0.is_object()
    }
}

/// A body that is there at once.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// `status` with `body` as `media_type`.
pub(crate) fn typed(status: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}

/// `status` with a JSON body.
pub(crate) fn json(status: u16, body: &Value) -> Response<Body> {
    typed(status, "application/json", body.to_string())
}

/// `status` with a body that says so.
pub(crate) fn status(status: u16) -> Response<Body> {
    let mut response = json(status, &json!({"status": status, "error": {"message": "as asked"}}));
    if matches!(status, 204 | 304) {
        *response.body_mut() = full(Bytes::new());
    }
    response
}

/// The answer to a request that no proxy may send.
pub(crate) fn violation(violations: &[Violation]) -> Response<Body> {
    json(
        400,
        &json!({"error": {"type": "standin_violation", "message": "violation", "violations": violations}}),
    )
}

/// An event stream of ready-made `events`, each sent on its own, `interval` apart.
pub(crate) fn events(shared: &Arc<Shared>, events: Vec<String>, interval: Duration) -> Response<Body> {
    let shared = Arc::clone(shared);
    let sent = stream::unfold((events.into_iter(), true), move |(mut rest, first)| {
        let shared = Arc::clone(&shared);
        async move {
            let event = rest.next()?;
            if !first && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            // Giving way lets hyper flush, so that each event is a write of its own.
            tokio::task::yield_now().await;
            shared.change(|s| s.events_sent += 1);
            Some((Ok::<_, io::Error>(Frame::data(Bytes::from(event))), (rest, false)))
        }
    });
    event_stream(StreamBody::new(sent).boxed_unsync())
}

/// An event stream with `body`.
pub(crate) fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-cache"));
    response
}
