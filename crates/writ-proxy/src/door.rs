//! A session's doors, each with its acceptor.
//!
//! All of them are checked before the first is opened, and all of them close with the session. An acceptor takes one connection at a
//! time and waits for room before it hands it on, so what a session can make the proxy hold is bounded however many doors it
//! has. Absent: making sockets, which is the launcher's, inside of the session's own namespace.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{runtime::Handle, task::AbortHandle, time::sleep};
use writ_core::{Authority, CAPTURED_PORTS, DOORS_MAX, Door, OpenFault};

use crate::{
    dns,
    proxy::Plane,
    session::Session,
    tunnel::{self, Arrival, Open},
};

/// Pause of an acceptor when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a connection came in, and so how it is to be read.
pub(crate) enum Entry {
    Proxy,
    Captured(u16),
    Named(Authority),
    Local(u16),
}

/// Opens doors to a session. None is open if this fails.
pub(crate) fn open(
    plane: &Arc<Plane>,
    session: &Arc<Session>,
    control: &Handle,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<(), OpenFault> {
    doors.iter().try_for_each(|(door, _)| check(session, door))?;
    let mut tasks = session.doors();
    if tasks.len() + doors.len() > DOORS_MAX {
        return Err(OpenFault(format!("a session has {DOORS_MAX} doors at most")));
    }
    let _inside = control.enter();
    let mut opened = Vec::with_capacity(doors.len());
    for (door, socket) in doors {
        match serve(plane, session, door, socket) {
            Ok(task) => opened.push(task),
            Err(fault) => {
                opened.iter().for_each(AbortHandle::abort);
                return Err(OpenFault(format!("one of its doors cannot be used: {fault}")));
            }
        }
    }
    // Whoever ends the session either sees these, or was seen here.
    if session.is_over() {
        opened.iter().for_each(AbortHandle::abort);
        return Err(OpenFault("it is over".to_owned()));
    }
    tasks.extend(opened);
    Ok(())
}

/// Whether the session may have such a door.
fn check(session: &Session, door: &Door) -> Result<(), OpenFault> {
    let fault = |what: String| Err(OpenFault(what));
    if *door != Door::Proxy && session.asks_password() && !leads_to_login(session, door) {
        return fault("a door without a password must be in a network namespace of the session's own".into());
    }
    match door {
        Door::Capture { port } if !CAPTURED_PORTS.contains(port) => {
            fault(format!("port {port} is not captured"))
        }
        Door::Local { port } if !session.local.contains(port) => {
            fault(format!("port {port} of the host's loopback is not allowed"))
        }
        Door::Named { authority } if session.routes(authority).is_none() => {
            fault(format!("{authority} is no target of it"))
        }
        _ => Ok(()),
    }
}

/// Whether the door leads to a server whose login the program holds, and nowhere else: what comes through needs that login.
fn leads_to_login(session: &Session, door: &Door) -> bool {
    let Door::Named { authority } = door else { return false };
    session.routes(authority).is_some_and(|routes| routes.iter().all(|route| route.plan.reveals()))
}

fn serve(plane: &Arc<Plane>, session: &Arc<Session>, door: Door, socket: OwnedFd) -> io::Result<AbortHandle> {
    let entry = match door {
        Door::Proxy => Entry::Proxy,
        Door::Capture { port } => Entry::Captured(port),
        Door::Named { authority } => Entry::Named(authority),
        Door::Local { port } => Entry::Local(port),
        Door::DnsUdp => {
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            return Ok(tokio::spawn(dns::udp(session.clone(), socket)).abort_handle());
        }
        Door::DnsTcp => {
            let listener = listener(socket)?;
            return Ok(tokio::spawn(dns::tcp(session.clone(), listener)).abort_handle());
        }
    };
    let task = accept(plane.clone(), session.clone(), Arc::new(entry), listener(socket)?);
    Ok(tokio::spawn(task).abort_handle())
}

fn listener(socket: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Accepts connections and hands them to the workers in turn.
async fn accept(
    plane: Arc<Plane>,
    session: Arc<Session>,
    entry: Arc<Entry>,
    listener: tokio::net::TcpListener,
) {
    loop {
        // It leaves this thread's runtime for its worker's.
        let Ok(stream) = listener.accept().await.and_then(|(stream, _)| stream.into_std()) else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(room) = session.connections.clone().acquire_owned().await else { return };
        let Ok(unread) = session.unread.clone().acquire_owned().await else { return };
        let number = plane.connections.fetch_add(1, Ordering::Relaxed);
        let worker = usize::try_from(number).unwrap_or(0) % plane.workers.len().max(1);
        let Some(runtime) = plane.workers.get(worker) else { return };
        let open = Arc::new(Open::default());
        let arrival = Arrival {
            plane: plane.clone(),
            session: session.clone(),
            entry: entry.clone(),
            worker,
            number,
            open: open.clone(),
            stream,
            room,
            unread,
        };
        let task = runtime.spawn(tunnel::run(arrival)).abort_handle();
        if !session.enter(number, task.clone(), open) {
            task.abort();
        }
    }
}
