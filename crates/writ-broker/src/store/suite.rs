//! What every store promises, as one suite: SQLite passes it today, PostgreSQL has to.
//!
//! A check gets an empty store. It asserts on what comes back, never on how long it takes.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;
use writ_core::{
    BootId, CredentialName, LeaseEnd, LeaseId, LeaseState, Level, Receipt, Revoked, Scope, SessionId,
    Timestamp,
};

use super::{
    Change, CredentialVersion, LeaseFilter, LeaseRecord, OriginalRecord, Orphan, Orphaned, PendingValue,
    SessionRecord, Store, StoreFault, StoredValue, Stuck,
};

/// Runs every check on a store of its own.
pub(crate) async fn check_store<M, F>(make: M)
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn Store>>,
{
    an_empty_store_is_empty(&*make().await).await;
    credentials_have_versions(&*make().await).await;
    sessions_are_kept_as_given(&*make().await).await;
    a_session_keeps_its_first_end(&*make().await).await;
    leases_are_kept_as_given(&*make().await).await;
    a_lease_moves_only_forward(&*make().await).await;
    every_end_and_outcome_is_kept(&*make().await).await;
    no_lease_without_a_living_session(&*make().await).await;
    leases_are_found_by_filter(&*make().await).await;
    orphans_are_found_in_parts(&*make().await).await;
    what_is_stuck_is_counted(&*make().await).await;
    lists_are_bounded(&*make().await).await;
    a_job_is_all_or_nothing(&*make().await).await;
    meta_values_are_replaced(&*make().await).await;
    originals_are_kept_by_path_and_hash(&*make().await).await;
    a_pending_value_is_not_overwritten(&*make().await).await;
    callers_do_not_disturb_each_other(make().await).await;
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(crate) fn session_id(number: u16) -> SessionId {
    SessionId::new(at(1_000 + i64::from(number)), &random(number))
}

pub(crate) fn lease_id(number: u16) -> LeaseId {
    LeaseId::new(at(1_000 + i64::from(number)), &random(number))
}

pub(crate) fn boot(number: u16) -> BootId {
    BootId::new(at(1), &random(number))
}

pub(crate) fn name(text: &str) -> CredentialName {
    text.parse().unwrap()
}

pub(crate) fn session(number: u16) -> SessionRecord {
    SessionRecord {
        session: session_id(number),
        boot: boot(1),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        requester: "ada".to_owned(),
        program: "/usr/bin/claude".to_owned(),
        directory: "/home/ada/it's \"x\"; DROP TABLE leases; --é".to_owned(),
        pid: 4711,
        level: Level::Advisory,
        prompt_sha256: None,
        resumed_from: None,
        opened_at: at(1_000),
        expires_at: at(i64::MAX),
        ended_at: None,
        end: None,
    }
}

pub(crate) fn lease(number: u16, session: u16) -> LeaseRecord {
    LeaseRecord {
        lease: lease_id(number),
        session: session_id(session),
        boot: boot(1),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        target: "openai".parse().unwrap(),
        credential: Some(name("openai")),
        engine: "static".to_owned(),
        version: 0,
        scope: Scope { authority: "api.openai.com".parse().unwrap(), grants: Vec::new() },
        receipt: Receipt(json!({"key": ["a", 1, null], "text": "é\u{0}'"})),
        lane: "static".into(),
        revealed: false,
        state: LeaseState::Pending,
        end: None,
        revoked: None,
        issued_at: at(2_000),
        expires_at: at(3_000),
        ended_at: None,
    }
}

pub(crate) fn sealed(credential: &str, version: u32) -> CredentialVersion {
    CredentialVersion {
        name: name(credential),
        version,
        value: StoredValue::Sealed(vec![0, 255, u8::try_from(version).unwrap()]),
        set_at: at(i64::from(version)),
    }
}

fn random(number: u16) -> [u8; 10] {
    let mut bytes = [7; 10];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What became of a job, for tables.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Became {
    Done,
    Conflict,
    Missing,
}

async fn became(store: &dyn Store, changes: Vec<Change>) -> Became {
    match store.apply(changes).await {
        Ok(()) => Became::Done,
        Err(StoreFault::Conflict(_)) => Became::Conflict,
        Err(StoreFault::Missing(_)) => Became::Missing,
        Err(other) => panic!("{other}"),
    }
}

async fn an_empty_store_is_empty(store: &dyn Store) {
    store.apply(Vec::new()).await.unwrap();
    assert_eq!(store.credential(name("a"), None).await.unwrap(), None);
    assert!(store.credentials().await.unwrap().is_empty());
    assert_eq!(store.session(session_id(1)).await.unwrap(), None);
    assert!(store.sessions(true).await.unwrap().is_empty());
    assert_eq!(store.lease(lease_id(1)).await.unwrap(), None);
    let everything = LeaseFilter { ended: true, ..LeaseFilter::default() };
    assert!(store.leases(everything).await.unwrap().is_empty());
    assert_eq!(store.meta("keyring".to_owned()).await.unwrap(), None);
}

async fn credentials_have_versions(store: &dyn Store) {
    let reference = CredentialVersion {
        value: StoredValue::Reference("cmd://pass show \"api key\"".to_owned()),
        ..sealed("b", 1)
    };
    for row in [sealed("a", 2), sealed("a", 10), sealed("a", 1), reference.clone(), sealed("ab", 7)] {
        store.apply(vec![Change::PutCredential(row)]).await.unwrap();
    }
    for (asked, found) in [
        (("a", None), Some(sealed("a", 10))),
        (("a", Some(1)), Some(sealed("a", 1))),
        (("a", Some(2)), Some(sealed("a", 2))),
        (("a", Some(3)), None),
        (("b", None), Some(reference.clone())),
        (("c", None), None),
    ] {
        assert_eq!(store.credential(name(asked.0), asked.1).await.unwrap(), found, "{asked:?}");
    }
    assert_eq!(store.credentials().await.unwrap(), [sealed("a", 10), sealed("ab", 7), reference]);

    let other = CredentialVersion { value: StoredValue::Sealed(vec![9]), ..sealed("a", 2) };
    assert_eq!(became(store, vec![Change::PutCredential(other)]).await, Became::Conflict);
    assert_eq!(store.credential(name("a"), Some(2)).await.unwrap(), Some(sealed("a", 2)));

    let remove = |text| vec![Change::RemoveCredential(name(text))];
    assert_eq!(became(store, remove("a")).await, Became::Done);
    assert_eq!(store.credential(name("a"), Some(1)).await.unwrap(), None);
    assert_eq!(store.credential(name("ab"), None).await.unwrap(), Some(sealed("ab", 7)));
    assert_eq!(became(store, remove("a")).await, Became::Missing);
    assert_eq!(became(store, vec![Change::PutCredential(sealed("a", 1))]).await, Became::Done);
}

async fn sessions_are_kept_as_given(store: &dyn Store) {
    let full = SessionRecord {
        level: Level::Confined,
        prompt_sha256: Some("ab".repeat(32)),
        resumed_from: Some(SessionId::new(Timestamp::from_millis(7), &[7; 10])),
        pid: i32::MAX,
        opened_at: at(i64::MIN),
        ..session(2)
    };
    let restricted = SessionRecord { level: Level::Restricted, ..session(3) };
    for record in [session(1), full, restricted] {
        store.apply(vec![Change::OpenSession(record.clone())]).await.unwrap();
        assert_eq!(store.session(record.session).await.unwrap(), Some(record.clone()));
        assert_eq!(became(store, vec![Change::OpenSession(record)]).await, Became::Conflict);
    }
    let found = store.sessions(false).await.unwrap();
    let order: Vec<SessionId> = found.iter().map(|record| record.session).collect();
    assert_eq!(order, [session_id(3), session_id(2), session_id(1)]);
}

async fn a_session_keeps_its_first_end(store: &dyn Store) {
    let end = |number, millis, text: &str| {
        vec![Change::EndSession { session: session_id(number), at: at(millis), end: text.to_owned() }]
    };
    store.apply(vec![Change::OpenSession(session(1)), Change::OpenSession(session(2))]).await.unwrap();
    assert_eq!(became(store, end(1, 50, "exited")).await, Became::Done);
    assert_eq!(became(store, end(1, 60, "killed")).await, Became::Done);
    assert_eq!(became(store, end(3, 60, "killed")).await, Became::Missing);
    let found = store.session(session_id(1)).await.unwrap().unwrap();
    assert_eq!((found.ended_at, found.end.as_deref()), (Some(at(50)), Some("exited")));
    assert_eq!(store.sessions(false).await.unwrap(), [session(2)]);
    assert_eq!(store.sessions(true).await.unwrap(), [session(2), found]);
}

async fn leases_are_kept_as_given(store: &dyn Store) {
    let scope = json!({
        "authority": "api.example:8443",
        "grants": [{"methods": ["POST", "GET"], "paths": ["/v1/*", "/é".replace('é', "e")]}, {"methods": [], "paths": []}]
    });
    let full = LeaseRecord {
        scope: serde_json::from_value(scope).unwrap(),
        version: u32::MAX,
        boot: boot(2),
        ..lease(2, 1)
    };
    store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
    for record in [lease(1, 1), full] {
        store.apply(vec![Change::OpenLease(record.clone())]).await.unwrap();
        assert_eq!(store.lease(record.lease).await.unwrap(), Some(record.clone()));
        assert_eq!(became(store, vec![Change::OpenLease(record)]).await, Became::Conflict);
    }
    let active = LeaseRecord { state: LeaseState::Active, ..lease(3, 1) };
    assert_eq!(became(store, vec![Change::OpenLease(active)]).await, Became::Conflict);
}

async fn a_lease_moves_only_forward(store: &dyn Store) {
    use LeaseState::{Active, Ended, Pending, Revoking};
    let activate = |lease| Change::ActivateLease { lease, version: 5, receipt: None };
    let revoke = |lease| Change::RevokeLease { lease, at: at(2_500), end: LeaseEnd::Expired };
    let again = |lease| Change::RevokeLease { lease, at: at(2_600), end: LeaseEnd::Revoked };
    let end = |lease| Change::EndLease { lease, at: at(2_700), revoked: Revoked::Gone };
    let end_again = |lease| Change::EndLease { lease, at: at(2_800), revoked: Revoked::UseBlocked };
    type Step = dyn Fn(LeaseId) -> Change;
    let (activate, revoke, again): (&Step, &Step, &Step) = (&activate, &revoke, &again);
    let (end, end_again): (&Step, &Step) = (&end, &end_again);
    let table: [(&[&Step], &Step, Became, LeaseState); 12] = [
        (&[], activate, Became::Done, Active),
        (&[activate], activate, Became::Conflict, Active),
        (&[revoke], activate, Became::Conflict, Revoking),
        (&[revoke, end], activate, Became::Conflict, Ended),
        (&[], revoke, Became::Done, Revoking),
        (&[activate], revoke, Became::Done, Revoking),
        (&[activate, revoke], again, Became::Done, Revoking),
        (&[activate, revoke, end], again, Became::Done, Ended),
        (&[], end, Became::Conflict, Pending),
        (&[activate], end, Became::Conflict, Active),
        (&[revoke], end, Became::Done, Ended),
        (&[revoke, end], end_again, Became::Done, Ended),
    ];
    store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
    for (row, (before, step, result, state)) in table.into_iter().enumerate() {
        let record = lease(u16::try_from(row).unwrap(), 1);
        let id = record.lease;
        store.apply(vec![Change::OpenLease(record)]).await.unwrap();
        for change in before {
            store.apply(vec![change(id)]).await.unwrap();
        }
        assert_eq!(became(store, vec![step(id)]).await, result, "row {row}");
        let found = store.lease(id).await.unwrap().unwrap();
        assert_eq!(found.state, state, "row {row}");
        assert_eq!(
            found.end,
            (state == Revoking || state == Ended).then_some(LeaseEnd::Expired),
            "row {row}"
        );
        assert_eq!(found.revoked, (state == Ended).then_some(Revoked::Gone), "row {row}");
        assert_eq!(found.ended_at, (state == Ended).then_some(at(2_700)), "row {row}");
        let activated = (before.len() == 1 && row != 2 && row != 10) || row == 0 || row == 6 || row == 7;
        assert_eq!(found.version, if activated { 5 } else { 0 }, "row {row}");
    }
    for step in [activate, revoke, end] {
        assert_eq!(became(store, vec![step(lease_id(999))]).await, Became::Missing);
    }
}

async fn every_end_and_outcome_is_kept(store: &dyn Store) {
    let ends = [
        LeaseEnd::Expired,
        LeaseEnd::Revoked,
        LeaseEnd::Superseded,
        LeaseEnd::SessionEnded,
        LeaseEnd::Orphaned,
        LeaseEnd::Lost,
    ];
    store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
    let outcomes = [Revoked::Gone, Revoked::UseBlocked].into_iter().cycle();
    for ((number, end), revoked) in (1..).zip(ends).zip(outcomes) {
        let id = lease_id(number);
        let job = vec![
            Change::OpenLease(lease(number, 1)),
            Change::RevokeLease { lease: id, at: at(8), end },
            Change::EndLease { lease: id, at: at(9), revoked },
        ];
        store.apply(job).await.unwrap();
        let found = store.lease(id).await.unwrap().unwrap();
        assert_eq!((found.end, found.revoked), (Some(end), Some(revoked)));
    }
}

async fn no_lease_without_a_living_session(store: &dyn Store) {
    assert_eq!(became(store, vec![Change::OpenLease(lease(1, 1))]).await, Became::Missing);
    let end = Change::EndSession { session: session_id(1), at: at(5), end: "exited".to_owned() };
    store.apply(vec![Change::OpenSession(session(1)), end]).await.unwrap();
    assert_eq!(became(store, vec![Change::OpenLease(lease(1, 1))]).await, Became::Conflict);
    assert_eq!(store.lease(lease_id(1)).await.unwrap(), None);
}

async fn leases_are_found_by_filter(store: &dyn Store) {
    let git = LeaseRecord { credential: Some(name("git")), ..lease(2, 1) };
    let old = LeaseRecord { boot: boot(9), ..lease(3, 2) };
    let revoke = |lease| Change::RevokeLease { lease, at: at(9), end: LeaseEnd::Orphaned };
    let end = |lease| Change::EndLease { lease, at: at(9), revoked: Revoked::UseBlocked };
    store
        .apply(vec![
            Change::OpenSession(session(1)),
            Change::OpenSession(session(2)),
            Change::OpenLease(old),
            Change::OpenLease(lease(1, 1)),
            Change::OpenLease(git),
            Change::OpenLease(lease(4, 2)),
            Change::OpenLease(lease(5, 1)),
            Change::OpenLease(lease(6, 1)),
            Change::ActivateLease { lease: lease_id(4), version: 1, receipt: None },
            revoke(lease_id(5)),
            revoke(lease_id(6)),
            end(lease_id(6)),
        ])
        .await
        .unwrap();
    let all = LeaseFilter::default;
    let table = [
        (all(), vec![5, 4, 3, 2, 1]),
        (LeaseFilter { ended: true, ..all() }, vec![6, 5, 4, 3, 2, 1]),
        (LeaseFilter { session: Some(session_id(1)), ..all() }, vec![5, 2, 1]),
        (LeaseFilter { session: Some(session_id(1)), ended: true, ..all() }, vec![6, 5, 2, 1]),
        (LeaseFilter { session: Some(session_id(7)), ended: true, ..all() }, vec![]),
        (LeaseFilter { credential: Some(name("git")), ..all() }, vec![2]),
        (LeaseFilter { credential: Some(name("openai")), ended: true, ..all() }, vec![6, 5, 4, 3, 1]),
        (LeaseFilter { other_boot: Some(boot(1)), ..all() }, vec![3]),
        (LeaseFilter { other_boot: Some(boot(9)), ended: true, ..all() }, vec![6, 5, 4, 2, 1]),
        (LeaseFilter { session: Some(session_id(2)), other_boot: Some(boot(9)), ..all() }, vec![4]),
    ];
    for (filter, expected) in table {
        let found: Vec<LeaseId> =
            store.leases(filter.clone()).await.unwrap().iter().map(|record| record.lease).collect();
        let expected: Vec<LeaseId> = expected.into_iter().map(lease_id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// Boot 5 asks; what boots before and after it by number left is dead.
async fn orphans_are_found_in_parts(store: &dyn Store) {
    let of = |number, owner| SessionRecord { boot: boot(owner), ..session(number) };
    for (number, owner) in [(1, 5), (2, 4), (3, 4), (4, 9)] {
        store.apply(vec![Change::OpenSession(of(number, owner))]).await.unwrap();
    }
    for (number, session, owner) in [(1, 1, 5), (2, 2, 4), (3, 2, 4), (4, 3, 4), (5, 4, 9), (6, 4, 9)] {
        let record = LeaseRecord { boot: boot(owner), ..lease(number, session) };
        store.apply(vec![Change::OpenLease(record)]).await.unwrap();
    }
    let activate = Change::ActivateLease { lease: lease_id(2), version: 1, receipt: None };
    let revoke = Change::RevokeLease { lease: lease_id(3), at: at(7), end: LeaseEnd::Expired };
    store.apply(vec![activate, revoke]).await.unwrap();
    let ask = || store.orphan(Orphan { boot: boot(5), at: at(9), end: "orphaned".into(), limit: 2 });
    let (mut sessions, mut leases) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let Orphaned { sessions: some, leases: others } = ask().await.unwrap();
        assert!(some.len() <= 2 && others.len() <= 2, "as many as were asked for");
        assert!(some.is_empty() || leases.is_empty() && others.is_empty(), "sessions come first");
        sessions.extend(some);
        leases.extend(others);
    }
    sessions.sort_unstable();
    leases.sort_unstable();
    assert_eq!(sessions, [2, 3, 4].map(session_id));
    assert_eq!(leases, [2, 4, 5, 6].map(lease_id), "3 was revoking, 1 is the asking boot's own");
    for number in [2, 4, 5, 6] {
        let found = store.lease(lease_id(number)).await.unwrap().unwrap();
        assert_eq!((found.state, found.end), (LeaseState::Revoking, Some(LeaseEnd::Orphaned)), "{number}");
    }
    assert_eq!(store.lease(lease_id(3)).await.unwrap().unwrap().end, Some(LeaseEnd::Expired));
    assert_eq!(store.lease(lease_id(1)).await.unwrap().unwrap().end, None);
    assert_eq!(store.session(session_id(4)).await.unwrap().unwrap().end.as_deref(), Some("orphaned"));
    assert_eq!(store.sessions(false).await.unwrap(), [of(1, 5)]);
}

async fn what_is_stuck_is_counted(store: &dyn Store) {
    store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
    let other = LeaseRecord { credential: Some(name("git")), ..lease(4, 1) };
    let bare = LeaseRecord { credential: None, ..lease(5, 1) };
    for (record, since) in
        [(lease(1, 1), 50), (lease(2, 1), 40), (lease(3, 1), 61), (other, 60), (bare, 10), (lease(6, 1), 5)]
    {
        let revoke = Change::RevokeLease { lease: record.lease, at: at(since), end: LeaseEnd::Expired };
        store.apply(vec![Change::OpenLease(record), revoke]).await.unwrap();
    }
    store.apply(vec![Change::OpenLease(lease(7, 1))]).await.unwrap();
    let end = Change::EndLease { lease: lease_id(6), at: at(60), revoked: Revoked::Gone };
    store.apply(vec![end]).await.unwrap();
    let row = |credential: Option<&str>, leases, since| Stuck {
        role: "dev".parse().unwrap(),
        credential: credential.map(name),
        leases,
        since: at(since),
    };
    let mut found = store.stuck(at(60)).await.unwrap();
    found.sort_by_key(|row| row.credential.clone());
    assert_eq!(found, [row(None, 1, 10), row(Some("git"), 1, 60), row(Some("openai"), 2, 40)]);
    assert_eq!(store.stuck(at(9)).await.unwrap(), []);
}

async fn lists_are_bounded(store: &dyn Store) {
    let sessions = (1..=1002).map(|number| Change::OpenSession(session(number)));
    store.apply(sessions.collect()).await.unwrap();
    for ended in [false, true] {
        let found = store.sessions(ended).await.unwrap();
        assert_eq!(found.len(), 1000);
        assert_eq!((found[0].session, found[999].session), (session_id(1002), session_id(3)));
    }
    let mut changes: Vec<Change> = (1..=2010).map(|number| Change::OpenLease(lease(number, 1))).collect();
    for number in 1001..=2010 {
        let lease = lease_id(number);
        changes.push(Change::RevokeLease { lease, at: at(9), end: LeaseEnd::Expired });
        changes.push(Change::EndLease { lease, at: at(9), revoked: Revoked::Gone });
    }
    store.apply(changes).await.unwrap();
    let alive = store.leases(LeaseFilter::default()).await.unwrap();
    assert_eq!(alive.len(), 1000);
    for session in [None, Some(session_id(1))] {
        let filter = LeaseFilter { session, ended: true, ..LeaseFilter::default() };
        let found: Vec<LeaseId> =
            store.leases(filter).await.unwrap().iter().map(|record| record.lease).collect();
        let expected = (1..=1000).chain(1011..=2010).rev().map(lease_id);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

async fn a_job_is_all_or_nothing(store: &dyn Store) {
    let job = vec![
        Change::PutMeta { key: "k".to_owned(), value: vec![1] },
        Change::OpenSession(session(1)),
        Change::OpenLease(lease(1, 1)),
        Change::ActivateLease { lease: lease_id(1), version: 1, receipt: None },
        Change::PutCredential(sealed("a", 1)),
        Change::RemoveCredential(name("not-there")),
    ];
    assert_eq!(became(store, job.clone()).await, Became::Missing);
    assert_eq!(store.meta("k".to_owned()).await.unwrap(), None);
    assert_eq!(store.session(session_id(1)).await.unwrap(), None);
    assert_eq!(store.lease(lease_id(1)).await.unwrap(), None);
    assert_eq!(store.credential(name("a"), None).await.unwrap(), None);
    let (_, good) = job.split_last().unwrap();
    store.apply(good.to_vec()).await.unwrap();
    assert_eq!(store.lease(lease_id(1)).await.unwrap().unwrap().state, LeaseState::Active);
}

/// Two daemons that rotate at once would lose the value that the first one set upstream.
async fn a_pending_value_is_not_overwritten(store: &dyn Store) {
    let pending = |name: &str, version| PendingValue {
        name: name.parse().unwrap(),
        version,
        sealed: vec![0, 1, 255],
        set_at: at(5),
    };
    store.apply(vec![Change::PutPending(pending("b", 2))]).await.unwrap();
    store.apply(vec![Change::PutPending(pending("a", 1))]).await.unwrap();
    assert_eq!(became(store, vec![Change::PutPending(pending("b", 3))]).await, Became::Conflict);
    assert_eq!(store.pending().await.unwrap(), [pending("a", 1), pending("b", 2)]);
    let again = vec![Change::DropPending(name("b")), Change::PutPending(pending("b", 3))];
    store.apply(again).await.unwrap();
    store.apply(vec![Change::DropPending(name("a")), Change::DropPending(name("a"))]).await.unwrap();
    assert_eq!(store.pending().await.unwrap(), [pending("b", 3)]);
}

async fn meta_values_are_replaced(store: &dyn Store) {
    for value in [vec![], vec![0, 1, 255], vec![7; 100_000]] {
        store.apply(vec![Change::PutMeta { key: "a'b".to_owned(), value: value.clone() }]).await.unwrap();
        assert_eq!(store.meta("a'b".to_owned()).await.unwrap(), Some(value));
    }
    assert_eq!(store.meta("A'B".to_owned()).await.unwrap(), None);
    let add = |value| vec![Change::AddMeta { key: "once".to_owned(), value: vec![value] }];
    assert_eq!(became(store, add(1)).await, Became::Done);
    assert_eq!(became(store, add(2)).await, Became::Conflict);
    assert_eq!(store.meta("once".to_owned()).await.unwrap(), Some(vec![1]));
}

async fn originals_are_kept_by_path_and_hash(store: &dyn Store) {
    let original = |path: &str, written: u8, kept: i64| OriginalRecord {
        path: path.to_owned(),
        written_sha256: [written; 32],
        original_sha256: [9; 32],
        sealed: vec![written, 0, 255],
        kept_at: at(kept),
    };
    let (a1, a2, b1) = (original("/a/.env", 1, 5), original("/a/.env", 2, 6), original("/b", 1, 7));
    for row in [&a1, &a2, &b1] {
        store.apply(vec![Change::PutOriginal(row.clone())]).await.unwrap();
    }
    assert_eq!(store.originals().await.unwrap(), [a2.clone(), a1, b1.clone()]);
    let again = original("/a/.env", 1, 8);
    store.apply(vec![Change::PutOriginal(again.clone())]).await.unwrap();
    assert_eq!(store.originals().await.unwrap(), [again, a2, b1.clone()]);
    for written in [1, 2] {
        let gone = Change::RemoveOriginal { path: "/a/.env".to_owned(), written_sha256: [written; 32] };
        assert_eq!(became(store, vec![gone.clone()]).await, Became::Done);
        assert_eq!(became(store, vec![gone]).await, Became::Missing);
    }
    assert_eq!(store.originals().await.unwrap(), [b1]);
}

/// 64 callers at once, each with jobs of its own and one for which all compete.
async fn callers_do_not_disturb_each_other(store: Arc<dyn Store>) {
    const CALLERS: u16 = 64;
    const EACH: u16 = 5;
    store.apply(vec![Change::OpenSession(session(1))]).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let mut won = BTreeSet::new();
            for turn in 0..EACH {
                let prize = Change::PutCredential(sealed("prize", u32::from(turn) + 1));
                if became(&*store, vec![prize]).await == Became::Done {
                    won.insert(turn);
                }
                let mine = lease(1 + caller * EACH + turn, 1);
                store.apply(vec![Change::OpenLease(mine.clone())]).await.unwrap();
                // What is answered can be read, by anybody, at once.
                assert_eq!(store.lease(mine.lease).await.unwrap(), Some(mine));
            }
            won
        });
    }
    let won: Vec<u16> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(won.len(), usize::from(EACH), "each prize has one winner: {won:?}");
    let leases = store.leases(LeaseFilter::default()).await.unwrap();
    assert_eq!(leases.len(), usize::from(CALLERS * EACH));
}
