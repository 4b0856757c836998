//! What upstreams have, compared with the leases, and made to agree where a person wants it.
//!
//! ```text
//!   survey ─► leases ─► differences? ─► survey again ─► leases again ─► what stayed is a finding      (survey.rs)
//!   repair    orphan: a `revoking` lease is durable for it ─► settled like any other                 (repair.rs)
//!             lost:   the lease ends as `lost`             ─► settled like any other
//! ```
//!
//! An *orphan* exists upstream under this installation's mark and no lease stands for it, such as after the store was put back
//! from a backup. A lease is *lost* when what was made for it is gone upstream. Both are repaired by what ends leases anyway, so
//! a repair that is killed goes on by itself, and one that is repeated finds nothing. Absent: another installation's accounts,
//! which the engines do not list, and upstreams of credentials that the configuration does not name any more.

mod repair;
mod survey;

pub(crate) use repair::repair;
pub(crate) use survey::survey;

/// Findings in one answer, and repairs in one command, so that each fits into a frame.
pub(crate) const FINDINGS_MAX: usize = 500;
