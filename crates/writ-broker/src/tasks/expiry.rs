//! Ends leases and sessions whose time is up.
//!
//! It sleeps until the next deadline, and at most [`PERIOD`], so that a wall clock that was set ahead is noticed too.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use writ_core::LeaseEnd;

use crate::{
    broker::Broker,
    leases,
    sessions::{self, End},
};

/// Leases that end in one durable step. It holds up whoever issues at the same time by a few milliseconds.
const PART: usize = 500;
/// The longest sleep.
const PERIOD: Duration = Duration::from_secs(5);

pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping.subscribe();
    loop {
        pass(&broker).await;
        let clock = broker.clock.as_ref();
        let next = broker.leases.next(clock).into_iter().chain(broker.sessions.next(clock)).min();
        tokio::select! {
            () = sleep(next.unwrap_or(PERIOD).min(PERIOD)) => {}
            () = broker.leases.landed.notified() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// One pass.
pub(crate) async fn pass(broker: &Broker) {
    loop {
        let leases = broker.leases.expire(broker.clock.as_ref(), PART);
        if leases.is_empty() {
            break;
        }
        if let Err(fault) = leases::finish(broker, LeaseEnd::Expired, &leases, Vec::new()).await {
            tracing::error!(%fault, "expired leases could not be ended in the store yet");
            broker.leases.ending.notify_one();
        }
        // The log takes what it is given only as fast as the disk, and others need it meanwhile.
        if leases.len() == PART
            && let Some(open) = broker.open_door()
        {
            let _ = open.log.flush().await;
        }
    }
    for session in broker.sessions.expired(broker.clock.as_ref()) {
        if let Err(fault) = sessions::end(broker, session, End::Expired).await {
            tracing::error!(%fault, "an expired session could not be ended in the store yet");
        }
    }
}
