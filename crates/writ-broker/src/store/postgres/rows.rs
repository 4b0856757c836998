//! Rows to records. What does not parse is damage, and is called that.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;
use writ_core::{CredentialName, LeaseId, SessionId, Timestamp};

use super::{
    changes::{boot_uuid, params, uuid},
    fault::damaged,
    open::Lasting,
};
use crate::store::{
    CredentialVersion, LeaseFilter, LeaseRecord, OriginalRecord, PendingValue, RETRY_AHEAD_MAX,
    SessionRecord, StoreFault, StoredValue, names::named,
};

/// How many sessions, and how many ended leases, one answer holds.
const SCAN_MAX: i64 = 1000;

macro_rules! columns {
    (credential) => {
        "name, version, sealed, reference, set_at"
    };
    (session) => {
        "id, boot, workload, role, requester, program, directory, pid, level, prompt_sha256, resumed_from, \
         opened_at, expires_at, ended_at, end_reason"
    };
    (lease) => {
        "leases.id, leases.session, leases.boot, leases.workload, leases.role, leases.target, leases.credential, \
         leases.engine, leases.version, leases.scope, leases.receipt, leases.lane, leases.revealed, leases.state, \
         leases.end_reason, leases.revoked, leases.issued_at, leases.expires_at, leases.ended_at"
    };
}
pub(super) use columns;

const CREDENTIAL: &str = concat!(
    "SELECT ",
    columns!(credential),
    " FROM writ.credential_versions WHERE name = $1 AND version = coalesce($2, version) ORDER BY version DESC LIMIT 1"
);
const CREDENTIALS: &str = concat!(
    "SELECT DISTINCT ON (name COLLATE \"C\") ",
    columns!(credential),
    " FROM writ.credential_versions ORDER BY name COLLATE \"C\", version DESC"
);
const ORIGINALS: &str = "SELECT path, written_sha256, original_sha256, sealed, kept_at FROM writ.originals
    ORDER BY path COLLATE \"C\", kept_at DESC LIMIT $1";
const SESSION: &str = concat!("SELECT ", columns!(session), " FROM writ.sessions WHERE id = $1");
const SESSIONS: &str = concat!("SELECT ", columns!(session), " FROM writ.sessions ORDER BY id DESC LIMIT $1");
const SESSIONS_ALIVE: &str = concat!(
    "SELECT ",
    columns!(session),
    " FROM writ.sessions WHERE ended_at IS NULL ORDER BY id DESC LIMIT $1"
);
const LEASE: &str = concat!("SELECT ", columns!(lease), " FROM writ.leases WHERE id = $1");
const LEASES_ALIVE: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM writ.leases WHERE state <> 'ended' AND ($1::uuid IS NULL OR session = $1)
    AND ($2::text IS NULL OR credential = $2) AND ($3::uuid IS NULL OR boot <> $3) ORDER BY id DESC"
);
const LEASES_ENDED: &str = concat!(
    "SELECT ",
    columns!(lease),
    " FROM writ.leases WHERE state = 'ended' AND ($1::uuid IS NULL OR session = $1)
    AND ($2::text IS NULL OR credential = $2) AND ($3::uuid IS NULL OR boot <> $3) ORDER BY id DESC LIMIT $4"
);
/// Goes from lane to lane through the index, and looks for one that is due on each: the length of a queue costs nothing.
const LANES: &str = "WITH RECURSIVE queue (lane) AS (
        (SELECT lane FROM writ.leases WHERE state = 'revoking' ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT leases.lane FROM writ.leases WHERE state = 'revoking' AND leases.lane > queue.lane
            ORDER BY leases.lane LIMIT 1)
        FROM queue WHERE queue.lane IS NOT NULL)
    SELECT lane FROM queue WHERE lane IS NOT NULL AND EXISTS (
        SELECT FROM writ.leases WHERE state = 'revoking' AND leases.lane = queue.lane
            AND (retry_at IS NULL OR retry_at <= $1 OR retry_at > $2))
    ORDER BY lane COLLATE \"C\"";
const PENDING: &str =
    "SELECT name, version, sealed, set_at FROM writ.pending_values ORDER BY name COLLATE \"C\"";
const META: &str = "SELECT value FROM writ.meta WHERE key = $1";

/// Every statement, for the test that prepares them.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[
    CREDENTIAL,
    CREDENTIALS,
    ORIGINALS,
    SESSION,
    SESSIONS,
    SESSIONS_ALIVE,
    LEASE,
    LEASES_ALIVE,
    LEASES_ENDED,
    LANES,
    PENDING,
    META,
];

pub(super) async fn credential(
    reader: &Lasting,
    name: &CredentialName,
    version: Option<u32>,
) -> Result<Option<CredentialVersion>, StoreFault> {
    let params = params![name.as_str().to_owned(), version.map(i64::from)];
    one(&reader.ask(CREDENTIAL, params).await?, decode_credential)
}

pub(super) async fn credentials(reader: &Lasting) -> Result<Vec<CredentialVersion>, StoreFault> {
    all(&reader.ask(CREDENTIALS, Vec::new()).await?, decode_credential)
}

pub(super) async fn originals(reader: &Lasting) -> Result<Vec<OriginalRecord>, StoreFault> {
    all(&reader.ask(ORIGINALS, params![SCAN_MAX]).await?, |row| {
        let mut cells = Cells(row, 0);
        Ok(OriginalRecord {
            path: cells.take()?,
            written_sha256: cells.hash()?,
            original_sha256: cells.hash()?,
            sealed: cells.take()?,
            kept_at: cells.instant()?,
        })
    })
}

pub(super) async fn session(
    reader: &Lasting,
    session: SessionId,
) -> Result<Option<SessionRecord>, StoreFault> {
    one(&reader.ask(SESSION, params![uuid(session.as_bytes())]).await?, decode_session)
}

pub(super) async fn sessions(reader: &Lasting, ended: bool) -> Result<Vec<SessionRecord>, StoreFault> {
    let sql = if ended { SESSIONS } else { SESSIONS_ALIVE };
    all(&reader.ask(sql, params![SCAN_MAX]).await?, decode_session)
}

pub(super) async fn lease(reader: &Lasting, lease: LeaseId) -> Result<Option<LeaseRecord>, StoreFault> {
    one(&reader.ask(LEASE, params![uuid(lease.as_bytes())]).await?, decode_lease)
}

/// All that are alive; with `filter.ended` also the newest of the others. Identifiers begin with the time, so they give the order.
pub(super) async fn leases(reader: &Lasting, filter: &LeaseFilter) -> Result<Vec<LeaseRecord>, StoreFault> {
    let session = filter.session.map(|session| uuid(session.as_bytes()));
    let credential = filter.credential.as_ref().map(|name| name.as_str().to_owned());
    let boot = filter.other_boot.map(boot_uuid);
    let alive = reader.ask(LEASES_ALIVE, params![session, credential.clone(), boot]).await?;
    let mut found = all(&alive, decode_lease)?;
    if filter.ended {
        let ended = reader.ask(LEASES_ENDED, params![session, credential, boot, SCAN_MAX]).await?;
        found.extend(all(&ended, decode_lease)?);
        found.sort_by_key(|lease| std::cmp::Reverse(lease.lease));
        // One that ended between the two questions is in both answers.
        found.dedup_by_key(|lease| lease.lease);
    }
    Ok(found)
}

pub(super) async fn lanes(reader: &Lasting, now: Timestamp) -> Result<Vec<String>, StoreFault> {
    let ahead = now.millis().saturating_add(RETRY_AHEAD_MAX);
    let rows = reader.ask(LANES, params![now.millis(), ahead]).await?;
    all(&rows, |row| Cells(row, 0).take())
}

pub(super) async fn pending(reader: &Lasting) -> Result<Vec<PendingValue>, StoreFault> {
    all(&reader.ask(PENDING, Vec::new()).await?, |row| {
        let mut cells = Cells(row, 0);
        Ok(PendingValue {
            name: cells.parsed()?,
            version: cells.number()?,
            sealed: cells.take()?,
            set_at: cells.instant()?,
        })
    })
}

pub(super) async fn meta(reader: &Lasting, key: String) -> Result<Option<Vec<u8>>, StoreFault> {
    one(&reader.ask(META, params![key]).await?, |row| Cells(row, 0).take())
}

fn decode_credential(row: &Row) -> Result<CredentialVersion, StoreFault> {
    let mut cells = Cells(row, 0);
    let (name, version) = (cells.parsed()?, cells.number()?);
    let (sealed, reference): (Option<Vec<u8>>, Option<String>) = (cells.take()?, cells.take()?);
    let value = match (sealed, reference) {
        (Some(sealed), None) => StoredValue::Sealed(sealed),
        (None, Some(reference)) => StoredValue::Reference(reference),
        _ => return Err(StoreFault::Damaged(format!("credential {name} has no one value"))),
    };
    Ok(CredentialVersion { name, version, value, set_at: cells.instant()? })
}

fn decode_session(row: &Row) -> Result<SessionRecord, StoreFault> {
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
        resumed_from: cells.take::<Option<Uuid>>()?.map(id).transpose()?,
        opened_at: cells.instant()?,
        expires_at: cells.instant()?,
        ended_at: cells.take::<Option<i64>>()?.map(Timestamp::from_millis),
        end: cells.take()?,
    })
}

pub(super) fn decode_lease(row: &Row) -> Result<LeaseRecord, StoreFault> {
    let mut cells = Cells(row, 0);
    Ok(LeaseRecord {
        lease: cells.id()?,
        session: cells.id()?,
        boot: cells.id()?,
        workload: cells.parsed()?,
        role: cells.parsed()?,
        target: cells.parsed()?,
        credential: cells.optional()?,
        engine: cells.take()?,
        version: cells.number()?,
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
pub(super) struct Cells<'a>(pub &'a Row, pub usize);

impl<'a> Cells<'a> {
    pub(super) fn take<T: FromSql<'a>>(&mut self) -> Result<T, StoreFault> {
        let value = self.0.try_get(self.1).map_err(|error| damaged(&error));
        self.1 += 1;
        value
    }

    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, StoreFault> {
        parse(&self.take::<String>()?)
    }

    pub(super) fn optional<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, StoreFault> {
        self.take::<Option<String>>()?.as_deref().map(parse).transpose()
    }

    pub(super) fn id<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, StoreFault> {
        id(self.take()?)
    }

    fn named<T: DeserializeOwned>(&mut self) -> Result<T, StoreFault> {
        named(&self.take::<String>()?)
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, StoreFault> {
        serde_json::from_str(&self.take::<String>()?).map_err(|error| StoreFault::Damaged(error.to_string()))
    }

    fn number(&mut self) -> Result<u32, StoreFault> {
        u32::try_from(self.take::<i64>()?).map_err(|error| StoreFault::Damaged(error.to_string()))
    }

    fn hash(&mut self) -> Result<[u8; 32], StoreFault> {
        let bytes: Vec<u8> = self.take()?;
        bytes.try_into().map_err(|_| StoreFault::Damaged("a hash has another length".to_owned()))
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp, StoreFault> {
        self.take().map(Timestamp::from_millis)
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreFault> {
    text.parse().map_err(|error: T::Err| StoreFault::Damaged(error.to_string()))
}

fn id<T: FromStr<Err: std::fmt::Display>>(id: Uuid) -> Result<T, StoreFault> {
    parse(&id.to_string())
}

pub(super) fn one<T>(
    rows: &[Row],
    decode: impl Fn(&Row) -> Result<T, StoreFault>,
) -> Result<Option<T>, StoreFault> {
    rows.first().map(decode).transpose()
}

pub(super) fn all<T>(
    rows: &[Row],
    decode: impl Fn(&Row) -> Result<T, StoreFault>,
) -> Result<Vec<T>, StoreFault> {
    rows.iter().map(decode).collect()
}
