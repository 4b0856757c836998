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

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of the answer, and its data as text.
    fn ask(names: &Assigned, name: &str, kind: u16) -> (u8, String) {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.bytes());
        }
        message.extend([0, 0]);
        message.push(u8::try_from(kind).unwrap());
        message.extend([0, 1]);
        let answer = respond(names, &message).unwrap();
        let data = answer.get(message.len() + 12..).unwrap_or_default();
        let text = match (answer[7], kind) {
            (0, _) => String::new(),
            (_, A) => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            (_, AAAA) => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            _ => String::from_utf8_lossy(data).into_owned(),
        };
        (answer[3] & 15, text)
    }

    #[test]
    fn every_name_of_a_host_exists_and_keeps_its_address() {
        let names = Assigned::new();
        for _ in 0..2 {
            assert_eq!(ask(&names, "api.vendor.example", A), (0, "198.18.0.1".into()));
            assert_eq!(ask(&names, "API.vendor.Example", AAAA), (0, "fd77:7269:7400::1".into()));
            assert_eq!(ask(&names, "db", A), (0, "198.18.0.2".into()), "short names are names");
        }
        for kind in [2, 5, 6, 15, 16, 33, 64, 65, 255] {
            assert_eq!(ask(&names, "api.vendor.example", kind), (0, String::new()), "{kind}");
        }
        assert_eq!(ask(&names, "never.asked.before", 16), (0, String::new()));
        assert_eq!(ask(&names, "third.example", A).1, "198.18.0.3", "only a question for an address assigns");
    }

    #[test]
    fn loopback_is_the_sessions_own() {
        let names = Assigned::new();
        assert_eq!(ask(&names, "localhost", A), (0, "127.0.0.1".into()));
        assert_eq!(ask(&names, "app.localhost", AAAA), (0, "::1".into()));
        assert_eq!(ask(&names, "localhost", 16), (0, String::new()));
    }

    #[test]
    fn threat_16_no_spelling_of_an_address_is_a_name() {
        let names = Assigned::new();
        for name in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "a.0x1f", "-a.example", "a b.example"]
        {
            assert_eq!(ask(&names, name, A), (3, String::new()), "{name}");
        }
        assert_eq!(ask(&names, "anything.invalid", A), (3, String::new()));
        assert_eq!(ask(&names, "", A), (0, String::new()), "the root has no address");
    }

    #[test]
    fn an_address_leads_back_to_its_name() {
        let names = Assigned::new();
        ask(&names, "api.vendor.example", A);
        let name = "\u{3}api\u{6}vendor\u{7}example\0".to_owned();
        assert_eq!(ask(&names, "1.0.18.198.in-addr.arpa", PTR), (0, name.clone()));
        let nibbles = "1.0.0.0.".to_owned() + &"0.".repeat(16) + "0.0.4.7.9.6.2.7.7.7.d.f.ip6.arpa";
        assert_eq!(ask(&names, &nibbles, PTR), (0, name));
        for unknown in
            ["2.0.18.198.in-addr.arpa", "1.1.1.1.in-addr.arpa", "x.in-addr.arpa", "1.0.18.198.9.in-addr.arpa"]
        {
            assert_eq!(ask(&names, unknown, PTR).0, 3, "{unknown}");
        }
    }
}
