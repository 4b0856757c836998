//! Processes held by descriptor (`pidfd_open(2)`).
//!
//! A pid can be given out again the moment its process is reaped; a descriptor keeps meaning the process it was
//! opened for. Whoever watches or kills a process that is not its own child does it here.
//!
//! Only Linux has these descriptors. Elsewhere every function answers `Unsupported`.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Duration;

/// Opens a descriptor for a child of ours.
///
/// There is no race: a child's pid stays taken until we wait for it, which `child` has not done while its exit
/// status is unknown to it.
///
/// # Errors
/// `ESRCH` if the child was waited for already; otherwise the error of `pidfd_open(2)`.
pub fn pidfd_of_child(child: &Child) -> io::Result<OwnedFd> {
    system::open(child.id())
}

/// Opens a descriptor for our own process, to be passed to whoever watches us.
///
/// # Errors
/// The error of `pidfd_open(2)`.
pub fn own_pidfd() -> io::Result<OwnedFd> {
    system::open(std::process::id())
}

/// Waits until the process has exited, for at most `timeout`. Returns whether it has.
///
/// A process that has exited but was not yet waited for by its parent counts as exited. `Duration::ZERO` asks
/// without waiting.
///
/// # Errors
/// The error of `poll(2)`.
pub fn pidfd_exited(process: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    system::exited(process, timeout)
}

/// Sends `signal` (`libc::SIGTERM`, …) to the process.
///
/// # Errors
/// `InvalidInput` for a number that is no signal, `ESRCH` if the process has exited, `EPERM` if it is not ours to
/// signal; see `pidfd_send_signal(2)`.
pub fn pidfd_kill(process: &OwnedFd, signal: i32) -> io::Result<()> {
    system::kill(process, signal)
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    pub(super) fn open(number: u32) -> io::Result<OwnedFd> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    pub(super) fn exited(process: &OwnedFd, timeout: Duration) -> io::Result<bool> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut watched = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
            match poll(&mut watched, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) if watched.iter().any(|one| one.revents().contains(PollFlags::NVAL)) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn kill(process: &OwnedFd, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal);
        let signal = signal.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(pidfd_send_signal(process, signal)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    pub(super) fn open(_: u32) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn exited(_: &OwnedFd, _: Duration) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn kill(_: &OwnedFd, _: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_child_is_watched_and_killed_by_descriptor() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = pidfd_of_child(&child).unwrap();
        assert!(!pidfd_exited(&process, Duration::from_millis(1)).unwrap());
        pidfd_kill(&process, libc::SIGTERM).unwrap();
        assert!(pidfd_exited(&process, LONG).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));

        assert!(pidfd_exited(&process, Duration::ZERO).unwrap(), "still known after it was reaped");
        let error = pidfd_kill(&process, libc::SIGTERM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn we_have_not_exited() {
        assert!(!pidfd_exited(&own_pidfd().unwrap(), Duration::ZERO).unwrap());
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        let process = own_pidfd().unwrap();
        for number in [-1, 0, 99] {
            assert_eq!(pidfd_kill(&process, number).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
