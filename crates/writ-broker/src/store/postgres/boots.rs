//! Several daemons on one store: who lives, who owns what, and whose turn it is to settle a lease.
//!
//! Daemons judge each other by the server's clock alone. One whose heartbeat has been silent for 15 seconds is declared
//! dead, for ever, by whoever notices; only then is what it owned ended. A daemon stops handing out and using anything before
//! that (`tasks/heartbeat.rs`).

use writ_core::{BootId, LeaseEnd, Timestamp};

use super::{
    changes::{boot_uuid, params},
    open::Lasting,
    rows::{Cells, all, columns, decode_lease},
};
use crate::store::{Beat, Claim, LeaseRecord, Orphan, Orphaned, RETRY_AHEAD_MAX, StoreFault, Stuck};

/// Earlier lives on the same state directory are over: whoever has its lock is the only one there.
const ENLIST: &str = "WITH earlier AS (
        UPDATE writ.boots SET dead_at = clock_timestamp() WHERE node = $2 AND boot <> $1 AND dead_at IS NULL)
    INSERT INTO writ.boots (boot, node, beat_at, steady_since)
    VALUES ($1, $2, clock_timestamp(), clock_timestamp()) ON CONFLICT (boot) DO NOTHING";
const BEAT: &str = "UPDATE writ.boots SET beat_at = clock_timestamp(), steady_since = CASE
        WHEN beat_at < clock_timestamp() - interval '5 seconds' THEN clock_timestamp() ELSE steady_since END
    WHERE boot = $1 AND dead_at IS NULL RETURNING boot";
const RETIRE: &str = "WITH gone AS (DELETE FROM writ.news WHERE boot = $1)
    UPDATE writ.boots SET dead_at = clock_timestamp() WHERE boot = $1 AND dead_at IS NULL";
/// Only a daemon that was itself heard for as long may say so: after an outage of the server everybody has the time to be heard again.
/// Those that died long ago are forgotten, and so is what nobody will read.
const DECLARE: &str = "WITH dead AS (
        UPDATE writ.boots SET dead_at = clock_timestamp()
        WHERE dead_at IS NULL AND boot <> $1 AND beat_at < clock_timestamp() - interval '15 seconds'
            AND EXISTS (SELECT FROM writ.boots AS own WHERE own.boot = $1
                AND own.steady_since < clock_timestamp() - interval '15 seconds') RETURNING boot),
    unread AS (DELETE FROM writ.news USING dead WHERE news.boot = dead.boot)
    DELETE FROM writ.boots WHERE dead_at < clock_timestamp() - interval '7 days'";
/// A free lease, or one whose claim has run out, or whose claimer is dead. The claim is as long as it was asked for, by the server's
/// clock.
const CLAIM: &str = concat!(
    "WITH due AS (
        SELECT id FROM writ.leases
        WHERE state = 'revoking' AND lane = $1 AND (retry_at IS NULL OR retry_at <= $2 OR retry_at > $3)
            AND (claimed_by IS NULL OR claimed_by = $4 OR claimed_until <= clock_timestamp()
                OR NOT EXISTS (SELECT FROM writ.boots WHERE boots.boot = claimed_by AND dead_at IS NULL))
        ORDER BY retry_at NULLS FIRST LIMIT $5 FOR UPDATE SKIP LOCKED)
    UPDATE writ.leases SET claimed_by = $4, claimed_until = clock_timestamp() + $6 * interval '1 millisecond'
    FROM due WHERE leases.id = due.id RETURNING ",
    columns!(lease)
);
/// Of boots that are dead, or were never enlisted. Several daemons share the work.
const ORPHAN_SESSIONS: &str = "WITH orphans AS (
        SELECT id FROM writ.sessions WHERE ended_at IS NULL AND boot <> $1
            AND NOT EXISTS (SELECT FROM writ.boots WHERE boots.boot = sessions.boot AND dead_at IS NULL)
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
    UPDATE writ.sessions SET ended_at = $3, end_reason = $4 FROM orphans WHERE sessions.id = orphans.id
    RETURNING sessions.id";
/// Goes from owner to owner through the index: the leases of those who live cost nothing.
const ORPHAN_LEASES: &str = "WITH RECURSIVE owners (boot) AS (
        (SELECT boot FROM writ.leases WHERE state IN ('pending', 'active') ORDER BY boot LIMIT 1)
        UNION ALL
        SELECT (SELECT leases.boot FROM writ.leases
            WHERE state IN ('pending', 'active') AND leases.boot > owners.boot ORDER BY leases.boot LIMIT 1)
        FROM owners WHERE owners.boot IS NOT NULL),
    dead AS (
        SELECT boot FROM owners WHERE boot <> $1
            AND NOT EXISTS (SELECT FROM writ.boots WHERE boots.boot = owners.boot AND dead_at IS NULL)),
    orphans AS (
        SELECT leases.id FROM dead CROSS JOIN LATERAL (
            SELECT id FROM writ.leases WHERE leases.boot = dead.boot AND state IN ('pending', 'active')
            LIMIT $2 FOR UPDATE SKIP LOCKED) AS leases
        LIMIT $2)
    UPDATE writ.leases SET state = 'revoking', end_reason = $4, revoking_at = $3 FROM orphans
    WHERE leases.id = orphans.id AND state IN ('pending', 'active') RETURNING leases.id";
const STUCK: &str = "SELECT role, credential, count(*), min(revoking_at) FROM writ.leases
    WHERE state = 'revoking' AND revoking_at <= $1 GROUP BY role, credential
    ORDER BY role COLLATE \"C\", credential COLLATE \"C\" NULLS FIRST";

/// Every statement, for the test that prepares them.
#[cfg(test)]
pub(super) const ALL: &[&str] =
    &[ENLIST, BEAT, RETIRE, DECLARE, CLAIM, ORPHAN_SESSIONS, ORPHAN_LEASES, STUCK];

pub(super) async fn enlist(link: &Lasting, boot: BootId, node: Option<String>) -> Result<(), StoreFault> {
    link.ask(ENLIST, params![boot_uuid(boot), node]).await.map(drop)
}

pub(super) async fn beat(link: &Lasting, boot: BootId) -> Result<Beat, StoreFault> {
    let alive = link.ask(BEAT, params![boot_uuid(boot)]).await?;
    Ok(if alive.is_empty() { Beat::Dead } else { Beat::Alive })
}

pub(super) async fn retire(link: &Lasting, boot: BootId) -> Result<(), StoreFault> {
    link.ask(RETIRE, params![boot_uuid(boot)]).await.map(drop)
}

pub(super) async fn claim(link: &Lasting, claim: Claim) -> Result<Vec<LeaseRecord>, StoreFault> {
    let ahead = claim.now.millis().saturating_add(RETRY_AHEAD_MAX);
    let long = claim.until.millis().saturating_sub(claim.now.millis());
    #[expect(clippy::cast_precision_loss, reason = "a claim is far shorter than 2^52 milliseconds")]
    let long = long as f64;
    let (now, boot) = (claim.now.millis(), boot_uuid(claim.boot));
    let asked = params![claim.lane, now, ahead, boot, i64::from(claim.limit), long];
    let mut found = all(&link.ask(CLAIM, asked).await?, decode_lease)?;
    found.sort_by_key(|lease| lease.lease);
    Ok(found)
}

/// Declares dead whoever is, then ends sessions, or leases where no session is left.
pub(super) async fn orphan(link: &Lasting, ask: Orphan) -> Result<Orphaned, StoreFault> {
    let (boot, limit, at) = (boot_uuid(ask.boot), i64::from(ask.limit), ask.at.millis());
    link.ask(DECLARE, params![boot]).await?;
    let sessions = link.ask(ORPHAN_SESSIONS, params![boot, limit, at, ask.end]).await?;
    let sessions = all(&sessions, |row| Cells(row, 0).id())?;
    if !sessions.is_empty() {
        return Ok(Orphaned { sessions, leases: Vec::new() });
    }
    let end = LeaseEnd::Orphaned.as_str().to_owned();
    let leases = link.ask(ORPHAN_LEASES, params![boot, limit, at, end]).await?;
    Ok(Orphaned { sessions, leases: all(&leases, |row| Cells(row, 0).id())? })
}

pub(super) async fn stuck(link: &Lasting, before: Timestamp) -> Result<Vec<Stuck>, StoreFault> {
    all(&link.ask(STUCK, params![before.millis()]).await?, |row| {
        let mut cells = Cells(row, 0);
        let (role, credential) = (cells.parsed()?, cells.optional()?);
        let leases = u64::try_from(cells.take::<i64>()?).unwrap_or(0);
        Ok(Stuck { role, credential, leases, since: cells.instant()? })
    })
}
