//! `run.sock`: one connection is one session.
//!
//! The first message brings the session's doors beside it, and later ones may bring more. Who the peer is comes from the socket. From then on the connection is the session's life: its end, the launcher's exit (by pidfd, so that a launcher whose
//! socket leaked into a child still counts as gone), and a message that is none of ours each end the session.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, Interest, unix::AsyncFd},
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
    run::{FromBroker, FromLauncher, Open, REMAINS_MAX},
};
use writ_core::{DOORS_MAX, Door, Level, Refusal, RefusalKind, SessionId};
use writ_sys::{PeerCredentials, receive_with_fds};

use super::Beginning;
use crate::{
    broker::Broker,
    sessions::{self, Attached, Doors, End, Peer},
};

/// The longest that a launcher may take from the connection to its whole first message.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// The longest that a message to a launcher may take.
const SAY_MAX: Duration = Duration::from_secs(5);

/// Serves one launcher.
pub(super) async fn serve(broker: &Broker, stream: UnixStream, peer: PeerCredentials, begun: Beginning) {
    let attached = attach(broker, stream, peer).await;
    drop(begun);
    match attached {
        Ok(Some(launcher)) => converse(broker, launcher).await,
        Ok(None) => {}
        Err(fault) => tracing::debug!(%fault, "a launcher's first message could not be taken"),
    }
}

/// A launcher whose session is open.
struct Launcher {
    stream: UnixStream,
    /// The same socket, for what only the standard library's type can be asked for.
    raw: StdStream,
    process: OwnedFd,
    attached: Attached,
}

/// Takes the first message and opens the session, or says why not.
async fn attach(
    broker: &Broker,
    stream: UnixStream,
    peer: PeerCredentials,
) -> Result<Option<Launcher>, FrameFault> {
    let raw = stream.into_std()?;
    let process = writ_sys::peer_pidfd(&raw)?;
    let mut stream = UnixStream::from_std(raw.try_clone()?)?;
    let late = || FrameFault::Io(io::ErrorKind::TimedOut.into());
    let first = async {
        let (prefix, descriptors) = prefix(&stream, &raw).await?;
        Ok::<_, FrameFault>((frame_after(&mut stream, prefix).await?, descriptors))
    };
    let (first, descriptors) = timeout(OPEN_MAX, first).await.map_err(|_| late())??;
    let opened = match judge(first, descriptors) {
        Ok((ask, doors)) => {
            let pid = i32::try_from(peer.pid).unwrap_or_default();
            let peer = Peer { uid: peer.uid, gid: peer.gid, pid, process };
            let layer_is_free = async {
                if ask.level == Level::Confined {
                    broker.settling.settled().await;
                }
            };
            let (opened, ()) = tokio::join!(sessions::open(broker, &peer, &ask, doors), layer_is_free);
            opened.map(|opened| (opened, peer.process))
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
            said.map(|()| Some(Launcher { stream, raw, process, attached }))
        }
        Err(refusal) => {
            say(&mut stream, FromBroker::Refused(refusal)).await?;
            Ok(None)
        }
    }
}

/// The rest of the conversation: ends with the session, and the session with it.
async fn converse(broker: &Broker, launcher: Launcher) {
    let Launcher { stream, raw, process, mut attached } = launcher;
    let (reader, mut writer) = stream.into_split();
    let (session, doors) = (attached.session, std::mem::take(&mut attached.doors));
    let (end, remains) = tokio::select! {
        (end, remains) = listen(broker, session, doors, reader, &raw) => (Some(end), remains),
        () = exited(process) => (Some(End::LauncherExited), Vec::new()),
        end = pass_on(&mut writer, &mut attached) => (end, Vec::new()),
    };
    if !remains.is_empty() {
        broker.settling.begin(move || drop(remains));
        let _ = timeout(SAY_MAX, frame::send(&mut writer, &FromBroker::Taken)).await;
    }
    match end {
        Some(end) => {
            over(broker, session, end).await;
            // Whoever closed or left does not read it any more.
            if end == End::Doors {
                ended(&mut writer, end.to_string()).await;
            }
        }
        None => {
            let why = attached.over.borrow().clone().unwrap_or_default();
            ended(&mut writer, why).await;
        }
    }
}

async fn ended(writer: &mut OwnedWriteHalf, why: String) {
    let _ = timeout(SAY_MAX, frame::send(writer, &FromBroker::Ended { why })).await;
}

/// What the launcher says adds doors, or ends the session, which may leave something to be closed.
async fn listen(
    broker: &Broker,
    session: SessionId,
    mut doors: Doors,
    mut reader: OwnedReadHalf,
    raw: &StdStream,
) -> (End, Vec<OwnedFd>) {
    loop {
        let Ok((prefix, descriptors)) = prefix(reader.as_ref(), raw).await else {
            return (End::LauncherGone, Vec::new());
        };
        match frame_after(&mut reader, prefix).await {
            Ok(FromLauncher::Closed { status }) if descriptors.len() <= REMAINS_MAX => {
                return (End::Closed(status), descriptors);
            }
            Ok(FromLauncher::Doors { doors: kinds }) => {
                if let Err(refusal) = sessions::extend(broker, session, &mut doors, kinds, descriptors).await
                {
                    tracing::warn!(%session, %refusal, "a launcher's doors were not taken");
                    return (End::Doors, Vec::new());
                }
            }
            Ok(FromLauncher::Open(_) | FromLauncher::Closed { .. }) | Err(_) => {
                return (End::LauncherGone, descriptors);
            }
        }
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

async fn over(broker: &Broker, session: SessionId, end: End) {
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

/// The length of a message, as far as it came with its first byte, and the descriptors that came with that.
async fn prefix(stream: &UnixStream, raw: &StdStream) -> Result<(Prefix, Vec<OwnedFd>), FrameFault> {
    let mut bytes = [0; PREFIX];
    let receive = || receive_with_fds(raw, &mut bytes, DOORS_MAX);
    let (taken, descriptors) = stream.async_io(Interest::READABLE, receive).await?;
    if taken == 0 { Err(FrameFault::Closed) } else { Ok((Prefix { bytes, taken }, descriptors)) }
}

struct Prefix {
    bytes: [u8; PREFIX],
    taken: usize,
}

async fn frame_after(
    stream: &mut (impl AsyncRead + Unpin),
    mut prefix: Prefix,
) -> Result<FromLauncher, FrameFault> {
    if let Some(rest) = prefix.bytes.get_mut(prefix.taken..) {
        stream.read_exact(rest).await?;
    }
    frame::receive_body(stream, prefix.bytes).await
}

/// Whether the first message is one that opens a session. What its doors are is judged with the session.
fn judge(first: FromLauncher, descriptors: Vec<OwnedFd>) -> Result<(Open, Vec<(Door, OwnedFd)>), Refusal> {
    let invalid =
        |why: &str| Refusal::new(RefusalKind::Invalid, why, "use the `writ` that belongs to this daemon");
    let FromLauncher::Open(ask) = first else { return Err(invalid("the first message must open a session")) };
    if ask.version != VERSION {
        let why =
            format!("this daemon speaks version {VERSION} of the wire, the caller version {}", ask.version);
        return Err(Refusal::new(RefusalKind::Invalid, why, "run `writ stop`, then try again"));
    }
    if descriptors.len() != ask.doors.len() {
        return Err(invalid("not as many descriptors came as the message names doors"));
    }
    let doors = ask.doors.iter().cloned().zip(descriptors).collect();
    Ok((ask, doors))
}

#[cfg(test)]
mod tests {
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
}
