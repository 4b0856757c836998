//! What a workload shows, and what it proves.
//!
//! RATS (RFC 9334) names: *evidence* goes into an attestor, *attestation* comes out, as selectors. Registration entries map
//! selectors to a SPIFFE ID; policy never sees evidence.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a caller shows to prove what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Evidence {
    Unix(UnixEvidence),
}

/// The peer of a Unix socket, and the program that it launches.
///
/// `uid`, `gid` and `pid` come from the kernel (SO_PEERCRED), never from a message. `program` and `script` are the launcher's
/// word: on its own machine and account that is what there is, and the level `advisory` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixEvidence {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
    /// The executable, resolved to an absolute path without symbolic links; for a script, its interpreter.
    pub program: PathBuf,
    /// The script, where the program is one.
    pub script: Option<PathBuf>,
}

impl Evidence {
    /// The kind of attestor that judges this evidence.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unix(_) => "unix",
        }
    }
}

/// One proven fact, `kind:key:value`, such as `unix:uid:1000`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(String);

/// Why a text is not a selector.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a selector: write kind:key:value, such as unix:uid:1000")]
pub struct SelectorError(String);

impl Selector {
    pub fn new(kind: &str, key: &str, value: impl fmt::Display) -> Self {
        Self(format!("{kind}:{key}:{value}"))
    }

    /// `kind:key`, which tells an attestor what to find out.
    pub fn question(&self) -> &str {
        let value = self.0.splitn(3, ':').nth(2).map_or(0, str::len);
        self.0.get(..self.0.len().saturating_sub(value + 1)).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut parts = text.splitn(3, ':');
        let full = (0..3).all(|_| parts.next().is_some_and(|part| !part.is_empty()));
        if full { Ok(Self(text.to_owned())) } else { Err(SelectorError(text.to_owned())) }
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.0
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The result of an attestation: everything that was proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attestation {
    pub selectors: BTreeSet<Selector>,
}

/// Why evidence proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestFault {
    #[error("this attestor does not judge evidence of kind {0}")]
    Kind(&'static str),
    #[error("the workload is gone")]
    Gone,
    #[error("{what} could not be read: {source}")]
    Read { what: String, source: std::io::Error },
}

/// Turns evidence into selectors. One implementation is one file of `writ-attest`.
pub trait Attestor: Send + Sync {
    /// The kind of evidence, and the first part of every selector that it makes.
    fn kind(&self) -> &'static str;

    /// Proves what `evidence` shows. `questions` are the `kind:key` pairs that some registration entry asks for: what is
    /// dear to find out (a hash of an executable) is found out only then.
    ///
    /// # Errors
    /// [`AttestFault`] when the evidence is of another kind or cannot be verified.
    fn attest(&self, evidence: &Evidence, questions: &BTreeSet<String>) -> Result<Attestation, AttestFault>;

    /// An example of every selector it makes, for the reference page.
    fn examples(&self) -> Vec<(&'static str, &'static str)>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let selector: Selector = "unix:path:/usr/bin/a:b".parse().unwrap();
        assert_eq!(selector.question(), "unix:path");
        assert_eq!(selector, Selector::new("unix", "path", "/usr/bin/a:b"));
        for bad in ["", "unix", "unix:uid", "unix:uid:", "unix::0", ":uid:0"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
