//! Remembers the last checkpoint of the audit log in the store.
//!
//! Whoever cuts the end off the log, checkpoints included, leaves a log that is whole in itself. The store's copy tells: `verify`
//! asks for the checkpoint that it remembers. Absent: a copy on another machine.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use writ_audit::Anchor;

use crate::{
    broker::Broker,
    store::{Change, StoreFault},
};

/// How often it looks: as often as streams are signed.
const PERIOD: Duration = writ_audit::CHECKPOINT_INTERVAL;
/// Where it stands in the store.
const KEY: &str = "audit.anchor";

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    let mut remembered = None;
    loop {
        tokio::select! {
            () = sleep(PERIOD) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        if let Err(fault) = pass(&broker, &mut remembered).await {
            tracing::warn!(%fault, "the last checkpoint of the audit log could not be remembered yet");
        }
    }
}

/// One pass.
pub(crate) async fn pass(broker: &Broker, remembered: &mut Option<Anchor>) -> Result<(), StoreFault> {
    let Some(anchor) = broker.open_door().and_then(|open| open.anchor()) else { return Ok(()) };
    if *remembered == Some(anchor) {
        return Ok(());
    }
    let value = serde_json::to_vec(&anchor).map_err(|fault| StoreFault::Io(fault.to_string()))?;
    broker.store.apply(vec![Change::PutMeta { key: key(broker), value }]).await?;
    *remembered = Some(anchor);
    Ok(())
}

/// What the store remembers.
pub(crate) async fn remembered(broker: &Broker) -> Result<Option<serde_json::Value>, StoreFault> {
    let stored = broker.store.meta(key(broker)).await?;
    Ok(stored.and_then(|stored| serde_json::from_slice(&stored).ok()))
}

/// Each daemon has a log of its own, and remembers its own checkpoint in a store that they share.
fn key(broker: &Broker) -> String {
    broker.installation.node().map_or_else(|| KEY.to_owned(), |node| format!("{KEY}/{node}"))
}
