//! What other daemons did to what is ours, within a second.
//!
//! ```text
//! the other daemon: change + row in writ.news, one transaction ──trigger──► NOTIFY writ_news, <boot>
//! this daemon:      LISTEN, on a connection of its own ──rings──┐
//!                   once a second, whatever was heard ──────────┴──► the rows of its boot ──► acted on ──► deleted
//! ```
//!
//! The bell carries no news, it only says whose there are: one that is lost costs the rest of a second. Rows are read by their
//! receiver, not by a number that rises: a transaction that began earlier may be seen later, and a number would skip it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep_until},
};
use tokio_postgres::{Notification, Row};
use writ_core::{BootId, LeaseEnd};

use super::{
    changes::{boot_uuid, params},
    fault::Failed,
    open::{Lasting, Link, Server},
    rows::{Cells, all},
};
use crate::store::{News, StoreFault, names::named};

/// How often it looks without having heard anything.
const PERIOD: Duration = Duration::from_secs(1);
/// Bells that wait. One is enough; more are lost, and that loses nothing.
const BELLS: usize = 8;
/// News in one answer.
const NEWS_MAX: i64 = 1000;

const READ: &str = "SELECT id, kind, subject, detail FROM writ.news WHERE boot = $1 ORDER BY id LIMIT $2";
const DONE: &str = "DELETE FROM writ.news WHERE boot = $1 AND id = ANY ($2)";

/// Every statement, for the test that prepares them.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[READ, DONE];

/// The receiver's end.
pub(super) struct Listener {
    server: Arc<Server>,
    state: Mutex<State>,
}

struct State {
    /// Where the bells ring. `None`: not connected, so that only looking helps.
    ears: Option<(Link, mpsc::Receiver<Notification>)>,
    /// What was told and is acted on once the next news are asked for.
    told: Vec<i64>,
    next_look: Instant,
}

impl Listener {
    pub(super) fn new(server: Arc<Server>) -> Self {
        let state = State { ears: None, told: Vec::new(), next_look: Instant::now() };
        Self { server, state: Mutex::new(state) }
    }

    /// Waits for news of `boot`. What was told before counts as acted on.
    pub(super) async fn news(&self, reader: &Lasting, boot: BootId) -> Result<Vec<News>, StoreFault> {
        let mut state = self.state.lock().await;
        loop {
            if !state.told.is_empty() {
                reader.ask(DONE, params![boot_uuid(boot), state.told.clone()]).await?;
                state.told.clear();
            }
            if state.ears.as_ref().is_none_or(|(link, _)| link.is_lost()) {
                state.ears = self.listen().await.ok();
            }
            // Looked at after listening began, so that nothing falls between the two.
            let rows = reader.ask(READ, params![boot_uuid(boot), NEWS_MAX]).await?;
            state.next_look = Instant::now() + PERIOD;
            if !rows.is_empty() {
                state.told = all(&rows, |row| Cells(row, 0).take())?;
                let news: Vec<News> = rows.iter().flat_map(read).collect();
                if !news.is_empty() {
                    return Ok(news);
                }
                // Nothing of it means anything: it is deleted, and what comes after it is heard.
                continue;
            }
            let State { ears, next_look, .. } = &mut *state;
            let mine = boot.to_string();
            tokio::select! {
                () = heard(ears, &mine) => {}
                () = sleep_until(*next_look) => {}
            }
        }
    }

    async fn listen(&self) -> Result<(Link, mpsc::Receiver<Notification>), StoreFault> {
        let (heard, ears) = mpsc::channel(BELLS);
        let link = self.server.connect(Some(heard)).await?;
        super::open::answered(link.client().batch_execute("LISTEN writ_news"))
            .await
            .map_err(Failed::into_fault)?;
        Ok((link, ears))
    }
}

/// Waits for a bell of ours; for ever without ears.
async fn heard(ears: &mut Option<(Link, mpsc::Receiver<Notification>)>, mine: &str) {
    if let Some((_, bells)) = ears {
        while let Some(bell) = bells.recv().await {
            if bell.payload() == mine {
                return;
            }
        }
        *ears = None;
    }
    std::future::pending().await
}

/// What a row says. One that cannot be read, such as a newer writ's, ends whatever its subject may be: it is of something that
/// was ended, and it keeps nothing that comes after it from being heard.
fn read(row: &Row) -> Vec<News> {
    let fault = match decode(row) {
        Ok(news) => return vec![news],
        Err(fault) => fault,
    };
    tracing::warn!(%fault, "news of another daemon cannot be read; whatever they are of is ended");
    let end = LeaseEnd::Revoked;
    let lease = Cells(row, 2).parsed().ok().map(|lease| News::Lease { lease, end });
    let session = Cells(row, 2).parsed().ok().map(|session| News::Session { session });
    let credential = Cells(row, 2).parsed().ok().map(|credential| News::Credential { credential, end });
    [lease, session, credential].into_iter().flatten().collect()
}

/// An end without a name here ends as the strictest does.
fn end(name: &str) -> LeaseEnd {
    named(name).unwrap_or(LeaseEnd::Revoked)
}

fn decode(row: &Row) -> Result<News, StoreFault> {
    let mut cells = Cells(row, 1);
    let kind: String = cells.take()?;
    match kind.as_str() {
        "lease" => Ok(News::Lease { lease: cells.parsed()?, end: end(&cells.take::<String>()?) }),
        "session" => Ok(News::Session { session: cells.parsed()? }),
        "credential" => {
            Ok(News::Credential { credential: cells.parsed()?, end: end(&cells.take::<String>()?) })
        }
        other => Err(StoreFault::Damaged(format!("news of kind {other:?}"))),
    }
}
