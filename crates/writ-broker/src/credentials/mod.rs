//! Credentials: set, listed, removed, rotated. Whatever changes a value ends the leases of the old one first, or at once.

mod rotate;
mod rotate_fault;

pub(crate) use rotate::{Account, Rotated, Rotations, end_stale, go_on, release, rotate, rotate_due};
pub(crate) use rotate_fault::RotateFault;

use std::collections::{BTreeMap, HashSet};

use writ_api::{control::CredentialRow, control::Value, seal::Place as Seal};
use writ_core::{CredentialName, LeaseEnd, Refusal, RefusalKind, Secret};

use crate::{
    broker::Broker,
    config::ResolvedCredential,
    confirm,
    door::Unlocked,
    fault,
    keyring::Place,
    leases::{self, Which},
    store::{Change, CredentialVersion, StoreFault, StoredValue},
    values,
};

/// Longer references are refused.
const REFERENCE_MAX: usize = 4096;

/// Stores a new version, and ends the leases of the old ones: the next use acquires the new one. Returns the version, and how
/// many leases were revoked.
///
/// # Errors
/// [`RefusalKind::Invalid`] for a value that cannot be used; the store's and the source's faults.
pub(crate) async fn set(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
    value: Value,
) -> Result<(u32, usize), Refusal> {
    let _one = broker.setting.lock().await;
    let rules = broker.rules.in_force().ok();
    let newest = broker.store.credential(name.clone(), None).await.map_err(fault::store)?;
    // A value that is pending keeps the version that it is sealed for: which of the two works is found out afterwards.
    let pending = broker.store.pending().await.map_err(fault::store)?;
    let pending = pending.iter().filter(|pending| pending.name == *name).map(|pending| pending.version);
    let newest = newest.iter().map(|newest| newest.version).chain(pending).max();
    let version = newest.map_or(1, |newest| newest.saturating_add(1));
    let value = match value {
        Value::Sealed { value } => {
            let place = Seal::Control { purpose: format!("credential {name}") };
            let secret = broker.recipient.open(&value, &place).map_err(|_| unopened())?;
            usable(name, &secret)?;
            let place = Place::Credential { name: name.clone(), version };
            let sealed = open.vault.seal(&place, &secret);
            StoredValue::Sealed(sealed.map_err(|keyring| fault::internal(&keyring))?)
        }
        Value::Reference { reference } => {
            // Read once, so that a slip shows now and not in the middle of a run.
            usable(name, &read(&reference).await?)?;
            StoredValue::Reference(reference)
        }
    };
    let set_at = broker.clock.now();
    let put = CredentialVersion { name: name.clone(), version, value, set_at };
    let mut changes = vec![Change::PutCredential(put)];
    changes.extend(rules.iter().flat_map(|rules| confirm::changes(&rules.resolved, name)));
    broker.store.apply(changes).await.map_err(fault::store)?;
    broker.operations.rotations.left.notify_one();
    Ok((version, end_all(broker, name, LeaseEnd::Superseded).await?))
}

/// Ends the leases, removes every version, and ends what slipped in between. Returns how many leases were revoked.
///
/// # Errors
/// [`RefusalKind::NotFound`]; the store's fault.
pub(crate) async fn remove(broker: &Broker, name: &CredentialName) -> Result<usize, Refusal> {
    let _one = broker.setting.lock().await;
    let before = end_all(broker, name, LeaseEnd::Revoked).await?;
    match broker
        .store
        .apply(vec![Change::RemoveCredential(name.clone()), Change::DropPending(name.clone())])
        .await
    {
        Ok(()) => Ok(before.saturating_add(end_all(broker, name, LeaseEnd::Revoked).await?)),
        Err(StoreFault::Missing(_)) => Err(Refusal::new(
            RefusalKind::NotFound,
            format!("no value of {name} is stored"),
            "see `writ credential list`",
        )),
        Err(fault) => Err(fault::store(fault)),
    }
}

/// Every credential that is configured or stored, by name.
///
/// # Errors
/// The store's fault.
pub(crate) async fn list(broker: &Broker) -> Result<Vec<CredentialRow>, Refusal> {
    let rules = broker.rules.in_force().ok();
    let mut rows: BTreeMap<CredentialName, CredentialRow> = BTreeMap::new();
    for credential in rules.iter().flat_map(|rules| rules.resolved.credentials()) {
        rows.insert(credential.name.clone(), configured(credential));
    }
    for stored in broker.store.credentials().await.map_err(fault::store)? {
        let row = rows.entry(stored.name.clone()).or_insert_with(|| bare(&stored.name));
        row.version = stored.version;
        row.set_at = Some(stored.set_at);
        if row.source == MISSING {
            row.source = match &stored.value {
                StoredValue::Sealed(_) => "sealed".to_owned(),
                StoredValue::Reference(reference) => scheme(reference),
            };
        }
    }
    let pending = broker.store.pending().await.map_err(fault::store)?;
    let pending: HashSet<CredentialName> = pending.into_iter().map(|pending| pending.name).collect();
    for row in rows.values_mut() {
        row.rotating = pending.contains(&row.name);
        row.leases = broker.leases.count(Which::Credential(&row.name));
        let uses = rules.iter().flat_map(|rules| rules.resolved.targets());
        row.targets = uses
            .filter(|target| target.credential.as_ref() == Some(&row.name))
            .map(|target| target.name.clone())
            .collect();
    }
    Ok(rows.into_values().collect())
}

/// The word for a credential without a value.
const MISSING: &str = "missing";

fn configured(credential: &ResolvedCredential) -> CredentialRow {
    let source = credential.engine_config.get("source").and_then(serde_json::Value::as_str);
    CredentialRow {
        source: source.map_or_else(|| MISSING.to_owned(), scheme),
        owner: credential.owner.clone(),
        env: credential.env.clone(),
        ..bare(&credential.name)
    }
}

fn bare(name: &CredentialName) -> CredentialRow {
    CredentialRow {
        name: name.clone(),
        version: 0,
        set_at: None,
        source: MISSING.to_owned(),
        owner: None,
        env: Vec::new(),
        targets: Vec::new(),
        leases: 0,
        rotating: false,
    }
}

fn scheme(reference: &str) -> String {
    reference.split_once("://").map_or("unknown", |(scheme, _)| scheme).to_owned()
}

async fn end_all(broker: &Broker, name: &CredentialName, end: LeaseEnd) -> Result<usize, Refusal> {
    leases::end(broker, end, Which::Credential(name)).await.map_err(fault::store)
}

async fn read(reference: &str) -> Result<Secret, Refusal> {
    if reference.len() > REFERENCE_MAX {
        return Err(invalid(format!("a reference has at most {REFERENCE_MAX} bytes")));
    }
    writ_engine::read(reference).await.map_err(|fault| invalid(fault.to_string()))
}

fn usable(name: &CredentialName, secret: &Secret) -> Result<(), Refusal> {
    values::check(secret)
        .map_err(|unusable| invalid(format!("this value of {name} cannot be used: {unusable}")))
}

fn invalid(why: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, why, "nothing was changed; try again with another value")
}

fn unopened() -> Refusal {
    Refusal::new(
        RefusalKind::Invalid,
        "the value was not sealed to this daemon for this credential",
        "try again with this writ's own `credential set`",
    )
}
