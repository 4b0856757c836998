//! Attestors: evidence in, selectors out.
//!
//! A workload shows what it is ([`Evidence`](writ_core::Evidence)); the attestor of that kind proves what can be proven and says it as
//! selectors, `kind:key:value`. Which name and role they lead to is the registration's matter, not ours. An attestor is one file
//! here and two adjacent lines below; the conformance test runs over every one of them.

use std::collections::BTreeSet;

use writ_core::{Attestor, Selector};

pub mod reference;

// An attestor is these two lines: its module, and its place in the registry.
mod unix;
static ATTESTORS: &[&dyn Attestor] = &[&unix::Unix];

/// Every attestor.
pub fn attestors() -> &'static [&'static dyn Attestor] {
    ATTESTORS
}

/// The attestor for evidence of that kind.
pub fn attestor(kind: &str) -> Option<&'static dyn Attestor> {
    ATTESTORS.iter().copied().find(|attestor| attestor.kind() == kind)
}

/// Every `kind:key` that some attestor can prove.
pub fn questions() -> BTreeSet<String> {
    let examples = ATTESTORS.iter().flat_map(|attestor| attestor.examples());
    let selectors = examples.filter_map(|(example, _)| example.parse::<Selector>().ok());
    selectors.map(|selector| selector.question().to_owned()).collect()
}
