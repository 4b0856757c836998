//! What stands around the agent: namespaces, its view of the files, its network, its terminal.
//!
//! ```text
//!   H  the person's `writ run`          prepare() ─► doors ─► (session opened) ─► start(plan) ─► supervise ─► its status
//!   │  hidden stage argument: the same binary again, before any thread exists
//!   S  stage                            five namespaces, lo, routes, doors to H; then the view; stays: makes sockets to dial in
//!   │
//!   I  PID 1 inside                     /proc, pivot_root, spawns A, reaps, relays signals and stops; nothing else
//!   │
//!   A  the agent                        a second user and mount namespace, no_new_privs, seccomp, exec
//! ```
//!
//! H decides everything in a pure function, [`plan`](crate::plan), from facts that were gathered before; the stages only execute it,
//! and each step that fails is reported as a [`StepFault`]. Nothing here holds a key, talks to the broker or knows a
//! runtime: `writ-cli` does the talking, and this crate links neither tokio nor a TLS library.
//!
//! Absent: Windows; macOS, where `writ-cli` runs agents at the level `advisory` without this crate.

pub mod agent;
pub mod bytes;
mod launch;
pub mod plan;
pub mod publish;
pub mod restricted;
mod stage;
pub mod step;
pub mod terminal;
pub mod view;

pub use agent::{Agent, Event, Plain};
pub use bytes::{Bytes, RawPath};
pub use launch::{Doors, Prepared, Running, probe};
pub use plan::{
    Captured, DELIVERED, Delivered, EtcFile, HomeFile, NetworkPlan, Plan, ProcessPlan, Replacement, Seeding,
    Terminal, Wishes,
};
pub use publish::{Publish, Published};
pub use stage::stage;
pub use step::{Step, StepFault};
pub use terminal::{Facts as TerminalFacts, Job};
pub use view::View;
