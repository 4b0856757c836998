//! What a broker that was killed leaves behind is ended by the next.

use std::time::Duration;

use writ_api::run::{Open, Opened};
use writ_audit::{Events, Kind};
use writ_core::{Clock, LeaseEnd, LeaseState, Level, RefusalKind, Revoked, SessionId, Ttl};

use super::harness::{Home, KEY, Life, ask_open, until};
use crate::{
    sessions::{self, End},
    store::{Change, LeaseFilter, SessionRecord},
};

/// As a kill would: nothing is ended and the log is not closed, only let go of.
pub(super) async fn kill(life: Life) {
    life.broker.stopping.send_replace(true);
    let log = life.broker.unlocked().unwrap().log.clone();
    log.flush().await.unwrap();
    tokio::task::spawn_blocking(move || log.close()).await.unwrap().unwrap();
    until(async || std::sync::Arc::strong_count(&life.broker) == 1).await;
}

#[tokio::test]
async fn a_new_life_ends_everything_that_the_last_one_owned() {
    let home = Home::new();
    let (session, lease) = {
        let life = home.life().await;
        life.set("c", KEY).await.unwrap();
        let (opened, _attached) = life.open().await;
        let granted = life.acquire(opened.session, "t").await.unwrap();
        kill(life).await;
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

fn resuming(opened: &Opened) -> Open {
    Open { resumed_from: Some(opened.session), keepsake: Some(opened.keepsake.clone()), ..ask_open() }
}

#[tokio::test]
async fn a_session_goes_on_in_the_next_life_and_gets_no_more_time() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let short = Open { ttl: Some(Ttl::from_secs(600).unwrap()), ..ask_open() };
    let (first, _attached) = life.open_as(&short).await.unwrap();
    kill(life).await;
    home.clock.pass(Duration::from_secs(60));
    let life = home.life().await;
    let (second, _attached) = life.open_as(&resuming(&first)).await.unwrap();
    assert_eq!(second.expires_at, first.expires_at);
    let record = life.broker.store.session(second.session).await.unwrap().unwrap();
    assert_eq!(record.resumed_from, Some(first.session));
    assert!(life.acquire(second.session, "t").await.is_ok());
    life.broker.unlocked().unwrap().log.flush().await.unwrap();
    let events: Vec<_> = Events::read(&home.audit()).unwrap().map(Result::unwrap).collect();
    let open = events.iter().rfind(|event| event.kind == Kind::Session && event.action == "open").unwrap();
    let scope = format!("resumed_from {}", first.session);
    assert_eq!(
        (open.session_id.clone(), open.resource.scope.clone()),
        (Some(second.session.to_string()), Some(scope))
    );
    // And on into a third life, but not past the end that the first had.
    kill(life).await;
    home.clock.pass(Duration::from_secs(600));
    let life = home.life().await;
    let refusal = life.open_as(&resuming(&second)).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::SessionEnded);
}

#[tokio::test]
async fn what_is_not_ones_own_or_was_ended_on_purpose_does_not_go_on() {
    let home = Home::new();
    let life = home.life().await;
    let (of_this_life, _attached) = life.open().await;
    let refused = async |life: &Life, ask: Open| life.open_as(&ask).await.err().map(|refusal| refusal.kind);
    assert_eq!(refused(&life, resuming(&of_this_life)).await, Some(RefusalKind::Invalid), "it is alive");
    let (revoked, _attached) = life.open().await;
    sessions::end(&life.broker, revoked.session, End::Revoked).await.unwrap();
    let (orphan, _attached) = life.open().await;
    kill(life).await;
    let life = home.life().await;
    assert_eq!(refused(&life, resuming(&revoked)).await, Some(RefusalKind::Invalid), "revoked");
    let unknown = SessionId::new(writ_core::Timestamp::from_millis(1), &[1; 10]);
    assert_eq!(
        refused(&life, Open { resumed_from: Some(unknown), ..resuming(&orphan) }).await,
        Some(RefusalKind::Invalid),
        "unknown"
    );
    let level = Open { level: Level::Restricted, ..resuming(&orphan) };
    assert_eq!(refused(&life, level).await, Some(RefusalKind::Invalid), "another level");
    home.write(&home.text("key-file").replace("writ.local/dev/me", "writ.local/dev/other"));
    assert_eq!(refused(&life, resuming(&orphan)).await, Some(RefusalKind::Invalid), "another workload");
    home.write(&home.text("key-file"));
    // Orphans of another person, and one that is of this life by its record.
    let record = life.broker.store.session(orphan.session).await.unwrap().unwrap();
    let somebody = SessionRecord { requester: "somebody".into(), ..record.clone() };
    for (number, record) in [(1, somebody), (2, SessionRecord { boot: life.broker.boot, ..record })] {
        let session = SessionId::new(home.clock.now(), &[number; 10]);
        let (at, end) = (home.clock.now(), "orphaned".to_owned());
        let open = Change::OpenSession(SessionRecord { session, ended_at: None, end: None, ..record });
        life.broker.store.apply(vec![open, Change::EndSession { session, at, end }]).await.unwrap();
        assert_eq!(
            refused(&life, Open { resumed_from: Some(session), ..resuming(&orphan) }).await,
            Some(RefusalKind::Invalid),
            "{number}"
        );
    }
    let (again, _attached) = life.open_as(&resuming(&orphan)).await.unwrap();
    // In the same life it belongs to the life before no more.
    assert_eq!(refused(&life, resuming(&again)).await, Some(RefusalKind::Invalid));
}

#[tokio::test]
async fn the_certificates_go_on_sealed_and_only_by_their_own_keepsake() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let life = home.life().await;
    let (orphan, _attached) = life.open().await;
    let (other, _attached) = life.open().await;
    let (of_another_installation, _attached) = elsewhere.life().await.open().await;
    assert!(!orphan.keepsake.contains(&orphan.session.to_string()), "it is sealed");
    kill(life).await;
    let life = home.life().await;
    let half = orphan.keepsake[..orphan.keepsake.len() / 2].to_owned();
    let wrong = [
        None,
        Some(String::new()),
        Some("!".into()),
        Some(half),
        Some(other.keepsake),
        Some(of_another_installation.keepsake),
    ];
    for keepsake in wrong {
        let refusal =
            life.open_as(&Open { keepsake: keepsake.clone(), ..resuming(&orphan) }).await.err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::Invalid, "{keepsake:?}");
        assert!(refusal.detail.ends_with("does not open here"), "{refusal:?}");
    }
    let (again, _attached) = life.open_as(&resuming(&orphan)).await.unwrap();
    assert_eq!(*life.plane.authority.lock().unwrap(), orphan.session.to_string().into_bytes());
    assert_ne!(again.keepsake, orphan.keepsake);
    // What was sealed for the old session is not the new one's.
    kill(life).await;
    let life = home.life().await;
    let stale = Open { keepsake: Some(orphan.keepsake), ..resuming(&again) };
    assert!(life.open_as(&stale).await.is_err());
    let (_third, _attached) = life.open_as(&resuming(&again)).await.unwrap();
    assert_eq!(*life.plane.authority.lock().unwrap(), orphan.session.to_string().into_bytes(), "and on");
}
