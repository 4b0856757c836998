//! The person's configuration, `writ.toml`: credentials, targets, roles and workloads are four things.
//!
//! ```text
//! text ──parse──► Config (as written) ──resolve──► Resolved (every name leads somewhere, every limit kept)
//! ```
//!
//! A fault names the file, the line, the column, what is wrong and what to do. Everything is checked when it is loaded,
//! so that a slip shows at once and not when an agent first needs the role. Absent: secrets (the store has them), environment
//! variables (only `main` reads those), and what a repository may ask for.

mod check;
mod fault;
mod file;
mod load;
pub mod reference;
mod resolve;
mod resolved;
mod target;
mod when;

pub(crate) use check::method;
pub(crate) use fault::nearest;
pub use fault::{ConfigFault, Problem};
pub use file::{
    Config, CredentialEntry, GrantEntry, InjectEntry, InjectKind, RoleEntry, RunEntry, SealEntry, SealKind,
    TargetEntry, WorkloadEntry,
};
pub use resolved::{
    PolicyFile, Resolved, ResolvedCredential, ResolvedGrant, ResolvedRole, ResolvedTarget, Run,
};
pub use when::{When, WhenError};

#[cfg(test)]
pub(crate) mod tests;
