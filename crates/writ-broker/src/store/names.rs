//! The words for kinds of things in the columns of both stores.

use serde::de::{DeserializeOwned, IntoDeserializer, value::StrDeserializer};
use writ_core::{Level, Revoked};

use super::StoreFault;

pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::Advisory => "advisory",
        Level::Restricted => "restricted",
        Level::Confined => "confined",
    }
}

pub(super) const fn revoked(revoked: Revoked) -> &'static str {
    match revoked {
        Revoked::Gone => "gone",
        Revoked::UseBlocked => "use-blocked",
    }
}

/// A value by its serialized name, which is what the column holds.
pub(super) fn named<T: DeserializeOwned>(text: &str) -> Result<T, StoreFault> {
    let name: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    T::deserialize(name).map_err(|error| StoreFault::Damaged(error.to_string()))
}
