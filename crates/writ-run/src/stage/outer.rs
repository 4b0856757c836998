//! S: makes the namespaces, the network and the view, starts init, and stays to make sockets.
//!
//! It remains outside of the PID namespace that it made: the agent can neither see, signal nor trace it, so what it says is
//! trusted. It has one thread, or the kernel would refuse it a user namespace.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    process::Command,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{DumpableBehavior, geteuid, set_dumpable_behavior, setsid},
    thread::UnshareFlags,
};
use writ_core::Door;

use super::{
    Stage, capabilities, cgroup,
    channel::{Channel, Order, Reply},
    leave_streams, network, null, processes, unseal,
    user::Ids,
};
use crate::{
    Captured, NetworkPlan, RawPath, Step, StepFault, View,
    view::{Built, delivered},
};

/// Serves H until the run is over. `None` is a failure, which H has been told.
pub(super) fn run(descriptors: Vec<OwnedFd>) -> Option<()> {
    let [launcher] = <[OwnedFd; 1]>::try_from(descriptors).ok()?;
    let launcher = Channel::of(launcher);
    match serve(&launcher) {
        Ok(()) => Some(()),
        Err(fault) => {
            let _ = launcher.send(&Reply::Fault { fault }, &[]);
            None
        }
    }
}

fn serve(launcher: &Channel) -> Result<(), StepFault> {
    while let Some((order, descriptors)) = launcher.receive().map_err(lost)? {
        match order {
            Order::Prepare { plan } => prepare(launcher, &plan)?,
            Order::Bind { doors } => bind(launcher, &doors)?,
            Order::Start => return start(launcher, descriptors),
            Order::Dial { .. } | Order::Deliver { .. } => {
                return Err(StepFault::new(Step::Protocol, "an order before the start", 0));
            }
        }
    }
    Ok(())
}

fn prepare(launcher: &Channel, plan: &NetworkPlan) -> Result<(), StepFault> {
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWNET;
    Ids::ours().enter(Step::Unshare, namespaces)?;
    network::up()?;
    let (doors, captured) = network::doors(plan)?;
    let (names, sockets): (Vec<Door>, Vec<OwnedFd>) = doors.into_iter().unzip();
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    launcher.send(&Reply::Doors { doors: names, captured }, &borrowed).map_err(lost)
}

fn bind(launcher: &Channel, doors: &[(Door, SocketAddr)]) -> Result<(), StepFault> {
    let sockets: Vec<OwnedFd> =
        doors.iter().map(|(_, address)| network::listener(*address)).collect::<Result<_, _>>()?;
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let names = doors.iter().map(|(door, _)| door.clone()).collect();
    launcher
        .send(&Reply::Doors { doors: names, captured: Captured { proxy_port: 0 } }, &borrowed)
        .map_err(lost)
}

/// Builds the view, starts init in it, and serves what remains to be served.
fn start(launcher: &Channel, descriptors: Vec<OwnedFd>) -> Result<(), StepFault> {
    let Ok([events, view, process]) = <[OwnedFd; 3]>::try_from(descriptors) else {
        return Err(StepFault::new(Step::Protocol, "the plan", 0));
    };
    let null = null()?;
    let mut notes = Vec::new();
    let group = cgroup::make().unwrap_or_else(|error| {
        notes.push(format!("the agent shares our control group and can freeze it: {error}"));
        None
    });
    let held = group.as_ref().is_some_and(|group| group.limited) || processes::limited_by_namespace();
    if !held && geteuid().is_root() {
        notes.push(
            "nothing limits how many processes the agent may have: use Linux 6.14, or another user".into(),
        );
    }
    let Built { delivered, remains } = unseal::<View>(view)?.build()?;
    capabilities::hand_on_administration().map_err(StepFault::at(Step::Capabilities, "for init"))?;

    let cgroup = group.as_ref().map(|group| RawPath(group.path.clone()));
    let (tie, inits_tie) = Channel::pair().map_err(StepFault::at(Step::Init, "a socket"))?;
    let mut passed = vec![events, inits_tie, process];
    passed.extend(group.map(|group| OwnedFd::from(group.members)));
    let init = spawn(Stage::Init.command(passed), Step::Init)?;

    // What was the caller's is init's and the agent's now: their terminal, their signals, their pipes.
    // A session of our own: in the caller's we would count as a shell that could continue a stopped group of the agent's.
    let _ = setsid();
    leave_streams(&null);
    capabilities::drop_all().map_err(StepFault::at(Step::Capabilities, "after init"))?;
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let passed: Vec<_> = [init.as_fd()].into_iter().chain(remains.iter().map(AsFd::as_fd)).collect();
    launcher.send(&Reply::Running { notes, cgroup }, &passed).map_err(lost)?;
    attend(launcher, &init, delivered.as_ref());
    drop(tie);
    Ok(())
}

/// Makes sockets and delivers files until init or the launcher is gone.
fn attend(launcher: &Channel, init: &OwnedFd, delivered: Option<&OwnedFd>) {
    loop {
        let mut watched =
            [PollFd::from_borrowed_fd(launcher.as_fd(), PollFlags::IN), PollFd::new(init, PollFlags::IN)];
        match poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let [asked, ended] = watched.map(|one| !one.revents().is_empty());
        if ended {
            return;
        }
        if asked && answer(launcher, delivered).is_none() {
            return;
        }
    }
}

fn answer(launcher: &Channel, delivered: Option<&OwnedFd>) -> Option<()> {
    let refused = |errno| launcher.send(&Reply::Refused { errno }, &[]).ok();
    match launcher.receive().ok()?? {
        (Order::Dial { v6 }, _) => match network::dialler(v6) {
            Ok(socket) => launcher.send(&Reply::Dialler, &[socket.as_fd()]).ok(),
            Err(error) => refused(error.raw_os_error().unwrap_or_default()),
        },
        (Order::Deliver { files }, _) => {
            let written = match delivered {
                Some(directory) => delivered::write(directory.as_fd(), &files),
                None => Err(Errno::NOENT),
            };
            match written {
                Ok(()) => launcher.send(&Reply::Delivered, &[]).ok(),
                Err(error) => refused(error.raw_os_error()),
            }
        }
        _ => None,
    }
}

/// Starts a child and holds it by descriptor. It is never waited for by number.
pub(super) fn spawn(mut command: Command, step: Step) -> Result<OwnedFd, StepFault> {
    let child = command.spawn().map_err(StepFault::at(step, "spawn"))?;
    writ_sys::pidfd_of_child(&child).map_err(StepFault::at(step, "pidfd"))
}

fn lost(error: std::io::Error) -> StepFault {
    StepFault::new(Step::Protocol, "the launcher", error.raw_os_error().unwrap_or_default())
}
