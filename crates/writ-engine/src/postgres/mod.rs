//! The secrets engine `postgres`: a login of a PostgreSQL server, born for one lease and dead with it.
//!
//! ```text
//!   plan   connection remembered, name decided        nothing outside is touched
//!   mint   CREATE ROLE writ_<mark>_<lease> … IN ROLE the templates, VALID UNTIL by the server's clock
//!   renew  VALID UNTIL
//!   revoke no login ─► sessions ended ─► what it owned dropped ─► DROP ROLE ─► verified
//! ```
//!
//! A login has no rights of its own: it is a member of the operator's template roles (a table takes no more than some 2,400
//! grantees, a template any number of members). Its end is known to three parties: writ revokes it, the server refuses it
//! after `VALID UNTIL`, and its lease stands in its name, its comment and its `application_name`. It may change its own
//! password and settings, as any role may; that moves nothing of its end.
//!
//! Requests for one server wait in two queues and are done by the batch ([`desk`]). Absent: rights granted to single logins,
//! SQL templates, connection poolers between writ and the server, PostgreSQL before 14.

mod batch;
mod config;
pub mod connect;
mod desk;
mod mint;
mod quote;
mod receipt;
mod revoke;
mod rotation;
mod session;
mod silence;
mod static_role;
mod survey;
mod verifier;
mod vetting;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use writ_core::{
    BoxFuture, CredentialName, Engine, EngineFault, LeaseId, Login, Minted, Permit, Receipt, Revoked,
    Rotation, Secret, Surveyed, Timestamp, Tools,
};

use self::{
    config::{Config, Connection},
    connect::Endpoint,
    desk::{Desk, ask},
    mint::{Birth, Change},
    receipt::{Made, RoleName},
    revoke::Death,
    session::{Session, Trouble},
};

pub use self::{
    connect::{ConnectFault, Link, Tls, connect},
    static_role::StaticRole,
};

/// How often one request is put into a queue: without the password, with it, and where it changed in between.
const FETCHES: usize = 3;

/// Makes logins. Its connections end when it is dropped.
#[derive(Default)]
pub struct Postgres {
    /// By the digest of the connection.
    desks: Mutex<HashMap<String, Arc<Open>>>,
}

/// A connection that is in use, and its desk.
struct Open {
    connection: Connection,
    desk: Desk,
}

impl Engine for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn check(&self, credential: &CredentialName, config: &Value) -> Result<(), EngineFault> {
        Config::read(credential, config).map(drop)
    }

    fn plan<'a>(
        &'a self,
        permit: &'a Permit,
        lease: LeaseId,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move {
            let credential = of(permit)?;
            let connection = Config::read(credential, config)?.connection();
            let role = RoleName::new(&tools.mark(), lease)?;
            let digest = connection.digest();
            // A desk is opened only for what is remembered.
            if self.known(&digest).is_none() {
                let value = serde_json::to_value(&connection)
                    .map_err(|fault| EngineFault::Memory(fault.to_string()))?;
                tools.remember(&digest, value).await?;
            }
            let server = connection.server();
            Made { credential: credential.clone(), connection: digest, server, role, oid: None }.receipt()
        })
    }

    fn lane(&self, receipt: &Receipt) -> String {
        Made::read(receipt).map_or_else(|_| self.name().to_owned(), |made| lane(&made.server))
    }

    fn is_of(&self, receipt: &Receipt, lease: LeaseId) -> bool {
        Made::read(receipt).is_ok_and(|made| made.role.lease() == Some(lease))
    }

    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        receipt: &'a Receipt,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(self.make(permit, receipt, config, tools))
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move {
            let made = Made::read(receipt)?;
            let open = self.recall(&made.connection, tools).await?;
            open.desk.pending.cancel(&made.role);
            let death = |password, reply| Death { role: made.role.clone(), oid: made.oid, password, reply };
            self.request(&made, &open, open.desk.deaths(), death, tools).await.map(|()| Revoked::Gone)
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        expires_at: Timestamp,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(async move {
            let made = Made::read(receipt)?;
            let open = self.recall(&made.connection, tools).await?;
            let until = Instant::now() + expires_at.saturating_since(tools.now());
            let birth = |password, reply| Birth {
                role: made.role.clone(),
                change: Change::Extend,
                until,
                password,
                _waiting: open.desk.pending.enter(&made.role),
                reply,
            };
            self.request(&made, &open, open.desk.births(), birth, tools).await.map(drop)
        })
    }

    fn survey<'a>(
        &'a self,
        credential: &'a CredentialName,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Option<Vec<Surveyed>>, EngineFault>> {
        Box::pin(self.look(credential, config, tools))
    }

    fn surveys(&self, credential: &CredentialName, config: &Value) -> Option<String> {
        Config::read(credential, config).ok().map(|config| lane(&config.connection().server()))
    }

    fn rotation(&self) -> Option<&dyn Rotation> {
        Some(self)
    }

    fn makes_logins(&self) -> bool {
        true
    }

    fn example(&self) -> Value {
        json!({
            "server": "db.example:5432",
            "database": "orders",
            "user": "writ_admin",
            "password": "orders-admin",
            "member_of": ["orders_read"],
        })
    }
}

impl Postgres {
    async fn make(
        &self,
        permit: &Permit,
        receipt: &Receipt,
        config: &Value,
        tools: &dyn Tools,
    ) -> Result<Minted, EngineFault> {
        let made = Made::read(receipt)?;
        let permitted = of(permit)?;
        if made.credential != *permitted {
            let detail = format!("it is of {}, the permit of {permitted}", made.credential);
            return Err(EngineFault::Receipt(detail));
        }
        let config = Config::read(permitted, config)?;
        let connection = config.connection();
        if connection.digest() != made.connection {
            let detail = "the credential is of another server or account than when it was planned".to_owned();
            return Err(EngineFault::Config { credential: permitted.clone(), detail });
        }
        let open = self.open(made.connection.clone(), connection)?;
        let outside =
            |detail: &str| EngineFault::Outside { credential: permitted.clone(), detail: detail.to_owned() };
        let secret = verifier::password().map_err(|_| outside("the system gives no randomness"))?;
        let verifier = verifier::verifier(&secret, verifier::ONCE)
            .map_err(|_| outside("the system gives no randomness"))?;
        let lease = made.role.lease().map(|lease| lease.to_string()).unwrap_or_default();
        let principal = permit.principal();
        let comment = json!({ "lease": lease, "workload": principal.workload, "role": principal.role });
        let change = Change::Make {
            verifier,
            comment: comment.to_string(),
            application: format!("writ:{lease}"),
            limit: config.connection_limit,
            member_of: config.member_of.into(),
            privileged: config.allow_privileged,
        };
        let until = Instant::now() + permit.expires_at().saturating_since(tools.now());
        let birth = |password, reply| Birth {
            role: made.role.clone(),
            change: change.clone(),
            until,
            password,
            _waiting: open.desk.pending.enter(&made.role),
            reply,
        };
        let oid = self.request(&made, &open, open.desk.births(), birth, tools).await?;
        let login = Login { user: made.role.as_str().to_owned(), database: open.connection.database.clone() };
        let receipt = Some(Made { oid, ..made.clone() }.receipt()?);
        Ok(Minted { secret, version: 0, login: Some(login), receipt })
    }

    async fn look(
        &self,
        credential: &CredentialName,
        config: &Value,
        tools: &dyn Tools,
    ) -> Result<Option<Vec<Surveyed>>, EngineFault> {
        let connection = Config::read(credential, config)?.connection();
        let (server, digest) = (connection.server(), connection.digest());
        let fault = |trouble| said(credential, &lane(&server), trouble);
        let value =
            serde_json::to_value(&connection).map_err(|fault| EngineFault::Memory(fault.to_string()))?;
        tools.remember(&digest, value).await?;
        let mut session = Session::new(Arc::new(endpoint(credential, &connection)?));
        session.offer(Some(Arc::new(tools.current(&connection.password).await?)));
        let live = session.live().await.map_err(fault)?;
        let roles = survey::roles(&live.client, &tools.mark()).await.map_err(fault)?;
        let surveyed = roles.into_iter().filter_map(|(role, oid)| {
            let (lease, name) = (role.lease()?, role.as_str().to_owned());
            let (credential, connection, server) = (credential.clone(), digest.clone(), server.clone());
            let made = Made { credential, connection, server, role, oid: Some(oid) };
            Some(made.receipt().map(|receipt| Surveyed { lease, name, receipt }))
        });
        surveyed.collect::<Result<_, _>>().map(Some)
    }

    /// Puts a request into a queue, and once more with the administrator's password where it is asked for.
    async fn request<J: Send, T: Send>(
        &self,
        made: &Made,
        open: &Open,
        queue: &mpsc::Sender<J>,
        make: impl Fn(Option<Arc<Secret>>, oneshot::Sender<Result<T, Trouble>>) -> J + Send + Sync,
        tools: &dyn Tools,
    ) -> Result<T, EngineFault> {
        let mut password = None;
        for _ in 0..FETCHES {
            let (reply, answer) = oneshot::channel();
            let request = make(password.take(), reply);
            match ask(queue, request, answer).await {
                Err(Trouble::Password) => {
                    password = Some(Arc::new(tools.current(&open.connection.password).await?));
                }
                answer => {
                    return answer.map_err(|trouble| said(&made.credential, &lane(&made.server), trouble));
                }
            }
        }
        let detail = "the administrator's password keeps changing".to_owned();
        Err(EngineFault::Outside { credential: made.credential.clone(), detail })
    }

    fn known(&self, digest: &str) -> Option<Arc<Open>> {
        let desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.get(digest).filter(|open| open.desk.is_open()).cloned()
    }

    fn open(&self, digest: String, connection: Connection) -> Result<Arc<Open>, EngineFault> {
        if let Some(open) = self.known(&digest) {
            return Ok(open);
        }
        let endpoint = connection.endpoint().map_err(EngineFault::Memory)?;
        let desk = Desk::open(endpoint, connection.owned.clone());
        let open = Arc::new(Open { connection, desk });
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have been quicker: there is one queue for each server.
        let place = desks.entry(digest).or_insert_with(|| Arc::clone(&open));
        if !place.desk.is_open() {
            *place = open;
        }
        Ok(Arc::clone(place))
    }

    async fn recall(&self, digest: &str, tools: &dyn Tools) -> Result<Arc<Open>, EngineFault> {
        if let Some(open) = self.known(digest) {
            return Ok(open);
        }
        let forgotten = || EngineFault::Memory(format!("the connection {digest} is not known"));
        let value = tools.recall(digest).await?.ok_or_else(forgotten)?;
        let connection: Connection =
            serde_json::from_value(value).map_err(|fault| EngineFault::Memory(fault.to_string()))?;
        // It says where the administrator's password goes.
        if connection.digest() != digest {
            return Err(EngineFault::Memory(format!("what is remembered as {digest} is another connection")));
        }
        self.open(digest.to_owned(), connection)
    }
}

impl Rotation for Postgres {
    fn password_of(
        &self,
        credential: &CredentialName,
        config: &Value,
    ) -> Result<CredentialName, EngineFault> {
        Config::read(credential, config).map(|config| config.password)
    }

    fn account(
        &self,
        credential: &CredentialName,
        config: &Value,
        password: &CredentialName,
    ) -> Option<String> {
        let connection = Config::read(credential, config).ok()?.connection();
        let account = || format!("postgres {}@{}", connection.user, connection.server());
        (connection.password == *password).then(account)
    }

    fn next(&self, credential: &CredentialName, _: &Value) -> Result<Secret, EngineFault> {
        verifier::password().map_err(|_| EngineFault::Outside {
            credential: credential.clone(),
            detail: "the system gives no randomness".to_owned(),
        })
    }

    fn set<'a>(
        &'a self,
        credential: &'a CredentialName,
        config: &'a Value,
        current: &'a Secret,
        next: &'a Secret,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(async move {
            let connection = Config::read(credential, config)?.connection();
            let endpoint = endpoint(credential, &connection)?;
            rotation::set(credential, &endpoint, lane(&connection.server()), current, next).await
        })
    }

    fn test<'a>(
        &'a self,
        credential: &'a CredentialName,
        config: &'a Value,
        candidate: &'a Secret,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<bool, EngineFault>> {
        Box::pin(async move {
            let connection = Config::read(credential, config)?.connection();
            let endpoint = endpoint(credential, &connection)?;
            rotation::test(credential, &endpoint, lane(&connection.server()), candidate).await
        })
    }
}

fn said(credential: &CredentialName, lane: &str, trouble: Trouble) -> EngineFault {
    let credential = credential.clone();
    match trouble {
        Trouble::Unreachable(detail) => EngineFault::Unreachable { lane: lane.to_owned(), detail },
        Trouble::Refused(detail) | Trouble::Dependent(detail) => EngineFault::Outside { credential, detail },
        Trouble::Config(detail) => EngineFault::Config { credential, detail },
        Trouble::Aborted | Trouble::Password => {
            EngineFault::Outside { credential, detail: "it was not done".to_owned() }
        }
    }
}

fn endpoint(credential: &CredentialName, connection: &Connection) -> Result<Endpoint, EngineFault> {
    let fault = |detail| EngineFault::Config { credential: credential.clone(), detail };
    connection.endpoint().map_err(fault)
}

fn lane(server: &str) -> String {
    format!("postgres {server}")
}

fn of(permit: &Permit) -> Result<&CredentialName, EngineFault> {
    let none = || EngineFault::Receipt("the permit is for a target without a credential".to_owned());
    permit.asked().credential.as_ref().ok_or_else(none)
}
