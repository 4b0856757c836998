//! What an operator sees of sessions and leases.

use writ_api::control::{LeaseRow, Quarantined, SessionRow};

use crate::{
    broker::Broker,
    leases::Which,
    records,
    store::{LeaseRecord, SessionRecord, Stuck},
};

pub(super) fn session(broker: &Broker, record: SessionRecord) -> SessionRow {
    let leases = broker.leases.count(Which::Session(record.session));
    SessionRow {
        session: record.session,
        workload: record.workload,
        role: record.role,
        requester: record.requester,
        program: record.program,
        directory: record.directory,
        pid: record.pid,
        level: record.level,
        prompt_sha256: record.prompt_sha256,
        resumed_from: record.resumed_from,
        opened_at: record.opened_at,
        expires_at: record.expires_at,
        ended_at: record.ended_at,
        end: record.end,
        leases,
    }
}

pub(super) fn quarantined(stuck: Stuck) -> Option<Quarantined> {
    let Stuck { role, credential, leases, since } = stuck;
    Some(Quarantined { role, credential: credential?, leases, since })
}

pub(super) fn lease(record: LeaseRecord) -> LeaseRow {
    LeaseRow {
        lease: record.lease,
        session: record.session,
        workload: record.workload,
        role: record.role,
        target: record.target,
        credential: record.credential,
        version: record.version,
        scope: record.scope,
        state: record.state,
        end: record.end,
        revoked: record.revoked.map(|revoked| records::achieved(revoked).to_owned()),
        issued_at: record.issued_at,
        expires_at: record.expires_at,
        ended_at: record.ended_at,
        revealed: record.revealed,
        lane: record.lane,
    }
}
