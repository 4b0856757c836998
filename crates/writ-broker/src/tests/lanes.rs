//! Revocation lane by lane, quarantine, quotas, renewal and recovery, with an engine whose servers go away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use writ_core::{
    BootId, BoxFuture, CredentialName, Engine, EngineFault, LeaseEnd, LeaseId, LeaseState, Minted, Permit,
    Receipt, RefusalKind, Revoked, Secret, SessionId, Timestamp, Tools,
};

use super::{
    harness::{Home, KEY, Life, until},
    recovery::kill,
};
use crate::{
    leases::{self, Which},
    store::{Change, LeaseFilter, LeaseRecord, SessionRecord},
    tasks,
};

/// What a server does when it is asked to revoke or to renew.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Mode {
    #[default]
    Well,
    /// Nobody answers.
    Away,
    /// It answers, and does not do it.
    Refuses,
    /// It takes the question and never answers.
    Hangs,
}

/// One server for each credential, and a lane each.
#[derive(Default)]
pub(super) struct Servers {
    modes: Mutex<HashMap<String, Mode>>,
    /// Revocations that were asked for, by lane.
    asked: Mutex<HashMap<String, usize>>,
    /// How many of them are under way, and how many were at once.
    together: Mutex<(usize, usize)>,
    renewed: Mutex<Vec<Timestamp>>,
}

impl Servers {
    pub(super) fn set(&self, lane: &str, mode: Mode) {
        self.modes.lock().unwrap().insert(lane.to_owned(), mode);
    }

    fn mode(&self, receipt: &Receipt) -> (String, Mode) {
        let lane = receipt.0["lane"].as_str().unwrap().to_owned();
        let mode = self.modes.lock().unwrap().get(&lane).copied().unwrap_or_default();
        (lane, mode)
    }

    pub(super) fn asked(&self, lane: &str) -> usize {
        self.asked.lock().unwrap().get(lane).copied().unwrap_or(0)
    }

    async fn answer(&self, lane: String, mode: Mode) -> Result<(), EngineFault> {
        match mode {
            Mode::Well => Ok(()),
            Mode::Away => Err(EngineFault::Unreachable { lane, detail: "no route".into() }),
            Mode::Refuses => Err(EngineFault::Receipt("it owns objects".into())),
            Mode::Hangs => std::future::pending().await,
        }
    }
}

impl Engine for Servers {
    fn name(&self) -> &'static str {
        "static"
    }

    fn check(&self, _: &CredentialName, _: &Value) -> Result<(), EngineFault> {
        Ok(())
    }

    fn plan<'a>(
        &'a self,
        permit: &'a Permit,
        _: LeaseId,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        let lane = permit.asked().credential.as_ref().unwrap().as_str();
        Box::pin(std::future::ready(Ok(Receipt(json!({ "lane": lane })))))
    }

    fn lane(&self, receipt: &Receipt) -> String {
        self.mode(receipt).0
    }

    fn mint<'a>(
        &'a self,
        _: &'a Permit,
        _: &'a Receipt,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(std::future::ready(Ok(Minted::bare(Secret::new(KEY.into()), 1))))
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move {
            let (lane, mode) = self.mode(receipt);
            *self.asked.lock().unwrap().entry(lane.clone()).or_default() += 1;
            let enter = |change: isize| {
                let mut together = self.together.lock().unwrap();
                together.0 = together.0.strict_add_signed(change);
                together.1 = together.1.max(together.0);
            };
            enter(1);
            tokio::task::yield_now().await;
            let answer = self.answer(lane, mode).await;
            enter(-1);
            answer.map(|()| Revoked::Gone)
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        expires_at: Timestamp,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(async move {
            let (lane, mode) = self.mode(receipt);
            self.answer(lane, mode).await?;
            self.renewed.lock().unwrap().push(expires_at);
            Ok(())
        })
    }

    fn example(&self) -> Value {
        Value::Null
    }
}

/// Both targets in one role, with more lines for that role.
pub(super) fn home(role: &str) -> Home {
    let home = Home::new();
    let text = home.text("key-file");
    let grants = "grants = [{ target = \"t\", methods = [\"POST\"], paths = [\"/v1/*\"] }]";
    assert!(text.contains(grants));
    home.write(
        &text.replace(grants, &format!("{role}\ngrants = [{{ target = \"t\" }}, {{ target = \"u\" }}]")),
    );
    home
}

async fn lease(life: &Life, lease: LeaseId) -> LeaseRecord {
    life.broker.store.lease(lease).await.unwrap().unwrap()
}

async fn ended(life: &Life, one: LeaseId) {
    until(async || lease(life, one).await.state == LeaseState::Ended).await;
}

/// So many leases on the target.
async fn acquired(life: &Life, session: SessionId, target: &str, number: usize) -> Vec<LeaseId> {
    let mut leases = Vec::new();
    for _ in 0..number {
        leases.push(life.acquire(session, target).await.unwrap().lease);
    }
    leases
}

async fn end(life: &Life, which: Which<'_>) {
    leases::end(&life.broker, LeaseEnd::Superseded, which).await.unwrap();
}

async fn pass(life: &Life) {
    tasks::revocation::pass(&life.broker).await.unwrap();
}

#[tokio::test]
async fn a_lane_that_hangs_keeps_no_other_waiting() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    let hangs = acquired(&life, opened.session, "t", 3).await;
    let well = acquired(&life, opened.session, "u", 3).await;
    servers.set("c", Mode::Hangs);
    end(&life, Which::All).await;
    until(async || servers.asked("c") == 3).await;
    for one in well {
        ended(&life, one).await;
    }
    // And what ends later finds its lane free.
    let later = acquired(&life, opened.session, "u", 1).await;
    end(&life, Which::Lease(later[0])).await;
    ended(&life, later[0]).await;
    assert_eq!(lease(&life, hangs[0]).await.state, LeaseState::Revoking);
    assert_eq!(servers.asked("c"), 3, "one owner: nobody asks twice meanwhile");
}

#[tokio::test]
async fn what_waits_on_a_lane_is_handed_over_together() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    let leases = acquired(&life, opened.session, "t", 40).await;
    end(&life, Which::All).await;
    for one in leases {
        ended(&life, one).await;
    }
    assert_eq!(*servers.together.lock().unwrap(), (0, 40));
    assert_eq!(servers.asked("c"), 40);
}

#[tokio::test]
async fn a_lane_that_is_away_is_probed_by_one_and_comes_back_at_once_when_it_is_reached() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    let leases = acquired(&life, opened.session, "t", 5).await;
    servers.set("c", Mode::Away);
    end(&life, Which::All).await;
    until(async || servers.asked("c") == 5).await;
    pass(&life).await;
    assert_eq!(servers.asked("c"), 5, "not before its pause is over");
    for (seconds, asked) in [(1, 6), (1, 6), (1, 7), (3, 7), (1, 8)] {
        home.clock.pass(Duration::from_secs(seconds));
        pass(&life).await;
        assert_eq!(servers.asked("c"), asked, "one probe a pause, and the pause doubles");
    }
    servers.set("c", Mode::Well);
    pass(&life).await;
    assert_eq!(lease(&life, leases[0]).await.state, LeaseState::Revoking, "nobody knows");
    // Somebody gets a new lease there: it is back.
    life.acquire(opened.session, "t").await.unwrap();
    for one in leases {
        ended(&life, one).await;
    }
}

#[tokio::test]
async fn a_lease_that_fails_is_put_off_alone_and_for_ever_tried_again() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    let stuck = acquired(&life, opened.session, "t", 1).await[0];
    servers.set("c", Mode::Refuses);
    end(&life, Which::All).await;
    until(async || servers.asked("c") == 1).await;
    servers.set("c", Mode::Well);
    let other = acquired(&life, opened.session, "t", 1).await[0];
    end(&life, Which::All).await;
    ended(&life, other).await;
    assert_eq!(lease(&life, stuck).await.state, LeaseState::Revoking);
    servers.set("c", Mode::Refuses);
    for tries in 0..20 {
        home.clock.pass(Duration::from_secs(300));
        pass(&life).await;
        assert_eq!(servers.asked("c"), 3 + tries, "five minutes at the most, and never given up");
    }
    servers.set("c", Mode::Well);
    home.clock.pass(Duration::from_secs(300));
    pass(&life).await;
    assert_eq!(lease(&life, stuck).await.revoked, Some(Revoked::Gone));
}

#[tokio::test]
async fn a_role_whose_leases_cannot_be_revoked_gets_no_more_until_they_are() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    acquired(&life, opened.session, "t", 2).await;
    servers.set("c", Mode::Away);
    end(&life, Which::All).await;
    until(async || servers.asked("c") == 2).await;
    home.clock.pass(leases::quarantine::QUARANTINE_AFTER - Duration::from_secs(1));
    pass(&life).await;
    let fresh = acquired(&life, opened.session, "t", 1).await;
    assert_eq!(lease(&life, fresh[0]).await.state, LeaseState::Active, "not yet");
    home.clock.pass(Duration::from_secs(1));
    pass(&life).await;
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Quarantined);
    assert!(
        refusal.detail.starts_with("2 of the role dev's leases on c could not be revoked since 20"),
        "{refusal:?}"
    );
    assert!(refusal.next.contains("writ lease list"));
    let stuck = life.broker.quarantines.all();
    assert_eq!(stuck.iter().map(|stuck| stuck.leases).collect::<Vec<_>>(), [2], "as `writ doctor` shows it");
    assert!(life.acquire(opened.session, "u").await.is_ok(), "another credential is another matter");
    // A restart lets nobody out.
    kill(life).await;
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    assert_eq!(life.acquire(opened.session, "t").await.unwrap_err().kind, RefusalKind::Quarantined);
    servers.set("c", Mode::Well);
    until(async || {
        home.clock.pass(Duration::from_secs(1));
        pass(&life).await;
        life.broker.quarantines.all().is_empty()
    })
    .await;
    assert!(life.acquire(opened.session, "t").await.is_ok());
    let log = home.log(&life, writ_audit::Kind::Lease).await;
    let told = |line: &str| log.iter().filter(|found| *found == line).count();
    assert!(told("quarantine ok") >= 1 && told("quarantine-ended ok") == 1, "{log:?}");
}

#[tokio::test]
async fn a_quota_refuses_before_anything_is_made_and_says_which_it_is() {
    let home = home("leases_max = 2\nissue_rate = \"3/m\"");
    let life = home.life_of(Arc::new(Servers::default())).await;
    let (opened, _attached) = life.open().await;
    acquired(&life, opened.session, "t", 2).await;
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.detail.contains("`leases_max`")),
        (RefusalKind::Limit, true),
        "{refusal:?}"
    );
    end(&life, Which::All).await;
    acquired(&life, opened.session, "t", 1).await;
    let refusal = life.acquire(opened.session, "t").await.unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.detail.contains("`issue_rate`")),
        (RefusalKind::Limit, true),
        "{refusal:?}"
    );
    assert!(refusal.next.starts_with("try again in 20 s"), "{refusal:?}");
    let everything = LeaseFilter { ended: true, ..LeaseFilter::default() };
    assert_eq!(
        life.broker.store.leases(everything).await.unwrap().len(),
        3,
        "nothing was made of what was refused"
    );
    home.clock.pass(Duration::from_secs(20));
    assert!(life.acquire(opened.session, "t").await.is_ok());
}

#[tokio::test]
async fn a_renewal_lengthens_the_life_everywhere_but_not_past_the_session() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let open = life.broker.unlocked().unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(Duration::from_secs(10 * 60));
    let expires_at = leases::renew(&life.broker, open, granted.lease).await.unwrap();
    assert_eq!(expires_at.millis() - granted.expires_at.millis(), 10 * 60 * 1000);
    assert_eq!(lease(&life, granted.lease).await.expires_at, expires_at);
    assert_eq!(*servers.renewed.lock().unwrap(), [expires_at]);
    home.clock.pass(Duration::from_secs(10 * 60));
    tasks::expiry::pass(&life.broker).await;
    assert_eq!(lease(&life, granted.lease).await.state, LeaseState::Active);
    for _ in 0..9 {
        home.clock.pass(Duration::from_secs(4 * 60));
        leases::renew(&life.broker, open, granted.lease).await.unwrap();
    }
    assert_eq!(lease(&life, granted.lease).await.expires_at, opened.expires_at);
    let asked = servers.renewed.lock().unwrap().len();
    leases::renew(&life.broker, open, granted.lease).await.unwrap();
    assert_eq!(servers.renewed.lock().unwrap().len(), asked, "there is nothing left to ask for");
}

#[tokio::test]
async fn a_renewal_that_fails_or_is_denied_leaves_the_old_end() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let open = life.broker.unlocked().unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(Duration::from_secs(60));
    let renewed =
        async || leases::renew(&life.broker, open, granted.lease).await.map_err(|refusal| refusal.kind);
    servers.set("c", Mode::Away);
    assert_eq!(renewed().await, Err(RefusalKind::NoCredential));
    assert_eq!(lease(&life, granted.lease).await.expires_at, granted.expires_at, "put back");
    servers.set("c", Mode::Well);
    let text = std::fs::read_to_string(home.config()).unwrap();
    home.write(&text.replace("{ target = \"t\" }", "{ target = \"t\", methods = [\"GET\"] }"));
    life.broker.rules.newest().unwrap();
    assert_eq!(renewed().await, Err(RefusalKind::Denied), "a lease keeps its scope");
    home.write(&text.replace("{ target = \"t\" },", ""));
    life.broker.rules.newest().unwrap();
    assert_eq!(renewed().await, Err(RefusalKind::Denied));
    assert_eq!(servers.renewed.lock().unwrap().len(), 0);
    home.write(&text);
    life.broker.rules.newest().unwrap();
    end(&life, Which::Lease(granted.lease)).await;
    assert_eq!(renewed().await, Err(RefusalKind::LeaseExpired), "what ends is not renewed");
}

#[tokio::test]
async fn what_is_over_by_its_deadline_is_not_renewed_although_no_task_ran() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    home.clock.pass(Duration::from_secs(15 * 60));
    let refusal =
        leases::renew(&life.broker, life.broker.unlocked().unwrap(), granted.lease).await.unwrap_err();
    assert_eq!((refusal.kind, servers.renewed.lock().unwrap().len()), (RefusalKind::LeaseExpired, 0));
}

#[tokio::test]
async fn the_task_renews_what_is_due_and_tries_again_what_failed() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    life.broker.stopping.send_replace(true);
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    let now = || writ_core::Clock::boottime(home.clock.as_ref());
    life.broker.leases.renew_at(granted.lease, now() + Duration::from_secs(600));
    let renewed = async || {
        tasks::renewal::pass(&life.broker).await.unwrap();
        servers.renewed.lock().unwrap().len()
    };
    assert_eq!(renewed().await, 0, "it is not due");
    home.clock.pass(Duration::from_secs(600));
    servers.set("c", Mode::Away);
    assert_eq!(renewed().await, 0);
    servers.set("c", Mode::Well);
    assert_eq!(renewed().await, 0, "not before a pause");
    home.clock.pass(Duration::from_secs(5));
    assert_eq!(renewed().await, 1);
    home.clock.pass(Duration::from_secs(300));
    assert_eq!(renewed().await, 1, "what is injected is on nobody's list");
}

/// As another life of the broker would have left them, and no more than the store knows.
async fn left_behind(life: &Life, leases: u16) -> Vec<LeaseId> {
    // No task is to be quicker than the test.
    life.broker.stopping.send_replace(true);
    let boot = BootId::new(Timestamp::from_millis(1), &[9; 10]);
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    let session = SessionId::new(Timestamp::from_millis(2), &[9; 10]);
    let record = life.broker.store.session(opened.session).await.unwrap().unwrap();
    let mut changes = vec![Change::OpenSession(SessionRecord { session, boot, ..record })];
    let like = lease(life, granted.lease).await;
    let ids = (0..leases).map(|number| {
        let [high, low] = number.to_be_bytes();
        LeaseId::new(Timestamp::from_millis(3), &[9, 9, 9, 9, 9, 9, 9, 9, high, low])
    });
    let ids: Vec<LeaseId> = ids.collect();
    for lease in &ids {
        let state = LeaseState::Pending;
        changes.push(Change::OpenLease(LeaseRecord { lease: *lease, session, boot, state, ..like.clone() }));
    }
    life.broker.store.apply(changes).await.unwrap();
    ids
}

#[tokio::test]
async fn a_start_ends_what_was_left_in_parts_and_in_the_background() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let left = left_behind(&life, 600).await;
    let ask = tasks::recovery::ask(life.broker.boot, Timestamp::from_millis(9));
    let first = tasks::recovery::sessions(life.broker.store.as_ref(), &ask).await.unwrap();
    assert_eq!((first.sessions.len(), first.leases.len()), (1, 256), "a start waits for no more than this");
    let alive = async || {
        let all = life.broker.store.leases(LeaseFilter::default()).await.unwrap();
        all.iter().filter(|lease| lease.end.is_none()).count()
    };
    assert_eq!(alive().await, 600 - 256 + 1, "one is this life's own");
    tasks::recovery::pass(&life.broker).await.unwrap();
    assert_eq!(alive().await, 1);
    pass(&life).await;
    for one in left {
        let record = lease(&life, one).await;
        assert_eq!((record.state, record.end), (LeaseState::Ended, Some(LeaseEnd::Orphaned)));
    }
    assert_eq!(servers.asked("c"), 600);
}

#[tokio::test]
async fn an_operator_ends_a_lease_that_no_living_daemon_knows() {
    let (home, servers) = (home(""), Arc::new(Servers::default()));
    let life = home.life_of(servers.clone()).await;
    let left = left_behind(&life, 2).await;
    let record = lease(&life, left[0]).await;
    assert!(
        leases::renew(&life.broker, life.broker.unlocked().unwrap(), left[0]).await.is_err(),
        "it is dead"
    );
    leases::end_known(&life.broker, &record, LeaseEnd::Revoked).await.unwrap();
    pass(&life).await;
    let record = lease(&life, left[0]).await;
    assert_eq!((record.state, record.end), (LeaseState::Ended, Some(LeaseEnd::Revoked)));
    assert_eq!(lease(&life, left[1]).await.end, None);
}
