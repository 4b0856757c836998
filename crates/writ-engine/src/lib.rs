//! Secrets engines and sources: where credentials come from.
//!
//! ```text
//! engine: plan ──receipt──► (stored) ──► mint ──credential──► … revoke(receipt)
//! source: reference ──► an existing secret, from where a person keeps it
//! ```
//!
//! An engine or a source is one file here and two adjacent lines below; the conformance tests run over every one of them.
//! Absent: the store and its keyring, which the broker lends through [`Tools`](writ_core::Tools).

use std::sync::Arc;

use writ_core::{Engine, Secret, Source, SourceFault};

pub mod reference;
mod words;

// An engine or a source is two lines: its module, and its place in the registry.
pub mod postgres;
mod static_value;
static ENGINES: &[fn() -> Arc<dyn Engine>] = &[
    || Arc::new(static_value::Static),
    || Arc::<postgres::Postgres>::default(),
    || Arc::new(postgres::StaticRole),
];

mod cmd;
mod file;
static SOURCES: &[&dyn Source] = &[&cmd::Cmd, &file::Local];

/// The longest secret that a source gives, in bytes.
pub const SECRET_MAX: usize = 64 * 1024;

/// Every secrets engine, made anew: what it keeps between two calls, such as connections, goes when it is dropped.
pub fn engines() -> Vec<Arc<dyn Engine>> {
    ENGINES.iter().map(|make| make()).collect()
}

/// The secrets engine of that name, made anew.
pub fn engine(name: &str) -> Option<Arc<dyn Engine>> {
    engines().into_iter().find(|engine| engine.name() == name)
}

/// Every source.
pub fn sources() -> &'static [&'static dyn Source] {
    SOURCES
}

/// The source for references of that scheme, such as `cmd`.
pub fn source(scheme: &str) -> Option<&'static dyn Source> {
    SOURCES.iter().copied().find(|source| source.scheme() == scheme)
}

/// Reads the secret behind a reference such as `cmd://…` through the source of its scheme.
///
/// # Errors
/// [`SourceFault`] when no source has the scheme, or from that source.
pub async fn read(reference: &str) -> Result<Secret, SourceFault> {
    match reference.split_once("://").and_then(|(scheme, _)| source(scheme)) {
        Some(source) => source.read(reference).await,
        None => Err(fault(reference, unknown_scheme())),
    }
}

fn unknown_scheme() -> String {
    let known: Vec<String> = SOURCES.iter().map(|source| format!("{}://", source.scheme())).collect();
    format!("a reference begins with one of {}", known.join(", "))
}

fn fault(reference: &str, detail: impl Into<String>) -> SourceFault {
    SourceFault { reference: reference.to_owned(), detail: detail.into() }
}

/// A secret as read, without the line's end that files and commands put after it.
fn secret(mut bytes: Vec<u8>) -> Option<Secret> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    (!bytes.is_empty()).then(|| Secret::new(bytes))
}
