//! The leases of this life of the broker, in memory: which are alive, which are being made, when each ends.
//!
//! The store is the truth about a lease; this table is how the broker finds, at once and without the disk, what a session or a
//! credential has out. It holds no secret.
//!
//! Invariant: a lease is in the table from before its first durable trace until its end is durable. So whoever ends a session
//! or changes a credential sees every lease there is: those that are alive are ended, those in flight are canceled and end as
//! soon as they would land.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use writ_core::{Clock, CredentialName, LeaseEnd, LeaseId, SessionId, TargetName};

use crate::deadline::Deadline;

/// Leases of one session, alive or in flight. A session has one per target and one more while it renews.
pub const SESSION_MAX: usize = 256;
/// Leases of all sessions.
pub const TOTAL_MAX: usize = 65_536;

/// The table, and the bells of the tasks that tend it.
#[derive(Default)]
pub struct Table {
    rows: Mutex<Rows>,
    /// Rung when a lease landed that may be the next to expire.
    pub landed: Notify,
    /// Rung when there is something to end or to settle.
    pub ending: Notify,
}

#[derive(Default)]
struct Rows {
    rows: HashMap<LeaseId, Row>,
    /// By time since boot, which never steps. Rows that ended otherwise are skipped when they come up.
    queue: BinaryHeap<Reverse<(Duration, LeaseId)>>,
    /// Where a revocation bars a session until its end.
    revoked: HashSet<(SessionId, TargetName)>,
}

/// What the table knows of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub session: SessionId,
    pub target: TargetName,
    pub credential: Option<CredentialName>,
    pub stage: Stage,
}

/// Where a lease stands, as far as this process is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An acquisition makes it.
    Flying,
    /// It must not land: what it was asked for has changed meanwhile.
    Canceled(LeaseEnd),
    /// Handed out.
    Alive(Deadline),
    /// To be ended in the store, tried until that is durable.
    Ending(LeaseEnd),
}

/// Why a lease may not even be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Too many at once.
    Crowded,
    /// A lease of this session on this target was revoked.
    Revoked,
}

impl Table {
    /// Enters a lease before anything is known of it elsewhere. When the flight is dropped without having landed, the lease
    /// is to be ended: it may or may not exist in the store and outside.
    pub fn take_off(
        &self,
        lease: LeaseId,
        session: SessionId,
        target: TargetName,
        credential: Option<CredentialName>,
    ) -> Result<Flight<'_>, Barred> {
        let mut rows = self.lock();
        if rows.revoked.contains(&(session, target.clone())) {
            return Err(Barred::Revoked);
        }
        let of_session = rows.rows.values().filter(|row| row.session == session).count();
        if of_session >= SESSION_MAX || rows.rows.len() >= TOTAL_MAX {
            return Err(Barred::Crowded);
        }
        rows.rows.insert(lease, Row { session, target, credential, stage: Stage::Flying });
        Ok(Flight { table: self, lease, landed: false })
    }

    /// Marks every lease that `which` selects for its end, and returns those that are alive and must be told of.
    /// Those in flight end where they would land. A revocation also bars the session from the target.
    pub fn mark(&self, end: LeaseEnd, which: impl Fn(&LeaseId, &Row) -> bool) -> Vec<LeaseId> {
        let mut marked = Vec::new();
        let mut rows = self.lock();
        let Rows { rows, revoked, .. } = &mut *rows;
        for (lease, row) in rows {
            if !which(lease, row) {
                continue;
            }
            if end == LeaseEnd::Revoked && matches!(row.stage, Stage::Flying | Stage::Alive(_)) {
                revoked.insert((row.session, row.target.clone()));
            }
            match row.stage {
                Stage::Flying => row.stage = Stage::Canceled(end),
                Stage::Alive(_) => {
                    row.stage = Stage::Ending(end);
                    marked.push(*lease);
                }
                Stage::Canceled(_) | Stage::Ending(_) => {}
            }
        }
        marked
    }

    /// The leases whose end is not durable yet, with that end.
    pub fn to_end(&self) -> Vec<(LeaseId, LeaseEnd)> {
        let ending = |(lease, row): (&LeaseId, &Row)| match row.stage {
            Stage::Ending(end) => Some((*lease, end)),
            _ => None,
        };
        self.lock().rows.iter().filter_map(ending).collect()
    }

    /// Forgets leases whose end is durable.
    pub fn forget(&self, leases: impl IntoIterator<Item = LeaseId>) {
        let mut rows = self.lock();
        for lease in leases {
            rows.rows.remove(&lease);
        }
    }

    /// Lifts the bars of a session that is over.
    pub fn session_is_over(&self, session: SessionId) {
        self.lock().revoked.retain(|(barred, _)| *barred != session);
    }

    /// Marks every lease that has expired, judged by both clocks, and returns them.
    pub fn expire(&self, clock: &dyn Clock) -> Vec<LeaseId> {
        let past = |row: &Row| matches!(row.stage, Stage::Alive(deadline) if deadline.has_passed(clock));
        self.mark(LeaseEnd::Expired, |_, row| past(row))
    }

    /// How long until the next lease may expire by the clock that does not step.
    pub fn next(&self, clock: &dyn Clock) -> Option<Duration> {
        let mut rows = self.lock();
        while let Some(Reverse((since_boot, lease))) = rows.queue.peek().copied() {
            if rows.rows.get(&lease).is_some_and(|row| matches!(row.stage, Stage::Alive(_))) {
                return Some(since_boot.saturating_sub(clock.boottime()));
            }
            rows.queue.pop();
        }
        None
    }

    /// Until when a lease lives that is alive now.
    pub fn deadline(&self, lease: &LeaseId) -> Option<Deadline> {
        match self.lock().rows.get(lease)?.stage {
            Stage::Alive(deadline) => Some(deadline),
            Stage::Flying | Stage::Canceled(_) | Stage::Ending(_) => None,
        }
    }

    /// Whether a revocation bars a session from a target.
    pub fn is_barred(&self, session: SessionId, target: &TargetName) -> bool {
        self.lock().revoked.contains(&(session, target.clone()))
    }

    /// How many are alive, of one session or credential.
    pub fn count(&self, which: impl Fn(&Row) -> bool) -> usize {
        let alive = |row: &&Row| matches!(row.stage, Stage::Alive(_)) && which(row);
        self.lock().rows.values().filter(alive).count()
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that is being made. Dropped before it landed, for whatever reason, it is ended.
#[must_use = "a flight that is dropped ends its lease"]
pub struct Flight<'a> {
    table: &'a Table,
    lease: LeaseId,
    landed: bool,
}

impl Flight<'_> {
    /// Hands the lease out, unless what it was asked for has changed meanwhile.
    ///
    /// # Errors
    /// How it must end instead.
    pub fn land(mut self, deadline: Deadline) -> Result<(), LeaseEnd> {
        let mut rows = self.table.lock();
        let Some(row) = rows.rows.get_mut(&self.lease) else { return Err(LeaseEnd::Revoked) };
        if let Stage::Canceled(end) = row.stage {
            return Err(end);
        }
        row.stage = Stage::Alive(deadline);
        rows.queue.push(Reverse((deadline.since_boot(), self.lease)));
        self.landed = true;
        drop(rows);
        self.table.landed.notify_one();
        Ok(())
    }
}

impl Drop for Flight<'_> {
    /// The backstop for every path that did not land, cancellation included.
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        if let Some(row) = self.table.lock().rows.get_mut(&self.lease) {
            let end = if let Stage::Canceled(end) = row.stage { end } else { LeaseEnd::Revoked };
            row.stage = Stage::Ending(end);
        }
        self.table.ending.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use writ_core::Timestamp;

    use super::*;

    fn id(number: u16) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn lease(number: u16) -> LeaseId {
        LeaseId::new(Timestamp::from_millis(0), &id(number))
    }

    fn session(number: u16) -> SessionId {
        SessionId::new(Timestamp::from_millis(0), &id(number))
    }

    fn take_off(table: &Table, of: u16, number: u16) -> Result<Flight<'_>, Barred> {
        table.take_off(lease(number), session(of), "t".parse().unwrap(), "c".parse().ok())
    }

    #[test]
    fn one_session_cannot_crowd_out_another() {
        let table = Table::default();
        let limit = u16::try_from(SESSION_MAX).unwrap();
        let flights: Vec<_> = (0..limit).map(|number| take_off(&table, 1, number).unwrap()).collect();
        assert_eq!(take_off(&table, 1, limit).err(), Some(Barred::Crowded));
        assert!(take_off(&table, 2, limit + 1).is_ok());
        drop(flights);
        assert_eq!(table.to_end().len(), SESSION_MAX + 1, "whatever did not land is to be ended");
        table.forget((0..limit).map(lease));
        assert!(take_off(&table, 1, limit + 2).is_ok());
    }

    #[test]
    fn a_revocation_bars_its_session_from_its_target_until_the_session_is_over() {
        let table = Table::default();
        let flight = take_off(&table, 1, 1).unwrap();
        assert!(table.mark(LeaseEnd::Revoked, |known, _| *known == lease(1)).is_empty(), "it flies");
        drop(flight);
        assert_eq!(table.to_end(), [(lease(1), LeaseEnd::Revoked)]);
        assert_eq!(take_off(&table, 1, 2).err(), Some(Barred::Revoked));
        assert!(take_off(&table, 2, 3).is_ok());
        table.session_is_over(session(1));
        assert!(take_off(&table, 1, 4).is_ok());
    }

    #[test]
    fn only_a_revocation_bars() {
        let table = Table::default();
        for (number, end) in [(1, LeaseEnd::Superseded), (2, LeaseEnd::Expired)] {
            let _flight = take_off(&table, 1, number).unwrap();
            table.mark(end, |known, _| *known == lease(number));
        }
        drop(take_off(&table, 1, 3).unwrap());
        assert!(take_off(&table, 1, 4).is_ok());
    }
}
