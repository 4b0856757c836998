//! Process groups and the terminal's foreground, as a shell handles them (`setpgid(2)`, `tcsetpgrp(3)`, POSIX.1-2024
//! chapter 11, "General Terminal Interface").
//!
//! Groups are raw numbers here and not `rustix`'s `Pid`, because 0 is an answer: a process whose group leader lives in
//! another PID namespace has the group 0, as has everything under a container's first process that never called `setsid`.
//!
//! What is absent: the decision who leads which group, and when the terminal changes hands. That is the launcher's.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The numbers of the signals that stop and continue, which differ between systems.
pub use libc::{SIGCHLD, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

/// Makes the child the leader of a process group of its own; with `foreground`, the group gets the terminal that is the
/// child's standard output, before the program is executed.
///
/// `spawn` fails with the error of `setpgid(2)` or `tcsetpgrp(3)`, such as `ENOTTY` where the output is not the controlling
/// terminal.
pub fn own_group(command: &mut Command, foreground: bool) -> &mut Command {
    let step = move || -> io::Result<()> {
        // SAFETY: no memory is passed; the numbers mean this process and a group named after it.
        if unsafe { libc::setpgid(0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if foreground {
            // SAFETY: the call has no arguments and cannot fail.
            set_foreground(libc::STDOUT_FILENO, unsafe { libc::getpid() })?;
        }
        Ok(())
    };
    // SAFETY: the step makes system calls only and neither allocates nor locks; `last_os_error` reads `errno`.
    unsafe { command.pre_exec(step) }
}

/// Makes the child the leader of a new session whose controlling terminal is its standard input, as a terminal emulator
/// does for its shell (`setsid(2)`, `ioctl_tty(2)` TIOCSCTTY).
///
/// `spawn` fails with `ENOTTY` where the input is no terminal, `EPERM` where it is another session's.
pub fn terminal_session(command: &mut Command) -> &mut Command {
    let step = || -> io::Result<()> {
        rustix::process::setsid()?;
        // SAFETY: the request takes an integer, no pointer.
        match unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the step makes system calls only and neither allocates nor locks; `last_os_error` reads `errno`.
    unsafe { command.pre_exec(step) }
}

/// Our process group; 0 if its leader is in another PID namespace.
#[must_use]
pub fn group_number() -> i32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::getpgrp() }
}

/// The process group in the foreground of `terminal`; 0 if its leader is in another PID namespace.
///
/// # Errors
/// `ENOTTY` if it is not our controlling terminal.
pub fn foreground_group(terminal: &impl AsFd) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and no memory is passed.
    match unsafe { libc::tcgetpgrp(terminal.as_fd().as_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        group => Ok(group),
    }
}

/// Puts `group` into the foreground of `terminal`, also from the background: the `SIGTTOU` for that is held off.
///
/// # Errors
/// `ENOTTY` if it is not our controlling terminal, `EPERM` or `ESRCH` for a group that is not in our session.
pub fn set_foreground_group(terminal: &impl AsFd, group: i32) -> io::Result<()> {
    set_foreground(terminal.as_fd().as_raw_fd(), group)
}

/// Sends `signal` to a whole process group (`killpg(3)`).
///
/// # Errors
/// `InvalidInput` for a group under 2, which would mean our own group or everybody; `ESRCH` if the group is empty.
pub fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    if group < 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    send(-group, signal)
}

/// Sends `signal` to one process (`kill(2)`): a child of ours that was not waited for, so that its number is its own.
///
/// # Errors
/// `InvalidInput` for a number under 1, which would mean a group; `ESRCH` if there is no such process.
pub fn signal_process(pid: i32, signal: i32) -> io::Result<()> {
    if pid < 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    send(pid, signal)
}

/// Sends `signal` to every process of our own group, ourselves included.
///
/// # Errors
/// The error of `kill(2)`.
pub fn signal_own_group(signal: i32) -> io::Result<()> {
    send(0, signal)
}

/// How long a stop may take to reach a process with several threads: any of them may be the one that takes the signal, while
/// the one that sent it goes on. Nanoseconds; longer only delays the answer that nothing stopped us.
const STOP_MOMENT_NS: libc::c_long = 200_000_000;

/// Stops this process by `signal`, and with `group` our whole process group as the terminal would. It returns when we were
/// continued, and at once where the signal does not stop us: it is ignored, or the group is orphaned, so that nobody
/// would ever continue it (POSIX.1-2024, 2.4.3). The answer is whether a `SIGCONT` came, which is taken then; it can only be
/// told where `SIGCONT` is blocked.
///
/// A signal that is blocked, as those of a [`SignalQueue`](crate::SignalQueue) are, is let through for this moment.
///
/// # Errors
/// `EINVAL` for a number that is no signal.
pub fn stop_by(signal: i32, group: bool) -> io::Result<bool> {
    // SAFETY: the call has no arguments and cannot fail.
    let target = if group { 0 } else { unsafe { libc::getpid() } };
    send(target, signal)?;
    // The signal strikes in here.
    let before = change_mask(libc::SIG_UNBLOCK, signal)?;
    restore_mask(&before)?;
    take_pending(libc::SIGCONT)
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn take_pending(signal: i32) -> io::Result<bool> {
    let set = set_of(signal)?;
    let moment = libc::timespec { tv_sec: 0, tv_nsec: STOP_MOMENT_NS };
    loop {
        // SAFETY: set and time are initialized, and details of the signal are not asked for.
        let taken = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const moment) };
        // A stop interrupts the wait, see signal(7).
        if taken >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Ok(taken == signal);
        }
    }
}

/// Elsewhere there is no such call, and the signal stays in the queue.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn take_pending(_: i32) -> io::Result<bool> {
    Ok(true)
}

/// Whether a signal waits for this thread or process to let it through, as those of a [`SignalQueue`](crate::SignalQueue) do until
/// they are read (`sigpending(2)`).
#[must_use]
pub fn is_pending(signal: i32) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable memory; it is all zeros, no signal, if the call should fail.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: as above; a wrong number is an answer other than 1.
    unsafe { libc::sigismember(pending.as_ptr(), signal) == 1 }
}

/// A key of the terminal that reaches a child between `fork` and `exec` would stop or end our code in it, and nobody would know why
/// the program does not start. With this step it is dropped; the launcher, which has it as well, passes its own on once there is a
/// program. Add it before the signal mask is restored.
///
/// `spawn` fails with the error of `signal(2)`.
pub fn drop_keys(command: &mut Command) -> &mut Command {
    // SAFETY: the step makes system calls only and neither allocates nor locks; `last_os_error` reads `errno`.
    unsafe { command.pre_exec(drop_keys_until_exec) }
}

/// As [`drop_keys`], for a process that is about to execute by itself. What is ignored stays ignored.
///
/// A handler that does nothing leaves no gap: `execve(2)` itself gives what is caught its default disposition, and a key that comes
/// later is the program's.
///
/// # Errors
/// The error of `signal(2)`.
pub fn drop_keys_until_exec() -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    let nothing: extern "C" fn(i32) = nothing;
    for key in KEYS {
        // SAFETY: the handler does nothing at all.
        let before = unsafe { libc::signal(key, nothing as libc::sighandler_t) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        if before == libc::SIG_IGN {
            // SAFETY: to ignore a signal runs no code of ours.
            unsafe { libc::signal(key, libc::SIG_IGN) };
        }
    }
    Ok(())
}

/// What the terminal sends to a group.
const KEYS: [i32; 5] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Gives `signal` its default disposition in this process.
///
/// A caller that ignores `SIGCHLD` hands that on to us, and the kernel then reaps our children unseen.
///
/// # Errors
/// `EINVAL` for a number that is no signal or cannot be changed; see `signal(7)`.
pub fn reset_signal(signal: i32) -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    match unsafe { libc::signal(signal, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn send(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::kill(target, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Async-signal-safe: also for a child between `fork` and `exec`.
fn set_foreground(terminal: i32, group: i32) -> io::Result<()> {
    let before = change_mask(libc::SIG_BLOCK, libc::SIGTTOU)?;
    // SAFETY: no memory is passed; a descriptor that is no terminal is an error.
    let set = match unsafe { libc::tcsetpgrp(terminal, group) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    restore_mask(&before)?;
    set
}

/// Blocks or unblocks one signal for this thread, and returns the mask before.
fn change_mask(how: i32, signal: i32) -> io::Result<libc::sigset_t> {
    let set = set_of(signal)?;
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialized, and there is memory for the old mask.
    match unsafe { libc::pthread_sigmask(how, &raw const set, before.as_mut_ptr()) } {
        // SAFETY: it was zeroed, and then filled by the call above, which succeeded.
        0 => Ok(unsafe { before.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn set_of(signal: i32) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable memory, which this call initializes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized above; a wrong number is an error and changes nothing.
    match unsafe { libc::sigaddset(set.as_mut_ptr(), signal) } {
        // SAFETY: it was initialized above.
        0 => Ok(unsafe { set.assume_init() }),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn restore_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set was filled by the kernel, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::process::Stdio;

    use rustix::process::{Pid, WaitOptions, waitpid};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;
    use crate::SignalQueue;
    use crate::testing::{again, role};

    const FOREGROUND: &str = "jobs::tests::a_child_gets_the_terminal_and_we_take_it_back";
    const DROPS: &str = "jobs::tests::a_key_is_dropped_until_there_is_a_program";
    const STOPS: &str = "jobs::tests::a_process_stops_by_a_signal_that_it_blocks";

    fn pseudo_terminal() -> (File, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let mut options = OpenOptions::new();
        let terminal = rustix::fs::OFlags::NOCTTY.bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, i32::try_from(terminal).unwrap());
        (person.into(), options.read(true).write(true).open(name.to_str().unwrap()).unwrap())
    }

    /// This test again, as the leader of a session on a terminal of its own. Returns what it said, to its end.
    fn on_a_terminal(name: &str, role: &str) -> String {
        let (mut person, terminal) = pseudo_terminal();
        let mut command = again(name, role);
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal).stderr(Stdio::inherit());
        let mut child = terminal_session(&mut command).spawn().unwrap();
        drop(command);
        let mut said = Vec::new();
        let mut buffer = [0; 256];
        // EIO: the last process has closed the terminal.
        while let Ok(read @ 1..) = person.read(&mut buffer) {
            said.extend(&buffer[..read]);
        }
        assert!(child.wait().unwrap().success(), "{}", String::from_utf8_lossy(&said));
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn a_child_gets_the_terminal_and_we_take_it_back() {
        if role().is_none() {
            assert!(on_a_terminal(FOREGROUND, "session").contains("all is as it should be"));
            return;
        }
        let terminal = std::io::stdout();
        let ours = group_number();
        assert_eq!(foreground_group(&terminal).unwrap(), ours);
        for foreground in [true, false] {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::inherit());
            let mut child = own_group(&mut command, foreground).spawn().unwrap();
            let its = i32::try_from(child.id()).unwrap();
            assert_eq!(foreground_group(&terminal).unwrap(), if foreground { its } else { ours });
            // From the background, and nothing stops us.
            set_foreground_group(&terminal, ours).unwrap();
            assert_eq!(foreground_group(&terminal).unwrap(), ours);
            signal_group(its, libc::SIGTERM).unwrap();
            child.wait().unwrap();
        }
        std::io::stdout().write_all(b"all is as it should be\n").unwrap();
    }

    /// The stopping process is a child of the leader of a session, so its group is not orphaned; the leader's own is.
    #[test]
    fn a_process_stops_by_a_signal_that_it_blocks() {
        match role().as_deref() {
            None => {
                let said = on_a_terminal(STOPS, "leader");
                assert!(said.contains("went on 20"), "{said}");
            }
            Some("leader") => {
                assert!(!stop_by(libc::SIGTSTP, false).unwrap(), "nobody could continue us");
                // Inherited by every thread of the child: a test is not the only one in its process.
                let _blocked = SignalQueue::of(&[libc::SIGTSTP, libc::SIGTTOU, libc::SIGCONT]).unwrap();
                for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGSTOP] {
                    let mut command = again(STOPS, &signal.to_string());
                    let mut child = own_group(command.stdout(Stdio::inherit()), false).spawn().unwrap();
                    let pid = Pid::from_child(&child);
                    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
                    assert_eq!(status.stopping_signal(), Some(signal));
                    signal_group(pid.as_raw_nonzero().get(), libc::SIGCONT).unwrap();
                    assert!(child.wait().unwrap().success());
                }
            }
            Some(signal) => {
                let signal: i32 = signal.parse().unwrap();
                let queue = SignalQueue::of(&[libc::SIGTSTP, libc::SIGTTOU, libc::SIGCONT]).unwrap();
                assert!(stop_by(signal, true).unwrap());
                assert_eq!(queue.next().unwrap(), None, "it was taken, not left behind");
                println!("went on {signal}");
            }
        }
    }

    /// A key that came before the program is dropped, one that comes to the program is its own, and what was ignored stays so.
    #[test]
    fn a_key_is_dropped_until_there_is_a_program() {
        if let Some(key) = role() {
            let key: i32 = key.parse().unwrap();
            reset_signal(key).unwrap();
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGTTIN, libc::SIG_IGN) };
            // Blocked, as the launcher has it, and pending until the mask is restored.
            let queue = SignalQueue::of(&[key]).unwrap();
            // SAFETY: the call has no arguments and cannot fail.
            let pressed = move || send(unsafe { libc::getpid() }, key);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("kill -TTIN $$; echo alive; kill -{key} $$; echo dropped")]);
            // It stops, since we are in another group of its session.
            own_group(&mut command, false);
            // SAFETY: the step sends a signal, and neither allocates nor locks.
            unsafe { drop_keys(&mut command).pre_exec(pressed) };
            // SAFETY: as above; this one comes when nothing is blocked.
            unsafe { queue.restore_in(&mut command).pre_exec(pressed) };
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
            let stops = [libc::SIGTSTP, libc::SIGTTOU].contains(&key);
            let signal = if stops { status.stopping_signal() } else { status.terminating_signal() };
            assert_eq!(signal, Some(key));
            if stops {
                child.kill().unwrap();
            }
            let mut said = String::new();
            child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(said, "alive\n");
            let _ = child.wait();
            return;
        }
        for key in KEYS.into_iter().filter(|key| *key != libc::SIGTTIN) {
            assert!(again(DROPS, &key.to_string()).status().unwrap().success(), "{key}");
        }
    }

    #[test]
    fn only_a_group_can_be_meant() {
        for group in [-1, 0, 1] {
            assert!(group == 1 || signal_process(group, 0).is_err());
            assert_eq!(signal_group(group, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(stop_by(4096, false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(reset_signal(libc::SIGKILL).is_err());
        let file = tempfile::tempfile().unwrap();
        assert_eq!(foreground_group(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(set_foreground_group(&file, 2).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
