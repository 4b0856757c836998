//! The record of each use: one attempt, one outcome, on every path.
//!
//! An [`Exchange`] is one request under a lease from the moment the log accepted its attempt. It is closed explicitly where the path
//! ends; if it is dropped instead (the agent went away, a revocation tore the connection down), its drop records that as a cut, with
//! the lease's state as the reason. Refusals that never became a use are recorded at once, attempt and outcome together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writ_audit::{Attempt, Entry, Kind, Outcome, PathView, Verdict};
use writ_core::{RefusalKind, Timestamp};

use crate::{
    lease::{Lease, Life, Now},
    refuse::Refused,
    route::Target,
    tunnel::Tunnel,
};

/// One request under a lease.
pub(crate) struct Exchange {
    entry: Option<Entry>,
    pub(crate) lease: Arc<Lease>,
    tunnel: Arc<Tunnel>,
    started: Duration,
    /// Bytes of the request's body that went up, where it has one.
    pub(crate) up: Option<Arc<AtomicU64>>,
    pub(crate) down: u64,
    pub(crate) scrubbed: u64,
    pub(crate) status: Option<u16>,
    pub(crate) dialled: Option<Arc<str>>,
}

impl Exchange {
    /// Marks the connection as being in use under the lease. Made before the lease is judged: whoever ends the lease then either is
    /// seen by the judgment or sees the mark.
    pub(crate) fn begin(tunnel: &Arc<Tunnel>, lease: Arc<Lease>, now: Now) -> Self {
        tunnel.open.enter(&lease);
        Self {
            entry: None,
            lease,
            tunnel: tunnel.clone(),
            started: now.boot,
            up: None,
            down: 0,
            scrubbed: 0,
            status: None,
            dialled: None,
        }
    }

    /// Has the log accept the attempt. Without it the request must not leave.
    pub(crate) fn record(&mut self, target: &Target, method: &str, now: Now) -> Result<(), Refused> {
        let session = &self.tunnel.session;
        let plan = &target.route.plan;
        let request = target.request.to_string();
        let attempt = Attempt {
            request_id: Some(&request),
            workload: Some(&session.workload),
            role: Some(&session.role),
            session: Some(&session.id_text),
            requester: Some(&session.requester),
            credential: plan.credential.as_ref().map(writ_core::CredentialName::as_str),
            credential_type: Some(&self.lease.credential_type),
            scope: Some(&self.lease.scope_text),
            method: Some(method),
            scheme: Some("https"),
            host: Some(plan.authority.host().as_str()),
            port: Some(plan.authority.port()),
            path: Some(view(target.path.as_str())),
            lease: Some(&self.lease.id_text),
            within_ttl: Some(true),
            target: Some(plan.target.as_str()),
            ..Attempt::new(Kind::Use, micros(now.wall))
        };
        let entry = self.tunnel.audit().open(&attempt).map_err(|fault| unrecorded(&fault))?;
        self.entry = Some(entry);
        Ok(())
    }

    /// Closes as refused or failed, and hands the refusal on.
    pub(crate) fn refuse(&mut self, refused: Refused) -> Refused {
        let verdict = match refused.refusal.kind {
            RefusalKind::UpstreamFailed => {
                self.failed();
                return Refused { recorded: true, ..refused };
            }
            RefusalKind::UpstreamEncoding => Verdict::Failed,
            _ => Verdict::Refused,
        };
        if let Some(address) = refused.address {
            self.dialled = Some(address.to_string().into());
        }
        let recorded = self.close(verdict, Some(refused.refusal.kind.slug()));
        Refused { recorded: recorded || refused.recorded, ..refused }
    }

    /// The answer was delivered to its end.
    pub(crate) fn done(&mut self) {
        self.close(Verdict::Ok, None);
    }

    /// The upstream broke off: by itself, or because the lease's end cut its connection.
    pub(crate) fn failed(&mut self) {
        if self.is_cut() {
            self.close(Verdict::Cut, Some(self.lease.life().cut_reason()));
        } else {
            self.close(Verdict::Failed, Some(RefusalKind::UpstreamFailed.slug()));
        }
    }

    /// Whether its lease ended in a way that ends open responses too.
    pub(crate) fn is_cut(&self) -> bool {
        match self.lease.life() {
            Life::Alive => false,
            Life::Expired => self.lease.past_grace(self.tunnel.plane.now()),
            Life::Revoked | Life::SessionEnded | Life::Lost => true,
        }
    }

    fn close(&mut self, verdict: Verdict, reason: Option<&str>) -> bool {
        let Some(entry) = self.entry.take() else { return false };
        let took = self.tunnel.plane.clock.boottime().saturating_sub(self.started);
        entry.close(&Outcome {
            reason,
            duration: u64::try_from(took.as_micros()).ok(),
            status: self.status,
            bytes_up: Some(self.up.as_ref().map_or(0, |sent| sent.load(Ordering::Relaxed))),
            bytes_down: Some(self.down),
            scrubbed: u32::try_from(self.scrubbed).ok().filter(|hits| *hits > 0),
            dialled: self.dialled.as_deref(),
            ..Outcome::new(verdict)
        });
        true
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.close(Verdict::Cut, Some(self.lease.life().cut_reason()));
        self.tunnel.open.leave(&self.lease);
    }
}

/// Where something went that was refused.
#[derive(Clone, Copy)]
pub(crate) struct Toward<'a> {
    pub(crate) scheme: &'static str,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

/// Records a refusal that was no use of a lease, and tells whoever watches the run if it is an alarm.
pub(crate) fn refused(tunnel: &Tunnel, refused: &Refused, toward: Toward<'_>, method: Option<&str>) {
    let Toward { scheme, host, port } = toward;
    if let Some(alarm) = &refused.alarm {
        let place = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        tunnel.session.tell(&tunnel.plane, refused.refusal.kind, &place, || alarm.clone());
    }
    if refused.recorded {
        return;
    }
    let now = tunnel.plane.clock.now();
    let request = crate::names::request_id(now).map(|id| id.to_string());
    let slug = refused.refusal.kind.slug();
    let attempt = Attempt {
        request_id: request.as_deref(),
        workload: Some(&tunnel.session.workload),
        role: Some(&tunnel.session.role),
        session: Some(&tunnel.session.id_text),
        requester: Some(&tunnel.session.requester),
        method,
        scheme: Some(scheme),
        host: Some(host),
        port,
        action: Some(slug),
        ..Attempt::new(Kind::Refused, micros(now))
    };
    // The request is refused whether or not the log can say so.
    let _ = tunnel.audit().record(&attempt, &Outcome::refused(slug));
}

/// A path stands in the log as it is if each of its segments reads like a word of an API (`v1`, `chat`, `count_tokens`). Anything
/// with capitals, more than two digits in a row or unusual length may be somebody's token, and is hashed.
fn view(path: &str) -> PathView<'_> {
    PathView { path, plain: path.split('/').all(is_word) }
}

fn is_word(segment: &str) -> bool {
    let mut digits = 0;
    segment.len() <= WORD_MAX
        && segment.bytes().all(|byte| {
            digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
            digits <= DIGITS_MAX
                && (byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte))
        })
}

const WORD_MAX: usize = 24;
const DIGITS_MAX: u32 = 2;

/// The refusal of what the log would not take. Nothing can be recorded now, so this is not tried to be.
pub(crate) fn unrecorded(fault: &impl std::fmt::Display) -> Refused {
    let next = "the operator must mend the audit log: see `writ doctor`";
    Refused { recorded: true, ..Refused::new(RefusalKind::AuditUnavailable, fault.to_string(), next) }
}

pub(crate) fn no_randomness() -> Refused {
    Refused::new(RefusalKind::Internal, "the system gives no randomness", "see `writ doctor`")
}

pub(crate) fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.millis()).unwrap_or(0).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_stand_plainly_in_the_log() {
        for plain in ["/", "/v1/chat/completions", "/v1/messages/count_tokens", "/api/v4/projects"] {
            assert!(view(plain).plain, "{plain}");
        }
        for hashed in [
            "/bot123456789:AAF",
            "/services/T0/B0/xyz",
            "/v1/models/abcdefghijklmnopqrstuvwxyz",
            "/u/4711",
            "/a%20b",
        ] {
            assert!(!view(hashed).plain, "{hashed}");
        }
    }
}
