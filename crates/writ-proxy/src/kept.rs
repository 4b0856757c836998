//! What outlives a session, for the one that goes on with its agent after the daemon was lost.
//!
//! An agent trusts the certificates that were there when it started, and may keep the addresses that names had then. So both are
//! packed, and handed out sealed; a data plane that gets them back serves the same agent under the same root, to the same hosts and
//! no further ones. Absent: leases, credentials and open connections, which end with their daemon.

use serde::{Deserialize, Serialize};
use writ_core::{Host, OpenFault, Secret};
use zeroize::Zeroizing;

/// Bytes of a length.
const LENGTH: usize = 4;

/// The certificates of one session, and their keys.
pub(crate) struct Certificates {
    pub(crate) root_pem: String,
    /// DER.
    pub(crate) intermediate: Vec<u8>,
    /// PKCS#8.
    pub(crate) intermediate_key: Zeroizing<Vec<u8>>,
    /// PKCS#8.
    pub(crate) leaf_key: Zeroizing<Vec<u8>>,
}

/// What goes with them, and is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// What the intermediate certificate may vouch for.
    pub(crate) hosts: Vec<Host>,
    /// Names whose addresses have doors, with their numbers.
    pub(crate) names: Vec<(Host, u32)>,
    /// How many daemons have served the agent before.
    pub(crate) lives: u32,
}

/// Everything that outlives a session.
pub(crate) struct Kept {
    pub(crate) certificates: Certificates,
    pub(crate) facts: Facts,
}

impl Kept {
    /// As bytes: each part with its length before it. The buffer never grows, so no copy of a key is left behind.
    pub(crate) fn pack(&self) -> Result<Secret, OpenFault> {
        let facts = serde_json::to_vec(&self.facts).map_err(|_| unusable())?;
        let Certificates { root_pem, intermediate, intermediate_key, leaf_key } = &self.certificates;
        let parts = [root_pem.as_bytes(), intermediate, intermediate_key, leaf_key, &facts];
        let mut packed = Vec::with_capacity(parts.iter().map(|part| LENGTH + part.len()).sum());
        for part in parts {
            let length = u32::try_from(part.len()).map_err(|_| unusable())?;
            packed.extend_from_slice(&length.to_be_bytes());
            packed.extend_from_slice(part);
        }
        Ok(Secret::new(packed))
    }

    /// What [`Kept::pack`] made.
    pub(crate) fn unpack(packed: &Secret) -> Result<Self, OpenFault> {
        let mut rest = packed.expose();
        let mut part = || -> Option<&[u8]> {
            let (length, more) = rest.split_first_chunk::<LENGTH>()?;
            let (part, more) = more.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rest = more;
            Some(part)
        };
        let mut parts = || -> Option<Self> {
            let certificates = Certificates {
                root_pem: String::from_utf8(part()?.to_vec()).ok()?,
                intermediate: part()?.to_vec(),
                intermediate_key: Zeroizing::new(part()?.to_vec()),
                leaf_key: Zeroizing::new(part()?.to_vec()),
            };
            Some(Self { certificates, facts: serde_json::from_slice(part()?).ok()? })
        };
        parts().ok_or_else(unusable)
    }
}

fn unusable() -> OpenFault {
    OpenFault("what was kept of the session before cannot be used".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let certificates = Certificates {
            root_pem: "PEM".into(),
            intermediate: vec![1, 2],
            intermediate_key: Zeroizing::new(vec![3]),
            leaf_key: Zeroizing::new(vec![]),
        };
        let host: Host = "db.example".parse().unwrap();
        Kept { certificates, facts: Facts { hosts: vec![host.clone()], names: vec![(host, 7)], lives: 2 } }
    }

    #[test]
    fn it_is_the_same_after_packing() {
        let (kept, again) = (kept(), Kept::unpack(&kept().pack().unwrap()).unwrap());
        assert_eq!(again.facts, kept.facts);
        let (one, other) = (again.certificates, kept.certificates);
        assert_eq!((one.root_pem, one.intermediate), (other.root_pem, other.intermediate));
        assert_eq!((one.intermediate_key, one.leaf_key), (other.intermediate_key, other.leaf_key));
    }

    #[test]
    fn anything_shorter_is_a_fault() {
        let packed = kept().pack().unwrap();
        for length in 0..packed.len() {
            let short = Secret::new(packed.expose()[..length].to_vec());
            assert!(Kept::unpack(&short).is_err(), "{length}");
        }
    }
}
