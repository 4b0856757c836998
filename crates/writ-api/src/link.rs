//! [`Brokerage`] over a stream: the same trait, with a socket between its two sides.
//!
//! ```text
//!   caller ── place ── number ──► stream ──► one task per call ──► Brokerage
//!   caller ◄─ waiting[number] ◄── stream ◄──────────┘
//! ```
//!
//! Calls are numbered, and each kind has places of its own, so that an acquisition never waits behind a watch, nor a watch
//! behind a flood of acquisitions.
//!
//! Invariant: every call ends. It is answered, or the link closes, or its time is over. A call that its caller gave up keeps
//! its place until the answer comes, because the other end still works on it. Absent: calling off an acquisition, which has
//! effects by then; connecting again, which is for whoever made the stream.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use writ_core::{
    AcquireAsk, BoxFuture, Brokerage, Granted, Lost, Refusal, RefusalKind, Tiding, WatchAnswer, WatchAsk,
};

use crate::frame::{self, FrameFault};

/// Acquisitions in flight on one link; a further one waits.
pub const ACQUIRES_MAX: usize = 240;
/// Watches in flight on one link; a further one waits.
pub const WATCHES_MAX: usize = 8;
/// Lines in flight on one link; a further one is lost.
pub const TELLS_MAX: usize = 8;
/// Calls that the broker's end works on; it reads no further one until an answer has gone.
const IN_FLIGHT_MAX: usize = ACQUIRES_MAX + WATCHES_MAX + TELLS_MAX;
/// Longest that an acquisition takes, the wait for a place included.
pub const ACQUIRE_MAX: Duration = Duration::from_secs(120);
/// Longest that a watch or a line takes. A holder that heard nothing for so long drops its leases.
pub const WATCH_MAX: Duration = Duration::from_secs(3);
/// Longest that the other end may take to take one frame; then it counts as gone.
pub const WRITE_MAX: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Numbered<T> {
    number: u64,
    body: T,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "call", content = "ask", rename_all = "kebab-case")]
enum Call {
    Acquire(AcquireAsk),
    Watch(WatchAsk),
    Tell(Tiding),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "call", content = "answer", rename_all = "kebab-case")]
enum Reply {
    Acquire(Result<Granted, Refusal>),
    Watch(Result<WatchAnswer, Lost>),
    Tell(Result<(), Lost>),
}

/// The data plane's end. Dropping it closes the stream.
pub struct Link {
    calls: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    acquires: Lane,
    watches: Lane,
    tells: Lane,
    carrying: AbortHandle,
}

/// The calls that wait for an answer: [`IN_FLIGHT_MAX`] at most, since each holds a place.
#[derive(Default)]
struct Waiting {
    /// None begins to wait after that.
    closed: bool,
    calls: HashMap<u64, Waiter>,
}

struct Waiter {
    answer: oneshot::Sender<Reply>,
    /// Free again when the answer is there.
    _place: OwnedSemaphorePermit,
}

/// The places for one kind of call.
struct Lane {
    places: Arc<Semaphore>,
    time: Duration,
}

impl Lane {
    fn new(places: usize, time: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), time }
    }
}

impl Link {
    /// Starts the task that reads and writes `stream`. It ends with the stream, and every waiting call then fails.
    pub fn connect<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> Self {
        let (calls, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let carrying = tokio::spawn(carry(stream, queue, Closing(waiting.clone()))).abort_handle();
        Self {
            calls,
            waiting,
            next: AtomicU64::new(1),
            acquires: Lane::new(ACQUIRES_MAX, ACQUIRE_MAX),
            watches: Lane::new(WATCHES_MAX, WATCH_MAX),
            tells: Lane::new(TELLS_MAX, WATCH_MAX),
            carrying,
        }
    }

    /// Waits for a place, then for the answer.
    async fn call(&self, lane: &Lane, body: Call) -> Result<Reply, Lost> {
        let answered = timeout(lane.time, async {
            let place = lane.places.clone().acquire_owned().await.map_err(|_| closed())?;
            self.send(place, body)?.await.map_err(|_| closed())
        });
        let late = || Lost(format!("it has not answered for {} s", lane.time.as_secs()));
        answered.await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends without waiting: who has a place has room in the queue, and the other end has room for the call.
    fn send(&self, place: OwnedSemaphorePermit, body: Call) -> Result<oneshot::Receiver<Reply>, Lost> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(&Numbered { number, body }).map_err(|fault| Lost(fault.to_string()))?;
        let (answer, reply) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.closed || self.calls.try_send(frame).is_err() {
            return Err(closed());
        }
        waiting.calls.insert(number, Waiter { answer, _place: place });
        Ok(reply)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Fails every waiting call when it goes: at the stream's end, and if the runtime stops first.
struct Closing(Arc<Mutex<Waiting>>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0);
        waiting.closed = true;
        waiting.calls.clear();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> Lost {
    Lost("its connection is closed".to_owned())
}

/// Carries calls out and answers in until either fails: a link that goes one way only is closed.
async fn carry<S: AsyncRead + AsyncWrite>(stream: S, queue: mpsc::Receiver<Vec<u8>>, closing: Closing) {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        () = write_all(writer, queue) => {}
        () = read_replies(reader, &closing.0) => {}
    }
}

async fn write_all<W: AsyncWrite>(mut writer: WriteHalf<W>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        let written = timeout(WRITE_MAX, async {
            writer.write_all(&frame).await?;
            writer.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_replies<R: AsyncRead>(mut reader: ReadHalf<R>, waiting: &Mutex<Waiting>) {
    while let Ok(Numbered { number, body }) = frame::receive::<Numbered<Reply>>(&mut reader).await {
        // An unknown number answers nobody; nobody listens where the caller gave up.
        let waiter = lock(waiting).calls.remove(&number);
        if let Some(waiter) = waiter {
            let _ = waiter.answer.send(body);
        }
    }
}

impl Brokerage for Link {
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>> {
        Box::pin(async move {
            match self.call(&self.acquires, Call::Acquire(ask)).await {
                Ok(Reply::Acquire(answer)) => answer,
                Ok(_) => Err(unavailable(OTHER)),
                Err(lost) => Err(unavailable(&lost.0)),
            }
        })
    }

    fn watch(&self, ask: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>> {
        Box::pin(async move {
            match self.call(&self.watches, Call::Watch(ask)).await? {
                Reply::Watch(answer) => answer,
                _ => Err(Lost(OTHER.to_owned())),
            }
        })
    }

    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            if self.tells.places.available_permits() == 0 {
                return Err(Lost("too many lines are on their way".to_owned()));
            }
            match self.call(&self.tells, Call::Tell(tiding)).await? {
                Reply::Tell(answer) => answer,
                _ => Err(Lost(OTHER.to_owned())),
            }
        })
    }
}

const OTHER: &str = "it answered another question";

fn unavailable(why: &str) -> Refusal {
    Refusal::new(RefusalKind::BrokerUnavailable, format!("the broker cannot be reached: {why}"), "try again")
}

/// The broker's end: serves `brokerage` on `stream` until it closes, or takes nothing for [`WRITE_MAX`].
///
/// Calls that are still at work then run to their end, so that each acquisition has its one outcome; the answers go nowhere.
pub async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, brokerage: Arc<dyn Brokerage>) {
    let (reader, writer) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel(IN_FLIGHT_MAX);
    tokio::select! {
        () = write_all(writer, queue) => {}
        () = read_calls(reader, answers, brokerage) => {}
    }
}

async fn read_calls<R: AsyncRead>(
    mut reader: ReadHalf<R>,
    answers: mpsc::Sender<Vec<u8>>,
    brokerage: Arc<dyn Brokerage>,
) {
    while let Ok(Numbered { number, body }) = frame::receive::<Numbered<Call>>(&mut reader).await {
        let Ok(place) = answers.clone().reserve_owned().await else { return };
        let brokerage = brokerage.clone();
        tokio::spawn(async move {
            let broken = Reply::failed(&body, "it broke down over this question");
            // A task of its own, so that even a call that panics is answered.
            let body = tokio::spawn(ask(brokerage, body)).await.unwrap_or(broken);
            if let Ok(frame) = frame_of(number, body) {
                place.send(frame);
            }
        });
    }
}

async fn ask(brokerage: Arc<dyn Brokerage>, call: Call) -> Reply {
    match call {
        Call::Acquire(ask) => Reply::Acquire(brokerage.acquire(ask).await),
        Call::Watch(ask) => Reply::Watch(brokerage.watch(ask).await),
        Call::Tell(tiding) => Reply::Tell(brokerage.tell(tiding).await),
    }
}

/// An answer that is too long for a frame fails its own call, not the link.
fn frame_of(number: u64, body: Reply) -> Result<Vec<u8>, FrameFault> {
    let answer = Numbered { number, body };
    match frame::encode(&answer) {
        Err(FrameFault::TooLong(_)) => frame::encode(&Numbered { number, body: answer.body.shortened() }),
        encoded => encoded,
    }
}

impl Reply {
    fn failed(call: &Call, why: &str) -> Self {
        match call {
            Call::Acquire(_) => Self::Acquire(Err(unavailable(why))),
            Call::Watch(_) => Self::Watch(Err(Lost(why.to_owned()))),
            Call::Tell(_) => Self::Tell(Err(Lost(why.to_owned()))),
        }
    }

    fn shortened(self) -> Self {
        const WHY: &str = "its answer is too long";
        match self {
            // To the holder, news that cannot be told are news that it missed.
            Self::Watch(Ok(WatchAnswer { upto, .. })) => {
                Self::Watch(Ok(WatchAnswer { upto, missed: true, notices: Vec::new() }))
            }
            Self::Acquire(_) => Self::Acquire(Err(unavailable(WHY))),
            Self::Watch(_) => Self::Watch(Err(Lost(WHY.to_owned()))),
            Self::Tell(_) => Self::Tell(Err(Lost(WHY.to_owned()))),
        }
    }
}
