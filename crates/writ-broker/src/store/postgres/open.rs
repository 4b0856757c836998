//! Connections: where to, as whom, and with which promises of the server.
//!
//! Every connection says `synchronous_commit`, so that no default of a role or a database makes an answer say more than is on
//! disk; and it has timeouts, so that a server that hangs is one that does not answer.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, Notification, Row, Statement, config::Host, types::ToSql,
};
use writ_core::Secret;
use writ_engine::postgres::connect::{self as engine, ConnectFault, Endpoint, Tls};

use super::fault::{Failed, failed, plain};
use crate::store::StoreFault;

/// The longest that a login may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The longest that an answer may take. The server gives up on its own before.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(20);
/// A password has at most this many bytes.
const PASSWORD_MAX: u64 = 1024;
/// What every connection is told first. Names are always written with their schema.
const SETTINGS: &str = "SET search_path = pg_catalog; SET statement_timeout = '15s'; SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '30s'; SET synchronous_commit = on; SET client_min_messages = warning";
const PORT: u16 = 5432;
/// How the daemon is called in `pg_stat_activity`.
const NAME: &str = "writ";

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// `postgres://USER@HOST:PORT/DATABASE`, without a password.
    pub url: String,
    /// A file of mode 0600 that holds the password.
    pub password_file: Option<PathBuf>,
    /// Trust anchors in PEM instead of the system's.
    pub tls_ca: Option<String>,
    /// The address that is dialled instead of what the host's name says.
    pub dial: Option<SocketAddr>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({:?})", self.url)
    }
}

/// Why a URL does not name a store. The texts hold no password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceFault {
    #[error("it is not a URL of PostgreSQL: write postgres://USER@HOST:PORT/DATABASE")]
    Form,
    #[error("it holds a password: write that into a file of mode 0600 and name it with password_file")]
    Password,
    #[error("it names {0}: write postgres://USER@HOST:PORT/DATABASE")]
    Lacks(&'static str),
    #[error(
        "sslmode and other parameters do not belong there: TLS is always verified, and off only to this machine"
    )]
    Parameters,
}

impl Place {
    /// Reads the URL.
    ///
    /// # Errors
    /// [`PlaceFault`].
    pub fn check(&self) -> Result<(), PlaceFault> {
        self.endpoint().map(drop)
    }

    fn endpoint(&self) -> Result<Endpoint, PlaceFault> {
        let scheme = ["postgres://", "postgresql://"].iter().any(|scheme| self.url.starts_with(scheme));
        if !scheme {
            return Err(PlaceFault::Form);
        }
        if self.url.contains('?') {
            return Err(PlaceFault::Parameters);
        }
        let config: Config = self.url.parse().map_err(|_| PlaceFault::Form)?;
        if config.get_password().is_some() {
            return Err(PlaceFault::Password);
        }
        let named = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let [Host::Tcp(host)] = config.get_hosts() else { return Err(PlaceFault::Lacks("not one host")) };
        let local = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let tls =
            if local && self.tls_ca.is_none() { Tls::Disable } else { Tls::VerifyFull(self.tls_ca.clone()) };
        Ok(Endpoint {
            host: host.clone(),
            port: config.get_ports().first().copied().unwrap_or(PORT),
            dial: self.dial,
            database: named(config.get_dbname()).ok_or(PlaceFault::Lacks("no database"))?,
            user: named(config.get_user()).ok_or(PlaceFault::Lacks("no user"))?,
            tls,
        })
    }

    /// Host, port and database, for people.
    pub fn shown(&self) -> String {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, place)| place).to_owned()
    }
}

/// How to get connections.
pub(super) struct Server {
    endpoint: Endpoint,
    password: Option<Secret>,
    shown: String,
}

impl Server {
    /// # Errors
    /// [`StoreFault::Exposed`] for a password that others can read; [`StoreFault::Unsuitable`].
    pub(super) fn of(place: &Place) -> Result<Self, StoreFault> {
        let endpoint = place.endpoint().map_err(|fault| StoreFault::Unsuitable(fault.to_string()))?;
        let password = place.password_file.as_deref().map(read_password).transpose()?;
        Ok(Self { endpoint, password, shown: place.shown() })
    }

    /// A connection, ready for work. What the server says unasked goes to `heard`.
    ///
    /// # Errors
    /// [`StoreFault::Io`] when it cannot be had.
    pub(super) async fn connect(
        &self,
        heard: Option<mpsc::Sender<Notification>>,
    ) -> Result<Link, StoreFault> {
        let connected =
            timeout(CONNECT_MAX, engine::connect(&self.endpoint, self.password.as_ref(), NAME)).await;
        let (client, connection) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(ConnectFault::Endpoint(why))) => return Err(StoreFault::Unsuitable(why)),
            Ok(Err(fault)) => return Err(self.unreachable(&fault.to_string())),
            Err(_) => return Err(self.unreachable("no answer in time")),
        };
        let task = tokio::spawn(drive(connection, heard));
        let link = Link { client, task, prepared: Mutex::default() };
        match timeout(CONNECT_MAX, link.client.batch_execute(SETTINGS)).await {
            Ok(done) => done.map_err(|error| plain(&error))?,
            Err(_) => return Err(self.unreachable("no answer in time")),
        }
        Ok(link)
    }

    fn unreachable(&self, why: &str) -> StoreFault {
        StoreFault::Io(format!("{} cannot be reached: {why}", self.shown))
    }
}

/// Moves bytes until the connection ends.
async fn drive(mut connection: engine::Link, heard: Option<mpsc::Sender<Notification>>) {
    while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        match (message, &heard) {
            // A full queue loses nothing: whoever reads it looks for everything that is new.
            (Ok(AsyncMessage::Notification(news)), Some(heard)) => drop(heard.try_send(news)),
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::debug!(%error, "a connection to the store's server ended");
                return;
            }
        }
    }
}

/// One connection, with its prepared statements. Dropped, it is closed.
pub(super) struct Link {
    client: Client,
    task: JoinHandle<()>,
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a statement is given.
pub(super) type Params = Vec<Box<dyn ToSql + Sync + Send>>;

impl Link {
    pub(super) fn is_lost(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Parses a statement once a connection.
    pub(super) async fn prepare(&self, sql: &'static str) -> Result<Statement, Failed> {
        if let Some(known) = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql) {
            return Ok(known.clone());
        }
        let statement = answered(self.client.prepare(sql)).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&self, sql: &'static str, params: &Params) -> Result<Vec<Row>, Failed> {
        let statement = self.prepare(sql).await?;
        answered(self.client.query(&statement, &borrowed(params))).await
    }
}

pub(super) fn borrowed(params: &Params) -> Vec<&(dyn ToSql + Sync)> {
    params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
}

/// Waits, but not for ever.
pub(super) async fn answered<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failed> {
    match timeout(ANSWER_MAX, work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(_) => Err(Failed::Lost(StoreFault::Io("the store's server does not answer".to_owned()))),
    }
}

/// A connection that is made anew when it is gone.
pub(super) struct Lasting {
    server: Arc<Server>,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
}

impl Lasting {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, link: tokio::sync::Mutex::new(None) }
    }

    pub(super) async fn link(&self) -> Result<Arc<Link>, StoreFault> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.is_lost()) {
            return Ok(Arc::clone(link));
        }
        let new = Arc::new(self.server.connect(None).await?);
        *link = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Lets go of a connection that failed, unless there is another one already.
    pub(super) async fn lose(&self, lost: &Arc<Link>) {
        let mut link = self.link.lock().await;
        if link.as_ref().is_some_and(|link| Arc::ptr_eq(link, lost)) {
            *link = None;
        }
    }

    /// Asks, and once more on another connection if this one was lost: only for what may happen twice.
    pub(super) async fn ask(&self, sql: &'static str, params: Params) -> Result<Vec<Row>, StoreFault> {
        let mut first = true;
        loop {
            let link = self.link().await?;
            match link.query(sql, &params).await {
                Ok(rows) => return Ok(rows),
                Err(Failed::Lost(_)) if first => self.lose(&link).await,
                Err(Failed::Busy(_)) if first => {}
                Err(fault) => return Err(fault.into_fault()),
            }
            first = false;
        }
    }
}

/// The password, from a file that nobody else can read.
fn read_password(path: &Path) -> Result<Secret, StoreFault> {
    let failed = |error: io::Error| StoreFault::Io(format!("the password file {}: {error}", path.display()));
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > PASSWORD_MAX {
        return Err(failed(io::Error::other("not a regular file of a password's size")));
    }
    if found.mode() & 0o077 != 0 {
        let fix = format!("chmod 600 {}", path.display());
        return Err(StoreFault::Exposed { what: "password file can be read by others", fix });
    }
    let mut password = std::fs::read(path).map_err(failed)?;
    while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        password.pop();
    }
    Ok(Secret::new(password))
}
