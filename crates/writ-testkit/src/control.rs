//! The plain port of a stand-in, for scripts.
//!
//! | request | answer |
//! |---|---|
//! | `GET /_standin/seen` | every request so far |
//! | `GET /_standin/connections` | every connection so far |
//! | `GET /_standin/ca.pem` | the root |
//! | `PUT /_standin/faults` | 204; the body is a JSON [`Faults`](crate::Faults) |
//! | `PUT /_standin/demand` | 204; the body is a JSON [`Demand`](crate::Demand) |
//! | `POST /_standin/gate/ID` | 204; opens that gate |
//! | `POST /_standin/end-connections?reset=1` | 204; closes or resets every connection |

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::answer::{self, Body};
use crate::ca::Ca;
use crate::seen::Shared;

/// Most bytes of a body.
const BODY_MAX: usize = 1 << 20;

/// Accepts until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, ca: Arc<Ca>, shared: Arc<Shared>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (ca, shared) = (Arc::clone(&ca), Arc::clone(&shared));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (ca, shared) = (Arc::clone(&ca), Arc::clone(&shared));
                async move { Ok::<_, Infallible>(answer(&ca, &shared, request).await) }
            });
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

async fn answer(ca: &Ca, shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return answer::status(413),
    };
    let Some(what) = parts.uri.path().strip_prefix("/_standin/") else { return answer::status(404) };
    match (&parts.method, what) {
        (&Method::GET, "seen") => listed(shared.read(|s| serde_json::to_vec(&s.seen))),
        (&Method::GET, "connections") => listed(shared.read(|s| serde_json::to_vec(&s.connections))),
        (&Method::GET, "ca.pem") => answer::typed(200, "application/x-pem-file", ca.pem().to_owned()),
        (&Method::PUT, "faults") => changed(&body, |faults| shared.change(|s| s.faults = faults)),
        (&Method::PUT, "demand") => changed(&body, |demand: crate::Demand| {
            shared.change(|s| {
                s.demands.retain(|d| d.host != demand.host);
                s.demands.push(demand);
            });
        }),
        (&Method::POST, "end-connections") => {
            let reset = parts.uri.query() == Some("reset=1");
            shared.change(|s| {
                for abort in s.aborts.values() {
                    abort.reset.store(reset, Ordering::Release);
                    abort.notify.notify_one();
                }
            });
            answer::status(204)
        }
        (&Method::POST, gate) if gate.starts_with("gate/") => {
            shared.change(|s| s.gates.insert(gate.trim_start_matches("gate/").to_owned()));
            answer::status(204)
        }
        _ => answer::status(404),
    }
}

fn listed(json: serde_json::Result<Vec<u8>>) -> Response<Body> {
    match json {
        Ok(json) => answer::typed(200, "application/json", json),
        Err(_) => answer::status(500),
    }
}

fn changed<T: serde::de::DeserializeOwned>(body: &Bytes, edit: impl FnOnce(T)) -> Response<Body> {
    match serde_json::from_slice(body) {
        Ok(value) => {
            edit(value);
            answer::status(204)
        }
        Err(fault) => answer::json(400, &serde_json::json!({"error": {"message": fault.to_string()}})),
    }
}
