//! The sockets through which a session is reached.
//!
//! A session's doors are made by its launcher and passed to the data plane, which serves them. What a door is for is decided
//! here and nowhere else: it is the kind that the launcher declares, never a guess from a socket's address.
//!
//! ```text
//!   advisory, restricted   Proxy, on the host's loopback, behind a password
//!   confined               Proxy, Capture, Dns, Local, Named: inside of the session's network namespace, where nobody else is,
//!                          so the door itself is the session's identity
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Authority;

/// Ports at which every address is captured. Others are refused by the kernel at once, so that the agent's own servers work.
pub const CAPTURED_PORTS: &[u16] = &[80, 443, 22];

/// The doors that one session may have, over its whole life.
pub const DOORS_MAX: usize = 64;

/// What a descriptor that travels with a session is for. Each address family has a descriptor of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Door {
    /// A TCP listener on loopback that speaks the proxy protocol: CONNECT, and nothing in the clear.
    Proxy,
    /// A TCP listener on every address, at one of [`CAPTURED_PORTS`]. Where a connection was meant to go is its local address.
    Capture { port: u16 },
    /// A UDP socket that is asked for names.
    DnsUdp,
    /// A TCP listener that is asked for names.
    DnsTcp,
    /// A TCP listener on the session's loopback that leads to the same port of the host's, as the person's configuration allows.
    Local { port: u16 },
    /// A TCP listener on the address that the data plane gave to a target with a port of its own, such as `db.example:5432`.
    Named { authority: Authority },
}

/// A target that is not served at a captured port, and the addresses of its name inside of the session: where its doors belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedAddress {
    pub authority: Authority,
    /// One of each family.
    pub addresses: Vec<IpAddr>,
}

/// What becomes of hosts that no target names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// They are refused.
    #[default]
    Listed,
    /// Public ones are tunnelled untouched, without a credential, and recorded.
    Public,
}
