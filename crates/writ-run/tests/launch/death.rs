//! Whoever dies, all below die. Watched by descriptor; nothing waits for a time.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use writ_run::{Event, Running, Terminal};
use writ_sys::{pidfd_exited, pidfd_kill};

use crate::{
    Case,
    lab::{Lab, event, process},
    walls::our_group,
};

pub const CASES: &[Case] = &[
    ("when_the_launcher_is_killed_all_are_gone", launcher_killed),
    ("when_the_first_stage_is_killed_all_are_gone_and_it_is_told", stage_killed),
    ("when_init_is_killed_all_are_gone_and_it_is_told", init_killed),
    ("when_the_program_ends_its_daemons_do", daemons_end),
    ("what_a_killed_launcher_left_is_taken_away", leftovers),
    ("stages_that_cannot_act_die_all_the_same", stopped_stages_die),
    ("stages_hold_nothing_that_they_do_not_need", stages_are_bare),
    ("stages_leave_the_callers_group_to_the_program", groups),
    ("a_run_that_is_dropped_is_killed", dropped),
    ("a_launch_that_is_given_up_leaves_nothing", given_up),
];

const OWN: Terminal = Terminal::OwnGroup;
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
    let (mut launcher, family) = elsewhere();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    all_gone(&family);
}

/// Nobody is left who could take the control group away, but the next launch.
fn leftovers() {
    let (mut launcher, family) = elsewhere();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    all_gone(&family);
    let Some(group) = our_group().map(|ours| ours.join(format!("writ-run-{}", family[0].pid))) else {
        return;
    };
    let (mut running, _) = here(OWN);
    assert!(!group.exists());
    running.kill().unwrap();
}

/// Not by the sockets between them, which somebody who is stopped does not read, but by the kernel.
fn stopped_stages_die() {
    let (mut launcher, family) = elsewhere();
    pidfd_kill(&family[0].handle, libc::SIGSTOP).unwrap();
    pidfd_kill(&family[1].handle, libc::SIGSTOP).unwrap();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    all_gone(&family);
}

fn stage_killed() {
    let (mut running, family) = here(OWN);
    pidfd_kill(&family[0].handle, 9).unwrap();
    all_gone(&family);
    told_killed(&mut running);
}

fn init_killed() {
    let (mut running, family) = here(OWN);
    pidfd_kill(&family[1].handle, 9).unwrap();
    all_gone(&family);
    told_killed(&mut running);
}

fn daemons_end() {
    let (mut running, family) = here(OWN);
    pidfd_kill(&family[2].handle, 9).unwrap();
    told_killed(&mut running);
    all_gone(&family);
}

/// No capability, no stream of the caller's, nobody may look into them; and they never had the caller's variables.
fn stages_are_bare() {
    let lab = Lab::new();
    let stage = &descendants(std::process::id())[0];
    assert_eq!(fs::read(stage.file("environ")).unwrap(), b"", "{:?}", std::env::vars_os());
    drop(lab);
    let (_running, family) = here(OWN);
    for stage in &family[..2] {
        let status = fs::read_to_string(stage.file("status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {status}");
        }
        assert_eq!(fs::metadata(stage.file("environ")).unwrap().uid(), 0, "undumpable");
        if rustix::process::geteuid().is_root() {
            for stream in 0..3 {
                let open = fs::read_link(stage.file(&format!("fd/{stream}"))).unwrap();
                assert_eq!(open, Path::new("/dev/null"));
            }
        }
    }
}

/// A key of the terminal, a `kill` of the group: they are for the program.
fn groups() {
    let own = pid_group(std::process::id());
    for terminal in [OWN, Terminal::CallersGroup] {
        let (_running, family) = here(terminal);
        let groups: Vec<i32> = family[..3].iter().map(|one| pid_group(one.pid)).collect();
        assert_eq!(groups[0], family[0].pid.cast_signed());
        assert_eq!(groups[1], family[1].pid.cast_signed());
        let expected = if terminal == OWN { family[2].pid.cast_signed() } else { own };
        assert_eq!(groups[2], expected);
    }
}

fn dropped() {
    let (running, family) = here(OWN);
    drop(running);
    family.iter().for_each(|one| assert!(pidfd_exited(&one.handle, Duration::ZERO).unwrap()));
}

fn given_up() {
    let lab = Lab::new();
    let family = descendants(std::process::id());
    assert_eq!(family.len(), 1);
    drop(lab);
    assert!(pidfd_exited(&family[0].handle, Duration::ZERO).unwrap());
}

/// A run in this process. Stage, init, program and daemon, in this order.
fn here(terminal: Terminal) -> (Running, Vec<Process>) {
    let (output, input) = std::io::pipe().unwrap();
    rustix::stdio::dup2_stdout(&input).unwrap();
    drop(input);
    let mut plan = process("/bin/sh", &["-c", FAMILY]);
    plan.terminal = terminal;
    let mut running = Lab::new().start(plan).unwrap();
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(event(&mut running), Event::Started);
    let family = descendants(std::process::id());
    assert_eq!(family.len(), 4, "stage, init, program, daemon");
    (running, family)
}

/// The same, of another launcher.
fn elsewhere() -> (Child, Vec<Process>) {
    let program = std::env::current_exe().unwrap();
    let mut launcher = Command::new(program).arg("hold").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(launcher.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let family = descendants(launcher.id());
    assert_eq!(family.len(), 4, "stage, init, program, daemon");
    (launcher, family)
}

fn told_killed(running: &mut Running) {
    assert_eq!(event(running), Event::Ended { status: 9 });
    assert_eq!(running.next().unwrap(), None);
}

fn all_gone(family: &[Process]) {
    for process in family {
        assert!(pidfd_exited(&process.handle, LONG).unwrap());
    }
}

struct Process {
    pid: u32,
    handle: OwnedFd,
}

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }
}

/// Parents before their children.
fn descendants(root: u32) -> Vec<Process> {
    let mut found = Vec::new();
    let mut generation = vec![root];
    while !generation.is_empty() {
        generation = generation.iter().flat_map(|&parent| children(parent)).collect();
        found.extend(generation.iter().map(|&pid| {
            let handle = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
            Process { pid, handle }
        }));
    }
    found
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    let processes = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|&pid| stat(pid).is_some_and(|stat| stat[1] == parent.to_string())).collect()
}

fn pid_group(pid: u32) -> i32 {
    stat(pid).unwrap()[2].parse().unwrap()
}

/// State, parent, group, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(") ").next()?.split(' ').map(str::to_owned).collect())
}
