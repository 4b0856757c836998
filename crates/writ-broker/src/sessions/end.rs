//! The end of a session, whatever ended it: its leases go with it.

use std::fmt;

use writ_audit::Outcome;
use writ_core::{LeaseEnd, LeaseId, Notice, SessionId, fault_point};

use crate::{
    broker::Broker,
    leases::{self, Which},
    records,
    store::{Change, StoreFault},
};

/// What ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The program ended with this status.
    Closed(i32),
    /// The launcher closed its socket, or broke the conversation.
    LauncherGone,
    /// The launcher's process is gone.
    LauncherExited,
    Revoked,
    Expired,
    Stopped,
    /// The data plane did not serve it.
    Unserved,
    /// Another daemon on the same store took this one for dead.
    Fenced,
    /// The launcher brought doors that the session may not have.
    Doors,
}

impl End {
    /// The stable word in the store and in the log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::LauncherGone => "launcher-gone",
            Self::LauncherExited => "launcher-exited",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Stopped => "stopped",
            Self::Unserved => "unserved",
            Self::Fenced => "fenced",
            Self::Doors => "doors",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "the program ended",
            Self::LauncherGone | Self::LauncherExited => "the launcher is gone",
            Self::Revoked => "an operator revoked the session",
            Self::Expired => "the session's time ran out",
            Self::Stopped => "writ was stopped",
            Self::Unserved => "the proxy could not serve the session",
            Self::Fenced => "writ lost touch with its store",
            Self::Doors => "the launcher brought a socket that the session may not have",
        })
    }
}

/// Ends a session. Does nothing if it is over already.
///
/// # Errors
/// The store's fault. The session is over nevertheless, and the reconciler goes on trying to make that durable.
pub(crate) async fn end(broker: &Broker, session: SessionId, end: End) -> Result<(), StoreFault> {
    // From here on nothing is acquired for it: first the mark, then the leases, then the disk.
    let Some(over) = broker.sessions.alive().remove(&session) else { return Ok(()) };
    broker.sessions.ending().insert(session, end.as_str().to_owned());
    let leases = leases::cancel(broker, LeaseEnd::SessionEnded, Which::Session(session));
    broker.leases.session_is_over(session);
    over.over.send_replace(Some(end.to_string()));
    let durable = finish(broker, session, end.as_str(), &leases).await;
    if durable.is_err() {
        broker.leases.ending.notify_one();
    }
    fault_point!("session.ended");
    if let Some(open) = broker.open_door() {
        let outcome = Outcome { reason: Some(end.as_str()), ..Outcome::ok() };
        if let Err(refusal) = records::session(broker, open, &over.facts, "end", &outcome) {
            tracing::error!(%refusal, "the end of a session could not be recorded");
        }
    }
    durable
}

/// Makes the ends durable that were not, for the reconciler.
pub(crate) async fn finish_ending(broker: &Broker) -> Result<(), StoreFault> {
    let ending: Vec<(SessionId, String)> =
        broker.sessions.ending().iter().map(|(session, end)| (*session, end.clone())).collect();
    for (session, end) in ending {
        finish(broker, session, &end, &[]).await?;
    }
    Ok(())
}

async fn finish(
    broker: &Broker,
    session: SessionId,
    end: &str,
    leases: &[LeaseId],
) -> Result<(), StoreFault> {
    let change = Change::EndSession { session, at: broker.clock.now(), end: end.to_owned() };
    let durable = leases::finish(broker, LeaseEnd::SessionEnded, leases, vec![change]).await;
    broker.watch.push([Notice::SessionEnded { session }]);
    if durable.is_ok() {
        broker.sessions.ending().remove(&session);
    }
    durable
}
