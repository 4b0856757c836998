//! What a broker that was killed leaves behind is ended by the next.

use writ_audit::Kind;
use writ_core::{LeaseEnd, LeaseState, RefusalKind, Revoked};

use super::harness::{Home, KEY, until};
use crate::store::LeaseFilter;

#[tokio::test]
async fn a_new_life_ends_everything_that_the_last_one_owned() {
    let home = Home::new();
    let (session, lease) = {
        let life = home.life().await;
        life.set("c", KEY).await.unwrap();
        let (opened, _attached) = life.open().await;
        let granted = life.acquire(opened.session, "t").await.unwrap();
        // As a kill would: nothing is ended and the log is not closed, only let go of.
        life.broker.stopping.send_replace(true);
        let log = life.broker.unlocked().unwrap().log.clone();
        log.flush().await.unwrap();
        tokio::task::spawn_blocking(move || log.close()).await.unwrap().unwrap();
        until(async || std::sync::Arc::strong_count(&life.broker) == 1).await;
        (opened.session, granted.lease)
    };
    let life = home.life().await;
    let ended = life.broker.store.session(session).await.unwrap().unwrap();
    assert_eq!(ended.end.as_deref(), Some("orphaned"));
    let known = async || life.broker.store.lease(lease).await.unwrap().unwrap();
    assert_eq!(known().await.end, Some(LeaseEnd::Orphaned));
    until(async || known().await.state == LeaseState::Ended).await;
    assert_eq!(known().await.revoked, Some(Revoked::UseBlocked));
    let refusal = life.acquire(session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::SessionEnded);
    let (fresh, _attached) = life.open().await;
    assert!(life.acquire(fresh.session, "t").await.is_ok());
    assert_eq!(home.log(&life, Kind::Session).await, ["open ok", "end ok orphaned", "open ok"]);
    assert_eq!(home.log(&life, Kind::Lease).await, ["orphaned ok", "settle ok use-blocked"]);
}

#[tokio::test]
async fn a_stop_ends_every_session_and_settles_its_leases() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    life.broker.stop().await;
    life.broker.stop().await;
    life.broker.until_stopped().await;
    assert_eq!(attached.over.borrow().as_deref(), Some("writ was stopped"));
    let alive = life.broker.store.leases(LeaseFilter::default()).await.unwrap();
    assert_eq!(alive, []);
    let lease = life.broker.store.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!(lease.end, Some(LeaseEnd::SessionEnded));
    assert!(life.acquire(opened.session, "t").await.is_err());
    assert!(life.open_as(&super::harness::ask_open()).await.is_err());
}
