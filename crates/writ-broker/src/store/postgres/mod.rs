//! The store on a PostgreSQL server, which several daemons may share.
//!
//! ```text
//! apply ──► writer task ──► one pipelined transaction for many callers ──► answers
//! credential, session, lease, meta ──► a few connections, each of which takes many questions at once
//! lists, claims, heartbeats ──► one more ──── news ──► another, which listens
//! ```
//!
//! The tables stand in a schema of their own, `writ`, in a database of UTF8. Absent: everything that an administrator of
//! PostgreSQL has for all databases (backups, replicas, pools), and two-phase commit.

mod boots;
mod changes;
mod fault;
mod listen;
mod migrate;
mod open;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use uuid::Uuid;
use writ_core::{BootId, BoxFuture, CredentialName, LeaseId, SessionId, Timestamp};

use self::open::{Lasting, Server};
pub use self::open::{Place, PlaceFault};
use super::{
    Beat, Change, Claim, CredentialVersion, LeaseFilter, LeaseRecord, News, OriginalRecord, Orphan, Orphaned,
    PendingValue, SessionRecord, Shared, Store, StoreFault, Stuck,
};

/// Connections for point reads.
const POINT_READERS: usize = 2;

/// [`Store`] on PostgreSQL. Dropping it finishes what was handed over, as long as the runtime lives.
pub struct PostgresStore {
    writer: writer::Writer,
    points: [Lasting; POINT_READERS],
    next: AtomicUsize,
    /// Lists, claims, heartbeats: what may take its time.
    lists: Lasting,
    listener: listen::Listener,
    own: Own,
}

/// The boot whose daemon this is, once it is enlisted.
#[derive(Clone, Default)]
struct Own(Arc<OnceLock<BootId>>);

impl Own {
    /// The nil UUID, which no boot has, before.
    fn uuid(&self) -> Uuid {
        self.0.get().map_or(Uuid::nil(), |boot| changes::boot_uuid(*boot))
    }
}

impl PostgresStore {
    /// Opens the store at `place`; makes its tables where there are none. Needs a tokio runtime, on which the work stays.
    ///
    /// # Errors
    /// [`StoreFault::Unsuitable`], [`StoreFault::Downgrade`], [`StoreFault::Exposed`] for a password that others can read,
    /// [`StoreFault::Io`] for a server that cannot be reached.
    pub async fn open(place: &Place) -> Result<Self, StoreFault> {
        Self::open_with(place, migrate::MIGRATIONS).await
    }

    async fn open_with(place: &Place, migrations: &[&str]) -> Result<Self, StoreFault> {
        let server = Arc::new(Server::of(place)?);
        let mut link = server.connect(None).await?;
        migrate::migrate(link.client_mut(), migrations).await?;
        let own = Own::default();
        let lasting = || Lasting::new(Arc::clone(&server));
        Ok(Self {
            writer: writer::Writer::start(Arc::clone(&server), own.clone()),
            points: [lasting(), lasting()],
            next: AtomicUsize::new(0),
            lists: lasting(),
            listener: listen::Listener::new(Arc::clone(&server)),
            own,
        })
    }

    /// Looks whether the server is there and can be a store, and says what it is. Changes nothing.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn probe(place: &Place) -> Result<String, StoreFault> {
        let link = Server::of(place)?.connect(None).await?;
        migrate::check_suitable(link.client()).await
    }

    fn point(&self) -> &Lasting {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % POINT_READERS;
        let [first, others @ ..] = &self.points;
        turn.checked_sub(1).and_then(|turn| others.get(turn)).unwrap_or(first)
    }
}

impl Store for PostgresStore {
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(self.writer.apply(changes))
    }

    fn credential(
        &self,
        name: CredentialName,
        version: Option<u32>,
    ) -> BoxFuture<'_, Result<Option<CredentialVersion>, StoreFault>> {
        Box::pin(async move { rows::credential(self.point(), &name, version).await })
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<CredentialVersion>, StoreFault>> {
        Box::pin(rows::credentials(&self.lists))
    }

    fn originals(&self) -> BoxFuture<'_, Result<Vec<OriginalRecord>, StoreFault>> {
        Box::pin(rows::originals(&self.lists))
    }

    fn session(&self, session: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreFault>> {
        Box::pin(rows::session(self.point(), session))
    }

    fn sessions(&self, ended: bool) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreFault>> {
        Box::pin(rows::sessions(&self.lists, ended))
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<Option<LeaseRecord>, StoreFault>> {
        Box::pin(rows::lease(self.point(), lease))
    }

    fn leases(&self, filter: LeaseFilter) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        Box::pin(async move { rows::leases(&self.lists, &filter).await })
    }

    fn lanes(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<String>, StoreFault>> {
        Box::pin(rows::lanes(&self.lists, now))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        Box::pin(boots::claim(&self.lists, claim))
    }

    fn orphan(&self, ask: Orphan) -> BoxFuture<'_, Result<Orphaned, StoreFault>> {
        Box::pin(boots::orphan(&self.lists, ask))
    }

    fn stuck(&self, before: Timestamp) -> BoxFuture<'_, Result<Vec<Stuck>, StoreFault>> {
        Box::pin(boots::stuck(&self.lists, before))
    }

    fn pending(&self) -> BoxFuture<'_, Result<Vec<PendingValue>, StoreFault>> {
        Box::pin(rows::pending(&self.lists))
    }

    fn meta(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreFault>> {
        Box::pin(rows::meta(self.point(), key))
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }
}

impl Shared for PostgresStore {
    fn enlist(&self, boot: BootId, node: Option<String>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move {
            boots::enlist(&self.lists, boot, node).await?;
            let _ = self.own.0.set(boot);
            Ok(())
        })
    }

    fn beat(&self, boot: BootId) -> BoxFuture<'_, Result<Beat, StoreFault>> {
        Box::pin(boots::beat(&self.lists, boot))
    }

    fn retire(&self, boot: BootId) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(boots::retire(&self.lists, boot))
    }

    fn news(&self, boot: BootId) -> BoxFuture<'_, Result<Vec<News>, StoreFault>> {
        Box::pin(self.listener.news(&self.lists, boot))
    }
}
