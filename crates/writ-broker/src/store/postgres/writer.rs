//! The one task that writes.
//!
//! ```text
//! apply ──job──► queue (4,096) ──up to 64──► BEGIN; the changes of every job; a savepoint before those that have several  } one
//!                                            …answers                                                                     } trip
//!                                            COMMIT ──► answers
//! ```
//!
//! Statements follow each other without waiting for answers. A job of one change that finds the wrong state has changed nothing
//! and fails alone; one of several is rolled back to its savepoint, and what came after it is done again. Where the server
//! refuses a statement altogether, the transaction is given up and each job gets its own.
//!
//! Invariant: an answer `Ok` is sent after the server has confirmed the commit that holds the job, never before. A connection
//! that is lost while the commit is on its way leaves the job's fate unknown: its caller is told that the store failed. One that
//! is lost earlier has committed nothing, and the jobs are done again on the next.

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Error, Row};

use super::{
    Own,
    changes::{self, Step},
    fault::{Failed, failed},
    open::{ANSWER_MAX, Link, Server, borrowed},
};
use crate::store::{Change, StoreFault};

/// Jobs that wait; more callers wait for a place.
const QUEUE_MAX: usize = 4096;
/// Jobs in one transaction.
const BATCH_MAX: usize = 64;
/// How long jobs wait for a server that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to reach it, doubling up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Attempts of one job where daemons get into each other's way.
const ATTEMPTS: u32 = 5;

/// The way to the task.
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    own: Own,
}

struct Job {
    changes: Vec<Change>,
    /// The changes as statements; a fault where one of them could never be done.
    steps: Result<Vec<Arc<Step>>, StoreFault>,
    answer: oneshot::Sender<Result<(), StoreFault>>,
}

impl Writer {
    /// Starts the task, which makes its own connections. It ends, with its queue done, when the writer is dropped.
    pub(super) fn start(server: Arc<Server>, own: Own) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(Work { server, link: None }.run(receiver));
        Self { jobs: sender, own }
    }

    /// Hands a job over and waits until it is on the server's disk. Dropped before the job is in the queue, nothing happens;
    /// later, all of it.
    pub(super) async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreFault> {
        let stopped = || StoreFault::Io("its writer has stopped: restart writ".to_owned());
        let (answer, answered) = oneshot::channel();
        let own = self.own.uuid();
        let steps = changes.iter().map(|change| changes::step(change, own).map(Arc::new)).collect();
        self.jobs.send(Job { changes, steps, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

struct Work {
    server: Arc<Server>,
    link: Option<Arc<Link>>,
}

/// What came of one transaction.
enum Outcome {
    /// Committed: one result for each job.
    Done(Vec<Result<(), StoreFault>>),
    /// Nothing was committed, and the connection lives.
    Refused(StoreFault),
    /// The same, and it may go well another time.
    Busy(StoreFault),
    /// Nothing was committed, and the connection is gone.
    Lost(StoreFault),
    /// The connection went away with the commit.
    Unknown(StoreFault),
}

impl From<Failed> for Outcome {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(fault) => Self::Refused(fault),
            Failed::Busy(fault) => Self::Busy(fault),
            Failed::Lost(fault) => Self::Lost(fault),
        }
    }
}

impl Work {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.settle(std::mem::take(&mut batch)).await;
        }
    }

    /// Does every job of the batch and answers it.
    async fn settle(&mut self, mut batch: Vec<Job>) {
        match self.insist(&batch).await {
            Outcome::Done(results) => {
                for (job, result) in batch.into_iter().zip(results) {
                    answer(job, result);
                }
            }
            Outcome::Lost(fault) | Outcome::Unknown(fault) => {
                let text = fault.to_string();
                for job in batch {
                    answer(job, Err(StoreFault::Io(text.clone())));
                }
            }
            // One that the server does not take must not take the others with it.
            Outcome::Refused(_) | Outcome::Busy(_) if batch.len() > 1 => {
                for job in batch {
                    let result = self.alone(&job).await;
                    answer(job, result);
                }
            }
            Outcome::Refused(fault) | Outcome::Busy(fault) => {
                if let Some(job) = batch.pop() {
                    answer(job, Err(fault));
                }
            }
        }
    }

    async fn alone(&mut self, job: &Job) -> Result<(), StoreFault> {
        match self.insist(std::slice::from_ref(job)).await {
            Outcome::Done(mut results) => results.pop().unwrap_or(Ok(())),
            Outcome::Refused(fault)
            | Outcome::Busy(fault)
            | Outcome::Lost(fault)
            | Outcome::Unknown(fault) => Err(fault),
        }
    }

    /// Tries until there is an answer, or patience ends.
    async fn insist(&mut self, jobs: &[Job]) -> Outcome {
        let end = Instant::now() + PATIENCE;
        let (mut pause, mut attempts) = (BACKOFF_MIN, 1);
        loop {
            let outcome = self.once(jobs).await;
            match &outcome {
                Outcome::Lost(_) if Instant::now() + pause < end => {
                    self.link = None;
                    sleep(pause).await;
                    pause = pause.saturating_mul(2).min(BACKOFF_MAX);
                }
                Outcome::Busy(_) if jobs.len() == 1 && attempts < ATTEMPTS => attempts += 1,
                Outcome::Lost(_) | Outcome::Unknown(_) => {
                    self.link = None;
                    return outcome;
                }
                Outcome::Done(_) | Outcome::Refused(_) | Outcome::Busy(_) => return outcome,
            }
        }
    }

    async fn once(&mut self, jobs: &[Job]) -> Outcome {
        let link = match self.link.take().filter(|link| !link.is_lost()) {
            Some(link) => link,
            None => match self.server.connect(None).await {
                Ok(link) => Arc::new(link),
                Err(fault) => return Outcome::Lost(fault),
            },
        };
        let outcome = together(&link, jobs).await;
        let sound = match &outcome {
            Outcome::Done(_) => true,
            Outcome::Refused(_) | Outcome::Busy(_) => {
                timeout(ANSWER_MAX, link.client().batch_execute("ROLLBACK"))
                    .await
                    .is_ok_and(|done| done.is_ok())
            }
            Outcome::Lost(_) | Outcome::Unknown(_) => false,
        };
        self.link = sound.then_some(link);
        outcome
    }
}

/// One transaction.
async fn together(link: &Arc<Link>, jobs: &[Job]) -> Outcome {
    let mut results = Vec::with_capacity(jobs.len());
    let mut lead = "BEGIN".to_owned();
    loop {
        let rest = jobs.get(results.len()..).unwrap_or_default();
        match timeout(ANSWER_MAX, run(link, lead, rest)).await {
            Ok(Ok((some, undo))) => {
                results.extend(some);
                let Some(savepoint) = undo else { break };
                lead = format!("ROLLBACK TO SAVEPOINT {savepoint}");
            }
            Ok(Err(failed)) => return failed.into(),
            Err(_) => return Outcome::Lost(StoreFault::Io(SILENT.to_owned())),
        }
    }
    match timeout(ANSWER_MAX, link.client().batch_execute("COMMIT")).await {
        Ok(Ok(())) => Outcome::Done(results),
        Ok(Err(error)) => match failed(&error) {
            Failed::Lost(fault) => Outcome::Unknown(unknown(&fault.to_string())),
            known => known.into(),
        },
        Err(_) => Outcome::Unknown(unknown(SILENT)),
    }
}

const SILENT: &str = "the store's server does not answer";

fn unknown(why: &str) -> StoreFault {
    StoreFault::Io(format!("it is not known whether the server committed: {why}"))
}

type Results = Vec<Result<(), StoreFault>>;

/// Sends `lead` and the jobs, all at once. Returns the results up to the first job of several changes that failed and is to be
/// rolled back, with its savepoint; what came after that one is to be sent again.
///
/// Every answer is waited for, so that a transaction that the server gave up is never committed by mistake (PostgreSQL answers such
/// a COMMIT with a rollback, and no error).
async fn run(link: &Arc<Link>, lead: String, jobs: &[Job]) -> Result<(Results, Option<String>), Failed> {
    for job in jobs {
        for step in job.steps.as_ref().map_or(&[][..], Vec::as_slice) {
            link.prepare(step.sql).await?;
        }
    }
    let begun = control(link, lead).await;
    let mut sent = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.iter().enumerate() {
        let steps = job.steps.as_ref().map_or(&[][..], Vec::as_slice);
        let set = match steps {
            [] | [_] => None,
            _ => Some(control(link, format!("SAVEPOINT {}", savepoint(jobs.len(), place))).await),
        };
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            answers.push(ask(link, step).await?);
        }
        sent.push((set, answers));
    }
    begun.finish().await?;
    let mut results = Vec::with_capacity(jobs.len());
    let mut undo = None;
    for (place, (job, (set, answers))) in jobs.iter().zip(sent).enumerate() {
        if let Some(set) = set {
            set.finish().await?;
        }
        let mut result = job.steps.as_ref().map(drop).map_err(copy);
        for (change, answer) in job.changes.iter().zip(answers) {
            let row = answer.finish().await?;
            result = result.and_then(|()| changes::judge(change, &row));
        }
        if undo.is_none() {
            if result.is_err() && job.steps.as_ref().is_ok_and(|steps| steps.len() > 1) {
                undo = Some(savepoint(jobs.len(), place));
            }
            results.push(result);
        }
    }
    Ok((results, undo))
}

/// Sends what has no answer but that it was done.
async fn control(link: &Arc<Link>, sql: String) -> Begun<()> {
    let link = Arc::clone(link);
    Begun::of(async move { link.client().batch_execute(&sql).await }).await
}

async fn ask(link: &Arc<Link>, step: &Arc<Step>) -> Result<Begun<Row>, Failed> {
    let statement = link.prepare(step.sql).await?;
    let (link, step) = (Arc::clone(link), Arc::clone(step));
    let asked = async move { link.client().query_one(&statement, &borrowed(&step.params)).await };
    Ok(Begun::of(asked).await)
}

/// A name that no other savepoint of the transaction has: each round has fewer jobs left.
fn savepoint(left: usize, place: usize) -> String {
    format!("job_{left}_{place}")
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A request that was handed to the connection, in its turn.
struct Begun<T> {
    work: Answer<T>,
    done: Option<Result<T, Error>>,
}

impl<T> Begun<T> {
    /// Sends it: the client hands a request over when its future is first polled.
    async fn of(work: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        let mut work: Answer<T> = Box::pin(work);
        let done = std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        });
        let done = done.await;
        Self { work, done }
    }

    /// Waits for the answer.
    async fn finish(self) -> Result<T, Failed> {
        let done = match self.done {
            Some(done) => done,
            None => self.work.await,
        };
        done.map_err(|error| failed(&error))
    }
}

/// The same fault again; only those that a statement is refused with before it is sent.
fn copy(fault: &StoreFault) -> StoreFault {
    match fault {
        StoreFault::Conflict(what) => StoreFault::Conflict(what.clone()),
        other => StoreFault::Io(other.to_string()),
    }
}

fn answer(job: Job, result: Result<(), StoreFault>) {
    // Whoever no longer waits does not need the answer.
    drop(job.answer.send(result));
}
