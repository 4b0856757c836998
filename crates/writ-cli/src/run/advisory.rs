//! The level `advisory`: variables and certificate bundles, and nothing that holds a hostile program.

use writ_core::Level;
use writ_run::{Agent, Plain, ProcessPlan};

use super::{
    PasswordDoor, Request, Session,
    bundle::{self, Bundle},
    deliver::Place,
    environment::{self, Way},
    launch::{Failed, Keep, Launch, Rung, Started},
};

struct Ready {
    session: Session,
    bundle: Bundle,
    process: ProcessPlan,
    logins: Place,
}

/// A session behind a password, and what the program is told of it.
pub fn ready(launch: &Launch<'_>) -> Result<Box<dyn Rung>, Failed> {
    let door = PasswordDoor::anywhere()?;
    let request = Request::for_program(launch.program, launch.args)?;
    let mut session = request.behind(launch.paths, Level::Advisory, &door)?;
    let bundle = bundle::write(launch.paths, &session.opened)?;
    let logins = Place::on_host(launch.paths, &mut session)?;
    let delivery = logins.deliver(&session.opened, session.held.recipient())?;
    let (combined, own) = (&bundle.combined, &bundle.own);
    let way = Way { proxy_url: &door.url(), bundle: combined, own, confined: false, logins: &delivery };
    let environment = environment::plan(std::env::vars_os(), &session.opened, &way);
    let process = launch.program.plan(environment, launch.terminal);
    Ok(Box::new(Ready { session, bundle, process, logins }))
}

impl Rung for Ready {
    fn start(self: Box<Self>, launch: &Launch<'_>) -> Result<Started, Failed> {
        let Self { session, bundle, process, logins } = *self;
        let command = Plain::command(&process);
        let agent = Plain::start(command, launch.terminal, launch.job.ready(), &launch.signals)?;
        let (agent, keep) = (Agent::Plain(agent), Keep::Bundle(bundle));
        Ok(Started { level: Level::Advisory, agent, session, keep, logins })
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
