//! A: the last stage before the agent's own program, in the agent's process.
//!
//! The second user and mount namespace locks every mount for whatever runs in it, uid 0 too, and puts init out of reach. The order
//! counts: each step takes away what the one before it needed.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    process::{chdir, getpid, setpgid},
    thread::{CapabilitySet, UnshareFlags, set_no_new_privs},
};

use super::{
    capabilities,
    channel::{AgentReport, Channel, Go},
    filter, processes, unseal,
    user::Ids,
};
use crate::{Bytes, ProcessPlan, Step, StepFault, Terminal, restricted::landlock::keep_signals};

/// What the runtime of a Rust program and of a program with children changes; the rest is as our caller left it (`nohup`).
const CHANGED_SIGNALS: [i32; 2] = [libc::SIGPIPE, libc::SIGCHLD];
/// What runs a program that is no binary and names no interpreter, as `execvp(3)` and every shell do.
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// Becomes the agent. It returns only when that failed, and init has been told.
pub(super) fn run(descriptors: Vec<OwnedFd>) -> Option<()> {
    let [init, plan] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
    let init = Channel::of(init);
    let fault = match prepare(plan) {
        Ok(program) => match init.send(&AgentReport::Ready, &[]) {
            Ok(()) => program.execute_when_told(&init),
            Err(error) => StepFault::at(Step::Protocol, "the agent's stage")(error),
        },
        Err(fault) => fault,
    };
    let _ = init.send(&AgentReport::Fault { fault }, &[]);
    None
}

fn prepare(plan: OwnedFd) -> Result<Program, StepFault> {
    let plan: ProcessPlan = unseal(plan)?;
    let program = Program::of(&plan)?;
    let ids = Ids::ours();
    lead_group(plan.terminal)?;
    ids.enter(Step::SecondNamespace, UnshareFlags::NEWNS)?;
    processes::limit_account()?;
    chdir(plan.directory.as_ref() as &std::path::Path)
        .map_err(StepFault::at(Step::WorkTree, plan.directory.display().to_string()))?;
    let kept = if ids.is_root() { CapabilitySet::SETFCAP } else { CapabilitySet::empty() };
    capabilities::drop_for_good(kept).map_err(StepFault::at(Step::Capabilities, "of the agent"))?;
    set_no_new_privs(true).map_err(StepFault::at(Step::Capabilities, "no_new_privs"))?;
    keep_signals()?;
    let filter = filter::program(ids.is_root())
        .ok_or_else(|| StepFault::new(Step::Seccomp, "no filter for this architecture", 0))?;
    writ_sys::install_filter(&filter).map_err(StepFault::at(Step::Seccomp, "the filter"))?;
    Ok(program)
}

pub(crate) fn lead_group(terminal: Terminal) -> Result<(), StepFault> {
    match terminal {
        Terminal::OwnGroup => setpgid(None, None).map_err(StepFault::at(Step::Terminal, "a process group")),
        Terminal::CallersGroup => Ok(()),
    }
}

/// What is executed, as the kernel takes it.
pub(crate) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    pub(crate) fn of(plan: &ProcessPlan) -> Result<Self, StepFault> {
        let pair =
            |(name, value): &(Bytes, Bytes)| string(&[name.0.as_slice(), b"=", value.0.as_slice()].concat());
        Ok(Self {
            path: string(plan.path.as_os_str().as_bytes())?,
            arguments: plan.arguments.iter().map(|one| string(&one.0)).collect::<Result<_, _>>()?,
            environment: plan.environment.iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program at the word of whoever is at the other end. It returns only when that failed.
    pub(crate) fn execute_when_told(self, channel: &Channel) -> StepFault {
        match channel.receive() {
            Ok(Some((go, _))) => self.execute(go),
            Ok(None) => StepFault::new(Step::Protocol, "nobody is there any more", 0),
            Err(error) => StepFault::at(Step::Protocol, "the word to go")(error),
        }
    }

    fn execute(self, go: Go) -> StepFault {
        let named = OsStr::from_bytes(self.path.as_bytes()).display().to_string();
        // A key that was pressed meanwhile is not for us: it would stop or end this stage, and the launch with it.
        let ready = writ_sys::close_on_exec_from(3)
            .and_then(|()| writ_sys::jobs::drop_keys_until_exec())
            .and_then(|()| take_foreground(go))
            .and_then(|()| writ_sys::reset_signals(&CHANGED_SIGNALS));
        if let Err(error) = ready {
            return StepFault::at(Step::Terminal, "the program's signals and terminal")(error);
        }
        let mut error = writ_sys::execute(&self.path, &self.arguments, &self.environment);
        if error.raw_os_error() == Some(libc::ENOEXEC) {
            let rest = self.arguments.into_iter().skip(1);
            let arguments: Vec<_> = [c"sh".to_owned(), self.path].into_iter().chain(rest).collect();
            error = writ_sys::execute(SHELL, &arguments, &self.environment);
        }
        StepFault::at(Step::Execute, named)(error)
    }
}

/// As late as can be: from here on the launcher has none of the keys that are dropped.
fn take_foreground(Go { foreground }: Go) -> io::Result<()> {
    if !foreground {
        return Ok(());
    }
    writ_sys::set_foreground_group(&io::stdout(), getpid().as_raw_nonzero().get())
}

fn string(bytes: &[u8]) -> Result<CString, StepFault> {
    CString::new(bytes).map_err(|_| StepFault::new(Step::Execute, "a NUL byte", libc::EINVAL))
}
