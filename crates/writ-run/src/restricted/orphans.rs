//! Programs of the session that lost their parent.
//!
//! Without a PID namespace nothing ends what the agent left running. So the launcher adopts it (`PR_SET_CHILD_SUBREAPER`),
//! which also keeps it a descendant of ours: where the system lets a process be looked into by its ancestors only (Yama),
//! its connects could not be judged otherwise.
//!
//! The launcher has other children, such as a daemon that it started. The session's own are told from them by what they cannot
//! shed: more system call filters than we have ourselves. Those that ended are reaped now and then, so that a long run does not
//! fill the system's table of processes; the program itself is its starter's to wait for.

use std::fs;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, set_child_subreaper, waitid};

/// How often the children are looked through: each round ends one generation.
const ROUNDS_MAX: usize = 1000;

/// Ends what the session left behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphans {
    ours: u32,
    /// The session's first process, which is not ours to reap.
    first: Option<Pid>,
}

impl Orphans {
    /// Adopts from now on.
    pub(super) fn adopt() -> std::io::Result<Self> {
        set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self { ours: filters("self").unwrap_or(0), first: None })
    }

    /// Without this one, as long as it is our child.
    pub(super) fn except(self, first: Pid) -> Self {
        Self { first: Some(first), ..self }
    }

    /// Reaps those that ended.
    pub(super) fn reap(self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ours = children().into_iter().filter(|pid| Some(*pid) != self.first && self.is_orphan(*pid));
        for pid in ours {
            let _ = waitid(WaitId::Pid(pid), options);
        }
    }

    /// Kills all children of ours that are filtered more than we are, and theirs.
    pub(super) fn kill(self) {
        for _ in 0..ROUNDS_MAX {
            let left: Vec<Pid> = children().into_iter().filter(|pid| self.is_orphan(*pid)).collect();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            }
        }
    }

    fn is_orphan(self, pid: Pid) -> bool {
        filters(&pid.as_raw_nonzero().to_string()).is_some_and(|theirs| theirs > self.ours)
    }
}

fn children() -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| parent(*number) == Some(own)).filter_map(Pid::from_raw).collect()
}

fn parent(number: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    field(&status, "PPid:")
}

/// How many filters a process runs under (Linux 5.9).
fn filters(process: &str) -> Option<u32> {
    field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "Seccomp_filters:")
}

fn field(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}
