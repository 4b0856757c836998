//! One [`Change`] as SQL. Runs inside the writer's transaction and savepoint.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::to_string;
use writ_core::{CredentialName, LeaseEnd, LeaseId, LeaseState, Receipt, Revoked, SessionId, Timestamp};

use super::{
    fault::{fault, plain},
    rows,
};
use crate::store::{
    Change, CredentialVersion, LeaseRecord, OriginalRecord, PendingValue, SessionRecord, StoreFault,
    StoredValue, names,
};

pub(super) fn apply(connection: &Connection, change: &Change) -> Result<(), StoreFault> {
    match change {
        Change::PutCredential(version) => put_credential(connection, version),
        Change::RemoveCredential(name) => {
            let removed =
                run(connection, "DELETE FROM credential_versions WHERE name = ?1", [name.as_str()])?;
            if removed == 0 { Err(StoreFault::Missing(format!("credential {name}"))) } else { Ok(()) }
        }
        Change::PutOriginal(record) => put_original(connection, record),
        Change::RemoveOriginal { path, written_sha256 } => {
            let sql = "DELETE FROM originals WHERE path = ?1 AND written_sha256 = ?2";
            match run(connection, sql, params![path, written_sha256])? {
                0 => Err(StoreFault::Missing(format!("original of {path}"))),
                _ => Ok(()),
            }
        }
        Change::OpenSession(record) => open_session(connection, record),
        Change::EndSession { session, at, end } => end_session(connection, *session, *at, end),
        Change::OpenLease(record) => open_lease(connection, record),
        Change::ActivateLease { lease, version, receipt } => {
            activate_lease(connection, *lease, *version, receipt.as_ref())
        }
        Change::RenewLease { lease, expires_at } => renew_lease(connection, *lease, *expires_at),
        Change::RevokeLease { lease, at, end } => revoke_lease(connection, *lease, *at, *end),
        Change::RetryLease { lease, at } => {
            let sql = "UPDATE leases SET retry_at = ?2 WHERE id = ?1 AND state = 'revoking'";
            run(connection, sql, params![lease.as_bytes(), at.millis()]).map(drop)
        }
        Change::EndLease { lease, at, revoked } => end_lease(connection, *lease, *at, *revoked),
        Change::PutPending(row) => put_pending(connection, row),
        Change::DropPending(name) => {
            run(connection, "DELETE FROM pending_values WHERE name = ?1", [name.as_str()]).map(drop)
        }
        Change::AddMeta { key, value } => {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING";
            match run(connection, sql, params![key, value])? {
                0 => Err(StoreFault::Conflict(format!("value {key}"))),
                _ => Ok(()),
            }
        }
        Change::PutMeta { key, value } => {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            run(connection, sql, params![key, value]).map(drop)
        }
    }
}

fn put_credential(connection: &Connection, row: &CredentialVersion) -> Result<(), StoreFault> {
    let (sealed, reference) = match &row.value {
        StoredValue::Sealed(bytes) => (Some(bytes), None),
        StoredValue::Reference(text) => (None, Some(text)),
    };
    let sql = "INSERT INTO credential_versions (name, version, sealed, reference, set_at)
         VALUES (?1, ?2, ?3, ?4, ?5)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![row.name.as_str(), row.version, sealed, reference, row.set_at.millis()])
        })
        .map_err(|error| fault(error, || format!("credential {}, version {}", row.name, row.version)))
        .map(drop)
}

fn put_pending(connection: &Connection, row: &PendingValue) -> Result<(), StoreFault> {
    let sql = "INSERT INTO pending_values (name, version, sealed, set_at) VALUES (?1, ?2, ?3, ?4)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![row.name.as_str(), row.version, row.sealed, row.set_at.millis()])
        })
        .map_err(|error| fault(error, || format!("pending value of {}", row.name)))
        .map(drop)
}

fn put_original(connection: &Connection, row: &OriginalRecord) -> Result<(), StoreFault> {
    let sql = "INSERT OR REPLACE INTO originals (path, written_sha256, original_sha256, sealed, kept_at)
         VALUES (?1, ?2, ?3, ?4, ?5)";
    let (written, original) = (row.written_sha256, row.original_sha256);
    run(connection, sql, params![row.path, written, original, row.sealed, row.kept_at.millis()]).map(drop)
}

fn open_session(connection: &Connection, row: &SessionRecord) -> Result<(), StoreFault> {
    let sql = "INSERT INTO sessions (id, boot, workload, role, requester, program, directory, pid, level,
             prompt_sha256, resumed_from, opened_at, expires_at, ended_at, end_reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                row.session.as_bytes(),
                row.boot.as_bytes(),
                row.workload.as_str(),
                row.role.as_str(),
                row.requester,
                row.program,
                row.directory,
                row.pid,
                names::level(row.level),
                row.prompt_sha256,
                row.resumed_from.as_ref().map(SessionId::as_bytes),
                row.opened_at.millis(),
                row.expires_at.millis(),
                row.ended_at.map(Timestamp::millis),
                row.end,
            ])
        })
        .map_err(|error| fault(error, || format!("session {}", row.session)))
        .map(drop)
}

fn end_session(
    connection: &Connection,
    session: SessionId,
    at: Timestamp,
    end: &str,
) -> Result<(), StoreFault> {
    let sql = "UPDATE sessions SET ended_at = ?2, end_reason = ?3 WHERE id = ?1 AND ended_at IS NULL";
    if run(connection, sql, params![session.as_bytes(), at.millis(), end])? == 0 {
        session_alive(connection, session)?;
    }
    Ok(())
}

fn open_lease(connection: &Connection, row: &LeaseRecord) -> Result<(), StoreFault> {
    let named = || format!("lease {}", row.lease);
    if row.state != LeaseState::Pending {
        return Err(StoreFault::Conflict(format!("{} as {}", named(), row.state)));
    }
    if !session_alive(connection, row.session)? {
        return Err(StoreFault::Conflict(format!("the end of session {}", row.session)));
    }
    let json = |error: serde_json::Error| StoreFault::Io(format!("{}: {error}", named()));
    let scope = to_string(&row.scope).map_err(json)?;
    let receipt = to_string(&row.receipt).map_err(json)?;
    let sql = "INSERT INTO leases (id, session, boot, workload, role, target, credential, engine, version,
             scope, receipt, lane, revealed, state, issued_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 'pending', ?14, ?15)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                row.lease.as_bytes(),
                row.session.as_bytes(),
                row.boot.as_bytes(),
                row.workload.as_str(),
                row.role.as_str(),
                row.target.as_str(),
                row.credential.as_ref().map(CredentialName::as_str),
                row.engine,
                row.version,
                scope,
                receipt,
                row.lane,
                row.revealed,
                row.issued_at.millis(),
                row.expires_at.millis(),
            ])
        })
        .map_err(|error| fault(error, named))
        .map(drop)
}

fn activate_lease(
    connection: &Connection,
    lease: LeaseId,
    version: u32,
    receipt: Option<&Receipt>,
) -> Result<(), StoreFault> {
    let json = |error: serde_json::Error| StoreFault::Io(format!("lease {lease}: {error}"));
    let receipt = receipt.map(to_string).transpose().map_err(json)?;
    let sql = "UPDATE leases SET state = 'active', version = ?2, receipt = coalesce(?3, receipt)
         WHERE id = ?1 AND state = 'pending'";
    match run(connection, sql, params![lease.as_bytes(), version, receipt])? {
        0 => Err(otherwise(connection, lease)),
        _ => Ok(()),
    }
}

fn renew_lease(connection: &Connection, lease: LeaseId, expires_at: Timestamp) -> Result<(), StoreFault> {
    let sql = "UPDATE leases SET expires_at = ?2 WHERE id = ?1 AND state = 'active'";
    match run(connection, sql, params![lease.as_bytes(), expires_at.millis()])? {
        0 => Err(otherwise(connection, lease)),
        _ => Ok(()),
    }
}

/// That the lease is in another state, or that there is none.
fn otherwise(connection: &Connection, lease: LeaseId) -> StoreFault {
    match lease_state(connection, lease) {
        Ok(state) => StoreFault::Conflict(format!("lease {lease} as {state}")),
        Err(fault) => fault,
    }
}

fn revoke_lease(
    connection: &Connection,
    lease: LeaseId,
    at: Timestamp,
    end: LeaseEnd,
) -> Result<(), StoreFault> {
    let sql = "UPDATE leases SET state = 'revoking', end_reason = ?2, revoking_at = ?3
         WHERE id = ?1 AND state IN ('pending', 'active')";
    if run(connection, sql, params![lease.as_bytes(), end.as_str(), at.millis()])? == 0 {
        lease_state(connection, lease)?;
    }
    Ok(())
}

fn end_lease(
    connection: &Connection,
    lease: LeaseId,
    at: Timestamp,
    revoked: Revoked,
) -> Result<(), StoreFault> {
    let sql = "UPDATE leases SET state = 'ended', revoked = ?2, ended_at = ?3
         WHERE id = ?1 AND state = 'revoking'";
    if run(connection, sql, params![lease.as_bytes(), names::revoked(revoked), at.millis()])? > 0 {
        return Ok(());
    }
    match lease_state(connection, lease)? {
        LeaseState::Ended => Ok(()),
        state => Err(StoreFault::Conflict(format!("lease {lease} as {state}"))),
    }
}

/// Whether the session has not ended; [`StoreFault::Missing`] if there is none.
fn session_alive(connection: &Connection, session: SessionId) -> Result<bool, StoreFault> {
    let sql = "SELECT ended_at IS NULL FROM sessions WHERE id = ?1";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([session.as_bytes()], |row| row.get(0)).optional())
        .map_err(plain)?
        .ok_or_else(|| StoreFault::Missing(format!("session {session}")))
}

fn lease_state(connection: &Connection, lease: LeaseId) -> Result<LeaseState, StoreFault> {
    let sql = "SELECT state FROM leases WHERE id = ?1";
    let text: Option<String> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([lease.as_bytes()], |row| row.get(0)).optional())
        .map_err(plain)?;
    rows::lease_state(&text.ok_or_else(|| StoreFault::Missing(format!("lease {lease}")))?)
}

fn run(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreFault> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(plain)
}
