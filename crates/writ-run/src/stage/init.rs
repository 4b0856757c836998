//! I: PID 1 inside. It enters the view, starts the agent, reaps, and relays.
//!
//! Whatever the agent sends it is nothing: signals without a handler do not reach an init, and it has none. It is not traceable:
//! the agent is in a user namespace below. When the agent's first process ends it exits, and the kernel kills the rest.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{
        DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group,
        set_dumpable_behavior, set_parent_process_death_signal, setpgid, setsid, wait,
    },
    termios::tcsetpgrp,
    thread::UnshareFlags,
    time::Timespec,
};
use writ_sys::SignalQueue;

use super::{
    Stage, capabilities,
    channel::{AgentReport, Channel, InitOrder, Report},
    leave_streams, null,
};
use crate::{Event, Step, StepFault, view};

/// What is taken out of delivery: changes of children; and what the kernel sends to a group in the background that hands its
/// terminal on, which blocked ones may.
const SIGNALS: [i32; 2] = [libc::SIGCHLD, libc::SIGTTOU];

/// Runs the agent until it ends. `None` is a failure, which H has been told.
pub(super) fn run(descriptors: Vec<OwnedFd>) -> Option<()> {
    let mut descriptors = descriptors.into_iter();
    let (launcher, tie, process) = (descriptors.next()?, descriptors.next()?, descriptors.next()?);
    let launcher = Channel::of(launcher);
    let started = die_with(&tie).and_then(|()| {
        if let Some(group) = descriptors.next() {
            enter_group(&launcher, group);
        }
        start(&launcher, process)
    });
    match started {
        Ok((agent, children)) => {
            report(&launcher, Event::Started)?;
            attend(&launcher, &tie, agent, &children)
        }
        Err(fault) => {
            let _ = launcher.send(&Report::Fault { fault }, &[]);
            None
        }
    }
}

/// Our parent has no number here: whether it died before we could ask for the signal shows on the socket to it.
fn die_with(tie: &OwnedFd) -> Result<(), StepFault> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(StepFault::at(Step::Init, "the parent's death"))?;
    let mut watched = [PollFd::new(tie, PollFlags::IN)];
    match poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) => Ok(()),
        Ok(_) => Err(StepFault::new(Step::Init, "the stage is gone", 0)),
        Err(error) => Err(StepFault::at(Step::Init, "poll")(error)),
    }
}

/// Best effort: see `cgroup.rs`.
fn enter_group(launcher: &Channel, members: OwnedFd) {
    let entered =
        File::from(members).write_all(b"0").and_then(|()| writ_sys::unshare(UnshareFlags::NEWCGROUP));
    if let Err(error) = entered {
        let note = format!("the agent shares our control group and can freeze it: {error}");
        let _ = launcher.send(&Report::Note { note }, &[]);
    }
}

fn start(launcher: &Channel, process: OwnedFd) -> Result<(Pid, SignalQueue), StepFault> {
    let null = null()?;
    for note in view::enter()? {
        let _ = launcher.send(&Report::Note { note }, &[]);
    }
    capabilities::drop_all().map_err(StepFault::at(Step::Capabilities, "of init"))?;
    let children = SignalQueue::of(&SIGNALS).map_err(StepFault::at(Step::Init, "signals"))?;
    let (report, agents_report) = Channel::pair().map_err(StepFault::at(Step::Init, "a socket"))?;
    let mut command = Stage::Inner.command(vec![agents_report, process]);
    let child = command.spawn().map_err(StepFault::at(Step::Init, "the agent's stage"))?;
    drop(command);
    let agent = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let agent = agent.ok_or_else(|| StepFault::new(Step::Init, "the agent's stage", 0))?;

    leave_streams(&null);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    until_executed(launcher, &report)?;
    leave_group(agent);
    Ok((agent, children))
}

/// The keys of the caller's terminal are not for us. To a group of the agent's own we are the shell that could continue it, in the same
/// session: without us nothing in it would stop (POSIX.1-2024, 3.256 "Orphaned Process Group"). To the caller's group, in which it is
/// else, we are not: the kernel has to continue and hang up what is stopped in it when the caller's shell is gone.
fn leave_group(agent: Pid) {
    let leads = writ_sys::signal_group(agent.as_raw_nonzero().get(), 0).is_ok();
    let _ = if leads { setpgid(None, None) } else { setsid().map(drop) };
}

fn until_executed(launcher: &Channel, report: &Channel) -> Result<(), StepFault> {
    let mut ready = false;
    loop {
        match report.receive::<AgentReport>() {
            Ok(Some((AgentReport::Ready, _))) => {
                ready = true;
                pass_on_go(launcher, report).map_err(StepFault::at(Step::Protocol, "the word to go"))?;
            }
            Ok(Some((AgentReport::Fault { fault }, _))) => return Err(fault),
            Ok(None) if ready => return Ok(()),
            Ok(None) => return Err(StepFault::new(Step::Protocol, "the agent's stage broke off", 0)),
            Err(error) => return Err(StepFault::at(Step::Protocol, "the agent's stage")(error)),
        }
    }
}

fn pass_on_go(launcher: &Channel, agent: &Channel) -> io::Result<()> {
    launcher.send(&Report::Ready, &[])?;
    match launcher.receive()? {
        Some((InitOrder::Go { go }, _)) => agent.send(&go, &[]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Until the agent ends, or there is nobody left to tell.
fn attend(launcher: &Channel, tie: &OwnedFd, agent: Pid, children: &SignalQueue) -> Option<()> {
    let mut has_stopped = false;
    loop {
        let mut watched = [
            PollFd::new(children, PollFlags::IN),
            PollFd::from_borrowed_fd(launcher.as_fd(), PollFlags::IN),
            PollFd::new(tie, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            other => other.ok()?,
        };
        let [changed, ordered, abandoned] = watched.map(|one| !one.revents().is_empty());
        if abandoned {
            return None;
        }
        if changed {
            while children.next().ok()?.is_some() {}
        }
        // Also before an order is obeyed: one of them depends on what the agent did.
        if (changed || ordered) && reap(launcher, agent, &mut has_stopped)? {
            return Some(());
        }
        if ordered {
            match launcher.receive().ok()?? {
                // It was given, and there is only one.
                (InitOrder::Go { .. }, _) => {}
                (InitOrder::Signal { number }, _) => signal(number, agent),
                (InitOrder::Stop, _) if has_stopped => {}
                (InitOrder::Stop, _) => signal(libc::SIGTSTP, agent),
                (InitOrder::Resume, terminal) => {
                    if let Some(terminal) = terminal.first() {
                        let _ = tcsetpgrp(terminal, agent);
                    }
                    signal(libc::SIGCONT, agent);
                }
            }
        }
    }
}

/// Takes what became of all children, ours and those that were left to us. Whether the agent ended.
fn reap(launcher: &Channel, agent: Pid, has_stopped: &mut bool) -> Option<bool> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
    loop {
        match wait(options) {
            Ok(Some((pid, status))) if pid == agent => {
                let event = event(status);
                report(launcher, event)?;
                *has_stopped |= matches!(event, Event::Stopped { .. } | Event::Continued);
                if matches!(event, Event::Ended { .. }) {
                    return Some(true);
                }
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Some(false),
            Err(_) => return None,
        }
    }
}

fn event(status: WaitStatus) -> Event {
    if status.stopped() {
        return Event::Stopped { signal: status.stopping_signal().unwrap_or_default() };
    }
    if status.continued() {
        return Event::Continued;
    }
    Event::Ended { status: status.as_raw() }
}

fn signal(number: i32, agent: Pid) {
    if let Some(signal) = Signal::from_named_raw(number) {
        // It leads no group in the caller's, and a program may have left its own.
        let _ = kill_process_group(agent, signal).or_else(|_| kill_process(agent, signal));
    }
}

fn report(launcher: &Channel, event: Event) -> Option<()> {
    launcher.send(&Report::Event { event }, &[]).ok()
}
