//! Endpoints that every host has: echoes in every encoding, streams, faults.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | headers and body as JSON |
//! | `/echo-encoded?as=E` | the received key in encoding `E` (see [`encoded`]), `pad=N` bytes before it |
//! | `/gzip-echo` | as `/echo`, gzip |
//! | `/setcookie-echo` | the received key in four headers |
//! | `/sse?events=N&interval_ms=M` | N events; with `lockstep=ID` each waits for `/ack/ID/<n>` of the one before |
//! | `/sse-echo?events=N` | events whose data holds the received key, split over two writes |
//! | `/ack/ID/N`, `/gate/ID` | 204, and opens that gate |
//! | `/wait?gate=ID` | headers at once, body when the gate opens |
//! | `/bytes/N` | N bytes with their length; `chunked=1` without |
//! | `/slow?ms=N` | 200 after N ms |
//! | `/redirect?to=URL&status=N` | 302 with that `Location`, undecoded |
//! | `/status/N` | that status |
//! | `/reset` | TCP reset instead of an answer |
//! | `/cut?bytes=N&of=M` | N of M announced bytes, then the connection ends |
//! | `/hang` | no answer at all |
//! | `/pipe` | the body back, frame by frame, never kept |
//! | `/refuse-early` | 403 before the body was read |

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_compression::tokio::write::GzipEncoder;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::answer::{self, Asked, Body};
use crate::demand;
use crate::serve::Context;

/// Most bytes that `/bytes` sends.
const BYTES_MAX: u64 = 1 << 30;
/// Bytes of one frame of `/bytes`.
const FRAME: usize = 16 << 10;
/// Most events of one stream.
const EVENTS_MAX: u64 = 100_000;

/// How long `/cut` lets its first bytes travel.
const CUT_AFTER: Duration = Duration::from_millis(100);

/// Whether `path` wants the body as a stream.
pub(crate) fn takes_body(path: &str) -> bool {
    matches!(path, "/pipe" | "/refuse-early")
}

/// The endpoints of [`takes_body`].
pub(crate) fn with_body(parts: &Parts, body: Incoming) -> Response<Body> {
    match parts.uri.path() {
        "/pipe" => Response::new(body.map_err(io::Error::other).boxed_unsync()),
        _ => answer::status(403),
    }
}

/// The generic endpoint that `asked` names, or 404.
///
/// # Errors
/// When a body cannot be compressed.
pub(crate) async fn answer(context: &Context, asked: &Asked) -> io::Result<Response<Body>> {
    let path = asked.parts.uri.path();
    if let Some(response) = numbered(context, asked, path) {
        return Ok(response);
    }
    match path {
        "/echo" => Ok(answer::json(200, &echo(asked))),
        "/echo-encoded" => Ok(echo_encoded(asked)),
        "/gzip-echo" => gzip_echo(asked).await,
        "/setcookie-echo" => Ok(header_echo(asked)),
        "/sse" => Ok(sse(context, asked)),
        "/sse-echo" => Ok(sse_echo(context, asked)),
        "/wait" => Ok(wait(context, asked)),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(asked.number("ms", 0))).await;
            Ok(answer::status(200))
        }
        "/redirect" => Ok(redirect(asked)),
        "/reset" => {
            context.abort.reset.store(true, Ordering::Release);
            context.abort.notify.notify_one();
            std::future::pending().await
        }
        "/cut" => Ok(cut(asked)),
        "/hang" => std::future::pending().await,
        _ => Ok(answer::json(404, &json!({"error": {"message": "no such endpoint", "type": "not_found"}}))),
    }
}

fn numbered(context: &Context, asked: &Asked, path: &str) -> Option<Response<Body>> {
    if let Some(n) = path.strip_prefix("/status/") {
        return n.parse().ok().map(answer::status);
    }
    if let Some(n) = path.strip_prefix("/bytes/") {
        return n.parse().ok().map(|n| bytes(asked, n));
    }
    let gate = path.strip_prefix("/ack/").or_else(|| path.strip_prefix("/gate/"))?;
    context.shared.change(|s| s.gates.insert(gate.to_owned()));
    Some(answer::status(204))
}

fn echo(asked: &Asked) -> serde_json::Value {
    json!({
        "method": asked.parts.method.as_str(),
        "path": asked.parts.uri.path(),
        "query": asked.parts.uri.query(),
        "host": asked.host,
        "version": format!("{:?}", asked.parts.version),
        "headers": demand::lines(&asked.parts.headers),
        "body": String::from_utf8_lossy(&asked.body),
    })
}

/// The credential as it was received: the token after a scheme, or the header's whole value.
fn received(asked: &Asked) -> String {
    let lines = demand::lines(&asked.parts.headers);
    let named = |name: &str| lines.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let wanted = asked.param("header").unwrap_or("authorization");
    let value = named(wanted)
        .or_else(|| ["x-api-key", "x-goog-api-key", "private-token"].into_iter().find_map(named))
        .unwrap_or_default();
    match value.split_once(' ') {
        Some(("Bearer" | "token" | "Basic", rest)) => rest.to_owned(),
        _ => value,
    }
}

fn echo_encoded(asked: &Asked) -> Response<Body> {
    let key = received(asked);
    let pad = usize::try_from(asked.number("pad", 0)).unwrap_or(0).min(FRAME);
    let Some(text) = encoded(asked.param("as").unwrap_or("raw"), &key, pad) else {
        return answer::json(400, &json!({"error": {"message": "unknown encoding"}}));
    };
    answer::typed(200, "text/plain", text)
}

/// `key` in the encoding `name`, after `pad` bytes of text that are encoded with it.
fn encoded(name: &str, key: &str, pad: usize) -> Option<String> {
    let padded = format!("{}{key}", "p".repeat(pad));
    let each = |form: &dyn Fn(u8) -> String| padded.bytes().map(form).collect::<String>();
    Some(match name {
        "raw" => padded,
        "base64" => STANDARD.encode(padded),
        "base64url" => URL_SAFE_NO_PAD.encode(padded),
        "hex" => crate::hex(padded.as_bytes()),
        "hex-upper" => crate::hex(padded.as_bytes()).to_uppercase(),
        "percent" => each(&|b| format!("%{b:02X}")),
        "percent-lower" => each(&|b| format!("%{b:02x}")),
        "json" => each(&|b| format!("\\u{b:04x}")),
        "html" => each(&|b| format!("&#{b};")),
        "html-hex" => each(&|b| format!("&#x{b:x};")),
        _ => return None,
    })
}

async fn gzip_echo(asked: &Asked) -> io::Result<Response<Body>> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(echo(asked).to_string().as_bytes()).await?;
    encoder.shutdown().await?;
    let mut response = answer::typed(200, "application/json", encoder.into_inner());
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(response)
}

fn header_echo(asked: &Asked) -> Response<Body> {
    let key = received(asked);
    let mut response = answer::status(u16::try_from(asked.number("status", 200)).unwrap_or(200));
    let lines = [
        (SET_COOKIE, format!("session={key}; Path=/")),
        (LOCATION, format!("/next?token={key}")),
        (WWW_AUTHENTICATE, format!("Bearer error=\"invalid_token\", token=\"{key}\"")),
        (HeaderName::from_static("x-received-key"), key),
    ];
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn sse(context: &Context, asked: &Asked) -> Response<Body> {
    let events = asked.number("events", 3).min(EVENTS_MAX);
    let interval = Duration::from_millis(asked.number("interval_ms", 0));
    let lockstep = asked.param("lockstep").map(str::to_owned);
    let shared = Arc::clone(&context.shared);
    let sent = stream::unfold(0, move |n| {
        let (shared, lockstep) = (Arc::clone(&shared), lockstep.clone());
        async move {
            if n >= events {
                return None;
            }
            if let (Some(id), true) = (&lockstep, n > 0) {
                let gate = format!("{id}/{}", n - 1);
                shared.until(|s| s.gates.contains(&gate)).await;
            }
            if n > 0 && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            tokio::task::yield_now().await;
            shared.change(|s| s.events_sent += 1);
            Some((frame(format!("id: {n}\ndata: {{\"n\":{n}}}\n\n")), n + 1))
        }
    });
    answer::event_stream(StreamBody::new(sent).boxed_unsync())
}

fn sse_echo(context: &Context, asked: &Asked) -> Response<Body> {
    let key = received(asked);
    let events = asked.number("events", 3).min(EVENTS_MAX);
    let (head, tail) = key.split_at(key.len() / 2);
    let halves = |n: u64| [format!("id: {n}\ndata: {head}"), format!("{tail}\n\n")];
    answer::events(&context.shared, (0..events).flat_map(halves).collect(), asked.event_interval)
}

fn wait(context: &Context, asked: &Asked) -> Response<Body> {
    let gate = asked.param("gate").unwrap_or_default().to_owned();
    let shared = Arc::clone(&context.shared);
    let sent = stream::once(async move {
        shared.until(|s| s.gates.contains(&gate)).await;
        frame("opened\n".to_owned())
    });
    answer::event_stream(StreamBody::new(sent).boxed_unsync())
}

fn bytes(asked: &Asked, wanted: u64) -> Response<Body> {
    let wanted = wanted.min(BYTES_MAX);
    let one = Bytes::from(vec![b'x'; FRAME]);
    let sent = stream::unfold(wanted, move |left| {
        let size = usize::try_from(left).unwrap_or(FRAME).min(FRAME);
        let next = (size > 0).then(|| (Ok(Frame::data(one.slice(..size))), left - size as u64));
        std::future::ready(next)
    });
    let mut response = Response::new(StreamBody::new(sent).boxed_unsync());
    if asked.param("chunked").is_none() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(wanted));
    }
    response
}

fn redirect(asked: &Asked) -> Response<Body> {
    let status = u16::try_from(asked.number("status", 302)).unwrap_or(302);
    let mut response = answer::status(status);
    if let Ok(to) = HeaderValue::from_str(asked.param("to").unwrap_or("/")) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn cut(asked: &Asked) -> Response<Body> {
    let of = asked.number("of", 1000).min(BYTES_MAX);
    let sent = usize::try_from(asked.number("bytes", 500).min(of)).unwrap_or(0);
    let first = stream::once(std::future::ready(Ok(Frame::data(Bytes::from(vec![b'x'; sent])))));
    let end = stream::once(async {
        // An h2 client forgets a head that arrives together with the reset.
        tokio::time::sleep(CUT_AFTER).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    let mut response = Response::new(StreamBody::new(first.chain(end)).boxed_unsync());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(of));
    response
}

fn frame(text: String) -> io::Result<Frame<Bytes>> {
    Ok(Frame::data(Bytes::from(text)))
}
