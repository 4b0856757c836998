//! A session that goes on where another life of the broker left it.
//!
//! The daemon died, the program and its launcher live on, and the launcher opens anew on the same doors, naming the old session.
//! Start-up has ended that one already; evidence is taken anew, and everything is decided under the rules of now. What the old
//! session adds is a bound: nobody gets more time by a daemon that dies, and what was ended on purpose stays ended.
//!
//! The agent trusts the old session's certificates and no other, so they go on as well. The launcher keeps them as a keepsake,
//! which the vault has sealed for that very session: it opens for this installation's daemons alone.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use writ_api::{run::Open, seal};
use writ_core::{
    DataPlane, Level, Refusal, RefusalKind, Sealed, Secret, SessionId, SessionReady, SpiffeId, Timestamp,
};

use crate::{broker::Broker, door::Unlocked, fault, keyring::Place, start::ORPHANED};

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

/// What the launcher kept of the session that it goes on with; `None` where it goes on with none.
///
/// # Errors
/// [`RefusalKind::Invalid`], the same whether it is missing, damaged, another session's or another installation's.
pub(super) fn kept(door: &Unlocked, ask: &Open) -> Result<Option<Secret>, Refusal> {
    let Some(session) = ask.resumed_from else { return Ok(None) };
    let sealed = ask.keepsake.as_deref().and_then(|text| STANDARD.decode(text).ok());
    let opened = sealed.and_then(|sealed| door.vault.open(&Place::Keepsake { session }, &sealed).ok());
    let refuse = || {
        Refusal::new(
            RefusalKind::Invalid,
            format!("what the launcher kept of the session {session} does not open here"),
            "start a new run",
        )
    };
    opened.map(Some).ok_or_else(refuse)
}

/// What was kept, on its way to the data plane that serves `session` from now on.
pub(super) fn passed_on(
    data_plane: &dyn DataPlane,
    session: SessionId,
    kept: Option<&Secret>,
) -> Result<Option<Sealed>, Refusal> {
    let place = seal::Place::Authority { session };
    let sealed = kept.map(|kept| seal::seal(kept, &data_plane.recipient(), &place));
    sealed.transpose().map_err(fault::seal)
}

/// What the launcher is to keep of a session.
pub(super) fn keepsake(
    broker: &Broker,
    door: &Unlocked,
    session: SessionId,
    ready: &SessionReady,
) -> Result<String, Refusal> {
    let place = seal::Place::Authority { session };
    let opened = broker.recipient.open(&ready.authority, &place).map_err(fault::seal)?;
    let sealed = door.vault.seal(&Place::Keepsake { session }, &opened);
    sealed.map(|sealed| STANDARD.encode(sealed)).map_err(|fault| fault::internal(&fault))
}
