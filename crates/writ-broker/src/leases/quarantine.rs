//! Roles that get nothing new on a credential while what they had cannot be revoked.
//!
//! What was issued must die on time. Where the upstream does not let it die, more of it would only add to what outlives its lease, so
//! a role whose leases have been `revoking` for longer than [`QUARANTINE_AFTER`] is refused on that credential until they
//! are settled. It is derived from the store, so a restart changes nothing, and it ends by itself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use writ_core::{CredentialName, Refusal, RefusalKind, RoleName, Timestamp};

use crate::{
    broker::Broker,
    door::Unlocked,
    records,
    store::{StoreFault, Stuck},
};

/// How long a lease may be `revoking` before its role is quarantined. A server that restarts is back sooner.
pub const QUARANTINE_AFTER: Duration = Duration::from_secs(5 * 60);

/// What is quarantined now.
#[derive(Default)]
pub(crate) struct Quarantines(Mutex<BTreeMap<(RoleName, CredentialName), Stuck>>);

impl Quarantines {
    /// Whether the role may get another lease on the credential.
    ///
    /// # Errors
    /// [`RefusalKind::Quarantined`].
    pub(crate) fn check(&self, role: &RoleName, credential: &CredentialName) -> Result<(), Refusal> {
        let all = self.lock();
        let Some(stuck) = all.get(&(role.clone(), credential.clone())) else { return Ok(()) };
        let since = jiff::Timestamp::from_millisecond(stuck.since.millis());
        let since = since.map_or_else(|_| "an unknown time".to_owned(), |since| since.to_string());
        Err(Refusal::new(
            RefusalKind::Quarantined,
            format!(
                "{} of the role {role}'s leases on {credential} could not be revoked since {since}: nothing new is made until they are",
                stuck.leases
            ),
            "ask the operator to see `writ lease list`, and to bring back what the credential belongs to",
        ))
    }

    /// What is quarantined, by role and credential.
    pub(crate) fn all(&self) -> Vec<Stuck> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(RoleName, CredentialName), Stuck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the store again. What begins is an alarm, what ends is told, and both are recorded.
pub(crate) async fn review(broker: &Broker, open: &Unlocked) -> Result<(), StoreFault> {
    let after = i64::try_from(QUARANTINE_AFTER.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp::from_millis(broker.clock.now().millis().saturating_sub(after));
    let stuck = broker.store.stuck(before).await?;
    let now: BTreeMap<_, _> = stuck
        .into_iter()
        .filter_map(|stuck| Some(((stuck.role.clone(), stuck.credential.clone()?), stuck)))
        .collect();
    let old = std::mem::replace(&mut *broker.quarantines.lock(), now.clone());
    for (key, stuck) in &now {
        if !old.contains_key(key) {
            let (role, credential) = key;
            tracing::error!(%role, %credential, leases = stuck.leases, "leases cannot be revoked: the role gets no more of them");
            records::quarantine(broker, open, "quarantine", key);
        }
    }
    for key in old.keys().filter(|key| !now.contains_key(*key)) {
        let (role, credential) = key;
        tracing::info!(%role, %credential, "every lease that was stuck is settled: the role gets leases again");
        records::quarantine(broker, open, "quarantine-ended", key);
    }
    Ok(())
}
