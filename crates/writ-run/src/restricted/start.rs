//! The launcher's side of a start.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::Pid;

use super::RestrictedPlan;
use super::orphans::Orphans;
use super::stage::{Task, Word};
use super::supervisor::Supervisor;
use crate::stage::channel::{Channel, Go};
use crate::stage::{Stage, seal};
use crate::{Bytes, ProcessPlan, Step, StepFault};

/// How long the stage may take for one step; it takes milliseconds.
const STAGE_PATIENCE: Duration = Duration::from_secs(20);

/// Makes the fresh home and starts the program in it. `ready` is asked when all is done but that, and answers whether the program's
/// group gets the terminal: see [`Job::ready`](crate::Job::ready).
///
/// Standard input, output and error are inherited, and nothing else. The program dies with the calling *thread*
/// (`PR_SET_PDEATHSIG`); call it when no signal that is waited for is delivered to a handler, and
/// [`end`](Supervisor::end) the supervisor once the child was waited for. From here on the calling process adopts what
/// its children leave behind.
///
/// # Errors
/// The step that failed: [`Step::Home`] for the fresh home, [`Step::Landlock`] and [`Step::Seccomp`] where the system cannot do
/// this level, [`Step::Execute`] for the program itself. Nothing is left running then.
pub fn start(
    process: &ProcessPlan,
    plan: &RestrictedPlan,
    ready: &dyn Fn() -> bool,
) -> Result<(Child, Supervisor), StepFault> {
    furnish(plan).map_err(StepFault::at(Step::Home, plan.home.display().to_string()))?;
    let mut process = process.clone();
    process.environment = merged(process.environment, &plan.variables);
    let (channel, theirs) = Channel::pair().map_err(StepFault::at(Step::Spawn, "a socket"))?;
    channel.set_patience(Some(STAGE_PATIENCE)).map_err(StepFault::at(Step::Spawn, "a socket"))?;
    let task = seal(&Task { process, plan: plan.clone() })?;
    let orphans = Orphans::adopt().map_err(StepFault::at(Step::Spawn, "adopting"))?;
    let mut command = Stage::Restricted.command(vec![theirs, task]);
    let mut child =
        writ_sys::die_with_parent(&mut command).spawn().map_err(StepFault::at(Step::Spawn, "the stage"))?;
    // Its end of the socket is held by the command too.
    drop(command);
    match follow(&channel, plan, orphans.except(Pid::from_child(&child)), ready) {
        Ok(supervisor) => Ok((child, supervisor)),
        Err(fault) => {
            let _ = (child.kill(), child.wait());
            Err(fault)
        }
    }
}

/// What the stage says until it is the program.
fn follow(
    channel: &Channel,
    plan: &RestrictedPlan,
    orphans: Orphans,
    ready: &dyn Fn() -> bool,
) -> Result<Supervisor, StepFault> {
    let broken = || StepFault::new(Step::Protocol, "the stage broke off", 0);
    let next = || channel.receive::<Word>().map_err(StepFault::at(Step::Protocol, "the stage"));
    let listener = match next()?.ok_or_else(broken)? {
        (Word::Fault { fault }, _) => return Err(fault),
        (Word::Judge, mut descriptors) => descriptors.pop().ok_or_else(broken)?,
    };
    let supervisor = Supervisor::start(listener, plan.reachable.clone(), orphans)
        .map_err(StepFault::at(Step::Spawn, "the supervisor"))?;
    channel.send(&Go { foreground: ready() }, &[]).map_err(StepFault::at(Step::Protocol, "the stage"))?;
    match next()? {
        None => Ok(supervisor),
        Some((Word::Fault { fault }, _)) => Err(fault),
        Some((Word::Judge, _)) => Err(broken()),
    }
}

/// Makes the fresh home: directories, links and files. Nothing of it may be there yet but the directory that it is made in.
fn furnish(plan: &RestrictedPlan) -> io::Result<()> {
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private.create(&*plan.home)?;
    private.create(&*plan.temporary)?;
    private.recursive(true);
    for (name, target) in &plan.links {
        let place = below(&plan.home, name)?;
        private.create(place.parent().unwrap_or(&plan.home))?;
        symlink(&**target, place)?;
    }
    for file in &plan.files {
        let place = below(&plan.home, &file.path)?;
        let directory = place.parent().unwrap_or(&plan.home);
        private.create(directory)?;
        // A file must not be written through a link into the real home.
        if fs::canonicalize(directory)? != directory {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut made = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(place)?;
        made.write_all(&file.content.0)?;
    }
    Ok(())
}

/// `name` below `home`, if it stays there.
fn below(home: &Path, name: &Path) -> io::Result<PathBuf> {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    // The home's own path must be free of links for the check of what is made in it.
    let home = fs::canonicalize(home)?;
    if plain { Ok(home.join(name)) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The process's variables, those of the plan instead of its own.
fn merged(own: Vec<(Bytes, Bytes)>, plan: &[(Bytes, Bytes)]) -> Vec<(Bytes, Bytes)> {
    let replaced: BTreeMap<&Bytes, &Bytes> = plan.iter().map(|(name, value)| (name, value)).collect();
    let kept = own.into_iter().filter(|(name, _)| !replaced.contains_key(name));
    kept.chain(plan.iter().cloned()).collect()
}
