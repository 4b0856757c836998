//! Leases: made with intent before effect, ended once and for all.
//!
//! ```text
//!   issue   plan ─► OpenLease durable ─► mint ─► ActivateLease durable ─► seal ─► land      (issue.rs)
//!   reveal  the same, sealed to the launcher, for a program to hold                           (reveal.rs)
//!   end     mark ─► RevokeLease durable ─► tell the holders                                (end.rs)
//!   settle  engine.revoke, verified ─► EndLease durable                                    (settle.rs)
//! ```
//!
//! A crash, a failure or a dropped future between any two of these steps leaves a lease that is revocable from its stored
//! receipt alone; `tasks/` finishes what was left. A role whose leases cannot be revoked gets no more of them (quarantine.rs). What programs hold
//! themselves is renewed (renew.rs); what is injected the data plane acquires again, ahead of time.

mod end;
mod issue;
pub(crate) mod quarantine;
mod renew;
mod reveal;
mod settle;
mod table;
mod tools;

pub(crate) use end::{cancel, drop_all, end, end_known, finish};
pub(crate) use issue::{NO_ENGINE, issue};
pub(crate) use renew::renew;
pub(crate) use reveal::{held, reveal};
pub(crate) use settle::settle;
pub(crate) use table::{Table, Which};
pub(crate) use tools::BrokerTools;
pub use tools::Engines;
