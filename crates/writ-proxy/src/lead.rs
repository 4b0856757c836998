//! Lead: where a connection goes, by the name and the port that it was opened to.
//!
//! ```text
//!   a target                     TLS ends here, and each request is judged
//!   a target with `tunnel`       its bytes pass untouched
//!   a quiet host                 TLS ends here, and each request is refused in HTTP
//!   any other, egress = public   its bytes pass untouched, to public addresses and without a credential
//!   any other                    refused, recorded, and the launcher is told once
//! ```
//!
//! Every kind of door comes through here, so that a program is served alike whether it knows of proxies or not.

use std::{net::SocketAddr, sync::Arc};

use writ_core::{Authority, CAPTURED_PORTS, Egress, RefusalKind};

use crate::{
    record::Toward,
    refuse::Refused,
    session::{Route, Session},
    tunnel::Site,
};

/// The port of plain HTTP.
pub(crate) const HTTP: u16 = 80;
/// The port of `https`.
pub(crate) const HTTPS: u16 = 443;
/// The port of SSH.
pub(crate) const SSH: u16 = 22;

/// Where a connection goes.
pub(crate) enum Lead {
    /// TLS ends here.
    Serve(Site),
    /// Its bytes pass.
    Pass(Passage),
}

/// Where bytes pass to, untouched.
#[derive(Clone)]
pub(crate) enum Passage {
    /// A target with `tunnel`.
    Target(Arc<Route>),
    /// A public host that no target names.
    Public(Authority),
    /// A public address that no name was asked for.
    Address(SocketAddr),
    /// The same port of the host's loopback.
    Local(u16),
}

impl Passage {
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Target(route) => route.plan.authority.host().to_string(),
            Self::Public(authority) => authority.host().to_string(),
            Self::Address(address) => address.ip().to_string(),
            Self::Local(_) => "localhost".to_owned(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Target(route) => route.plan.authority.port(),
            Self::Public(authority) => authority.port(),
            Self::Address(address) => address.port(),
            Self::Local(port) => *port,
        }
    }

    /// The name that SNI must give, where TLS is what passes.
    pub(crate) fn sni(&self) -> Option<&writ_core::Host> {
        let authority = match self {
            Self::Target(route) => &route.plan.authority,
            Self::Public(authority) => authority,
            Self::Address(_) | Self::Local(_) => return None,
        };
        (authority.port() == HTTPS).then(|| authority.host())
    }
}

/// Where a connection to `authority` goes.
pub(crate) fn by_name(session: &Session, authority: &Authority) -> Result<Lead, Refused> {
    if let Some(routes) = session.routes(authority) {
        return Ok(match routes.iter().find(|route| route.plan.tunnel) {
            Some(route) => Lead::Pass(Passage::Target(route.clone())),
            None => Lead::Serve(Site::Listed(routes.clone())),
        });
    }
    let (host, port) = (authority.host(), authority.port());
    if session.is_quiet(host) {
        return match port {
            HTTP | SSH => Err(unlisted(session, &authority.to_string(), host.as_str(), port)),
            _ => Ok(Lead::Serve(Site::Quiet(authority.clone()))),
        };
    }
    // What a target has over https does not go in the clear beside it.
    let downgrade = port == HTTP && session.serves(host);
    if session.egress == Egress::Public && CAPTURED_PORTS.contains(&port) && !downgrade {
        return Ok(Lead::Pass(Passage::Public(authority.clone())));
    }
    Err(if port == HTTP {
        in_the_clear(session, host.as_str())
    } else {
        unlisted(session, &authority.to_string(), host.as_str(), port)
    })
}

/// Where a connection to an address goes that stands for no name.
pub(crate) fn by_address(session: &Session, address: SocketAddr) -> Result<Lead, Refused> {
    if session.egress == Egress::Public {
        return Ok(Lead::Pass(Passage::Address(address)));
    }
    let detail = format!("{} is an address, and writ serves names", address.ip());
    let next =
        "ask for the host by its name; the operator can open public addresses with `egress = \"public\"`";
    let alarm = format!(
        "a connection to the address {address} was refused: writ serves names. To allow public addresses, set egress = \"public\""
    );
    Err(Refused::new(RefusalKind::UnlistedHost, detail, next).with_alarm(alarm))
}

/// The scheme in the record of a connection to this port.
pub(crate) const fn scheme(port: u16) -> &'static str {
    match port {
        HTTP => "http",
        HTTPS => "https",
        SSH => "ssh",
        _ => "tcp",
    }
}

/// A connection to a name or an address, in the words of the record.
pub(crate) fn toward(host: &str, port: u16) -> Toward<'_> {
    Toward { scheme: scheme(port), host, port: Some(port) }
}

fn unlisted(session: &Session, authority: &str, host: &str, port: u16) -> Refused {
    let line = allow(host, port);
    let detail = format!("{authority} is not listed for the role of this session");
    let next = format!("ask the operator to {line}");
    let alarm = format!("{authority} is not listed for role {}: refused. To allow it, {line}", session.role);
    Refused::new(RefusalKind::UnlistedHost, detail, next).with_alarm(alarm)
}

fn in_the_clear(session: &Session, host: &str) -> Refused {
    let detail = format!("{host} was asked for in plain HTTP, and writ carries https only");
    let next = format!("use https://{host}/ instead");
    let alarm = format!(
        "plain HTTP to {host} was refused for role {}: writ carries https only. To allow it, set egress = \"public\"",
        session.role
    );
    Refused::new(RefusalKind::UnlistedHost, detail, next).with_alarm(alarm)
}

/// The line of the configuration that would allow it.
fn allow(host: &str, port: u16) -> String {
    let (host, tunnel) = match port {
        HTTPS => (host.to_owned(), ""),
        _ => (format!("{host}:{port}"), ", tunnel = true"),
    };
    let public = match CAPTURED_PORTS.contains(&port) {
        true => ", or set egress = \"public\"",
        false => "",
    };
    format!("add a [[target]] with host = \"{host}\"{tunnel} and grant it to the role{public}")
}
