//! The bounded queue between those who record and the log thread.
//!
//! It is one buffer in the shape of a block: callers copy their encoded records into it under a short lock, the log
//! thread swaps it for an empty one and writes it as it is. An open entry keeps room for its outcome, so that only
//! an attempt can ever find the queue full. Absent: a wake-up per record. While records flow the log thread looks
//! by itself every [`crate::SYNC_DELAY`]; it is woken only out of rest, for a durable record, or by a long queue.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    LogFault, StreamName,
    block::HEADER,
    record::{MAX_ATTEMPT, MAX_OUTCOME},
    ticket::Waiter,
};

/// Bytes of records that wait for the disk before an attempt is refused.
pub const QUEUE_BYTES: usize = 1 << 20;
/// Entries of one stream that may be open at once; the next attempt is refused.
pub const MAX_OPEN_ENTRIES: usize = 8192;
/// A queue of this many bytes is written without waiting longer.
const BATCH_BYTES: usize = QUEUE_BYTES / 4;
/// How often a stream at rest looks whether its file is still there.
const REST_CHECK: Duration = Duration::from_secs(1);
/// The longest block: a full queue, the attempt that filled it, and an outcome for every open entry.
pub(crate) const MAX_BATCH: usize = HEADER + QUEUE_BYTES + MAX_ATTEMPT + MAX_OPEN_ENTRIES * MAX_OUTCOME;

/// What the log thread takes at once.
#[derive(Default)]
pub(crate) struct Batch {
    /// [`HEADER`] bytes of room, then the records.
    pub(crate) buffer: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) waiters: Vec<Arc<Waiter>>,
}

impl Batch {
    /// Empties it, and gives back what a burst made it grow to.
    pub(crate) fn clear(&mut self) {
        self.buffer.truncate(0);
        if self.buffer.capacity() > QUEUE_BYTES {
            self.buffer = Vec::new();
        }
        self.buffer.resize(HEADER, 0);
        self.count = 0;
        self.waiters.clear();
    }
}

/// What the log thread is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Write the batch, which may hold waiters only.
    Batch,
    /// Nothing came for a while.
    Rest,
    /// Open the stream again after a fault.
    Reopen,
    /// Write the batch, then the clean end.
    Close,
}

/// How deep the log thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// It looks again by itself soon.
    Nap,
    /// It must be woken.
    Rest,
}

/// A place in the stream that an attempt was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    /// Counts the faults; a place of an earlier epoch has lost its attempt.
    epoch: u64,
}

struct State {
    batch: Batch,
    next: u64,
    open: usize,
    epoch: u64,
    fault: Option<LogFault>,
    sleep: Sleep,
    urgent: bool,
    reopen: bool,
    close: bool,
}

/// The queue of one stream.
pub(crate) struct Queue {
    pub(crate) stream: StreamName,
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    pub(crate) fn new(stream: StreamName, next: u64) -> Self {
        let mut batch = Batch::default();
        batch.clear();
        let state = State {
            batch,
            next,
            open: 0,
            epoch: 0,
            fault: None,
            sleep: Sleep::Awake,
            urgent: false,
            reopen: false,
            close: false,
        };
        Self { stream, state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Takes an attempt; with a waiter, as soon as the disk does.
    pub(crate) fn open(&self, record: &[u8], waiter: Option<Arc<Waiter>>) -> Result<Place, LogFault> {
        let mut state = self.lock();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if state.batch.buffer.len() >= QUEUE_BYTES || state.open >= MAX_OPEN_ENTRIES {
            return Err(LogFault::Full { stream: self.stream.clone() });
        }
        let place = Place { sequence: state.next, epoch: state.epoch };
        state.open += 1;
        if let Some(waiter) = waiter {
            state.batch.waiters.push(waiter);
            state.urgent = true;
        }
        self.push(state, record);
        Ok(place)
    }

    /// Takes the outcome of an attempt; drops it if the attempt itself was lost to a fault.
    pub(crate) fn close_entry(&self, place: Place, record: &[u8]) {
        let mut state = self.lock();
        if state.epoch == place.epoch && state.fault.is_none() {
            state.open = state.open.saturating_sub(1);
            self.push(state, record);
        }
    }

    /// Takes a waiter for all that was accepted so far.
    pub(crate) fn flush(&self, waiter: Arc<Waiter>) {
        let mut state = self.lock();
        match &state.fault {
            Some(fault) => waiter.complete(Err(fault.clone())),
            None => {
                state.batch.waiters.push(waiter);
                state.urgent = true;
                self.rouse(state);
            }
        }
    }

    /// Asks the log thread to open a failed stream again.
    pub(crate) fn reopen(&self, waiter: Arc<Waiter>) {
        let mut state = self.lock();
        match &state.fault {
            None => waiter.complete(Ok(())),
            Some(fault) if state.close || matches!(fault, LogFault::Closed { .. }) => {
                waiter.complete(Err(fault.clone()));
            }
            Some(_) => {
                state.batch.waiters.push(waiter);
                state.reopen = true;
                self.rouse(state);
            }
        }
    }

    /// Asks the log thread to end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.close = true;
        self.rouse(state);
    }

    /// The fault that stops the stream, if one does.
    pub(crate) fn fault(&self) -> Option<LogFault> {
        self.lock().fault.clone()
    }

    /// Stops the stream: nothing is taken from now on, and what waits is told.
    pub(crate) fn fail(&self, fault: LogFault) {
        let mut state = self.lock();
        state.epoch += 1;
        state.open = 0;
        state.urgent = false;
        state.reopen = false;
        let waiters = std::mem::take(&mut state.batch.waiters);
        state.batch.clear();
        state.fault = Some(fault.clone());
        drop(state);
        for waiter in waiters {
            waiter.complete(Err(fault.clone()));
        }
    }

    /// Lets the stream take records again.
    pub(crate) fn resume(&self, next: u64) {
        let mut state = self.lock();
        state.next = next;
        state.fault = None;
    }

    /// Sleeps until there is something to do. For the log thread alone; `delay` is the longest that a record waits.
    pub(crate) fn next(&self, batch: &mut Batch, delay: Duration) -> Wake {
        let mut deadline = Some(Instant::now() + delay);
        let mut state = self.lock();
        loop {
            let wake = state.due();
            if let Some(wake) = wake {
                state.swap(batch);
                return wake;
            }
            let now = Instant::now();
            match deadline {
                Some(end) if now < end => {
                    state = self.sleep(state, Sleep::Nap, end.saturating_duration_since(now)).0;
                }
                Some(_) if state.batch.count > 0 => {
                    state.swap(batch);
                    return Wake::Batch;
                }
                _ => {
                    let (woken, timed_out) = self.sleep(state, Sleep::Rest, REST_CHECK);
                    state = woken;
                    deadline = Some(Instant::now() + delay);
                    if timed_out && state.batch.count == 0 && state.due().is_none() {
                        return Wake::Rest;
                    }
                }
            }
        }
    }

    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        depth: Sleep,
        longest: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        state.sleep = depth;
        let (mut state, waited) =
            self.wake.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner);
        state.sleep = Sleep::Awake;
        (state, waited.timed_out())
    }

    fn push(&self, mut state: MutexGuard<'_, State>, record: &[u8]) {
        state.batch.buffer.extend_from_slice(record);
        state.batch.count = state.batch.count.saturating_add(1);
        state.next = state.next.saturating_add(1);
        if state.sleep == Sleep::Rest || state.urgent || state.batch.buffer.len() >= BATCH_BYTES {
            self.rouse(state);
        }
    }

    fn rouse(&self, mut state: MutexGuard<'_, State>) {
        let asleep = state.sleep != Sleep::Awake;
        state.sleep = Sleep::Awake;
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn due(&self) -> Option<Wake> {
        if self.close {
            Some(Wake::Close)
        } else if self.reopen {
            Some(Wake::Reopen)
        } else if self.urgent || self.batch.buffer.len() >= BATCH_BYTES {
            Some(Wake::Batch)
        } else {
            None
        }
    }

    fn swap(&mut self, batch: &mut Batch) {
        self.urgent = false;
        self.reopen = false;
        std::mem::swap(&mut self.batch, batch);
        self.batch.clear();
    }
}
