//! `--publish`: a server of the agent's, shown to the host.
//!
//! ```text
//!   browser ──► 127.0.0.1:HOST_PORT   (the launcher listens)
//!                     │ a thread for each direction
//!                     └──► socket that was made in the agent's network ──► 127.0.0.1:INNER_PORT, else [::1]:INNER_PORT
//! ```
//!
//! It listens on the host's loopback only: who wants more has tools for that. The host dials in, never the agent out. Relays
//! end with their connections, and at the latest with the launcher's process, which ends with the run.
//!
//! Absent: UDP, and any look at what is relayed.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use crate::{Agent, agent::Family};

/// Connections that are relayed at the same time, over all published ports; each costs two threads. Those above it are
/// reset.
pub const RELAYS_MAX: usize = 128;
/// A relay copies through the kernel; this is its thread's whole stack.
const STACK_BYTES: usize = 128 * 1024;

/// A port of the host's loopback, and the agent's port behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    pub host: NonZeroU16,
    pub inner: NonZeroU16,
}

/// What was written is not `PORT` or `HOST_PORT:INNER_PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write PORT, or HOST_PORT:INNER_PORT, each from 1 to 65535")]
pub struct PublishFault;

impl FromStr for Publish {
    type Err = PublishFault;

    fn from_str(text: &str) -> Result<Self, PublishFault> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(PublishFault)
        };
        let (host, inner) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { host: port(host)?, inner: port(inner)? })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.inner)
    }
}

/// A published port. To be polled; when it is readable, [`serve`](Self::serve) takes what is there.
#[derive(Debug)]
pub struct Published {
    listener: TcpListener,
    inner: NonZeroU16,
    relays: Relays,
}

/// How many connections are relayed now: a count that all published ports of a run share.
#[derive(Clone, Debug, Default)]
pub struct Relays(Arc<AtomicUsize>);

/// One of at most [`RELAYS_MAX`] relays, until it is dropped.
struct Held(Relays);

impl Relays {
    fn hold(&self) -> Option<Held> {
        let more = |count| (count < RELAYS_MAX).then_some(count + 1);
        let counted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| Held(self.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Published {
    /// Listens on the host's loopback.
    ///
    /// # Errors
    /// `AddrInUse` where somebody else does.
    pub fn listen(publish: Publish, relays: &Relays) -> io::Result<Self> {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, publish.host.get()))?, publish.inner, relays)
    }

    fn on(listener: TcpListener, inner: NonZeroU16, relays: &Relays) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, inner, relays: relays.clone() })
    }

    /// Relays the connections that wait. A connection that cannot be relayed is reset, as if nobody listened.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub fn serve(&self, agent: &mut Agent) -> io::Result<()> {
        loop {
            let caller = match self.listener.accept() {
                Ok((caller, _)) => caller,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // One that went away again, or a limit of ours: neither is the listener's fault.
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let relayed = self.relays.hold().map(|held| self.relay(&caller, agent, held));
            if !matches!(relayed, Some(Ok(()))) {
                refuse(&caller);
            }
        }
    }

    fn relay(&self, caller: &TcpStream, agent: &mut Agent, held: Held) -> io::Result<()> {
        let sockets = [agent.dial(Family::V4)?, agent.dial(Family::V6)?];
        let caller = caller.try_clone()?;
        let port = self.inner.get();
        let relay = move || {
            match connect(sockets, port) {
                Ok(server) => copy_both_ways(&caller, &server),
                Err(_) => refuse(&caller),
            }
            drop(held);
        };
        thread::Builder::new().name("publish".into()).stack_size(STACK_BYTES).spawn(relay).map(drop)
    }
}

impl AsFd for Published {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Connects the first of the sockets that finds a server, IPv4 first.
fn connect([v4, v6]: [OwnedFd; 2], port: u16) -> io::Result<TcpStream> {
    match rustix::net::connect(&v4, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
        Ok(()) => Ok(v4.into()),
        Err(_) => {
            rustix::net::connect(&v6, &SocketAddr::from((Ipv6Addr::LOCALHOST, port)))?;
            Ok(v6.into())
        }
    }
}

/// Copies until both directions ended. The end of one is passed on as such: the other may still have much to say.
fn copy_both_ways(caller: &TcpStream, server: &TcpStream) {
    let _ = caller.set_nonblocking(false);
    for socket in [caller, server] {
        let _ = socket.set_nodelay(true);
    }
    thread::scope(|scope| {
        let answers = thread::Builder::new().name("publish".into()).stack_size(STACK_BYTES);
        if answers.spawn_scoped(scope, || copy(server, caller)).is_ok() {
            copy(caller, server);
        } else {
            refuse(caller);
        }
    });
}

/// Copies one direction to its end. A failure ends both.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write));
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Closing it now resets it.
fn refuse(caller: &TcpStream) {
    let _ = set_socket_linger(caller, Some(Duration::ZERO));
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::PERM,
    ];
    passing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::Command,
    };

    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    use writ_sys::SignalQueue;

    use super::*;
    use crate::{Plain, Terminal};

    /// Long, so that a relay that waits for the wrong end of it gets stuck.
    const LONG: usize = 4 << 20;

    /// On the host's own network: what is relayed does not depend on whose it is.
    fn agent() -> Agent {
        let signals = SignalQueue::of(&[]).unwrap();
        Agent::Plain(Plain::start(Command::new("true"), Terminal::CallersGroup, false, &signals).unwrap())
    }

    /// A published port with `inner` behind it, and a connection to it that waits to be served.
    fn called(inner: u16, relays: &Relays) -> (Published, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Published::on(listener, inner.try_into().unwrap(), relays).unwrap(), caller)
    }

    fn refused(caller: &mut TcpStream) -> bool {
        caller.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }

    #[test]
    fn a_port_or_two_are_written() {
        let cases = [
            ("3000", Some((3000, 3000))),
            ("8080:3000", Some((8080, 3000))),
            ("1:65535", Some((1, 65535))),
            ("0", None),
            ("0:3000", None),
            ("3000:0", None),
            ("65536", None),
            ("+3000", None),
            ("-1", None),
            ("", None),
            (":", None),
            ("3000:", None),
            (":3000", None),
            ("1:2:3", None),
            ("0.0.0.0:3000", None),
            ("http", None),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<Publish>().ok().map(|port| (port.host.get(), port.inner.get()));
            assert_eq!(parsed, expected, "{text:?}");
        }
    }

    #[test]
    fn each_direction_ends_by_itself() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(loopback).unwrap();
            let (published, mut caller) = called(server.local_addr().unwrap().port(), &Relays::default());
            published.serve(&mut agent()).unwrap();
            let serving = thread::spawn(move || {
                let (mut caller, _) = server.accept().unwrap();
                let mut question = Vec::new();
                caller.read_to_end(&mut question).unwrap();
                // The question is over, the answer only begins.
                question.reverse();
                caller.write_all(&question).unwrap();
            });
            let question: Vec<u8> = (0..LONG).map(|n| u8::try_from(n % 251).unwrap()).collect();
            caller.write_all(&question).unwrap();
            caller.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            caller.read_to_end(&mut answer).unwrap();
            answer.reverse();
            assert!(answer == question, "{loopback}");
            serving.join().unwrap();
        }
    }

    #[test]
    fn where_nobody_listens_the_caller_is_reset() {
        // Bound and not listening, so that the port is nobody else's.
        let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&taken, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap().port();
        let (published, mut caller) = called(port, &Relays::default());
        published.serve(&mut agent()).unwrap();
        assert!(refused(&mut caller));
    }

    #[test]
    fn relays_are_bounded_over_all_ports_and_come_free_again() {
        let relays = Relays::default();
        let mut held: Vec<Held> = (0..RELAYS_MAX).map(|_| relays.hold().unwrap()).collect();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();

        let (published, mut caller) = called(port, &relays);
        published.serve(&mut agent()).unwrap();
        assert!(refused(&mut caller), "one more than there may be");

        held.pop();
        let (published, mut caller) = called(port, &relays);
        published.serve(&mut agent()).unwrap();
        let (mut served, _) = server.accept().unwrap();
        served.write_all(b"x").unwrap();
        assert_eq!(caller.read(&mut [0; 2]).unwrap(), 1);
    }
}
