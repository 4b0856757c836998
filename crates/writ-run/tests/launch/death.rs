//! Whoever dies, all below die. Watched by descriptor; nothing waits for a time.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use writ_run::{Event, Running};
use writ_sys::{pidfd_exited, pidfd_kill};

use crate::{
    Case,
    lab::{Lab, event},
};

pub const CASES: &[Case] = &[
    ("when_the_launcher_is_killed_all_are_gone", launcher_killed),
    ("when_the_first_stage_is_killed_all_are_gone_and_it_is_told", stage_killed),
    ("when_init_is_killed_all_are_gone_and_it_is_told", init_killed),
    ("when_the_program_ends_its_daemons_do", daemons_end),
    ("a_run_that_is_dropped_is_killed", dropped),
    ("a_launch_that_is_given_up_leaves_nothing", given_up),
];

const LONG: Duration = Duration::from_secs(20);
/// A program, and a daemon in a session of its own that it left behind.
const FAMILY: &str = "setsid sleep 600 & echo ready; exec sleep 600";

/// A launcher, to be killed.
pub fn hold() -> ExitCode {
    let mut running = Lab::new().program("/bin/sh", &["-c", FAMILY]);
    assert_eq!(event(&mut running), Event::Started);
    event(&mut running);
    ExitCode::SUCCESS
}

fn launcher_killed() {
    let program = std::env::current_exe().unwrap();
    let mut launcher = Command::new(program).arg("hold").stdout(Stdio::piped()).spawn().unwrap();
    ready(&mut launcher);
    let family = descendants(launcher.id());
    assert_eq!(family.len(), 4, "stage, init, program, daemon");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    all_gone(&family);
}

fn stage_killed() {
    let (mut running, family) = here();
    pidfd_kill(&family[0], 9).unwrap();
    all_gone(&family);
    told_killed(&mut running);
}

fn init_killed() {
    let (mut running, family) = here();
    pidfd_kill(&family[1], 9).unwrap();
    all_gone(&family);
    told_killed(&mut running);
}

fn daemons_end() {
    let (mut running, family) = here();
    pidfd_kill(&family[2], 9).unwrap();
    told_killed(&mut running);
    all_gone(&family);
}

fn dropped() {
    let (running, family) = here();
    drop(running);
    family.iter().for_each(|process| assert!(pidfd_exited(process, Duration::ZERO).unwrap()));
}

fn given_up() {
    let lab = Lab::new();
    let family = descendants(std::process::id());
    assert_eq!(family.len(), 1);
    drop(lab);
    assert!(pidfd_exited(&family[0], Duration::ZERO).unwrap());
}

/// A run in this process. Stage, init, program and daemon, in this order.
fn here() -> (Running, Vec<OwnedFd>) {
    let (output, input) = std::io::pipe().unwrap();
    rustix::stdio::dup2_stdout(&input).unwrap();
    drop(input);
    let mut running = Lab::new().program("/bin/sh", &["-c", FAMILY]);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(event(&mut running), Event::Started);
    let family = descendants(std::process::id());
    assert_eq!(family.len(), 4, "stage, init, program, daemon");
    (running, family)
}

fn ready(launcher: &mut Child) {
    let mut line = String::new();
    BufReader::new(launcher.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

fn told_killed(running: &mut Running) {
    assert_eq!(event(running), Event::Ended { status: 9 });
    assert_eq!(running.next().unwrap(), None);
}

fn all_gone(family: &[OwnedFd]) {
    for process in family {
        assert!(pidfd_exited(process, LONG).unwrap());
    }
}

/// Parents before their children, each generation as old as the other.
fn descendants(root: u32) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    let mut generation = vec![i32::try_from(root).unwrap()];
    while !generation.is_empty() {
        generation = generation.iter().flat_map(|&parent| children(parent)).collect();
        found.extend(
            generation
                .iter()
                .map(|&pid| pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()),
        );
    }
    found
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    processes.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}
