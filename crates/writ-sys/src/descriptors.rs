//! File descriptors passed over a Unix stream socket (`SCM_RIGHTS`, `unix(7)`).
//!
//! The launcher passes its listening sockets to the daemon this way. Descriptors travel with the first byte of a
//! message, arrive close-on-exec, and are either all received or all closed: a peer that sends more than was agreed
//! cannot leave open descriptors behind in the receiver.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that Linux passes in one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// Sends `bytes` and, with their first byte, `descriptors`. Returns how many bytes were taken.
///
/// As with `write`, fewer bytes than offered may be taken; the descriptors have been sent then, so send the rest
/// without them. The descriptors stay open here. A closed peer is an error, never a `SIGPIPE`.
///
/// # Errors
/// `InvalidInput` for more than [`DESCRIPTORS_MAX`] descriptors, or for descriptors without a byte to carry them;
/// otherwise the error of `sendmsg(2)`.
pub fn send_with_fds(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX || (bytes.is_empty() && !descriptors.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SEND) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives bytes into `buffer`, and at most `max` descriptors. Returns how many bytes came, and the descriptors.
///
/// Zero bytes mean that the peer closed its end. The descriptors are close-on-exec from the start.
///
/// # Errors
/// `InvalidData` if more than `max` descriptors came or some were lost (`MSG_CTRUNC`, also when our own
/// limit of open files is reached): all of them are closed then. `InvalidInput` for an empty `buffer` or a `max`
/// over [`DESCRIPTORS_MAX`]; otherwise the error of `recvmsg(2)`.
pub fn receive_with_fds(
    socket: &UnixStream,
    buffer: &mut [u8],
    max: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    if buffer.is_empty() || max > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(max))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RECEIVE) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut received = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = item {
            received.extend(descriptors);
        }
    }
    // The space is rounded up, so one descriptor more than asked for can arrive without being cut off.
    if message.flags.contains(ReturnFlags::CTRUNC) || received.len() > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more file descriptors than agreed"));
    }
    Ok((message.bytes, received))
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
/// Elsewhere the standard library has set the socket or the process not to get the signal.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const SEND: SendFlags = SendFlags::empty();

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// Elsewhere a descriptor is inherited by a child that is started between arrival and the caller's own flag.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const RECEIVE: RecvFlags = RecvFlags::empty();

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;
    use crate::testing::{again, role};

    const NO_ROOM: &str = "descriptors::tests::descriptors_that_find_no_room_are_an_error";
    const LONG: Duration = Duration::from_secs(20);

    /// Sends `sent` ends of a socket pair, closes them here, and receives with a limit of `max`. The read half that
    /// stays tells whether every passed end is closed in the end.
    fn pass(sent: usize, max: usize) -> (io::Result<(usize, Vec<OwnedFd>)>, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let (witness, passed) = UnixStream::pair().unwrap();
        let copies: Vec<UnixStream> = (0..sent).map(|_| passed.try_clone().unwrap()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        assert_eq!(send_with_fds(&here, b"hello", &borrowed).unwrap(), 5);
        let mut buffer = [0; 16];
        let result = receive_with_fds(&there, &mut buffer, max);
        if result.is_ok() {
            assert_eq!(&buffer[..5], b"hello");
        }
        (result, witness)
    }

    #[test]
    fn the_same_open_file_arrives_and_is_close_on_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"contents").unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        send_with_fds(&here, b"x", &[file.as_fd()]).unwrap();
        let (_, mut received) = receive_with_fds(&there, &mut [0; 4], 1).unwrap();
        let received = received.pop().unwrap();
        assert!(fcntl_getfd(&received).unwrap().contains(FdFlags::CLOEXEC));
        let mut rest = String::new();
        File::from(received).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "tents");
    }

    #[test]
    fn counts_within_the_limit_arrive() {
        for (sent, max) in [(0, 0), (0, 4), (1, 1), (2, 2), (3, 8), (DESCRIPTORS_MAX, DESCRIPTORS_MAX)] {
            let (result, _witness) = pass(sent, max);
            let (bytes, received) = result.unwrap();
            assert_eq!((bytes, received.len()), (5, sent), "sent {sent}, max {max}");
        }
    }

    #[test]
    fn counts_over_the_limit_are_refused_and_closed() {
        for (sent, max) in [(1, 0), (2, 1), (3, 1), (3, 2), (9, 4), (DESCRIPTORS_MAX, 1)] {
            let (result, mut witness) = pass(sent, max);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData, "sent {sent}, max {max}");
            // The other tests start processes, which hold a copy of everything until they execute: so it waits.
            witness.set_read_timeout(Some(LONG)).unwrap();
            assert_eq!(witness.read(&mut [0]).unwrap(), 0, "one of {sent} stayed open, max {max}");
        }
    }

    #[test]
    fn descriptors_that_find_no_room_are_an_error() {
        if role().is_none() {
            assert!(again(NO_ROOM, "receive").status().unwrap().success());
            return;
        }
        let (here, there) = UnixStream::pair().unwrap();
        send_with_fds(&here, b"x", &[here.as_fd(), here.as_fd(), here.as_fd()]).unwrap();
        let lowest_free = || here.try_clone().unwrap().as_raw_fd();
        let before = lowest_free();
        let room_for_one = Rlimit {
            current: Some(u64::try_from(before).unwrap() + 1),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        setrlimit(Resource::Nofile, room_for_one).unwrap();
        let result = receive_with_fds(&there, &mut [0; 4], 4);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(lowest_free(), before, "the one that found room is closed");
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let kind = |result: io::Result<usize>| result.unwrap_err().kind();
        assert_eq!(kind(send_with_fds(&here, b"", &[here.as_fd()])), io::ErrorKind::InvalidInput);
        let many = vec![here.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(kind(send_with_fds(&here, b"x", &many)), io::ErrorKind::InvalidInput);
        assert!(receive_with_fds(&there, &mut [], 1).is_err());
        assert!(receive_with_fds(&there, &mut [0], DESCRIPTORS_MAX + 1).is_err());
    }

    #[test]
    fn a_closed_peer_is_an_end_or_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        let (bytes, received) = receive_with_fds(&here, &mut [0; 4], 1).unwrap();
        assert_eq!((bytes, received.len()), (0, 0));
        let error = send_with_fds(&here, b"x", &[here.as_fd()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
