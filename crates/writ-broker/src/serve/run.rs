//! `run.sock`: one connection is one session.
//!
//! The first message brings the listener of the session beside it, exactly one descriptor. Who the peer is comes from the
//! socket. From then on the connection is the session's life: its end, the launcher's exit (by pidfd, so that a launcher whose
//! socket leaked into a child still counts as gone), and a message that is none of ours each end the session.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, getsockname, ipproto, sockopt};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};
use writ_api::{
    VERSION,
    frame::{self, FrameFault, PREFIX},
    run::{FromBroker, FromLauncher, Open},
};
use writ_core::{DOORS_MAX, Door, Refusal, RefusalKind};
use writ_sys::{PeerCredentials, receive_with_fds};

use crate::{
    broker::Broker,
    sessions::{self, Attached, End, Peer},
};

/// The longest that a launcher may take from the connection to its whole first message.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// The longest that a message to a launcher may take.
const SAY_MAX: Duration = Duration::from_secs(5);

/// Serves one launcher.
pub(super) async fn serve(broker: &Broker, stream: UnixStream, peer: PeerCredentials) {
    match attach(broker, stream, peer).await {
        Ok(Some((stream, process, attached))) => converse(broker, stream, process, attached).await,
        Ok(None) => {}
        Err(fault) => tracing::debug!(%fault, "a launcher's first message could not be taken"),
    }
}

/// Takes the first message and opens the session, or says why not.
async fn attach(
    broker: &Broker,
    stream: UnixStream,
    peer: PeerCredentials,
) -> Result<Option<(UnixStream, OwnedFd, Attached)>, FrameFault> {
    let stream = stream.into_std()?;
    let process = writ_sys::peer_pidfd(&stream)?;
    let late = || FrameFault::Io(io::ErrorKind::TimedOut.into());
    let (mut stream, first, descriptors) = timeout(OPEN_MAX, first(stream)).await.map_err(|_| late())??;
    let opened = match judge(first, descriptors) {
        Ok((ask, doors)) => {
            let pid = i32::try_from(peer.pid).unwrap_or_default();
            let peer = Peer { uid: peer.uid, gid: peer.gid, pid, process };
            sessions::open(broker, &peer, &ask, doors).await.map(|opened| (opened, peer.process))
        }
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok(((opened, attached), process)) => {
            let session = attached.session;
            let said = say(&mut stream, FromBroker::Opened(opened)).await;
            if said.is_err() {
                over(broker, session, End::LauncherGone).await;
            }
            said.map(|()| Some((stream, process, attached)))
        }
        Err(refusal) => {
            say(&mut stream, FromBroker::Refused(refusal)).await?;
            Ok(None)
        }
    }
}

/// The rest of the conversation: ends with the session, and the session with it.
async fn converse(broker: &Broker, stream: UnixStream, process: OwnedFd, mut attached: Attached) {
    let (reader, mut writer) = stream.into_split();
    let session = attached.session;
    let end = tokio::select! {
        end = listen(reader) => Some(end),
        () = exited(process) => Some(End::LauncherExited),
        end = pass_on(&mut writer, &mut attached) => end,
    };
    match end {
        Some(end) => over(broker, session, end).await,
        None => {
            let why = attached.over.borrow().clone().unwrap_or_default();
            let _ = timeout(SAY_MAX, frame::send(&mut writer, &FromBroker::Ended { why })).await;
        }
    }
}

/// What the launcher says ends the session in any case.
async fn listen(mut reader: OwnedReadHalf) -> End {
    match frame::receive::<FromLauncher>(&mut reader).await {
        Ok(FromLauncher::Closed { status }) => End::Closed(status),
        Ok(FromLauncher::Open(_) | FromLauncher::Doors { .. }) | Err(_) => End::LauncherGone,
    }
}

/// Waits for the launcher's process to be gone.
async fn exited(process: OwnedFd) {
    #[expect(deprecated, reason = "sound for an OwnedFd, which stays open while it is registered")]
    let registered = AsyncFd::with_interest(process, Interest::READABLE);
    match registered {
        Ok(process) => drop(process.readable().await),
        // Its socket tells as well, only later.
        Err(_) => std::future::pending().await,
    }
}

/// Passes lines on to the launcher until the session is over (`None`) or the launcher does not take them.
async fn pass_on(writer: &mut OwnedWriteHalf, attached: &mut Attached) -> Option<End> {
    loop {
        let line = tokio::select! {
            biased;
            () = is_over(&mut attached.over) => return None,
            line = attached.lines.recv() => line,
        };
        let line = line?;
        if !matches!(timeout(SAY_MAX, frame::send(writer, &line)).await, Ok(Ok(()))) {
            return Some(End::LauncherGone);
        }
    }
}

async fn is_over(over: &mut watch::Receiver<Option<String>>) {
    let _ = over.wait_for(Option::is_some).await;
}

async fn over(broker: &Broker, session: writ_core::SessionId, end: End) {
    if let Err(fault) = sessions::end(broker, session, end).await {
        tracing::error!(%fault, "the end of a session is not durable yet");
    }
}

async fn say(stream: &mut UnixStream, message: FromBroker) -> Result<(), FrameFault> {
    match timeout(SAY_MAX, frame::send(stream, &message)).await {
        Ok(said) => said,
        Err(_) => Err(FrameFault::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// The first message, and the descriptors that came with its first byte.
async fn first(stream: StdStream) -> Result<(UnixStream, FromLauncher, Vec<OwnedFd>), FrameFault> {
    let raw = stream.try_clone()?;
    let mut stream = UnixStream::from_std(stream)?;
    let mut prefix = [0; PREFIX];
    let (taken, descriptors) =
        stream.async_io(Interest::READABLE, || receive_with_fds(&raw, &mut prefix, DOORS_MAX)).await?;
    if taken == 0 {
        return Err(FrameFault::Closed);
    }
    if let Some(rest) = prefix.get_mut(taken..) {
        stream.read_exact(rest).await?;
    }
    let message = frame::receive_body(&mut stream, prefix).await?;
    Ok((stream, message, descriptors))
}

/// Whether the first message is one that opens a session.
fn judge(first: FromLauncher, descriptors: Vec<OwnedFd>) -> Result<(Open, Vec<(Door, OwnedFd)>), Refusal> {
    let invalid =
        |why: &str| Refusal::new(RefusalKind::Invalid, why, "use the `writ` that belongs to this daemon");
    let FromLauncher::Open(ask) = first else { return Err(invalid("the first message must open a session")) };
    if ask.version != VERSION {
        let why =
            format!("this daemon speaks version {VERSION} of the wire, the caller version {}", ask.version);
        return Err(Refusal::new(RefusalKind::Invalid, why, "run `writ stop`, then try again"));
    }
    if ask.doors != [Door::Proxy] || descriptors.len() != ask.doors.len() {
        return Err(invalid("exactly one door must come with the first message"));
    }
    if !descriptors.iter().all(is_loopback_listener) {
        return Err(invalid("the descriptor is not a listening TCP socket on loopback"));
    }
    let doors = ask.doors.iter().cloned().zip(descriptors).collect();
    Ok((ask, doors))
}

/// Whether it listens, by TCP, on a loopback address, by the kernel's word.
fn is_loopback_listener(listener: impl AsFd) -> bool {
    let listener = listener.as_fd();
    let tcp = matches!(sockopt::socket_domain(listener), Ok(AddressFamily::INET | AddressFamily::INET6))
        && sockopt::socket_type(listener) == Ok(SocketType::STREAM)
        && sockopt::socket_protocol(listener) == Ok(Some(ipproto::TCP))
        && sockopt::socket_acceptconn(listener) == Ok(true);
    let address = getsockname(listener).ok().and_then(|address| SocketAddr::try_from(address).ok());
    tcp && address.is_some_and(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[tokio::test]
    async fn the_exit_of_a_process_is_noticed() {
        use std::process::{Command, Stdio};

        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = writ_sys::pidfd_of_child(&child).unwrap();
        let mut exit = Box::pin(exited(process));
        tokio::select! {
            biased;
            () = &mut exit => panic!("it is alive"),
            () = tokio::task::yield_now() => {}
        }
        drop(child.stdin.take());
        exit.await;
        child.wait().unwrap();
    }

    #[test]
    fn only_a_listening_tcp_socket_on_loopback_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_loopback_listener(&listener));
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_loopback_listener(&connected));
        assert!(!is_loopback_listener(TcpListener::bind("0.0.0.0:0").unwrap()));
        assert!(!is_loopback_listener(UdpSocket::bind("127.0.0.1:0").unwrap()));
        assert!(!is_loopback_listener(StdStream::pair().unwrap().0));
        assert!(!is_loopback_listener(std::fs::File::open("/dev/null").unwrap()));
    }
}
