//! Starts the program and waits: for its end, for the session's, for signals.
//!
//! The program stays in the caller's process group, so the terminal's own signals reach it without us; what is sent to the
//! launcher alone is passed on. If the launcher is killed, the kernel kills the program, and the broker, which sees the socket
//! close, ends the session.

use std::{
    ffi::OsString,
    os::{
        fd::AsFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitCode, ExitStatus},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use writ_api::{
    frame,
    run::{FromBroker, FromLauncher},
};
use writ_sys::{
    SignalQueue,
    signals::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
};

use super::program::Program;
use crate::{
    fault::{EXIT_NOT_EXECUTABLE, EXIT_WRIT_FAILED, Fault},
    output::Output,
};

/// How long a program may take to end after its session was ended, before it is killed.
const END_GRACE: Duration = Duration::from_secs(3);

/// Taken by the launcher. The terminal sends the first two to the program as well, so they are not passed on.
const TAKEN: &[i32] = &[SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2];
const PASSED_ON: &[i32] = &[SIGHUP, SIGTERM, SIGUSR1, SIGUSR2];

/// Runs the program to its end.
pub fn run(
    program: &Program,
    environment: Vec<(OsString, OsString)>,
    stream: &UnixStream,
    output: Output,
) -> Result<ExitStatus, Fault> {
    let failed = |error: std::io::Error| Fault::new(error.to_string(), "try again");
    let signals = SignalQueue::of(TAKEN).map_err(failed)?;
    let mut command = Command::new(&program.path);
    command.arg0(&program.typed).args(&program.arguments).env_clear().envs(environment);
    let started = writ_sys::die_with_parent(signals.restore_in(&mut command)).spawn();
    let mut child = started.map_err(|error| {
        Fault::new(format!("{}: {error}", program.path.display()), "name a program").exit(EXIT_NOT_EXECUTABLE)
    })?;
    let status = Supervisor { child: &mut child, stream, signals, output, connected: true, ending: None }
        .wait()
        .map_err(failed)?;
    let mut socket = stream;
    let _ = frame::write(&mut socket, &FromLauncher::Closed { status: shell_status(status) });
    Ok(status)
}

struct Supervisor<'a> {
    child: &'a mut Child,
    stream: &'a UnixStream,
    signals: SignalQueue,
    output: Output,
    connected: bool,
    /// The session is over: when the program is killed, [`END_GRACE`] after it was asked to end.
    ending: Option<Instant>,
}

impl Supervisor<'_> {
    fn wait(mut self) -> std::io::Result<ExitStatus> {
        let process = writ_sys::pidfd_of_child(self.child)?;
        loop {
            let mut polled = vec![
                PollFd::new(&process, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            if self.connected {
                polled.push(PollFd::new(self.stream, PollFlags::IN));
            }
            let left = self.ending.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut polled, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let seen = |index: usize| polled.get(index).is_some_and(|fd| !fd.revents().is_empty());
            let (ended, signalled, spoken) = (seen(0), seen(1), seen(2));
            if ended {
                return self.child.wait();
            }
            if signalled {
                self.pass_signals(&process)?;
            }
            if spoken {
                self.listen(&process);
            }
            if self.ending.is_some_and(|deadline| Instant::now() >= deadline) {
                writ_sys::pidfd_kill(&process, SIGKILL)?;
                self.ending = None;
            }
        }
    }

    fn pass_signals(&self, process: &std::os::fd::OwnedFd) -> std::io::Result<()> {
        while let Some(signal) = self.signals.next()? {
            if PASSED_ON.contains(&signal) {
                let _ = writ_sys::pidfd_kill(process, signal);
            }
        }
        Ok(())
    }

    fn listen(&mut self, process: &std::os::fd::OwnedFd) {
        let mut socket = self.stream;
        match frame::read(&mut socket) {
            Ok(FromBroker::Said { text }) => self.output.say(&text),
            Ok(FromBroker::Ended { why }) => {
                self.output.say(&format!("the session is over: {why}; the program is ended"));
                let _ = writ_sys::pidfd_kill(process, SIGTERM);
                self.connected = false;
                self.ending = Some(Instant::now() + END_GRACE);
            }
            Ok(_) => {}
            Err(_) => {
                self.output.say("the daemon is gone: the program keeps running, but no request with a credential passes any more");
                self.connected = false;
            }
        }
    }
}

/// As a shell would print it: 128 and the signal's number for a death by signal.
fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(i32::from(EXIT_WRIT_FAILED))
}

/// Ends as the program ended: with its status, or of the same signal.
pub fn pass_on(status: ExitStatus) -> ExitCode {
    match status.signal() {
        Some(signal) => writ_sys::raise_to_signal_death(signal),
        None => ExitCode::from(u8::try_from(shell_status(status)).unwrap_or(EXIT_WRIT_FAILED)),
    }
}
