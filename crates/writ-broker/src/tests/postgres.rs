//! Surveys, repairs and rotations at a real PostgreSQL server.

use std::sync::Arc;

use serde_json::json;
use writ_api::control::{FindingKind, Mended};
use writ_core::{
    EngineFault, LeaseEnd, LeaseId, LeaseState, Receipt, Revoked, Scope, SessionId, Timestamp, Tools as _,
};
use writ_testkit::postgres::{HOST, Postgres};

use super::harness::{Home, Life};
use crate::{
    Engines,
    credentials::{self, RotateFault, Rotated},
    keyring::Place,
    leases, reconcile,
    store::{Change, LeaseRecord, SessionRecord, StoredValue},
    tasks::rotation::{self, Plans},
};

/// An administrator of the test's own, and a template role, at the server that all tests share.
struct Scene {
    home: Home,
    life: Arc<Life>,
    server: &'static Postgres,
    /// Ends every name of this test's roles.
    suffix: String,
    database: String,
}

const PASSWORD: &str = "first-password-of-the-administrator";

async fn scene(suffix: &str) -> Scene {
    let (server, _) = Postgres::shared().unwrap();
    let database = server.database().unwrap();
    let setup = format!(
        "CREATE ROLE admin_{suffix} LOGIN CREATEROLE PASSWORD '{PASSWORD}'; CREATE ROLE read_{suffix} NOLOGIN; \
         GRANT read_{suffix} TO admin_{suffix} WITH ADMIN OPTION; GRANT pg_signal_backend TO admin_{suffix}; \
         CREATE ROLE report_{suffix} LOGIN; GRANT report_{suffix} TO admin_{suffix} WITH ADMIN OPTION"
    );
    server.run(&database, &setup).unwrap();
    let home = Home::new();
    let (port, ca) = (server.port(), server.ca_file());
    let common = format!(
        "server = \"{HOST}:{port}\", dial = \"127.0.0.1:{port}\", database = \"{database}\", \
         user = \"admin_{suffix}\", password = \"other\", tls_ca = \"{}\"",
        ca.display()
    );
    let credentials = format!(
        "\n[[credential]]\nname = \"orders\"\nengine = \"postgres\"\nconfig = {{ {common}, member_of = [\"read_{suffix}\"] }}\n\
         [[credential]]\nname = \"report\"\nengine = \"postgres-static\"\n\
         config = {{ {common}, role = \"report_{suffix}\", rotate_every = \"1h\" }}\n"
    );
    home.write(&(home.text("key-file") + &credentials));
    let life = Arc::new(home.life_with("key-file", Engines::default()).await);
    life.set("other", PASSWORD).await.unwrap();
    Scene { home, life, server, suffix: suffix.to_owned(), database }
}

impl Scene {
    fn sql(&self, sql: &str) -> String {
        self.server.run(&self.database, sql).unwrap()
    }

    /// Makes a role that bears a mark, as a broker that forgot its lease left it.
    fn make(&self, mark: &str, lease: LeaseId) -> String {
        let name = format!("writ_{mark}_{}", lease.to_string().replace('-', ""));
        self.sql(&format!(
            "SET ROLE admin_{}; CREATE ROLE {name} LOGIN IN ROLE read_{}",
            self.suffix, self.suffix
        ));
        name
    }

    fn exists(&self, role: &str) -> bool {
        self.sql(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'")) == "1"
    }

    fn mark(&self) -> String {
        self.life.broker.unlocked().unwrap().vault.installation().mark()
    }

    fn logs_in(&self, user: &str, password: &str) -> bool {
        let user = format!("{user}_{}", self.suffix);
        self.server.psql(&user, password, &self.database, "SELECT 1").unwrap().status.success()
    }

    /// What of this test's own lease is found.
    async fn findings(&self, lease: LeaseId) -> Vec<FindingKind> {
        let open = self.life.broker.unlocked().unwrap();
        let survey = reconcile::survey(&self.life.broker, open).await.unwrap().view();
        assert_eq!(survey.unreachable, []);
        let own = survey.findings.into_iter().filter(|finding| finding.lease == lease);
        own.map(|finding| finding.kind).collect()
    }

    async fn repair(&self, lease: LeaseId) -> Mended {
        let open = self.life.broker.unlocked().unwrap();
        let mut repairs = reconcile::repair(&self.life.broker, open, 0, &[lease]).await.unwrap();
        repairs.remove(0).mended
    }

    async fn rotate(&self, name: &str) -> Result<Rotated, RotateFault> {
        let open = self.life.broker.unlocked().unwrap();
        credentials::rotate(&self.life.broker, open, &name.parse().unwrap()).await
    }

    /// Whether a rotation is refused before anything is sent.
    async fn is_suspended(&self, name: &str) -> bool {
        loop {
            match self.rotate(name).await {
                Err(RotateFault::Busy(_)) => tokio::task::yield_now().await,
                other => return matches!(other, Err(RotateFault::Refused(_))),
            }
        }
    }

    /// A rotation, when the task is done with it; the version that is in force then.
    async fn rotated(&self, name: &str) -> u32 {
        loop {
            match self.rotate(name).await {
                Ok(Rotated::To { version, .. }) => return version,
                Err(RotateFault::Busy(_)) => tokio::task::yield_now().await,
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    async fn stored(&self, name: &str, version: Option<u32>) -> String {
        let name: writ_core::CredentialName = name.parse().unwrap();
        let found = self.life.broker.store.credential(name.clone(), version).await.unwrap().unwrap();
        let StoredValue::Sealed(sealed) = found.value else { panic!("a reference") };
        let place = Place::Credential { name, version: found.version };
        let value = self.life.broker.unlocked().unwrap().vault.open(&place, &sealed).unwrap();
        String::from_utf8(value.expose().to_vec()).unwrap()
    }

    /// A lease that is active in the store, under the receipt that a survey knows.
    async fn lease(&self, lease: LeaseId, receipt: Receipt) {
        let (broker, at) = (&self.life.broker, self.life.broker.started_at);
        let session = SessionId::new(at, &broker.random_bytes().unwrap());
        let (workload, role) = ("spiffe://writ.local/dev/me".parse().unwrap(), "dev".parse().unwrap());
        let expires_at = Timestamp::from_millis(at.millis() + 900_000);
        let lane = format!("postgres {HOST}:{}", self.server.port());
        let open = SessionRecord {
            session,
            boot: broker.boot,
            workload,
            role,
            requester: "ada".into(),
            program: "/usr/bin/psql".into(),
            directory: "/".into(),
            pid: 1,
            level: writ_core::Level::Confined,
            prompt_sha256: None,
            resumed_from: None,
            opened_at: at,
            expires_at,
            ended_at: None,
            end: None,
        };
        let record = LeaseRecord {
            lease,
            session,
            boot: broker.boot,
            workload: open.workload.clone(),
            role: open.role.clone(),
            target: "orders".parse().unwrap(),
            credential: Some("orders".parse().unwrap()),
            engine: "postgres".into(),
            version: 0,
            scope: Scope { authority: "db.example:5432".parse().unwrap(), grants: vec![] },
            receipt,
            lane,
            revealed: true,
            state: LeaseState::Pending,
            end: None,
            revoked: None,
            issued_at: at,
            expires_at,
            ended_at: None,
        };
        let activate = Change::ActivateLease { lease, version: 0, receipt: None };
        broker
            .store
            .apply(vec![Change::OpenSession(open), Change::OpenLease(record), activate])
            .await
            .unwrap();
    }

    /// The receipt of the role of a lease.
    async fn receipt(&self, lease: LeaseId) -> Receipt {
        let open = self.life.broker.unlocked().unwrap();
        let tools = crate::leases::BrokerTools { broker: &self.life.broker, open };
        let rules = self.life.broker.rules.in_force().unwrap();
        let of = rules.credential(&"orders".parse().unwrap()).unwrap();
        let engine = self.life.broker.engines.engine("postgres").unwrap();
        let known = engine.survey(&of.name, &of.engine_config, &tools).await.unwrap().unwrap();
        known.into_iter().find(|known| known.lease == lease).unwrap().receipt
    }
}

fn lease_of(number: u8) -> LeaseId {
    LeaseId::new(Timestamp::from_millis(1_800_000_000_000), &[number; 10])
}

#[tokio::test]
async fn a_role_with_this_mark_and_no_lease_is_dropped_and_another_installation_s_is_not() {
    let scene = scene("orphan").await;
    let own = scene.make(&scene.mark(), lease_of(1));
    let foreign = scene.make("00000000", lease_of(2));
    assert_eq!(scene.findings(lease_of(1)).await, [FindingKind::Orphan]);
    assert_eq!(scene.findings(lease_of(2)).await, []);
    assert_eq!(scene.repair(lease_of(2)).await, Mended::Agrees);
    assert_eq!(scene.repair(lease_of(1)).await, Mended::Done);
    assert_eq!((scene.exists(&own), scene.exists(&foreign)), (false, true));
    assert_eq!(scene.findings(lease_of(1)).await, []);
    let lease = scene.life.broker.store.lease(lease_of(1)).await.unwrap().unwrap();
    assert_eq!((lease.end, lease.revoked), (Some(LeaseEnd::Orphaned), Some(Revoked::Gone)));
}

#[tokio::test]
async fn a_role_that_is_dropped_behind_writ_s_back_ends_its_lease_as_lost() {
    let scene = scene("lost").await;
    let role = scene.make(&scene.mark(), lease_of(3));
    let receipt = scene.receipt(lease_of(3)).await;
    scene.lease(lease_of(3), receipt).await;
    assert_eq!(scene.findings(lease_of(3)).await, []);
    scene.sql(&format!("DROP ROLE {role}"));
    assert_eq!(scene.findings(lease_of(3)).await, [FindingKind::Lost]);
    assert_eq!(scene.repair(lease_of(3)).await, Mended::Done);
    let lease = scene.life.broker.store.lease(lease_of(3)).await.unwrap().unwrap();
    assert_eq!((lease.end, lease.revoked), (Some(LeaseEnd::Lost), Some(Revoked::Gone)));
}

/// Whoever writes the store decides neither which login goes nor where a password is sent.
#[tokio::test]
async fn what_somebody_wrote_into_the_store_by_hand_is_refused() {
    let scene = scene("hand").await;
    let (broker, open) = (&scene.life.broker, scene.life.broker.unlocked().unwrap());
    let role = scene.make(&scene.mark(), lease_of(5));
    let receipt = scene.receipt(lease_of(5)).await;
    scene.lease(lease_of(5), receipt.clone()).await;
    let own = broker.store.lease(lease_of(5)).await.unwrap().unwrap();
    let own = LeaseRecord { state: LeaseState::Revoking, ..own };
    let forged = LeaseRecord { lease: lease_of(6), ..own.clone() };
    let settled = leases::settle(broker, open, &[forged]).await.unwrap();
    assert_eq!((settled.failed, scene.exists(&role)), (vec![lease_of(6)], true));

    let tools = leases::BrokerTools { broker, open };
    let digest = receipt.0["connection"].as_str().unwrap();
    let key = format!("engine/{digest}");
    let known = tools.recall(digest).await.unwrap().unwrap();
    let sealed = broker.store.meta(key.clone()).await.unwrap().unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&sealed).is_err(), "it is sealed");
    let mut elsewhere = known.clone();
    elsewhere["dial"] = json!("127.0.0.1:1");
    tools.remember("another", elsewhere.clone()).await.unwrap();
    let moved = broker.store.meta("engine/another".to_owned()).await.unwrap().unwrap();
    for by_hand in [serde_json::to_vec(&elsewhere).unwrap(), serde_json::to_vec(&known).unwrap(), moved] {
        let put = Change::PutMeta { key: key.clone(), value: by_hand };
        broker.store.apply(vec![put]).await.unwrap();
        let fault = tools.recall(digest).await.unwrap_err();
        let refused =
            matches!(&fault, EngineFault::Memory(why) if why.contains("not written by this installation"));
        assert!(refused, "{fault}");
        let settled = leases::settle(broker, open, std::slice::from_ref(&own)).await.unwrap();
        assert_eq!((settled.failed, scene.exists(&role)), (vec![lease_of(5)], true));
    }
    broker.store.apply(vec![Change::PutMeta { key, value: sealed }]).await.unwrap();
    let at = broker.started_at;
    let revoke = Change::RevokeLease { lease: lease_of(5), at, end: LeaseEnd::Revoked };
    broker.store.apply(vec![revoke]).await.unwrap();
    broker.leases.ending.notify_one();
    super::harness::until(async || !scene.exists(&role)).await;
}

#[tokio::test]
async fn the_administrator_s_password_is_changed_and_old_leases_stay_revocable() {
    let scene = scene("root").await;
    let role = scene.make(&scene.mark(), lease_of(4));
    let receipt = scene.receipt(lease_of(4)).await;
    scene.lease(lease_of(4), receipt).await;
    assert_eq!(scene.rotate("other").await.unwrap(), Rotated::To { version: 2, leases_ended: 0 });
    let next = scene.stored("other", None).await;
    assert_ne!(next, PASSWORD);
    assert!(scene.logs_in("admin", &next) && !scene.logs_in("admin", PASSWORD));
    // Its lease was made under the old password, and is revoked with the new one.
    let at = scene.life.broker.started_at;
    let revoke = Change::RevokeLease { lease: lease_of(4), at, end: LeaseEnd::Revoked };
    scene.life.broker.store.apply(vec![revoke]).await.unwrap();
    scene.life.broker.leases.ending.notify_one();
    super::harness::until(async || !scene.exists(&role)).await;
    assert_eq!(scene.rotate("other").await.unwrap(), Rotated::To { version: 3, leases_ended: 0 });
    // Somebody else changes it: nothing is lost, and what an operator sets counts.
    scene.sql("ALTER ROLE admin_root PASSWORD 'changed-behind-our-back'");
    assert!(scene.rotate("other").await.is_err());
    assert!(matches!(scene.rotate("other").await, Err(RotateFault::Neither(_))));
    scene.life.set("other", "changed-behind-our-back").await.unwrap();
    super::harness::until(async || {
        rotation::pass(&scene.life.broker, &mut Plans::default()).await.unwrap();
        scene.life.broker.store.pending().await.unwrap().is_empty()
    })
    .await;
    assert!(matches!(scene.rotate("other").await, Ok(Rotated::To { .. })));
    assert!(scene.logs_in("admin", &scene.stored("other", None).await));
}

#[tokio::test]
async fn a_rotation_that_is_cut_off_anywhere_leaves_a_password_that_opens_the_account() {
    let scene = scene("cut").await;
    for polls in 0.. {
        let done = super::reconcile::cut_after(polls, scene.rotate("other")).await;
        super::harness::until(async || {
            rotation::pass(&scene.life.broker, &mut Plans::default()).await.unwrap();
            scene.life.broker.store.pending().await.unwrap().is_empty()
        })
        .await;
        assert!(scene.logs_in("admin", &scene.stored("other", None).await), "after {polls} polls");
        if let Some(done) = done {
            assert!(matches!(done, Ok(Rotated::To { .. })), "{done:?}");
            return;
        }
    }
}

/// Nor can whoever holds it keep it by never committing a change of their own.
#[tokio::test]
async fn a_session_that_holds_its_own_password_s_row_is_ended_before_the_rotation() {
    let scene = scene("held").await;
    super::harness::until(async || {
        rotation::pass(&scene.life.broker, &mut Plans::default()).await.unwrap();
        scene.life.broker.store.credential("report".parse().unwrap(), None).await.unwrap().is_some()
    })
    .await;
    let (first, database, server) =
        (scene.stored("report", Some(1)).await, scene.database.clone(), scene.server);
    let agent = std::thread::spawn(move || {
        let sql = "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'kept-by-the-agent'; SELECT pg_sleep(60); COMMIT";
        server.psql("report_held", &first, &database, sql).unwrap()
    });
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'report_held' AND wait_event = 'PgSleep'";
    super::harness::until(async || scene.sql(waits) == "1").await;
    assert_eq!(scene.rotated("report").await, 2);
    assert!(!agent.join().unwrap().status.success());
    assert!(scene.logs_in("report", &scene.stored("report", Some(2)).await));
    assert!(!scene.logs_in("report", "kept-by-the-agent"));
}

/// The administrator's password is taken nowhere else: not for a survey, not for a rotation, not for a login.
#[tokio::test]
async fn a_changed_place_suspends_the_administrator_until_it_is_set_again() {
    let scene = scene("moved").await;
    let store = &scene.life.broker.store;
    let role = scene.make(&scene.mark(), lease_of(8));
    assert_eq!(scene.findings(lease_of(8)).await, [FindingKind::Orphan]);
    let before = std::fs::read_to_string(scene.home.config()).unwrap();
    let (port, user) = (scene.server.port(), format!("user = \"admin_{}\"", scene.suffix));
    for (line, by) in [
        (format!("server = \"{HOST}:{port}\""), format!("server = \"elsewhere.example:{port}\"")),
        (format!("dial = \"127.0.0.1:{port}\""), "dial = \"127.0.0.1:9\"".to_owned()),
        (format!("database = \"{}\"", scene.database), "database = \"postgres\"".to_owned()),
        (user, "user = \"somebody\"".to_owned()),
    ] {
        assert!(before.contains(&line), "{line}");
        scene.home.write(&before.replace(&line, &by));
        let rules = scene.life.broker.rules.newest().unwrap();
        for name in ["orders", "report"] {
            let of = rules.credential(&name.parse().unwrap()).unwrap();
            let refusal = crate::confirm::leads(store.as_ref(), of).await.unwrap_err();
            assert!(refusal.next.contains("writ credential set other"), "{by}: {refusal:?}");
            let target = rules.target(&"t".parse().unwrap()).unwrap();
            let refusal = crate::confirm::check(store.as_ref(), target, of).await.unwrap_err();
            assert!(refusal.detail.contains("administrator"), "{by}: {refusal:?}");
        }
        let open = scene.life.broker.unlocked().unwrap();
        let survey = reconcile::survey(&scene.life.broker, open).await.unwrap().view();
        assert!(survey.unreachable.iter().any(|one| one.why.contains("suspended")), "{by}: {survey:?}");
        assert!(scene.is_suspended("other").await, "{by}");
        assert!(scene.is_suspended("report").await, "{by}");
        // Setting another credential confirms nothing, setting the administrator's does.
        scene.life.set("c", PASSWORD).await.unwrap();
        assert!(scene.is_suspended("other").await, "{by}");
    }
    scene.life.set("other", PASSWORD).await.unwrap();
    let rules = scene.life.broker.rules.newest().unwrap();
    let of = rules.credential(&"orders".parse().unwrap()).unwrap();
    crate::confirm::leads(store.as_ref(), of).await.unwrap();
    scene.home.write(&before);
    scene.life.broker.rules.newest().unwrap();
    assert!(scene.is_suspended("other").await, "the first place is another now");
    scene.life.set("other", PASSWORD).await.unwrap();
    assert_eq!(scene.findings(lease_of(8)).await, [FindingKind::Orphan]);
    assert!(scene.exists(&role));
}

#[tokio::test]
async fn a_static_role_has_one_password_and_the_one_before_is_dead() {
    let scene = scene("static").await;
    super::harness::until(async || {
        rotation::pass(&scene.life.broker, &mut Plans::default()).await.unwrap();
        scene.life.broker.store.credential("report".parse().unwrap(), None).await.unwrap().is_some()
    })
    .await;
    let first = scene.stored("report", Some(1)).await;
    assert!(scene.logs_in("report", &first), "the schedule gives it a password at once");
    assert_eq!(scene.rotated("report").await, 2);
    let second = scene.stored("report", Some(2)).await;
    assert!(scene.logs_in("report", &second) && !scene.logs_in("report", &first));
    scene.home.clock.pass(std::time::Duration::from_secs(3600));
    rotation::pass(&scene.life.broker, &mut Plans::default()).await.unwrap();
    assert!(scene.logs_in("report", &scene.stored("report", Some(3)).await));
    // The administrator's password opens another account than the role's, and only one.
    assert_eq!(scene.rotated("other").await, 2);
    assert_eq!(scene.rotated("report").await, 4, "set by the new one");
}
