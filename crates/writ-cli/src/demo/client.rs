//! A small HTTPS client with no writ in it: what the demo runs where nothing else is installed.
//!
//! It knows what every HTTP client knows: `SSL_CERT_FILE`, `OPENAI_API_KEY`, and `HTTPS_PROXY` if there is one. It reads
//! one request a line from stdin (`METHOD PATH [BODY]`, or `ENV`) and prints one JSON line for each.

use std::{
    env,
    io::{self, BufRead, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::pem::PemObject};

/// The hidden first argument; the host follows.
pub const STAGE: &str = "__client";

const ANSWER_MAX: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Serves stdin if this process is the client.
pub fn stage() -> Option<ExitCode> {
    let mut arguments = env::args().skip(1);
    if arguments.next()? != STAGE {
        return None;
    }
    let host = arguments.next()?;
    let mut stdout = io::stdout();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.as_str() {
            "ENV" => serde_json::json!(env::vars().collect::<Vec<_>>()),
            line => {
                request(&host, line).unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }))
            }
        };
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).ok()?;
    }
    Some(ExitCode::SUCCESS)
}

fn request(host: &str, line: &str) -> io::Result<serde_json::Value> {
    let mut words = line.splitn(3, ' ');
    let (method, path, body) =
        (words.next().unwrap_or("GET"), words.next().unwrap_or("/"), words.next().unwrap_or(""));
    let mut stream = secure(host, tunnel(host)?)?;
    let key = env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty());
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{key}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    match stream.take(ANSWER_MAX).read_to_string(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::json!({ "status": status, "body": body }))
}

/// A connection to the host: as to any, or by CONNECT through the proxy that is set (RFC 9110 §9.3.6).
fn tunnel(host: &str) -> io::Result<TcpStream> {
    let wrong = |what: &str| io::Error::other(what.to_owned());
    let Ok(proxy) = env::var("HTTPS_PROXY") else {
        let stream = TcpStream::connect((host, 443))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        return Ok(stream);
    };
    let rest = proxy.strip_prefix("http://").ok_or_else(|| wrong("HTTPS_PROXY is no http:// URL"))?;
    let (user, address) = rest.rsplit_once('@').ok_or_else(|| wrong("HTTPS_PROXY has no password"))?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let password = STANDARD.encode(user);
    write!(
        stream,
        "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nProxy-Authorization: Basic {password}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let status = String::from_utf8_lossy(&head).split(' ').nth(1).map(ToOwned::to_owned);
    if status.as_deref() == Some("200") {
        Ok(stream)
    } else {
        Err(wrong(&format!("the proxy answers {}", status.unwrap_or_default())))
    }
}

fn secure(host: &str, stream: TcpStream) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let bundle = env::var("SSL_CERT_FILE").map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls::pki_types::CertificateDer::pem_file_iter(bundle).map_err(io::Error::other)? {
        // A system's bundle may hold certificates that this library does not take; the others count.
        let _ = roots.add(certificate.map_err(io::Error::other)?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = host.to_owned().try_into().map_err(io::Error::other)?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?, stream))
}
