//! Many entries in one transaction, of which a bad one fails alone.
//!
//! ```text
//!   BEGIN, prelude ─► a statement for each entry, all sent at once ─► last look ─► COMMIT
//!                          │ one failed: ROLLBACK, without it again; after some of these, one by one
//! ```
//!
//! `COMMIT` is sent when every answer is there, and not before. So a transaction whose client is gone was either committed or
//! comes to nothing as soon as the server notices, and until then it holds the locks of its prelude: whoever takes these
//! knows that nothing more is coming.

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::session::{ANSWER_TIMEOUT, Trouble};

/// The most entries in one transaction.
pub(super) const BATCH_MAX: usize = 50;
/// After so many bad entries the rest is done one by one: each costs a transaction that comes to nothing.
const BAD_MAX: usize = 8;

/// What a prelude found: rows of text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// What is done for entries that are known by their index.
pub(super) trait Batch: Sync {
    /// SQL that comes first in the transaction; what it selects is given to [`statement`](Self::statement).
    fn prelude(&self, _entries: &[usize]) -> String {
        String::new()
    }

    /// SQL for one entry; the last value that it selects is its result. `None`: nothing is to be done.
    fn statement(&self, entry: usize, found: &Rows) -> Result<Option<String>, Trouble>;

    /// Asked when everything is done, and only the commit is missing.
    fn last_look(&self, _entry: usize) -> Result<(), Trouble> {
        Ok(())
    }
}

/// The outcome of one entry.
pub(super) type Outcome = Result<Option<String>, Trouble>;

/// The connection was lost.
pub(super) struct Lost {
    pub(super) trouble: Trouble,
    /// Whether it may have been committed all the same.
    pub(super) perhaps: bool,
}

/// Does it for all entries, and says for each what became of it.
pub(super) async fn together(
    client: &Client,
    batch: &dyn Batch,
    mut entries: Vec<usize>,
) -> Result<Vec<(usize, Outcome)>, Lost> {
    let mut outcomes = Vec::with_capacity(entries.len());
    let mut bad = 0;
    while !entries.is_empty() {
        let rest = if bad >= BAD_MAX { entries.split_off(1) } else { Vec::new() };
        match once(client, batch, &entries).await? {
            Ok(done) => outcomes.extend(entries.drain(..).zip(done.into_iter().map(Ok))),
            Err((entry, trouble)) => {
                bad += 1;
                entries.retain(|other| *other != entry);
                outcomes.push((entry, Err(trouble)));
            }
        }
        entries.extend(rest);
    }
    Ok(outcomes)
}

/// One transaction: the results, or the first entry that failed, with nothing done.
async fn once(
    client: &Client,
    batch: &dyn Batch,
    entries: &[usize],
) -> Result<Result<Vec<Option<String>>, (usize, Trouble)>, Lost> {
    let begin = format!("BEGIN; {}", batch.prelude(entries));
    let Some(first) = entries.first().copied() else { return Ok(Ok(Vec::new())) };
    let found = match answer(client.simple_query(&begin)).await {
        Ok(messages) => rows(messages),
        // A prelude is about all of them: only by being alone is one known to be bad.
        Err(Fault::Said(trouble)) if entries.len() == 1 => return undo(client, first, trouble).await,
        Err(Fault::Said(_)) => return halves(client, batch, entries).await,
        Err(Fault::Lost(trouble)) => return Err(Lost { trouble, perhaps: false }),
    };
    let mut statements = Vec::with_capacity(entries.len());
    for entry in entries {
        match batch.statement(*entry, &found) {
            Ok(statement) => statements.push((*entry, statement)),
            Err(trouble) => return undo(client, *entry, trouble).await,
        }
    }
    let sent = statements.iter().map(|(_, statement)| send(client, statement.as_deref()));
    let mut results = Vec::with_capacity(entries.len());
    let mut failed = None;
    for ((entry, _), answered) in statements.iter().zip(join_all(sent).await) {
        match answered {
            Ok(result) => results.push(result),
            Err(Fault::Lost(trouble)) => return Err(Lost { trouble, perhaps: false }),
            Err(Fault::Said(Trouble::Aborted)) => {}
            Err(Fault::Said(trouble)) => failed = failed.or(Some((*entry, trouble))),
        }
    }
    let looked = entries.iter().find_map(|entry| batch.last_look(*entry).err().map(|why| (*entry, why)));
    if let Some((entry, trouble)) = failed.or(looked) {
        return undo(client, entry, trouble).await;
    }
    match answer(client.batch_execute("COMMIT")).await {
        Ok(()) => Ok(Ok(results)),
        Err(Fault::Lost(trouble)) => Err(Lost { trouble, perhaps: true }),
        Err(Fault::Said(trouble)) => undo(client, first, trouble).await,
    }
}

async fn send(client: &Client, statement: Option<&str>) -> Result<Option<String>, Fault> {
    match statement {
        Some(statement) => answer(client.simple_query(statement)).await.map(|messages| last(rows(messages))),
        None => Ok(None),
    }
}

/// The prelude failed with many: which of the halves did it?
async fn halves(
    client: &Client,
    batch: &dyn Batch,
    entries: &[usize],
) -> Result<Result<Vec<Option<String>>, (usize, Trouble)>, Lost> {
    rollback(client).await?;
    let (left, right) = entries.split_at(entries.len() / 2);
    let mut results = match Box::pin(once(client, batch, left)).await? {
        Ok(results) => results,
        Err(bad) => return Ok(Err(bad)),
    };
    match Box::pin(once(client, batch, right)).await? {
        Ok(more) => results.extend(more),
        // What the left half did is done, and is done again to no effect when the rest comes back.
        Err(bad) => return Ok(Err(bad)),
    }
    Ok(Ok(results))
}

async fn undo<T>(
    client: &Client,
    entry: usize,
    trouble: Trouble,
) -> Result<Result<T, (usize, Trouble)>, Lost> {
    rollback(client).await?;
    Ok(Err((entry, trouble)))
}

async fn rollback(client: &Client) -> Result<(), Lost> {
    match answer(client.batch_execute("ROLLBACK")).await {
        Ok(()) => Ok(()),
        Err(Fault::Lost(trouble) | Fault::Said(trouble)) => Err(Lost { trouble, perhaps: false }),
    }
}

/// What came instead of an answer.
pub(super) enum Fault {
    /// Nothing: the connection is of no more use.
    Lost(Trouble),
    /// A complaint.
    Said(Trouble),
}

/// Waits for an answer, but not for ever.
pub(super) async fn answer<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault)) => match Trouble::from(fault) {
            trouble @ Trouble::Unreachable(_) => Err(Fault::Lost(trouble)),
            trouble => Err(Fault::Said(trouble)),
        },
        Err(_) => {
            let detail = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(Fault::Lost(Trouble::Unreachable(detail)))
        }
    }
}

pub(super) fn rows(messages: Vec<SimpleQueryMessage>) -> Rows {
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.try_get(at).ok().flatten().map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect()
}

fn last(rows: Rows) -> Option<String> {
    rows.into_iter().next_back().and_then(|row| row.into_iter().next_back()).flatten()
}
