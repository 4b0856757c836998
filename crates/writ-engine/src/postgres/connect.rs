//! Connecting to a PostgreSQL server: by TLS with the server's name verified, or in the clear to a loopback address.
//!
//! Used by this engine and by whoever else of writ speaks to such a server. A password is
//! only proven, by SCRAM bound to the TLS channel (RFC 5929 §4): a server that asks for the password itself or for its MD5, or
//! has no channel binding, is refused. In the clear, to a loopback address, the server says how. Absent: Unix sockets, several hosts in one URL, client certificates, TLS that would
//! accept a name it cannot verify.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::{TcpStream, lookup_host};
use tokio_postgres::{
    AsyncMessage, Client, Connection,
    config::{ChannelBinding, SslMode},
    error::SqlState,
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use writ_core::Secret;

/// How long reaching a server may take, from its name to an accepted login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::Stream;

/// A server, a database in it, and who logs in. Nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name that the certificate must bear; a DNS name or an IP address.
    pub host: String,
    pub port: u16,
    /// The address to connect to, where it is not what the name says.
    pub dial: Option<SocketAddr>,
    pub database: String,
    pub user: String,
    pub tls: Tls,
}

/// How a connection is protected.
#[derive(Clone, PartialEq, Eq)]
pub enum Tls {
    /// The server's certificate is for its name, and signed by one of these certificates (PEM) or by the system's roots.
    VerifyFull(Option<String>),
    /// Not at all. [`connect`] refuses it for any address but a loopback one.
    Disable,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VerifyFull(Some(_)) => "VerifyFull(own roots)",
            Self::VerifyFull(None) => "VerifyFull(system roots)",
            Self::Disable => "Disable",
        })
    }
}

/// Why there is no connection. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// The endpoint itself is wrong.
    #[error("{0}")]
    Endpoint(String),
    /// Nobody answered in time, or who answered is not the server.
    #[error("{0}")]
    Unreachable(String),
    /// The server is there and does not know the user, or the password is another.
    #[error("the server refuses the login: {0}")]
    Login(String),
    /// The server is there and says no: the database does not exist, too many connections.
    #[error("the server refuses the connection: {0}")]
    Refused(String),
}

impl Endpoint {
    /// Judges the endpoint without touching the network.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub fn check(&self) -> Result<(), String> {
        match &self.tls {
            Tls::VerifyFull(Some(pem)) => own_roots(pem).map(drop),
            Tls::VerifyFull(None) | Tls::Disable => Ok(()),
        }
    }
}

/// The half of a connection that carries bytes: it must be polled for the client to get answers, and ends when the client
/// is dropped.
pub struct Link(Connection<TcpStream, TlsStream>);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// The next notification or notice; `None` at the end.
    pub fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        self.0.poll_message(context)
    }
}

impl Future for Link {
    type Output = Result<(), tokio_postgres::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Logs in, within [`CONNECT_TIMEOUT`]. `application` is what the server's own log and `pg_stat_activity` call us.
///
/// # Errors
/// [`ConnectFault`].
pub async fn connect(
    endpoint: &Endpoint,
    password: Option<&Secret>,
    application: &str,
) -> Result<(Client, Link), ConnectFault> {
    let late = |_| ConnectFault::Unreachable(format!("no login within {} s", CONNECT_TIMEOUT.as_secs()));
    tokio::time::timeout(CONNECT_TIMEOUT, log_in(endpoint, password, application)).await.map_err(late)?
}

async fn log_in(
    endpoint: &Endpoint,
    password: Option<&Secret>,
    application: &str,
) -> Result<(Client, Link), ConnectFault> {
    // Without TLS the configuration is never used; an empty one trusts nobody.
    let (mode, roots) = match &endpoint.tls {
        Tls::VerifyFull(pem) => (SslMode::Require, Some(pem)),
        Tls::Disable => (SslMode::Disable, None),
    };
    let store = match roots {
        Some(Some(pem)) => own_roots(pem).map_err(ConnectFault::Endpoint)?,
        Some(None) => system_roots()?,
        None => RootCertStore::empty(),
    };
    let mut tls = MakeRustlsConnect::new(client_config(store)?);
    ServerName::try_from(endpoint.host.clone())
        .map_err(|_| ConnectFault::Endpoint("the host is no name that a certificate can bear".to_owned()))?;
    let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &endpoint.host)
        .map_err(|fault| ConnectFault::Endpoint(fault.to_string()))?;
    let mut config = tokio_postgres::Config::new();
    config.user(&endpoint.user).dbname(&endpoint.database).application_name(application).ssl_mode(mode);
    if let Some(password) = password {
        config.password(password.expose());
        // Otherwise whoever answers may ask for the password itself, or for its MD5, and is given it.
        if mode == SslMode::Require {
            config.channel_binding(ChannelBinding::Require);
        }
    }
    let stream = dial(endpoint).await?;
    match config.connect_raw(stream, tls).await {
        Ok((client, connection)) => Ok((client, Link(connection))),
        Err(fault) => Err(judged(&fault)),
    }
}

async fn dial(endpoint: &Endpoint) -> Result<TcpStream, ConnectFault> {
    let unreachable = |fault: io::Error| ConnectFault::Unreachable(fault.to_string());
    let addresses: Vec<SocketAddr> = match endpoint.dial {
        Some(address) => vec![address],
        None => lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(unreachable)?.collect(),
    };
    let mut last = ConnectFault::Unreachable("the host has no address".to_owned());
    for address in addresses {
        // Judged on the address that is dialled: what a name says may change.
        if endpoint.tls == Tls::Disable && !address.ip().is_loopback() {
            let detail = "without TLS only loopback addresses are dialled".to_owned();
            last = ConnectFault::Endpoint(detail);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Err(fault) => last = unreachable(fault),
        }
    }
    Err(last)
}

/// Whether the server spoke at all, and whether it spoke of the login.
fn judged(fault: &tokio_postgres::Error) -> ConnectFault {
    let Some(db) = fault.as_db_error() else {
        return ConnectFault::Unreachable(said(fault));
    };
    let code = db.code();
    if *code == SqlState::INVALID_PASSWORD {
        ConnectFault::Login(said(fault))
    } else if is_down(code) {
        ConnectFault::Unreachable(said(fault))
    } else {
        ConnectFault::Refused(said(fault))
    }
}

/// The server is stopping, starting, or has just died.
pub(super) fn is_down(code: &SqlState) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code)
}

/// What went wrong, in the server's words where it spoke: its code and its message, never the statement.
pub(super) fn said(fault: &tokio_postgres::Error) -> String {
    match (fault.as_db_error(), std::error::Error::source(fault)) {
        (Some(db), _) => {
            // It names the objects; of other complaints it may quote what was sent.
            let names = *db.code() == SqlState::DEPENDENT_OBJECTS_STILL_EXIST;
            let detail =
                db.detail().filter(|_| names).map(|detail| format!(": {}", detail.replace('\n', "; ")));
            format!("{}{} ({})", db.message(), detail.unwrap_or_default(), db.code().code())
        }
        (None, Some(source)) => {
            format!("{fault}: {source}").replace("error communicating with the server: ", "")
        }
        (None, None) => fault.to_string(),
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, ConnectFault> {
    Ok(ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| ConnectFault::Endpoint(fault.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn own_roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| "it is not PEM".to_owned())?;
        roots.add(certificate).map_err(|_| "it has something that is no certificate".to_owned())?;
    }
    if roots.is_empty() { Err("it has no certificate".to_owned()) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, ConnectFault> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let detail = "the system has no root certificates: install them, or name the server's with `tls_ca`";
        return Err(ConnectFault::Unreachable(detail.to_owned()));
    }
    Ok(roots)
}
