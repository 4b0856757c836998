//! Clients: one that speaks HTTP properly, and one that says the very bytes it is given.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, Version, request::Builder};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{PASSWORD, World, broker::PATIENCE};

pub struct Client<'w> {
    pub world: &'w World,
    pub alpn: &'static str,
}

/// A connection that says what it is told.
pub struct Raw<S>(pub S);

pub enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Client<'_> {
    /// A tunnel to `host`, with TLS inside under the name `sni`.
    pub async fn tunnel(&self, host: &str, sni: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut raw = Raw::connect(self.world).await;
        raw.say(&connect_request(host, &basic(PASSWORD))).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let config = trusting(&self.world.ca_pem, self.alpn);
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, raw.0).await
    }

    pub async fn raw(&self, host: &str) -> Raw<TlsStream<TcpStream>> {
        Raw(self.tunnel(host, host).await.unwrap())
    }

    pub async fn sender(&self, host: &str) -> Sender {
        self.sender_as(host, host).await
    }

    pub async fn sender_as(&self, host: &str, sni: &str) -> Sender {
        Sender::over(self.tunnel(host, sni).await.unwrap(), self.alpn).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, host: &str, request: Builder, body: &str) -> Response<Incoming> {
        self.sender(host).await.send(host, request, body).await.unwrap()
    }
}

impl Sender {
    pub async fn over(tls: TlsStream<TcpStream>, alpn: &str) -> Self {
        let tls = TokioIo::new(tls);
        if alpn == "h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), tls).await.unwrap();
            tokio::spawn(connection);
            Self::H2(sender)
        } else {
            let (sender, connection) = http1::handshake(tls).await.unwrap();
            tokio::spawn(connection);
            Self::H1(sender)
        }
    }

    pub async fn send(
        &mut self,
        host: &str,
        request: Builder,
        body: &str,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let path = request.uri().path_and_query().unwrap().as_str().to_owned();
        let answer = match self {
            Self::H1(sender) => {
                request.headers_mut().entry("host").or_insert(host.parse().unwrap());
                sender.ready().await?;
                timeout(PATIENCE, sender.send_request(request)).await
            }
            Self::H2(sender) => {
                *request.version_mut() = Version::HTTP_2;
                if request.uri().authority().is_none() {
                    *request.uri_mut() = format!("https://{host}{path}").parse().unwrap();
                }
                timeout(PATIENCE, sender.send_request(request)).await
            }
        };
        answer.expect("an answer in time")
    }
}

impl Raw<TcpStream> {
    pub async fn connect(world: &World) -> Self {
        Self(TcpStream::connect(world.address).await.unwrap())
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<S> {
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// A response's head.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(PATIENCE, self.0.read_u8()).await.expect("a head in time") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).unwrap()
    }

    /// A response with a `Content-Length`.
    pub async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        timeout(PATIENCE, self.0.read_exact(&mut body)).await.expect("a body in time").unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// So many bytes of a chunked body, however they are cut into chunks.
    pub async fn chunked(&mut self, count: usize) -> String {
        let mut body = String::new();
        while body.len() < count {
            let size = self.line().await;
            let mut chunk = vec![0; usize::from_str_radix(&size, 16).unwrap()];
            timeout(PATIENCE, self.0.read_exact(&mut chunk)).await.expect("a chunk in time").unwrap();
            body.push_str(std::str::from_utf8(&chunk).unwrap());
            assert_eq!(self.line().await, "");
        }
        body
    }

    pub async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(timeout(PATIENCE, self.0.read_u8()).await.expect("a line in time").unwrap());
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Everything until the other side closes, however it does.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = timeout(PATIENCE, self.0.read(&mut piece)).await.expect("an end in time")
        {
            rest.extend_from_slice(&piece[..count]);
        }
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// TLS that trusts these roots only.
pub fn trusting(pem: &str, alpn: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

pub fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("writ:{password}")))
}

pub fn connect_request(host: &str, authorization: &str) -> String {
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
    format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {authorization}\r\n\r\n")
}

pub fn get(path: &str) -> Builder {
    Request::builder().method(Method::GET).uri(path)
}

pub fn post(path: &str) -> Builder {
    Request::builder().method(Method::POST).uri(path)
}

pub async fn text(response: Response<Incoming>) -> String {
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("a body in time").unwrap();
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}
