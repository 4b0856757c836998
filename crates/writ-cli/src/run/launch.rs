//! The ladder: from the highest level down to the first that works here. A level works if its whole launch does; nothing is probed.

use std::path::{Path, PathBuf};

use writ_api::run::{Opened, Revealed};
use writ_core::{Level, Reveal};
use writ_run::{Agent, Job, ProcessPlan, RawPath, Step, StepFault, Terminal, TerminalFacts};
use writ_sys::SignalQueue;

use super::{Program, Session, advisory, deliver::Place, logins, supervise};
use crate::{
    args,
    commands::when,
    env_vars,
    fault::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Fault},
    output::Output,
    paths::Paths,
};

/// What a repository asks with.
const REPOSITORY_FILE: &str = "writ.toml";

/// Everything that is decided before the first level is tried.
#[derive(Debug)]
pub struct Launch<'a> {
    pub paths: &'a Paths,
    pub output: Output,
    pub args: &'a args::Run,
    pub program: &'a Program,
    /// `None` when the current directory is gone.
    pub directory: Option<PathBuf>,
    pub terminal: Terminal,
    pub job: Job,
    pub signals: SignalQueue,
}

/// A program that runs, in its session.
#[derive(Debug)]
pub struct Started {
    pub level: Level,
    pub agent: Agent,
    pub session: Session,
    pub keep: Keep,
    pub logins: Place,
}

/// A level at which everything is made but the program itself. Dropped, its session ends.
pub trait Rung {
    fn start(self: Box<Self>, launch: &Launch<'_>) -> Result<Started, Failed>;
    fn session(&self) -> &Session;
    fn process(&self) -> &ProcessPlan;
    /// What the program can reach in the network, a line each.
    fn reaches(&self) -> Vec<String>;
    /// What it sees of the files, a line each.
    fn sees(&self) -> Vec<String>;
}

/// What must last as long as the run.
#[derive(Debug)]
pub enum Keep {
    /// Its certificates, in files on the host.
    Bundle(super::bundle::Bundle),
    /// Its certificates, its home, and the judge of its connections.
    #[cfg(target_os = "linux")]
    Restricted(super::restricted::Restricted),
    /// All that it has is in its own view.
    #[cfg(target_os = "linux")]
    Nothing,
}

/// Why a level did not work.
#[derive(Debug)]
pub enum Failed {
    /// This machine cannot do it: the next level may.
    Step(StepFault),
    /// It would fail at every level.
    Fault(Fault),
}

impl<'a> Launch<'a> {
    pub fn new(
        paths: &'a Paths,
        output: Output,
        args: &'a args::Run,
        program: &'a Program,
    ) -> Result<Self, Fault> {
        let failed = |error: std::io::Error| Fault::new(error.to_string(), "try again");
        let facts = TerminalFacts::gather();
        let terminal = Terminal::decide(&facts);
        Ok(Self {
            paths,
            output,
            args,
            program,
            directory: std::env::current_dir().ok(),
            job: Job::new(&facts, terminal).map_err(failed)?,
            signals: supervise::signals().map_err(failed)?,
            terminal,
        })
    }

    /// Starts the program at the highest level that works; `None` where it was only to be shown how.
    pub fn start(&self) -> Result<Option<Started>, Fault> {
        let mut fallen: Vec<(Level, StepFault)> = Vec::new();
        for level in self.levels() {
            let started = match self.ready(level) {
                Ok(rung) if self.args.dry_run => {
                    super::show::show(self, level, rung.as_ref(), &fallen);
                    return Ok(None);
                }
                Ok(rung) => rung.start(self),
                Err(failed) => Err(failed),
            };
            match started {
                Ok(started) => {
                    self.tell(&started, &fallen);
                    return Ok(Some(started));
                }
                Err(Failed::Step(fault)) if fault.step == Step::Execute => return Err(not_executed(&fault)),
                Err(Failed::Step(fault)) if fault.ran_out() => return Err(ran_out(level, &fault)),
                Err(Failed::Step(fault)) => fallen.push((level, fault)),
                Err(Failed::Fault(fault)) => return Err(below(fault, &fallen)),
            }
        }
        if fallen.is_empty() {
            return Err(Fault::new("--no-confine asks for less than --require", "leave one of them out"));
        }
        let why = reasons(&fallen);
        let next = "see `writ doctor` for what would make it possible, or leave --require out";
        Err(Fault::new(format!("the program was not started: {why}"), next))
    }

    /// The levels that may be tried, the highest first.
    fn levels(&self) -> impl Iterator<Item = Level> {
        let highest = if self.args.no_confine { Level::Advisory } else { HIGHEST };
        let lowest = self.args.require.unwrap_or(Level::Advisory);
        [Level::Confined, Level::Restricted, Level::Advisory]
            .into_iter()
            .filter(move |level| (lowest..=highest).contains(level))
    }

    fn ready(&self, level: Level) -> Result<Box<dyn Rung>, Failed> {
        match level {
            #[cfg(target_os = "linux")]
            Level::Confined => super::confined::ready(self),
            Level::Advisory => advisory::ready(self),
            #[cfg(target_os = "linux")]
            Level::Restricted => super::restricted::ready(self),
            #[cfg(not(target_os = "linux"))]
            _ => Err(StepFault::new(Step::Unshare, "not on this system", 0).into()),
        }
    }

    /// Where the program starts.
    pub fn directory(&self) -> Result<PathBuf, Fault> {
        let gone = || Fault::new("the current directory is gone", "cd to a directory that exists");
        self.directory.clone().ok_or_else(gone)
    }

    /// Directories of tools, which the program reads besides the system's own.
    pub fn tools(&self) -> Vec<RawPath> {
        let home = std::env::var_os(env_vars::HOME).map(PathBuf::from).unwrap_or_default();
        let search = std::env::var_os(env_vars::PATH).unwrap_or_default();
        let program = self.program.places().flat_map(|path| super::tools::of_program(path, &home));
        program.chain(super::tools::of_path(&search, &home)).map(Into::into).collect()
    }

    /// Writ's own places, which are in no agent's view. The configuration can be a link into a work tree, as dotfiles are.
    pub fn hidden(&self) -> Vec<RawPath> {
        let Paths { state, run, config } = self.paths;
        let paths = [Some(state.as_path()), Some(run.as_path()), config.parent(), Some(config.as_path())];
        let named: Vec<&Path> = paths.into_iter().flatten().collect();
        let real = named.iter().filter_map(|path| std::fs::canonicalize(path).ok());
        named.iter().map(|path| path.to_path_buf()).chain(real).map(Into::into).collect()
    }

    /// Configuration of the repository's own: an agent that could change it would ask in its repository's name.
    pub fn repository_files(&self) -> Vec<RawPath> {
        let directories = self.directory.iter().flat_map(|directory| directory.ancestors());
        let files = directories.map(|directory| directory.join(REPOSITORY_FILE));
        files.filter(|file| file.is_file()).map(Into::into).collect()
    }

    fn tell(&self, started: &Started, fallen: &[(Level, StepFault)]) {
        let opened = &started.session.opened;
        self.output.say(&format!(
            "session {} as {} with role {} ({})",
            opened.session,
            opened.workload,
            opened.role,
            name(started.level)
        ));
        if !fallen.is_empty() {
            self.output.say(&format!("{}; writ doctor tells what would help", reasons(fallen)));
        }
        for line in reachable(started.level) {
            self.output.say(line);
        }
        for revealed in &opened.revealed {
            self.output.say(&reveals(revealed));
        }
        self.withheld(opened);
    }

    fn withheld(&self, opened: &Opened) {
        for name in &opened.withhold {
            self.output
                .say(&format!("{name} is withheld: writ has no credential for it (writ init takes it over)"));
        }
        for name in logins::CREDENTIALS.iter().filter(|name| std::env::var_os(name).is_some()) {
            self.output.say(&format!(
                "{name} is withheld: a target with `reveal` gives the program a login of its own"
            ));
        }
        for (name, _) in std::env::vars().filter(|(_, value)| writ_core::looks_like_key(value)) {
            let replaced = opened.variables.iter().any(|variable| variable.name == name);
            if !replaced && !opened.withhold.contains(&name) {
                self.output.say(&format!("{name} is withheld: its value looks like a real key"));
            }
        }
    }
}

impl Keep {
    /// The run is over.
    pub fn remove(self) {
        match self {
            Self::Bundle(bundle) => bundle.remove(),
            #[cfg(target_os = "linux")]
            Self::Restricted(restricted) => restricted.remove(),
            #[cfg(target_os = "linux")]
            Self::Nothing => {}
        }
    }
}

impl Started {
    /// Whether the program is on a network of its own.
    pub fn has_own_network(&self) -> bool {
        self.level == Level::Confined
    }
}

impl From<StepFault> for Failed {
    fn from(fault: StepFault) -> Self {
        Self::Step(fault)
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Directories as the configuration writes them. `~/` is the caller's home; what is not absolute after that is none.
pub fn expand(written: &[String]) -> Vec<RawPath> {
    let home = std::env::var_os(env_vars::HOME).map(PathBuf::from).unwrap_or_default();
    let expand = |path: &String| match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(path),
    };
    written.iter().map(expand).filter(|path| path.is_absolute()).map(Into::into).collect()
}

/// The best that this system can do.
const HIGHEST: Level = if cfg!(target_os = "linux") { Level::Confined } else { Level::Advisory };

/// What an agent could still reach, in two lines at the most.
fn reachable(level: Level) -> &'static [&'static str] {
    match level {
        Level::Confined => &[],
        Level::Restricted => &[
            "restricted: it sees your processes and the names of your files, but opens only what it needs,",
            "and connects only to the proxy. It shares your network and your kernel's namespaces.",
        ],
        Level::Advisory => &[
            "advisory: the program runs as you, unconfined. It could read writ's state and your files,",
            "and reach hosts around the proxy. Its environment holds placeholders only.",
        ],
    }
}

/// What the program holds, and until when.
fn reveals(revealed: &Revealed) -> String {
    let Revealed { target, authority, login, expires_at, reveal, .. } = revealed;
    let place = match reveal {
        Reveal::Environment => "in its environment",
        Reveal::Passfile => "in a password file",
        Reveal::ServiceFile => "in a service file",
    };
    format!(
        "{target} is revealed: the program holds the login {} at {authority}, {place}, until {} and renewed while it runs",
        login.user,
        when(*expires_at)
    )
}

pub fn name(level: Level) -> &'static str {
    match level {
        Level::Confined => "confined",
        Level::Restricted => "restricted",
        Level::Advisory => "advisory",
    }
}

pub fn reasons(fallen: &[(Level, StepFault)]) -> String {
    let each = fallen.iter().map(|(level, fault)| format!("{} is not possible here ({fault})", name(*level)));
    each.collect::<Vec<_>>().join("; ")
}

/// A refusal of the broker's below the level that was wanted names why it was not that level.
fn below(mut fault: Fault, fallen: &[(Level, StepFault)]) -> Fault {
    if !fallen.is_empty() {
        fault.what = format!("{}; {}", fault.what, reasons(fallen));
    }
    fault
}

/// A lower level would do, and is what somebody may want who used everything up.
fn ran_out(level: Level, fault: &StepFault) -> Fault {
    let what = format!("{} is not possible right now: {fault}", name(level));
    let next = "see what uses it up (disk, processes, namespaces), then try again; --no-confine goes without";
    Fault::new(what, next)
}

fn not_executed(fault: &StepFault) -> Fault {
    let missing = std::io::Error::from_raw_os_error(fault.errno).kind() == std::io::ErrorKind::NotFound;
    let (exit, next) = if missing {
        (EXIT_NOT_FOUND, "name a program that is in the agent's view: in a system directory or the work tree")
    } else {
        (EXIT_NOT_EXECUTABLE, "name a program that can be executed")
    };
    Fault::new(fault.to_string(), next).exit(exit)
}
