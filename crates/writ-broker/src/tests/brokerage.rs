//! The promises of `Brokerage`, in process and over a socket pair.

use std::sync::Arc;

use writ_api::link::{self, Link};
use writ_audit::Kind;
use writ_core::{Brokerage, LeaseEnd, Notice, RefusalKind, SessionId, Tiding, Timestamp, WatchAsk};

use super::harness::{Home, KEY, Life, ask};
use crate::{
    leases,
    sessions::{self, End},
};

/// The two ways to the same broker: in process, and over a socket pair.
fn ways(life: &Life) -> Vec<Arc<dyn Brokerage>> {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    tokio::spawn(link::serve(far, life.broker.clone() as Arc<dyn Brokerage>));
    vec![life.broker.clone(), Arc::new(Link::connect(near))]
}

#[tokio::test]
async fn a_permitted_acquisition_is_sealed_to_its_session_and_lease() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    for way in ways(&life) {
        let (opened, _attached) = life.open().await;
        let granted = way.acquire(ask(opened.session, "t")).await.unwrap();
        assert_eq!(life.opened(opened.session, &granted).as_deref(), Some(KEY));
        assert_eq!(granted.scope.to_string(), "POST /v1/*");
        assert_eq!(granted.credential_type, "static");
        assert_eq!(granted.expires_at.millis() - granted.issued_at.millis(), 15 * 60 * 1000);
        let again = way.acquire(ask(opened.session, "t")).await.unwrap();
        let mixed = writ_core::Granted { lease: again.lease, ..granted };
        assert_eq!(
            life.opened(opened.session, &mixed),
            None,
            "a sealed credential opens under its lease only"
        );
    }
    assert_eq!(home.log(&life, Kind::Acquire).await, vec!["acquire ok"; 4]);
}

#[tokio::test]
async fn every_refusal_has_its_reason_and_exactly_one_outcome() {
    let home = Home::new();
    let life = home.life().await;
    let (opened, _attached) = life.open().await;
    let stranger = SessionId::new(Timestamp::from_millis(1), &[1; 10]);
    let (over, _other) = life.open().await;
    sessions::end(&life.broker, over.session, End::Revoked).await.unwrap();
    for way in ways(&life) {
        let refusal = async |session, target: &str| way.acquire(ask(session, target)).await.unwrap_err();
        let unknown = refusal(stranger, "t").await;
        assert_eq!(unknown.kind, RefusalKind::SessionEnded);
        assert_eq!(refusal(over.session, "t").await, unknown, "one uniform answer");
        assert_eq!(refusal(stranger, "absent").await, unknown, "and it tells nothing of targets");
        assert_eq!(refusal(opened.session, "u").await.kind, RefusalKind::Denied);
        assert_eq!(refusal(opened.session, "absent").await.kind, RefusalKind::Denied);
        assert_eq!(refusal(opened.session, "t").await.kind, RefusalKind::NoCredential);
    }
    let one = ["session-ended", "session-ended", "session-ended", "denied", "denied", "no-credential"];
    let expected: Vec<String> =
        one.iter().chain(&one).map(|kind| format!("acquire refused {kind}")).collect();
    assert_eq!(home.log(&life, Kind::Acquire).await, expected);
}

#[tokio::test]
async fn ten_at_once_get_ten_leases() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    for way in ways(&life) {
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let way = way.clone();
            let ask = ask(opened.session, "t");
            asked.spawn(async move { way.acquire(ask).await.unwrap().lease });
        }
        let leases: std::collections::BTreeSet<_> = asked.join_all().await.into_iter().collect();
        assert_eq!(leases.len(), 10);
    }
    assert_eq!(life.broker.leases.count(crate::leases::Which::All), 20);
}

#[tokio::test]
async fn a_revocation_is_told_in_one_round_and_bars_the_session_from_the_target() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    for way in ways(&life) {
        let (opened, _attached) = life.open().await;
        let granted = way.acquire(ask(opened.session, "t")).await.unwrap();
        let since = life.broker.watch.answer(WatchAsk { since: u64::MAX }).await.upto;
        let (news, revoked) = tokio::join!(
            way.watch(WatchAsk { since }),
            leases::end(&life.broker, LeaseEnd::Revoked, leases::Which::Lease(granted.lease))
        );
        assert_eq!(revoked.unwrap(), 1);
        let told = Notice::LeaseEnded { lease: granted.lease, end: LeaseEnd::Revoked };
        assert_eq!(news.unwrap().notices, [told]);
        let refusal = way.acquire(ask(opened.session, "t")).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::LeaseRevoked);
        let (other, _attached) = life.open().await;
        assert!(way.acquire(ask(other.session, "t")).await.is_ok(), "another session is not barred");
    }
}

#[tokio::test]
async fn tidings_reach_the_launcher_and_are_lost_rather_than_waited_for() {
    let home = Home::new();
    let life = home.life().await;
    for way in ways(&life) {
        let (opened, mut attached) = life.open().await;
        for number in 0..1000 {
            let text = format!("line {number}");
            way.tell(Tiding { session: opened.session, text }).await.unwrap();
        }
        let first = attached.lines.recv().await.unwrap();
        assert_eq!(first, writ_api::run::FromBroker::Said { text: "line 0".into() });
    }
}
