//! Who is at the other end of a Unix socket, as the kernel recorded it when the connection was made.
//!
//! This is the evidence on which an agent's identity rests, so it comes from the kernel alone and never from a
//! message. Credentials are those of the moment of `connect` (or `socketpair`, or `listen` for the side that
//! connected): they do not follow a process that changes its user later, nor a descriptor that is passed on.
//!
//! `rustix::net::sockopt::socket_peercred` is not used: its pid is a non-zero type, and the kernel reports pid 0 for
//! a peer outside our PID namespace.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The peer's user, group and process, all as seen from our own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id. It names a process only as long as that process lives: watch the process by [`peer_pidfd`].
    pub pid: u32,
}

/// Returns the credentials of the process that connected the other end of `socket`.
///
/// Linux: `SO_PEERCRED`, see `unix(7)`. Elsewhere: not supported.
///
/// # Errors
/// `NotFound` if the peer is outside our PID namespace, `Unsupported` on other systems; otherwise the error of
/// `getsockopt(2)`.
pub fn peer_credentials(socket: &UnixStream) -> io::Result<PeerCredentials> {
    system::peer_credentials(socket)
}

/// Returns a descriptor for the process that connected the other end of `socket`.
///
/// Linux 6.5 and later: `SO_PEERPIDFD`, which holds the very process that connected. Before that, `pidfd_open(2)`
/// on the pid of [`peer_credentials`], and then a check that the other end is still open: a peer that was gone
/// before its pid was opened has closed it. What remains on those kernels: a peer that exits while another process
/// keeps its end open, and whose pid is given out again at that moment.
///
/// # Errors
/// An error if the peer has been reaped already (`EINVAL` or `ESRCH`; the newest kernels give a descriptor that says
/// `exited` instead), `NotFound` if it is outside our PID namespace, `ConnectionReset` if it hung up, `Unsupported` on other systems; otherwise the error of the
/// system call.
pub fn peer_pidfd(socket: &UnixStream) -> io::Result<OwnedFd> {
    system::peer_pidfd(socket)
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::PeerCredentials;

    pub(super) fn peer_credentials(socket: &UnixStream) -> io::Result<PeerCredentials> {
        visible(socket_option(socket, libc::SO_PEERCRED)?)
    }

    /// A peer without a number in our PID namespace cannot be watched, so it is nobody.
    pub(super) fn visible(raw: libc::ucred) -> io::Result<PeerCredentials> {
        let pid = u32::try_from(raw.pid).unwrap_or(0);
        if pid == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the peer is outside our PID namespace"));
        }
        Ok(PeerCredentials { uid: raw.uid, gid: raw.gid, pid })
    }

    pub(super) fn peer_pidfd(socket: &UnixStream) -> io::Result<OwnedFd> {
        match socket_option::<libc::c_int>(socket, libc::SO_PEERPIDFD) {
            // SAFETY: the kernel has just made this descriptor for us, so it is open and nobody else owns it.
            Ok(descriptor) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => pidfd_by_number(socket),
            Err(error) => Err(error),
        }
    }

    /// The way of kernels before 6.5; see [`super::peer_pidfd`] for what it cannot exclude.
    pub(super) fn pidfd_by_number(socket: &UnixStream) -> io::Result<OwnedFd> {
        let number = peer_credentials(socket)?.pid;
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let mut ends = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
        poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        if ends.iter().any(|end| end.revents().intersects(gone)) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(process)
    }

    /// Reads one option of level `SOL_SOCKET`.
    ///
    /// `T` is `ucred` or `c_int`, for which every bit pattern is a value. The kernel must fill it completely.
    fn socket_option<T: Copy>(socket: &UnixStream, name: libc::c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let size = size_of::<T>();
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for the length of the call; `value` is writable for `length` bytes, and
        // `length` is a valid place for the kernel to write how much it used.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                value.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        if usize::try_from(length) != Ok(size) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: the value was zeroed and then filled, and all bit patterns are valid for the two types in use.
        Ok(unsafe { value.assume_init() })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::PeerCredentials;

    pub(super) fn peer_credentials(_: &UnixStream) -> io::Result<PeerCredentials> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn peer_pidfd(_: &UnixStream) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::pidfd::pidfd_exited;
    use crate::testing::{again, role};

    const CONNECTS: &str = "peer::tests::a_peer_is_the_process_that_connected";
    const LEAVES: &str = "peer::tests::a_peer_that_left_is_not_found_by_number";
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_pair_is_our_own() {
        let (here, _there) = UnixStream::pair().unwrap();
        let expected = PeerCredentials {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: std::process::id(),
        };
        assert_eq!(peer_credentials(&here).unwrap(), expected);
    }

    #[test]
    fn a_peer_outside_our_pid_namespace_is_nobody() {
        let raw = |pid| libc::ucred { pid, uid: 1, gid: 2 };
        assert_eq!(system::visible(raw(3)).unwrap(), PeerCredentials { uid: 1, gid: 2, pid: 3 });
        assert_eq!(system::visible(raw(0)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_peer_is_the_process_that_connected() {
        if let Some(path) = role() {
            let mut stream = UnixStream::connect(path).unwrap();
            let _ = stream.read(&mut [0]);
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = again(CONNECTS, path.to_str().unwrap()).spawn().unwrap();
        let (stream, _) = listener.accept().unwrap();

        assert_eq!(peer_credentials(&stream).unwrap().pid, child.id());
        let held = [peer_pidfd(&stream).unwrap(), system::pidfd_by_number(&stream).unwrap()];
        for process in &held {
            assert!(!pidfd_exited(process, Duration::ZERO).unwrap());
        }
        child.kill().unwrap();
        for process in &held {
            assert!(pidfd_exited(process, LONG).unwrap());
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_peer_that_left_is_not_found_by_number() {
        if let Some(path) = role() {
            let _stream = UnixStream::connect(path).unwrap();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = again(LEAVES, path.to_str().unwrap()).spawn().unwrap();
        let (stream, _) = listener.accept().unwrap();
        // Waiting for the end by descriptor leaves the pid taken, so that only the closed socket can tell.
        assert!(pidfd_exited(&crate::pidfd_of_child(&child).unwrap(), LONG).unwrap());
        let error = system::pidfd_by_number(&stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        child.wait().unwrap();
        assert!(system::pidfd_by_number(&stream).is_err());
    }
}
