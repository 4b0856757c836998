//! The stages: this binary again, before any thread exists.
//!
//! ```text
//!   H ── Order ──► S          doors, start, dial            channel.rs: one datagram a message, descriptors with it
//!     ◄─ Reply ──
//!   H ── InitOrder ─► I       go, signal, stop, resume
//!     ◄─ Report ───
//!                 I ◄─ AgentReport ── A    ends with the exec
//! ```
//!
//! A stage is told by its arguments only which of its descriptors are what: the agent can read init's. Each stage ends when the
//! one above it does, by `PR_SET_PDEATHSIG` and, because that can come too late to be asked for, by the socket between them.
//!
//! Absent: any decision. What a stage is to do stands in the plan.

mod capabilities;
pub(crate) mod cgroup;
pub(crate) mod filter;
mod init;
pub(crate) mod inner;
mod network;
mod outer;
pub(crate) mod processes;
mod user;

pub(crate) mod channel;

use std::{
    ffi::OsString,
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::FileExt, process::CommandExt},
    },
    process::{Command, ExitCode},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Step, StepFault};

/// The hidden first argument; the stage's name and the numbers of its descriptors follow.
const STAGE: &str = "__stage";
/// Every program of ours, wherever its file is by now.
const OURSELVES: &str = "/proc/self/exe";
/// The longest half of a plan, in bytes.
const PLAN_MAX: u64 = 64 << 20;

/// Which stage a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Outer,
    Init,
    Inner,
    /// The only one of the level `restricted`.
    Restricted,
    /// A program that does nothing, to see whether a launch works.
    Nothing,
}

/// Runs a stage of a launch, if this process is one. The first line of `main`: no thread may exist, nothing may be open.
///
/// `None` means that it is none, and that `main` goes on.
pub fn stage() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != STAGE {
        return None;
    }
    let stage = arguments.next().and_then(|name| Stage::named(&name));
    let taken: Option<Vec<OwnedFd>> = arguments.map(take).collect();
    let (Some(stage), Some(descriptors)) = (stage, taken) else { return Some(ExitCode::FAILURE) };
    let held = match stage {
        Stage::Outer => outer::run(descriptors),
        Stage::Init => init::run(descriptors),
        Stage::Inner => inner::run(descriptors),
        Stage::Restricted => crate::restricted::stage::run(descriptors),
        Stage::Nothing => Some(()),
    };
    Some(held.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

impl Stage {
    const ALL: [Self; 5] = [Self::Outer, Self::Init, Self::Inner, Self::Restricted, Self::Nothing];

    fn named(name: &OsString) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| name == stage.as_str())
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Init => "init",
            Self::Inner => "inner",
            Self::Restricted => "restricted",
            Self::Nothing => "nothing",
        }
    }

    /// What is executed for this stage, and with which arguments, where no descriptor goes along.
    pub(crate) fn program(self) -> (&'static str, [&'static str; 3]) {
        (OURSELVES, ["writ", STAGE, self.as_str()])
    }

    /// A command that runs this stage with `descriptors`, in this order, and with no variable of ours.
    pub(crate) fn command(self, descriptors: Vec<OwnedFd>) -> Command {
        let (program, [typed, argument, name]) = self.program();
        let mut command = Command::new(program);
        command.arg0(typed).args([argument, name]).env_clear();
        command.args(descriptors.iter().map(|descriptor| descriptor.as_raw_fd().to_string()));
        writ_sys::inherit_only(&mut command, descriptors);
        command
    }
}

fn take(number: OsString) -> Option<OwnedFd> {
    writ_sys::inherited(number.to_str()?.parse().ok()?).ok()
}

/// Half of a plan in memory that nobody can change any more (`memfd_create(2)`).
pub(crate) fn seal<T: Serialize>(half: &T) -> Result<OwnedFd, StepFault> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let bytes =
        serde_json::to_vec(half).map_err(|error| StepFault::new(Step::Protocol, error.to_string(), 0))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    // `NOEXEC_SEAL` is of Linux 6.3.
    let memory = memfd_create("plan", flags)
        .or_else(|_| memfd_create("plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING))
        .map_err(StepFault::at(Step::Spawn, "the plan's memory"))?;
    let memory = File::from(memory);
    memory.write_all_at(&bytes, 0).map_err(StepFault::at(Step::Spawn, "the plan's memory"))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memory, seals).map_err(StepFault::at(Step::Spawn, "the plan's seals"))?;
    Ok(memory.into())
}

/// Reads what [`seal`] wrote.
pub(crate) fn unseal<T: DeserializeOwned>(memory: OwnedFd) -> Result<T, StepFault> {
    let memory = File::from(memory);
    let length = memory.metadata().map_err(StepFault::at(Step::Protocol, "the plan"))?.len();
    let length = usize::try_from(length.min(PLAN_MAX)).unwrap_or(0);
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, 0).map_err(StepFault::at(Step::Protocol, "the plan"))?;
    serde_json::from_slice(&bytes).map_err(|_| StepFault::new(Step::Protocol, "the plan", 0))
}

/// Exchanges standard input, output and error for `null`, so that whoever reads the agent's output sees its end.
fn leave_streams(null: &OwnedFd) {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

    let _ = (dup2_stdin(null), dup2_stdout(null), dup2_stderr(null));
}

/// `/dev/null`, opened while there is one that we trust.
fn null() -> Result<OwnedFd, StepFault> {
    let file = File::options().read(true).write(true).open("/dev/null");
    Ok(file.map_err(StepFault::at(Step::Spawn, "/dev/null"))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written_and_cannot_be_changed() {
        let memory = seal(&vec!["a", "b"]).unwrap();
        let file = File::from(memory.try_clone().unwrap());
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(unseal::<Vec<String>>(memory).unwrap(), ["a", "b"]);
    }

    #[test]
    fn stages_are_found_by_their_names() {
        for stage in Stage::ALL {
            assert_eq!(Stage::named(&stage.as_str().into()), Some(stage));
        }
        assert_eq!(Stage::named(&"".into()), None);
    }
}
