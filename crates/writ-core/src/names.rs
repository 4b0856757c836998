//! Names that people write: credentials, targets, roles, and the SPIFFE IDs of workloads.
//!
//! Each is a newtype that can only be made by parsing, so a name inside the program is a valid name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::quote::quoted;

/// Why a text is not a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{0:?} is not a name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
    )]
    Form(String),
    #[error("{0:?} is not a SPIFFE ID: {1} (SPIFFE-ID §2)")]
    SpiffeId(String, &'static str),
}

const NAME_MAX: usize = 63;
const SPIFFE_ID_MAX: usize = 2048;
const TRUST_DOMAIN_MAX: usize = 255;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name!(
    /// A credential: a secret that writ keeps or can read.
    CredentialName,
    plain
);
name!(
    /// A target: a service behind one authority, and how a credential is presented to it.
    TargetName,
    plain
);
name!(
    /// A role: what the operator allows.
    RoleName,
    plain
);
name!(
    /// A workload's name, `spiffe://trust-domain/path` (SPIFFE-ID standard §2).
    SpiffeId,
    spiffe_id
);
name!(
    /// The authority part of a SPIFFE ID.
    TrustDomain,
    trust_domain
);

impl SpiffeId {
    /// The trust domain of this name.
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or(&self.0);
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }
}

fn plain(text: &str) -> Result<(), NameError> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest =
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
    if first && rest && text.len() <= NAME_MAX { Ok(()) } else { Err(NameError::Form(quoted(text))) }
}

fn trust_domain(text: &str) -> Result<(), NameError> {
    let fault = |why| Err(NameError::SpiffeId(quoted(text), why));
    if text.is_empty() || text.len() > TRUST_DOMAIN_MAX {
        return fault("a trust domain has 1 to 255 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
    {
        return fault("a trust domain consists of a-z, 0-9, '-', '_' and '.'");
    }
    Ok(())
}

fn spiffe_id(text: &str) -> Result<(), NameError> {
    let fault = |why| Err(NameError::SpiffeId(quoted(text), why));
    if text.len() > SPIFFE_ID_MAX {
        return fault("it has more than 2048 bytes");
    }
    let Some(rest) = text.strip_prefix("spiffe://") else { return fault("it must begin with spiffe://") };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    if trust_domain(domain).is_err() {
        return fault("its trust domain is not valid");
    }
    let Some(path) = path else { return fault("a workload's name needs a path") };
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return fault("path segments may not be empty, '.' or '..'");
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return fault("path segments consist of letters, digits, '-', '_' and '.'");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["openai", "a", "0x", "git-hub.api_2"] {
            assert!(good.parse::<CredentialName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "é", &"a".repeat(64), "a\n"] {
            assert!(bad.parse::<CredentialName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spiffe_ids() {
        let id: SpiffeId = "spiffe://writ.local/dev/claude".parse().unwrap();
        assert_eq!(id.trust_domain(), "writ.local");
        for bad in [
            "spiffe://writ.local",
            "spiffe://writ.local/",
            "spiffe://Writ.local/a",
            "SPIFFE://writ.local/a",
            "spiffe:///a",
            "spiffe://a/b//c",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?x",
            "spiffe://a/b#x",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/%41",
            "https://a/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
