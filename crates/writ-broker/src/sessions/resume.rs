//! A session that goes on where another life of the broker left it.
//!
//! The daemon died, the program and its launcher live on, and the launcher opens anew on the same doors, naming the old session.
//! Start-up has ended that one already; evidence is taken anew, and everything is decided under the rules of now. What the old
//! session adds is a bound: nobody gets more time by a daemon that dies, and what was ended on purpose stays ended.

use writ_core::{Level, Refusal, RefusalKind, SessionId, SpiffeId, Timestamp};

use crate::{broker::Broker, fault, start::ORPHANED};

/// Who wants to go on.
pub(super) struct Resuming<'a> {
    pub workload: &'a SpiffeId,
    pub requester: &'a str,
    pub level: Level,
}

/// Until when a session may last that goes on with `session`.
///
/// # Errors
/// [`RefusalKind::Invalid`], the same for every reason but that the time is up; the store's fault.
pub(super) async fn until(
    broker: &Broker,
    session: SessionId,
    who: &Resuming<'_>,
) -> Result<Timestamp, Refusal> {
    let old = broker.store.session(session).await.map_err(fault::store)?;
    let fits = old.filter(|old| {
        old.boot != broker.boot
            && old.end.as_deref() == Some(ORPHANED)
            && old.workload == *who.workload
            && old.requester == who.requester
            && old.level == who.level
    });
    let Some(old) = fits else {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!("the session {session} is not one that can go on in this one"),
            "start a new run",
        ));
    };
    if old.expires_at <= broker.clock.now() {
        return Err(fault::session_over());
    }
    Ok(old.expires_at)
}
