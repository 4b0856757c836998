//! `writ run`: the launcher.
//!
//! ```text
//!   resolve the program ─► the highest level that works here:
//!     confined     namespaces and doors ─► open the session on them ─► the view, the environment ─► start
//!     restricted   a door on loopback, a session behind a password ─► Landlock, seccomp, the judge of connects ─► start
//!     advisory     a door on loopback, a session behind a password ─► start
//!   ─► supervise: its end, the session's end, signals, the terminal ─► close the session, end as it ended
//! ```
//!
//! It holds no key and runs no asynchronous runtime. What stands around the program is made by `writ-run`; here is the conversation
//! with the broker, and what is said to the person.

mod bundle;
mod environment;
mod program;
mod session;
mod supervise;

use std::process::ExitCode;

use writ_api::run::Opened;
use writ_core::Level;

use crate::{args, fault::Fault, output::Output, paths::Paths};
pub use bundle::system_bundle;
use program::Program;
pub use session::{PasswordDoor, Request, Session};

/// What this release can do.
const LEVEL: Level = Level::Advisory;

/// Runs a program in a session of its own, and ends as it ended.
pub fn run(paths: &Paths, output: Output, args: &args::Run) -> Result<ExitCode, Fault> {
    if args.require.is_some_and(|required| required > LEVEL) {
        return Err(Fault::new(
            "this release runs programs at the level advisory only",
            "leave --require out, or name advisory",
        ));
    }
    let program = Program::resolve(&args.program)?;
    let door = PasswordDoor::anywhere()?;
    let session = Request::for_program(&program, args).behind(paths, LEVEL, &door)?;
    warn(output, &session.opened);
    let bundle = bundle::write(paths, &session.opened)?;
    let way = environment::Way {
        proxy_url: &door.url(),
        bundle: &bundle.combined,
        own: &bundle.own,
        confined: false,
    };
    let variables = environment::plan(std::env::vars_os(), &session.opened, &way);
    let status = supervise::run(&program, variables, &session.stream, output);
    bundle.remove();
    Ok(supervise::pass_on(status?))
}

fn warn(output: Output, opened: &Opened) {
    output.say(&format!(
        "session {} as {} with role {} (advisory)",
        opened.session, opened.workload, opened.role
    ));
    output.say("advisory: the program runs as you, unconfined. It could read writ's state and your files,");
    output.say("and reach hosts around the proxy. Its environment holds placeholders only.");
    for name in &opened.withhold {
        output.say(&format!("{name} is withheld: writ has no credential for it (writ init takes it over)"));
    }
    for (name, _) in std::env::vars().filter(|(_, value)| writ_core::looks_like_key(value)) {
        let replaced = opened.variables.iter().any(|variable| variable.name == name);
        if !replaced && !opened.withhold.contains(&name) {
            output.say(&format!("{name} is withheld: its value looks like a real key"));
        }
    }
}
