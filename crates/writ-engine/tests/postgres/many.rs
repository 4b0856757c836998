//! Many at once, and callers that go away.

use std::time::Duration;

use futures_util::future::join_all;
use writ_core::Revoked;

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_leave_none() {
    let bench = Bench::new();
    join_all((0..200).map(async |_| {
        let issued = bench.issue().await;
        assert_eq!(bench.revoke(&issued.receipt).await.unwrap(), Revoked::Gone);
    }))
    .await;
    assert_eq!(bench.roles(), "0");
    // One connection for each queue, so one password each, but for those that asked before it was there.
    let backends = bench.admin("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writ' AND datname = current_database()");
    assert_eq!(backends, "2");
}

/// P7: a table takes 2,443 grantees; a template has any number of members. P9, P11: by the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_logins_than_a_table_takes_grantees() {
    let bench = Bench::new();
    let commits = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database";
    let issued = join_all((0..2_500).map(async |_| bench.issue().await)).await;
    assert_eq!(bench.roles(), "2500");
    let last = issued.last().unwrap();
    assert!(bench.psql(last, "SELECT * FROM orders").status.success());
    let outcomes = join_all(issued.iter().map(|issued| bench.revoke(&issued.receipt))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Revoked::Gone))));
    assert_eq!(bench.roles(), "0");
    assert_ne!(bench.admin(commits), "");
}

/// Some callers go away before they are served: their logins may come to be, and every receipt revokes what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_away_leave_nothing_that_a_receipt_does_not_revoke() {
    let bench = Bench::new();
    for round in 0..20 {
        let mut planned = Vec::new();
        for _ in 0..10 {
            planned.push(bench.plan().await);
        }
        let patience = Duration::from_micros(400 * round);
        let minting =
            join_all(planned.iter().map(|receipt| tokio::time::timeout(patience, bench.mint(receipt))));
        drop(minting.await);
        let outcomes = join_all(planned.iter().map(|receipt| bench.revoke(receipt))).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(bench.roles(), "0", "round {round}");
    }
}
