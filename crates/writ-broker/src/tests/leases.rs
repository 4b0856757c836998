//! Leases under adversity: time, cancellation, failing engines, changes in mid-flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use writ_core::{
    BoxFuture, CredentialName, Engine, EngineFault, LeaseEnd, LeaseId, LeaseState, Minted, Permit, Receipt,
    RefusalKind, Revoked, Secret, Tools, Ttl,
};

use super::harness::{Home, KEY, Life, ask, ask_open, until};
use crate::{
    leases::{self, Which},
    sessions::{self, End},
    store::{LeaseFilter, LeaseRecord},
    tasks,
};

async fn records(life: &Life) -> Vec<LeaseRecord> {
    life.broker.store.leases(LeaseFilter { ended: true, ..LeaseFilter::default() }).await.unwrap()
}

async fn lease(life: &Life, lease: LeaseId) -> LeaseRecord {
    life.broker.store.lease(lease).await.unwrap().unwrap()
}

async fn settled(life: &Life) {
    until(async || records(life).await.iter().all(|lease| lease.state == LeaseState::Ended)).await;
}

#[tokio::test]
async fn no_lease_outlives_its_session() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let mut short = ask_open();
    short.ttl = Some(Ttl::from_secs(60).unwrap());
    let (opened, _attached) = life.open_as(&short).await.unwrap();
    assert_eq!(life.acquire(opened.session, "t").await.unwrap().expires_at, opened.expires_at);
    short.ttl = Some(Ttl::MAX);
    let (long, _attached) = life.open_as(&short).await.unwrap();
    assert_eq!(long.expires_at.millis() - opened.expires_at.millis(), (3600 - 60) * 1000, "ttl_max bounds");
}

#[tokio::test]
async fn an_expired_session_gets_nothing_although_no_task_ran() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    home.clock.pass(Duration::from_secs(3600));
    assert!(life.acquire(opened.session, "t").await.is_err());
    // Set back, the wall clock alone would give it another life.
    home.clock.step(-1800 * 1000);
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::SessionEnded);
}

#[tokio::test]
async fn a_clock_set_back_lengthens_nothing_and_one_set_ahead_ends() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(Duration::from_secs(15 * 60));
    home.clock.step(-3600 * 1000);
    tasks::expiry::pass(&life.broker).await;
    let ended = lease(&life, granted.lease).await;
    assert_eq!(ended.end, Some(LeaseEnd::Expired));
    let fresh = life.acquire(opened.session, "t").await.unwrap();
    home.clock.step(2 * 3600 * 1000);
    tasks::expiry::pass(&life.broker).await;
    assert_eq!(lease(&life, fresh.lease).await.end, Some(LeaseEnd::Expired));
    assert!(life.acquire(opened.session, "t").await.is_err(), "the session's time is up as well");
}

#[tokio::test]
async fn expiry_ends_leases_upstream_and_the_static_engine_says_that_use_is_blocked() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(Duration::from_secs(15 * 60 - 1));
    tasks::expiry::pass(&life.broker).await;
    assert_eq!(lease(&life, granted.lease).await.state, LeaseState::Active);
    home.clock.pass(Duration::from_secs(1));
    tasks::expiry::pass(&life.broker).await;
    settled(&life).await;
    assert_eq!(lease(&life, granted.lease).await.revoked, Some(Revoked::UseBlocked));
}

#[tokio::test]
async fn a_new_version_supersedes_and_the_next_use_acquires_it() {
    let home = Home::new();
    let life = home.life().await;
    assert_eq!(life.set("c", KEY).await.unwrap(), (1, 0));
    let (opened, _attached) = life.open().await;
    let old = life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(life.set("c", "sk-second-value").await.unwrap(), (2, 1));
    assert_eq!(lease(&life, old.lease).await.end, Some(LeaseEnd::Superseded));
    let new = life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(life.opened(opened.session, &new).unwrap(), "sk-second-value");
    assert_eq!(lease(&life, new.lease).await.version, 2);
}

#[tokio::test]
async fn values_that_cannot_be_scrubbed_or_carried_are_refused_when_they_are_set() {
    let home = Home::new();
    let life = home.life().await;
    for bad in ["short", "with\nline breaks", "nul\0nul\0nul"] {
        assert_eq!(life.set("c", bad).await.unwrap_err().kind, RefusalKind::Invalid, "{bad:?}");
    }
    assert_eq!(life.broker.store.credentials().await.unwrap(), []);
}

/// An engine that waits in `mint` and `revoke` until it is told, and counts.
struct Slow {
    minting: Notify,
    go: Notify,
    /// How many revocations fail before one succeeds.
    failing: AtomicUsize,
    revoked: AtomicUsize,
}

impl Slow {
    fn new(failing: usize) -> Arc<Self> {
        Arc::new(Self {
            minting: Notify::new(),
            go: Notify::new(),
            failing: AtomicUsize::new(failing),
            revoked: AtomicUsize::new(0),
        })
    }
}

impl Slow {
    /// Waits until it mints, but not for ever.
    async fn mints(&self) {
        tokio::time::timeout(Duration::from_secs(60), self.minting.notified()).await.unwrap();
    }
}

impl Engine for Slow {
    fn name(&self) -> &'static str {
        "static"
    }

    fn check(&self, _: &CredentialName, _: &Value) -> Result<(), EngineFault> {
        Ok(())
    }

    fn plan<'a>(
        &'a self,
        _: &'a Permit,
        lease: LeaseId,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move { Ok(Receipt(json!({ "lease": lease }))) })
    }

    fn mint<'a>(
        &'a self,
        _: &'a Permit,
        _: &'a Receipt,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(async move {
            self.minting.notify_one();
            self.go.notified().await;
            Ok(Minted::bare(Secret::new(KEY.into()), 1))
        })
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move {
            assert!(receipt.0.get("lease").is_some());
            let left = self.failing.load(Ordering::SeqCst);
            if left > 0 {
                self.failing.store(left - 1, Ordering::SeqCst);
                return Err(EngineFault::Receipt("the outside is away".into()));
            }
            self.revoked.fetch_add(1, Ordering::SeqCst);
            Ok(Revoked::Gone)
        })
    }

    fn example(&self) -> Value {
        Value::Null
    }
}

/// Starts an acquisition and waits until it mints.
async fn in_flight(
    life: &Arc<Life>,
    engine: &Slow,
    session: writ_core::SessionId,
) -> tokio::task::JoinHandle<Result<writ_core::Granted, writ_core::Refusal>> {
    let flying = life.clone();
    let flight = tokio::spawn(async move { flying.broker.acquire(ask(session, "t")).await });
    engine.mints().await;
    flight
}

#[tokio::test]
async fn intent_is_durable_before_the_effect_and_a_canceled_acquisition_is_revoked() {
    let (home, engine) = (Home::new(), Slow::new(0));
    let life = Arc::new(home.life_of(engine.clone()).await);
    let (opened, _attached) = life.open().await;
    let flight = in_flight(&life, &engine, opened.session).await;
    let pending = records(&life).await;
    assert_eq!(pending.iter().map(|lease| lease.state).collect::<Vec<_>>(), [LeaseState::Pending]);
    flight.abort();
    assert!(flight.await.unwrap_err().is_cancelled());
    settled(&life).await;
    assert_eq!(engine.revoked.load(Ordering::SeqCst), 1);
    assert_eq!(home.log(&life, writ_audit::Kind::Acquire).await, ["acquire unknown dropped"]);
}

#[tokio::test]
async fn nothing_lands_behind_the_end_of_its_session() {
    let (home, engine) = (Home::new(), Slow::new(0));
    let life = Arc::new(home.life_of(engine.clone()).await);
    let (opened, _attached) = life.open().await;
    let flight = in_flight(&life, &engine, opened.session).await;
    sessions::end(&life.broker, opened.session, End::Closed(0)).await.unwrap();
    engine.go.notify_one();
    assert_eq!(flight.await.unwrap().unwrap_err().kind, RefusalKind::SessionEnded);
    settled(&life).await;
    assert_eq!(engine.revoked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_revocation_reaches_a_lease_that_is_still_being_made() {
    let (home, engine) = (Home::new(), Slow::new(0));
    let life = Arc::new(home.life_of(engine.clone()).await);
    let (opened, _attached) = life.open().await;
    let flight = in_flight(&life, &engine, opened.session).await;
    leases::end(&life.broker, LeaseEnd::Revoked, Which::Session(opened.session)).await.unwrap();
    engine.go.notify_one();
    assert_eq!(flight.await.unwrap().unwrap_err().kind, RefusalKind::LeaseRevoked);
    settled(&life).await;
}

#[tokio::test]
async fn a_value_that_is_replaced_in_mid_flight_is_acquired_anew() {
    let (home, engine) = (Home::new(), Slow::new(0));
    let life = Arc::new(home.life_of(engine.clone()).await);
    let (opened, _attached) = life.open().await;
    let flight = in_flight(&life, &engine, opened.session).await;
    assert_eq!(life.set("c", KEY).await.unwrap(), (1, 0));
    engine.go.notify_one();
    engine.mints().await;
    engine.go.notify_one();
    let granted = flight.await.unwrap().unwrap();
    until(async || engine.revoked.load(Ordering::SeqCst) == 1).await;
    assert_eq!(lease(&life, granted.lease).await.state, LeaseState::Active);
}

#[tokio::test]
async fn a_revocation_that_fails_stays_revoking_and_is_tried_again() {
    let (home, engine) = (Home::new(), Slow::new(2));
    let life = Arc::new(home.life_of(engine.clone()).await);
    let (opened, _attached) = life.open().await;
    let flight = in_flight(&life, &engine, opened.session).await;
    engine.go.notify_one();
    let granted = flight.await.unwrap().unwrap();
    leases::end(&life.broker, LeaseEnd::Revoked, Which::All).await.unwrap();
    until(async || engine.failing.load(Ordering::SeqCst) == 1).await;
    tasks::revocation::pass(&life.broker).await.unwrap();
    assert_eq!(engine.failing.load(Ordering::SeqCst), 1, "not before its pause is over");
    assert_eq!(lease(&life, granted.lease).await.state, LeaseState::Revoking);
    home.clock.pass(Duration::from_secs(1));
    tasks::revocation::pass(&life.broker).await.unwrap();
    home.clock.pass(Duration::from_secs(1));
    tasks::revocation::pass(&life.broker).await.unwrap();
    assert_eq!(engine.revoked.load(Ordering::SeqCst), 0, "the pause doubles");
    home.clock.pass(Duration::from_secs(1));
    tasks::revocation::pass(&life.broker).await.unwrap();
    assert_eq!(lease(&life, granted.lease).await.revoked, Some(Revoked::Gone));
}

#[tokio::test]
async fn a_changed_address_suspends_the_credential_until_it_is_set_again() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    home.write(
        &home
            .text("key-file")
            .replace("host = \"t.example\"", "host = \"t.example\"\ndial = \"127.0.0.1:9\""),
    );
    let (opened, _attached) = life.open().await;
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!((refusal.kind, refusal.next.contains("writ credential set c")), (RefusalKind::Denied, true));
    life.set("c", KEY).await.unwrap();
    assert!(life.acquire(opened.session, "t").await.is_ok());
}

#[tokio::test]
async fn a_changed_host_suspends_the_credential_until_it_is_set_again() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let elsewhere = "host = \"elsewhere.example\"";
    home.write(&home.text("key-file").replace("host = \"t.example\"", elsewhere));
    let (opened, _attached) = life.open().await;
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!((refusal.kind, refusal.next.contains("writ credential set c")), (RefusalKind::Denied, true));
    life.set("c", KEY).await.unwrap();
    assert!(life.acquire(opened.session, "t").await.is_ok());
    // Another port, and another credential in the same place.
    for (line, by) in
        [(elsewhere, "host = \"elsewhere.example:8443\""), ("credential = \"c\"", "credential = \"other\"")]
    {
        life.set("other", KEY).await.unwrap();
        let text = home.text("key-file").replace("host = \"t.example\"", elsewhere);
        home.write(&text.replace(line, by));
        let (opened, _attached) = life.open().await;
        assert_eq!(life.acquire(opened.session, "t").await.unwrap_err().kind, RefusalKind::Denied, "{by}");
    }
}

/// Where nobody set the credential since the target is there, its first use counts.
#[tokio::test]
async fn the_first_host_of_a_target_counts_as_confirmed() {
    let home = Home::new();
    let (text, late) = (home.text("key-file"), "name = \"late\"\nhost = \"late.example\"");
    let target = format!(
        "[[target]]\n{late}\ninject = {{ kind = \"bearer\" }}\ncredential = \"c\"\n[[role]]\nname = \"dev\""
    );
    let text = text.replacen("[[role]]\nname = \"dev\"", &target, 1);
    let text = text.replacen("grants = [", "grants = [{ target = \"late\" }, ", 1);
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    home.write(&text);
    let (opened, _attached) = life.open().await;
    assert!(life.acquire(opened.session, "late").await.is_ok());
    home.write(&text.replace("late.example", "later.example"));
    let (opened, _attached) = life.open().await;
    assert_eq!(life.acquire(opened.session, "late").await.unwrap_err().kind, RefusalKind::Denied);
}

#[tokio::test]
async fn a_target_that_moved_since_the_session_began_needs_a_new_session() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    home.write(&home.text("key-file").replace("host = \"t.example\"", "host = \"elsewhere.example\""));
    life.broker.rules.newest().unwrap();
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!((refusal.kind, refusal.next.as_str()), (RefusalKind::Denied, "start a new run"));
}

#[tokio::test]
async fn a_reference_is_read_at_each_issue_and_judged_again() {
    let home = Home::new();
    let life = home.life().await;
    let file = home.dir.path().join("value");
    std::fs::write(&file, KEY).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let value = writ_api::control::Value::Reference { reference: format!("file://{}", file.display()) };
    let name = "c".parse().unwrap();
    crate::credentials::set(&life.broker, life.broker.unlocked().unwrap(), &name, value).await.unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    assert_eq!(life.opened(opened.session, &granted).as_deref(), Some(KEY));
    for bad in ["short", "with\nline breaks"] {
        std::fs::write(&file, bad).unwrap();
        assert_eq!(life.acquire(opened.session, "t").await.unwrap_err().kind, RefusalKind::NoCredential);
    }
    until(async || records(&life).await.iter().filter(|one| one.state == LeaseState::Ended).count() == 2)
        .await;
}

#[tokio::test]
async fn a_session_is_not_told_what_its_source_complains_of() {
    let home = Home::new();
    let life = home.life().await;
    let file = home.dir.path().join("switch");
    std::fs::write(&file, KEY).unwrap();
    let reference = format!("cmd://cat {}", file.display());
    let value = writ_api::control::Value::Reference { reference };
    let name = "c".parse().unwrap();
    crate::credentials::set(&life.broker, life.broker.unlocked().unwrap(), &name, value).await.unwrap();
    let (opened, _attached) = life.open().await;
    std::fs::remove_file(&file).unwrap();
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoCredential);
    for inside in ["switch", "No such file", "cat"] {
        assert!(!refusal.detail.contains(inside), "{refusal:?}");
    }
    let operator = writ_engine::read(&format!("cmd://cat {}", file.display())).await.unwrap_err();
    assert!(operator.to_string().contains("switch"), "whoever sets it is told");
}

#[tokio::test]
async fn an_end_that_the_store_does_not_take_is_told_at_once_and_made_durable_later() {
    let home = Home::new();
    let (life, broken) = home.life_on_a_faulty_store().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(sessions::end(&life.broker, opened.session, End::Revoked).await.is_err());
    let told = life.broker.watch.answer(writ_core::WatchAsk { since: 0 }).await.notices;
    assert_eq!(told.len(), 2, "the lease's end and the session's: {told:?}");
    assert_eq!(life.acquire(opened.session, "t").await.unwrap_err().kind, RefusalKind::SessionEnded);
    assert_eq!(lease(&life, granted.lease).await.state, LeaseState::Active);
    broken.store(false, Ordering::SeqCst);
    tasks::revocation::pass(&life.broker).await.unwrap();
    settled(&life).await;
    let session = life.broker.store.session(opened.session).await.unwrap().unwrap();
    assert_eq!(session.end.as_deref(), Some("revoked"));
}

#[tokio::test]
async fn the_value_is_in_no_file() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    life.acquire(opened.session, "t").await.unwrap();
    life.broker.stop().await;
    let mut directories = vec![home.dir.path().to_owned()];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                files += 1;
                let bytes = std::fs::read(entry.path()).unwrap();
                let found = bytes.windows(16).any(|window| window == &KEY.as_bytes()[..16]);
                assert!(!found, "{}", entry.path().display());
            }
        }
    }
    assert!(files >= 4, "the store, the log, its checkpoints and the key file were looked at");
}

#[tokio::test]
async fn a_target_without_a_credential_has_a_lease_and_no_secret() {
    let home = Home::new();
    let free = "[[target]]\nname = \"free\"\nhost = \"free.example\"\n[[role]]\nname = \"dev\"";
    let text = home.text("key-file").replacen("[[role]]\nname = \"dev\"", free, 1);
    home.write(&text.replacen("grants = [", "grants = [{ target = \"free\", methods = [\"GET\"] }, ", 1));
    let life = home.life().await;
    let (opened, _attached) = life.open().await;
    let route = life.plane.plans.lock().unwrap()[0].routes[0].clone();
    assert_eq!((route.target.as_str(), route.credential, route.injections.len()), ("free", None, 0));
    let granted = life.acquire(opened.session, "free").await.unwrap();
    assert_eq!((&granted.credential, &granted.sealed), (&None, &None));
    assert_eq!(
        (granted.credential_type.as_str(), granted.scope.grants[0].methods[0].as_str()),
        ("none", "GET")
    );
    let known = async || life.broker.store.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!((known().await.state, known().await.credential), (LeaseState::Active, None));
    leases::end(&life.broker, LeaseEnd::Revoked, Which::Lease(granted.lease)).await.unwrap();
    until(async || known().await.state == LeaseState::Ended).await;
    assert_eq!(known().await.revoked, Some(Revoked::Gone), "nothing lives on");
    let refusal = life.acquire(opened.session, "free").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::LeaseRevoked);
    assert_eq!(
        home.log(&life, writ_audit::Kind::Acquire).await,
        ["acquire ok", "acquire refused lease-revoked"]
    );
}
