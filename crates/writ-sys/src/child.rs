//! What happens in a child between `fork` and `exec`.
//!
//! Each function adds one step to a [`Command`]; the steps run in the child in the order in which they were added,
//! and one that fails makes `spawn` fail. They allocate nothing and take no lock, since the child of a program with
//! threads may do neither.
//!
//! `writ run` leaves its child in the caller's own process group (nothing is added for that), so that job control
//! works as without `writ run`; the daemon gets a session of its own.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child die (`SIGKILL`) when we die.
///
/// Linux: `PR_SET_PDEATHSIG`, `prctl(2)`. It has three limits. The signal comes when the *thread* that calls `spawn`
/// ends, so spawn from the main thread or from one that lives as long as the child should. It holds for the
/// child, not for what the child starts. It is dropped when the child executes a program that is setuid or has file
/// capabilities. If we died before the child could ask for the signal, `spawn`'s child ends itself instead of
/// executing. Not for a child in a new PID namespace, in which the parent has no number.
///
/// Elsewhere nothing happens: the child lives on.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    #[cfg(target_os = "linux")]
    die_with(command, rustix::process::getpid());
    command
}

/// Makes the child the leader of a new session, with no controlling terminal (`setsid(2)`).
///
/// For the daemon: it must not get the terminal's signals, nor end with it.
pub fn new_session(command: &mut Command) -> &mut Command {
    let step = || -> io::Result<()> {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: the step makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(step) }
}

/// Gives the child the default disposition of `signals`.
///
/// `exec` resets handlers, but what we *ignore* stays ignored in the child. Name here what we chose to ignore, and
/// nothing else: what our caller ignores (`nohup`) should stay so. The standard library restores `SIGPIPE`
/// already; for blocked signals see [`SignalQueue::restore_in`](crate::SignalQueue::restore_in).
///
/// `spawn` fails with `EINVAL` if one of the numbers is no signal or cannot be changed; see `signal(7)`.
pub fn default_signals<'a>(command: &'a mut Command, signals: &'static [i32]) -> &'a mut Command {
    let step = move || -> io::Result<()> {
        for &number in signals {
            // SAFETY: the default disposition runs no code of ours; a wrong number is reported as an error.
            if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the step makes system calls only and neither allocates nor locks; `last_os_error` reads `errno`.
    unsafe { command.pre_exec(step) }
}

#[cfg(target_os = "linux")]
fn die_with(command: &mut Command, parent: rustix::process::Pid) {
    use rustix::io::Errno;
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    let step = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above sends nothing any more; then we have another one by now.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: the step makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(step) };
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use rustix::process::{Pid, PidfdFlags, getsid, pidfd_open};

    use super::*;
    use crate::pidfd::{pidfd_exited, pidfd_kill, pidfd_of_child};
    use crate::testing::{again, role};

    const PARENT: &str = "child::tests::a_child_dies_with_its_parent";
    const IGNORES: &str = "child::tests::an_ignored_signal_is_default_again_in_the_child";
    const LONG: Duration = Duration::from_secs(20);

    /// Test process → parent, which is killed here → grandchild, which would live for minutes.
    #[test]
    fn a_child_dies_with_its_parent() {
        if let Some(role) = role() {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
            if role == "tied" {
                die_with_parent(&mut command);
            }
            let mut grandchild = command.spawn().unwrap();
            eprintln!("grandchild {}", grandchild.id());
            grandchild.wait().unwrap();
            return;
        }
        for (role, dies) in [("tied", true), ("free", false)] {
            let mut parent = again(PARENT, role).stderr(Stdio::piped()).spawn().unwrap();
            let grandchild = grandchild_of(&mut parent);
            assert!(!pidfd_exited(&grandchild, Duration::ZERO).unwrap());
            parent.kill().unwrap();
            parent.wait().unwrap();
            let wait = if dies { LONG } else { Duration::ZERO };
            let exited = pidfd_exited(&grandchild, wait).unwrap();
            let _ = pidfd_kill(&grandchild, libc::SIGKILL);
            assert_eq!(exited, dies, "{role}");
        }
    }

    fn grandchild_of(parent: &mut Child) -> OwnedFd {
        let stderr = BufReader::new(parent.stderr.take().unwrap());
        let line = stderr.lines().map(Result::unwrap).find(|line| line.starts_with("grandchild "));
        let pid: i32 = line.unwrap()["grandchild ".len()..].parse().unwrap();
        pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()
    }

    #[test]
    fn a_child_whose_parent_is_gone_already_executes_nothing() {
        let mut command = Command::new("true");
        die_with(&mut command, Pid::INIT);
        let error = command.spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_child_can_lead_a_session_of_its_own() {
        let mut command = Command::new("cat");
        let mut child = new_session(command.stdin(Stdio::piped())).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // Only the child's session is asked for: ours may have its leader in another PID namespace, and then has no number.
        assert_eq!(getsid(Some(pid)).unwrap(), pid);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn an_ignored_signal_is_default_again_in_the_child() {
        if role().is_some() {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            for reset in [false, true] {
                let mut command = Command::new("sleep");
                command.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
                if reset {
                    default_signals(&mut command, &[libc::SIGINT]);
                }
                let mut child = die_with_parent(&mut command).spawn().unwrap();
                let process = pidfd_of_child(&child).unwrap();
                pidfd_kill(&process, libc::SIGINT).unwrap();
                pidfd_kill(&process, libc::SIGTERM).unwrap();
                // Of two pending signals the lower number is delivered first: SIGINT, unless it is ignored.
                let expected = if reset { libc::SIGINT } else { libc::SIGTERM };
                assert_eq!(child.wait().unwrap().signal(), Some(expected));
            }
            return;
        }
        assert!(again(IGNORES, "ignore").status().unwrap().success());
    }

    #[test]
    fn a_number_that_is_no_signal_fails_the_spawn() {
        let mut command = Command::new("true");
        let error = default_signals(&mut command, &[4096]).spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
