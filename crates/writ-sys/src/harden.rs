//! A process that holds secrets: not traced, not dumped, not swapped out.
//!
//! What this does not give: protection from the superuser, from a debugger attached before the call, or from
//! hibernation. It does not survive `exec`, so every process that holds secrets calls it first thing.

use std::io;

/// What of [`harden_process`] holds. Callers report what does not; `doctor` prints it.
#[derive(Debug)]
pub struct Hardening {
    /// No other process of the same user may trace us or read `/proc/<pid>/mem` and `environ`.
    pub undumpable: io::Result<()>,
    /// The limit of core files is zero, and cannot be raised again without privilege.
    pub no_core: io::Result<()>,
    /// All pages, present and future, stay in memory and out of swap. This usually needs a privilege or a raised
    /// `RLIMIT_MEMLOCK`: `false` without them is no fault.
    pub memory_locked: bool,
}

impl Hardening {
    /// Whether everything that must hold does. Locked memory is worth having, but not required.
    pub fn holds(&self) -> bool {
        self.undumpable.is_ok() && self.no_core.is_ok()
    }
}

/// Makes this process undumpable (`PR_SET_DUMPABLE`, `prctl(2)`), forbids core files (`RLIMIT_CORE`,
/// `setrlimit(2)`) and, where the limit allows it, locks its memory (`mlockall(2)`).
///
/// Memory is locked as it is touched (`MCL_ONFAULT`), so that reserved stacks cost nothing, and only if
/// `RLIMIT_MEMLOCK` can be made unlimited: under a finite limit a later allocation would fail instead.
///
/// Undumpable also means that `/proc/self` belongs to the superuser: a process that is not root can no longer open
/// some of its own entries there (`environ`, `mem`).
///
/// Call it at the start of `main`. It never fails as a whole: the parts that do not hold are in the answer.
/// Elsewhere than on Linux only the limit of core files is set.
pub fn harden_process() -> Hardening {
    Hardening { undumpable: undumpable(), no_core: no_core(), memory_locked: lock_memory() }
}

fn no_core() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

#[cfg(target_os = "linux")]
fn undumpable() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};

    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
fn undumpable() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn lock_memory() -> bool {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let unlimited = Rlimit { current: None, maximum: None };
    if getrlimit(Resource::Memlock).current.is_some() && setrlimit(Resource::Memlock, unlimited).is_err() {
        return false;
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn lock_memory() -> bool {
    false
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, dumpable_behavior, geteuid, getrlimit, set_dumpable_behavior,
        setrlimit,
    };

    use super::*;
    use crate::testing::{again, role};

    const HARDENS: &str = "harden::tests::a_hardened_process_says_what_holds_and_it_does";
    const WATCHED: &str = "harden::tests::others_of_the_same_user_cannot_look_into_a_hardened_process";
    const CRASHES: &str = "harden::tests::a_hardened_process_leaves_no_core";

    #[test]
    fn a_hardened_process_says_what_holds_and_it_does() {
        if role().is_none() {
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
            assert!(again(HARDENS, "harden").status().unwrap().success());
            return;
        }
        let report = harden_process();
        assert!(report.holds(), "{report:?}");
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        assert_eq!(locked.trim() != "0 kB", report.memory_locked, "{locked}");
        // Memory that is taken later must still be there for the asking.
        assert_eq!(
            vec![1_u8; 256 << 20].iter().rev().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>(),
            65536
        );
    }

    /// The superuser may look anywhere, so as root both the process and the one that looks become a plain user.
    #[test]
    fn others_of_the_same_user_cannot_look_into_a_hardened_process() {
        if let Some(role) = role() {
            if geteuid().is_root() {
                // SAFETY: no memory is involved; the C library does it for all threads.
                assert_eq!(unsafe { libc::setresuid(PLAIN_USER, PLAIN_USER, PLAIN_USER) }, 0);
                set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
            }
            if role == "hard" {
                assert!(harden_process().holds());
            }
            println!("\nready");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            return;
        }
        for (role, readable) in [("soft", true), ("hard", false)] {
            let mut watched = again(WATCHED, role).stdin(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(watched.stdout.take().unwrap()).lines().map(Result::unwrap);
            assert!(lines.any(|line| line == "ready"));
            let mut look = Command::new("cat");
            look.arg(format!("/proc/{}/environ", watched.id())).stdout(Stdio::null()).stderr(Stdio::null());
            if geteuid().is_root() {
                look.uid(PLAIN_USER);
            }
            assert_eq!(look.status().unwrap().success(), readable, "{role}");
            drop(watched.stdin.take());
            assert_eq!(lines.filter(|line| line.contains("1 passed")).count(), 1);
            assert!(watched.wait().unwrap().success());
        }
    }

    /// `nobody`; any number would do.
    const PLAIN_USER: u32 = 65534;

    #[test]
    fn a_hardened_process_leaves_no_core() {
        if role().is_none() {
            let status = again(CRASHES, "crash").status().unwrap();
            assert_eq!(status.signal(), Some(libc::SIGABRT));
            assert!(!status.core_dumped());
            return;
        }
        let hard = getrlimit(Resource::Core).maximum;
        setrlimit(Resource::Core, Rlimit { current: hard, maximum: hard }).unwrap();
        assert!(harden_process().holds());
        std::process::abort();
    }
}
