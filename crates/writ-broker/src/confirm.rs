//! Whether the place that a target leads its credential to was confirmed.
//!
//! `host` leads a credential to another service, `dial` and `tls_ca` to another machine behind the same name, so a change of any of
//! them suspends it. Setting a
//! credential confirms the targets that use it as they are then, an administrator's password those of the logins that it makes. The host that was used first counts as confirmed. So do `dial` and
//! `tls_ca` where the value comes from the configuration itself (`source`): nobody ever sets it.
//!
//! An engine that makes logins takes its administrator's password where its own table says, whatever the target: that place
//! is confirmed for each credential, in the same way ([`leads`]).

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;
use writ_core::{CredentialName, Refusal, RefusalKind, TargetName};

use crate::{
    config::{Resolved, ResolvedCredential, ResolvedTarget},
    fault,
    store::{Change, Store},
};

/// What of an engine's table says where the administrator's password goes, and whose it is.
const PLACE: [&str; 7] = ["server", "dial", "tls", "tls_ca", "database", "user", "password"];

/// Refuses a target whose host or address changed since it was confirmed.
///
/// # Errors
/// [`RefusalKind::Denied`] with the next step; the store's fault.
pub(crate) async fn check(
    store: &dyn Store,
    target: &ResolvedTarget,
    credential: &ResolvedCredential,
) -> Result<(), Refusal> {
    leads(store, credential).await?;
    let suspended = |what: &str| {
        Err(Refusal::new(
            RefusalKind::Denied,
            format!("{what} of the target {} changed: its credential is suspended", target.name),
            format!("check where it leads, then confirm it: `writ credential set {}`", is_set(credential)),
        ))
    };
    let mut first = Vec::new();
    let (host, address) = (host(target), fingerprint(target));
    match store.meta(host_key(&target.name)).await.map_err(fault::store)? {
        Some(known) if known == host => {}
        Some(_) => return suspended("`host` or `credential`"),
        None => first.push(Change::PutMeta { key: host_key(&target.name), value: host }),
    }
    match store.meta(key(&target.name)).await.map_err(fault::store)? {
        Some(known) if known == address => {}
        None if address.is_empty() => {}
        None if has_source(credential) => {
            first.push(Change::PutMeta { key: key(&target.name), value: address });
        }
        _ => return suspended("`dial` or `tls_ca`"),
    }
    if first.is_empty() { Ok(()) } else { store.apply(first).await.map_err(fault::store) }
}

/// Refuses a credential whose engine would take its administrator's password to another place than the one that was confirmed.
/// For whatever logs in there: a login that is made, a survey, a rotation.
///
/// # Errors
/// [`RefusalKind::Denied`] with the next step; the store's fault.
pub(crate) async fn leads(store: &dyn Store, credential: &ResolvedCredential) -> Result<(), Refusal> {
    let Some(value) = place(credential) else { return Ok(()) };
    let key = place_key(&credential.name);
    match store.meta(key.clone()).await.map_err(fault::store)? {
        Some(known) if known == value => Ok(()),
        Some(_) => Err(Refusal::new(
            RefusalKind::Denied,
            format!(
                "`config` of the credential {} leads its administrator elsewhere: it is suspended",
                credential.name
            ),
            format!("check where it leads, then confirm it: `writ credential set {}`", is_set(credential)),
        )),
        None => store.apply(vec![Change::PutMeta { key, value }]).await.map_err(fault::store),
    }
}

/// Confirms the targets of a credential as they are now, and where it logs in as an administrator's.
pub(crate) fn changes(resolved: &Resolved, credential: &CredentialName) -> Vec<Change> {
    let uses = |target: &&std::sync::Arc<ResolvedTarget>| {
        let of = target.credential.as_ref().and_then(|name| resolved.credential(name));
        of.is_some_and(|of| of.name == *credential || is_set(of) == credential.as_str())
    };
    let confirm = |target: &std::sync::Arc<ResolvedTarget>| {
        [
            Change::PutMeta { key: key(&target.name), value: fingerprint(target) },
            Change::PutMeta { key: host_key(&target.name), value: host(target) },
        ]
    };
    let logs_in = resolved.credentials().filter(|of| is_set(of) == credential.as_str());
    let places =
        logs_in.filter_map(|of| Some(Change::PutMeta { key: place_key(&of.name), value: place(of)? }));
    resolved.targets().filter(uses).flat_map(confirm).chain(places).collect()
}

/// The credential whose value a person sets for this one: its own, or the administrator's with which an engine makes logins.
fn is_set(credential: &ResolvedCredential) -> &str {
    credential.engine_config.get("password").and_then(Value::as_str).unwrap_or(credential.name.as_str())
}

fn has_source(credential: &ResolvedCredential) -> bool {
    credential.engine_config.get("source").is_some_and(Value::is_string)
}

/// Host and port, and whose they are: a credential that takes another one's place is not led anywhere yet.
fn host(target: &ResolvedTarget) -> Vec<u8> {
    let credential = target.credential.as_ref().map_or("", CredentialName::as_str);
    format!("{credential} {}", target.authority).into_bytes()
}

fn host_key(target: &TargetName) -> String {
    format!("confirmed-host.{target}")
}

fn key(target: &TargetName) -> String {
    format!("confirmed.{target}")
}

fn place_key(credential: &CredentialName) -> String {
    format!("confirmed-place.{credential}")
}

/// SHA-256 over where an administrator's password goes and whose it is; `None` where the engine takes none.
fn place(credential: &ResolvedCredential) -> Option<Vec<u8>> {
    credential.engine_config.get("password")?;
    let own = PLACE.iter().map(|key| credential.engine_config.get(key).and_then(Value::as_str));
    Some(digest(own.chain([Some(credential.engine.as_str())])))
}

/// SHA-256 over both, each with its length; empty where the target has neither.
fn fingerprint(target: &ResolvedTarget) -> Vec<u8> {
    if target.dial.is_none() && target.tls_ca.is_none() {
        return Vec::new();
    }
    digest([target.dial.as_deref(), target.tls_ca.as_deref()])
}

fn digest<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for part in parts {
        let part = part.unwrap_or_default();
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().to_vec()
}
