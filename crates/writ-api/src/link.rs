//! [`Brokerage`] over a stream: the same trait, with a socket between its two sides.
//!
//! Calls are numbered, so that an acquisition never waits behind a watch.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};
use writ_core::{
    AcquireAsk, BoxFuture, Brokerage, Granted, Lost, Refusal, RefusalKind, Tiding, WatchAnswer, WatchAsk,
};

use crate::frame;

/// Calls in flight on one link; a further one waits.
const IN_FLIGHT_MAX: usize = 256;

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

/// The data plane's end.
pub struct Link {
    calls: mpsc::Sender<Numbered<Call>>,
    waiting: Waiting,
    /// Set before the waiting calls are dropped, so that none can begin to wait after that.
    closed: Arc<AtomicBool>,
    next: AtomicU64,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>>;

impl Link {
    /// Starts the two tasks that read and write `stream`. They end with it, and every waiting call then fails.
    pub fn connect<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (calls, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let waiting = Waiting::default();
        let closed = Arc::new(AtomicBool::new(false));
        tokio::spawn(write_all(writer, queue));
        tokio::spawn(read_replies(reader, waiting.clone(), closed.clone()));
        Self { calls, waiting, closed, next: AtomicU64::new(1) }
    }

    async fn call(&self, body: Call) -> Result<Reply, Lost> {
        let lost = || Lost("its connection is closed".to_owned());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, reply) = oneshot::channel();
        lock(&self.waiting).insert(number, answer);
        if self.closed.load(Ordering::SeqCst) || self.calls.send(Numbered { number, body }).await.is_err() {
            lock(&self.waiting).remove(&number);
            return Err(lost());
        }
        reply.await.map_err(|_| lost())
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_all<T: Serialize, W: AsyncWrite>(mut writer: WriteHalf<W>, mut queue: mpsc::Receiver<T>) {
    while let Some(message) = queue.recv().await {
        if frame::send(&mut writer, &message).await.is_err() {
            break;
        }
    }
}

async fn read_replies<R: AsyncRead>(mut reader: ReadHalf<R>, waiting: Waiting, closed: Arc<AtomicBool>) {
    while let Ok(Numbered { number, body }) = frame::receive::<Numbered<Reply>>(&mut reader).await {
        if let Some(answer) = lock(&waiting).remove(&number) {
            let _ = answer.send(body);
        }
    }
    closed.store(true, Ordering::SeqCst);
    lock(&waiting).clear();
}

impl Brokerage for Link {
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>> {
        Box::pin(async move {
            match self.call(Call::Acquire(ask)).await {
                Ok(Reply::Acquire(answer)) => answer,
                Ok(_) => Err(unavailable("it answered another question")),
                Err(lost) => Err(unavailable(&lost.0)),
            }
        })
    }

    fn watch(&self, ask: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>> {
        Box::pin(async move {
            match self.call(Call::Watch(ask)).await? {
                Reply::Watch(answer) => answer,
                _ => Err(Lost("it answered another question".to_owned())),
            }
        })
    }

    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            match self.call(Call::Tell(tiding)).await? {
                Reply::Tell(answer) => answer,
                _ => Err(Lost("it answered another question".to_owned())),
            }
        })
    }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(RefusalKind::BrokerUnavailable, format!("the broker cannot be reached: {why}"), "try again")
}

/// The broker's end: serves `brokerage` on `stream` until it closes.
pub async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, brokerage: Arc<dyn Brokerage>) {
    let (mut reader, writer) = tokio::io::split(stream);
    let (replies, queue) = mpsc::channel(IN_FLIGHT_MAX);
    tokio::spawn(write_all(writer, queue));
    while let Ok(Numbered { number, body }) = frame::receive::<Numbered<Call>>(&mut reader).await {
        let Ok(place) = replies.clone().reserve_owned().await else { return };
        let brokerage = brokerage.clone();
        tokio::spawn(async move {
            let body = match body {
                Call::Acquire(ask) => Reply::Acquire(brokerage.acquire(ask).await),
                Call::Watch(ask) => Reply::Watch(brokerage.watch(ask).await),
                Call::Tell(tiding) => Reply::Tell(brokerage.tell(tiding).await),
            };
            place.send(Numbered { number, body });
        });
    }
}
