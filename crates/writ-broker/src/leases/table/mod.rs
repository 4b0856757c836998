//! The leases of this life of the broker, in memory: which are alive, which are being made, when each ends.
//!
//! The store is the truth about a lease; this table is how the broker finds, at once and without the disk, what a session or a
//! credential has out. It holds no secret.
//!
//! ```text
//!   lease ──index──► row (56 bytes) ──► session ──► role and workload, with their quota
//!                     ▲      └─ next, previous of the same session
//!   deadlines ────────┘
//! ```
//!
//! Invariant: a lease is in the table from before its first durable trace until its end is durable. So whoever ends a session
//! or changes a credential sees every lease there is: those that are alive are ended, those in flight are canceled and end as
//! soon as they would land.

mod asks;
mod cells;
mod holders;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use writ_core::{Clock, CredentialName, LeaseEnd, LeaseId, SessionId, TargetName, Timestamp};

pub use self::asks::{Barred, Booking, Which};
use self::{
    cells::{Cell, Cells, Handle, NONE, Stage},
    holders::{Groups, Holders, Names},
};
use crate::deadline::Deadline;

/// Leases of one session, alive or in flight. A session has one per target and one more while it renews.
pub const SESSION_MAX: usize = 256;
/// Leases of all sessions: about 85 MB of memory, and all that fit into the index and the queue before they double again.
pub const TOTAL_MAX: usize = 1 << 20;
/// A step of the wall clock, in milliseconds, after which every deadline is judged anew. Less is the slewing of NTP.
const STEP: i64 = 1000;
/// The queue may hold as many rows that ended early as there are leases, and these.
const STALE: usize = 1024;

/// The table, and the bells of the tasks that tend it.
#[derive(Default)]
pub struct Table {
    rows: Mutex<Rows>,
    /// Rung when a lease landed that may be the next to expire.
    pub landed: Notify,
    /// Rung when a lease landed that is to be renewed.
    pub revealed: Notify,
    /// Rung when there is something to end or to settle.
    pub ending: Notify,
}

#[derive(Default)]
struct Rows {
    cells: Cells,
    holders: Holders,
    groups: Groups,
    targets: Names<TargetName>,
    credentials: Names<CredentialName>,
    alive: usize,
    /// How many are alive of each credential.
    alive_of: BTreeMap<u32, usize>,
    /// Those in stage [`Stage::Ending`].
    ending: BTreeMap<LeaseId, LeaseEnd>,
    /// In milliseconds since boot. Rows that ended otherwise are skipped when they come up.
    queue: BinaryHeap<Reverse<(u64, Handle)>>,
    /// When a revealed lease is to be renewed, since boot.
    renewals: BTreeSet<(Duration, LeaseId)>,
    /// How far the wall clock was ahead of the other when the queue was last made, in milliseconds.
    ahead: Option<i64>,
}

impl Table {
    /// Enters a lease. When the flight is dropped without having landed, the lease is to be ended: it may or may not exist in the
    /// store and outside.
    pub fn take_off(&self, booking: &Booking<'_>, clock: &dyn Clock) -> Result<Flight<'_>, Barred> {
        let mut rows = self.lock();
        let rows = &mut *rows;
        let principal = booking.principal;
        let target = rows.targets.number(booking.target);
        if let Some(holder) = rows.holders.find(&principal.session).and_then(|at| rows.holders.get(at)) {
            if holder.barred.contains(&target) {
                return Err(Barred::Revoked);
            }
            if holder.leases >= SESSION_MAX {
                return Err(Barred::Crowded);
            }
        }
        if rows.cells.len() >= TOTAL_MAX {
            return Err(Barred::Crowded);
        }
        let group = rows.groups.number(&principal.role, &principal.workload);
        rows.groups.get_mut(group).map_or(Ok(()), |group| group.take(&booking.quota, clock.boottime()))?;
        let holder = rows.holders.number(principal.session, group);
        let credential = booking.credential.map_or(NONE, |name| rows.credentials.number(name));
        let first = rows.holders.get(holder).map_or(NONE, |holder| holder.first);
        let cell = Cell {
            lease: booking.lease,
            at: 0,
            due: 0,
            holder,
            target,
            credential,
            next: first,
            previous: NONE,
            stage: Stage::Flying,
            revealed: booking.revealed,
        };
        // An identifier that comes twice would be a broken source of randomness.
        let Some(handle) = rows.cells.insert(cell) else {
            if let Some(group) = rows.groups.get_mut(group) {
                group.leases = group.leases.saturating_sub(1);
            }
            return Err(Barred::Crowded);
        };
        if let Some(first) = rows.cells.get_mut(first) {
            first.previous = handle;
        }
        if let Some(holder) = rows.holders.get_mut(holder) {
            holder.first = handle;
            holder.leases += 1;
        }
        Ok(Flight { table: self, handle, lease: booking.lease, landed: false })
    }

    /// Marks every lease that `which` selects for its end, and returns those that are alive and must be told of.
    /// Those in flight end where they would land. A revocation also bars the session from the target.
    pub fn mark(&self, end: LeaseEnd, which: Which<'_>) -> Vec<LeaseId> {
        let mut rows = self.lock();
        let handles = rows.select(which);
        handles.into_iter().filter_map(|handle| rows.mark(handle, end)).collect()
    }

    /// The leases whose end is not durable yet, with that end.
    pub fn to_end(&self) -> Vec<(LeaseId, LeaseEnd)> {
        self.lock().ending.iter().map(|(lease, end)| (*lease, *end)).collect()
    }

    /// Forgets leases whose end is durable.
    pub fn forget(&self, leases: impl IntoIterator<Item = LeaseId>) {
        let mut rows = self.lock();
        for lease in leases {
            if let Some(handle) = rows.cells.find(&lease) {
                rows.forget(handle);
            }
        }
    }

    /// Lifts the bars of a session that is over.
    pub fn session_is_over(&self, session: SessionId) {
        let mut rows = self.lock();
        let Some(number) = rows.holders.find(&session) else { return };
        if let Some(holder) = rows.holders.get_mut(number) {
            holder.barred.clear();
        }
        rows.holders.tidy(number);
    }

    /// Marks leases that have expired, judged by both clocks, and returns them: `limit` at the most, the longest overdue first.
    pub fn expire(&self, clock: &dyn Clock, limit: usize) -> Vec<LeaseId> {
        let mut rows = self.lock();
        rows.judge_steps(clock);
        let (now, boottime) = (clock.now(), millis(clock.boottime()));
        let mut expired = Vec::new();
        while expired.len() < limit {
            let Some((due, handle)) = rows.first() else { break };
            let passed = rows.cells.get(handle).is_some_and(|cell| cell.has_passed(now, boottime));
            if due > boottime && !passed {
                break;
            }
            rows.queue.pop();
            expired.extend(rows.mark(handle, LeaseEnd::Expired));
        }
        expired
    }

    /// How long until the next lease may expire by the clock that does not step.
    pub fn next(&self, clock: &dyn Clock) -> Option<Duration> {
        let (due, _) = self.lock().first()?;
        Some(Duration::from_millis(due).saturating_sub(clock.boottime()))
    }

    /// How many are alive.
    pub fn count(&self, which: Which<'_>) -> usize {
        let rows = self.lock();
        match which {
            Which::All => rows.alive,
            Which::Credential(name) => {
                let number = rows.credentials.find(name);
                number.and_then(|number| rows.alive_of.get(&number)).copied().unwrap_or(0)
            }
            _ => {
                let handles = rows.select(which);
                let alive =
                    |handle: &Handle| rows.cells.get(*handle).is_some_and(|cell| cell.stage == Stage::Alive);
                handles.iter().filter(|handle| alive(handle)).count()
            }
        }
    }

    /// When a lease ends that is alive now.
    pub fn expires_at(&self, lease: &LeaseId, clock: &dyn Clock) -> Option<Timestamp> {
        let rows = self.lock();
        let cell = rows.cells.find(lease).and_then(|at| rows.cells.get(at))?;
        let passed = cell.has_passed(clock.now(), millis(clock.boottime()));
        (cell.stage == Stage::Alive && !passed).then(|| Timestamp::from_millis(cell.at))
    }

    /// Whether a revocation bars a session from a target.
    pub fn is_barred(&self, session: &SessionId, target: &TargetName) -> bool {
        let rows = self.lock();
        let holder = rows.holders.find(session).and_then(|number| rows.holders.get(number));
        let target = rows.targets.find(target);
        holder.zip(target).is_some_and(|(holder, target)| holder.barred.contains(&target))
    }

    /// Moves the end of a lease. False if it is no longer alive.
    pub fn renew(&self, lease: &LeaseId, deadline: Deadline, clock: &dyn Clock) -> bool {
        let mut rows = self.lock();
        let Some(handle) = rows.cells.find(lease) else { return false };
        let alive = rows.set_deadline(handle, deadline, clock);
        drop(rows);
        self.landed.notify_one();
        alive
    }

    /// Takes the revealed leases out whose renewal is due.
    pub fn take_renewals(&self, clock: &dyn Clock) -> Vec<LeaseId> {
        let mut rows = self.lock();
        let now = clock.boottime();
        let mut due = Vec::new();
        while let Some((_, lease)) = rows.renewals.first().copied().filter(|(at, _)| *at <= now) {
            rows.renewals.pop_first();
            if rows.is_alive(&lease) {
                due.push(lease);
            }
        }
        due
    }

    /// Puts a renewal on the list, if the lease is alive.
    pub fn renew_at(&self, lease: LeaseId, at: Duration) {
        let mut rows = self.lock();
        if rows.is_alive(&lease) {
            rows.renewals.insert((at, lease));
        }
        drop(rows);
        self.revealed.notify_one();
    }

    /// How long until the next renewal.
    pub fn next_renewal(&self, clock: &dyn Clock) -> Option<Duration> {
        let at = self.lock().renewals.first().map(|(at, _)| *at)?;
        Some(at.saturating_sub(clock.boottime()))
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn is_alive(&self, lease: &LeaseId) -> bool {
        let cell = self.cells.find(lease).and_then(|handle| self.cells.get(handle));
        cell.is_some_and(|cell| cell.stage == Stage::Alive)
    }

    fn select(&self, which: Which<'_>) -> Vec<Handle> {
        match which {
            Which::Lease(lease) => self.cells.find(&lease).into_iter().collect(),
            Which::Session(session) => {
                let holder = self.holders.find(&session).and_then(|number| self.holders.get(number));
                let mut next = holder.map_or(NONE, |holder| holder.first);
                let mut handles = Vec::new();
                while let Some(cell) = self.cells.get(next) {
                    handles.push(next);
                    next = cell.next;
                }
                handles
            }
            Which::Credential(name) => {
                let Some(number) = self.credentials.find(name) else { return Vec::new() };
                self.cells.iter().filter(|(_, cell)| cell.credential == number).map(|(at, _)| at).collect()
            }
            Which::Flying(name) => {
                let mut handles = self.select(Which::Credential(name));
                handles.retain(|at| self.cells.get(*at).is_some_and(|cell| cell.stage == Stage::Flying));
                handles
            }
            Which::All => self.cells.iter().map(|(handle, _)| handle).collect(),
        }
    }

    /// Marks one for its end. The lease, if it was alive.
    fn mark(&mut self, handle: Handle, end: LeaseEnd) -> Option<LeaseId> {
        let cell = self.cells.get_mut(handle)?;
        let (lease, holder, target, stage) = (cell.lease, cell.holder, cell.target, cell.stage);
        match stage {
            Stage::Flying => cell.stage = Stage::Canceled(end),
            Stage::Alive => self.end(handle, end),
            Stage::Free | Stage::Canceled(_) | Stage::Ending(_) => return None,
        }
        if end == LeaseEnd::Revoked
            && let Some(holder) = self.holders.get_mut(holder)
            && !holder.barred.contains(&target)
        {
            holder.barred.push(target);
        }
        (stage == Stage::Alive).then_some(lease)
    }

    /// To be ended in the store, whatever it was before.
    fn end(&mut self, handle: Handle, end: LeaseEnd) {
        let Some(cell) = self.cells.get_mut(handle) else { return };
        if cell.stage == Stage::Alive {
            self.alive -= 1;
            if let Some(count) = self.alive_of.get_mut(&cell.credential) {
                *count -= 1;
            }
        }
        cell.stage = Stage::Ending(end);
        self.ending.insert(cell.lease, end);
    }

    /// Hands it out, or moves its end. False if it is not alive then.
    fn set_deadline(&mut self, handle: Handle, deadline: Deadline, clock: &dyn Clock) -> bool {
        let Some(cell) = self.cells.get_mut(handle) else { return false };
        match cell.stage {
            Stage::Flying => {
                cell.stage = Stage::Alive;
                self.alive += 1;
                *self.alive_of.entry(cell.credential).or_default() += 1;
            }
            Stage::Alive => {}
            Stage::Free | Stage::Canceled(_) | Stage::Ending(_) => return false,
        }
        (cell.at, cell.due) = (deadline.at.millis(), millis(deadline.since_boot()));
        self.queue.push(Reverse((cell.due, handle)));
        if cell.revealed {
            // In the last third of its life.
            let left = deadline.left(clock);
            self.renewals.insert((clock.boottime().saturating_add(left / 3 * 2), cell.lease));
        }
        if self.queue.len() > self.alive * 2 + STALE {
            self.requeue();
        }
        true
    }

    fn forget(&mut self, handle: Handle) {
        self.end(handle, LeaseEnd::Revoked);
        let Some(cell) = self.cells.remove(handle) else { return };
        self.ending.remove(&cell.lease);
        if let Some(next) = self.cells.get_mut(cell.next) {
            next.previous = cell.previous;
        }
        if let Some(previous) = self.cells.get_mut(cell.previous) {
            previous.next = cell.next;
        } else if let Some(holder) = self.holders.get_mut(cell.holder) {
            holder.first = cell.next;
        }
        if let Some(holder) = self.holders.get_mut(cell.holder) {
            holder.leases -= 1;
            if let Some(group) = self.groups.get_mut(holder.group) {
                group.leases = group.leases.saturating_sub(1);
            }
        }
        self.holders.tidy(cell.holder);
    }

    /// The next deadline of a lease that is alive.
    fn first(&mut self) -> Option<(u64, Handle)> {
        while let Some(Reverse((due, handle))) = self.queue.peek().copied() {
            let current = |cell: &&Cell| cell.stage == Stage::Alive && cell.due == due;
            if self.cells.get(handle).filter(current).is_some() {
                return Some((due, handle));
            }
            self.queue.pop();
        }
        None
    }

    /// Where the wall clock was set ahead, what passed by it has passed, and stays so.
    fn judge_steps(&mut self, clock: &dyn Clock) {
        let (now, boottime) = (clock.now().millis(), millis(clock.boottime()));
        let ahead = now.saturating_sub(i64::try_from(boottime).unwrap_or(i64::MAX));
        let known = *self.ahead.get_or_insert(ahead);
        if ahead.saturating_sub(known) <= STEP {
            self.ahead = Some(known.min(ahead));
            return;
        }
        self.ahead = Some(ahead);
        for (_, cell) in self.cells.iter_mut().filter(|(_, cell)| cell.stage == Stage::Alive) {
            let left = u64::try_from(cell.at.saturating_sub(now)).unwrap_or(0);
            cell.due = cell.due.min(boottime.saturating_add(left));
        }
        self.requeue();
    }

    /// Makes the queue anew, without what has ended.
    fn requeue(&mut self) {
        let alive = self.cells.iter().filter(|(_, cell)| cell.stage == Stage::Alive);
        self.queue = alive.map(|(handle, cell)| Reverse((cell.due, handle))).collect();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A lease that is being made. Dropped before it landed, for whatever reason, it is ended.
#[must_use = "a flight that is dropped ends its lease"]
pub struct Flight<'a> {
    table: &'a Table,
    handle: Handle,
    lease: LeaseId,
    landed: bool,
}

impl Flight<'_> {
    /// Hands the lease out, unless what it was asked for has changed meanwhile.
    ///
    /// # Errors
    /// How it must end instead.
    pub fn land(mut self, deadline: Deadline, clock: &dyn Clock) -> Result<(), LeaseEnd> {
        let mut rows = self.table.lock();
        match self.cell(&rows).map(|cell| cell.stage) {
            Some(Stage::Flying) => {}
            Some(Stage::Canceled(end)) => return Err(end),
            _ => return Err(LeaseEnd::Revoked),
        }
        let revealed = self.cell(&rows).is_some_and(|cell| cell.revealed);
        rows.set_deadline(self.handle, deadline, clock);
        self.landed = true;
        drop(rows);
        self.table.landed.notify_one();
        if revealed {
            self.table.revealed.notify_one();
        }
        Ok(())
    }

    fn cell<'a>(&self, rows: &'a Rows) -> Option<&'a Cell> {
        rows.cells.get(self.handle).filter(|cell| cell.lease == self.lease)
    }
}

impl Drop for Flight<'_> {
    /// The backstop for every path that did not land, cancellation included.
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        let mut rows = self.table.lock();
        if let Some(stage) = self.cell(&rows).map(|cell| cell.stage) {
            let end = if let Stage::Canceled(end) = stage { end } else { LeaseEnd::Revoked };
            rows.end(self.handle, end);
        }
        drop(rows);
        self.table.ending.notify_one();
    }
}
