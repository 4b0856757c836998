//! Ends here what another daemon on the same store ended: its operator's revocations, and values that it replaced.
//!
//! They are durable already; what remains is to tell the holders, and to let nothing that is in flight land.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    broker::Broker,
    leases::{self, Which},
    sessions::{self, End},
    store::{News, StoreFault},
};

/// After a failure of the store.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn run(broker: Arc<Broker>) {
    let Some(shared) = broker.store.shared() else { return };
    let mut stopping = broker.stopping.subscribe();
    let work = async {
        loop {
            match shared.news(broker.boot).await {
                Ok(some) => {
                    for one in some {
                        if let Err(fault) = act(&broker, one).await {
                            tracing::warn!(%fault, "what another daemon ended is ended here, but not durably yet");
                        }
                    }
                }
                Err(fault) => {
                    tracing::warn!(%fault, "no news of other daemons can be had");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

pub(crate) async fn act(broker: &Broker, news: News) -> Result<(), StoreFault> {
    match news {
        News::Lease { lease, end } => leases::end(broker, end, Which::Lease(lease)).await.map(drop),
        News::Session { session } => sessions::end(broker, session, End::Revoked).await,
        News::Credential { credential, end } => {
            leases::end(broker, end, Which::Credential(&credential)).await.map(drop)
        }
    }
}
