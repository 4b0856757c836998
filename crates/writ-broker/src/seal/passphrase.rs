//! Seal `passphrase`: the root key is derived from what a person knows.
//!
//! Argon2id (RFC 9106) with a random salt. Salt and cost stand beside the wrapped keyring in the clear, so that the cost can rise
//! without making old installations unreadable. The passphrase's bytes count as they come: no trimming, no Unicode normalization.
//! Absent: a limit on attempts, since whoever has the file tries without us.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use writ_core::Secret;
use zeroize::{Zeroize, Zeroizing};

use super::{ROOT_KEY_LEN, RootKey, Seal, SealFault};

/// The shortest passphrase for a new installation, in bytes.
pub const PASSPHRASE_MIN: usize = 12;
/// The longest, in bytes.
pub const PASSPHRASE_MAX: usize = 1024;

/// What one derivation costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Cost {
    /// The second recommendation of RFC 9106 §4: 64 MiB, 3 passes, 4 lanes.
    pub const STANDARD: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// What a stored cost may ask for at the most: a changed store must not take the machine's memory.
    pub const MAX: Self = Self { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };
}

/// The root key from a passphrase.
pub struct Passphrase {
    cost: Cost,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// `argon2id`, version 1.3.
    function: String,
    /// 16 bytes, base64.
    salt: String,
    cost: Cost,
}

impl Passphrase {
    pub const KIND: &'static str = "passphrase";

    /// `cost` is for new installations; an existing one has its own.
    pub fn new(cost: Cost) -> Self {
        Self { cost }
    }
}

impl Seal for Passphrase {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn asks(&self) -> bool {
        true
    }

    fn create(&self, passphrase: Option<&Secret>) -> Result<(RootKey, Value), SealFault> {
        let passphrase = passphrase.ok_or(SealFault::PassphraseNeeded)?;
        if passphrase.len() < PASSPHRASE_MIN {
            return Err(SealFault::PassphraseLength);
        }
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| SealFault::Random)?;
        let key = derive(passphrase, &salt, self.cost)?;
        let parameters =
            Parameters { function: FUNCTION.to_owned(), salt: STANDARD.encode(salt), cost: self.cost };
        Ok((key, json!(parameters)))
    }

    fn unseal(&self, parameters: &Value, passphrase: Option<&Secret>) -> Result<RootKey, SealFault> {
        let fault = SealFault::Parameters;
        let stored = Parameters::deserialize(parameters).map_err(|error| fault(error.to_string()))?;
        if stored.function != FUNCTION {
            return Err(fault(format!("{:?} is not {FUNCTION}", stored.function)));
        }
        let salt = STANDARD.decode(&stored.salt).map_err(|error| fault(error.to_string()))?;
        let salt: [u8; SALT_LEN] =
            salt.try_into().map_err(|_| fault(format!("the salt has not {SALT_LEN} bytes")))?;
        derive(passphrase.ok_or(SealFault::PassphraseNeeded)?, &salt, stored.cost)
    }
}

const FUNCTION: &str = "argon2id";
const SALT_LEN: usize = 16;

fn derive(passphrase: &Secret, salt: &[u8; SALT_LEN], cost: Cost) -> Result<RootKey, SealFault> {
    if passphrase.len() > PASSPHRASE_MAX {
        return Err(SealFault::PassphraseLength);
    }
    let Cost { memory_kib, passes, lanes } = cost;
    let max = Cost::MAX;
    if memory_kib > max.memory_kib || passes > max.passes || lanes > max.lanes {
        return Err(SealFault::Parameters(format!("its cost is above the limit of {max:?}")));
    }
    let fault = |error: argon2::Error| SealFault::Parameters(error.to_string());
    let params = Params::new(memory_kib, passes, lanes, Some(ROOT_KEY_LEN)).map_err(fault)?;
    let mut memory = vec![Block::default(); params.block_count()];
    let mut key = Zeroizing::new([0; ROOT_KEY_LEN]);
    let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        passphrase.expose(),
        salt,
        &mut *key,
        &mut memory,
    );
    // The last block is the key's preimage.
    memory.iter_mut().for_each(|block| block.as_mut().zeroize());
    derived.map_err(fault)?;
    Ok(RootKey::new(key))
}
