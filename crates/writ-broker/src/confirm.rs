//! Whether the address behind a target's name was confirmed.
//!
//! `dial` and `tls_ca` lead a credential to another machine behind the same name, so a change of them suspends it. Setting a
//! credential confirms the targets that use it as they are then. Where the value comes from the configuration itself (`source`),
//! nobody ever sets it: the address that was used first counts as confirmed.

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;
use writ_core::{CredentialName, Refusal, RefusalKind, TargetName};

use crate::{
    config::{Resolved, ResolvedCredential, ResolvedTarget},
    fault,
    store::{Change, Store},
};

/// Refuses a target whose address changed since it was confirmed.
///
/// # Errors
/// [`RefusalKind::Denied`] with the next step; the store's fault.
pub(crate) async fn check(
    store: &dyn Store,
    target: &ResolvedTarget,
    credential: &ResolvedCredential,
) -> Result<(), Refusal> {
    let now = fingerprint(target);
    let known = store.meta(key(&target.name)).await.map_err(fault::store)?;
    match known {
        Some(known) if known == now => Ok(()),
        None if now.is_empty() => Ok(()),
        None if has_source(credential) => {
            let change = Change::PutMeta { key: key(&target.name), value: now };
            store.apply(vec![change]).await.map_err(fault::store)
        }
        _ => Err(Refusal::new(
            RefusalKind::Denied,
            format!("`dial` or `tls_ca` of the target {} changed: its credential is suspended", target.name),
            format!("check the address, then confirm it: `writ credential set {}`", credential.name),
        )),
    }
}

/// Confirms the targets of a credential as they are now.
pub(crate) fn changes(resolved: &Resolved, credential: &CredentialName) -> Vec<Change> {
    let uses = |target: &&std::sync::Arc<ResolvedTarget>| target.credential.as_ref() == Some(credential);
    let confirm = |target: &std::sync::Arc<ResolvedTarget>| Change::PutMeta {
        key: key(&target.name),
        value: fingerprint(target),
    };
    resolved.targets().filter(uses).map(confirm).collect()
}

fn has_source(credential: &ResolvedCredential) -> bool {
    credential.engine_config.get("source").is_some_and(Value::is_string)
}

fn key(target: &TargetName) -> String {
    format!("confirmed.{target}")
}

/// SHA-256 over both, each with its length; empty where the target has neither.
fn fingerprint(target: &ResolvedTarget) -> Vec<u8> {
    if target.dial.is_none() && target.tls_ca.is_none() {
        return Vec::new();
    }
    let mut context = Context::new(&SHA256);
    for part in [&target.dial, &target.tls_ca] {
        let part = part.as_deref().unwrap_or_default();
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().to_vec()
}
