//! The administrator's connection: opened when there is something to do, closed when there was nothing for a while.
//!
//! A worker has one. The administrator's password is the caller's to fetch, so that a connection that is open already costs
//! no look-up; it is forgotten together with the connection.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, error::SqlState};
use writ_core::Secret;

use super::{
    connect::{self, ConnectFault, Endpoint, connect},
    vetting::Vetted,
};

/// What the server calls us in `pg_stat_activity`.
pub(super) const APPLICATION: &str = "writ";
/// The session's own limits: the longest statement, the longest wait for a lock, the longest transaction that says nothing.
/// A broker that stops in the middle of a transaction holds what it holds for the last of these. And what was committed is on
/// disk: a login that was removed must not come back when the server crashes.
const SETTINGS: &str = "SET statement_timeout = '20s'; SET lock_timeout = '3s'; \
     SET idle_in_transaction_session_timeout = '15s'; SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; \
     SET standard_conforming_strings = on; SET search_path = pg_catalog; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// The longest that an answer may take: more than the server's own limits together.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The server's versions that grant memberships with options.
const OPTIONS_SINCE: i32 = 160_000;

/// Why something was not done. Nothing in it is secret.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The server did not answer.
    Unreachable(String),
    /// It answered no.
    Refused(String),
    /// It answered no, since something else builds upon what was to go.
    Dependent(String),
    /// Another statement of the same transaction failed before.
    Aborted,
    /// The operator erred.
    Config(String),
    /// The connection has to be opened, and for that the password is needed.
    Password,
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(fault: tokio_postgres::Error) -> Self {
        match fault.code() {
            Some(code) if *code == SqlState::DEPENDENT_OBJECTS_STILL_EXIST => {
                Self::Dependent(connect::said(&fault))
            }
            Some(code) if *code == SqlState::IN_FAILED_SQL_TRANSACTION => Self::Aborted,
            Some(code) if !connect::is_down(code) => Self::Refused(connect::said(&fault)),
            _ => Self::Unreachable(connect::said(&fault)),
        }
    }
}

/// A connection that may be open.
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    /// With the flag whether a caller has just fetched it.
    password: Option<(Arc<Secret>, bool)>,
    live: Option<Live>,
}

/// A connection that is open.
pub(super) struct Live {
    pub(super) client: Client,
    pub(super) superuser: bool,
    /// Memberships are granted with options of their own (PostgreSQL 16 and later).
    pub(super) options: bool,
    pub(super) vetted: Vetted,
    driver: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, password: None, live: None }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn password(&self) -> Option<&Secret> {
        self.password.as_ref().map(|(password, _)| password.as_ref())
    }

    /// Takes a password that a caller has just fetched.
    pub(super) fn offer(&mut self, password: Option<Arc<Secret>>) {
        if let Some(password) = password {
            self.password = Some((password, self.live.is_none()));
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.live.is_some()
    }

    /// Closes the connection and forgets the password.
    pub(super) fn close(&mut self) {
        (self.live, self.password) = (None, None);
    }

    /// Closes the connection: what it was doing, the server undoes.
    pub(super) fn abandon(&mut self) {
        self.live = None;
    }

    /// The connection, opened if it is not.
    pub(super) async fn live(&mut self) -> Result<&mut Live, Trouble> {
        let open = self.live.take().filter(|live| !live.client.is_closed());
        let live = match open {
            Some(live) => live,
            None => self.open().await?,
        };
        Ok(self.live.insert(live))
    }

    async fn open(&mut self) -> Result<Live, Trouble> {
        let Some((password, fresh)) = self.password.take() else { return Err(Trouble::Password) };
        match open(&self.endpoint, &password).await {
            Ok(live) => {
                self.password = Some((password, false));
                Ok(live)
            }
            // It may have been changed since it was fetched.
            Err(Opening::Login(_)) if !fresh => Err(Trouble::Password),
            Err(Opening::Login(detail)) => Err(Trouble::Refused(detail)),
            Err(Opening::Trouble(trouble)) => {
                self.password = Some((password, false));
                Err(trouble)
            }
        }
    }
}

enum Opening {
    Login(String),
    Trouble(Trouble),
}

impl From<ConnectFault> for Opening {
    fn from(fault: ConnectFault) -> Self {
        let detail = fault.to_string();
        match fault {
            ConnectFault::Login(_) => Self::Login(detail),
            ConnectFault::Endpoint(_) => Self::Trouble(Trouble::Config(detail)),
            ConnectFault::Unreachable(_) => Self::Trouble(Trouble::Unreachable(detail)),
            ConnectFault::Refused(_) => Self::Trouble(Trouble::Refused(detail)),
        }
    }
}

/// A connection of its own, under the session's limits: closed when it is dropped, also by a caller that no longer waits.
pub(super) async fn once(endpoint: &Endpoint, password: &Secret) -> Result<Live, Trouble> {
    open(endpoint, password).await.map_err(|opening| match opening {
        Opening::Login(detail) => Trouble::Refused(detail),
        Opening::Trouble(trouble) => trouble,
    })
}

/// A connection to another database of the same server, for as long as it is held.
pub(super) async fn elsewhere(session: &Session, database: &str) -> Result<Live, Trouble> {
    let endpoint = Endpoint { database: database.to_owned(), ..session.endpoint().clone() };
    let password = session.password().ok_or(Trouble::Password)?;
    open(&endpoint, password).await.map_err(|opening| match opening {
        // It may have been changed since it was fetched.
        Opening::Login(_) => Trouble::Password,
        Opening::Trouble(trouble) => trouble,
    })
}

async fn open(endpoint: &Endpoint, password: &Secret) -> Result<Live, Opening> {
    let (client, link) = connect(endpoint, Some(password), APPLICATION).await?;
    let driver = tokio::spawn(async move {
        // The client sees the same fault, and reports it.
        drop(link.await);
    });
    let mut live = Live { client, superuser: false, options: false, vetted: Vetted::default(), driver };
    let probe = async {
        live.client.batch_execute(SETTINGS).await?;
        let about = "SELECT current_setting('server_version_num')::int4, \
                     (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";
        live.client.query_typed_one(about, &[]).await
    };
    let row = tokio::time::timeout(ANSWER_TIMEOUT, probe)
        .await
        .map_err(|_| Opening::Trouble(Trouble::Unreachable("it took the login and says nothing".to_owned())))?
        .map_err(|fault| Opening::Trouble(fault.into()))?;
    let read = |fault: tokio_postgres::Error| Opening::Trouble(fault.into());
    live.options = row.try_get::<_, i32>(0).map_err(read)? >= OPTIONS_SINCE;
    live.superuser = row.try_get(1).map_err(read)?;
    Ok(live)
}
