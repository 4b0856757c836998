//! H's side of a launch: the network first, whose sockets open the session; then the rest.
//!
//! ```text
//!   Prepared::begin ─► Prepared::doors ─► (the session is opened) ─► Prepared::bind ─► Prepared::start ─► Running
//! ```
//!
//! Everything below dies when the thread that called [`Prepared::begin`] ends, when a `Prepared` or `Running` is dropped,
//! and when any of the stages dies. H itself may have threads, and may be undumpable.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::Child,
    time::Duration,
};

use writ_core::Door;

use crate::{
    Captured, Delivered, Event, NetworkPlan, Plan, ProcessPlan, RawPath, Step, StepFault, Terminal, View,
    stage::{
        Stage, cgroup,
        channel::{Channel, Go, InitOrder, Order, Reply, Report},
        seal,
    },
};

/// The longest that one step of a launch may take. A view over a network's file system is slow, but not that slow.
const STEP_MAX: Duration = Duration::from_secs(30);
/// The longest that the kernel takes to kill what is inside.
const DEATH_MAX: Duration = Duration::from_secs(5);

/// Sockets that listen inside, and what each is for.
pub type Doors = Vec<(Door, OwnedFd)>;

/// Namespaces, a network and the doors, and nobody inside yet.
#[derive(Debug)]
pub struct Prepared {
    stage: Outer,
}

impl Prepared {
    /// Makes the namespaces and the network, and waits for them. Call it from a thread that lives as long as the run.
    ///
    /// # Errors
    /// The step that failed: this machine does not confine.
    pub fn new(plan: &NetworkPlan) -> Result<(Self, Doors, Captured), StepFault> {
        let mut prepared = Self::begin(plan)?;
        let (doors, captured) = prepared.doors()?;
        Ok((prepared, doors, captured))
    }

    /// Has the namespaces and the network made, and does not wait: its caller has other things to do meanwhile. Call it from a thread that
    /// lives as long as the run.
    ///
    /// # Errors
    /// [`Step::Spawn`].
    pub fn begin(plan: &NetworkPlan) -> Result<Self, StepFault> {
        let (channel, theirs) = Channel::pair().map_err(StepFault::at(Step::Spawn, "a socket"))?;
        channel.set_patience(Some(STEP_MAX)).map_err(StepFault::at(Step::Spawn, "a socket"))?;
        let mut command = Stage::Outer.command(vec![theirs]);
        let child = writ_sys::die_with_parent(&mut command).spawn();
        // Together with it goes our copy of the stage's end.
        drop(command);
        let child = child.map_err(StepFault::at(Step::Spawn, "the first stage"))?;
        let mut stage = Outer { child, channel };
        if stage.channel.send(&Order::Prepare { plan: plan.clone() }, &[]).is_err() {
            return Err(StepFault::new(Step::Spawn, stage.last_words(), 0));
        }
        Ok(Self { stage })
    }

    /// The doors of the network that was [begun](Self::begin), once.
    ///
    /// # Errors
    /// The step that failed: this machine does not confine.
    pub fn doors(&mut self) -> Result<(Doors, Captured), StepFault> {
        doors_of(self.stage.answer()?)
    }

    /// Makes further doors: listeners at these addresses, inside.
    ///
    /// # Errors
    /// The step [`Step::Door`] with the address at which it failed. The launch is over then.
    pub fn bind(&mut self, doors: &[(Door, SocketAddr)]) -> Result<Doors, StepFault> {
        Ok(doors_of(self.stage.ask(&Order::Bind { doors: doors.to_vec() }, &[])?)?.0)
    }

    /// Builds the view and executes the program. When it answers, the program runs. `ready` is asked when all is done but that, and
    /// answers whether the program's group gets the terminal: see [`Job::ready`](crate::Job::ready).
    ///
    /// # Errors
    /// The step that failed; [`Step::Execute`] means that all is well but the program.
    pub fn start(self, plan: &Plan, ready: &dyn Fn() -> bool) -> Result<Running, StepFault> {
        let Self { mut stage } = self;
        let (init, theirs) = Channel::pair().map_err(StepFault::at(Step::Spawn, "a socket"))?;
        init.set_patience(Some(STEP_MAX)).map_err(StepFault::at(Step::Spawn, "a socket"))?;
        let (view, process) = (seal(&plan.view)?, seal(&plan.process)?);
        let passed = [theirs.as_fd(), view.as_fd(), process.as_fd()];
        let (reply, descriptors) = stage.ask(&Order::Start, &passed)?;
        drop(theirs);
        let mut descriptors = descriptors.into_iter();
        let (Reply::Running { notes, cgroup }, Some(pid_one)) = (reply, descriptors.next()) else {
            return Err(unexpected());
        };
        let remains = descriptors.collect();
        let running = Running { stage, init, pid_one, cgroup, notes, remains, state: State::Starting };
        running.until_started(ready)
    }
}

fn doors_of((reply, sockets): (Reply, Vec<OwnedFd>)) -> Result<(Doors, Captured), StepFault> {
    match reply {
        Reply::Doors { doors, captured } if doors.len() == sockets.len() => {
            Ok((doors.into_iter().zip(sockets).collect(), captured))
        }
        _ => Err(unexpected()),
    }
}

/// Launches a program that does nothing in `view`, captures nothing, and answers whether every step works here.
///
/// # Errors
/// The first step that does not.
pub fn probe(view: View) -> Result<(), StepFault> {
    let (prepared, _, _) = Prepared::new(&NetworkPlan { captured: vec![443], proxy_port: 0 })?;
    let (program, arguments) = Stage::Nothing.program();
    let process = ProcessPlan {
        path: program.into(),
        arguments: arguments.map(Into::into).into(),
        environment: Vec::new(),
        directory: "/".into(),
        terminal: Terminal::CallersGroup,
    };
    let mut running = prepared.start(&Plan { view, process }, &|| false)?;
    match running.wait().map_err(StepFault::at(Step::Init, "the program"))? {
        0 => Ok(()),
        status => {
            Err(StepFault::new(Step::Execute, format!("a program that does nothing ended with {status}"), 0))
        }
    }
}

/// A confined program.
///
/// Poll it as a descriptor; when it is readable, take what there is with [`next`](Self::next).
#[derive(Debug)]
pub struct Running {
    stage: Outer,
    init: Channel,
    /// When it is dead, so is everything inside.
    pid_one: OwnedFd,
    cgroup: Option<RawPath>,
    notes: Vec<String>,
    remains: Vec<OwnedFd>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Started,
    Ended,
}

impl Running {
    /// What did not work and is no fault. Whole sentences without a period, for the person.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The control group of the run, where one could be made. It is removed at the end.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// The next event, if there is one. It does not wait.
    ///
    /// The first one is [`Event::Started`]. When init was killed from outside, the agent was as well: then that is how it ended.
    ///
    /// # Errors
    /// When what comes is not a message of ours: the run should be killed.
    #[expect(clippy::should_implement_trait, reason = "no iterator: nothing now is not the end")]
    pub fn next(&mut self) -> io::Result<Option<Event>> {
        if self.state == State::Starting {
            self.state = State::Started;
            return Ok(Some(Event::Started));
        }
        if self.state == State::Ended {
            return Ok(None);
        }
        let report = match self.init.receive::<Report>() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        let event = match report {
            Some((Report::Event { event }, _)) => event,
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => Event::Ended { status: KILLED },
        };
        if matches!(event, Event::Ended { .. }) {
            self.state = State::Ended;
            self.settle();
        }
        Ok(Some(event))
    }

    /// Sends a signal to the agent: to its group, if it leads one.
    ///
    /// # Errors
    /// When init is gone.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        self.init.send(&InitOrder::Signal { number }, &[])
    }

    /// Sends `SIGTSTP` to the agent, unless it has been stopped since it was executed.
    ///
    /// # Errors
    /// When init is gone.
    pub fn stop(&self) -> io::Result<()> {
        self.init.send(&InitOrder::Stop, &[])
    }

    /// Continues a stopped agent, with `terminal` after its group was put into the foreground of that.
    ///
    /// # Errors
    /// When init is gone.
    pub fn resume(&self, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.init.send(&InitOrder::Resume, terminal.as_slice())
    }

    /// What remains of the run when it has ended: the lock on its layer, and the layer's mount, whose closing waits for the disk. Whoever
    /// takes them closes them; while they are open, no other run gets the layer.
    pub fn remains(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.remains)
    }

    /// Kills everything inside.
    ///
    /// # Errors
    /// When it did not die in time.
    pub fn kill(&mut self) -> io::Result<()> {
        self.stage.end();
        match writ_sys::pidfd_exited(&self.pid_one, DEATH_MAX)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// An unconnected TCP socket that was made inside: what it connects to is the agent's network. IPv6 if `v6`, else IPv4.
    ///
    /// # Errors
    /// That of `socket(2)`; `BrokenPipe` or another when the run is over.
    pub fn dial(&self, v6: bool) -> io::Result<OwnedFd> {
        self.stage.channel.send(&Order::Dial { v6 }, &[])?;
        match self.stage.channel.receive::<Reply>()? {
            Some((Reply::Dialler, sockets)) => {
                sockets.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Some((Reply::Refused { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Replaces files that were delivered with the view, each whole, at the same path.
    ///
    /// # Errors
    /// Those of the file system inside; `NotFound` where nothing was delivered; `BrokenPipe` or another when the run is over.
    pub fn deliver(&self, files: &[Delivered]) -> io::Result<()> {
        self.stage.channel.send(&Order::Deliver { files: files.to_vec() }, &[])?;
        match self.stage.channel.receive::<Reply>()? {
            Some((Reply::Delivered, _)) => Ok(()),
            Some((Reply::Refused { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Waits for the end, and answers with the status as `waitpid` has it.
    fn wait(&mut self) -> io::Result<i32> {
        use rustix::event::{PollFd, PollFlags, poll};

        loop {
            if let Some(Event::Ended { status }) = self.next()? {
                return Ok(status);
            }
            if self.state != State::Starting {
                let mut watched = [PollFd::new(&self.init, PollFlags::IN)];
                poll(&mut watched, None)?;
            }
        }
    }

    fn until_started(mut self, ready: &dyn Fn() -> bool) -> Result<Self, StepFault> {
        loop {
            match self.init.receive::<Report>() {
                Ok(Some((Report::Ready, _))) => {
                    let go = Go { foreground: ready() };
                    let sent = self.init.send(&InitOrder::Go { go }, &[]);
                    sent.map_err(StepFault::at(Step::Init, "the word to go"))?;
                }
                Ok(Some((Report::Event { event: Event::Started }, _))) => break,
                Ok(Some((Report::Note { note }, _))) => self.notes.push(note),
                Ok(Some((Report::Fault { fault }, _))) => return Err(fault),
                Ok(Some(_)) => return Err(unexpected()),
                Ok(None) => return Err(StepFault::new(Step::Init, "it ended without a word", 0)),
                Err(error) => return Err(StepFault::at(Step::Init, "its word")(error)),
            }
        }
        self.init.set_nonblocking().map_err(StepFault::at(Step::Init, "its socket"))?;
        Ok(self)
    }

    /// The end of everything inside is waited for, and what is left of it on the host removed.
    fn settle(&mut self) {
        let _ = writ_sys::pidfd_exited(&self.pid_one, DEATH_MAX);
        self.stage.end();
        if let Some(group) = self.cgroup.take() {
            cgroup::remove(&group);
        }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stage.end();
        self.settle();
    }
}

/// What `waitpid` tells of a process that SIGKILL ended.
const KILLED: i32 = 9;

/// The first stage, as its parent has it.
#[derive(Debug)]
struct Outer {
    child: Child,
    channel: Channel,
}

impl Outer {
    fn ask(
        &mut self,
        order: &Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), StepFault> {
        let sent = self.channel.send(order, descriptors);
        let answer = self.answer()?;
        sent.map(|()| answer).map_err(StepFault::at(Step::Protocol, "the first stage"))
    }

    fn answer(&mut self) -> Result<(Reply, Vec<OwnedFd>), StepFault> {
        match self.channel.receive() {
            Ok(Some((Reply::Fault { fault }, _))) => Err(fault),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(StepFault::new(Step::Spawn, self.last_words(), 0)),
            Err(error) => Err(StepFault::at(Step::Protocol, "the first stage")(error)),
        }
    }

    fn last_words(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => format!("the first stage ended: {status}"),
            Err(error) => format!("the first stage: {error}"),
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        self.end();
    }
}

fn unexpected() -> StepFault {
    StepFault::new(Step::Protocol, "an answer to another question", 0)
}
