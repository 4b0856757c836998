//! The steps of a launch, and what it means when one fails: the reason why a machine cannot confine, for `run` and `doctor`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One step of the stages, in the order in which they are taken. Its name is what `doctor` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Spawn,
    Unshare,
    IdMap,
    Loopback,
    Route,
    Door,
    Cgroup,
    Propagation,
    Tree,
    Home,
    WorkTree,
    Etc,
    Init,
    Proc,
    Pivot,
    SecondNamespace,
    Capabilities,
    Landlock,
    Seccomp,
    Terminal,
    /// The program itself: not found, or not executable.
    Execute,
    /// A stage broke off or said something else than agreed.
    Protocol,
}

/// A step that failed, as the stage reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct StepFault {
    pub step: Step,
    /// As the system numbers it; 0 where the system said nothing.
    pub errno: i32,
    /// What it was about, such as a path. Never a secret.
    pub what: String,
}

impl StepFault {
    pub fn new(step: Step, what: impl Into<String>, errno: i32) -> Self {
        Self { step, errno, what: what.into() }
    }

    /// Whether something ran out, and not: whether this machine cannot do it. A program that runs already could see to that, by filling
    /// the disk or holding every namespace, and must not get the next one a lower level by it.
    pub fn ran_out(&self) -> bool {
        // Where namespaces are switched off, there are none left either (`user.max_user_namespaces = 0`).
        let none = [Step::Unshare, Step::SecondNamespace].contains(&self.step) && self.errno == libc::ENOSPC;
        RAN_OUT.contains(&self.errno) && !(none && switched_off())
    }

    /// For `map_err` of system calls.
    pub fn at<E: Into<std::io::Error>>(step: Step, what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::new(step, what, error.into().raw_os_error().unwrap_or_default())
    }
}

const RAN_OUT: [i32; 9] = [
    libc::EAGAIN,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EIO,
    libc::ENOBUFS,
    libc::ETIMEDOUT,
];

/// The limits of `namespaces(7)` that a launch meets.
const LIMITS: [&str; 5] = [
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/user/max_mnt_namespaces",
    "/proc/sys/user/max_pid_namespaces",
    "/proc/sys/user/max_ipc_namespaces",
    "/proc/sys/user/max_net_namespaces",
];

fn switched_off() -> bool {
    LIMITS.iter().any(|limit| std::fs::read_to_string(limit).is_ok_and(|text| text.trim() == "0"))
}

impl Step {
    /// All of them, in the order in which they are taken.
    pub const ALL: [Self; 22] = [
        Self::Spawn,
        Self::Unshare,
        Self::IdMap,
        Self::Loopback,
        Self::Route,
        Self::Door,
        Self::Cgroup,
        Self::Propagation,
        Self::Tree,
        Self::Home,
        Self::WorkTree,
        Self::Etc,
        Self::Init,
        Self::Proc,
        Self::Pivot,
        Self::SecondNamespace,
        Self::Capabilities,
        Self::Landlock,
        Self::Seccomp,
        Self::Terminal,
        Self::Execute,
        Self::Protocol,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Unshare => "unshare",
            Self::IdMap => "id-map",
            Self::Loopback => "loopback",
            Self::Route => "route",
            Self::Door => "door",
            Self::Cgroup => "cgroup",
            Self::Propagation => "propagation",
            Self::Tree => "tree",
            Self::Home => "home",
            Self::WorkTree => "work-tree",
            Self::Etc => "etc",
            Self::Init => "init",
            Self::Proc => "proc",
            Self::Pivot => "pivot",
            Self::SecondNamespace => "second-namespace",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Terminal => "terminal",
            Self::Execute => "execute",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for StepFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.what)?;
        match self.errno {
            0 => Ok(()),
            errno => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_out_is_not_what_the_machine_cannot_do() {
        for (step, errno, ran_out) in [
            (Step::Home, libc::ENOSPC, true),
            (Step::Home, libc::EDQUOT, true),
            (Step::Spawn, libc::EAGAIN, true),
            (Step::Protocol, libc::EAGAIN, true),
            (Step::Door, libc::EMFILE, true),
            (Step::Unshare, libc::ENOSPC, !switched_off()),
            (Step::Unshare, libc::EPERM, false),
            (Step::Unshare, libc::ENOSYS, false),
            (Step::Proc, libc::EPERM, false),
            (Step::Home, libc::EINVAL, false),
            (Step::Landlock, 0, false),
        ] {
            assert_eq!(StepFault::new(step, "", errno).ran_out(), ran_out, "{step:?} {errno}");
        }
    }
}
