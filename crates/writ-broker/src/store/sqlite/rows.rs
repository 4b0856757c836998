//! Rows to records. What does not parse is damage, and is called that.

use std::str::FromStr;

use rusqlite::{Connection, Params, Row, types::FromSql};
use serde::de::DeserializeOwned;
use writ_core::{BootId, CredentialName, LeaseId, LeaseState, SessionId, Timestamp};

use super::fault::plain;
use crate::store::{
    Claim, CredentialVersion, LeaseFilter, LeaseRecord, OriginalRecord, Orphaned, PendingValue,
    RETRY_AHEAD_MAX, SessionRecord, StoreFault, StoredValue, Stuck, names::named,
};

/// How many sessions, and how many ended leases, one answer holds.
pub(super) const SCAN_MAX: u32 = 1000;

macro_rules! columns {
    (credential) => {
        "name, version, sealed, reference, set_at"
    };
    (session) => {
        "id, boot, workload, role, requester, program, directory, pid, level, prompt_sha256, resumed_from, \
         opened_at, expires_at, ended_at, end_reason"
    };
    (lease) => {
        "id, session, boot, workload, role, target, credential, engine, version, scope, receipt, lane, revealed, \
         state, end_reason, revoked, issued_at, expires_at, ended_at"
    };
}

pub(super) const SESSIONS: &str =
    concat!("SELECT ", columns!(session), " FROM sessions ORDER BY id DESC LIMIT ?1");

pub(super) const SESSIONS_ALIVE: &str =
    concat!("SELECT ", columns!(session), " FROM sessions WHERE ended_at IS NULL ORDER BY id DESC LIMIT ?1");

pub(super) const LEASES_ALIVE: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM leases WHERE state <> 'ended' AND (?1 IS NULL OR session = ?1)
     AND (?2 IS NULL OR credential = ?2) AND (?3 IS NULL OR boot <> ?3) ORDER BY id DESC"
);

pub(super) const LEASES_ENDED: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM leases WHERE state = 'ended' AND (?1 IS NULL OR session = ?1)
     AND (?2 IS NULL OR credential = ?2) AND (?3 IS NULL OR boot <> ?3) ORDER BY id DESC LIMIT ?4"
);

pub(super) const LEASES_ENDED_OF_SESSION: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM leases INDEXED BY leases_by_session WHERE state = 'ended' AND session = ?1
     AND (?2 IS NULL OR credential = ?2) AND (?3 IS NULL OR boot <> ?3) ORDER BY id DESC LIMIT ?4"
);

pub(super) fn credential(
    connection: &Connection,
    name: &CredentialName,
    version: Option<u32>,
) -> Result<Option<CredentialVersion>, StoreFault> {
    let sql = concat!(
        "SELECT ",
        columns!(credential),
        " FROM credential_versions WHERE name = ?1 AND version = coalesce(?2, version)
         ORDER BY version DESC LIMIT 1"
    );
    one(connection, sql, (name.as_str(), version), decode_credential)
}

pub(super) fn credentials(connection: &Connection) -> Result<Vec<CredentialVersion>, StoreFault> {
    let sql = concat!(
        "SELECT ",
        columns!(credential),
        " FROM credential_versions AS this WHERE version =
            (SELECT max(version) FROM credential_versions WHERE name = this.name) ORDER BY name"
    );
    all(connection, sql, (), decode_credential)
}

pub(super) fn originals(connection: &Connection) -> Result<Vec<OriginalRecord>, StoreFault> {
    let sql = "SELECT path, written_sha256, original_sha256, sealed, kept_at FROM originals
         ORDER BY path, kept_at DESC LIMIT ?1";
    all(connection, sql, [SCAN_MAX], decode_original)
}

pub(super) fn session(
    connection: &Connection,
    session: SessionId,
) -> Result<Option<SessionRecord>, StoreFault> {
    let sql = concat!("SELECT ", columns!(session), " FROM sessions WHERE id = ?1");
    one(connection, sql, [session.as_bytes()], decode_session)
}

pub(super) fn sessions(connection: &Connection, ended: bool) -> Result<Vec<SessionRecord>, StoreFault> {
    let sql = if ended { SESSIONS } else { SESSIONS_ALIVE };
    all(connection, sql, [SCAN_MAX], decode_session)
}

pub(super) fn lease(connection: &Connection, lease: LeaseId) -> Result<Option<LeaseRecord>, StoreFault> {
    let sql = concat!("SELECT ", columns!(lease), " FROM leases WHERE id = ?1");
    one(connection, sql, [lease.as_bytes()], decode_lease)
}

/// All that are alive; with `filter.ended` also the newest of the others. Identifiers begin with the time, so they give the order.
pub(super) fn leases(connection: &Connection, filter: &LeaseFilter) -> Result<Vec<LeaseRecord>, StoreFault> {
    let session = filter.session.as_ref().map(SessionId::as_bytes);
    let credential = filter.credential.as_ref().map(CredentialName::as_str);
    let boot = filter.other_boot.as_ref().map(BootId::as_bytes);
    let mut found = all(connection, LEASES_ALIVE, (session, credential, boot), decode_lease)?;
    if filter.ended {
        let sql = if session.is_some() { LEASES_ENDED_OF_SESSION } else { LEASES_ENDED };
        found.extend(all(connection, sql, (session, credential, boot, SCAN_MAX), decode_lease)?);
        found.sort_by_key(|lease| std::cmp::Reverse(lease.lease));
    }
    Ok(found)
}

/// Goes from lane to lane through the index, and looks for one that is due on each: the length of a queue costs nothing.
pub(super) const LANES: &str = "WITH RECURSIVE queue (lane) AS (
        SELECT min(lane) FROM leases WHERE state = 'revoking'
        UNION ALL
        SELECT (SELECT min(lane) FROM leases WHERE state = 'revoking' AND lane > queue.lane) FROM queue
            WHERE queue.lane IS NOT NULL
     )
     SELECT lane FROM queue WHERE lane IS NOT NULL AND (
        EXISTS (SELECT 1 FROM leases WHERE state = 'revoking' AND lane = queue.lane AND retry_at IS NULL)
        OR EXISTS (SELECT 1 FROM leases WHERE state = 'revoking' AND lane = queue.lane AND retry_at <= ?1)
        OR EXISTS (SELECT 1 FROM leases WHERE state = 'revoking' AND lane = queue.lane AND retry_at > ?1 + ?2)
     ) ORDER BY lane";

pub(super) const DUE: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM leases WHERE state = 'revoking' AND lane = ?3
     AND (retry_at IS NULL OR retry_at <= ?1 OR retry_at > ?1 + ?2) ORDER BY retry_at LIMIT ?4"
);

pub(super) fn lanes(connection: &Connection, now: Timestamp) -> Result<Vec<String>, StoreFault> {
    all(connection, LANES, (now.millis(), RETRY_AHEAD_MAX), |row| Cells(row, 0).take())
}

/// One daemon has the file, so what is due is its own to settle.
pub(super) fn due(connection: &Connection, claim: &Claim) -> Result<Vec<LeaseRecord>, StoreFault> {
    let Claim { lane, now, limit, .. } = claim;
    all(connection, DUE, (now.millis(), RETRY_AHEAD_MAX, lane, limit), decode_lease)
}

const ORPHAN_SESSIONS: &str =
    "SELECT id FROM sessions WHERE ended_at IS NULL AND boot <> ?1 ORDER BY id LIMIT ?2";

pub(super) const ORPHAN_LEASES: [&str; 2] = [
    "SELECT id FROM leases INDEXED BY leases_owned WHERE state IN ('pending', 'active') AND boot < ?1 LIMIT ?2",
    "SELECT id FROM leases INDEXED BY leases_owned WHERE state IN ('pending', 'active') AND boot > ?1 LIMIT ?2",
];

/// Sessions of other boots, or their leases where no session is left.
pub(super) fn orphans(connection: &Connection, boot: BootId, limit: u32) -> Result<Orphaned, StoreFault> {
    let boot = boot.as_bytes();
    let sessions = all(connection, ORPHAN_SESSIONS, (boot, limit), |row| Cells(row, 0).id())?;
    if !sessions.is_empty() {
        return Ok(Orphaned { sessions, leases: Vec::new() });
    }
    let mut leases = Vec::new();
    for sql in ORPHAN_LEASES {
        let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(leases.len());
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        leases.extend(all(connection, sql, (boot, left), |row| Cells(row, 0).id::<LeaseId>())?);
    }
    Ok(Orphaned { sessions, leases })
}

pub(super) const STUCK: &str =
    "SELECT role, credential, count(*), min(revoking_at) FROM leases INDEXED BY leases_stuck
     WHERE state = 'revoking' AND revoking_at <= ?1 GROUP BY role, credential ORDER BY role, credential";

/// By role and credential, so that the answer is as short as the configuration.
pub(super) fn stuck(connection: &Connection, before: Timestamp) -> Result<Vec<Stuck>, StoreFault> {
    all(connection, STUCK, [before.millis()], |row| {
        let mut cells = Cells(row, 0);
        let (role, credential) = (cells.parsed()?, cells.optional_name()?);
        let leases = u64::try_from(cells.take::<i64>()?).unwrap_or(0);
        Ok(Stuck { role, credential, leases, since: cells.instant()? })
    })
}

pub(super) fn pending(connection: &Connection) -> Result<Vec<PendingValue>, StoreFault> {
    let sql = "SELECT name, version, sealed, set_at FROM pending_values ORDER BY name";
    all(connection, sql, (), |row| {
        let mut cells = Cells(row, 0);
        Ok(PendingValue {
            name: cells.parsed()?,
            version: cells.take()?,
            sealed: cells.take()?,
            set_at: cells.instant()?,
        })
    })
}

pub(super) fn meta(connection: &Connection, key: &str) -> Result<Option<Vec<u8>>, StoreFault> {
    one(connection, "SELECT value FROM meta WHERE key = ?1", [key], |row| Cells(row, 0).take())
}

pub(super) fn lease_state(text: &str) -> Result<LeaseState, StoreFault> {
    named(text)
}

fn decode_credential(row: &Row<'_>) -> Result<CredentialVersion, StoreFault> {
    let mut cells = Cells(row, 0);
    let (name, version) = (cells.parsed()?, cells.take()?);
    let (sealed, reference): (Option<Vec<u8>>, Option<String>) = (cells.take()?, cells.take()?);
    let value = match (sealed, reference) {
        (Some(sealed), None) => StoredValue::Sealed(sealed),
        (None, Some(reference)) => StoredValue::Reference(reference),
        _ => return Err(StoreFault::Damaged(format!("credential {name} has no one value"))),
    };
    Ok(CredentialVersion { name, version, value, set_at: cells.instant()? })
}

fn decode_original(row: &Row<'_>) -> Result<OriginalRecord, StoreFault> {
    let mut cells = Cells(row, 0);
    Ok(OriginalRecord {
        path: cells.take()?,
        written_sha256: cells.take()?,
        original_sha256: cells.take()?,
        sealed: cells.take()?,
        kept_at: cells.instant()?,
    })
}

fn decode_session(row: &Row<'_>) -> Result<SessionRecord, StoreFault> {
    let mut cells = Cells(row, 0);
    Ok(SessionRecord {
        session: cells.id()?,
        boot: cells.id()?,
        workload: cells.parsed()?,
        role: cells.parsed()?,
        requester: cells.take()?,
        program: cells.take()?,
        directory: cells.take()?,
        pid: cells.take()?,
        level: cells.named()?,
        prompt_sha256: cells.take()?,
        resumed_from: cells.optional_id()?,
        opened_at: cells.instant()?,
        expires_at: cells.instant()?,
        ended_at: cells.take::<Option<i64>>()?.map(Timestamp::from_millis),
        end: cells.take()?,
    })
}

fn decode_lease(row: &Row<'_>) -> Result<LeaseRecord, StoreFault> {
    let mut cells = Cells(row, 0);
    Ok(LeaseRecord {
        lease: cells.id()?,
        session: cells.id()?,
        boot: cells.id()?,
        workload: cells.parsed()?,
        role: cells.parsed()?,
        target: cells.parsed()?,
        credential: cells.optional_name()?,
        engine: cells.take()?,
        version: cells.take()?,
        scope: cells.json()?,
        receipt: cells.json()?,
        lane: cells.take()?,
        revealed: cells.take()?,
        state: cells.named()?,
        end: cells.take::<Option<String>>()?.as_deref().map(named).transpose()?,
        revoked: cells.take::<Option<String>>()?.as_deref().map(named).transpose()?,
        issued_at: cells.instant()?,
        expires_at: cells.instant()?,
        ended_at: cells.take::<Option<i64>>()?.map(Timestamp::from_millis),
    })
}

/// The cells of one row, read from left to right in the order of `columns!`.
struct Cells<'a>(&'a Row<'a>, usize);

impl Cells<'_> {
    fn take<T: FromSql>(&mut self) -> Result<T, StoreFault> {
        let value = self.0.get(self.1).map_err(plain);
        self.1 += 1;
        value
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, StoreFault> {
        self.take::<String>()?.parse().map_err(|error: T::Err| StoreFault::Damaged(error.to_string()))
    }

    fn named<T: DeserializeOwned>(&mut self) -> Result<T, StoreFault> {
        named(&self.take::<String>()?)
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, StoreFault> {
        serde_json::from_str(&self.take::<String>()?).map_err(|error| StoreFault::Damaged(error.to_string()))
    }

    fn id<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, StoreFault> {
        let text = uuid::Uuid::from_bytes(self.take()?).to_string();
        text.parse().map_err(|error: T::Err| StoreFault::Damaged(error.to_string()))
    }

    fn optional_id<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, StoreFault> {
        let at = self.1;
        match self.take::<Option<[u8; 16]>>()? {
            None => Ok(None),
            Some(_) => Cells(self.0, at).id().map(Some),
        }
    }

    fn optional_name<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, StoreFault> {
        let at = self.1;
        match self.take::<Option<String>>()? {
            None => Ok(None),
            Some(_) => Cells(self.0, at).parsed().map(Some),
        }
    }

    fn instant(&mut self) -> Result<Timestamp, StoreFault> {
        self.take().map(Timestamp::from_millis)
    }
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T, StoreFault>,
) -> Result<Option<T>, StoreFault> {
    let mut statement = connection.prepare_cached(sql).map_err(plain)?;
    let mut rows = statement.query(params).map_err(plain)?;
    rows.next().map_err(plain)?.map(decode).transpose()
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T, StoreFault>,
) -> Result<Vec<T>, StoreFault> {
    let mut statement = connection.prepare_cached(sql).map_err(plain)?;
    let mut rows = statement.query(params).map_err(plain)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(plain)? {
        found.push(decode(row)?);
    }
    Ok(found)
}
