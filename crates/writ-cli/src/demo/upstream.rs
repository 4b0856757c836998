//! The demo's service: an HTTPS server on loopback that answers 401 without the real key.
//!
//! It speaks the two endpoints of a chat API that the tutorial's client calls, and `/v1/echo`, which repeats the request's
//! headers as careless debug pages do.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

/// The attacker's host: takes everything and keeps it. It ends when it is dropped.
pub struct Sink {
    pub address: SocketAddr,
    /// What a client must trust, PEM.
    pub ca_pem: String,
    taken: Arc<Mutex<String>>,
    _runtime: Runtime,
}

impl Sink {
    /// Serves `host` on a loopback port of the system's choice.
    pub fn start(host: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (ca_pem, tls) = certificates(host).map_err(io::Error::other)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let taken = Arc::<Mutex<String>>::default();
        runtime.spawn(take(listener, TlsAcceptor::from(Arc::new(tls)), taken.clone()));
        Ok(Self { address, ca_pem, taken, _runtime: runtime })
    }

    /// Everything that arrived since the last time: heads and bodies.
    pub fn take(&self) -> String {
        std::mem::take(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn take(listener: TcpListener, tls: TlsAcceptor, taken: Arc<Mutex<String>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, taken) = (tls.clone(), taken.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| keep(request, taken.clone()));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn keep(
    request: Request<Incoming>,
    taken: Arc<Mutex<String>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = format!("{head:?}\n{}\n", String::from_utf8_lossy(&body));
    taken.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
    Ok(json(StatusCode::OK, &serde_json::json!({ "thanks": true })))
}

/// A running service. It ends when it is dropped.
pub struct Upstream {
    pub address: SocketAddr,
    /// What a client must trust, PEM.
    pub ca_pem: String,
    _runtime: Runtime,
}

impl Upstream {
    /// Serves `host` on a loopback port of the system's choice.
    pub fn start(host: &str, key: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (ca_pem, tls) = certificates(host).map_err(io::Error::other)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let expected: Arc<str> = format!("Bearer {key}").into();
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), expected));
        Ok(Self { address, ca_pem, _runtime: runtime })
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, expected: Arc<str>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, expected) = (tls.clone(), expected.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service =
                service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &expected))));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, expected: &str) -> Response<Full<Bytes>> {
    let presented = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if presented != Some(expected) {
        return json(
            StatusCode::UNAUTHORIZED,
            &serde_json::json!({ "error": { "message": "Incorrect API key provided." } }),
        );
    }
    let body = match request.uri().path() {
        "/v1/chat/completions" => completion(),
        "/v1/models" => {
            serde_json::json!({ "object": "list", "data": [{ "id": "demo-1", "object": "model", "created": 1, "owned_by": "demo" }] })
        }
        "/v1/echo" => {
            let headers = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
            serde_json::json!({ "headers": headers.collect::<Vec<_>>() })
        }
        _ => {
            return json(
                StatusCode::NOT_FOUND,
                &serde_json::json!({ "error": { "message": "Unknown endpoint." } }),
            );
        }
    };
    json(StatusCode::OK, &body)
}

fn completion() -> serde_json::Value {
    serde_json::json!({
        "id": "chatcmpl-demo", "object": "chat.completion", "created": 1, "model": "demo-1",
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": "Hello from the upstream." } }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6 }
    })
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn certificates(host: &str) -> Result<(String, ServerConfig), Box<dyn std::error::Error + Send + Sync>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "writ demo upstream CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der())?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca_certificate.pem(), config))
}
