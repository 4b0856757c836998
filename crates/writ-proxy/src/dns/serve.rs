//! The resolver's sockets.
//!
//! One datagram or one message at a time, answered in memory. They are reached from inside of one session only, so what is limited
//! here is what that session can make the proxy hold.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{message::QUERY_MAX, respond};
use crate::session::Session;

/// Connections to the resolver that a session may have open; a further one waits.
const CONNECTIONS_MAX: usize = 32;
/// Longest that a connection may take to send a question, or to take its answer (RFC 7766 §6.2.3).
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Pause after a socket failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers datagrams until its task is aborted.
pub(crate) async fn udp(session: Arc<Session>, socket: UdpSocket) {
    // One byte more than may come, so that what was cut off is seen.
    let mut buffer = vec![0; QUERY_MAX + 1];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            // A peer that is gone is reported here; so is a lack of memory.
            sleep(PAUSE).await;
            continue;
        };
        let answer = buffer.get(..length).and_then(|message| respond(&session.names, message));
        if let Some(answer) = answer {
            // Lost is asked again, by a resolver.
            let _ = socket.try_send_to(&answer, peer);
        }
    }
}

/// Answers connections until its task is aborted, and they with it.
pub(crate) async fn tcp(session: Arc<Session>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let session = session.clone();
        open.spawn(async move {
            let _place = place;
            let _ = converse(&session, stream).await;
        });
    }
}

/// Messages with their length before them (RFC 1035 §4.2.2), one after another, as many as come.
async fn converse(session: &Session, mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let length = timeout(IDLE_MAX, stream.read_u16()).await??;
        if usize::from(length) > QUERY_MAX {
            return Ok(());
        }
        buffer.resize(usize::from(length), 0);
        timeout(IDLE_MAX, stream.read_exact(&mut buffer)).await??;
        let Some(answer) = respond(&session.names, &buffer) else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
}
