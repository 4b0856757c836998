//! Who holds leases: sessions, and the roles and workloads on whose quota they go.

use std::{collections::HashMap, hash::Hash, time::Duration};

use writ_core::{RoleName, SessionId, SpiffeId};

use super::{
    Barred,
    cells::{Handle, NONE},
};
use crate::config::Quota;

/// Names by number, each kept once. They are those of the configuration, so they are few and stay.
pub(super) struct Names<T> {
    numbers: HashMap<T, u32>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Names<T> {
    pub(super) fn number(&mut self, name: &T) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        match self.numbers.get(name) {
            Some(known) => *known,
            None => *self.numbers.entry(name.clone()).or_insert(next),
        }
    }

    pub(super) fn find(&self, name: &T) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

/// A session with leases, or barred from targets.
pub(super) struct Holder {
    pub session: SessionId,
    pub group: u32,
    /// The first of its rows.
    pub first: Handle,
    pub leases: usize,
    /// Targets on which a revocation bars it until its end.
    pub barred: Vec<u32>,
}

/// Sessions by number. A number is used again when its session has nothing left.
#[derive(Default)]
pub(super) struct Holders {
    numbers: HashMap<SessionId, u32>,
    holders: Vec<Option<Holder>>,
    free: Vec<u32>,
}

impl Holders {
    pub(super) fn find(&self, session: &SessionId) -> Option<u32> {
        self.numbers.get(session).copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Holder> {
        self.holders.get(usize::try_from(number).ok()?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Holder> {
        self.holders.get_mut(usize::try_from(number).ok()?)?.as_mut()
    }

    pub(super) fn number(&mut self, session: SessionId, group: u32) -> u32 {
        if let Some(known) = self.find(&session) {
            return known;
        }
        let holder = Some(Holder { session, group, first: NONE, leases: 0, barred: Vec::new() });
        let number = self.free.pop().unwrap_or_else(|| u32::try_from(self.holders.len()).unwrap_or(u32::MAX));
        match usize::try_from(number).ok().and_then(|place| self.holders.get_mut(place)) {
            Some(place) => *place = holder,
            None => self.holders.push(holder),
        }
        self.numbers.insert(session, number);
        number
    }

    /// Forgets a session that has nothing left.
    pub(super) fn tidy(&mut self, number: u32) {
        let empty = |holder: &Holder| holder.leases == 0 && holder.barred.is_empty();
        let Some(holder) = self.get(number).filter(|holder| empty(holder)) else { return };
        let session = holder.session;
        self.numbers.remove(&session);
        if let Some(place) = usize::try_from(number).ok().and_then(|place| self.holders.get_mut(place)) {
            *place = None;
            self.free.push(number);
        }
    }
}

/// One role of one workload, and what it has used of its quota.
#[derive(Default)]
pub(super) struct Group {
    pub leases: u32,
    /// When all that was taken will have been earned, by the clock that does not step: the generic cell rate algorithm
    /// (ITU-T I.371, annex A), a token bucket in one number.
    earned: Duration,
}

#[derive(Default)]
pub(super) struct Groups {
    names: Names<(RoleName, SpiffeId)>,
    groups: Vec<Group>,
}

impl Groups {
    pub(super) fn number(&mut self, role: &RoleName, workload: &SpiffeId) -> u32 {
        let number = self.names.number(&(role.clone(), workload.clone()));
        let needed = usize::try_from(number).unwrap_or(0).saturating_add(1);
        if self.groups.len() < needed {
            self.groups.resize_with(needed, Group::default);
        }
        number
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Group> {
        self.groups.get_mut(usize::try_from(number).ok()?)
    }
}

impl Group {
    /// Takes one lease out of the quota, or says why not.
    pub(super) fn take(&mut self, quota: &Quota, now: Duration) -> Result<(), Barred> {
        if self.leases >= quota.leases_max {
            return Err(Barred::Quota { leases_max: quota.leases_max });
        }
        let each = quota.issue_rate.each();
        let earned = self.earned.max(now).saturating_add(each);
        let ahead = earned.saturating_sub(now);
        if let Some(wait) = ahead.checked_sub(quota.issue_rate.per).filter(|wait| !wait.is_zero()) {
            return Err(Barred::Rate { rate: quota.issue_rate, wait });
        }
        self.earned = earned;
        self.leases += 1;
        Ok(())
    }
}
