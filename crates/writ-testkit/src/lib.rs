//! What the tests of writ stand on, and nothing that ships.
//!
//! ```text
//!   Home ── runs the built `writ` in a place of its own ──► Standin ── is every provider, strictly
//!                                                           GitServer ── is git behind nginx, with Basic
//!   Postgres ── is a server of its own, as a plain account
//!   Scene ── all of these together, configured for some providers
//!   Pty ── a person at a terminal
//!   refuse_namespaces ── makes this machine one on which they are refused
//!   Canary ── a key whose every 16-byte window can be found again, raw or encoded
//! ```
//!
//! A test that passes here must mean something, so the stand-in refuses what a real provider would refuse and
//! what a real provider could not know to be wrong: a placeholder, a proxy's own headers, two credentials, the
//! key of another host. Absent: mocks of our own traits. Crates fake those themselves, next to the trait.

mod account;
mod answer;
mod ca;
mod canary;
pub mod clients;
mod config;
mod control;
mod demand;
mod generic;
mod git_server;
mod home;
#[cfg(target_os = "linux")]
mod namespaces;
pub mod postgres;
mod providers;
mod pty;
mod scene;
mod seen;
mod serve;
mod standin;

use std::io;

pub use account::{Who, bring};
pub use ca::{Ca, LeafDefect};
pub use canary::{Canary, Shape};
pub use config::{Config, Target};
pub use demand::{Demand, Presentation, Presented};
pub use git_server::{GitRequest, GitServer};
pub use home::{Home, Ran, Spawned, ended};
pub use namespaces::refuse_namespaces;
pub use pty::Pty;
pub use scene::{Provider, ROLE, Scene, SceneConfig, ask_through, until};
pub use seen::{Connection, Seen, Violation};
pub use standin::{Faults, Standin, StandinConfig};

/// Fills `out` from the system's generator.
pub(crate) fn random(out: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(out).map_err(|_| io::Error::other("the system gives no randomness"))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
