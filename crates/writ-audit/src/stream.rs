//! A stream: what the broker and the proxy hold to record with.
//!
//! *No record, no credential*: [`Stream::open`] either takes the attempt or refuses it, and the [`Entry`] that it
//! returns must be closed with exactly one outcome. Uses are taken by the queue and are on the disk within 100 ms;
//! acquisitions are opened with [`Stream::open_durable`] and wait for it. Absent: a runtime. One OS thread writes.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    Attempt, FieldKey, Head, LogFault, Outcome, SegmentSource, Step, StreamName, Verdict,
    chain::{Chain, Opening},
    log::Log,
    queue::{Place, Queue},
    record::{self, Cause},
    ticket::{self, Ticket, Waiter},
};

/// Longest that an accepted record waits before its batch is written and synced; with the disk's own time it stays
/// within the promised 100 ms.
pub const SYNC_DELAY: Duration = Duration::from_millis(40);
/// Size to which a segment is preallocated, and after which the next one begins.
pub const SEGMENT_BYTES: u64 = 8 << 20;

const _: () = assert!(crate::queue::MAX_BATCH + crate::block::TRAILER <= SEGMENT_BYTES as usize);

/// The wall clock: microseconds since the Unix epoch. A parameter, so that tests and vectors choose the time.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a stream is made of.
pub struct StreamConfig {
    /// Its name: `broker`, `proxy-0`.
    pub name: StreamName,
    /// Key for the values that may not stand plainly.
    pub key: FieldKey,
    /// The clock for block times and for outcomes that nobody gave.
    pub clock: WallClock,
    /// Longest wait before a batch is written: [`SYNC_DELAY`].
    pub sync_delay: Duration,
    /// Segment size: [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Who is told of every durable head; the broker signs checkpoints there.
    pub heads: Option<Arc<dyn HeadSink>>,
}

impl StreamConfig {
    /// A stream with the usual limits and without checkpoints.
    #[must_use]
    pub fn new(name: StreamName, key: FieldKey, clock: WallClock) -> Self {
        Self { name, key, clock, sync_delay: SYNC_DELAY, segment_bytes: SEGMENT_BYTES, heads: None }
    }
}

/// The recording end of a stream. Clones are the same stream.
///
/// Call [`Stream::close`] before the process ends. When the last clone is dropped the log thread ends cleanly by
/// itself, but nobody waits for it, and a process that is faster leaves a gap.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

struct Shared {
    queue: Arc<Queue>,
    key: FieldKey,
    clock: WallClock,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Ends the log thread with the last clone of a stream that nobody closed.
struct Last(Arc<Queue>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Stream {
    /// Opens the stream on its segments: recovers the tail, records how it found it, starts the log thread.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Any [`LogFault`] but `Full` and `Closed`.
    pub fn start(config: StreamConfig, mut source: Box<dyn SegmentSource>) -> Result<Self, LogFault> {
        let opening =
            Opening { segment_bytes: config.segment_bytes, at: (config.clock)(), gap: Cause::Crash };
        let chain = Chain::open(&config.name, source.as_mut(), opening)?;
        let queue = Arc::new(Queue::new(config.name.clone(), chain.next()));
        let shared = Shared {
            queue: Arc::clone(&queue),
            key: config.key.clone(),
            clock: Arc::clone(&config.clock),
            thread: Mutex::new(None),
        };
        let name = config.name.clone();
        let log = Log::new(config, source, chain, Arc::clone(&queue))?;
        let thread = std::thread::Builder::new()
            .name(format!("audit-{name}"))
            .spawn(move || log.run())
            .map_err(|error| LogFault::failed(&name, 0, Step::Start, &error))?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Self { shared: Arc::new(shared), _last: Arc::new(Last(queue)) })
    }

    /// Records an attempt. When this returns, the log has accepted it; it is on the disk within 100 ms.
    ///
    /// # Errors
    /// The fault for which the request must be refused.
    pub fn open(&self, attempt: &Attempt<'_>) -> Result<Entry, LogFault> {
        self.open_with(attempt, None)
    }

    /// Records an attempt and resolves when it is on the disk. The attempt is taken by this call, not by the first
    /// poll; one `fdatasync` serves all that wait. If the future is dropped, the entry ends as `unknown`.
    pub fn open_durable(&self, attempt: &Attempt<'_>) -> OpenDurable {
        let (ticket, waiter) = Ticket::new();
        match self.open_with(attempt, Some(waiter)) {
            Ok(entry) => OpenDurable { ticket, entry: Some(Ok(entry)) },
            Err(fault) => OpenDurable { ticket, entry: Some(Err(fault)) },
        }
    }

    /// Records something that has no course: its attempt and its outcome at once.
    ///
    /// # Errors
    /// As [`Stream::open`].
    pub fn record(&self, attempt: &Attempt<'_>, outcome: &Outcome<'_>) -> Result<(), LogFault> {
        self.open(attempt)?.close(outcome);
        Ok(())
    }

    /// Resolves when everything that was accepted before is on the disk.
    pub fn flush(&self) -> Ticket {
        let (ticket, waiter) = Ticket::new();
        self.shared.queue.flush(waiter);
        ticket
    }

    /// Opens a failed stream again, after the disk was repaired; a gap record says that records are missing.
    /// Does nothing to a stream that works. Entries from before the fault stay without an outcome.
    pub fn reopen(&self) -> Ticket {
        let (ticket, waiter) = Ticket::new();
        self.shared.queue.reopen(waiter);
        ticket
    }

    /// The fault for which the next attempt would be refused; `None` while the log works.
    #[must_use]
    pub fn fault(&self) -> Option<LogFault> {
        self.shared.queue.fault()
    }

    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> &StreamName {
        &self.shared.queue.stream
    }

    /// Writes what is queued and the record of a clean end, and ends the log thread. Blocks. Entries that are still
    /// open read as `unknown`.
    ///
    /// # Errors
    /// The fault that kept the end from being clean; the second call answers `Closed`.
    pub fn close(&self) -> Result<(), LogFault> {
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else {
            return Err(LogFault::Closed { stream: self.name().clone() });
        };
        self.shared.queue.close();
        let crashed = thread.join().is_err();
        match self.fault() {
            Some(LogFault::Closed { .. }) if !crashed => Ok(()),
            Some(fault) => Err(fault),
            None => Err(LogFault::Closed { stream: self.name().clone() }),
        }
    }

    fn open_with(&self, attempt: &Attempt<'_>, waiter: Option<Arc<Waiter>>) -> Result<Entry, LogFault> {
        let place = SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            record::push_attempt(scratch, &self.shared.key, attempt);
            self.shared.queue.open(scratch, waiter)
        })?;
        Ok(Entry { shared: Arc::clone(&self.shared), place, start: attempt.start, closed: false })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("name", self.name()).finish_non_exhaustive()
    }
}

/// An attempt that was recorded and has not ended.
#[must_use = "an entry that is dropped is recorded as unknown"]
pub struct Entry {
    shared: Arc<Shared>,
    place: Place,
    start: u64,
    closed: bool,
}

impl Entry {
    /// Records how it ended. Never refused: the queue keeps room for it. If the log has failed since, the outcome
    /// is lost, and the attempt reads as `unknown`.
    pub fn close(mut self, outcome: &Outcome<'_>) {
        self.closed = true;
        let end = match outcome.duration {
            Some(duration) => self.start.saturating_add(duration),
            None => (self.shared.clock)(),
        };
        self.put(end, outcome);
    }

    /// The attempt's number in its stream. It may be given to another attempt only if the log fails before this
    /// one is on the disk.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.place.sequence
    }

    fn put(&self, end: u64, outcome: &Outcome<'_>) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            record::push_outcome(scratch, &self.shared.key, self.place.sequence, end, outcome);
            self.shared.queue.close_entry(self.place, scratch);
        });
    }
}

impl Drop for Entry {
    /// The backstop for a path that forgot to say: the outcome is `unknown`, the reason [`DROPPED`].
    fn drop(&mut self) {
        if !self.closed {
            let outcome = Outcome { reason: Some(DROPPED), ..Outcome::new(Verdict::Unknown) };
            self.put((self.shared.clock)(), &outcome);
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The reason of an outcome that nobody gave.
pub const DROPPED: &str = "dropped";

/// Resolves to the entry when its attempt is on the disk. Made by [`Stream::open_durable`].
#[derive(Debug)]
#[must_use = "the attempt is not durable before this resolves"]
pub struct OpenDurable {
    ticket: Ticket,
    entry: Option<Result<Entry, LogFault>>,
}

impl OpenDurable {
    /// Blocks this thread until the attempt is on the disk.
    ///
    /// # Errors
    /// The fault for which the request must be refused.
    pub fn wait(self) -> Result<Entry, LogFault> {
        ticket::wait(self)
    }
}

impl Future for OpenDurable {
    type Output = Result<Entry, LogFault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(Ok(_)) = &self.entry {
            match Pin::new(&mut self.ticket).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(fault)) => self.entry = Some(Err(fault)),
                Poll::Ready(Ok(())) => {}
            }
        }
        match self.entry.take() {
            Some(entry) => Poll::Ready(entry),
            None => Poll::Pending,
        }
    }
}

/// What the log tells about every head that has become durable, on the log thread of its stream.
pub trait HeadSink: Send + Sync {
    /// `head` is on the disk. `now` is the wall clock in microseconds. Called at least once a second, also when the
    /// head has not moved.
    ///
    /// # Errors
    /// A fault stops the stream: a log that cannot be signed is no log.
    fn durable(&self, head: &Head, moment: Moment, now: u64) -> Result<(), LogFault>;
}

/// Why a head is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The stream was opened.
    Start,
    /// A batch was written, or time passed.
    Progress,
    /// The head is the first in a new segment.
    Rotation,
    /// The stream was closed.
    Close,
}

thread_local! {
    /// Where records are encoded, outside every lock and without an allocation per record.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
