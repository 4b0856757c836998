//! What the broker lends to engines: sealed values, and the sources.

use std::sync::Arc;

use serde_json::Value;
use writ_core::{BoxFuture, CredentialName, Engine, EngineFault, Secret, Timestamp, Tools};

use crate::{
    broker::Broker,
    credentials,
    door::Unlocked,
    keyring::Place,
    store::{Change, StoreFault, StoredValue},
};

/// The secrets engines of this daemon.
#[derive(Clone)]
pub struct Engines(Vec<Arc<dyn Engine>>);

impl Default for Engines {
    /// Every engine of `writ-engine`.
    fn default() -> Self {
        Self(writ_engine::engines())
    }
}

impl Engines {
    /// Other engines, for tests of what engines may do to a broker.
    #[cfg(test)]
    pub(crate) fn new(engines: Vec<Arc<dyn Engine>>) -> Self {
        Self(engines)
    }

    pub(crate) fn engine(&self, name: &str) -> Option<&dyn Engine> {
        self.0.iter().map(Arc::as_ref).find(|engine| engine.name() == name)
    }
}

/// The tools of one call.
pub(crate) struct BrokerTools<'a> {
    pub broker: &'a Broker,
    pub open: &'a Unlocked,
}

impl Tools for BrokerTools<'_> {
    fn now(&self) -> Timestamp {
        self.broker.clock.now()
    }

    fn mark(&self) -> String {
        self.open.vault.installation().mark()
    }

    fn current(&self, credential: &CredentialName) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let credential = credential.clone();
        Box::pin(async move {
            let rules = self.broker.rules.in_force().ok();
            let configured = rules.as_ref().and_then(|rules| rules.resolved.credential(&credential));
            match configured.and_then(|found| found.engine_config.get("source")?.as_str()) {
                Some(reference) => self.read(&credential, reference).await,
                None => self.value(&credential, self.latest(&credential).await?).await,
            }
        })
    }

    fn remember(&self, key: &str, value: Value) -> BoxFuture<'_, Result<(), EngineFault>> {
        let (key, place) = (remembered(key), Place::Remembered { key: key.to_owned() });
        Box::pin(async move {
            let value = serde_json::to_vec(&value).map_err(|fault| EngineFault::Memory(fault.to_string()))?;
            let value = self
                .open
                .vault
                .seal(&place, &Secret::new(value))
                .map_err(|fault| EngineFault::Memory(fault.to_string()))?;
            let put = Change::PutMeta { key, value };
            self.broker.store.apply(vec![put]).await.map_err(|fault| EngineFault::Memory(fault.to_string()))
        })
    }

    fn recall(&self, key: &str) -> BoxFuture<'_, Result<Option<Value>, EngineFault>> {
        let (key, place) = (remembered(key), Place::Remembered { key: key.to_owned() });
        Box::pin(async move {
            let fault = |fault: &dyn std::error::Error| EngineFault::Memory(fault.to_string());
            let found = self.broker.store.meta(key).await.map_err(|error| fault(&error))?;
            let Some(sealed) = found else { return Ok(None) };
            // It decides where a password is sent, and a shared store has other writers.
            let value = self.open.vault.open(&place, &sealed).map_err(|_| foreign(&place))?;
            serde_json::from_slice(value.expose()).map(Some).map_err(|error| fault(&error))
        })
    }

    fn latest(&self, credential: &CredentialName) -> BoxFuture<'_, Result<u32, EngineFault>> {
        let credential = credential.clone();
        Box::pin(async move {
            let found = self.broker.store.credential(credential.clone(), None).await;
            match found.map_err(|fault| outside(&credential, &fault))? {
                Some(version) => Ok(version.version),
                None => Err(no_value(&credential, "it was never set: run `writ credential set`")),
            }
        })
    }

    fn value(&self, credential: &CredentialName, version: u32) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let credential = credential.clone();
        Box::pin(async move {
            let found = self.broker.store.credential(credential.clone(), Some(version)).await;
            match found.map_err(|fault| outside(&credential, &fault))?.map(|found| found.value) {
                Some(StoredValue::Sealed(sealed)) => self
                    .open
                    .vault
                    .open(&Place::Credential { name: credential.clone(), version }, &sealed)
                    .map_err(|_| no_value(&credential, "its sealed value does not open: set it again")),
                Some(StoredValue::Reference(reference)) => self.read(&credential, &reference).await,
                None => Err(no_value(&credential, "this version was removed")),
            }
        })
    }

    fn release(&self, credential: &CredentialName, version: u32) -> BoxFuture<'_, Result<bool, EngineFault>> {
        let credential = credential.clone();
        Box::pin(async move {
            let released = credentials::release(self.broker, self.open, &credential, version).await;
            released.map_err(|fault| EngineFault::Outside { credential, detail: fault.to_string() })
        })
    }

    fn read(
        &self,
        credential: &CredentialName,
        reference: &str,
    ) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let (credential, reference) = (credential.clone(), reference.to_owned());
        Box::pin(async move {
            writ_engine::read(&reference).await.map_err(|fault| {
                // The session is told neither where the value is kept nor what a command there complained of.
                tracing::warn!(%credential, %fault, "a credential could not be read from its source");
                let scheme = reference.split_once("://").map_or("unknown", |(scheme, _)| scheme);
                let detail = format!("its source, {scheme}, gave no value; the daemon's log says why");
                EngineFault::Outside { credential, detail }
            })
        })
    }
}

/// Where the store keeps what an engine remembers.
fn remembered(key: &str) -> String {
    format!("engine/{key}")
}

fn foreign(place: &Place) -> EngineFault {
    EngineFault::Memory(format!("{place} was not written by this installation, so nothing is done with it"))
}

fn no_value(credential: &CredentialName, detail: &str) -> EngineFault {
    EngineFault::NoValue { credential: credential.clone(), detail: detail.to_owned() }
}

fn outside(credential: &CredentialName, fault: &StoreFault) -> EngineFault {
    EngineFault::Outside { credential: credential.clone(), detail: fault.to_string() }
}
