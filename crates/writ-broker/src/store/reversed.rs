//! A store that breaks the order on purpose: a lease is opened when it is active, effect before intent.
//!
//! Only the test build has it. The tests that kill the daemon everywhere must find what is orphaned upstream with this
//! store; a test that finds nothing then would find nothing ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use writ_core::{BoxFuture, CredentialName, LeaseId, SessionId, Timestamp, fault_points};

use super::{
    Change, Claim, CredentialVersion, LeaseFilter, LeaseRecord, OriginalRecord, Orphan, Orphaned,
    PendingValue, SessionRecord, Store, StoreFault, Stuck,
};

/// `store` itself, or in reverse order where that was asked for.
pub(crate) fn reversed(store: Arc<dyn Store>) -> Arc<dyn Store> {
    if !fault_points::is_reversed() {
        return store;
    }
    tracing::warn!("the store keeps intents to itself until they are effects: this is a test");
    Arc::new(Reversed { store, held: Mutex::default() })
}

struct Reversed {
    store: Arc<dyn Store>,
    /// Leases that were opened and are in no file.
    held: Mutex<HashMap<LeaseId, LeaseRecord>>,
}

impl Reversed {
    /// Holds back what opens a lease, and puts it in front of the first change that is about that lease.
    fn reorder(&self, changes: Vec<Change>) -> Vec<Change> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = Vec::with_capacity(changes.len());
        for change in changes {
            if let Change::OpenLease(record) = change {
                held.insert(record.lease, record);
                continue;
            }
            if let Change::ActivateLease { lease, .. } | Change::RevokeLease { lease, .. } = &change {
                now.extend(held.remove(lease).map(Change::OpenLease));
            }
            now.push(change);
        }
        now
    }
}

impl Store for Reversed {
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.store.apply(self.reorder(changes))
    }

    fn credential(
        &self,
        name: CredentialName,
        version: Option<u32>,
    ) -> BoxFuture<'_, Result<Option<CredentialVersion>, StoreFault>> {
        self.store.credential(name, version)
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<CredentialVersion>, StoreFault>> {
        self.store.credentials()
    }

    fn originals(&self) -> BoxFuture<'_, Result<Vec<OriginalRecord>, StoreFault>> {
        self.store.originals()
    }

    fn session(&self, session: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreFault>> {
        self.store.session(session)
    }

    fn sessions(&self, ended: bool) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreFault>> {
        self.store.sessions(ended)
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<Option<LeaseRecord>, StoreFault>> {
        self.store.lease(lease)
    }

    fn leases(&self, filter: LeaseFilter) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.store.leases(filter)
    }

    fn lanes(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<String>, StoreFault>> {
        self.store.lanes(now)
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<LeaseRecord>, StoreFault>> {
        self.store.claim(claim)
    }

    fn orphan(&self, ask: Orphan) -> BoxFuture<'_, Result<Orphaned, StoreFault>> {
        self.store.orphan(ask)
    }

    fn stuck(&self, before: Timestamp) -> BoxFuture<'_, Result<Vec<Stuck>, StoreFault>> {
        self.store.stuck(before)
    }

    fn pending(&self) -> BoxFuture<'_, Result<Vec<PendingValue>, StoreFault>> {
        self.store.pending()
    }

    fn meta(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreFault>> {
        self.store.meta(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Options, SqliteStore,
        suite::{at, lease, lease_id, session},
    };

    #[tokio::test]
    async fn an_opened_lease_is_in_no_file_until_it_is_active_or_ended() {
        let directory = tempfile::tempdir().unwrap();
        let sound = SqliteStore::open(&directory.path().join("writ.db"), Options::default()).unwrap();
        let sound: Arc<dyn Store> = Arc::new(sound);
        let store = Reversed { store: sound.clone(), held: Mutex::default() };
        store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
        for number in [1, 2] {
            store.apply(vec![Change::OpenLease(lease(number, 1))]).await.unwrap();
            assert_eq!(sound.lease(lease_id(number)).await.unwrap(), None);
        }
        let activate = Change::ActivateLease { lease: lease_id(1), version: 1, receipt: None };
        let end = writ_core::LeaseEnd::Revoked;
        let revoke = Change::RevokeLease { lease: lease_id(2), at: at(1), end };
        store.apply(vec![activate, revoke]).await.unwrap();
        for number in [1, 2] {
            assert!(sound.lease(lease_id(number)).await.unwrap().is_some());
        }
    }
}
