//! What is known of one login: how its server is reached, and its name there.
//!
//! The name is decided before anything is done: `writ_<mark>_<lease>`, the installation's mark and the lease's 32
//! hexadecimal digits. So a login can be removed without knowing whether it was ever made, and whoever looks at a server
//! can tell which lease a role is of.

use serde::{Deserialize, Serialize};
use writ_core::{CredentialName, EngineFault, LeaseId, Receipt};

use super::quote::hex;

/// Digits of a mark.
const MARK_LEN: usize = 8;
/// Digits of a lease in a name.
const LEASE_LEN: usize = 32;

/// What a receipt of this engine holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Made {
    pub(super) credential: CredentialName,
    /// The digest under which the connection is remembered.
    pub(super) connection: String,
    /// `HOST:PORT` of the server, so that a lane can be told without asking anyone.
    pub(super) server: String,
    pub(super) role: RoleName,
    /// The role's number, by which its sessions are still known when the name has gone. Only after it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) oid: Option<u32>,
}

impl Made {
    pub(super) fn read(receipt: &Receipt) -> Result<Self, EngineFault> {
        Self::deserialize(&receipt.0).map_err(|fault| EngineFault::Receipt(fault.to_string()))
    }

    pub(super) fn receipt(&self) -> Result<Receipt, EngineFault> {
        serde_json::to_value(self).map(Receipt).map_err(|fault| EngineFault::Receipt(fault.to_string()))
    }
}

/// The name of a role that writ made, and no other name: nothing else is ever altered or dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct RoleName(String);

impl RoleName {
    /// The name of the login of `lease`.
    pub(super) fn new(mark: &str, lease: LeaseId) -> Result<Self, EngineFault> {
        Self::try_from(format!("writ_{mark}_{}", hex(lease.as_bytes()))).map_err(EngineFault::Receipt)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The lease that it is of.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.0.rsplit_once('_').and_then(|(_, lease)| lease.parse().ok())
    }

    /// What every name of this installation begins with.
    pub(super) fn prefix(mark: &str) -> String {
        format!("writ_{mark}_")
    }

    /// The role of this installation that keeps what others built upon: it logs in nowhere, and may nothing.
    pub(super) fn estate(&self) -> String {
        format!("writ_estate_{}", self.0.split('_').nth(1).unwrap_or_default())
    }

    /// A number for the lock that making and removing this role take.
    pub(super) fn lock(&self) -> i64 {
        // The last 16 digits of a UUID of version 7 are random but for two bits.
        let digits = self.0.get(self.0.len().saturating_sub(16)..).unwrap_or_default();
        u64::from_str_radix(digits, 16).map_or(0, u64::cast_signed)
    }
}

impl TryFrom<String> for RoleName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let digits = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let parts = name.strip_prefix("writ_").and_then(|rest| rest.split_once('_'));
        match parts {
            Some((mark, lease)) if digits(mark, MARK_LEN) && digits(lease, LEASE_LEN) => Ok(Self(name)),
            _ => Err("it names a role that writ cannot have made".to_owned()),
        }
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use writ_core::Timestamp;

    use super::*;

    #[test]
    fn a_name_tells_its_lease() {
        let lease = LeaseId::new(Timestamp::from_millis(1_800_000_000_000), &[2; 10]);
        let name = RoleName::new("0a1b2c3d", lease).unwrap();
        assert_eq!(name.as_str(), "writ_0a1b2c3d_01a3185c500072028202020202020202");
        assert_eq!(name.lease(), Some(lease));
        assert!(name.as_str().starts_with(&RoleName::prefix("0a1b2c3d")));
    }

    #[test]
    fn no_other_name_gets_into_a_receipt() {
        let receipt = |role: &str| {
            Made::read(&Receipt(json!({
                "credential": "orders", "connection": "0", "server": "h:1", "role": role,
            })))
        };
        let digits = "0".repeat(32);
        assert!(receipt(&format!("writ_0a1b2c3d_{digits}")).is_ok());
        for role in [
            "postgres".to_owned(),
            "writ_admin".to_owned(),
            format!("writ_0a1b2c3_{digits}"),
            format!("writ_0A1B2C3D_{digits}"),
            format!("writ_0a1b2c3d_{digits}0"),
            format!("writ_0a1b2c3d_{digits}\""),
        ] {
            assert!(matches!(receipt(&role), Err(EngineFault::Receipt(_))), "{role}");
        }
    }
}
