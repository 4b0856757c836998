//! Handing a credential to the program: for services whose clients must hold one, such as database drivers.
//!
//! The program's connections still lead through a door of its session and end with the lease; what it holds is short-lived, was
//! made for this run, and is listed as revealed.

use serde::{Deserialize, Serialize};

/// How a revealed login reaches the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reveal {
    /// Variables such as `PGUSER` and `PGPASSWORD`. A login that takes this one's place does not reach a program that runs.
    Environment,
    /// Variables without the password, which is in a file of the session's own (`PGPASSFILE`).
    Passfile,
    /// A section of a connection service file (`PGSERVICEFILE`), by the name of the target: several in one run do not collide.
    ServiceFile,
}
