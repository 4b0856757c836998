//! The person's configuration, `writ.toml`: credentials, targets, roles and workloads are four things.
//!
//! ```text
//! text ──parse──► Config (as written) ──resolve──► Resolved (every name leads somewhere, every limit kept)
//! ```
//!
//! A fault names the file, the line, the column, what is wrong and what to do. Everything is checked when it is loaded,
//! so that a slip shows at once and not when an agent first needs the role. What a repository may ask for is read
//! by another grammar, in which nothing grants (repository.rs). Absent: secrets (the store has them) and environment variables (only
//! `main` reads those).

mod check;
mod fault;
mod file;
mod load;
mod quota;
pub mod reference;
mod repository;
mod resolve;
mod resolved;
mod store;
mod target;
mod when;

pub(crate) use check::method;
pub(crate) use fault::nearest;
pub use fault::{ConfigFault, Problem};
pub use file::{
    Config, CredentialEntry, GrantEntry, InjectEntry, InjectKind, RoleEntry, RunEntry, SealEntry, SealKind,
    TargetEntry, WorkloadEntry,
};
pub use quota::{IssueRate, IssueRateError, Quota};
pub use repository::{REPOSITORY_MAX, Repository};
pub use resolved::{
    PolicyFile, Resolved, ResolvedCredential, ResolvedGrant, ResolvedRole, ResolvedTarget, Run,
    quiet_hosts_of,
};
pub use store::StoreEntry;
pub use when::{When, WhenError};

#[cfg(test)]
pub(crate) mod tests;
