//! Rotation: a password that lives on gets another value, and the only one that works is never lost.
//!
//! ```text
//!   next ─► PutPending durable ─► set ─► test(next) ─► PutCredential + DropPending, durable at once ─► old leases end
//!                 └── after a crash, a failure, a dropped future: test(next) first; else set again with what still works
//! ```
//!
//! While a value is pending, either may be in force upstream, so it is kept until one of them was *seen* to work as the current
//! one. It is sealed for the version that it will be, so that promoting it only moves it. Whoever finds it in the store goes on with
//! it: this command, the next one, the task, another daemon; all of them set the same value. Absent: making a password; engines
//! do that, and say whose it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use writ_audit::Outcome;
use writ_core::{
    BoxFuture, CredentialName, EngineFault, LeaseEnd, LeaseState, Rotation, Secret, Tools, fault_point,
};

use super::RotateFault;
use crate::{
    broker::Broker,
    config::ResolvedCredential,
    confirm,
    door::Unlocked,
    keyring::Place,
    leases::{self, BrokerTools, Which},
    records,
    rules::Rules,
    store::{Change, CredentialVersion, LeaseFilter, PendingValue, StoreFault, StoredValue},
    values,
};

/// The longest that one step upstream may take.
const STEP_MAX: Duration = Duration::from_secs(15);

/// How many stored versions below the newest are tried when neither it nor the pending value works.
const TRIED_MAX: u32 = 32;

/// What is being rotated in this process.
#[derive(Default)]
pub(crate) struct Rotations {
    busy: Mutex<HashSet<CredentialName>>,
    /// Promoted to this version, with leases on older ones that may not have been ended yet.
    stale: Mutex<BTreeMap<CredentialName, u32>>,
    /// Rung when a value is left pending.
    pub left: Notify,
}

/// What a rotation achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotated {
    /// The version that is in force now, and how many leases on older ones were ended.
    To { version: u32, leases_ended: usize },
    /// The current value works, and one that an operator set takes the place of the pending one.
    Dropped,
    /// Nothing was left to do.
    Nothing,
}

/// Changes the password behind `name`, or goes on with a change that was left.
///
/// # Errors
/// [`RotateFault`]. What was begun goes on by itself.
pub(crate) async fn rotate(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
) -> Result<Rotated, RotateFault> {
    work(broker, open, name, Only::Asked).await
}

/// Goes on with a change that was left, if there is one.
///
/// # Errors
/// [`RotateFault`]. It is tried again.
pub(crate) async fn go_on(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
) -> Result<Rotated, RotateFault> {
    work(broker, open, name, Only::Left).await
}

/// Changes the password if `version` is still the newest: its time is up.
///
/// # Errors
/// [`RotateFault`]. It is tried again.
pub(crate) async fn rotate_due(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
    version: u32,
) -> Result<Rotated, RotateFault> {
    work(broker, open, name, Only::Version(version)).await
}

/// What must still be so when nobody else works on the credential.
#[derive(Clone, Copy)]
enum Only {
    Asked,
    Left,
    Version(u32),
}

async fn work(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
    only: Only,
) -> Result<Rotated, RotateFault> {
    let rules = broker.rules.in_force().map_err(RotateFault::Refused)?;
    let account = Account::of(broker, &rules, name)?;
    let _one = broker.operations.rotations.begin(name)?;
    let work = Work { broker, open, name, account };
    let wanted = match only {
        Only::Asked => true,
        Only::Left => work.left().await?.is_some(),
        Only::Version(version) => {
            let newest = broker.store.credential(name.clone(), None).await?;
            newest.map_or(0, |newest| newest.version) == version
        }
    };
    if !wanted {
        return Ok(Rotated::Nothing);
    }
    let entry = records::rotation(broker, open, name).await.map_err(RotateFault::Refused)?;
    let done = work.all().await;
    entry.close(&match &done {
        Ok(Rotated::To { .. }) => Outcome { reason: Some("promoted"), ..Outcome::ok() },
        Ok(Rotated::Dropped | Rotated::Nothing) => Outcome { reason: Some("dropped"), ..Outcome::ok() },
        Err(fault) => Outcome::failed(fault.word()),
    });
    if done.is_err() {
        broker.operations.rotations.left.notify_one();
    }
    done
}

/// Takes a version out of force, now that a lease on it has ended: true if it is, false if another lease holds it.
///
/// # Errors
/// [`RotateFault`].
pub(crate) async fn release(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
    version: u32,
) -> Result<bool, RotateFault> {
    let newest = broker.store.credential(name.clone(), None).await?;
    if newest.is_none_or(|newest| newest.version > version) {
        return Ok(true);
    }
    let filter = LeaseFilter { credential: Some(name.clone()), ..LeaseFilter::default() };
    let held = broker.store.leases(filter).await?;
    if held.iter().any(|lease| matches!(lease.state, LeaseState::Pending | LeaseState::Active)) {
        return Ok(false);
    }
    match rotate(broker, open, name).await? {
        Rotated::To { version: now, .. } => Ok(now > version),
        Rotated::Dropped | Rotated::Nothing => Ok(false),
    }
}

/// Ends what was left on older versions when a rotation was interrupted behind its promotion.
///
/// # Errors
/// The store's fault; it is tried again.
pub(crate) async fn end_stale(broker: &Broker) -> Result<(), StoreFault> {
    let stale = broker.operations.rotations.stale().clone();
    for (name, version) in stale {
        supersede(broker, &name, version).await?;
    }
    Ok(())
}

impl Rotations {
    /// # Errors
    /// [`RotateFault::Busy`].
    fn begin(&self, name: &CredentialName) -> Result<Busy<'_>, RotateFault> {
        if !self.busy().insert(name.clone()) {
            return Err(RotateFault::Busy(name.clone()));
        }
        Ok(Busy { rotations: self, name: name.clone() })
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<CredentialName>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stale(&self) -> MutexGuard<'_, BTreeMap<CredentialName, u32>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One rotation of a credential at a time.
struct Busy<'a> {
    rotations: &'a Rotations,
    name: CredentialName,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.rotations.busy().remove(&self.name);
    }
}

/// The account that a password opens, and who can change it there.
pub(crate) struct Account<'a> {
    of: &'a ResolvedCredential,
    rotation: &'a dyn Rotation,
}

impl<'a> Account<'a> {
    /// # Errors
    /// [`RotateFault::Nowhere`], [`RotateFault::Shared`], [`RotateFault::Elsewhere`].
    pub(crate) fn of(
        broker: &'a Broker,
        rules: &'a Rules,
        name: &CredentialName,
    ) -> Result<Self, RotateFault> {
        let mut found = None;
        let mut accounts = BTreeSet::new();
        for of in rules.resolved.credentials() {
            let engine = broker.engines.engine(&of.engine);
            let Some(rotation) = engine.and_then(|engine| engine.rotation()) else { continue };
            accounts.extend(rotation.account(&of.name, &of.engine_config, name));
            let speaks = rotation.password_of(&of.name, &of.engine_config).is_ok_and(|of| of == *name);
            if speaks && found.is_none() {
                found = Some(Self { of, rotation });
            }
        }
        if accounts.len() > 1 {
            let accounts = accounts.into_iter().collect::<Vec<_>>().join(", ");
            return Err(RotateFault::Shared { name: name.clone(), accounts });
        }
        let stored = rules.resolved.credential(name);
        if stored.is_some_and(|stored| stored.engine_config.get("source").is_some()) {
            return Err(RotateFault::Elsewhere(name.clone()));
        }
        found.ok_or_else(|| RotateFault::Nowhere(name.clone()))
    }

    /// How long a static role's password stays, where its configuration says it.
    pub(crate) fn every(broker: &Broker, of: &ResolvedCredential) -> Option<Duration> {
        let rotation = broker.engines.engine(&of.engine)?.rotation()?;
        let own = rotation.password_of(&of.name, &of.engine_config).is_ok_and(|password| password == of.name);
        let every = rotation.every(&of.name, &of.engine_config).filter(|_| own)?;
        Some(every.duration())
    }

    /// Whether an administrator changes it, so that the old value is not needed.
    fn is_static_role(&self, name: &CredentialName) -> bool {
        self.of.name == *name
    }
}

/// One rotation.
struct Work<'a> {
    broker: &'a Broker,
    open: &'a Unlocked,
    name: &'a CredentialName,
    account: Account<'a>,
}

impl Work<'_> {
    async fn all(&self) -> Result<Rotated, RotateFault> {
        confirm::leads(self.broker.store.as_ref(), self.account.of).await.map_err(RotateFault::Refused)?;
        if let Some(left) = self.left().await? {
            return self.go_on(left).await;
        }
        match self.begin().await {
            Ok(pending) => self.change(pending).await,
            // Another daemon was quicker: it goes on with the same value.
            Err(RotateFault::Store(StoreFault::Conflict(_))) => match self.left().await? {
                Some(left) => self.go_on(left).await,
                None => Err(RotateFault::Busy(self.name.clone())),
            },
            Err(fault) => Err(fault),
        }
    }

    async fn left(&self) -> Result<Option<PendingValue>, RotateFault> {
        let pending = self.broker.store.pending().await?;
        Ok(pending.into_iter().find(|pending| pending.name == *self.name))
    }

    /// Makes the next value, durable before anything upstream is changed.
    async fn begin(&self) -> Result<PendingValue, RotateFault> {
        let _one = self.broker.setting.lock().await;
        let newest = self.broker.store.credential(self.name.clone(), None).await?;
        match newest.as_ref().map(|newest| &newest.value) {
            Some(StoredValue::Reference(_)) => return Err(RotateFault::Elsewhere(self.name.clone())),
            None if !self.account.is_static_role(self.name) => {
                let detail = "it was never set: run `writ credential set`".to_owned();
                return Err(EngineFault::NoValue { credential: self.name.clone(), detail }.into());
            }
            _ => {}
        }
        let Account { of, rotation } = &self.account;
        let next = rotation.next(&of.name, &of.engine_config)?;
        values::check(&next).map_err(|why| RotateFault::Unusable { name: self.name.clone(), why })?;
        let version = newest.map_or(1, |newest| newest.version.saturating_add(1));
        let pending = self.sealed(version, &next)?;
        self.broker.store.apply(vec![Change::PutPending(pending.clone())]).await?;
        fault_point!("rotate.pending");
        Ok(pending)
    }

    fn sealed(&self, version: u32, next: &Secret) -> Result<PendingValue, RotateFault> {
        let place = Place::Credential { name: self.name.clone(), version };
        let sealed = self.open.vault.seal(&place, next)?;
        Ok(PendingValue { name: self.name.clone(), version, sealed, set_at: self.broker.clock.now() })
    }

    fn opened(&self, pending: &PendingValue) -> Result<Secret, RotateFault> {
        let place = Place::Credential { name: self.name.clone(), version: pending.version };
        Ok(self.open.vault.open(&place, &pending.sealed)?)
    }

    /// The first attempt: the next value is in force nowhere yet.
    async fn change(&self, pending: PendingValue) -> Result<Rotated, RotateFault> {
        let next = self.opened(&pending)?;
        let current = self.value(pending.version.saturating_sub(1)).await?;
        // A fault may come after the effect: what is pending is gone on with.
        self.set(&current.unwrap_or_else(nothing), &next).await?;
        self.promote_if_seen(pending, &next).await
    }

    /// Goes on with a value that was left pending by whoever, wherever it was left.
    async fn go_on(&self, pending: PendingValue) -> Result<Rotated, RotateFault> {
        let next = self.opened(&pending)?;
        let newest = self.broker.store.credential(self.name.clone(), None).await?;
        let newest = newest.map_or(0, |newest| newest.version);
        if newest >= pending.version {
            return self.overtaken(pending, &next, newest).await;
        }
        if self.account.is_static_role(self.name) {
            // The administrator sets it, whatever it is now.
            self.set(&self.value(newest).await?.unwrap_or_else(nothing), &next).await?;
            return self.promote_if_seen(pending, &next).await;
        }
        let next_works = self.works(&next).await?;
        // A server that lets anybody in takes the old one as well, and was perhaps never told the next one. A value before it is
        // in force where the store was put back, or the server was, or an operator set what never worked.
        let last = if next_works { newest } else { newest.saturating_sub(TRIED_MAX) };
        if let Some(known) = self.in_force(last..=newest).await? {
            self.set(&known, &next).await?;
            return self.promote_if_seen(pending, &next).await;
        }
        if next_works {
            return self.promote(pending).await;
        }
        Err(RotateFault::Neither(self.name.clone()))
    }

    /// An operator set a value while another was pending: what works counts.
    async fn overtaken(
        &self,
        pending: PendingValue,
        next: &Secret,
        newest: u32,
    ) -> Result<Rotated, RotateFault> {
        let current = self.value(newest).await?;
        if let Some(current) = current
            && self.works(&current).await?
        {
            self.broker.store.apply(vec![Change::DropPending(self.name.clone())]).await?;
            return Ok(Rotated::Dropped);
        }
        let next_works = self.works(next).await?;
        let known = match newest.checked_sub(1) {
            // What the operator set may never have been in force, and the pending value neither.
            Some(before) if !next_works => self.in_force(newest.saturating_sub(TRIED_MAX)..=before).await?,
            _ => None,
        };
        if !next_works && known.is_none() {
            return Err(RotateFault::Neither(self.name.clone()));
        }
        // It takes the place behind the newest, in one step with being sealed for it.
        let resealed = self.sealed(newest.saturating_add(1), next)?;
        let again = vec![Change::DropPending(pending.name), Change::PutPending(resealed.clone())];
        self.broker.store.apply(again).await?;
        match known {
            Some(known) => {
                self.set(&known, next).await?;
                self.promote_if_seen(resealed, next).await
            }
            None => self.promote(resealed).await,
        }
    }

    /// The newest of these stored versions that works.
    async fn in_force(&self, versions: RangeInclusive<u32>) -> Result<Option<Secret>, RotateFault> {
        let newest = *versions.end();
        for version in versions.rev() {
            let known = match self.value(version).await {
                Ok(Some(known)) => known,
                Ok(None) => continue,
                // An old one that cannot be read hides no older one.
                Err(RotateFault::Engine(_)) if version < newest => continue,
                Err(fault) => return Err(fault),
            };
            if self.works(&known).await? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    async fn promote_if_seen(&self, pending: PendingValue, next: &Secret) -> Result<Rotated, RotateFault> {
        if self.works(next).await? {
            self.promote(pending).await
        } else {
            Err(RotateFault::Unseen(self.name.clone()))
        }
    }

    /// Invariant: the pending value was seen to work. It becomes the current one and stops being pending in one durable step.
    async fn promote(&self, pending: PendingValue) -> Result<Rotated, RotateFault> {
        fault_point!("rotate.seen");
        let _one = self.broker.setting.lock().await;
        let PendingValue { name, version, sealed, .. } = pending;
        let newest = self.broker.store.credential(name.clone(), None).await?;
        // An operator set one meanwhile, or another daemon promoted this one: what is left is looked at anew.
        if newest.is_some_and(|newest| newest.version >= version) {
            return Err(RotateFault::Busy(name));
        }
        self.broker.operations.rotations.stale().insert(name.clone(), version);
        let set_at = self.broker.clock.now();
        let put =
            CredentialVersion { name: name.clone(), version, value: StoredValue::Sealed(sealed), set_at };
        let promote = vec![Change::PutCredential(put), Change::DropPending(name.clone())];
        self.broker.store.apply(promote).await?;
        fault_point!("rotate.promoted");
        let leases_ended = supersede(self.broker, &name, version).await?;
        fault_point!("rotate.ended");
        Ok(Rotated::To { version, leases_ended })
    }

    async fn value(&self, version: u32) -> Result<Option<Secret>, RotateFault> {
        match self.broker.store.credential(self.name.clone(), Some(version)).await? {
            None => Ok(None),
            Some(_) => Ok(Some(self.tools().value(self.name, version).await?)),
        }
    }

    async fn set(&self, current: &Secret, next: &Secret) -> Result<(), RotateFault> {
        let (of, tools) = (self.account.of, self.tools());
        let done =
            self.within(self.account.rotation.set(&of.name, &of.engine_config, current, next, &tools)).await;
        fault_point!("rotate.set");
        done
    }

    async fn works(&self, candidate: &Secret) -> Result<bool, RotateFault> {
        let (of, tools) = (self.account.of, self.tools());
        self.within(self.account.rotation.test(&of.name, &of.engine_config, candidate, &tools)).await
    }

    fn tools(&self) -> BrokerTools<'_> {
        BrokerTools { broker: self.broker, open: self.open }
    }

    async fn within<T>(&self, step: BoxFuture<'_, Result<T, EngineFault>>) -> Result<T, RotateFault> {
        match timeout(STEP_MAX, step).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                let detail = format!("it gave no answer in {} seconds", STEP_MAX.as_secs());
                Err(EngineFault::Outside { credential: self.name.clone(), detail }.into())
            }
        }
    }
}

/// Ends the leases that hold an older version than `version`, in flight or alive.
async fn supersede(broker: &Broker, name: &CredentialName, version: u32) -> Result<usize, StoreFault> {
    // What lands before this is in the store as active with its version; what flies tries again with the new one.
    leases::cancel(broker, LeaseEnd::Superseded, Which::Flying(name));
    let filter = LeaseFilter { credential: Some(name.clone()), ..LeaseFilter::default() };
    let mut ended = 0;
    for lease in broker.store.leases(filter).await? {
        if lease.state == LeaseState::Active && lease.version < version {
            leases::end_known(broker, &lease, LeaseEnd::Superseded).await?;
            ended += 1;
        }
    }
    broker.operations.rotations.stale().retain(|stale, to| stale != name || *to > version);
    Ok(ended)
}

fn nothing() -> Secret {
    Secret::new(Vec::new())
}
