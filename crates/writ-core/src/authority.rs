//! The one canonical authority: scheme `https`, a DNS name, a port.
//!
//! Policy, injection and dialling all look at the same value, so none of them can be talked into looking elsewhere. Text that
//! other parsers might read as another host (IP literals in any spelling, trailing dots, user information, non-ASCII, percent
//! escapes) is refused instead of repaired: a credential never goes to an address, only to a name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::quote::quoted;

const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// The port of `https`.
const HTTPS: u16 = 443;

/// A DNS name in canonical form: lower case, no trailing dot, at least one letter in its last label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

/// Scheme `https`, host and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Authority {
    host: Host,
    port: u16,
}

/// Why a text names no authority that writ serves.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the host is empty or longer than 253 characters")]
    Length,
    #[error("{0:?} is an IP address, however it is spelled: name the host")]
    IpLiteral(String),
    #[error("{0:?} is not a DNS name in plain ASCII without a trailing dot")]
    Form(String),
    #[error("{0:?} is not a port")]
    Port(String),
}

impl Host {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text.is_empty() || text.len() > HOST_MAX {
            return Err(AuthorityError::Length);
        }
        if text.starts_with('[') || text.contains(':') {
            return Err(AuthorityError::IpLiteral(quoted(text)));
        }
        let form = || AuthorityError::Form(quoted(text));
        if !text.split('.').all(is_label) {
            return Err(form());
        }
        let last = text.rsplit('.').next().ok_or_else(form)?.to_ascii_lowercase();
        // A last label that is a number, decimal, octal or hexadecimal, makes the whole an IPv4 address (WHATWG URL §3.5).
        let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AuthorityError::IpLiteral(quoted(text)));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl Authority {
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    /// Reads `host` or `host:port`; without a port it is 443.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err(AuthorityError::IpLiteral(quoted(text)));
        }
        let Some((host, port)) = text.split_once(':') else { return Ok(Self::new(text.parse()?, HTTPS)) };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        match port.parse() {
            Ok(number) if digits => Ok(Self::new(host.parse()?, number)),
            _ => Err(AuthorityError::Port(quoted(port))),
        }
    }
}

impl fmt::Display for Authority {
    /// Without the port where it is 443: the form that goes into `Host`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == HTTPS {
            f.write_str(&self.host.0)
        } else {
            write!(f, "{}:{}", self.host.0, self.port)
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{self}")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = AuthorityError;

            fn try_from(text: String) -> Result<Self, AuthorityError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
text_form!(Host);
text_form!(Authority);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_one_authority() {
        for (text, canonical) in [
            ("API.OpenAI.com", "api.openai.com"),
            ("api.openai.com:443", "api.openai.com"),
            ("localhost:8443", "localhost:8443"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1password.com", "1password.com"),
        ] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn obfuscated_addresses_are_refused() {
        for bad in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "127.1",
            "[::1]",
            "[::1]:443",
            "::1",
            "127.0.0.0x1",
            "1.2.3.4:443",
            "[::ffff:127.0.0.1]",
            "0x",
            "a.0X1f",
        ] {
            assert!(matches!(bad.parse::<Authority>(), Err(AuthorityError::IpLiteral(_))), "{bad}");
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            ".a",
            "a b",
            "a/b",
            "a@b",
            "a%2eb",
            "bücher.example",
            "a\u{3002}b",
            "a\0b",
            "-a.b",
            "a-.b",
            "a:0",
            "a:",
            "a:65536",
            "a:+1",
            "a:0443",
            "a: 443",
            "a:1:2",
            "a\\b",
            "a?b",
            "a#b",
        ] {
            assert!(bad.parse::<Authority>().is_err(), "{bad:?}");
        }
    }
}
