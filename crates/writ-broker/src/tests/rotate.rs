//! Passwords that are changed: what is lost when it is cut off anywhere (nothing), and what a schedule is kept by.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use writ_audit::Kind;
use writ_core::{LeaseEnd, LeaseState, RefusalKind, Revoked, Ttl};

use super::{
    harness::{Home, KEY, Life, until},
    reconcile::cut_after,
    upstream::Upstream,
};
use crate::{
    credentials::{self, RotateFault, Rotated},
    keyring::Place,
    leases::{self, Which},
    store::{Change, LeaseFilter, PendingValue, StoredValue},
    tasks::rotation::{self, Plans},
};

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
    async fn rotate(&self, name: &str) -> Result<Rotated, RotateFault> {
        let open = self.life.broker.unlocked().unwrap();
        credentials::rotate(&self.life.broker, open, &name.parse().unwrap()).await
    }

    /// The newest value of a credential, and its version.
    async fn stored(&self, name: &str) -> (u32, String) {
        let name: writ_core::CredentialName = name.parse().unwrap();
        let Some(newest) = self.life.broker.store.credential(name.clone(), None).await.unwrap() else {
            return (0, String::new());
        };
        let StoredValue::Sealed(sealed) = newest.value else { panic!("a reference") };
        let place = Place::Credential { name, version: newest.version };
        let value = self.life.broker.unlocked().unwrap().vault.open(&place, &sealed).unwrap();
        (newest.version, String::from_utf8(value.expose().to_vec()).unwrap())
    }

    async fn pending(&self) -> Vec<PendingValue> {
        self.life.broker.store.pending().await.unwrap()
    }

    /// Passes of the task until nothing is pending.
    async fn settle(&self) {
        until(async || {
            rotation::pass(&self.life.broker, &mut Plans::default()).await.unwrap();
            self.pending().await.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn the_new_password_is_in_force_and_kept_and_no_lease_ends_that_does_not_hold_it() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(scene.rotate("other").await.unwrap(), Rotated::To { version: 2, leases_ended: 0 });
    assert_eq!(scene.stored("other").await, (2, scene.upstream.password()));
    assert_ne!(scene.upstream.password(), KEY);
    let lease = scene.life.broker.store.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!(lease.state, LeaseState::Active);
    assert_eq!(home_log(&scene).await, ["rotate ok promoted"]);
}

async fn home_log(scene: &Scene) -> Vec<String> {
    scene.home.log(&scene.life, Kind::Control).await
}

#[tokio::test]
async fn leases_that_hold_the_old_value_end_as_superseded() {
    let scene = scene().await;
    scene.upstream.of_its_own.store(true, Ordering::SeqCst);
    scene.life.set("c", KEY).await.unwrap();
    let (opened, _attached) = scene.life.open().await;
    let granted = scene.life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(scene.rotate("c").await.unwrap(), Rotated::To { version: 2, leases_ended: 1 });
    let lease = scene.life.broker.store.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!(lease.end, Some(LeaseEnd::Superseded));
    let next = scene.life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(scene.life.opened(opened.session, &next).unwrap(), scene.upstream.password());
}

/// The rule: whatever is in force upstream, the store has it.
#[tokio::test]
async fn a_rotation_that_is_cut_off_anywhere_loses_no_password() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    for polls in 0.. {
        let (before, _) = scene.stored("other").await;
        let done = cut_after(polls, scene.rotate("other")).await;
        let mut known = vec![scene.stored("other").await.1];
        for pending in scene.pending().await {
            let place = Place::Credential { name: pending.name, version: pending.version };
            let value = scene.life.broker.unlocked().unwrap().vault.open(&place, &pending.sealed).unwrap();
            known.push(String::from_utf8(value.expose().to_vec()).unwrap());
        }
        assert!(known.contains(&scene.upstream.password()), "after {polls} polls");
        scene.settle().await;
        assert_eq!(scene.stored("other").await.1, scene.upstream.password(), "after {polls} polls");
        assert!(scene.stored("other").await.0 <= before + 1, "one rotation is one version");
        if let Some(done) = done {
            assert!(matches!(done, Ok(Rotated::To { .. })));
            assert!(polls > 5, "it was cut off in the middle, too");
            return;
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_effect_is_found_out_by_trying() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    scene.upstream.loses_answers.store(true, Ordering::SeqCst);
    assert!(scene.rotate("other").await.is_err());
    assert_ne!(scene.upstream.password(), KEY, "it was set");
    assert_eq!((scene.stored("other").await.0, scene.pending().await.len()), (1, 1));
    scene.upstream.away.store(false, Ordering::SeqCst);
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (2, scene.upstream.password()));
}

#[tokio::test]
async fn a_server_that_lets_anybody_in_proves_nothing() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    scene.upstream.away.store(true, Ordering::SeqCst);
    assert!(scene.rotate("other").await.is_err());
    scene.upstream.away.store(false, Ordering::SeqCst);
    scene.upstream.trusting.store(true, Ordering::SeqCst);
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (2, scene.upstream.password()), "it was set, not only believed");
}

#[tokio::test]
async fn what_is_pending_is_gone_on_with_by_the_next_life() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    scene.upstream.loses_answers.store(true, Ordering::SeqCst);
    assert!(scene.rotate("other").await.is_err());
    let Scene { home, life, upstream } = scene;
    life.broker.stop().await;
    until(async || Arc::strong_count(&life.broker) == 1).await;
    drop(life);
    upstream.away.store(false, Ordering::SeqCst);
    let life = Arc::new(home.life_of(upstream.clone()).await);
    let scene = Scene { home, life, upstream };
    until(async || scene.pending().await.is_empty()).await;
    assert_eq!(scene.stored("other").await, (2, scene.upstream.password()));
}

#[tokio::test]
async fn a_password_that_somebody_else_changed_stays_pending_until_an_operator_sets_it() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    *scene.upstream.password.lock().unwrap() = "somebody-s-own".to_owned();
    assert!(scene.rotate("other").await.is_err());
    assert!(matches!(scene.rotate("other").await, Err(RotateFault::Neither(_))));
    assert_eq!(scene.pending().await.len(), 1);
    // The pending value keeps its version, and what works counts.
    assert_eq!(scene.life.set("other", "somebody-s-own").await.unwrap().0, 3);
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (3, "somebody-s-own".to_owned()));
    assert_eq!(scene.rotate("other").await.unwrap(), Rotated::To { version: 4, leases_ended: 0 });
    assert_eq!(scene.stored("other").await.1, scene.upstream.password());
}

#[tokio::test]
async fn a_wrong_value_that_is_set_over_a_pending_one_does_not_bury_it() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    scene.upstream.loses_answers.store(true, Ordering::SeqCst);
    assert!(scene.rotate("other").await.is_err());
    scene.life.set("other", "an-operator-s-slip").await.unwrap();
    scene.upstream.away.store(false, Ordering::SeqCst);
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (4, scene.upstream.password()));
}

#[tokio::test]
async fn wrong_values_that_are_set_over_a_generated_one_do_not_bury_it() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    assert_eq!(scene.rotate("other").await.unwrap(), Rotated::To { version: 2, leases_ended: 0 });
    // The next one never gets there, and is then behind what an operator sets.
    scene.upstream.away.store(true, Ordering::SeqCst);
    assert!(scene.rotate("other").await.is_err());
    for slip in ["an-operator-s-slip", "another-slip"] {
        scene.life.set("other", slip).await.unwrap();
    }
    let generated = scene.upstream.password();
    scene.upstream.away.store(false, Ordering::SeqCst);
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (6, scene.upstream.password()));
    assert_ne!(scene.upstream.password(), generated);
}

#[tokio::test]
async fn wrong_values_that_are_set_before_a_rotation_do_not_bury_what_works() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    for slip in ["an-operator-s-slip", "another-slip"] {
        scene.life.set("other", slip).await.unwrap();
    }
    assert!(scene.rotate("other").await.is_err());
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (4, scene.upstream.password()));
}

#[tokio::test]
async fn a_store_that_was_put_back_tries_the_value_before() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    scene.life.set("other", "never-in-force-upstream").await.unwrap();
    assert!(scene.rotate("other").await.is_err());
    scene.settle().await;
    assert_eq!(scene.stored("other").await, (3, scene.upstream.password()));
}

#[tokio::test]
async fn what_cannot_be_rotated_is_refused_with_the_reason() {
    let scene = scene().await;
    let refused = async |name: &str| {
        let fault = scene.rotate(name).await.unwrap_err();
        let refusal = fault.refuse(&name.parse().unwrap());
        (refusal.kind, refusal.detail)
    };
    let (kind, why) = refused("other").await;
    assert_eq!((kind, why.contains("never set")), (RefusalKind::NoCredential, true), "{why}");
    scene.life.set("other", KEY).await.unwrap();
    let (kind, why) = refused("c").await;
    assert_eq!((kind, why.contains("no credential of writ.toml")), (RefusalKind::Invalid, true), "{why}");
    scene.upstream.scattered.store(true, Ordering::SeqCst);
    let (kind, why) = refused("other").await;
    assert_eq!((kind, why.contains("more than one account")), (RefusalKind::Invalid, true), "{why}");
    assert_eq!((scene.upstream.password().as_str(), scene.pending().await.len()), (KEY, 0));
}

#[tokio::test]
async fn two_rotations_of_one_credential_do_not_meet() {
    let scene = scene().await;
    scene.life.set("other", KEY).await.unwrap();
    let (one, other) = tokio::join!(scene.rotate("other"), scene.rotate("other"));
    assert!(matches!(one, Ok(Rotated::To { version: 2, .. })), "{one:?}");
    assert!(matches!(other, Err(RotateFault::Busy(_))), "{other:?}");
    // Another daemon on the same store would not overwrite what may be in force.
    let [put, again] = [1, 2].map(|number| {
        Change::PutPending(PendingValue {
            name: "other".parse().unwrap(),
            version: 3,
            sealed: vec![number],
            set_at: scene.life.broker.started_at,
        })
    });
    scene.life.broker.store.apply(vec![put]).await.unwrap();
    assert!(scene.life.broker.store.apply(vec![again]).await.is_err());
}

#[tokio::test]
async fn a_schedule_is_kept_by_the_clock_that_does_not_step() {
    let scene = scene().await;
    scene.upstream.of_its_own.store(true, Ordering::SeqCst);
    *scene.upstream.every.lock().unwrap() = Some(Ttl::from_secs(3600).unwrap());
    let mut plans = Plans::default();
    let mut pass = async || {
        rotation::pass(&scene.life.broker, &mut plans).await.unwrap();
        scene.stored("c").await.0
    };
    // A role without a password gets one at once, from this pass or from the task's own.
    while pass().await == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pass().await, 1);
    scene.home.clock.pass(Duration::from_secs(3599));
    assert_eq!(pass().await, 1);
    scene.home.clock.step(48 * 3600 * 1000);
    assert_eq!(pass().await, 1, "the wall clock stepped");
    scene.home.clock.pass(Duration::from_secs(1));
    assert_eq!(pass().await, 2);
    assert_eq!(scene.stored("c").await, (2, scene.upstream.password()));
    scene.home.clock.step(-96 * 3600 * 1000);
    scene.home.clock.pass(Duration::from_secs(3600));
    assert_eq!(pass().await, 3);
    // A life that begins looks at how old the newest version is.
    let mut fresh = Plans::default();
    rotation::pass(&scene.life.broker, &mut fresh).await.unwrap();
    assert_eq!(scene.stored("c").await.0, 3);
    scene.home.clock.pass(Duration::from_secs(3600));
    let mut fresh = Plans::default();
    rotation::pass(&scene.life.broker, &mut fresh).await.unwrap();
    assert_eq!(scene.stored("c").await.0, 4);
}

#[tokio::test]
async fn the_last_lease_that_ends_takes_its_password_out_of_force() {
    let scene = scene().await;
    scene.upstream.of_its_own.store(true, Ordering::SeqCst);
    scene.life.set("c", KEY).await.unwrap();
    let (first, _attached) = scene.life.open().await;
    let (second, _attached) = scene.life.open().await;
    let leases = [
        scene.life.acquire(first.session, "t").await.unwrap().lease,
        scene.life.acquire(second.session, "t").await.unwrap().lease,
    ];
    let mut outcomes = Vec::new();
    for lease in leases {
        leases::end(&scene.life.broker, LeaseEnd::Revoked, Which::Lease(lease)).await.unwrap();
        let record = async || scene.life.broker.store.lease(lease).await.unwrap().unwrap();
        until(async || record().await.state == LeaseState::Ended).await;
        outcomes.push((record().await.revoked, scene.upstream.password() == KEY));
    }
    assert_eq!(outcomes, [(Some(Revoked::UseBlocked), true), (Some(Revoked::Gone), false)]);
    let alive = scene.life.broker.store.leases(LeaseFilter::default()).await.unwrap();
    assert_eq!(alive, []);
}
