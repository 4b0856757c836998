//! Whether this machine can do this level: found by doing it all.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::{Asked, Facts, plan, start};
use crate::stage::Stage;
use crate::{Bytes, ProcessPlan, RawPath, Step, StepFault, Terminal, Wishes};

/// Starts a program that does nothing, with everything that a run has, and ends it. What it needs is made in `within`, a directory
/// that only we can write, and is gone afterwards.
///
/// # Errors
/// The step that this machine refuses.
pub fn probe(within: &Path) -> Result<(), StepFault> {
    let private = &within.join(format!("probe-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(private).map_err(StepFault::at(Step::Home, "for the probe"))?;
    let outcome = run(private);
    let removed = std::fs::remove_dir_all(private).map_err(StepFault::at(Step::Home, "after the probe"));
    outcome.and(removed)
}

fn run(private: &Path) -> Result<(), StepFault> {
    let own = std::env::current_exe().map_err(StepFault::at(Step::Spawn, "our own program"))?;
    let asked = Asked { private: private.into(), ..Asked::default() };
    let wishes = Wishes { readable: vec![own.clone().into()], ..Wishes::default() };
    let planned = plan(&Facts::default(), &wishes, &asked)
        .map_err(|fault| StepFault::new(Step::Landlock, fault.to_string(), 0))?;
    let (_, arguments) = Stage::Nothing.program();
    let process = ProcessPlan {
        path: own.into(),
        arguments: arguments.map(Bytes::from).to_vec(),
        environment: Vec::new(),
        directory: RawPath::from(private),
        terminal: Terminal::CallersGroup,
    };
    let (mut child, supervisor) = start(&process, &planned, &|| false)?;
    let ended = child.wait().map_err(StepFault::at(Step::Spawn, "the probe"))?;
    supervisor.end();
    if ended.success() { Ok(()) } else { Err(StepFault::new(Step::Execute, "the probe did not end well", 0)) }
}
