//! The table against clocks that step, quotas, and leases that end in every order.

use std::sync::Mutex;

use writ_core::Principal;

use super::*;
use crate::config::{IssueRate, Quota};

/// Wall clock and time since boot, in milliseconds.
struct Set(Mutex<(i64, u64)>);

impl Set {
    fn at(wall: i64, boot: u64) -> Self {
        Self(Mutex::new((wall, boot)))
    }

    fn set(&self, wall: i64, boot: u64) {
        *self.0.lock().unwrap() = (wall, boot);
    }
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.lock().unwrap().0)
    }

    fn boottime(&self) -> Duration {
        Duration::from_millis(self.0.lock().unwrap().1)
    }
}

fn id(number: u16) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn lease(number: u16) -> LeaseId {
    LeaseId::new(Timestamp::from_millis(0), &id(number))
}

fn session(number: u16) -> SessionId {
    SessionId::new(Timestamp::from_millis(0), &id(number))
}

fn principal(of: u16, role: &str, workload: &str) -> Principal {
    let workload = format!("spiffe://writ.local/{workload}").parse().unwrap();
    Principal { workload, session: session(of), role: role.parse().unwrap() }
}

const WIDE: Quota = Quota { leases_max: u32::MAX, issue_rate: IssueRate::DEFAULT };

/// So that no rate is in the way, time goes on between any two.
fn take_off(table: &Table, of: u16, number: u16) -> Result<Flight<'_>, Barred> {
    let clock = Set::at(0, u64::from(number) * 1000);
    book(table, &principal(of, "dev", "me"), number, WIDE, &clock)
}

fn book<'a>(
    table: &'a Table,
    principal: &Principal,
    number: u16,
    quota: Quota,
    clock: &Set,
) -> Result<Flight<'a>, Barred> {
    let (target, credential) = ("t".parse().unwrap(), "c".parse().unwrap());
    let lease = lease(number);
    let booking =
        Booking { lease, principal, target: &target, credential: Some(&credential), revealed: true, quota };
    table.take_off(&booking, clock)
}

/// One that lives for so many milliseconds from now.
fn landed(table: &Table, of: u16, number: u16, clock: &Set, life: i64) {
    let deadline = Deadline::new(clock, Timestamp::from_millis(clock.now().millis() + life));
    take_off(table, of, number).unwrap().land(deadline, clock).unwrap();
}

#[test]
fn one_session_cannot_crowd_out_another() {
    let table = Table::default();
    let limit = u16::try_from(SESSION_MAX).unwrap();
    let flights: Vec<_> = (0..limit).map(|number| take_off(&table, 1, number).unwrap()).collect();
    assert_eq!(take_off(&table, 1, limit).err(), Some(Barred::Crowded));
    assert!(take_off(&table, 2, limit + 1).is_ok());
    drop(flights);
    assert_eq!(table.to_end().len(), SESSION_MAX + 1, "whatever did not land is to be ended");
    table.forget((0..limit).map(lease));
    assert!(take_off(&table, 1, limit + 2).is_ok());
}

#[test]
fn a_revocation_bars_its_session_from_its_target_until_the_session_is_over() {
    let table = Table::default();
    let flight = take_off(&table, 1, 1).unwrap();
    assert!(table.mark(LeaseEnd::Revoked, Which::Lease(lease(1))).is_empty(), "it flies");
    drop(flight);
    assert_eq!(table.to_end(), [(lease(1), LeaseEnd::Revoked)]);
    table.forget([lease(1)]);
    assert_eq!(take_off(&table, 1, 2).err(), Some(Barred::Revoked));
    assert!(take_off(&table, 2, 3).is_ok());
    table.session_is_over(session(1));
    assert!(take_off(&table, 1, 4).is_ok());
}

#[test]
fn only_a_revocation_bars() {
    let table = Table::default();
    for (number, end) in [(1, LeaseEnd::Superseded), (2, LeaseEnd::Expired)] {
        let _flight = take_off(&table, 1, number).unwrap();
        table.mark(end, Which::Lease(lease(number)));
    }
    drop(take_off(&table, 1, 3).unwrap());
    assert!(take_off(&table, 1, 4).is_ok());
}

#[test]
fn selections_and_counts_agree() {
    let (table, clock) = (Table::default(), Set::at(0, 0));
    for number in 1..=6 {
        landed(&table, 1 + number % 2, number, &clock, 1000);
    }
    let _flight = take_off(&table, 1, 7).unwrap();
    let (known, unknown) = ("c".parse().unwrap(), "x".parse().unwrap());
    let counts = || {
        let all =
            [Which::All, Which::Session(session(1)), Which::Credential(&known), Which::Credential(&unknown)];
        all.map(|which| table.count(which))
    };
    assert_eq!(counts(), [6, 3, 6, 0]);
    let mut marked = table.mark(LeaseEnd::SessionEnded, Which::Session(session(1)));
    marked.sort_unstable();
    assert_eq!(marked, [2, 4, 6].map(lease));
    assert_eq!(counts(), [3, 0, 3, 0]);
    assert_eq!(table.mark(LeaseEnd::Revoked, Which::Session(session(1))), [], "once");
    table.forget(marked);
    assert_eq!(table.mark(LeaseEnd::Superseded, Which::Credential(&known)).len(), 3);
    assert_eq!((counts(), table.to_end().len()), ([0; 4], 3));
}

#[test]
fn what_is_due_expires_in_parts_and_in_order() {
    let (table, clock) = (Table::default(), Set::at(0, 0));
    for number in [3, 1, 2, 4] {
        landed(&table, number, number, &clock, i64::from(number) * 1000);
    }
    assert_eq!(table.next(&clock), Some(Duration::from_secs(1)));
    clock.set(999, 999);
    assert_eq!(table.expire(&clock, 9), []);
    clock.set(3000, 3000);
    assert_eq!(table.expire(&clock, 2), [1, 2].map(lease));
    assert_eq!(table.expire(&clock, 2), [lease(3)]);
    assert_eq!(table.next(&clock), Some(Duration::from_secs(1)));
}

#[test]
fn whichever_clock_is_ahead_ends_a_lease() {
    let (table, clock) = (Table::default(), Set::at(1_000_000, 0));
    landed(&table, 1, 1, &clock, 60_000);
    assert_eq!(table.expire(&clock, 9), []);
    clock.set(1_060_000, 1);
    assert_eq!(table.expire(&clock, 9), [lease(1)], "the wall clock was set ahead");
    landed(&table, 1, 2, &clock, 60_000);
    clock.set(0, 60_001);
    assert_eq!(table.expire(&clock, 9), [lease(2)], "and back");
    // Set back and ahead again: what was made in between goes by the clock of then.
    assert_eq!(table.expire(&clock, 9), []);
    landed(&table, 1, 3, &clock, 60_000);
    clock.set(60_000, 60_002);
    assert_eq!(table.expire(&clock, 9), [lease(3)]);
}

#[test]
fn a_renewed_lease_goes_by_its_new_end() {
    let (table, clock) = (Table::default(), Set::at(0, 0));
    landed(&table, 1, 1, &clock, 3000);
    assert_eq!(table.next_renewal(&clock), Some(Duration::from_secs(2)));
    clock.set(2000, 2000);
    assert_eq!(table.take_renewals(&clock), [lease(1)]);
    assert_eq!(table.take_renewals(&clock), []);
    assert!(table.renew(&lease(1), Deadline::new(&clock, Timestamp::from_millis(9000)), &clock));
    assert_eq!(table.expires_at(&lease(1), &clock), Some(Timestamp::from_millis(9000)));
    clock.set(8999, 8999);
    assert_eq!(table.expire(&clock, 9), []);
    clock.set(9000, 9000);
    assert_eq!(table.expire(&clock, 9), [lease(1)]);
    assert!(
        !table.renew(&lease(1), Deadline::new(&clock, Timestamp::from_millis(99_000)), &clock),
        "it is over"
    );
    table.forget([lease(1)]);
    assert_eq!(table.expires_at(&lease(1), &clock), None);
}

#[test]
fn leases_that_end_early_do_not_fill_the_queue() {
    let (table, clock) = (Table::default(), Set::at(0, 0));
    for number in 0..10_000 {
        landed(&table, 1, number, &clock, 1_000_000);
        table.mark(LeaseEnd::Superseded, Which::Lease(lease(number)));
        table.forget([lease(number)]);
    }
    assert!(table.lock().queue.len() <= STALE + 1);
    assert_eq!((table.next(&clock), table.count(Which::All)), (None, 0));
}

#[test]
fn a_quota_is_each_workloads_own_and_is_given_back() {
    let (table, clock) = (Table::default(), Set::at(0, 0));
    let quota = Quota { leases_max: 2, ..WIDE };
    let (me, other) = (principal(1, "dev", "me"), principal(2, "dev", "other"));
    let elsewhere = principal(3, "ops", "me");
    let first = book(&table, &me, 1, quota, &clock).unwrap();
    let _second = book(&table, &principal(4, "dev", "me"), 2, quota, &clock).unwrap();
    assert_eq!(book(&table, &me, 3, quota, &clock).err(), Some(Barred::Quota { leases_max: 2 }));
    assert!(book(&table, &other, 4, quota, &clock).is_ok());
    assert!(book(&table, &elsewhere, 5, quota, &clock).is_ok());
    drop(first);
    assert!(book(&table, &me, 6, quota, &clock).is_err(), "until its end is durable, it is there");
    table.forget([lease(1)]);
    assert!(book(&table, &me, 7, quota, &clock).is_ok());
}

#[test]
fn a_rate_allows_a_burst_and_earns_by_the_clock_that_does_not_step() {
    let (table, clock) = (Table::default(), Set::at(0, 5000));
    let issue_rate: IssueRate = "3/m".parse().unwrap();
    let quota = Quota { issue_rate, ..WIDE };
    let me = principal(1, "dev", "me");
    let barred = |number| book(&table, &me, number, quota, &clock).err();
    assert_eq!([1, 2, 3].map(barred), [None; 3]);
    let wait = |seconds| Some(Barred::Rate { rate: issue_rate, wait: Duration::from_secs(seconds) });
    assert_eq!(barred(4), wait(20));
    clock.set(3_600_000, 5000);
    assert_eq!(barred(5), wait(20), "an hour by the wall clock alone is no time");
    clock.set(0, 24_999);
    assert!(barred(6).is_some());
    clock.set(0, 25_000);
    assert_eq!([barred(7), barred(8)], [None, wait(20)]);
    clock.set(0, 3_600_000);
    assert_eq!([9, 10, 11].map(barred), [None; 3], "no more is saved than a burst");
    assert_eq!(barred(12), wait(20));
}
