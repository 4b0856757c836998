//! Which sockets may be a session's doors, by the kernel's word for each.
//!
//! ```text
//!   below confined   one proxy door: a TCP listener on loopback, and a password, since others of the machine reach it as well;
//!                    and one for each server whose login the program holds: whoever finds that still needs a login
//!   confined         every socket in one network namespace that is not ours and no other session's, and no password: nobody
//!                    else is there, so the door is the identity
//! ```
//!
//! A launcher says what each descriptor is; what it says must be true of the socket. The namespace is told by its cookie, which
//! the kernel gives out once. Doors that come later belong to addresses and ports that this session's plan allows.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketType, getsockname, ipproto, sockopt};
use writ_core::{Authority, CAPTURED_PORTS, DOORS_MAX, Door, Level, NamedAddress, Refusal, RefusalKind};

/// The doors that a session has, and may have.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// The cookie of the session's network namespace; `None` below `confined`.
    network: Option<u64>,
    count: usize,
    pub(super) named: Vec<NamedAddress>,
    pub(super) local: Vec<u16>,
    /// Servers for which the program holds a login: below `confined` it reaches them through doors on loopback.
    pub(super) login: Vec<Authority>,
}

/// SHA-256, hexadecimal.
const SHA256_HEX: usize = 64;

impl Doors {
    /// Judges the doors with which a session opens.
    ///
    /// # Errors
    /// [`RefusalKind::Invalid`] with what is wrong.
    pub(super) fn open(
        level: Level,
        password_sha256: Option<&str>,
        doors: &[(Door, OwnedFd)],
    ) -> Result<Self, Refusal> {
        if doors.len() > DOORS_MAX {
            return Err(invalid("a session has too many doors"));
        }
        let network = if level == Level::Confined {
            if password_sha256.is_some() {
                return Err(invalid("a confined session has no password: its doors are its identity"));
            }
            Some(confined(doors)?)
        } else {
            unconfined(password_sha256, doors)?;
            None
        };
        Ok(Self { network, count: doors.len(), ..Self::default() })
    }

    /// Judges doors that come later.
    ///
    /// # Errors
    /// [`RefusalKind::Invalid`] with what is wrong: the session cannot go on.
    pub(crate) fn extend(&mut self, doors: &[(Door, OwnedFd)]) -> Result<(), Refusal> {
        self.count = self.count.saturating_add(doors.len());
        if self.count > DOORS_MAX {
            return Err(invalid("a session has too many doors"));
        }
        for (door, socket) in doors {
            if !self.allows(door, address(socket.as_fd())) || !listens(socket.as_fd()) {
                return Err(invalid("a door is not one that this session may add"));
            }
            if self.network.is_some_and(|network| cookie(socket).ok() != Some(network)) {
                return Err(invalid("a door is in another network namespace than the session's"));
            }
        }
        Ok(())
    }

    /// The session's network namespace.
    pub(super) fn network(&self) -> Option<u64> {
        self.network
    }

    fn allows(&self, door: &Door, at: Option<SocketAddr>) -> bool {
        let Some(at) = at else { return false };
        match door {
            Door::Named { authority } if self.network.is_none() => {
                self.login.contains(authority) && at.ip().is_loopback()
            }
            Door::Local { port } => {
                self.network.is_some()
                    && self.local.contains(port)
                    && at.ip().is_loopback()
                    && at.port() == *port
            }
            Door::Named { authority } => {
                let one = self.named.iter().find(|one| one.authority == *authority);
                one.is_some_and(|one| one.addresses.contains(&at.ip()) && at.port() == authority.port())
            }
            Door::Proxy | Door::Capture { .. } | Door::DnsUdp | Door::DnsTcp => false,
        }
    }
}

/// One listener on loopback and a password.
fn unconfined(password_sha256: Option<&str>, doors: &[(Door, OwnedFd)]) -> Result<(), Refusal> {
    let hexadecimal = |hash: &str| hash.len() == SHA256_HEX && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if !password_sha256.is_some_and(hexadecimal) {
        return Err(invalid("the password's hash is missing or malformed"));
    }
    match doors {
        [(Door::Proxy, socket)] if fits(&Door::Proxy, socket.as_fd()) => Ok(()),
        [(Door::Proxy, _)] => Err(invalid("the descriptor is not a listening TCP socket on loopback")),
        _ => Err(invalid("below confined a session has exactly one door, of kind proxy")),
    }
}

/// Each is what it is called, and all are in one foreign namespace, whose cookie is returned.
fn confined(doors: &[(Door, OwnedFd)]) -> Result<u64, Refusal> {
    if !doors.iter().any(|(door, _)| *door == Door::Proxy) {
        return Err(invalid("a session needs a door of kind proxy"));
    }
    let mut network = None;
    for (door, socket) in doors {
        if !fits(door, socket.as_fd()) {
            return Err(invalid("a door's descriptor is not the socket that it is called"));
        }
        let cookie = cookie(socket)?;
        if *network.get_or_insert(cookie) != cookie {
            return Err(invalid("the doors of a session are in several network namespaces"));
        }
    }
    let network = network.ok_or_else(|| invalid("a session needs a door of kind proxy"))?;
    if network == own()? {
        return Err(invalid("a confined session's doors must be in a network namespace of its own"));
    }
    Ok(network)
}

/// Whether a socket is what a door of an opening session must be. Those that only an open session may add never are.
fn fits(door: &Door, socket: BorrowedFd<'_>) -> bool {
    let Some(at) = address(socket) else { return false };
    match door {
        Door::Proxy => listens(socket) && at.ip().is_loopback(),
        Door::Capture { port } => {
            CAPTURED_PORTS.contains(port) && listens(socket) && at.ip().is_unspecified() && at.port() == *port
        }
        Door::DnsUdp => is(socket, SocketType::DGRAM, ipproto::UDP) && at.port() != 0,
        Door::DnsTcp => listens(socket),
        Door::Local { .. } | Door::Named { .. } => false,
    }
}

fn listens(socket: BorrowedFd<'_>) -> bool {
    is(socket, SocketType::STREAM, ipproto::TCP) && sockopt::socket_acceptconn(socket) == Ok(true)
}

fn is(socket: BorrowedFd<'_>, kind: SocketType, protocol: rustix::net::Protocol) -> bool {
    matches!(sockopt::socket_domain(socket), Ok(AddressFamily::INET | AddressFamily::INET6))
        && sockopt::socket_type(socket) == Ok(kind)
        && sockopt::socket_protocol(socket) == Ok(Some(protocol))
}

fn address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok())
}

fn cookie(socket: &OwnedFd) -> Result<u64, Refusal> {
    writ_sys::netns_cookie(socket).map_err(|fault| unknown(&fault))
}

/// The cookie of our own namespace.
fn own() -> Result<u64, Refusal> {
    let socket = std::os::unix::net::UnixDatagram::unbound().map_err(|fault| unknown(&fault))?;
    writ_sys::netns_cookie(&socket).map_err(|fault| unknown(&fault))
}

fn unknown(fault: &std::io::Error) -> Refusal {
    Refusal::new(
        RefusalKind::Internal,
        format!("the network namespace of a socket cannot be told: {fault}"),
        "confined runs need Linux 5.14 or newer; see `writ doctor`",
    )
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, why, "use the `writ` that belongs to this daemon")
}
