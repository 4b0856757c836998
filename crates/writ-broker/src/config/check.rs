//! Small judgments about single values: places, addresses, methods, variables, trust anchors.
//!
//! Each answers with what is wrong and what to do, and knows nothing of files and lines.

use std::net::SocketAddr;

use http::HeaderName;
use ipnet::IpNet;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use writ_core::{Authority, Host, Place};

use super::{InjectEntry, InjectKind};

/// What is wrong, and what to do.
pub(crate) type Wrong = (String, String);

/// Headers that frame or route a message, or that the proxy sets: a credential there would change what the request is.
const RESERVED: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
const VARIABLE_MAX: usize = 128;
const METHOD_MAX: usize = 32;
/// Networks wider than these are no private networks.
const PREFIX_MIN_V4: u8 = 8;
const PREFIX_MIN_V6: u8 = 7;

/// The place that `inject` declares.
pub(super) fn place(entry: &InjectEntry) -> Result<Place, Wrong> {
    let wrong = |what: &str, next: &str| Err((what.to_owned(), next.to_owned()));
    match (entry.kind, entry.name.as_deref(), entry.user.as_deref()) {
        (InjectKind::Bearer, None, None) => Ok(Place::Bearer),
        (InjectKind::Placeholder, None, None) => Ok(Place::Placeholder),
        (InjectKind::Header, Some(name), None) => header(name).map(|name| Place::Header { name }),
        (InjectKind::Basic, None, Some(user)) => basic_user(user).map(|user| Place::Basic { user }),
        (InjectKind::Header, None, _) => {
            wrong("a header needs its name", "write inject = { kind = \"header\", name = \"X-Api-Key\" }")
        }
        (InjectKind::Basic, _, None) => {
            wrong("Basic needs a user name", "write inject = { kind = \"basic\", user = \"…\" }")
        }
        (_, Some(_), _) => wrong("`name` belongs to the kind \"header\" only", "remove it"),
        (_, _, Some(_)) => wrong("`user` belongs to the kind \"basic\" only", "remove it"),
    }
}

fn header(name: &str) -> Result<String, Wrong> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err((format!("{name:?} is not a header's name (RFC 9110 §5.1)"), "correct it".to_owned()));
    };
    if RESERVED.contains(&parsed.as_str()) {
        return Err((
            format!("the header {parsed} frames or routes the request and cannot carry a credential"),
            "name the header that the service documents for its key".to_owned(),
        ));
    }
    Ok(parsed.as_str().to_owned())
}

fn basic_user(user: &str) -> Result<String, Wrong> {
    if user.contains(':') || user.chars().any(char::is_control) {
        let what = "a user name in Basic has no colon and no control characters (RFC 7617 §2)";
        return Err((what.to_owned(), "correct it".to_owned()));
    }
    Ok(user.to_owned())
}

/// Another address behind a target's name: `host:port`, `192.0.2.1:8443` or `[2001:db8::1]:8443`.
pub(super) fn dial(text: &str) -> Result<(), Wrong> {
    let named = || {
        let (host, port) = text.rsplit_once(':')?;
        host.parse::<Host>().ok()?;
        format!("{host}:{port}").parse::<Authority>().ok()
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(()),
        Err(_) if named().is_some() => Ok(()),
        _ => Err((
            format!("{text:?} is not an address to dial"),
            "write host:port, such as \"127.0.0.1:8443\"".to_owned(),
        )),
    }
}

/// A network that a target's name may lead to.
pub(super) fn private(net: &IpNet) -> Result<(), Wrong> {
    let least = if matches!(net, IpNet::V4(_)) { PREFIX_MIN_V4 } else { PREFIX_MIN_V6 };
    if net.prefix_len() < least {
        return Err((
            format!("{net} is wider than any private network"),
            "name the network that the service is in".to_owned(),
        ));
    }
    Ok(())
}

/// A variable's name as POSIX has it, and none that decides how the agent runs.
pub(super) fn variable(name: &str) -> Result<(), Wrong> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !first || !rest || name.len() > VARIABLE_MAX {
        let next = "use letters, digits and '_', not beginning with a digit";
        return Err((format!("{name:?} is not the name of a variable"), next.to_owned()));
    }
    if matches!(name, "PATH" | "HOME" | "IFS" | "SHELL")
        || name.starts_with("LD_")
        || name.starts_with("WRIT_")
    {
        let next = "name the variable in which the program looks for its key";
        return Err((
            format!("{name} decides how programs run and cannot hold a placeholder"),
            next.to_owned(),
        ));
    }
    Ok(())
}

/// A method that can carry a credential, in the spelling in which it is sent.
pub(crate) fn method(name: &str) -> Result<(), Wrong> {
    let upper = name.to_ascii_uppercase();
    if name.is_empty()
        || name.len() > METHOD_MAX
        || !name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
    {
        return Err((format!("{name:?} is not a method"), "write methods such as GET or POST".to_owned()));
    }
    if matches!(upper.as_str(), "TRACE" | "CONNECT") {
        return Err((format!("{upper} never carries a credential"), "remove it".to_owned()));
    }
    if name != upper {
        return Err((format!("methods are case-sensitive: {name:?}"), format!("write {upper:?}")));
    }
    Ok(())
}

/// PEM with at least one certificate in it.
pub(super) fn certificates(pem: &str) -> Result<(), Wrong> {
    let next = || "give a file with one or more PEM certificates".to_owned();
    let mut found = 0usize;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| ("the file is not PEM".to_owned(), next()))?;
        // A certificate is an ASN.1 SEQUENCE with a long length (RFC 5280 §4.1).
        if !certificate.starts_with(&[0x30, 0x82]) && !certificate.starts_with(&[0x30, 0x81]) {
            return Err(("the file has a certificate that is none inside".to_owned(), next()));
        }
        found += 1;
    }
    if found == 0 { Err(("the file has no certificate in PEM".to_owned(), next())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let entry = |kind, name: Option<&str>, user: Option<&str>| InjectEntry {
            kind,
            name: name.map(str::to_owned),
            user: user.map(str::to_owned),
        };
        assert_eq!(place(&entry(InjectKind::Bearer, None, None)), Ok(Place::Bearer));
        assert_eq!(
            place(&entry(InjectKind::Header, Some("X-Key"), None)),
            Ok(Place::Header { name: "x-key".to_owned() })
        );
        for (kind, name, user) in [
            (InjectKind::Bearer, Some("x"), None),
            (InjectKind::Bearer, None, Some("x")),
            (InjectKind::Placeholder, Some("x"), None),
            (InjectKind::Header, None, None),
            (InjectKind::Header, Some("x-key"), Some("u")),
            (InjectKind::Header, Some("Host"), None),
            (InjectKind::Header, Some("transfer-encoding"), None),
            (InjectKind::Header, Some("a b"), None),
            (InjectKind::Basic, None, None),
            (InjectKind::Basic, None, Some("a:b")),
            (InjectKind::Basic, None, Some("a\r\nb")),
        ] {
            assert!(place(&entry(kind, name, user)).is_err(), "{kind:?} {name:?} {user:?}");
        }
    }

    #[test]
    fn addresses_to_dial() {
        for good in ["127.0.0.1:8443", "[::1]:8443", "mirror.corp.example:443", "localhost:1"] {
            assert_eq!(dial(good), Ok(()), "{good}");
        }
        for bad in ["", "localhost", "127.0.0.1", "127.0.0.1:0", "a:b:1", "a:99999", ":1", "http://a:1"] {
            assert!(dial(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_variables_methods() {
        assert!(private(&"10.2.0.0/16".parse().unwrap()).is_ok());
        assert!(
            private(&"0.0.0.0/0".parse().unwrap()).is_err() && private(&"::/0".parse().unwrap()).is_err()
        );
        assert!(variable("OPENAI_API_KEY").is_ok());
        for bad in ["", "1A", "A-B", "A=B", "LD_PRELOAD", "PATH", "WRIT_HOME"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
        assert!(method("POST").is_ok() && method("VERSION-CONTROL").is_ok());
        for bad in ["", "post", "Trace", "CONNECT", "GET ", "*"] {
            assert!(method(bad).is_err(), "{bad}");
        }
    }
}
