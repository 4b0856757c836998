//! The level `restricted`: a session behind a password, and a program that Landlock, seccomp and a judge of connects hold.

use std::path::{Path, PathBuf};

use writ_core::Level;
use writ_run::{
    Agent, Plain, ProcessPlan, Wishes,
    restricted::{self, Asked, Facts, RestrictedPlan, Supervisor},
};

use super::{
    PasswordDoor, Request, Session, agents,
    bundle::{self, Bundle},
    deliver::Place,
    environment::{self, Way},
    launch::{self, Failed, Keep, Launch, Rung, Started},
};
use crate::{env_vars, fault::Fault, paths};

/// What must last as long as the run.
#[derive(Debug)]
pub struct Restricted {
    bundle: Bundle,
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

struct Ready {
    session: Session,
    bundle: Bundle,
    private: PathBuf,
    process: ProcessPlan,
    plan: RestrictedPlan,
    logins: Place,
}

/// A session behind a password, a directory for the fresh home, and the plan of the rest.
pub fn ready(launch: &Launch<'_>) -> Result<Box<dyn Rung>, Failed> {
    let door = PasswordDoor::anywhere()?;
    let request = Request::for_program(launch.program, launch.args)?;
    let mut session = request.behind(launch.paths, Level::Restricted, &door)?;
    let bundle = bundle::write(launch.paths, &session.opened)?;
    let logins = Place::on_host(launch.paths, &mut session)?;
    let delivery = logins.deliver(&session.opened, session.held.recipient())?;
    let (combined, own) = (&bundle.combined, &bundle.own);
    let way = Way { proxy_url: &door.url(), bundle: combined, own, confined: false, logins: &delivery };
    let environment = environment::plan(std::env::vars_os(), &session.opened, &way);
    let directory = launch.directory()?.into();
    let process = ProcessPlan { directory, ..launch.program.plan(environment, launch.terminal) };
    let private = launch.paths.run.join(format!("home-{}", session.opened.session));
    let private = paths::private_directory(&private)
        .and_then(|()| std::fs::canonicalize(&private))
        .map_err(|error| Fault::new(format!("{}: {error}", private.display()), "free some space there"))?;
    if launch.args.dry_run {
        // Nothing will be started that would show it.
        restricted::probe(&private)?;
    }
    let plan = plan(launch, &session, &process, &door, &bundle, &private, &logins)?;
    Ok(Box::new(Ready { session, bundle, private, process, plan, logins }))
}

fn plan(
    launch: &Launch<'_>,
    session: &Session,
    process: &ProcessPlan,
    door: &PasswordDoor,
    bundle: &Bundle,
    private: &Path,
    logins: &Place,
) -> Result<RestrictedPlan, Fault> {
    let wishes = Wishes {
        directory: process.directory.clone(),
        caches: launch::expand(&session.opened.caches),
        readable: launch.tools().into_iter().chain(launch::expand(&session.opened.readable)).collect(),
        hidden: launch.hidden(),
        home: agents::home(process),
        ..Wishes::default()
    };
    let own = [Some(bundle.combined.as_path()), Some(bundle.own.as_path()), logins.directory()];
    let own = own.into_iter().flatten().map(Into::into).collect();
    let reachable = [door.address].into_iter().chain(logins.doors()).collect();
    let asked = Asked { private: private.into(), reachable, own, writable: Vec::new() };
    let home = std::env::var_os(env_vars::HOME).map(PathBuf::from).unwrap_or_default();
    let search = std::env::var_os(env_vars::PATH).unwrap_or_default();
    let facts = Facts::gather(&process.directory, &home, &search).with_caches(&wishes.caches);
    restricted::plan(&facts, &wishes, &asked)
        .map_err(|fault| Fault::new(fault.to_string(), "start it in another directory"))
}

impl Rung for Ready {
    fn start(self: Box<Self>, launch: &Launch<'_>) -> Result<Started, Failed> {
        let Self { session, bundle, private, process, plan, logins } = *self;
        let start = || restricted::start(&process, &plan, &|| launch.job.ready());
        let (plain, supervisor) = Plain::adopt(launch.terminal, start)?;
        plan.notes.iter().for_each(|note| launch.output.say(note));
        let keep = Keep::Restricted(Restricted { bundle, private, supervisor });
        Ok(Started { level: Level::Restricted, agent: Agent::Plain(plain), session, keep, logins })
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn process(&self) -> &ProcessPlan {
        &self.process
    }

    fn reaches(&self) -> Vec<String> {
        let proxy = self.plan.reachable.iter().map(|address| format!("writ at {address}"));
        proxy.chain(["servers of its own".to_owned()]).collect()
    }

    fn sees(&self) -> Vec<String> {
        let allowed = self.plan.allowed.iter();
        let allowed = allowed.map(|one| format!("{:?} {}", one.access, one.path.display()).to_lowercase());
        allowed.chain(self.plan.notes.iter().map(|note| format!("note: {note}"))).collect()
    }
}
