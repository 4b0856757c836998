//! Messages between the stages: a pair of sockets that keep messages apart (`SOCK_SEQPACKET`), JSON in each, descriptors beside it.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use writ_core::{DOORS_MAX, Door};

use crate::{Captured, Delivered, Event, NetworkPlan, RawPath, StepFault};

/// The longest message in bytes. The longest one lists a session's doors.
const MESSAGE_MAX: usize = 64 * 1024;

/// H to S.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(crate) enum Order {
    Prepare {
        plan: NetworkPlan,
    },
    Bind {
        doors: Vec<(Door, SocketAddr)>,
    },
    /// With the socket to init, the view and the process, in this order.
    Start,
    Dial {
        v6: bool,
    },
    /// Replaces files that were delivered with the view.
    Deliver {
        files: Vec<Delivered>,
    },
}

/// S to H. After a fault it is gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// With a descriptor for each.
    Doors {
        doors: Vec<Door>,
        captured: Captured,
    },
    /// Init runs. With its pidfd, and with what remains of the view when it is gone.
    Running {
        notes: Vec<String>,
        cgroup: Option<RawPath>,
    },
    /// With one socket.
    Dialler,
    Delivered,
    Refused {
        errno: i32,
    },
    Fault {
        fault: StepFault,
    },
}

/// H to I.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(crate) enum InitOrder {
    /// The answer to `Ready`, which is passed on.
    Go {
        go: Go,
    },
    Signal {
        number: i32,
    },
    /// `SIGTSTP`, unless the agent has been stopped since it was executed.
    Stop,
    /// With the terminal that the agent's group is to have, if it is to have it.
    Resume,
}

/// I to H.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(crate) enum Report {
    /// What remains is to execute the agent.
    Ready,
    Event {
        event: Event,
    },
    Note {
        note: String,
    },
    Fault {
        fault: StepFault,
    },
}

/// To whoever becomes the agent's program, when all else is ready.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    /// Its group gets the terminal.
    pub(crate) foreground: bool,
}

/// A to I. The end of the connection after `Ready`, which is answered with [`Go`], means that the program runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(crate) enum AgentReport {
    Ready,
    Fault { fault: StepFault },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(UnixStream);

impl Channel {
    /// An end for us, and one to be passed on.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours.into()), theirs))
    }

    pub(crate) fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }

    /// How long [`receive`](Self::receive) waits; for ever without it.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(patience)
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.0.set_nonblocking(true)
    }

    pub(crate) fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        writ_sys::send_with_fds(&self.0, &bytes, descriptors).map(|_| ())
    }

    /// The next message; `None` when the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let (length, descriptors) = match writ_sys::receive_with_fds(&self.0, &mut bytes, DOORS_MAX) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            other => other?,
        };
        if length == 0 {
            return Ok(None);
        }
        bytes.truncate(length);
        Ok(Some((serde_json::from_slice(&bytes)?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_apart_and_an_end_is_seen() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::of(theirs);
        for number in [9, 15] {
            ours.send(&InitOrder::Signal { number }, &[]).unwrap();
        }
        ours.send(&InitOrder::Go { go: Go { foreground: true } }, &[]).unwrap();
        ours.send(&InitOrder::Stop, &[]).unwrap();
        ours.send(&InitOrder::Resume, &[ours.as_fd()]).unwrap();
        drop(ours);
        let mut numbers = Vec::new();
        while let Some((order, descriptors)) = theirs.receive::<InitOrder>().unwrap() {
            match order {
                InitOrder::Signal { number } => numbers.push(number),
                InitOrder::Go { go } => assert!(go.foreground),
                InitOrder::Stop => assert!(descriptors.is_empty()),
                InitOrder::Resume => assert_eq!(descriptors.len(), 1),
            }
        }
        assert_eq!(numbers, [9, 15]);
        assert!(theirs.send(&Report::Note { note: String::new() }, &[]).is_err(), "no SIGPIPE");
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let (ours, _theirs) = Channel::pair().unwrap();
        assert!(ours.send(&Report::Note { note: "x".repeat(MESSAGE_MAX) }, &[]).is_err());
    }
}
