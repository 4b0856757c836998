//! Waits: for the program's end and its stops, for the session's end, for signals, for callers of published ports.
//!
//! ```text
//!   program   stopped ─► we stop, as a shell's job does        ended ─► its status is ours
//!   signals   what is sent to us is meant for the program
//!   broker    said ─► printed     ended ─► TERM, a grace, KILL     gone ─► another is sought (comeback)
//!   ports     a caller ─► relayed into the program's network
//! ```
//!
//! If the launcher is killed, the kernel kills the program, and the broker, which sees the socket close, ends the session.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{ExitCode, ExitStatus},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use writ_api::{
    frame,
    run::{FromBroker, FromLauncher},
};
use writ_core::SessionId;
use writ_run::{Agent, Event, Job, Published, Terminal};
use writ_sys::{
    SignalQueue,
    jobs::{SIGTSTP, SIGTTIN, SIGTTOU},
    signals::{Received, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
};

use super::{
    Session,
    comeback::{Comeback, News},
    deliver::Place,
    session::{self, Held},
};
use crate::{
    fault::{EXIT_WRIT_FAILED, Fault},
    output::Output,
    paths::Paths,
};

/// How long a program may take to end after its session was ended, before it is killed.
const END_GRACE: Duration = Duration::from_secs(3);

/// How long the broker may take to take what remains of a run.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// Taken by the launcher, and meant for the program. Three are there for another reason as well: of `SIGTSTP` and `SIGTTIN` we stop
/// when the program did, and `SIGTTOU` would stop us for a remark of ours in the background of a terminal with `tostop`.
const TAKEN: &[i32] =
    &[SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH];
/// The terminal sends these to a whole group: a program in ours has them already.
const TO_THE_GROUP: &[i32] = &[SIGINT, SIGQUIT, SIGTSTP, SIGWINCH];

/// The signals that [`Supervisor`] reads. Called before the program starts and before any thread, see [`SignalQueue::of`].
pub fn signals() -> io::Result<SignalQueue> {
    SignalQueue::of(TAKEN)
}

/// Everything that a run waits for.
pub struct Supervisor<'a> {
    pub agent: Agent,
    pub terminal: Terminal,
    pub job: Job,
    pub signals: SignalQueue,
    /// The open session.
    pub stream: UnixStream,
    pub published: Vec<Published>,
    pub output: Output,
    /// What it takes to go on at another daemon; `None` once the session is over.
    pub held: Option<Held>,
    pub paths: &'a Paths,
    pub logins: &'a Place,
}

impl Supervisor<'_> {
    /// Waits for the program's end, tells the broker, and returns the program's status.
    pub fn run(self) -> Result<ExitStatus, Fault> {
        let mut watch = Watch { run: self, connected: true, comeback: None, ending: None };
        let watched = watch.wait();
        let mut run = watch.run;
        let status = watched.map_err(|error| {
            // Nobody would watch it any more.
            let _ = run.agent.kill();
            run.job.ended(None);
            Fault::new(format!("the program cannot be watched: {error}"), "try again")
        })?;
        run.job.ended(status.signal());
        run.close(shell_status(status));
        Ok(status)
    }

    /// Tells the broker, which takes what remains of the run off our hands. What it does not take is closed here, and the disk waited for.
    fn close(&mut self, status: i32) {
        let remains = self.agent.remains();
        let passed: Vec<_> = remains.iter().map(AsFd::as_fd).collect();
        let told = session::send(&mut self.stream, &FromLauncher::Closed { status }, &passed);
        if told.is_err() || remains.is_empty() {
            return;
        }
        let _ = self.stream.set_read_timeout(Some(TAKEN_MAX));
        // Lines may still be on the way.
        while let Ok(FromBroker::Said { text }) = frame::read(&mut self.stream) {
            self.output.say(&text);
        }
    }
}

struct Watch<'a> {
    run: Supervisor<'a>,
    connected: bool,
    /// The daemon was lost, and another is sought.
    comeback: Option<(SessionId, Comeback)>,
    /// The session is over: when the program is killed, [`END_GRACE`] after it was asked to end.
    ending: Option<Instant>,
}

/// What [`poll`] found.
struct Ready {
    signals: bool,
    stream: bool,
    comeback: bool,
    published: Vec<bool>,
}

impl Watch<'_> {
    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.pass_signals(true)?;
        loop {
            if let Some(status) = self.events()? {
                return Ok(status);
            }
            let Some(ready) = self.poll()? else { continue };
            if ready.signals {
                self.pass_signals(false)?;
            }
            if ready.stream {
                self.listen();
            }
            if ready.comeback {
                self.go_on();
            }
            self.publish(&ready.published);
            if self.ending.is_some_and(|deadline| Instant::now() >= deadline) {
                let _ = self.run.agent.kill();
                self.ending = None;
            }
        }
    }

    /// `None` if it was interrupted.
    fn poll(&self) -> io::Result<Option<Ready>> {
        let run = &self.run;
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut polled = vec![watched(run.agent.as_fd()), watched(run.signals.as_fd())];
        polled.extend(run.published.iter().map(|port| watched(port.as_fd())));
        // Either of the two: who seeks another daemon has lost the stream.
        let comeback = self.comeback.as_ref().map(|(_, comeback)| comeback.as_fd());
        polled.extend(comeback.or_else(|| self.connected.then(|| run.stream.as_fd())).map(watched));
        let left = self.ending.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(None),
            other => other?,
        };
        let mut seen = polled.iter().skip(1).map(|fd| !fd.revents().is_empty());
        let signals = seen.next().unwrap_or_default();
        let published = seen.by_ref().take(run.published.len()).collect();
        let last = seen.next().unwrap_or_default();
        let seeks = self.comeback.is_some();
        Ok(Some(Ready { signals, published, stream: last && !seeks, comeback: last && seeks }))
    }

    /// The program's status, when it has ended.
    fn events(&mut self) -> io::Result<Option<ExitStatus>> {
        while let Some(event) = self.run.agent.event()? {
            match event {
                Event::Ended { status } => return Ok(Some(ExitStatus::from_raw(status))),
                Event::Stopped { signal } => self.run.job.stopped(&mut self.run.agent, signal)?,
                Event::Started | Event::Continued => {}
            }
        }
        Ok(None)
    }

    /// `early`: a key that was pressed before there was a program has not reached it.
    fn pass_signals(&mut self, early: bool) -> io::Result<()> {
        let run = &mut self.run;
        let shared = !early && !run.terminal.is_own_group();
        while let Some(Received { signal, from_kernel }) = run.signals.next_received()? {
            let has_it = from_kernel && shared && TO_THE_GROUP.contains(&signal);
            // One that cannot be passed on any more has found its end: the next event.
            let _ = match signal {
                SIGCONT => run.job.resume(&mut run.agent),
                SIGTSTP if early => run.agent.stop(),
                SIGTTIN | SIGTTOU => Ok(()),
                _ if has_it => Ok(()),
                _ => run.agent.signal(signal),
            };
        }
        Ok(())
    }

    fn listen(&mut self) {
        match frame::read(&mut self.run.stream) {
            Ok(FromBroker::Said { text }) => self.run.output.say(&text),
            Ok(FromBroker::Ended { why }) => {
                self.run.output.say(&format!("the session is over: {why}; the program is ended"));
                self.end();
            }
            Ok(_) => {}
            Err(_) => self.lost(),
        }
    }

    /// The daemon is gone: another is sought, if the session may go on.
    fn lost(&mut self) {
        self.connected = false;
        let Some(held) = self.run.held.take() else { return };
        let Some(session) = held.session() else { return };
        match Comeback::begin(self.run.paths, held) {
            Ok(comeback) => self.comeback = Some((session, comeback)),
            Err(error) => self.stays_lost(&error.to_string()),
        }
    }

    fn go_on(&mut self) {
        while let Some((session, news)) =
            self.comeback.as_ref().and_then(|(session, comeback)| Some((*session, comeback.next()?)))
        {
            match news {
                News::Said(text) => self.run.output.say(&text),
                News::Back(back) => {
                    let Session { stream, opened, held } = *back;
                    self.run.output.say(&format!(
                        "the daemon came back: the session {session} goes on as {}",
                        opened.session
                    ));
                    let again = self.run.logins.again(&opened, held.recipient(), &mut self.run.agent);
                    let lines = again.unwrap_or_else(|fault| vec![fault.what]);
                    lines.iter().for_each(|line| self.run.output.say(line));
                    (self.run.stream, self.run.held) = (stream, Some(held));
                    (self.connected, self.comeback) = (true, None);
                }
                News::Over(why) => self.stays_lost(&why),
            }
        }
    }

    fn stays_lost(&mut self, why: &str) {
        self.comeback = None;
        self.run.output.say(&format!(
            "the daemon is gone ({why}): the program keeps running, but no request with a credential passes any more"
        ));
    }

    /// Asks the program to end, also one that is stopped.
    fn end(&mut self) {
        let _ = self.run.agent.signal(SIGTERM);
        let _ = self.run.agent.signal(SIGCONT);
        self.connected = false;
        self.run.held = None;
        self.ending = Some(Instant::now() + END_GRACE);
    }

    fn publish(&mut self, ready: &[bool]) {
        let run = &mut self.run;
        let mut ready = ready.iter();
        run.published.retain(|port| {
            if !ready.next().is_some_and(|ready| *ready) {
                return true;
            }
            let served = port.serve(&mut run.agent);
            if let Err(error) = &served {
                run.output.say(&format!("a port is no longer published: {error}"));
            }
            served.is_ok()
        });
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
