//! An audit event: an attempt and its outcome joined, in the words of the glossary.
//!
//! The field names are a contract with whoever reads `writ audit query --json`; they follow OCSF's actor, action, resource,
//! outcome. Absent fields are left out. Values that are not on the allow-list stay as their keyed hashes (`h:…`).

use jiff::Timestamp;

use crate::{
    Kind, StreamName, Verdict,
    record::{AttemptRecord, Cause, Mark, OutcomeRecord},
};

/// One thing that happened, or may have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// When it began; of a gap, when it was found.
    pub time: Timestamp,
    /// The stream that recorded it.
    pub stream: String,
    /// The attempt's number in that stream.
    pub sequence: u64,
    /// What kind of thing.
    pub kind: Kind,
    /// Who.
    pub actor: Actor,
    /// What exactly; the kind where there is no more to say.
    pub action: String,
    /// On what.
    pub resource: Resource,
    /// How it ended.
    pub outcome: Ending,
    /// The lease that was used or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    /// Was the lease within its TTL when it was used?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ttl: Option<bool>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Who did it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Actor {
    /// SPIFFE ID of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The user on whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
}

/// What it was done to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resource {
    /// Name of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_type: Option<String>,
    /// Name of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The lease's scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<String>,
    /// Path without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ending {
    /// The verdict.
    pub result: Verdict,
    /// Why, as a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// The upstream's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body bytes sent upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Body bytes sent to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// How many times the scrubber found the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrubbed: Option<u32>,
}

impl Ending {
    fn new(result: Verdict, reason: Option<&str>) -> Self {
        Self {
            result,
            reason: reason.map(str::to_owned),
            duration_us: None,
            status: None,
            bytes_up: None,
            bytes_down: None,
            scrubbed: None,
        }
    }
}

impl Event {
    /// When it ended, as far as is known: the order in which events are read.
    #[must_use]
    pub fn ended(&self) -> Timestamp {
        let micros = self.outcome.duration_us.and_then(|micros| i64::try_from(micros).ok()).unwrap_or(0);
        self.time.checked_add(jiff::SignedDuration::from_micros(micros)).unwrap_or(self.time)
    }

    pub(crate) fn ended_attempt(
        stream: &StreamName,
        sequence: u64,
        attempt: AttemptRecord,
        outcome: OutcomeRecord,
    ) -> Self {
        let ending = Ending {
            result: outcome.verdict,
            reason: outcome.reason,
            duration_us: outcome.duration.or_else(|| outcome.end.checked_sub(attempt.start)),
            status: outcome.status,
            bytes_up: outcome.bytes_up,
            bytes_down: outcome.bytes_down,
            scrubbed: outcome.scrubbed,
        };
        let mut event = Self::of_attempt(stream, sequence, attempt, ending);
        event.lease_id = outcome.lease.or(event.lease_id);
        event.resource.dialled = outcome.dialled.or(event.resource.dialled);
        event
    }

    /// An attempt without an outcome: `pending` while its writer lives, `unknown` otherwise.
    pub(crate) fn open_attempt(
        stream: &StreamName,
        sequence: u64,
        attempt: AttemptRecord,
        pending: bool,
    ) -> Self {
        let ending = match pending {
            true => Ending::new(Verdict::Pending, None),
            false => Ending::new(Verdict::Unknown, Some(NO_OUTCOME)),
        };
        Self::of_attempt(stream, sequence, attempt, ending)
    }

    pub(crate) fn gap(stream: &StreamName, sequence: u64, mark: &Mark) -> Self {
        let action = match mark.cause {
            Some(Cause::Failure) => "log failed",
            Some(Cause::Crash) | None => "writer killed",
        };
        Self {
            time: timestamp(mark.at),
            stream: stream.to_string(),
            sequence,
            kind: Kind::Gap,
            actor: Actor::default(),
            action: action.to_owned(),
            resource: Resource::default(),
            outcome: Ending::new(Verdict::Unknown, Some("records may be missing")),
            lease_id: None,
            within_ttl: None,
            session_id: None,
            request_id: None,
        }
    }

    fn of_attempt(stream: &StreamName, sequence: u64, attempt: AttemptRecord, outcome: Ending) -> Self {
        let AttemptRecord { kind, start, texts, port, within_ttl } = attempt;
        let [
            request_id,
            workload,
            role,
            session_id,
            requester,
            credential,
            credential_type,
            scope,
            method,
            ..,
        ] = &texts;
        let [.., scheme, host, dialled, path, lease_id, action, target] = &texts;
        Self {
            time: timestamp(start),
            stream: stream.to_string(),
            sequence,
            kind,
            actor: Actor { workload: workload.clone(), role: role.clone(), requester: requester.clone() },
            action: action.clone().unwrap_or_else(|| kind.as_str().to_owned()),
            resource: Resource {
                credential: credential.clone(),
                credential_type: credential_type.clone(),
                target: target.clone(),
                scope: scope.clone(),
                method: method.clone(),
                scheme: scheme.clone(),
                host: host.clone(),
                port,
                dialled: dialled.clone(),
                path: path.clone(),
            },
            outcome,
            lease_id: lease_id.clone(),
            within_ttl,
            session_id: session_id.clone(),
            request_id: request_id.clone(),
        }
    }
}

/// Which events are wanted. What is `None` wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Session id.
    pub session: Option<String>,
    /// Lease id.
    pub lease: Option<String>,
    /// Name of the credential.
    pub credential: Option<String>,
    /// Role.
    pub role: Option<String>,
    /// SPIFFE ID of the workload.
    pub workload: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Kind.
    pub kind: Option<Kind>,
    /// Verdict.
    pub result: Option<Verdict>,
    /// Begun at this instant or later.
    pub since: Option<Timestamp>,
    /// Begun before this instant.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Is this event wanted? A gap always is within the time, because what is missing could have been wanted.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let in_time = self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time < until);
        let wanted = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
        let fits = wanted(&self.session, &event.session_id)
            && wanted(&self.lease, &event.lease_id)
            && wanted(&self.credential, &event.resource.credential)
            && wanted(&self.role, &event.actor.role)
            && wanted(&self.workload, &event.actor.workload)
            && wanted(&self.host, &event.resource.host)
            && self.kind.is_none_or(|kind| kind == event.kind)
            && self.result.is_none_or(|result| result == event.outcome.result);
        in_time && (fits || event.kind == Kind::Gap)
    }
}

/// Microseconds since the Unix epoch as an instant; what lies outside of the calendar saturates.
fn timestamp(micros: u64) -> Timestamp {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

/// The reason of an attempt whose outcome is missing.
pub const NO_OUTCOME: &str = "no outcome recorded";
