//! Leases: made with intent before effect, ended once and for all.
//!
//! ```text
//!   issue   plan ─► OpenLease durable ─► mint ─► ActivateLease durable ─► seal ─► land      (issue.rs)
//!   end     mark ─► RevokeLease durable ─► tell the holders                                (end.rs)
//!   settle  engine.revoke, verified ─► EndLease durable                                    (settle.rs)
//! ```
//!
//! A crash, a failure or a dropped future between any two of these steps leaves a lease that is revocable from its stored
//! receipt alone; `tasks/` finishes what was left. Absent: renewal. The data plane acquires again, ahead of time.

mod end;
mod issue;
mod settle;
mod table;
mod tools;

pub(crate) use end::{cancel, end, finish};
pub(crate) use issue::{NO_ENGINE, issue};
pub(crate) use settle::{Settled, settle};
pub(crate) use table::{Row, Stage, Table};
pub(crate) use tools::BrokerTools;
pub use tools::Engines;
