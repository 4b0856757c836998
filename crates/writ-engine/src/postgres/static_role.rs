//! The secrets engine `postgres-static`: a role that exists already, whose password writ owns and changes on a schedule.
//!
//! ```text
//!   rotate   pending durable ─► ALTER ROLE, as the administrator ─► tried by a login ─► the old password is dead
//!   lease    hands out the password of the moment; its end blocks the use, and the next rotation ends the password
//! ```
//!
//! PostgreSQL has one password for a role: a rotation ends every lease on the one before, and there is no time in which both
//! work. With `rotate_on_release` the end of the last lease changes the password at once and ends the role's sessions, so
//! that it ends as `gone`. Absent: making or dropping the role, and what it may do; whoever made it decides that.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use writ_core::{
    BoxFuture, CredentialName, Engine, EngineFault, LeaseId, Login, Minted, Permit, Receipt, Revoked,
    Rotation, Secret, Tools, Ttl,
};

use super::{
    batch::{Fault, answer},
    config::{Connection, identifier},
    connect::Endpoint,
    endpoint, lane, of,
    quote::literal,
    rotation::{set_password, test, troubled},
    session::{Live, once},
    verifier,
};

/// Lends the password of a role that lives on.
pub struct StaticRole;

/// A credential's table `config`: how the server is reached as its administrator, and these.
struct Config {
    connection: Connection,
    own: Own,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The role whose password writ owns.
    role: String,
    /// How long a password stays; for ever where it is left out, or until `writ credential rotate`.
    rotate_every: Option<Ttl>,
    /// The end of the last lease changes the password at once.
    #[serde(default)]
    rotate_on_release: bool,
}

/// What is known of a lease.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lent {
    credential: CredentialName,
    version: u32,
    role: String,
    server: String,
    /// The digest under which the connection is remembered.
    connection: String,
    /// Whether its end takes the password out of force.
    release: bool,
}

/// The keys of [`Own`].
const OWN: [&str; 3] = ["role", "rotate_every", "rotate_on_release"];

impl Config {
    fn read(credential: &CredentialName, config: &Value) -> Result<Self, EngineFault> {
        let fault = |detail: String| EngineFault::Config { credential: credential.clone(), detail };
        let Value::Object(all) = config.clone() else { return Err(fault("it is no table".to_owned())) };
        let (own, mut rest): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
            all.into_iter().partition(|(key, _)| OWN.contains(&key.as_str()));
        let own = Own::deserialize(Value::Object(own)).map_err(|error| fault(error.to_string()))?;
        identifier("role", &own.role).map_err(fault)?;
        if rest.contains_key("owned") {
            return Err(fault("unknown field `owned`: the role is never dropped".to_owned()));
        }
        rest.entry("tls").or_insert_with(|| json!("verify-full"));
        rest.insert("owned".to_owned(), json!("drop"));
        let connection =
            Connection::deserialize(Value::Object(rest)).map_err(|error| fault(error.to_string()))?;
        identifier("database", &connection.database).map_err(fault)?;
        identifier("user", &connection.user).map_err(fault)?;
        connection.endpoint().map_err(fault)?;
        if own.role == connection.user {
            return Err(fault("`role` is the administrator: rotate that one by its own name".to_owned()));
        }
        if connection.password == *credential {
            return Err(fault("`password` is the administrator's, another credential".to_owned()));
        }
        Ok(Self { connection, own })
    }

    /// How the role itself logs in.
    fn endpoint(&self, credential: &CredentialName) -> Result<Endpoint, EngineFault> {
        Ok(Endpoint { user: self.own.role.clone(), ..endpoint(credential, &self.connection)? })
    }
}

impl Lent {
    fn read(receipt: &Receipt) -> Result<Self, EngineFault> {
        Self::deserialize(&receipt.0).map_err(|fault| EngineFault::Receipt(fault.to_string()))
    }

    /// Ends the sessions of the role, whose password is another now.
    async fn end_sessions(&self, tools: &dyn Tools) -> Result<(), EngineFault> {
        let forgotten = || EngineFault::Memory(format!("the connection {} is not known", self.connection));
        let value = tools.recall(&self.connection).await?.ok_or_else(forgotten)?;
        let connection =
            Connection::deserialize(value).map_err(|fault| EngineFault::Memory(fault.to_string()))?;
        let live = as_administrator(&self.credential, &connection, tools).await?;
        end_sessions(&live, &self.role).await.map_err(|fault| {
            let (Fault::Lost(trouble) | Fault::Said(trouble)) = fault;
            troubled(&self.credential, lane(&connection.server()), trouble)
        })
    }
}

/// A connection of its own.
async fn as_administrator(
    credential: &CredentialName,
    connection: &Connection,
    tools: &dyn Tools,
) -> Result<Live, EngineFault> {
    let password = tools.current(&connection.password).await?;
    let endpoint = endpoint(credential, connection)?;
    let trouble = |trouble| troubled(credential, lane(&connection.server()), trouble);
    once(&endpoint, &password).await.map_err(trouble)
}

async fn end_sessions(live: &Live, role: &str) -> Result<(), Fault> {
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = {}",
        literal(role)
    );
    answer(live.client.simple_query(&sql)).await.map(drop)
}

impl Engine for StaticRole {
    fn name(&self) -> &'static str {
        "postgres-static"
    }

    fn check(&self, credential: &CredentialName, config: &Value) -> Result<(), EngineFault> {
        Config::read(credential, config).map(drop)
    }

    fn plan<'a>(
        &'a self,
        permit: &'a Permit,
        _: LeaseId,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move {
            let credential = of(permit)?.clone();
            let Config { connection, own } = Config::read(&credential, config)?;
            let version = tools.latest(&credential).await?;
            let digest = connection.digest();
            let value =
                serde_json::to_value(&connection).map_err(|fault| EngineFault::Memory(fault.to_string()))?;
            tools.remember(&digest, value).await?;
            let lent = Lent {
                credential,
                version,
                role: own.role,
                server: connection.server(),
                connection: digest,
                release: own.rotate_on_release,
            };
            serde_json::to_value(lent).map(Receipt).map_err(|fault| EngineFault::Receipt(fault.to_string()))
        })
    }

    fn lane(&self, receipt: &Receipt) -> String {
        Lent::read(receipt).map_or_else(|_| self.name().to_owned(), |lent| lane(&lent.server))
    }

    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        receipt: &'a Receipt,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(async move {
            let lent = Lent::read(receipt)?;
            let permitted = of(permit)?;
            if lent.credential != *permitted {
                let detail = format!("it is of {}, the permit of {permitted}", lent.credential);
                return Err(EngineFault::Receipt(detail));
            }
            let Config { connection, own } = Config::read(permitted, config)?;
            if own.role != lent.role || connection.digest() != lent.connection {
                let detail =
                    "the credential is of another server or role than when it was planned".to_owned();
                return Err(EngineFault::Config { credential: permitted.clone(), detail });
            }
            let secret = tools.value(permitted, lent.version).await?;
            let login = Some(Login { user: lent.role, database: connection.database });
            Ok(Minted { secret, version: lent.version, login, receipt: None })
        })
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move {
            let lent = Lent::read(receipt)?;
            // A value that was removed is lent to nobody any more, and stays what it was upstream.
            let newest = match tools.latest(&lent.credential).await {
                Ok(newest) => newest,
                Err(EngineFault::NoValue { .. }) => return Ok(Revoked::UseBlocked),
                Err(fault) => return Err(fault),
            };
            if newest > lent.version {
                return Ok(Revoked::Gone);
            }
            if !lent.release || !tools.release(&lent.credential, lent.version).await? {
                return Ok(Revoked::UseBlocked);
            }
            lent.end_sessions(tools).await?;
            Ok(Revoked::Gone)
        })
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
            "role": "reporting",
            "rotate_every": "24h",
        })
    }
}

impl Rotation for StaticRole {
    fn password_of(
        &self,
        credential: &CredentialName,
        config: &Value,
    ) -> Result<CredentialName, EngineFault> {
        Config::read(credential, config).map(|_| credential.clone())
    }

    fn account(
        &self,
        credential: &CredentialName,
        config: &Value,
        password: &CredentialName,
    ) -> Option<String> {
        let Config { connection, own } = Config::read(credential, config).ok()?;
        let user = if password == credential {
            &own.role
        } else if *password == connection.password {
            &connection.user
        } else {
            return None;
        };
        Some(format!("postgres {user}@{}", connection.server()))
    }

    fn every(&self, credential: &CredentialName, config: &Value) -> Option<Ttl> {
        Config::read(credential, config).ok()?.own.rotate_every
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
        _: &'a Secret,
        next: &'a Secret,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(async move {
            let Config { connection, own } = Config::read(credential, config)?;
            let live = as_administrator(credential, &connection, tools).await?;
            // A session of the role that is changing its own password would keep this one waiting. An administrator who may not
            // end it is told so by what follows, where it matters.
            drop(end_sessions(&live, &own.role).await);
            let mut done = set_password(&live.client, &own.role, next).await;
            if done.is_err() {
                // One that came in between is ended as well.
                drop(end_sessions(&live, &own.role).await);
                done = set_password(&live.client, &own.role, next).await;
            }
            done.map_err(|detail| EngineFault::Outside { credential: credential.clone(), detail })
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
            let config = Config::read(credential, config)?;
            let endpoint = config.endpoint(credential)?;
            test(credential, &endpoint, lane(&config.connection.server()), candidate).await
        })
    }
}
