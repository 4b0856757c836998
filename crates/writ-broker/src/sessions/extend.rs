//! Doors that are added to an open session: those whose addresses only its opening told.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::time::timeout;
use writ_core::{Door, Refusal, RefusalKind, SessionId};

use super::Doors;
use crate::{broker::Broker, fault};

/// The longest that the data plane may take to serve them.
const EXTEND_MAX: Duration = Duration::from_secs(10);

/// Judges doors and has them served. `known` counts them.
///
/// # Errors
/// A refusal, after which the session cannot go on: it is not what its launcher believes.
pub(crate) async fn extend(
    broker: &Broker,
    session: SessionId,
    known: &mut Doors,
    kinds: Vec<Door>,
    descriptors: Vec<OwnedFd>,
) -> Result<(), Refusal> {
    if kinds.len() != descriptors.len() {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            "not as many descriptors came as the message names doors",
            "use the `writ` that belongs to this daemon",
        ));
    }
    let doors: Vec<(Door, OwnedFd)> = kinds.into_iter().zip(descriptors).collect();
    known.extend(&doors)?;
    broker.sessions.identify(session, broker.clock.as_ref())?;
    let unserved = |why: String| Refusal::new(RefusalKind::BrokerUnavailable, why, "start a new run");
    let served = timeout(EXTEND_MAX, async {
        let Some(data_plane) = broker.data_plane().await else { return Err(fault::stopping()) };
        data_plane.extend(session, doors).await.map_err(|fault| unserved(fault.to_string()))
    });
    served.await.unwrap_or_else(|_| Err(unserved("the proxy did not serve the doors in time".to_owned())))
}
