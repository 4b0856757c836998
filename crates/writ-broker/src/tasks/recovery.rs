//! Ends what dead boots left behind: sessions before anything is served, leases in the background.
//!
//! A lease of a dead boot is dead at once, whatever its record says: nobody has it in memory, so nobody hands it out, renews it or
//! answers for it. Its record follows in parts, so that a start takes no longer with a million of them. Where several daemons
//! share a store, another one may die at any time: this goes on looking.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use writ_core::{LeaseId, SessionId, fault_point};

use crate::{
    broker::Broker,
    records,
    start::ORPHANED,
    store::{Orphan, Orphaned, Store, StoreFault},
};

/// Ended in one durable step. It holds up whoever issues at the same time by a few milliseconds.
const PART: u32 = 256;
/// How often it looks for boots that have died since.
const PERIOD: Duration = Duration::from_secs(10);

/// What was ended and is not recorded yet, for want of a log.
#[derive(Default)]
pub(crate) struct Recovered {
    pub sessions: Vec<SessionId>,
    pub leases: Vec<LeaseId>,
}

/// Ends the sessions. There are as many as a daemon has at once, so this takes a moment.
pub(crate) async fn sessions(store: &dyn Store, ask: &Orphan) -> Result<Recovered, StoreFault> {
    let mut recovered = Recovered::default();
    loop {
        let Orphaned { sessions, leases } = store.orphan(ask.clone()).await?;
        let last = sessions.is_empty();
        recovered.sessions.extend(sessions);
        recovered.leases.extend(leases);
        fault_point!("recovery.sessions");
        if last {
            return Ok(recovered);
        }
    }
}

/// What start-up and this task ask.
pub(crate) fn ask(boot: writ_core::BootId, at: writ_core::Timestamp) -> Orphan {
    Orphan { boot, at, end: ORPHANED.to_owned(), limit: PART }
}

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    let work = async {
        // Without keys nothing can be revoked, and without a log nothing recorded.
        broker.until_unlocked().await;
        loop {
            if let Err(fault) = pass(&broker).await {
                tracing::error!(%fault, "what a dead daemon left could not be ended in the store yet");
            }
            sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

/// One pass: nothing of a dead boot is left when it returns.
pub(crate) async fn pass(broker: &Broker) -> Result<(), StoreFault> {
    loop {
        let orphaned = broker.store.orphan(ask(broker.boot, broker.clock.now())).await?;
        let Some(open) = broker.open_door() else { return Ok(()) };
        if orphaned == Orphaned::default() {
            return Ok(());
        }
        fault_point!("recovery.leases");
        records::recovered(broker, open, &orphaned.sessions, &orphaned.leases);
        broker.leases.ending.notify_one();
        // The log takes what it is given only as fast as the disk.
        if let Err(fault) = open.log.flush().await {
            tracing::error!(%fault, "what a dead daemon left could not be recorded");
        }
    }
}
