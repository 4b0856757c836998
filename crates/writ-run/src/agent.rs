//! The running agent, as its supervisor sees it: the same at every level.
//!
//! ```text
//!   Confined   init waits for it and reports to us             (launch::Running)
//!   Plain      it is our own child; SIGCHLD wakes us, and waitpid tells what happened
//! ```
//!
//! Absent: what is done about an event. The terminal changes hands in [`terminal`](crate::terminal), sessions end in `writ-cli`.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with},
    process::{Pid, WaitOptions, waitpid},
};
use serde::{Deserialize, Serialize};
use writ_sys::{
    SignalQueue,
    jobs::{SIGCHLD, SIGTSTP},
    signals::{SIGCONT, SIGKILL},
};

use crate::{Delivered, ProcessPlan, Running, Step, StepFault, Terminal};

/// What happened to the agent's first process, as its parent saw it: init's word in a confined run, our own `waitpid` in others.
/// A signal that arrives from inside is never an event: the agent could send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It was executed: no step is left that could fail.
    Started,
    /// It was stopped by this signal, as `Ctrl-Z` does.
    Stopped {
        signal: i32,
    },
    Continued,
    /// It ended, with what `waitpid` calls its status.
    Ended {
        status: i32,
    },
}

/// A running agent. [`event`](Self::event) is asked until there is nothing more: at first, and whenever it is readable.
#[derive(Debug)]
pub enum Agent {
    /// Behind an init of ours, in namespaces.
    Confined(Running),
    /// Our own child: the levels `restricted` and `advisory`.
    Plain(Plain),
}

impl Agent {
    /// The next event, if there is one. It does not wait.
    ///
    /// # Errors
    /// When the agent can no longer be watched: whoever started it should end it.
    pub fn event(&mut self) -> io::Result<Option<Event>> {
        match self {
            Self::Confined(running) => running.next(),
            Self::Plain(plain) => plain.next(),
        }
    }

    /// Sends a signal to the agent: to its group where it leads one, since those who mean a job cannot know of that group.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        match self {
            Self::Confined(running) => running.signal(signal),
            Self::Plain(plain) => plain.signal(signal),
        }
    }

    /// Sends the signal of the key that stops, which was pressed while the agent was being started, unless it has stopped already: in
    /// our group it may have got the same one itself.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn stop(&mut self) -> io::Result<()> {
        match self {
            Self::Confined(running) => running.stop(),
            // What it did so far, [`event`](Self::event) has told.
            Self::Plain(plain) => plain.signal(SIGTSTP),
        }
    }

    /// Continues a stopped agent; with `terminal`, it is put into the foreground of that terminal first.
    ///
    /// # Errors
    /// Those of `tcsetpgrp(3)`, and `ESRCH` when it has ended.
    pub fn resume(&mut self, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self {
            Self::Confined(running) => running.resume(terminal),
            Self::Plain(plain) => plain.resume(terminal),
        }
    }

    /// Kills the agent.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Confined(running) => running.kill(),
            Self::Plain(plain) => plain.kill(),
        }
    }

    /// Replaces files that were delivered with a confined agent's view.
    ///
    /// # Errors
    /// Those of [`Running::deliver`]; `Unsupported` where the agent sees the host's files.
    pub fn deliver(&mut self, files: &[Delivered]) -> io::Result<()> {
        match self {
            Self::Confined(running) => running.deliver(files),
            Self::Plain(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What remains of it when it has ended, see [`Running::remains`].
    pub fn remains(&mut self) -> Vec<OwnedFd> {
        match self {
            Self::Confined(running) => running.remains(),
            Self::Plain(_) => Vec::new(),
        }
    }

    /// An unconnected TCP socket in the agent's network.
    ///
    /// # Errors
    /// Those of `socket(2)`.
    pub fn dial(&mut self, family: Family) -> io::Result<OwnedFd> {
        match self {
            Self::Confined(running) => running.dial(family == Family::V6),
            Self::Plain(_) => {
                let family = match family {
                    Family::V4 => AddressFamily::INET,
                    Family::V6 => AddressFamily::INET6,
                };
                Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?)
            }
        }
    }
}

/// Of a socket that is to be dialled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Confined(running) => running.as_fd(),
            Self::Plain(plain) => plain.changes.as_fd(),
        }
    }
}

/// An agent that is our own child.
#[derive(Debug)]
pub struct Plain {
    pid: Pid,
    /// It leads a process group of its own, which has its number.
    leads: bool,
    /// `SIGCHLD`, which also tells of stops.
    changes: SignalQueue,
    told_start: bool,
    /// It was waited for: its number may mean somebody else.
    ended: bool,
}

impl Plain {
    /// The program of a plan, as a command: further steps between `fork` and `exec` can be added to it. A plan without a directory
    /// leaves it in ours, which may have no path any more.
    pub fn command(plan: &ProcessPlan) -> Command {
        let mut command = Command::new(&*plan.path);
        let mut arguments = plan.arguments.iter();
        if let Some(name) = arguments.next() {
            command.arg0(name.os());
        }
        command.args(arguments.map(crate::Bytes::os)).env_clear();
        command.envs(plan.environment.iter().map(|(name, value)| (name.os(), value.os())));
        if !plan.directory.as_os_str().is_empty() {
            command.current_dir(&*plan.directory);
        }
        command
    }

    /// Starts a command, in the process group that `terminal` tells and in the foreground if `foreground`, with the signal mask that we
    /// had before `signals`. It dies when the calling thread ends.
    ///
    /// # Errors
    /// The step [`Step::Execute`] when the program cannot be executed, [`Step::Spawn`] when we cannot wait for it.
    pub fn start(
        mut command: Command,
        terminal: Terminal,
        foreground: bool,
        signals: &SignalQueue,
    ) -> Result<Self, StepFault> {
        if terminal.is_own_group() {
            writ_sys::own_group(&mut command, foreground);
        }
        writ_sys::jobs::drop_keys(&mut command);
        let name = command.get_program().display().to_string();
        let start = || {
            let started = writ_sys::die_with_parent(signals.restore_in(&mut command)).spawn();
            Ok((started.map_err(StepFault::at(Step::Execute, name))?, ()))
        };
        Self::adopt(terminal, start).map(|(plain, ())| plain)
    }

    /// Watches a child that `start` makes, which sees to its process group and its signals itself.
    ///
    /// # Errors
    /// Those of `start`, and [`Step::Spawn`] when we cannot wait for it.
    pub fn adopt<T>(
        terminal: Terminal,
        start: impl FnOnce() -> Result<(Child, T), StepFault>,
    ) -> Result<(Self, T), StepFault> {
        // Where our caller ignores it, children are reaped unseen, ours and the agent's. And it is blocked before there is another
        // thread, which would take it.
        writ_sys::reset_signal(SIGCHLD).map_err(StepFault::at(Step::Spawn, "SIGCHLD"))?;
        let changes = SignalQueue::of(&[SIGCHLD]).map_err(StepFault::at(Step::Spawn, "SIGCHLD"))?;
        let (child, more) = start()?;
        let leads = terminal.is_own_group();
        Ok((Self { pid: Pid::from_child(&child), leads, changes, told_start: false, ended: false }, more))
    }

    fn next(&mut self) -> io::Result<Option<Event>> {
        if !self.told_start {
            self.told_start = true;
            return Ok(Some(Event::Started));
        }
        if self.ended {
            return Ok(None);
        }
        // First the wake-ups, then what they were for: a change after this is another wake-up.
        while self.changes.next()?.is_some() {}
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        let Some((_, status)) = waitpid(Some(self.pid), options)? else { return Ok(None) };
        if let Some(signal) = status.stopping_signal() {
            return Ok(Some(Event::Stopped { signal }));
        }
        if status.continued() {
            return Ok(Some(Event::Continued));
        }
        self.ended = true;
        Ok(Some(Event::Ended { status: status.as_raw() }))
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        if self.ended {
            return Err(rustix::io::Errno::SRCH.into());
        }
        let pid = self.pid.as_raw_nonzero().get();
        // A program may have left the group that it led.
        let grouped = self.leads && writ_sys::signal_group(pid, signal).is_ok();
        if grouped { Ok(()) } else { writ_sys::signal_process(pid, signal) }
    }

    fn kill(&self) -> io::Result<()> {
        self.signal(SIGKILL)?;
        writ_sys::signal_process(self.pid.as_raw_nonzero().get(), SIGKILL)
    }

    fn resume(&self, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if let Some(terminal) = terminal.filter(|_| self.leads) {
            writ_sys::set_foreground_group(&terminal, self.pid.as_raw_nonzero().get())?;
        }
        self.signal(SIGCONT)
    }
}
