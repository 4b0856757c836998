//! The level `advisory`: variables and certificate bundles, and nothing that holds a hostile program.

use writ_core::Level;
use writ_run::{Agent, Plain, ProcessPlan};

use super::{
    PasswordDoor, Request, Session,
    bundle::{self, Bundle},
    environment::{self, Way},
    launch::{Failed, Keep, Launch, Rung, Started},
};

struct Ready {
    session: Session,
    bundle: Bundle,
    process: ProcessPlan,
}

/// A session behind a password, and what the program is told of it.
pub fn ready(launch: &Launch<'_>) -> Result<Box<dyn Rung>, Failed> {
    let door = PasswordDoor::anywhere()?;
    let session =
        Request::for_program(launch.program, launch.args).behind(launch.paths, Level::Advisory, &door)?;
    let bundle = bundle::write(launch.paths, &session.opened)?;
    let way = Way { proxy_url: &door.url(), bundle: &bundle.combined, own: &bundle.own, confined: false };
    let environment = environment::plan(std::env::vars_os(), &session.opened, &way);
    let process = launch.program.plan(environment, launch.terminal);
    Ok(Box::new(Ready { session, bundle, process }))
}

impl Rung for Ready {
    fn start(self: Box<Self>, launch: &Launch<'_>) -> Result<Started, Failed> {
        let Self { session, bundle, process } = *self;
        let command = Plain::command(&process);
        let agent = Plain::start(command, launch.terminal, launch.job.ready(), &launch.signals)?;
        let (agent, keep) = (Agent::Plain(agent), Keep::Bundle(bundle));
        Ok(Started { level: Level::Advisory, agent, session, keep })
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn process(&self) -> &ProcessPlan {
        &self.process
    }

    fn reaches(&self) -> Vec<String> {
        vec!["everything that you reach; the proxy by variables".to_owned()]
    }

    fn sees(&self) -> Vec<String> {
        vec!["everything that you see".to_owned()]
    }
}
