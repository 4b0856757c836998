//! The level `restricted`: a session behind a password, and a program that Landlock, seccomp and a judge of connects hold.

use std::path::PathBuf;

use writ_core::Level;
use writ_run::{
    Agent, Plain, ProcessPlan, Wishes,
    restricted::{self, Asked, Facts, Supervisor},
};

use super::{
    PasswordDoor, Request, agents, bundle,
    environment::{self, Way},
    launch::{self, Failed, Keep, Launch, Started},
};
use crate::{env_vars, fault::Fault, paths};

/// What must last as long as the run.
#[derive(Debug)]
pub struct Restricted {
    bundle: bundle::Bundle,
    private: PathBuf,
    supervisor: Supervisor,
}

impl Restricted {
    /// The run is over: what it left behind is ended, and its home is gone.
    pub fn remove(self) {
        self.supervisor.end();
        self.bundle.remove();
        let _ = std::fs::remove_dir_all(&self.private);
    }
}

pub fn start(launch: &Launch<'_>) -> Result<Started, Failed> {
    let door = PasswordDoor::anywhere()?;
    let session =
        Request::for_program(launch.program, launch.args).behind(launch.paths, Level::Restricted, &door)?;
    let bundle = bundle::write(launch.paths, &session.opened)?;
    let way = Way { proxy_url: &door.url(), bundle: &bundle.combined, own: &bundle.own, confined: false };
    let environment = environment::plan(std::env::vars_os(), &session.opened, &way);
    let directory = launch.directory()?;
    let process = ProcessPlan {
        directory: directory.clone().into(),
        ..launch.program.plan(environment, launch.terminal)
    };
    let private = launch.paths.run.join(format!("home-{}", session.opened.session));
    paths::private_directory(&private)
        .map_err(|error| Fault::new(format!("{}: {error}", private.display()), "free some space there"))?;
    let wishes = Wishes {
        directory: directory.clone().into(),
        caches: launch::caches(&session.opened).map(Into::into).collect(),
        hidden: launch.hidden(),
        home: agents::home(&process),
        ..Wishes::default()
    };
    let asked = Asked {
        private: private.clone().into(),
        reachable: vec![door.address],
        readable: [&bundle.combined, &bundle.own].map(|path| path.clone().into()).to_vec(),
        writable: Vec::new(),
    };
    let home = std::env::var_os(env_vars::HOME).map(PathBuf::from).unwrap_or_default();
    let search = std::env::var_os(env_vars::PATH).unwrap_or_default();
    let planned = restricted::plan(&Facts::gather(&directory, &home, &search), &wishes, &asked)
        .map_err(|fault| Fault::new(fault.to_string(), "start it in another directory"))?;
    let (plain, supervisor) = Plain::adopt(launch.terminal, || restricted::start(&process, &planned))?;
    planned.notes.iter().for_each(|note| launch.output.say(note));
    let keep = Keep::Restricted(Restricted { bundle, private, supervisor });
    Ok(Started { level: Level::Restricted, agent: Agent::Plain(plain), session, keep })
}
