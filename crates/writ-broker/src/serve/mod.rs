//! The two sockets of the broker.
//!
//! ```text
//!   control.sock   the operator: commands, one frame each way        control.rs
//!   run.sock       launchers: one session per connection             run.rs
//! ```
//!
//! They are separate on purpose: whoever may open a session has no rights over sessions, credentials or policy. Both judge the
//! peer's user by the kernel's word before a byte is read. Absent: other users; a shared broker comes with `writ serve`.

mod control;
mod proof;
mod rate;
mod rows;
mod run;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};
use writ_sys::PeerCredentials;

use crate::{broker::Broker, sessions::SESSIONS_MAX};

/// Connections at once: operators' commands, and launchers, which stay as long as their sessions. Each socket has its own, so that
/// nobody who fills the one keeps an operator from the other.
const CONTROL_MAX: usize = 128;
const RUN_MAX: usize = SESSIONS_MAX + BEGINNING_MAX;
/// Connections on each socket that have not said yet what they want.
const BEGINNING_MAX: usize = 64;
/// After a failed `accept`, which may be for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Broker {
    /// Serves operators until the broker stops.
    pub async fn serve_control(self: &Arc<Self>, listener: UnixListener) {
        accept(self, listener, CONTROL_MAX, |broker, stream, peer, begun| async move {
            control::serve(&broker, stream, &peer, begun).await
        })
        .await;
    }

    /// Serves launchers until the broker stops.
    pub async fn serve_run(self: &Arc<Self>, listener: UnixListener) {
        accept(self, listener, RUN_MAX, |broker, stream, peer, begun| async move {
            run::serve(&broker, stream, peer, begun).await;
        })
        .await;
    }
}

/// Takes connections of our own user and hands each to a task.
async fn accept<F, Fut>(broker: &Arc<Broker>, listener: UnixListener, most: usize, serve: F)
where
    F: Fn(Arc<Broker>, UnixStream, PeerCredentials, Beginning) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let own = rustix::process::geteuid().as_raw();
    let limits = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(BEGINNING_MAX)));
    let mut stopping = broker.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (stream, peer) = match admit(stream, own) {
            Ok(admitted) => admitted,
            Err(fault) => {
                tracing::warn!(%fault, "a connection was closed");
                continue;
            }
        };
        let (all, begun) = (limits.0.clone().try_acquire_owned(), limits.1.clone().try_acquire_owned());
        let (Ok(place), Ok(begun)) = (all, begun) else {
            tracing::warn!("too many connections; one was closed");
            continue;
        };
        let served = Served::new(broker);
        let serving = serve(broker.clone(), stream, peer, Beginning(begun));
        tokio::spawn(async move {
            serving.await;
            drop((served, place));
        });
    }
}

/// The place of a connection that has not said yet what it wants. Dropped when it has.
pub(crate) struct Beginning(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

/// The peer of a connection, if it is ours: before anything is read.
fn admit(stream: UnixStream, own: u32) -> io::Result<(UnixStream, PeerCredentials)> {
    let stream = stream.into_std()?;
    let peer = writ_sys::peer_credentials(&stream)?;
    judge(&peer, own)?;
    Ok((UnixStream::from_std(stream)?, peer))
}

/// Only our own user, root not excepted.
fn judge(peer: &PeerCredentials, own: u32) -> io::Result<()> {
    if peer.uid == own {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the peer is user {}, not {own}", peer.uid)))
}

/// Counts a connection while it is served.
struct Served(watch::Sender<usize>);

impl Served {
    fn new(broker: &Broker) -> Self {
        broker.busy.send_modify(|count| *count = count.saturating_add(1));
        Self(broker.busy.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_user_is_served() {
        let peer = |uid| PeerCredentials { uid, gid: 1000, pid: 1 };
        assert!(judge(&peer(1000), 1000).is_ok());
        assert!(judge(&peer(1001), 1000).is_err());
        assert!(judge(&peer(0), 1000).is_err());
        assert!(judge(&peer(1000), 0).is_err());
    }
}
