//! Upstreams and leases: what disagrees, what only seemed to, and repairs that are cut off.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use writ_api::control::{FindingKind, Mended};
use writ_audit::Kind;
use writ_core::{LeaseEnd, LeaseId, LeaseState, Refusal, Revoked, Timestamp};

use super::{
    harness::{Home, Life, until},
    upstream::Upstream,
};
use crate::{
    leases::{self, Which},
    reconcile,
    store::{LeaseFilter, LeaseRecord},
    tasks,
};

/// Of the operator in these tests.
const UID: u32 = 4711;

struct Scene {
    home: Home,
    life: Arc<Life>,
    upstream: Arc<Upstream>,
}

async fn scene() -> Scene {
    let (home, upstream) = (Home::new(), Upstream::new());
    let life = Arc::new(home.life_of(upstream.clone()).await);
    Scene { home, life, upstream }
}

impl Scene {
    /// Kind and lease of each finding.
    async fn findings(&self) -> Vec<(FindingKind, LeaseId)> {
        findings(&self.life).await.unwrap()
    }

    async fn repair(&self, leases: &[LeaseId]) -> Vec<Mended> {
        let open = self.life.broker.unlocked().unwrap();
        let repairs = reconcile::repair(&self.life.broker, open, UID, leases).await.unwrap();
        assert_eq!(repairs.iter().map(|repair| repair.lease).collect::<Vec<_>>(), leases);
        repairs.into_iter().map(|repair| repair.mended).collect()
    }

    async fn lease(&self, lease: LeaseId) -> Option<LeaseRecord> {
        self.life.broker.store.lease(lease).await.unwrap()
    }

    /// What the log says of leases, as soon as it says so much.
    async fn logged(&self, lines: &[&str]) {
        let log = async || self.home.log(&self.life, Kind::Lease).await;
        until(async || log().await.len() >= lines.len()).await;
        assert_eq!(log().await, lines);
    }

    async fn records(&self) -> Vec<LeaseRecord> {
        let all = LeaseFilter { ended: true, ..LeaseFilter::default() };
        self.life.broker.store.leases(all).await.unwrap()
    }
}

async fn findings(life: &Life) -> Result<Vec<(FindingKind, LeaseId)>, Refusal> {
    let survey = reconcile::survey(&life.broker, life.broker.unlocked()?).await?.view();
    Ok(survey.findings.into_iter().map(|finding| (finding.kind, finding.lease)).collect())
}

fn stranger(number: u8) -> LeaseId {
    LeaseId::new(Timestamp::from_millis(1), &[number; 10])
}

#[tokio::test]
async fn what_agrees_is_no_finding() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    scene.life.acquire(opened.session, "t").await.unwrap();
    let open = scene.life.broker.unlocked().unwrap();
    let survey = reconcile::survey(&scene.life.broker, open).await.unwrap().view();
    assert_eq!((survey.agreed, survey.findings.len(), survey.unreachable.len()), (1, 0, 0));
    assert_eq!(survey.surveyed, ["c".parse().unwrap()], "`other` cannot be listed");
}

#[tokio::test]
async fn an_account_that_is_being_revoked_is_no_orphan_and_its_lease_not_lost() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    scene.upstream.stubborn.store(true, Ordering::SeqCst);
    leases::end(&scene.life.broker, LeaseEnd::Revoked, Which::All).await.unwrap();
    assert_eq!(scene.lease(granted.lease).await.unwrap().state, LeaseState::Revoking);
    assert_eq!(scene.findings().await, []);
    // Nor when it is gone already and only the store does not know.
    scene.upstream.accounts.lock().unwrap().clear();
    assert_eq!(scene.findings().await, []);
}

#[tokio::test]
async fn an_orphan_is_found_and_revoked_under_its_own_name_and_once() {
    let scene = scene().await;
    scene.upstream.make(stranger(1));
    assert_eq!(scene.findings().await, [(FindingKind::Orphan, stranger(1))]);
    assert_eq!(scene.repair(&[stranger(1)]).await, [Mended::Done]);
    assert!(!scene.upstream.has(stranger(1)));
    let lease = scene.lease(stranger(1)).await.unwrap();
    assert_eq!(
        (lease.state, lease.end, lease.revoked),
        (LeaseState::Ended, Some(LeaseEnd::Orphaned), Some(Revoked::Gone))
    );
    assert_eq!(scene.findings().await, []);
    assert_eq!(scene.repair(&[stranger(1)]).await, [Mended::Agrees], "repeated, it does nothing");
    scene.logged(&["repair orphan ok begun", "settle ok gone"]).await;
}

#[tokio::test]
async fn only_what_a_survey_of_now_finds_is_repaired() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    scene.upstream.make(stranger(1));
    assert_eq!(scene.repair(&[granted.lease, stranger(2)]).await, [Mended::Agrees, Mended::Agrees]);
    assert!(scene.upstream.has(granted.lease) && scene.upstream.has(stranger(1)), "nobody asked for it");
    assert_eq!(scene.lease(granted.lease).await.unwrap().state, LeaseState::Active);
}

#[tokio::test]
async fn an_account_that_came_back_after_its_lease_ended_is_adopted_under_another_name() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    leases::end(&scene.life.broker, LeaseEnd::Superseded, Which::All).await.unwrap();
    until(async || scene.lease(granted.lease).await.unwrap().state == LeaseState::Ended).await;
    // As when the database is put back from its backup.
    scene.upstream.make(granted.lease);
    assert_eq!(scene.findings().await, [(FindingKind::Orphan, granted.lease)]);
    scene.upstream.stubborn.store(true, Ordering::SeqCst);
    let life = scene.life.clone();
    let waiting = tokio::spawn(async move {
        let open = life.broker.unlocked().unwrap();
        drop(reconcile::repair(&life.broker, open, UID, &[granted.lease]).await);
    });
    until(async || scene.records().await.iter().any(|lease| lease.state == LeaseState::Revoking)).await;
    waiting.abort();
    // It is on its way: neither a finding nor adopted twice.
    assert_eq!(scene.findings().await, []);
    assert_eq!(scene.lease(granted.lease).await.unwrap().end, Some(LeaseEnd::Superseded), "an end is kept");
    scene.upstream.stubborn.store(false, Ordering::SeqCst);
    until(async || {
        scene.home.clock.pass(std::time::Duration::from_secs(60));
        tasks::revocation::pass(&scene.life.broker).await.unwrap();
        !scene.upstream.has(granted.lease)
    })
    .await;
    assert_eq!(scene.records().await.len(), 2);
}

#[tokio::test]
async fn a_lease_whose_account_is_gone_ends_as_lost_and_the_next_use_acquires_another() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    scene.upstream.accounts.lock().unwrap().clear();
    assert_eq!(scene.findings().await, [(FindingKind::Lost, granted.lease)]);
    assert_eq!(scene.repair(&[granted.lease]).await, [Mended::Done]);
    let lease = scene.lease(granted.lease).await.unwrap();
    assert_eq!((lease.end, lease.revoked), (Some(LeaseEnd::Lost), Some(Revoked::Gone)));
    assert_eq!(scene.life.broker.leases.count(Which::All), 0);
    let again = scene.life.acquire(opened.session, "t").await.unwrap();
    assert!(scene.upstream.has(again.lease));
    scene.logged(&["lost ok", "repair lost ok begun", "settle ok gone"]).await;
}

#[tokio::test]
async fn an_upstream_that_is_away_is_named_and_nothing_is_concluded_from_its_silence() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    scene.life.acquire(opened.session, "t").await.unwrap();
    scene.upstream.away.store(true, Ordering::SeqCst);
    let open = scene.life.broker.unlocked().unwrap();
    let survey = reconcile::survey(&scene.life.broker, open).await.unwrap().view();
    let unreachable: Vec<_> = survey.unreachable.iter().map(|one| one.credential.as_str()).collect();
    assert_eq!((unreachable, survey.findings.len(), survey.surveyed.len()), (vec!["c"], 0, 0));
}

/// Looks upstream, does `meanwhile`, and returns what the survey concluded.
async fn while_it_looks(scene: &Scene, meanwhile: impl Future<Output = ()>) -> Vec<(FindingKind, LeaseId)> {
    scene.upstream.gated.store(true, Ordering::SeqCst);
    let life = scene.life.clone();
    let survey = tokio::spawn(async move { findings(&life).await.unwrap() });
    scene.upstream.looked.notified().await;
    meanwhile.await;
    scene.upstream.gated.store(false, Ordering::SeqCst);
    scene.upstream.go.notify_one();
    survey.await.unwrap()
}

#[tokio::test]
async fn a_login_that_is_made_while_upstream_is_asked_is_not_lost() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let acquired = async { drop(scene.life.acquire(opened.session, "t").await.unwrap()) };
    assert_eq!(while_it_looks(&scene, acquired).await, []);
}

#[tokio::test]
async fn a_login_that_is_removed_while_upstream_is_asked_is_no_orphan() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    let ended = async {
        leases::end(&scene.life.broker, LeaseEnd::Superseded, Which::All).await.unwrap();
        until(async || scene.lease(granted.lease).await.unwrap().state == LeaseState::Ended).await;
    };
    assert_eq!(while_it_looks(&scene, ended).await, []);
}

/// Polls `work` so often at the most, then drops it: at every await that is not ready, one after the other.
pub async fn cut_after<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut left) = (pin!(work), polls);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn a_repair_that_is_cut_off_anywhere_leaves_nothing_worse_and_another_finishes_it() {
    let scene = scene().await;
    let (opened, _attached) = scene.life.open().await;
    for polls in 0.. {
        let granted = scene.life.acquire(opened.session, "t").await.unwrap();
        scene.upstream.accounts.lock().unwrap().remove(&super::upstream::account(granted.lease));
        let number = u8::try_from(polls).unwrap();
        scene.upstream.make(stranger(number));
        let wanted = [stranger(number), granted.lease];
        let open = scene.life.broker.unlocked().unwrap();
        let done = cut_after(polls, reconcile::repair(&scene.life.broker, open, UID, &wanted)).await;
        let left: Vec<LeaseId> = scene.findings().await.into_iter().map(|(_, lease)| lease).collect();
        scene.repair(&left).await;
        until(async || !scene.upstream.has(stranger(number))).await;
        assert_eq!(scene.findings().await, []);
        let lost = scene.lease(granted.lease).await.unwrap();
        assert_eq!(lost.end, Some(LeaseEnd::Lost), "after {polls} polls");
        if done.is_some() {
            assert!(polls > 5, "it was cut off in the middle, too");
            return;
        }
    }
}
