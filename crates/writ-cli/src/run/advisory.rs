//! The level `advisory`: variables and certificate bundles, and nothing that holds a hostile program.

use writ_core::Level;
use writ_run::{Agent, Plain};

use super::{
    PasswordDoor, Request, bundle,
    environment::{self, Way},
    launch::{Failed, Keep, Launch, Started},
};

/// A session behind a password, and the program as our own child.
pub fn start(launch: &Launch<'_>) -> Result<Started, Failed> {
    let door = PasswordDoor::anywhere()?;
    let session =
        Request::for_program(launch.program, launch.args).behind(launch.paths, Level::Advisory, &door)?;
    let bundle = bundle::write(launch.paths, &session.opened)?;
    let way = Way { proxy_url: &door.url(), bundle: &bundle.combined, own: &bundle.own, confined: false };
    let environment = environment::plan(std::env::vars_os(), &session.opened, &way);
    let plan = launch.program.plan(environment, launch.terminal);
    let agent = Agent::Plain(Plain::start(Plain::command(&plan), launch.terminal, &launch.signals)?);
    Ok(Started { level: Level::Advisory, agent, session, keep: Keep::Bundle(bundle) })
}
