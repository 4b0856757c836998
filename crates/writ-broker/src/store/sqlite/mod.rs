//! The store in one SQLite file: one thread writes, a few connections read.
//!
//! ```text
//! apply ──► writer thread ──► one transaction for many callers ──► WAL, fsync ──► answers
//! credential, session, lease, meta ──► read-only connections, on the caller's thread
//! credentials, sessions, leases ──► one more, off the runtime's workers
//! ```
//!
//! A point read takes microseconds on the caller's thread, less than handing it to another one; a list may take milliseconds and
//! goes to tokio's blocking threads, with a connection of its own, so that it never keeps a point read waiting. Absent: removal of
//! old sessions and ended leases, encryption of the file (what is sensitive arrives sealed), and any way to run SQL from outside.

mod changes;
mod fault;
mod migrate;
mod open;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rusqlite::Connection;
use writ_core::{BoxFuture, CredentialName, LeaseEnd, LeaseId, SessionId, Timestamp};

use super::{
    Change, Claim, CredentialVersion, LeaseFilter, LeaseRecord, OriginalRecord, Orphan, Orphaned,
    PendingValue, SessionRecord, Store, StoreFault, Stuck,
};

/// Connections for point reads.
const POINT_READERS: usize = 3;

/// What a test may want otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Names the network file system on which a directory lies.
    pub network_filesystem: fn(&Path) -> io::Result<Option<&'static str>>,
    /// The largest size of the file, in pages of 4 KiB; SQLite's own limit otherwise.
    pub pages_max: Option<u32>,
    /// The only user to whom the file may belong.
    owner: u32,
    migrations: &'static [&'static str],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            network_filesystem: writ_sys::is_network_filesystem,
            pages_max: None,
            owner: rustix::process::geteuid().as_raw(),
            migrations: migrate::MIGRATIONS,
        }
    }
}

/// [`Store`] on SQLite. Dropping it finishes what was handed over.
pub struct SqliteStore {
    writer: writer::Writer,
    readers: Arc<Readers>,
}

struct Readers {
    points: [Mutex<Connection>; POINT_READERS],
    lists: Mutex<Connection>,
    next: AtomicUsize,
}

impl SqliteStore {
    /// Opens the store at `path`; makes it, and its directory, where there is none. Blocks: opening reads up to 16 MiB, and an
    /// upgrade copies the file first, to `NAME.before-vN` beside it.
    ///
    /// # Errors
    /// [`StoreFault::Exposed`] when others can read or replace it, [`StoreFault::NetworkFileSystem`],
    /// [`StoreFault::Downgrade`], [`StoreFault::Damaged`], [`StoreFault::DiskFull`], [`StoreFault::Io`].
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreFault> {
        let connection = open::writer(path, &options)?;
        let reader = || open::reader(path).map(Mutex::new);
        let readers = Readers {
            points: [reader()?, reader()?, reader()?],
            lists: reader()?,
            next: AtomicUsize::new(0),
        };
        Ok(Self { writer: writer::Writer::start(connection, path)?, readers: Arc::new(readers) })
    }

    /// Reads one thing, now.
    fn point<'a, T: Send + 'static>(
        &'a self,
        read: impl FnOnce(&Connection) -> Result<T, StoreFault> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreFault>> {
        Box::pin(async move {
            let turn = self.readers.next.fetch_add(1, Ordering::Relaxed) % POINT_READERS;
            let [first, others @ ..] = &self.readers.points;
            with(turn.checked_sub(1).and_then(|turn| others.get(turn)).unwrap_or(first), read)
        })
    }

    /// Reads many things, off the runtime's workers where there is a runtime.
    fn list<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreFault> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreFault>> {
        let readers = Arc::clone(&self.readers);
        Box::pin(async move {
            let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                return with(&readers.lists, read);
            };
            let done = runtime.spawn_blocking(move || with(&readers.lists, read)).await;
            done.unwrap_or_else(|error| Err(StoreFault::Io(error.to_string())))
        })
    }
}

impl Store for SqliteStore {
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(self.writer.apply(changes))
    }

    fn credential(
        &self,
        name: CredentialName,
        version: Option<u32>,
    ) -> BoxFuture<'_, Result<Option<CredentialVersion>, StoreFault>> {
        self.point(move |connection| rows::credential(connection, &name, version))
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<CredentialVersion>, StoreFault>> {
        self.list(rows::credentials)
    }

    fn originals(&self) -> BoxFuture<'_, Result<Vec<OriginalRecord>, StoreFault>> {
        self.list(rows::originals)
    }

    fn session(&self, session: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreFault>> {
        self.point(move |connection| rows::session(connection, session))
    }

    fn sessions(&self, ended: bool) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreFault>> {
        self.list(move |connection| rows::sessions(connection, ended))
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<Option<LeaseRecord>, StoreFault>> {
        self.point(move |connection| rows::lease(connection, lease))
    }

    fn leases(&self, filter: LeaseFilter) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.list(move |connection| rows::leases(connection, &filter))
    }

    fn lanes(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<String>, StoreFault>> {
        self.list(move |connection| rows::lanes(connection, now))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.list(move |connection| rows::due(connection, &claim))
    }

    fn orphan(&self, ask: Orphan) -> BoxFuture<'_, Result<Orphaned, StoreFault>> {
        Box::pin(async move {
            let Orphan { boot, at, end, limit } = ask;
            let orphaned = self.list(move |connection| rows::orphans(connection, boot, limit)).await?;
            // Nobody else has the file, and their owner is dead: they are still as they were read.
            let sessions = orphaned.sessions.iter();
            let sessions = sessions.map(|one| Change::EndSession { session: *one, at, end: end.clone() });
            let leases = orphaned.leases.iter();
            let leases = leases.map(|one| Change::RevokeLease { lease: *one, at, end: LeaseEnd::Orphaned });
            self.writer.apply(sessions.chain(leases).collect()).await?;
            Ok(orphaned)
        })
    }

    fn stuck(&self, before: Timestamp) -> BoxFuture<'_, Result<Vec<Stuck>, StoreFault>> {
        self.list(move |connection| rows::stuck(connection, before))
    }

    fn pending(&self) -> BoxFuture<'_, Result<Vec<PendingValue>, StoreFault>> {
        self.list(rows::pending)
    }

    fn meta(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreFault>> {
        self.point(move |connection| rows::meta(connection, &key))
    }
}

fn with<T>(
    reader: &Mutex<Connection>,
    read: impl FnOnce(&Connection) -> Result<T, StoreFault>,
) -> Result<T, StoreFault> {
    // A panic while reading leaves nothing half done.
    read(&reader.lock().unwrap_or_else(PoisonError::into_inner))
}
