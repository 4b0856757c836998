//! `writ run`: the launcher.
//!
//! ```text
//!   resolve the program ─► the highest level that works here:
//!     confined     namespaces and doors ─► open the session on them ─► the view, the environment ─► start
//!     restricted   a door on loopback, a session behind a password ─► Landlock, seccomp, the judge of connects ─► start
//!     advisory     a door on loopback, a session behind a password ─► start
//!   ─► supervise: its end, the session's end, a lost daemon, signals, the terminal ─► close the session, end as it ended
//! ```
//!
//! It holds no key and runs no asynchronous runtime. What stands around the program is made by `writ-run`; here is the conversation
//! with the broker, and what is said to the person.

mod advisory;
#[cfg(target_os = "linux")]
mod agents;
mod bundle;
mod comeback;
#[cfg(target_os = "linux")]
mod confined;
mod deliver;
mod environment;
mod launch;
mod logins;
mod program;
#[cfg(target_os = "linux")]
mod restricted;
mod session;
mod show;
mod supervise;
#[cfg(target_os = "linux")]
mod tools;

use std::process::{ExitCode, ExitStatus};

use writ_run::{Publish, Published, publish::Relays};

use crate::{args, fault::Fault, output::Output, paths::Paths};
pub use bundle::system_bundle;
pub use deliver::DIRECTORY_PREFIX;
use launch::{Launch, Started};
use program::Program;
pub use session::{PasswordDoor, Request, Session};
use supervise::Supervisor;

/// Runs a program in a session of its own, and ends as it ended.
pub fn run(paths: &Paths, output: Output, args: &args::Run) -> Result<ExitCode, Fault> {
    let program = Program::resolve(&args.program)?;
    let launch = Launch::new(paths, output, args, &program)?;
    let Some(started) = launch.start()? else { return Ok(ExitCode::SUCCESS) }; // at the highest level that works here
    let status = supervise(launch, started)?;
    Ok(supervise::pass_on(status))
}

fn supervise(launch: Launch<'_>, started: Started) -> Result<ExitStatus, Fault> {
    let published = published(&launch, &started)?;
    let Started { agent, session, keep, logins, .. } = started;
    let Launch { terminal, job, signals, output, paths, .. } = launch;
    let Session { stream, held, .. } = session;
    let held = Some(held);
    let supervisor =
        Supervisor { agent, terminal, job, signals, stream, held, paths, published, output, logins: &logins };
    let status = supervisor.run();
    keep.remove();
    logins.remove();
    status
}

/// Listens on the published ports. Where the program is on the host's own network, a port of the same number is there already.
fn published(launch: &Launch<'_>, started: &Started) -> Result<Vec<Published>, Fault> {
    let relays = Relays::default();
    let needed =
        launch.args.publish.iter().filter(|port| started.has_own_network() || port.host != port.inner);
    let listen = |port: &Publish| {
        Published::listen(*port, &relays).map_err(|error| {
            Fault::new(format!("--publish {port}: {error}"), "publish another port of the host")
        })
    };
    needed.map(listen).collect()
}
