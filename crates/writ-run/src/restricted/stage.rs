//! The stage of this level: it binds itself, shows the launcher where to judge, and becomes the program.
//!
//! ```text
//!   H ── plan, socket ──► stage   capabilities, directory, Landlock, filters
//!     ◄── Judge, listener ──      from here on each connect waits for the supervisor
//!     ── Go ──►
//!     ◄── end of file ──          executed                           or ◄── Fault ──
//! ```
//!
//! The process is the program's from the beginning, so that its parent sees what became of it by waiting.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::process::chdir;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use serde::{Deserialize, Serialize};

use super::{RestrictedPlan, filter, landlock};
use crate::stage::channel::Channel;
use crate::stage::{filter as common, inner, unseal};
use crate::{ProcessPlan, Step, StepFault};

/// What the stage says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "kebab-case")]
pub(super) enum Word {
    /// With the listener of the filter.
    Judge,
    Fault {
        fault: StepFault,
    },
}

/// What the stage is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) process: ProcessPlan,
    pub(super) plan: RestrictedPlan,
}

/// Becomes the program. It returns only when that failed, and the launcher has been told.
pub(crate) fn run(descriptors: Vec<OwnedFd>) -> Option<()> {
    let [launcher, task] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
    let launcher = Channel::of(launcher);
    let fault = match prepare(task, &launcher) {
        Ok(program) => program.execute_when_told(&launcher),
        Err(fault) => fault,
    };
    let _ = launcher.send(&Word::Fault { fault }, &[]);
    None
}

fn prepare(task: OwnedFd, launcher: &Channel) -> Result<inner::Program, StepFault> {
    let Task { process, plan } = unseal(task)?;
    let program = inner::Program::of(&process)?;
    inner::lead_group(process.terminal)?;
    // A directory that is not named is the one we are in.
    if !process.directory.as_os_str().is_empty() {
        chdir(&*process.directory)
            .map_err(StepFault::at(Step::WorkTree, process.directory.display().to_string()))?;
    }
    give_up().map_err(StepFault::at(Step::Capabilities, "of the program"))?;
    landlock::enforce(&plan.allowed)?;
    let shared = common::program(false)
        .ok_or_else(|| StepFault::new(Step::Seccomp, "no filter for this architecture", 0))?;
    writ_sys::install_filter(&shared).map_err(StepFault::at(Step::Seccomp, "the common filter"))?;
    let listener = writ_sys::install_filter_with_listener(&filter::program())
        .map_err(StepFault::at(Step::Seccomp, "the filter of sockets"))?;
    if UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok() {
        return Err(StepFault::new(Step::Seccomp, "it was installed, and still UDP is open", 0));
    }
    launcher
        .send(&Word::Judge, &[listener.as_fd()])
        .map_err(StepFault::at(Step::Protocol, "the listener"))?;
    Ok(program)
}

/// No capability, now and for what is executed. Uid 0 gets none back by executing: the empty set, `no_new_privs` and the bounding
/// set each see to that; an ordinary account may not change the latter, and has nothing in it to gain.
fn give_up() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel knows no higher ones, or we may not.
            Err(Errno::INVAL | Errno::PERM) => break,
            other => other?,
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)
}
