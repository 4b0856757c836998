//! A broker with one administrator's password, and agents with sessions.

use std::{
    collections::BTreeMap,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use serde_json::Value;
use tokio_postgres::Client;
use writ_core::{
    Action, Asked, BoxFuture, Context, CredentialName, Decision, Engine, EngineFault, LeaseId, Level, Login,
    Permit, Policy, PolicyFault, Principal, Receipt, Revoked, Scope, Secret, SessionId, Timestamp, Tools,
    Ttl, authorize,
};
use writ_engine::postgres::{Tls, connect, connect::Endpoint};

use crate::support::{Place, place};

pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Allow;

impl Policy for Allow {
    fn decide(&self, _: &Principal, _: &Asked, _: &Context) -> Result<Decision, PolicyFault> {
        let scope = Scope { authority: "db.example".parse().unwrap(), grants: Vec::new() };
        Ok(Decision::Allow { scope, ttl: Ttl::from_secs(900).unwrap(), rule: "test".into() })
    }
}

pub fn permit() -> Permit {
    let principal = Principal {
        workload: "spiffe://writ.local/agent/x".parse().unwrap(),
        session: SessionId::new(NOW, &[1; 10]),
        role: "dev".parse().unwrap(),
    };
    let asked = Asked {
        action: Action::Reveal,
        target: "orders".parse().unwrap(),
        credential: Some("orders".parse().unwrap()),
    };
    let context = Context {
        now: NOW,
        level: Level::Advisory,
        requester: "ada".into(),
        prompt_sha256: None,
        session_expires_at: NOW.saturating_add(Ttl::from_secs(3600).unwrap()),
    };
    authorize(&Allow, &principal, &asked, &context).unwrap()
}

/// What the broker lends.
pub struct Broker {
    mark: String,
    pub password: Mutex<String>,
    pub fetched: AtomicU32,
    memory: Mutex<BTreeMap<String, Value>>,
    now: AtomicI64,
}

impl Broker {
    pub fn new(password: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self {
            mark: format!("{:08x}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            password: Mutex::new(password.to_owned()),
            fetched: AtomicU32::new(0),
            memory: Mutex::default(),
            now: AtomicI64::new(NOW.millis()),
        }
    }

    pub fn set_now(&self, now: Timestamp) {
        self.now.store(now.millis(), Ordering::Relaxed);
    }
}

impl Tools for Broker {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed))
    }

    fn mark(&self) -> String {
        self.mark.clone()
    }

    fn current(&self, credential: &CredentialName) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        assert_eq!(credential.as_str(), "orders-admin");
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let password = self.password.lock().unwrap().clone();
        Box::pin(async move { Ok(Secret::new(password.into_bytes())) })
    }

    fn remember(&self, key: &str, value: Value) -> BoxFuture<'_, Result<(), EngineFault>> {
        self.memory.lock().unwrap().insert(key.to_owned(), value);
        Box::pin(async { Ok(()) })
    }

    fn recall(&self, key: &str) -> BoxFuture<'_, Result<Option<Value>, EngineFault>> {
        let value = self.memory.lock().unwrap().get(key).cloned();
        Box::pin(async move { Ok(value) })
    }

    fn latest(&self, _: &CredentialName) -> BoxFuture<'_, Result<u32, EngineFault>> {
        panic!("no static value is asked for")
    }

    fn value(&self, _: &CredentialName, _: u32) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        panic!("no static value is asked for")
    }

    fn read(&self, _: &CredentialName, _: &str) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        panic!("no source is asked for")
    }
}

/// A place at a server, a broker, and its engine.
pub struct Bench {
    pub place: Place,
    pub broker: Broker,
    pub engine: Arc<dyn Engine>,
    number: AtomicU32,
}

/// A login that was made.
pub struct Issued {
    pub receipt: Receipt,
    pub login: Login,
    pub password: String,
}

impl Bench {
    pub fn new() -> Self {
        Self::at(place())
    }

    pub fn at(place: Place) -> Self {
        let broker = Broker::new(&place.password);
        Self { place, broker, engine: engine(), number: AtomicU32::new(0) }
    }

    /// The same with other words of its configuration.
    pub fn with(mut self, change: Value) -> Self {
        let Value::Object(change) = change else { panic!("a change is an object") };
        self.place.config.as_object_mut().unwrap().extend(change);
        self
    }

    pub fn lease(&self) -> LeaseId {
        let [.., a, b] = self.number.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        LeaseId::new(NOW, &[a, b, 2, 2, 2, 2, 2, 2, a, b])
    }

    pub async fn plan(&self) -> Receipt {
        self.engine.plan(&permit(), self.lease(), &self.place.config, &self.broker).await.unwrap()
    }

    pub async fn mint(&self, receipt: &Receipt) -> Result<Issued, EngineFault> {
        let minted = self.engine.mint(&permit(), receipt, &self.place.config, &self.broker).await?;
        Ok(Issued {
            receipt: minted.receipt.unwrap(),
            login: minted.login.unwrap(),
            password: String::from_utf8(minted.secret.expose().to_vec()).unwrap(),
        })
    }

    pub async fn issue(&self) -> Issued {
        self.mint(&self.plan().await).await.unwrap()
    }

    pub async fn revoke(&self, receipt: &Receipt) -> Result<Revoked, EngineFault> {
        self.engine.revoke(receipt, &self.broker).await
    }

    /// SQL as the administrator of the whole server, in the place's database.
    pub fn admin(&self, sql: &str) -> String {
        self.place.server.run(&self.place.database, sql).unwrap()
    }

    /// SQL by way of `psql`, as the agent would.
    pub fn psql(&self, issued: &Issued, sql: &str) -> Output {
        let server = self.place.server;
        server.psql(&issued.login.user, &issued.password, &issued.login.database, sql).unwrap()
    }

    /// A session of the agent that stays open.
    pub async fn session(&self, issued: &Issued) -> Client {
        self.session_in(issued, &issued.login.database).await
    }

    pub async fn session_in(&self, issued: &Issued, database: &str) -> Client {
        let endpoint = Endpoint { user: issued.login.user.clone(), ..self.endpoint(database) };
        let password = Secret::new(issued.password.clone().into_bytes());
        let (client, link) = connect(&endpoint, Some(&password), "agent").await.unwrap();
        tokio::spawn(async move { drop(link.await) });
        client
    }

    pub fn endpoint(&self, database: &str) -> Endpoint {
        let config = &self.place.config;
        Endpoint {
            host: "db.example".to_owned(),
            port: self.place.server.port(),
            dial: Some(config["dial"].as_str().unwrap().parse().unwrap()),
            database: database.to_owned(),
            user: config["user"].as_str().unwrap().to_owned(),
            tls: Tls::VerifyFull(Some(config["tls_ca"].as_str().unwrap().to_owned())),
        }
    }

    /// How many roles this installation has at the server.
    pub fn roles(&self) -> String {
        self.admin(&format!(
            "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'writ_{}_')",
            self.broker.mark
        ))
    }

    /// Sessions of whoever bears this number or this name.
    pub fn sessions(&self, issued: &Issued) -> String {
        let oid = &issued.receipt.0["oid"];
        self.admin(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usesysid = {oid} OR usename = '{}'",
            issued.login.user
        ))
    }
}

pub fn engine() -> Arc<dyn Engine> {
    writ_engine::engine("postgres").unwrap()
}

/// The server's code of what went wrong.
pub async fn refused(client: &Client, sql: &str) -> String {
    let fault = client.batch_execute(sql).await.expect_err(sql);
    fault.code().unwrap_or_else(|| panic!("{sql}: {fault}")).code().to_owned()
}

/// A receipt as if minting had never answered.
pub fn without_oid(receipt: &Receipt) -> Receipt {
    let mut value = receipt.0.clone();
    value.as_object_mut().unwrap().remove("oid");
    Receipt(value)
}
