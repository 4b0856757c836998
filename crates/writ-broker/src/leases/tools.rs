//! What the broker lends to engines: sealed values, and the sources.

use std::collections::HashMap;
use std::sync::Arc;

use writ_core::{BoxFuture, CredentialName, Engine, EngineFault, Secret, Source, Tools};

use crate::{
    broker::{Broker, Unlocked},
    store::{StoreFault, StoredValue},
};

/// The engines and sources of this daemon, by name.
#[derive(Default)]
pub struct Engines {
    engines: HashMap<&'static str, Arc<dyn Engine>>,
    sources: HashMap<&'static str, Arc<dyn Source>>,
}

impl Engines {
    pub fn new(
        engines: impl IntoIterator<Item = Arc<dyn Engine>>,
        sources: impl IntoIterator<Item = Arc<dyn Source>>,
    ) -> Self {
        Self {
            engines: engines.into_iter().map(|engine| (engine.name(), engine)).collect(),
            sources: sources.into_iter().map(|source| (source.scheme(), source)).collect(),
        }
    }

    pub(crate) fn engine(&self, name: &str) -> Option<&dyn Engine> {
        self.engines.get(name).map(AsRef::as_ref)
    }

    /// The source of a reference's scheme.
    pub(crate) fn source(&self, reference: &str) -> Option<&dyn Source> {
        let (scheme, _) = reference.split_once("://")?;
        self.sources.get(scheme).map(AsRef::as_ref)
    }
}

/// The tools of one call.
pub(crate) struct BrokerTools<'a> {
    pub broker: &'a Broker,
    pub open: &'a Unlocked,
}

impl Tools for BrokerTools<'_> {
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
                    .keys
                    .open_value(&credential, version, &sealed)
                    .map_err(|_| no_value(&credential, "its sealed value does not open: set it again")),
                Some(StoredValue::Reference(reference)) => self.read(&credential, &reference).await,
                None => Err(no_value(&credential, "this version was removed")),
            }
        })
    }

    fn read(&self, credential: &CredentialName, reference: &str) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let (credential, reference) = (credential.clone(), reference.to_owned());
        Box::pin(async move {
            let Some(source) = self.broker.engines.source(&reference) else {
                return Err(no_value(&credential, "no source reads references of this kind"));
            };
            source.read(&reference).await.map_err(|fault| EngineFault::Outside {
                credential,
                detail: fault.to_string(),
            })
        })
    }
}

fn no_value(credential: &CredentialName, detail: &str) -> EngineFault {
    EngineFault::NoValue { credential: credential.clone(), detail: detail.to_owned() }
}

fn outside(credential: &CredentialName, fault: &StoreFault) -> EngineFault {
    EngineFault::Outside { credential: credential.clone(), detail: fault.to_string() }
}
