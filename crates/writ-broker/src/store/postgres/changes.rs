//! One [`Change`] as one statement that never fails for what it finds, and says what it found.
//!
//! Every statement answers one row: how many rows it changed, and the state of what it is about as it was before. So statements
//! follow each other without waiting, and one that changes nothing leaves the transaction sound. Where another daemon changed
//! the row in the meantime, the first number is 0 although the second says otherwise; states move only forward, so that is as
//! good an answer.
//!
//! Each may be repeated after a connection was lost: it then changes nothing and says so.

use tokio_postgres::Row;
use uuid::Uuid;
use writ_core::{BootId, CredentialName, LeaseState};

use super::{fault::damaged, open::Params};
use crate::store::{Change, CredentialVersion, LeaseRecord, SessionRecord, StoreFault, StoredValue, names};

/// A statement and what it is given.
pub(super) struct Step {
    pub sql: &'static str,
    pub params: Params,
}

/// Tells other daemons, within the statement that changes: the trigger on the table rings their bells.
macro_rules! telling_all {
    ($detail:literal) => {
        concat!(
            "told AS (INSERT INTO writ.news (boot, kind, subject, detail)
                SELECT boots.boot, 'credential', changed.name, '",
            $detail,
            "' FROM writ.boots, changed WHERE boots.boot <> $1 AND boots.dead_at IS NULL)"
        )
    };
}

const PUT_CREDENTIAL: &str = concat!(
    "WITH changed AS (INSERT INTO writ.credential_versions (name, version, sealed, reference, set_at)
        VALUES ($2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING name), ",
    telling_all!("superseded"),
    " SELECT (SELECT count(*) FROM changed), NULL::text"
);
const REMOVE_CREDENTIAL: &str = concat!(
    "WITH gone AS (DELETE FROM writ.credential_versions WHERE name = $2 RETURNING name),
    changed AS (SELECT DISTINCT name FROM gone), ",
    telling_all!("revoked"),
    " SELECT (SELECT count(*) FROM changed), NULL::text"
);
const PUT_ORIGINAL: &str = "WITH changed AS (
        INSERT INTO writ.originals (path, written_sha256, original_sha256, sealed, kept_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (path, written_sha256) DO UPDATE SET original_sha256 = excluded.original_sha256,
            sealed = excluded.sealed, kept_at = excluded.kept_at RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const REMOVE_ORIGINAL: &str = "WITH changed AS (
        DELETE FROM writ.originals WHERE path = $1 AND written_sha256 = $2 RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const OPEN_SESSION: &str = "WITH changed AS (
        INSERT INTO writ.sessions (id, boot, workload, role, requester, program, directory, pid, level, prompt_sha256,
            resumed_from, opened_at, expires_at, ended_at, end_reason)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const END_SESSION: &str = "WITH changed AS (
        UPDATE writ.sessions SET ended_at = $3, end_reason = $4 WHERE id = $2 AND ended_at IS NULL RETURNING id, boot),
    told AS (INSERT INTO writ.news (boot, kind, subject, detail)
        SELECT boot, 'session', changed.id::text, $4 FROM writ.boots JOIN changed USING (boot)
        WHERE boot <> $1 AND dead_at IS NULL)
    SELECT (SELECT count(*) FROM changed), (SELECT 'there' FROM writ.sessions WHERE id = $2)";
/// The session is locked against its end until the lease is there, and a daemon that was declared dead opens none.
const OPEN_LEASE: &str = "WITH living AS (SELECT id FROM writ.sessions WHERE id = $2 AND ended_at IS NULL FOR SHARE),
    changed AS (
        INSERT INTO writ.leases (id, session, boot, workload, role, target, credential, engine, version, scope, receipt,
            lane, revealed, state, issued_at, expires_at)
        SELECT $1, living.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'pending', $14, $15 FROM living
        WHERE NOT EXISTS (SELECT FROM writ.boots WHERE boot = $3 AND dead_at IS NOT NULL)
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM changed),
        (SELECT CASE WHEN ended_at IS NULL THEN 'alive' ELSE 'over' END FROM writ.sessions WHERE id = $2)";
const ACTIVATE_LEASE: &str = "WITH changed AS (
        UPDATE writ.leases SET state = 'active', version = $2, receipt = coalesce($3, receipt)
        WHERE id = $1 AND state = 'pending'
            AND NOT EXISTS (SELECT FROM writ.boots WHERE boots.boot = leases.boot AND dead_at IS NOT NULL) RETURNING 1)
    SELECT (SELECT count(*) FROM changed), (SELECT state FROM writ.leases WHERE id = $1)";
const RENEW_LEASE: &str = "WITH changed AS (
        UPDATE writ.leases SET expires_at = $2 WHERE id = $1 AND state = 'active' RETURNING 1)
    SELECT (SELECT count(*) FROM changed), (SELECT state FROM writ.leases WHERE id = $1)";
const REVOKE_LEASE: &str = "WITH changed AS (
        UPDATE writ.leases SET state = 'revoking', end_reason = $4, revoking_at = $3
        WHERE id = $2 AND state IN ('pending', 'active') RETURNING id, boot),
    told AS (INSERT INTO writ.news (boot, kind, subject, detail)
        SELECT boot, 'lease', changed.id::text, $4 FROM writ.boots JOIN changed USING (boot)
        WHERE boot <> $1 AND dead_at IS NULL)
    SELECT (SELECT count(*) FROM changed), (SELECT state FROM writ.leases WHERE id = $2)";
/// Whoever put it off lets go of it: the next attempt is anybody's.
const RETRY_LEASE: &str = "WITH changed AS (
        UPDATE writ.leases SET retry_at = $2, claimed_by = NULL, claimed_until = NULL
        WHERE id = $1 AND state = 'revoking' RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const END_LEASE: &str = "WITH changed AS (
        UPDATE writ.leases SET state = 'ended', revoked = $3, ended_at = $2, claimed_by = NULL, claimed_until = NULL
        WHERE id = $1 AND state = 'revoking' RETURNING 1)
    SELECT (SELECT count(*) FROM changed), (SELECT state FROM writ.leases WHERE id = $1)";
const PUT_PENDING: &str = "WITH changed AS (
        INSERT INTO writ.pending_values (name, version, sealed, set_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const DROP_PENDING: &str = "WITH changed AS (DELETE FROM writ.pending_values WHERE name = $1 RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const ADD_META: &str = "WITH changed AS (
        INSERT INTO writ.meta (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";
const PUT_META: &str = "WITH changed AS (
        INSERT INTO writ.meta (key, value) VALUES ($1, $2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING 1)
    SELECT (SELECT count(*) FROM changed), NULL::text";

/// Every statement, for the test that prepares them.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[
    PUT_CREDENTIAL,
    REMOVE_CREDENTIAL,
    PUT_ORIGINAL,
    REMOVE_ORIGINAL,
    OPEN_SESSION,
    END_SESSION,
    OPEN_LEASE,
    ACTIVATE_LEASE,
    RENEW_LEASE,
    REVOKE_LEASE,
    RETRY_LEASE,
    END_LEASE,
    PUT_PENDING,
    DROP_PENDING,
    ADD_META,
    PUT_META,
];

macro_rules! params {
    ($($value:expr),* $(,)?) => {{
        let params: $crate::store::postgres::open::Params = vec![$(Box::new($value)),*];
        params
    }};
}
pub(super) use params;

/// The statement of `change`, made by the boot `own`.
///
/// # Errors
/// [`StoreFault::Conflict`] for what could never be done.
pub(super) fn step(change: &Change, own: Uuid) -> Result<Step, StoreFault> {
    let (sql, params) = match change {
        Change::PutCredential(row) => (PUT_CREDENTIAL, put_credential(row, own)),
        Change::RemoveCredential(name) => (REMOVE_CREDENTIAL, params![own, text(name.as_str())]),
        Change::PutOriginal(row) => {
            let (written, original) = (row.written_sha256.to_vec(), row.original_sha256.to_vec());
            let (path, sealed) = (row.path.clone(), row.sealed.clone());
            (PUT_ORIGINAL, params![path, written, original, sealed, row.kept_at.millis()])
        }
        Change::RemoveOriginal { path, written_sha256 } => {
            (REMOVE_ORIGINAL, params![path.clone(), written_sha256.to_vec()])
        }
        Change::OpenSession(row) => (OPEN_SESSION, open_session(row)),
        Change::EndSession { session, at, end } => {
            (END_SESSION, params![own, uuid(session.as_bytes()), at.millis(), end.clone()])
        }
        Change::OpenLease(row) => (OPEN_LEASE, open_lease(row)?),
        Change::ActivateLease { lease, version, receipt } => {
            let receipt = receipt.as_ref().map(json).transpose()?;
            (ACTIVATE_LEASE, params![uuid(lease.as_bytes()), i64::from(*version), receipt])
        }
        Change::RenewLease { lease, expires_at } => {
            (RENEW_LEASE, params![uuid(lease.as_bytes()), expires_at.millis()])
        }
        Change::RevokeLease { lease, at, end } => {
            (REVOKE_LEASE, params![own, uuid(lease.as_bytes()), at.millis(), text(end.as_str())])
        }
        Change::RetryLease { lease, at } => (RETRY_LEASE, params![uuid(lease.as_bytes()), at.millis()]),
        Change::EndLease { lease, at, revoked } => {
            (END_LEASE, params![uuid(lease.as_bytes()), at.millis(), text(names::revoked(*revoked))])
        }
        Change::PutPending(row) => {
            let (name, version) = (text(row.name.as_str()), i64::from(row.version));
            (PUT_PENDING, params![name, version, row.sealed.clone(), row.set_at.millis()])
        }
        Change::DropPending(name) => (DROP_PENDING, params![text(name.as_str())]),
        Change::AddMeta { key, value } => (ADD_META, params![key.clone(), value.clone()]),
        Change::PutMeta { key, value } => (PUT_META, params![key.clone(), value.clone()]),
    };
    Ok(Step { sql, params })
}

/// What the answer of a change's statement means.
///
/// # Errors
/// [`StoreFault::Missing`], [`StoreFault::Conflict`].
pub(super) fn judge(change: &Change, row: &Row) -> Result<(), StoreFault> {
    let changed: i64 = row.try_get(0).map_err(|error| damaged(&error))?;
    let found: Option<String> = row.try_get(1).map_err(|error| damaged(&error))?;
    if changed > 0 {
        return Ok(());
    }
    match (change, found.as_deref()) {
        (Change::RetryLease { .. } | Change::DropPending(_), _) => Ok(()),
        (Change::RevokeLease { .. } | Change::EndSession { .. }, Some(_)) => Ok(()),
        (Change::EndLease { .. }, Some("revoking" | "ended")) => Ok(()),
        (Change::OpenLease(row), Some("alive")) => Err(StoreFault::Conflict(format!("lease {}", row.lease))),
        (Change::OpenLease(row), Some(_)) => {
            Err(StoreFault::Conflict(format!("the end of session {}", row.session)))
        }
        (Change::OpenLease(row), None) => Err(StoreFault::Missing(format!("session {}", row.session))),
        (Change::RemoveCredential(_) | Change::RemoveOriginal { .. }, _) => {
            Err(StoreFault::Missing(named(change)))
        }
        (_, None) if is_of_something(change) => Err(StoreFault::Missing(named(change))),
        (_, Some(state)) => Err(StoreFault::Conflict(format!("{} as {state}", named(change)))),
        (_, None) => Err(StoreFault::Conflict(named(change))),
    }
}

/// Whether the change is about something that must be there.
const fn is_of_something(change: &Change) -> bool {
    matches!(
        change,
        Change::ActivateLease { .. }
            | Change::RenewLease { .. }
            | Change::RevokeLease { .. }
            | Change::EndLease { .. }
            | Change::EndSession { .. }
    )
}

fn named(change: &Change) -> String {
    match change {
        Change::PutCredential(row) => format!("credential {}, version {}", row.name, row.version),
        Change::RemoveCredential(name) | Change::DropPending(name) => format!("credential {name}"),
        Change::PutPending(row) => format!("pending value of {}", row.name),
        Change::PutOriginal(row) => format!("original of {}", row.path),
        Change::RemoveOriginal { path, .. } => format!("original of {path}"),
        Change::OpenSession(row) => format!("session {}", row.session),
        Change::EndSession { session, .. } => format!("session {session}"),
        Change::OpenLease(row) => format!("lease {}", row.lease),
        Change::ActivateLease { lease, .. }
        | Change::RenewLease { lease, .. }
        | Change::RevokeLease { lease, .. }
        | Change::RetryLease { lease, .. }
        | Change::EndLease { lease, .. } => format!("lease {lease}"),
        Change::AddMeta { key, .. } | Change::PutMeta { key, .. } => format!("value {key}"),
    }
}

fn put_credential(row: &CredentialVersion, own: Uuid) -> Params {
    let (sealed, reference) = match &row.value {
        StoredValue::Sealed(bytes) => (Some(bytes.clone()), None),
        StoredValue::Reference(text) => (None, Some(text.clone())),
    };
    params![own, text(row.name.as_str()), i64::from(row.version), sealed, reference, row.set_at.millis()]
}

fn open_session(row: &SessionRecord) -> Params {
    params![
        uuid(row.session.as_bytes()),
        uuid(row.boot.as_bytes()),
        text(row.workload.as_str()),
        text(row.role.as_str()),
        row.requester.clone(),
        row.program.clone(),
        row.directory.clone(),
        row.pid,
        text(names::level(row.level)),
        row.prompt_sha256.clone(),
        row.resumed_from.as_ref().map(|session| uuid(session.as_bytes())),
        row.opened_at.millis(),
        row.expires_at.millis(),
        row.ended_at.map(writ_core::Timestamp::millis),
        row.end.clone(),
    ]
}

fn open_lease(row: &LeaseRecord) -> Result<Params, StoreFault> {
    if row.state != LeaseState::Pending {
        return Err(StoreFault::Conflict(format!("lease {} as {}", row.lease, row.state)));
    }
    Ok(params![
        uuid(row.lease.as_bytes()),
        uuid(row.session.as_bytes()),
        uuid(row.boot.as_bytes()),
        text(row.workload.as_str()),
        text(row.role.as_str()),
        text(row.target.as_str()),
        row.credential.as_ref().map(CredentialName::as_str).map(text),
        row.engine.clone(),
        i64::from(row.version),
        json(&row.scope)?,
        json(&row.receipt)?,
        row.lane.clone(),
        row.revealed,
        row.issued_at.millis(),
        row.expires_at.millis(),
    ])
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreFault> {
    serde_json::to_string(value).map_err(|error| StoreFault::Io(error.to_string()))
}

fn text(text: &str) -> String {
    text.to_owned()
}

pub(super) fn uuid(bytes: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*bytes)
}

pub(super) fn boot_uuid(boot: BootId) -> Uuid {
    uuid(boot.as_bytes())
}
