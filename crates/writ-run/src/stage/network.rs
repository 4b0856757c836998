//! The network inside: one interface, on which every address of the world is local, and the sockets that listen there.
//!
//! No route leads out. Whoever connects to a captured port of any address reaches a door; every other port refuses at once.
//! `getsockname` of what a door accepts is the address that was meant. Confinement research §2.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, listen, recv, send,
        socket_with,
        sockopt::{set_ipv6_freebind, set_ipv6_v6only},
    },
};
use writ_core::Door;

use crate::{Captured, NetworkPlan, Step, StepFault};

/// Where `resolv.conf` points: systemd's stub has the same address, so that programs with opinions have none about ours.
pub(super) const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
/// Connections that wait to be accepted, at each door.
const BACKLOG: i32 = 4096;

/// The index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// Switches `lo` on and makes every address local.
pub(super) fn up() -> Result<(), StepFault> {
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(StepFault::at(Step::Loopback, "a netlink socket"))?;
    ask(&kernel, &loopback_up()).map_err(StepFault::at(Step::Loopback, "lo"))?;
    ask(&kernel, &everything_local(AF_INET, SCOPE_HOST)).map_err(StepFault::at(Step::Route, "0.0.0.0/0"))?;
    match ask(&kernel, &everything_local(AF_INET6, SCOPE_UNIVERSE)) {
        // A kernel without IPv6: there is no address to capture.
        Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => Ok(()),
        other => other.map_err(StepFault::at(Step::Route, "::/0")),
    }
}

/// The doors that every session has.
pub(super) fn doors(plan: &NetworkPlan) -> Result<(Vec<(Door, OwnedFd)>, Captured), StepFault> {
    let mut doors = Vec::new();
    for &port in &plan.captured {
        doors.push((Door::Capture { port }, listener((Ipv4Addr::UNSPECIFIED, port).into())?));
        if let Some(socket) = where_known(listener((Ipv6Addr::UNSPECIFIED, port).into()))? {
            doors.push((Door::Capture { port }, socket));
        }
    }
    doors.push((Door::DnsUdp, bound(DNS, SocketType::DGRAM).map_err(at(DNS))?));
    doors.push((Door::DnsTcp, listener(DNS)?));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.proxy_port));
    let proxy = listener(address)?;
    let named = getsockname(&proxy).and_then(SocketAddr::try_from).map_err(at(address))?;
    doors.push((Door::Proxy, proxy));
    Ok((doors, Captured { proxy_port: named.port() }))
}

/// One more door, at an address of its own.
pub(super) fn listener(address: SocketAddr) -> Result<OwnedFd, StepFault> {
    let socket = bound(address, SocketType::STREAM).map_err(at(address))?;
    listen(&socket, BACKLOG).map_err(at(address))?;
    Ok(socket)
}

/// A TCP socket to connect from here with.
pub(super) fn dialler(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Nothing where the kernel has no IPv6.
fn where_known(made: Result<OwnedFd, StepFault>) -> Result<Option<OwnedFd>, StepFault> {
    match made {
        Err(fault) if fault.errno == Errno::AFNOSUPPORT.raw_os_error() => Ok(None),
        other => other.map(Some),
    }
}

fn bound(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
        // For v4 a local route is enough to bind; v6 wants the address on an interface.
        set_ipv6_freebind(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn at(address: SocketAddr) -> impl FnOnce(Errno) -> StepFault {
    StepFault::at(Step::Door, address.to_string())
}

/// Sends one request to the kernel and waits for its word (`netlink(7)`, `rtnetlink(7)`).
fn ask(kernel: &OwnedFd, request: &[u8]) -> Result<(), Errno> {
    send(kernel, request, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (length, _) = recv(kernel, &mut answer[..], RecvFlags::empty())?;
    // `nlmsghdr` of 16 bytes, then `nlmsgerr`, of which the first word is the negated error, or 0.
    let number = |range: std::ops::Range<usize>| -> Option<[u8; 4]> {
        answer.get(..length)?.get(range)?.get(..4)?.try_into().ok()
    };
    let kind = number(4..8).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    match (kind, number(16..20).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        _ => Err(Errno::PROTO),
    }
}

/// `RTM_NEWLINK` with `ifinfomsg`: family, type, index, flags, and which of the flags change.
fn loopback_up() -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    request(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &body)
}

/// `RTM_NEWROUTE` with `rtmsg`, and no destination, which means all: a route of type *local* in the table that is asked first.
fn everything_local(family: u8, scope: u8) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, scope, RTN_LOCAL, 0, 0, 0, 0];
    body.extend(8_u16.to_ne_bytes());
    body.extend(RTA_OIF.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    request(RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body)
}

/// `nlmsghdr`: length, type, flags, number, sender.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(0).saturating_add(16);
    let mut message = Vec::from(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_BOOT: u8 = 3;
const RTN_LOCAL: u8 = 2;
const RTA_OIF: u16 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_HOST: u8 = 254;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
