//! The rows of the table, each in one place: 56 bytes and 4 to 11 in the index by identifier.
//!
//! Everything else names a row by its [`Handle`], a number of 32 bits. A free row keeps its place for the next lease, so memory
//! follows the most leases there ever were at once.

use writ_core::{LeaseEnd, LeaseId, Timestamp};

/// A row's place.
pub(super) type Handle = u32;
/// No row.
pub(super) const NONE: Handle = Handle::MAX;

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub lease: LeaseId,
    /// The wall clock's end of it, in milliseconds.
    pub at: i64,
    /// The same by the clock that does not step, in milliseconds.
    pub due: u64,
    /// Of the session.
    pub holder: u32,
    pub target: u32,
    pub credential: u32,
    /// The next and the one before of the same session; of a free row, the next free one.
    pub next: Handle,
    pub previous: Handle,
    pub stage: Stage,
    /// The program holds the credential itself.
    pub revealed: bool,
}

/// Where a lease stands, as far as this process is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    /// An acquisition makes it.
    Flying,
    /// It must not land: what it was asked for has changed meanwhile.
    Canceled(LeaseEnd),
    /// Handed out.
    Alive,
    /// To be ended in the store, tried until that is durable.
    Ending(LeaseEnd),
}

/// The rows, and how to find one by its lease.
pub(super) struct Cells {
    cells: Vec<Cell>,
    free: Handle,
    used: usize,
    /// Open addressing with linear probing; the length is a power of two.
    index: Vec<Handle>,
}

/// The index is at least a quarter empty.
const FILL: (usize, usize) = (3, 4);
const INDEX_MIN: usize = 16;

impl Default for Cells {
    fn default() -> Self {
        Self { cells: Vec::new(), free: NONE, used: 0, index: vec![NONE; INDEX_MIN] }
    }
}

impl Cells {
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Cell> {
        self.cells.get(place(handle)).filter(|cell| cell.stage != Stage::Free)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Cell> {
        self.cells.get_mut(place(handle)).filter(|cell| cell.stage != Stage::Free)
    }

    pub(super) fn find(&self, lease: &LeaseId) -> Option<Handle> {
        self.slot(lease).and_then(|slot| self.index.get(slot).copied())
    }

    /// Every row, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Cell)> {
        (0..).zip(&self.cells).filter(|(_, cell)| cell.stage != Stage::Free)
    }

    /// Every row, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut Cell)> {
        let used = |(_, cell): &(Handle, &mut Cell)| cell.stage != Stage::Free;
        (0..).zip(self.cells.iter_mut()).filter(used)
    }

    /// Takes a row. `None` if there is one of that lease already, or no number is left.
    pub(super) fn insert(&mut self, cell: Cell) -> Option<Handle> {
        if self.find(&cell.lease).is_some() {
            return None;
        }
        if self.used >= self.index.len() / FILL.1 * FILL.0 {
            self.grow();
        }
        let handle = match self.cells.get_mut(place(self.free)) {
            Some(free) => {
                let handle = self.free;
                self.free = free.next;
                *free = cell;
                handle
            }
            None => {
                let handle = Handle::try_from(self.cells.len()).ok().filter(|handle| *handle != NONE)?;
                self.cells.push(cell);
                handle
            }
        };
        self.used += 1;
        self.enter(handle, &cell.lease);
        Some(handle)
    }

    /// Gives a row back.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<Cell> {
        let cell = *self.get(handle)?;
        let slot = self.slot(&cell.lease)?;
        self.leave(slot);
        let free = Cell { stage: Stage::Free, next: self.free, ..cell };
        if let Some(place) = self.cells.get_mut(place(handle)) {
            *place = free;
        }
        self.free = handle;
        self.used -= 1;
        Some(cell)
    }

    /// Where in the index the lease stands.
    fn slot(&self, lease: &LeaseId) -> Option<usize> {
        let mask = self.index.len() - 1;
        let mut slot = home(lease, mask);
        loop {
            let handle = *self.index.get(slot)?;
            let cell = self.cells.get(place(handle))?;
            if cell.lease == *lease {
                return Some(slot);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn enter(&mut self, handle: Handle, lease: &LeaseId) {
        let mask = self.index.len() - 1;
        let mut slot = home(lease, mask);
        while let Some(found) = self.index.get_mut(slot) {
            if *found == NONE {
                *found = handle;
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Empties a slot, and moves those back that only its being full kept from theirs.
    fn leave(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let Some(handle) = self.index.get(slot).copied() else { break };
            let Some(cell) = self.cells.get(place(handle)) else { break };
            let home = home(&cell.lease, mask);
            // It may move if the hole lies between its home and where it stands, going round.
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                if let Some(empty) = self.index.get_mut(hole) {
                    *empty = handle;
                }
                hole = slot;
            }
        }
        if let Some(empty) = self.index.get_mut(hole) {
            *empty = NONE;
        }
    }

    fn grow(&mut self) {
        let length = self.index.len() * 2;
        self.index = vec![NONE; length];
        let leases: Vec<(Handle, LeaseId)> = self.iter().map(|(handle, cell)| (handle, cell.lease)).collect();
        for (handle, lease) in leases {
            self.enter(handle, &lease);
        }
    }
}

impl Cell {
    /// Whether the wall clock or the other one says that it is over.
    pub(super) fn has_passed(&self, now: Timestamp, boottime: u64) -> bool {
        self.at <= now.millis() || self.due <= boottime
    }
}

fn place(handle: Handle) -> usize {
    usize::try_from(handle).unwrap_or(usize::MAX)
}

/// Where a lease stands in the index if nobody else does. Most of an identifier is random (RFC 9562, §5.7), and nobody but us
/// makes them, so mixing the halves is enough.
fn home(lease: &LeaseId, mask: usize) -> usize {
    let both = u128::from_be_bytes(*lease.as_bytes());
    let folded = ((both >> 64) as u64).rotate_left(32) ^ (both as u64);
    let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & mask
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn cell(number: u16) -> Cell {
        let mut random = [0; 10];
        random[..2].copy_from_slice(&number.to_be_bytes());
        Cell {
            lease: LeaseId::new(Timestamp::from_millis(0), &random),
            at: i64::from(number),
            due: 0,
            holder: 0,
            target: 0,
            credential: 0,
            next: NONE,
            previous: NONE,
            stage: Stage::Alive,
            revealed: false,
        }
    }

    #[test]
    fn a_row_is_as_small_as_the_books_say() {
        assert_eq!(size_of::<Cell>(), 56);
    }

    proptest! {
        /// Whatever comes and goes, the rows are those of a map, and no more places are used than were needed at once.
        #[test]
        fn rows_are_found_until_they_are_removed(steps in proptest::collection::vec((0u16..64, any::<bool>()), 0..400)) {
            let (mut cells, mut model, mut most) = (Cells::default(), BTreeMap::new(), 0);
            for (number, comes) in steps {
                let wanted = cell(number);
                if comes {
                    let handle = cells.insert(wanted);
                    prop_assert_eq!(handle.is_some(), !model.contains_key(&number));
                    model.entry(number).or_insert_with(|| handle.unwrap());
                } else if let Some(handle) = model.remove(&number) {
                    prop_assert_eq!(cells.remove(handle).map(|cell| cell.at), Some(i64::from(number)));
                } else {
                    prop_assert_eq!(cells.find(&wanted.lease), None);
                }
                most = most.max(model.len());
                prop_assert_eq!(cells.len(), model.len());
                for (number, handle) in &model {
                    prop_assert_eq!(cells.find(&cell(*number).lease), Some(*handle));
                }
            }
            prop_assert!(cells.cells.len() <= most);
        }
    }
}
