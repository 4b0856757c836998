//! `[store]`: where the store is, if not in the state directory.

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{
    load,
    resolve::{At, Fallible},
};
use crate::store::Place;

/// `[store]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreEntry {
    /// `postgres://USER@HOST:PORT/DATABASE`
    pub url: Spanned<String>,
    /// Holds the password; mode 0600.
    pub password_file: Option<Spanned<PathBuf>>,
    /// PEM file that replaces the system's trust anchors.
    pub tls_ca: Option<Spanned<PathBuf>>,
    /// `ADDRESS:PORT` that is dialled instead of what the name says.
    pub dial: Option<SocketAddr>,
}

impl At<'_> {
    pub(super) fn store(&self, entry: Option<StoreEntry>) -> Fallible<Option<Place>> {
        let Some(entry) = entry else { return Ok(None) };
        let absolute = |path: Spanned<PathBuf>| {
            if path.as_ref().is_absolute() {
                return Ok(path.into_inner());
            }
            let what = format!("the path {} is not absolute", path.as_ref().display());
            Err(self.fault(path.span(), what, "write it from / on"))
        };
        let password_file = entry.password_file.map(absolute).transpose()?;
        let tls_ca = entry.tls_ca.map(absolute).transpose()?;
        let tls_ca = tls_ca.map(|path| load::read(&path, load::CA_MAX)).transpose()?;
        let span = entry.url.span();
        let place = Place { url: entry.url.into_inner(), password_file, tls_ca, dial: entry.dial };
        match place.check() {
            Ok(()) => Ok(Some(place)),
            Err(fault) => Err(self.fault(span, "this is no place for a store", fault.to_string())),
        }
    }
}
