//! The resolver inside of a session: every name gets an address of its own, and nobody is asked.
//!
//! ```text
//!   name of a host        A and AAAA: the session's addresses for it; any other type: nothing
//!   localhost, *.localhost    loopback (RFC 6761 §6.3)
//!   no name of a host     no such name
//!   address, backwards    the name that it was given for
//! ```
//!
//! What a name leads to is settled when a connection comes, so asking proves nothing and carries nothing out: there is no tunnel
//! through DNS. Absent: recursion, zones, caches, DNSSEC, search lists.

mod message;
mod serve;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use writ_core::Host;

pub(crate) use serve::{tcp, udp};

use self::message::{A, AAAA, PTR, Question, Reply, Unreadable};
use crate::assigned::Assigned;

/// The answer to a message, if it gets one.
fn respond(names: &Assigned, message: &[u8]) -> Option<Vec<u8>> {
    match message::read(message) {
        Ok(question) => Some(message::answer(&question, &reply(names, &question))),
        Err(Unreadable::Bad { id, flags, reply }) => Some(message::bad(id, flags, &reply)),
        Err(Unreadable::Noise) => None,
    }
}

fn reply(names: &Assigned, question: &Question<'_>) -> Reply {
    if question.edns_version != 0 {
        return Reply::BadVersion;
    }
    if !question.class_is_in {
        return Reply::Refused;
    }
    if question.name.is_empty() {
        return Reply::Nothing;
    }
    if question.kind == PTR {
        return backwards(names, &question.name);
    }
    let Ok(host) = question.name.parse::<Host>() else { return Reply::NoSuchName };
    let last = host.as_str().rsplit('.').next();
    match (last, question.kind) {
        (Some("localhost"), A) => Reply::V4(Ipv4Addr::LOCALHOST),
        (Some("localhost"), AAAA) => Reply::V6(Ipv6Addr::LOCALHOST),
        (Some("localhost"), _) => Reply::Nothing,
        // RFC 6761 §6.4: certain not to exist.
        (Some("invalid"), _) => Reply::NoSuchName,
        (_, A) => names.assign(&host).map_or(Reply::Exhausted, |addresses| Reply::V4(addresses.v4)),
        (_, AAAA) => names.assign(&host).map_or(Reply::Exhausted, |addresses| Reply::V6(addresses.v6)),
        _ => Reply::Nothing,
    }
}

/// RFC 1035 §3.5, RFC 3596 §2.5.
fn backwards(names: &Assigned, name: &str) -> Reply {
    let lower = name.to_ascii_lowercase();
    let address: Option<IpAddr> = if let Some(digits) = lower.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = digits.rsplit('.').collect();
        parts.join(".").parse::<Ipv4Addr>().ok().map(Into::into)
    } else if let Some(nibbles) = lower.strip_suffix(".ip6.arpa") {
        let mut text = String::with_capacity(40);
        for (at, nibble) in nibbles.rsplit('.').enumerate() {
            if at > 0 && at % 4 == 0 {
                text.push(':');
            }
            text.push_str(nibble);
        }
        text.parse::<Ipv6Addr>().ok().map(Into::into)
    } else {
        return Reply::Nothing;
    };
    match address {
        Some(address) if address.is_loopback() => Reply::Name("localhost".to_owned()),
        Some(address) => names.name(address).map_or(Reply::NoSuchName, |host| Reply::Name(host.into())),
        None => Reply::NoSuchName,
    }
}
