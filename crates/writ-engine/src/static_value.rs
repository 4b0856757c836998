//! The secrets engine `static`: a value that exists already and is used as it is.
//!
//! The value is sealed in writ's store, or read at each acquisition from where a person keeps it (`source`). Nothing is made,
//! so nothing can be unmade: revoking stops writ from using the value, and says so (`use blocked`).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use writ_core::{
    BoxFuture, CredentialName, Engine, EngineFault, LeaseId, Minted, Permit, Receipt, Revoked, Tools,
};

use crate::{source, unknown_scheme};

/// Uses an existing value.
pub struct Static;

/// What the configuration says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `cmd://…` or `file:///…`; without it the value is the store's.
    source: Option<String>,
}

/// What is known of a lease: enough to tell which value was used.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Used {
    credential: CredentialName,
    /// 0 for a value that was read from a source.
    version: u32,
}

impl Engine for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn check(&self, credential: &CredentialName, config: &Value) -> Result<(), EngineFault> {
        read_config(credential, config).map(drop)
    }

    fn plan<'a>(
        &'a self,
        permit: &'a Permit,
        _: LeaseId,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move {
            let credential = of(permit)?.clone();
            let version = match read_config(&credential, config)?.source {
                Some(_) => 0,
                None => tools.latest(&credential).await?,
            };
            serde_json::to_value(Used { credential, version })
                .map(Receipt)
                .map_err(|fault| EngineFault::Receipt(fault.to_string()))
        })
    }

    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        receipt: &'a Receipt,
        config: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(async move {
            let Used { credential, version } = read_receipt(receipt)?;
            let permitted = of(permit)?;
            if credential != *permitted {
                let detail = format!("it is of {credential}, the permit of {permitted}");
                return Err(EngineFault::Receipt(detail));
            }
            let secret = match read_config(&credential, config)?.source {
                Some(reference) => tools.read(&credential, &reference).await?,
                None => tools.value(&credential, version).await?,
            };
            if secret.is_empty() {
                return Err(EngineFault::NoValue { credential, detail: "the value is empty".to_owned() });
            }
            Ok(Minted::bare(secret, version))
        })
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move { read_receipt(receipt).map(|_| Revoked::UseBlocked) })
    }

    fn example(&self) -> Value {
        json!({ "source": "cmd://pass show openai" })
    }
}

fn of(permit: &Permit) -> Result<&CredentialName, EngineFault> {
    let none = || EngineFault::Receipt("the permit is for a target without a credential".to_owned());
    permit.asked().credential.as_ref().ok_or_else(none)
}

fn read_config(credential: &CredentialName, config: &Value) -> Result<Config, EngineFault> {
    let fault = |detail: String| EngineFault::Config { credential: credential.clone(), detail };
    let config = Config::deserialize(config).map_err(|error| fault(error.to_string()))?;
    if let Some(reference) = &config.source {
        let known = reference.split_once("://").and_then(|(scheme, _)| source(scheme));
        known.ok_or_else(|| fault(unknown_scheme()))?;
    }
    Ok(config)
}

fn read_receipt(receipt: &Receipt) -> Result<Used, EngineFault> {
    Used::deserialize(&receipt.0).map_err(|fault| EngineFault::Receipt(fault.to_string()))
}
