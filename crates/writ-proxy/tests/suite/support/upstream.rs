//! A TLS service that answers as it is told, and remembers what reached it.

use std::{
    convert::Infallible,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::{
    BodyExt, Full,
    combinators::{BoxBody, UnsyncBoxBody},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use writ_core::BoxFuture;

use super::PATIENCE;

pub type Reply = Response<BoxBody<Bytes, std::io::Error>>;

/// The head of a request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
}

#[derive(Default)]
pub struct Record {
    pub seen: Mutex<Vec<Seen>>,
    pub connections: AtomicUsize,
    pub tasks: Mutex<Vec<tokio::task::AbortHandle>>,
    pub sockets: Mutex<Vec<std::net::TcpStream>>,
}

pub struct Upstream {
    pub address: SocketAddr,
    pub ca_pem: String,
    pub record: Arc<Record>,
}

impl Upstream {
    pub async fn start<F>(alpn: &[&str], handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
    {
        Self::start_at("127.0.0.1:0", alpn, handler).await
    }

    pub async fn start_at<F>(address: &str, alpn: &[&str], handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
    {
        let (ca_pem, config) = tls(alpn);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), record.clone(), Arc::new(handler)));
        Self { address, ca_pem, record }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Closes every open connection from this side, and waits until the other side has noticed.
    pub async fn hang_up(&self) {
        self.record.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
        let sockets = std::mem::take(&mut *self.record.sockets.lock().unwrap());
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Write);
            let mut socket = TcpStream::from_std(socket).unwrap();
            let mut rest = Vec::new();
            let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("noticed in time");
        }
    }
}

async fn serve<F>(listener: TcpListener, tls: TlsAcceptor, record: Arc<Record>, handler: Arc<F>)
where
    F: Fn(Request<Incoming>) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        record.connections.fetch_add(1, Ordering::SeqCst);
        let stream = stream.into_std().unwrap();
        record.sockets.lock().unwrap().push(stream.try_clone().unwrap());
        let copy = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (tls, seen, handler) = (tls.clone(), record.clone(), handler.clone());
        let task = tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let head = Seen { uri: request.uri().clone(), headers: request.headers().clone() };
                seen.seen.lock().unwrap().push(head);
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            let _ = copy.shutdown(Shutdown::Both);
        });
        record.tasks.lock().unwrap().push(task.abort_handle());
    }
}

fn tls(alpn: &[&str]) -> (String, rustls::ServerConfig) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["*.vendor.example".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (root.pem(), config)
}

pub fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, std::io::Error> {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Any body, in the form in which handlers answer.
pub fn shared<B>(body: B) -> BoxBody<Bytes, std::io::Error>
where
    B: Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
{
    Shared(Mutex::new(body.boxed_unsync())).boxed()
}

struct Shared(Mutex<UnsyncBoxBody<Bytes, std::io::Error>>);

impl Body for Shared {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(self.0.get_mut().unwrap()).poll_frame(context)
    }
}

pub fn reply(text: impl Into<Bytes>) -> Reply {
    Response::new(full(text))
}

/// Answers with the request's credentials and body, in the body and in headers.
pub fn echo(request: Request<Incoming>) -> BoxFuture<'static, Reply> {
    Box::pin(async move {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let value =
            |name: &str| parts.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let text = format!(
            "{} {} authorization={} x-api-key={} body={}",
            parts.method,
            parts.uri.path(),
            value("authorization"),
            value("x-api-key"),
            String::from_utf8_lossy(&body)
        );
        let mut answer = reply(text);
        answer.headers_mut().insert("x-echo", value("authorization").parse().unwrap());
        answer
    })
}
