//! The one thread that writes.
//!
//! ```text
//! apply ──job──► queue (4,096) ──up to 64──► BEGIN IMMEDIATE
//!                                              SAVEPOINT, the job's changes, RELEASE   (or ROLLBACK TO: that job alone fails)
//!                                            COMMIT (one fsync) ──► answers
//! ```
//!
//! While one transaction reaches the disk, the next jobs gather: the more callers, the larger the groups. A plain thread owns
//! the connection, so no future can be dropped inside a transaction; a caller that goes away leaves a job that is done.
//! Invariant: an answer `Ok` is sent after the commit that holds the job has returned, never before.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, hooks::Wal};
use tokio::sync::{mpsc, oneshot};

use super::{changes, fault::plain, open::Identity};
use crate::store::{Change, StoreFault};

/// Jobs that wait; more callers wait for a place.
const QUEUE_MAX: usize = 4096;
/// Jobs in one transaction.
const BATCH_MAX: usize = 64;
/// Pages in the log (4 MiB) from which an idle moment is used to move them into the database.
const IDLE_PAGES: u32 = 1024;
/// Pages in the log (64 MiB) that are not exceeded even when no moment is idle.
const BUSY_PAGES: u32 = 16 * 1024;

/// The way to the thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    changes: Vec<Change>,
    answer: oneshot::Sender<Result<(), StoreFault>>,
}

impl Writer {
    /// Starts the thread, which owns `connection` from now on.
    pub(super) fn start(mut connection: Connection, path: &Path) -> Result<Self, StoreFault> {
        let identity = Identity::of(path)?;
        let pages = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&pages);
        let hook = move |_: &mut Wal, in_log: std::ffi::c_int| {
            seen.store(u32::try_from(in_log).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(hook)).map_err(plain)?;
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let work = Work { connection, identity, pages };
        let thread = thread::Builder::new()
            .name("writ-store".to_owned())
            .spawn(move || work.run(receiver))
            .map_err(|error| StoreFault::Io(format!("the writer thread: {error}")))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread) })
    }

    /// Hands a job over and waits until it is on disk. Dropped before the job is in the queue, nothing happens; later, all of it.
    pub(super) async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreFault> {
        let stopped = || StoreFault::Io("its writer has stopped: restart writ".to_owned());
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { changes, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    /// Finishes what is in the queue.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was its callers' fault already: they got no answer.
            drop(thread.join());
        }
    }
}

struct Work {
    connection: Connection,
    identity: Identity,
    pages: Arc<AtomicU32>,
}

impl Work {
    fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(first) = jobs.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                batch.push(next);
            }
            self.settle(&mut batch);
            let threshold = if jobs.is_empty() { IDLE_PAGES } else { BUSY_PAGES };
            if self.pages.load(Ordering::Relaxed) >= threshold {
                self.checkpoint("PASSIVE");
            }
        }
        self.checkpoint("TRUNCATE");
    }

    /// Does every job of the batch and answers it. Where the transaction as a whole fails, each job gets its own, so that one
    /// that fills the disk does not take the others with it.
    fn settle(&self, batch: &mut Vec<Job>) {
        match self.together(batch) {
            Ok(results) => {
                for (job, result) in batch.drain(..).zip(results) {
                    answer(job, result);
                }
            }
            Err(fault) => match batch.pop() {
                Some(only) if batch.is_empty() => answer(only, Err(fault)),
                last => {
                    for job in batch.drain(..).chain(last) {
                        let result = self.together(std::slice::from_ref(&job));
                        answer(job, result.and_then(|mut one| one.pop().unwrap_or(Ok(()))));
                    }
                }
            },
        }
    }

    /// One transaction. `Ok` holds one result for each job, and then all that succeeded are on disk.
    fn together(&self, jobs: &[Job]) -> Result<Vec<Result<(), StoreFault>>, StoreFault> {
        self.identity.check()?;
        self.execute("BEGIN IMMEDIATE")?;
        let done = self.each(jobs).and_then(|results| self.execute("COMMIT").map(|()| results));
        if done.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        let results = done?;
        // A file that went away between the first look and the commit took the commit with it.
        self.identity.check()?;
        Ok(results)
    }

    fn each(&self, jobs: &[Job]) -> Result<Vec<Result<(), StoreFault>>, StoreFault> {
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            self.execute("SAVEPOINT job")?;
            let result = job.changes.iter().try_for_each(|change| changes::apply(&self.connection, change));
            if let Err(fault) = result {
                if self.connection.is_autocommit() {
                    // SQLite rolled the whole transaction back (https://www.sqlite.org/lang_transaction.html §3).
                    return Err(fault);
                }
                self.execute("ROLLBACK TO job")?;
                results.push(Err(fault));
            } else {
                results.push(Ok(()));
            }
            self.execute("RELEASE job")?;
        }
        Ok(results)
    }

    fn execute(&self, sql: &str) -> Result<(), StoreFault> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(()))
            .map(drop)
            .map_err(plain)
    }

    /// Moves the log into the database. A failure costs nothing: the log stays, and the next checkpoint tries again.
    fn checkpoint(&self, mode: &str) {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let done = self.connection.query_row(&sql, (), |_| Ok(()));
        if let Err(error) = done {
            tracing::warn!(%error, "the store's log could not be moved into the database");
        }
        self.pages.store(0, Ordering::Relaxed);
    }
}

fn answer(job: Job, result: Result<(), StoreFault>) {
    // Whoever no longer waits does not need the answer.
    drop(job.answer.send(result));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The file goes away inside the commit: what is in it is lost, so nobody is told that it is kept.
    #[test]
    fn a_commit_into_a_file_that_goes_away_is_not_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("writ.db");
        let mut connection = super::super::open::writer(&path, &super::super::Options::default()).unwrap();
        let gone = path.clone();
        let hook = move || {
            std::fs::remove_file(&gone).unwrap();
            false
        };
        connection.commit_hook(Some(hook)).unwrap();
        let job = vec![Change::PutMeta { key: "a".to_owned(), value: vec![1] }];
        let results = one_batch(connection, &path, vec![job]);
        assert!(matches!(&results[..], [Err(StoreFault::Replaced)]), "{results:?}");
    }

    /// Does the jobs as one batch, on this thread.
    pub(in crate::store::sqlite) fn one_batch(
        connection: Connection,
        path: &Path,
        jobs: Vec<Vec<Change>>,
    ) -> Vec<Result<(), StoreFault>> {
        let identity = Identity::of(path).unwrap();
        let work = Work { connection, identity, pages: Arc::new(AtomicU32::new(0)) };
        let (mut batch, answers): (Vec<Job>, Vec<_>) = jobs
            .into_iter()
            .map(|changes| {
                let (answer, answered) = oneshot::channel();
                (Job { changes, answer }, answered)
            })
            .unzip();
        work.settle(&mut batch);
        answers.into_iter().map(|answered| answered.blocking_recv().unwrap()).collect()
    }
}
