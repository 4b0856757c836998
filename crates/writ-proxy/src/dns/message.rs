//! DNS messages, read and written by hand: one question in, at most one address out (RFC 1035 §4, RFC 6891).
//!
//! Absent: everything that a resolver does. Nothing is asked of anybody, nothing is cached, and a message that has more than one
//! question, or a compressed one, is malformed here, because no stub resolver sends such.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Largest question that is read, over either transport.
pub(crate) const QUERY_MAX: usize = 4096;
/// Largest payload that we announce in EDNS, and more than any answer here has.
const PAYLOAD: u16 = 1232;
/// Bytes of a header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Longest name, in wire form (RFC 1035 §3.1).
const NAME_MAX: usize = 255;
/// Records behind the question that are looked at.
const RECORDS_MAX: u16 = 16;
/// Answers may not be kept: the name's address is the session's.
const TTL: u32 = 0;

pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
pub(crate) const PTR: u16 = 12;
const OPT: u16 = 41;
const IN: u16 = 1;

/// How a question is answered, in the codes of RFC 1035 §4.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// A name, for an address.
    Name(String),
    /// The name exists, and has nothing of the type.
    Nothing,
    Malformed,
    Exhausted,
    NoSuchName,
    NotImplemented,
    Refused,
    /// An EDNS version that is not 0 (RFC 6891 §6.1.3).
    BadVersion,
}

/// One question, as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question<'m> {
    id: [u8; 2],
    flags: [u8; 2],
    /// Name, type and class, to be repeated.
    raw: &'m [u8],
    /// The name, with dots and without the last one; empty for the root.
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) class_is_in: bool,
    edns: bool,
    pub(crate) edns_version: u8,
}

/// What came instead of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not answered: too short to be a message, or an answer itself, which could go round in circles.
    Noise,
    /// Answered by its header alone.
    Bad { id: [u8; 2], flags: [u8; 2], reply: Reply },
}

/// Reads a message that must be one question.
pub(crate) fn read(message: &[u8]) -> Result<Question<'_>, Unreadable> {
    let header: &[u8; HEADER] = message.first_chunk().ok_or(Unreadable::Noise)?;
    let [i0, i1, f0, f1, q0, q1, an0, an1, ns0, ns1, ar0, ar1] = *header;
    let (id, flags) = ([i0, i1], [f0, f1]);
    if f0 & 0x80 != 0 || message.len() > QUERY_MAX {
        return Err(Unreadable::Noise);
    }
    if f0 & 0x78 != 0 {
        return Err(Unreadable::Bad { id, flags, reply: Reply::NotImplemented });
    }
    let malformed = Unreadable::Bad { id, flags, reply: Reply::Malformed };
    let question = || {
        if [q0, q1] != [0, 1] {
            return None;
        }
        let mut rest = message.get(HEADER..)?;
        let name = take_name(&mut rest)?;
        let [t0, t1, c0, c1] = *take(&mut rest)?;
        let raw = message.get(HEADER..message.len() - rest.len())?;
        let counts = [[an0, an1], [ns0, ns1], [ar0, ar1]].map(u16::from_be_bytes);
        let records = counts.into_iter().fold(0_u16, u16::saturating_add);
        let version = take_records(&mut rest, records)?;
        Some(Question {
            id,
            flags,
            raw,
            name,
            kind: u16::from_be_bytes([t0, t1]),
            class_is_in: u16::from_be_bytes([c0, c1]) == IN,
            edns: version.is_some(),
            edns_version: version.unwrap_or(0),
        })
    };
    question().ok_or(malformed)
}

/// The answer to a question.
pub(crate) fn answer(question: &Question<'_>, reply: &Reply) -> Vec<u8> {
    let mut out = header(question.id, question.flags, reply);
    set(&mut out, 5, 1);
    out.extend_from_slice(question.raw);
    let data = match reply {
        Reply::V4(address) => Some((A, address.octets().to_vec())),
        Reply::V6(address) => Some((AAAA, address.octets().to_vec())),
        Reply::Name(name) => Some((PTR, wire_name(name))),
        _ => None,
    };
    if let Some((kind, data)) = data {
        set(&mut out, 7, 1);
        // The name of the question, by a pointer to it (RFC 1035 §4.1.4).
        out.extend_from_slice(&[0xc0, 0x0c]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
        out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&data);
    }
    if question.edns {
        set(&mut out, 11, 1);
        // The root, OPT, our payload, the upper bits of the code, version 0, no flags, no options.
        let high = if *reply == Reply::BadVersion { 1 } else { 0 };
        out.push(0);
        out.extend_from_slice(&OPT.to_be_bytes());
        out.extend_from_slice(&PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[high, 0, 0, 0, 0, 0]);
    }
    out
}

/// The answer to what is no question: a header and a code.
pub(crate) fn bad(id: [u8; 2], flags: [u8; 2], reply: &Reply) -> Vec<u8> {
    header(id, flags, reply)
}

fn header(id: [u8; 2], [high, _]: [u8; 2], reply: &Reply) -> Vec<u8> {
    let code = match reply {
        Reply::V4(_) | Reply::V6(_) | Reply::Name(_) | Reply::Nothing | Reply::BadVersion => 0,
        Reply::Malformed => 1,
        Reply::Exhausted => 2,
        Reply::NoSuchName => 3,
        Reply::NotImplemented => 4,
        Reply::Refused => 5,
    };
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&id);
    // An answer, to the same kind of question, recursion as it was desired, and available.
    out.extend_from_slice(&[0x80 | (high & 0x79), 0x80 | code]);
    out.extend_from_slice(&[0; 8]);
    out
}

fn set(out: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = out.get_mut(at) {
        *byte = value;
    }
}

/// A name of the configuration or of a question, which are short enough.
fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn take<'m, const N: usize>(rest: &mut &'m [u8]) -> Option<&'m [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

/// An uncompressed name. A label with a dot or with anything but ASCII cannot be told from two labels, so it becomes one that no host
/// has.
fn take_name(rest: &mut &[u8]) -> Option<String> {
    let mut name = String::new();
    let mut wire = 1;
    loop {
        let [length] = *take(rest)?;
        let length = usize::from(length);
        match length {
            0 => return Some(name),
            1..=63 => {}
            _ => return None,
        }
        wire += length + 1;
        let (label, after) = rest.split_at_checked(length).filter(|_| wire <= NAME_MAX)?;
        *rest = after;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            let plain = byte.is_ascii_graphic() && *byte != b'.';
            name.push(if plain { char::from(*byte) } else { '?' });
        }
    }
}

/// Passes over the records behind the question; the version of EDNS, if it is among them.
#[expect(clippy::option_option, reason = "malformed, without EDNS, and with it are three things")]
fn take_records(rest: &mut &[u8], count: u16) -> Option<Option<u8>> {
    let mut version = None;
    if count > RECORDS_MAX {
        return None;
    }
    for _ in 0..count {
        skip_name(rest)?;
        let [t0, t1, _, _, _, edns, _, _, l0, l1] = *take(rest)?;
        *rest = rest.get(usize::from(u16::from_be_bytes([l0, l1]))..)?;
        if u16::from_be_bytes([t0, t1]) == OPT {
            // RFC 6891 §6.1.1: one at most.
            if version.replace(edns).is_some() {
                return None;
            }
        }
    }
    Some(version)
}

/// Passes over a name, which may end in a pointer. Pointers are not followed, so they cannot go round.
fn skip_name(rest: &mut &[u8]) -> Option<()> {
    let mut wire = 1;
    loop {
        let [length] = *take(rest)?;
        match length {
            0 => return Some(()),
            1..=63 => {}
            0xc0.. => {
                let [_] = take(rest)?;
                return Some(());
            }
            _ => return None,
        }
        wire += usize::from(length) + 1;
        *rest = rest.get(usize::from(length)..).filter(|_| wire <= NAME_MAX)?;
    }
}

#[cfg(test)]
mod tests;
