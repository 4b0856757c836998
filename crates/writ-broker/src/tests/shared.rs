//! Two daemons on one store: they share keys and work, see each other's ends, and neither outlives its own death.

use std::time::Duration;

use writ_core::{BoxFuture, LeaseEnd, LeaseState, RefusalKind};

use super::harness::{Home, KEY, Life, until};
use crate::{
    credentials, elsewhere,
    keyring::InstallationFault,
    leases::{self, Which},
    store::{Beat, News, Place, Shared, StoreFault, postgres::tests::place},
    tasks::heartbeat::{self, SILENCE_MAX},
};

/// Two daemons; the value of `c` is set at the first.
async fn two() -> (Home, Life, Home, Life, Dead) {
    let (server, place) = place();
    let home = Home::new();
    let first = home.life_at(&place).await;
    let other = home.sibling();
    let second = other.life_at(&place).await;
    first.set("c", KEY).await.unwrap();
    (home, first, other, second, Dead { server, place })
}

/// Takes daemons for dead, as another one would after 15 seconds.
struct Dead {
    server: &'static writ_testkit::postgres::Postgres,
    place: Place,
}

impl Dead {
    fn declare(&self, boot: writ_core::BootId) {
        let database = self.place.url.rsplit_once('/').unwrap().1;
        let sql = format!("UPDATE writ.boots SET dead_at = now() WHERE boot = '{boot}'");
        self.server.run(database, &sql).unwrap();
    }
}

fn alive(life: &Life) -> usize {
    life.broker.leases.count(Which::All)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_sealed_the_other_hands_out() {
    let (_home, _first, _other, second, ..) = two().await;
    let (opened, _attached) = second.open().await;
    let granted = second.acquire(opened.session, "t").await.unwrap();
    assert_eq!(second.opened(opened.session, &granted).as_deref(), Some(KEY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_root_key_is_refused_with_the_next_step() {
    let (_server, place) = place();
    let home = Home::new();
    let _first = home.life_at(&place).await;
    let stranger = Home::new();
    let fault = stranger.installation_at(&place).await.err().unwrap();
    assert!(matches!(fault, InstallationFault::OtherKey { .. }), "{fault}");
    let text = fault.to_string();
    assert!(text.contains("copy") && text.contains("root.key") && text.contains("[seal]"), "{text}");
}

/// Of two that begin at once on an empty store, one makes the keyring; the other is told, and buries nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_begin_at_once_do_not_bury_each_others_keys() {
    let (_server, place) = place();
    let (one, other) = (Home::new(), Home::new());
    let (first, second) = tokio::join!(one.installation_at(&place), other.installation_at(&place));
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1, "they have different keys");
    let winner = if first.is_ok() { &one } else { &other };
    winner.installation_at(&place).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_revoked_from_the_other_daemon() {
    let (_home, first, _other, second, ..) = two().await;
    let (opened, _attached) = second.open().await;
    let granted = second.acquire(opened.session, "t").await.unwrap();
    let record = first.broker.store.lease(granted.lease).await.unwrap().unwrap();
    leases::end_known(&first.broker, &record, LeaseEnd::Revoked).await.unwrap();
    until(async || alive(&second) == 0).await;
    let refusal = second.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::LeaseRevoked);
    // Whoever was quicker settled it, once.
    until(async || {
        let found = first.broker.store.lease(granted.lease).await.unwrap().unwrap();
        found.state == LeaseState::Ended && found.end == Some(LeaseEnd::Revoked)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_revoked_from_the_other_daemon() {
    let (_home, first, _other, second, ..) = two().await;
    let (opened, attached) = second.open().await;
    second.acquire(opened.session, "t").await.unwrap();
    let record = first.broker.store.session(opened.session).await.unwrap().unwrap();
    elsewhere::revoke_session(&first.broker, &record).await.unwrap();
    let mut over = attached.over;
    let why = over.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(why.as_deref(), Some("an operator revoked the session"));
    until(async || alive(&second) == 0).await;
    let record = first.broker.store.session(opened.session).await.unwrap().unwrap();
    assert_eq!(record.end.as_deref(), Some("revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_value_and_a_removal_reach_the_other_daemon() {
    const NEW: &str = "sk-real-9876543210-real";
    let (_home, first, _other, second, ..) = two().await;
    let (opened, _attached) = second.open().await;
    second.acquire(opened.session, "t").await.unwrap();
    first.set("c", NEW).await.unwrap();
    until(async || alive(&second) == 0).await;
    let granted = second.acquire(opened.session, "t").await.unwrap();
    assert_eq!(second.opened(opened.session, &granted).as_deref(), Some(NEW));
    credentials::remove(&first.broker, &"c".parse().unwrap()).await.unwrap();
    until(async || alive(&second) == 0).await;
    assert!(second.acquire(opened.session, "t").await.is_err());
}

/// A start, a stop and a death of one are nothing to the other's sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_ends_only_what_the_dead_owned() {
    let (home, first, _other, second, dead) = two().await;
    let (opened, _attached) = second.open().await;
    let granted = second.acquire(opened.session, "t").await.unwrap();
    first.broker.stop().await;
    drop(first);
    let first = home.life_at(&dead.place).await;
    let store = first.broker.store.clone();
    assert_eq!(store.lease(granted.lease).await.unwrap().unwrap().end, None);
    assert_eq!(alive(&second), 1);
    dead.declare(second.broker.boot);
    crate::tasks::recovery::pass(&first.broker).await.unwrap();
    assert_eq!(store.lease(granted.lease).await.unwrap().unwrap().end, Some(LeaseEnd::Orphaned));
    let session = store.session(opened.session).await.unwrap().unwrap();
    assert!(session.ended_at.is_some(), "by the first, or by the second on its way out");
}

/// The next daemon of the same state directory does not wait until its last life is cold, so that runs go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_ends_at_once_what_its_own_last_life_owned() {
    let (_home, first, other, second, dead) = two().await;
    let (opened, _attached) = second.open().await;
    let next = other.life_at(&dead.place).await;
    let session = first.broker.store.session(opened.session).await.unwrap().unwrap();
    assert!(session.ended_at.is_some());
    assert_eq!(first.broker.sessions.count() + next.broker.sessions.count(), 0);
}

/// Whoever finds itself declared dead drops everything, and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_declared_dead_ends_everything() {
    let (_home, first, _other, second, dead) = two().await;
    let (opened, attached) = second.open().await;
    second.acquire(opened.session, "t").await.unwrap();
    dead.declare(second.broker.boot);
    second.broker.until_stopped().await;
    assert_eq!((alive(&second), second.broker.sessions.count()), (0, 0));
    assert_eq!(attached.over.borrow().as_deref(), Some("writ lost touch with its store"));
    assert!(second.acquire(opened.session, "t").await.is_err());
    assert!(second.open_as(&super::harness::ask_open()).await.is_err());
    assert_eq!(first.broker.sessions.count(), 0);
    assert!(!*first.broker.stopping.borrow(), "the other lives");
}

/// A store that does not hear.
struct Deaf;

impl Shared for Deaf {
    fn enlist(&self, _: writ_core::BootId, _: Option<String>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(std::future::ready(Err(StoreFault::Io("deaf".into()))))
    }

    fn beat(&self, _: writ_core::BootId) -> BoxFuture<'_, Result<Beat, StoreFault>> {
        Box::pin(std::future::ready(Err(StoreFault::Io("deaf".into()))))
    }

    fn retire(&self, _: writ_core::BootId) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(std::future::ready(Err(StoreFault::Io("deaf".into()))))
    }

    fn news(&self, _: writ_core::BootId) -> BoxFuture<'_, Result<Vec<News>, StoreFault>> {
        Box::pin(std::future::pending())
    }
}

/// Out of touch for too long, whether the server is away or this process was stopped: leases are dropped before others may end them,
/// and none is made, until a beat goes through. Sessions stay.
#[tokio::test]
async fn out_of_touch_with_the_store_nothing_is_handed_out_or_used() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    life.broker.pulse.felt(writ_core::Clock::boottime(home.clock.as_ref()));
    let (opened, _attached) = life.open().await;
    life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(SILENCE_MAX);
    assert_eq!(heartbeat::pass(&life.broker, &Deaf).await, Beat::Alive);
    assert_eq!(alive(&life), 1, "not yet");
    home.clock.pass(Duration::from_secs(1));
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::BrokerUnavailable, "before any task has run");
    heartbeat::pass(&life.broker, &Deaf).await;
    assert_eq!((alive(&life), life.broker.sessions.count()), (0, 1));
    life.broker.pulse.felt(writ_core::Clock::boottime(home.clock.as_ref()));
    life.acquire(opened.session, "t").await.unwrap();
}
