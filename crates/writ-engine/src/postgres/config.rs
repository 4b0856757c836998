//! What an operator says about a database, and what of it is remembered for as long as a login may have to be removed.
//!
//! Two things are kept apart: the [`Config`] of a credential, which may change from one day to the next, and the
//! [`Connection`], under which logins were made and must be removed even after the configuration has gone. A receipt names
//! its connection by digest. Neither holds a secret: `password` is the name of another credential.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use writ_core::{CredentialName, EngineFault};

use super::{
    connect::{Endpoint, Tls},
    quote::{IDENTIFIER_MAX, hex},
};

/// Roles that one credential may make its logins members of.
const TEMPLATES_MAX: usize = 16;
/// Sessions that one login may have open at once, where nothing else is said: what a driver's pool takes.
const CONNECTION_LIMIT: u32 = 20;
/// The most that may be said instead.
const CONNECTION_LIMIT_MAX: u32 = 10_000;
/// Bytes of a digest that a receipt carries.
const DIGEST_LEN: usize = 8;
/// Where PostgreSQL listens if nothing is said.
const PORT: u16 = 5432;

/// A credential's table `config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// `host:port`; the port is 5432 where none is named. The host is the name that the certificate must bear.
    server: String,
    /// The address and port to connect to, where that is not what the name of the server says.
    dial: Option<SocketAddr>,
    /// The database that the login is for.
    database: String,
    /// The administrator: a role that may create roles and grant those of `member_of`.
    user: String,
    /// The stored credential that is the administrator's password.
    pub(super) password: CredentialName,
    /// What a login may do: it is a member of these roles, and of nothing else.
    pub(super) member_of: Vec<String>,
    #[serde(default)]
    tls: Mode,
    /// PEM; the system's roots where it is left out.
    tls_ca: Option<String>,
    /// Sessions that one login may have open at once.
    #[serde(default = "connection_limit")]
    pub(super) connection_limit: u32,
    /// What becomes of what a login made: `drop`, or `reassign:ROLE`.
    #[serde(default)]
    owned: Owned,
    /// Accepts roles in `member_of` that could free a login of its bounds, such as one that may create roles.
    #[serde(default)]
    pub(super) allow_privileged: bool,
}

fn connection_limit() -> u32 {
    CONNECTION_LIMIT
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// TLS, and the server's certificate is for its name.
    #[default]
    VerifyFull,
    /// None: only to a loopback address.
    Disable,
}

/// What becomes of the tables and other objects that a login made, when it is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Owned {
    /// They are dropped with it. What others built upon goes to a role of writ's own that may nothing.
    #[default]
    Drop,
    /// They go to this role, one of `member_of`: what a login wrote may run as whoever owns it (views, triggers), and as its
    /// template it could have written it anyway.
    Reassign(String),
}

impl TryFrom<String> for Owned {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "drop" => Ok(Self::Drop),
            Some(("reassign", role)) => identifier("owned", role).map(|()| Self::Reassign(role.to_owned())),
            _ => Err("`owned` is \"drop\" or \"reassign:ROLE\"".to_owned()),
        }
    }
}

impl From<Owned> for String {
    fn from(owned: Owned) -> Self {
        match owned {
            Owned::Drop => "drop".to_owned(),
            Owned::Reassign(role) => format!("reassign:{role}"),
        }
    }
}

/// How a server is reached, and what is done there with what a login leaves behind. Remembered under its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connection {
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dial: Option<SocketAddr>,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: CredentialName,
    tls: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_ca: Option<String>,
    pub(super) owned: Owned,
}

impl Config {
    /// Reads and judges a configuration, without touching the network.
    ///
    /// # Errors
    /// [`EngineFault::Config`] names the key.
    pub(super) fn read(credential: &CredentialName, config: &Value) -> Result<Self, EngineFault> {
        let fault = |detail: String| EngineFault::Config { credential: credential.clone(), detail };
        let config = Self::deserialize(config).map_err(|error| fault(error.to_string()))?;
        config.judge().map_err(fault)?;
        Ok(config)
    }

    fn judge(&self) -> Result<(), String> {
        identifier("database", &self.database)?;
        identifier("user", &self.user)?;
        if self.member_of.is_empty() || self.member_of.len() > TEMPLATES_MAX {
            return Err(format!("`member_of` names 1 to {TEMPLATES_MAX} roles"));
        }
        self.member_of.iter().try_for_each(|role| identifier("member_of", role))?;
        if let Owned::Reassign(role) = &self.owned
            && !self.member_of.contains(role)
        {
            let why = "what a login made would gain the rights of its new owner";
            return Err(format!("`owned` gives to {role:?}, which is not in `member_of`: {why}"));
        }
        if !(1..=CONNECTION_LIMIT_MAX).contains(&self.connection_limit) {
            return Err(format!("`connection_limit` is 1 to {CONNECTION_LIMIT_MAX}"));
        }
        self.connection().endpoint().map(drop)
    }

    /// What is to be remembered of it.
    pub(super) fn connection(&self) -> Connection {
        Connection {
            server: self.server.clone(),
            dial: self.dial,
            database: self.database.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            tls: self.tls,
            tls_ca: self.tls_ca.clone(),
            owned: self.owned.clone(),
        }
    }
}

impl Connection {
    /// The first 16 hexadecimal digits of SHA-256 over its JSON.
    pub(super) fn digest(&self) -> String {
        // A value of strings always becomes JSON; keys come in the order of the fields.
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex(digest(&SHA256, &text).as_ref().get(..DIGEST_LEN).unwrap_or_default())
    }

    /// `HOST:PORT`, in one spelling.
    pub(super) fn server(&self) -> String {
        match host_and_port(&self.server) {
            Ok((host, port)) if host.contains(':') => format!("[{host}]:{port}"),
            Ok((host, port)) => format!("{host}:{port}"),
            Err(_) => self.server.clone(),
        }
    }

    /// How to connect.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        let (host, port) = host_and_port(&self.server)?;
        let tls = match self.tls {
            Mode::VerifyFull => Tls::VerifyFull(self.tls_ca.clone()),
            Mode::Disable => {
                let address = host.parse::<IpAddr>().ok();
                let local = match self.dial {
                    Some(dial) => dial.ip().is_loopback(),
                    None => host == "localhost" || address.is_some_and(|address| address.is_loopback()),
                };
                if !local {
                    let only = "only for a server on a loopback address";
                    return Err(format!("`tls` is \"disable\" {only}: use \"verify-full\""));
                }
                Tls::Disable
            }
        };
        let (database, user) = (self.database.clone(), self.user.clone());
        let endpoint = Endpoint { host, port, dial: self.dial, database, user, tls };
        endpoint.check().map_err(|detail| format!("`tls_ca`: {detail}"))?;
        Ok(endpoint)
    }
}

/// `host`, `host:port` or `[v6]:port`.
fn host_and_port(server: &str) -> Result<(String, u16), String> {
    let wrong = |why: &str| Err(format!("`server` is not host:port: {why}"));
    if server.starts_with(['/', '@']) {
        return wrong("a directory of Unix sockets cannot be relayed to a session, name a host");
    }
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<IpAddr>().is_ok() => (host, rest.strip_prefix(':')),
        Some(_) => return wrong("there is no IPv6 address between the brackets"),
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    let named = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'));
    if !named {
        return wrong("the host is not a DNS name or an address");
    }
    match port.map(str::parse) {
        None => Ok((host.to_ascii_lowercase(), PORT)),
        Some(Ok(port)) if port > 0 => Ok((host.to_ascii_lowercase(), port)),
        Some(_) => wrong("the port is not a number from 1 to 65535"),
    }
}

/// PostgreSQL cuts longer names without a word, and ends them at a NUL.
pub(super) fn identifier(key: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > IDENTIFIER_MAX || name.contains('\0') {
        return Err(format!("`{key}` is a name of 1 to {IDENTIFIER_MAX} bytes without NUL"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> Value {
        json!({
            "server": "db.example:5432", "database": "orders", "user": "writ_admin",
            "password": "orders-admin", "member_of": ["orders_read"],
        })
    }

    fn read(change: Value) -> Result<Config, String> {
        let mut config = example();
        let Value::Object(change) = change else { panic!("a change is an object") };
        config.as_object_mut().unwrap().extend(change);
        Config::read(&"orders".parse().unwrap(), &config).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        for (change, key) in [
            (json!({ "server": "/var/run/postgresql" }), "`server`"),
            (json!({ "server": "" }), "`server`"),
            (json!({ "server": "db.example:0" }), "`server`"),
            (json!({ "server": "db.example:65536" }), "`server`"),
            (json!({ "server": "postgres://db.example" }), "`server`"),
            (json!({ "server": "user@db.example" }), "`server`"),
            (json!({ "server": "[db.example]:1" }), "`server`"),
            (json!({ "tls": "disable" }), "`tls`"),
            (json!({ "server": "127.0.0.1.evil.example", "tls": "disable" }), "`tls`"),
            (json!({ "server": "localhost", "dial": "10.0.0.1:5432", "tls": "disable" }), "`tls`"),
            (json!({ "tls": "prefer" }), "prefer"),
            (json!({ "tls_ca": "no certificate" }), "`tls_ca`"),
            (json!({ "database": "" }), "`database`"),
            (json!({ "user": "a\0b" }), "`user`"),
            (json!({ "member_of": [] }), "`member_of`"),
            (json!({ "member_of": ["x".repeat(64)] }), "`member_of`"),
            (json!({ "connection_limit": 0 }), "`connection_limit`"),
            (json!({ "owned": "keep" }), "`owned`"),
            (json!({ "owned": "reassign:" }), "`owned`"),
            (json!({ "owned": "reassign:writ_admin" }), "`owned`"),
            (json!({ "password": "Not A Name" }), "Not A Name"),
            (json!({ "passwort": "x" }), "passwort"),
        ] {
            let fault = read(change.clone()).unwrap_err();
            assert!(fault.contains(key), "{change}: {fault}");
        }
    }

    #[test]
    fn what_is_right_is_read() {
        for change in [
            json!({}),
            json!({ "server": "db.example" }),
            json!({ "server": "[::1]:5433", "tls": "disable" }),
            json!({ "server": "127.0.0.1:5433", "tls": "disable" }),
            json!({ "server": "localhost", "tls": "disable" }),
            json!({ "dial": "127.0.0.1:5433", "tls": "disable" }),
            json!({ "owned": "reassign:owner of \"it\"", "member_of": ["x", "owner of \"it\""] }),
            json!({ "member_of": ["x".repeat(63), "ünïcødé", "select"] }),
        ] {
            read(change.clone()).unwrap_or_else(|fault| panic!("{change}: {fault}"));
        }
        assert_eq!(read(json!({ "server": "DB.example" })).unwrap().connection().server(), "db.example:5432");
    }

    #[test]
    fn a_connection_is_known_again_by_its_digest() {
        let connection = read(json!({})).unwrap().connection();
        let stored: Connection = serde_json::from_value(serde_json::to_value(&connection).unwrap()).unwrap();
        assert_eq!(stored, connection);
        assert_eq!(stored.digest(), connection.digest());
        assert_eq!(connection.digest().len(), 2 * DIGEST_LEN);
        for change in [
            json!({ "server": "other.example" }),
            json!({ "database": "other" }),
            json!({ "user": "other" }),
            json!({ "password": "other" }),
            json!({ "owned": "reassign:orders_read" }),
        ] {
            assert_ne!(read(change).unwrap().connection().digest(), connection.digest());
        }
        assert_eq!(
            read(json!({ "member_of": ["other"] })).unwrap().connection().digest(),
            connection.digest()
        );
    }
}
