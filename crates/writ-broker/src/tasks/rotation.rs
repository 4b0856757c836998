//! Finishes rotations that were left, and rotates what is due.
//!
//! A value that is pending is gone on with until it is the current one, at intervals that double up to [`RETRY_MAX`]. A schedule is
//! kept by the clock that does not step; only what passed while the daemon was away is judged by the wall clock, and by no
//! more than one period. Absent: when a password was changed last; the store knows it, as the age of the newest version.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::sleep;
use writ_core::CredentialName;

use crate::{
    broker::Broker,
    credentials::{self, Account, Rotated},
    door::Unlocked,
    store::StoreFault,
};

/// The pause after the first failure.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A pass happens at least this often.
const PERIOD: Duration = Duration::from_secs(30);
/// Rotations at the same time: one server that does not answer keeps no other waiting.
const AT_ONCE: usize = 8;

/// What this task knows of one credential, by the clock that does not step.
#[derive(Default)]
pub(crate) struct Plans {
    retries: HashMap<CredentialName, Retry>,
    schedule: HashMap<CredentialName, Due>,
}

#[derive(Clone, Copy)]
struct Retry {
    due: Duration,
    pause: Duration,
}

/// When the version that was there is to be changed.
#[derive(Clone, Copy)]
struct Due {
    version: u32,
    every: Duration,
    at: Duration,
}

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    let mut plans = Plans::default();
    loop {
        let next = tokio::select! {
            next = pass(&broker, &mut plans) => next.unwrap_or_else(|fault| {
                tracing::error!(%fault, "rotations could not be looked at");
                RETRY_MIN
            }),
            // A rotation that is cut off here is gone on with by the next life.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        tokio::select! {
            () = sleep(next) => {}
            () = broker.operations.rotations.left.notified() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// One pass. Returns when the next is due at the latest.
pub(crate) async fn pass(broker: &Broker, plans: &mut Plans) -> Result<Duration, StoreFault> {
    let Some(open) = broker.open_door() else { return Ok(PERIOD) };
    credentials::end_stale(broker).await?;
    let left: Vec<CredentialName> =
        broker.store.pending().await?.into_iter().map(|pending| pending.name).collect();
    let mut wanted: HashMap<CredentialName, Option<u32>> =
        plans.due(broker).await?.into_iter().map(|(name, version)| (name, Some(version))).collect();
    wanted.extend(left.into_iter().map(|name| (name, None)));
    let now = broker.clock.boottime();
    plans.retries.retain(|name, _| wanted.contains_key(name));
    wanted.retain(|name, _| plans.retries.get(name).is_none_or(|retry| retry.due <= now));
    let work = wanted.into_iter().map(|(name, due)| one(broker, open, name, due));
    let done = stream::iter(work.collect::<Vec<_>>());
    for (name, done) in done.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        if done {
            plans.retries.remove(&name);
        } else {
            plans.later(name, broker.clock.boottime());
        }
    }
    // What was just changed is planned anew now, before a wall clock steps.
    plans.due(broker).await?;
    Ok(plans.next(broker.clock.boottime()))
}

async fn one(
    broker: &Broker,
    open: &Unlocked,
    name: CredentialName,
    due: Option<u32>,
) -> (CredentialName, bool) {
    let done = match due {
        Some(version) => credentials::rotate_due(broker, open, &name, version).await,
        None => credentials::go_on(broker, open, &name).await,
    };
    match done {
        Ok(Rotated::Nothing) => {}
        Ok(Rotated::To { version, .. }) => tracing::info!(%name, version, "a password was changed"),
        Ok(Rotated::Dropped) => {
            tracing::info!(%name, "a change of a password was given up for the one that was set")
        }
        Err(fault) => {
            tracing::warn!(%name, %fault, "a password could not be changed yet; it is tried again");
            return (name, false);
        }
    }
    (name, true)
}

impl Plans {
    /// The credentials whose time is up.
    async fn due(&mut self, broker: &Broker) -> Result<Vec<(CredentialName, u32)>, StoreFault> {
        let Ok(rules) = broker.rules.in_force() else { return Ok(Vec::new()) };
        let now = broker.clock.boottime();
        let mut scheduled = HashMap::new();
        for credential in rules.resolved.credentials() {
            let Some(every) = Account::every(broker, credential) else { continue };
            let newest = broker.store.credential(credential.name.clone(), None).await?;
            let version = newest.as_ref().map_or(0, |newest| newest.version);
            let known = self.schedule.get(&credential.name).copied();
            let due = known.filter(|due| due.version == version && due.every == every).unwrap_or_else(|| {
                // A wall clock that stepped, however far, shifts it by one period at the most.
                let age = newest.map_or(every, |newest| broker.clock.now().saturating_since(newest.set_at));
                Due { version, every, at: now.saturating_add(every.saturating_sub(age)) }
            });
            scheduled.insert(credential.name.clone(), due);
        }
        self.schedule = scheduled;
        let due = self.schedule.iter().filter(|(_, due)| due.at <= now);
        Ok(due.map(|(name, due)| (name.clone(), due.version)).collect())
    }

    fn later(&mut self, name: CredentialName, now: Duration) {
        let pause = self.retries.get(&name).map_or(RETRY_MIN, |retry| retry.pause.saturating_mul(2));
        let pause = pause.min(RETRY_MAX);
        self.retries.insert(name, Retry { due: now.saturating_add(pause), pause });
    }

    fn next(&self, now: Duration) -> Duration {
        let retries = self.retries.values().map(|retry| retry.due);
        let waits = |name: &CredentialName| !self.retries.contains_key(name);
        let schedule = self.schedule.iter().filter(|(name, _)| waits(name)).map(|(_, due)| due.at);
        let next = retries.chain(schedule).min().unwrap_or(now.saturating_add(PERIOD));
        next.saturating_sub(now).clamp(TICK, PERIOD)
    }
}

/// The shortest sleep: a schedule that was just kept is looked at again with the version that it made.
const TICK: Duration = Duration::from_millis(100);
