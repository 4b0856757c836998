//! A lease as the data plane holds it: the credential ready to be put on the wire, and whether it may be.
//!
//! Invariant: after [`Lease::end`] has returned, no [`Lease::usable`] on any thread says yes. What is prepared here is made once per
//! lease: rendered headers, the scrubber's needles, the texts of its records.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use writ_core::{Granted, LeaseEnd, LeaseId, Refusal, RefusalKind, Rendered, Scope, Timestamp};
use writ_detect::Needles;

/// The part of a lease's life in which it is renewed ahead: the last fifth.
const RENEW_SHARE: u32 = 5;
/// How long an open response may go on after its lease expired.
pub(crate) const EXPIRED_GRACE: Duration = Duration::from_secs(60);

/// An instant on both clocks. Wall-clock time may step; time since boot may not, and counts suspension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) boot: Duration,
}

/// What a lease was made of, before it is put to use.
pub(crate) struct Parts {
    /// One for each declared place of the route, in order.
    pub(crate) rendered: Vec<Rendered>,
    pub(crate) needles: Arc<Needles>,
}

/// One lease on one target, for one session.
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) id_text: String,
    pub(crate) credential_type: String,
    pub(crate) scope: Scope,
    pub(crate) scope_text: String,
    pub(crate) rendered: Vec<Rendered>,
    pub(crate) needles: Arc<Needles>,
    /// Until when it lives: Unix milliseconds, and milliseconds since boot. Both move when the broker renews the lease itself.
    expires_at: AtomicI64,
    expires_boot: AtomicU64,
    renew_boot: AtomicU64,
    renewing: AtomicBool,
    state: AtomicU8,
}

/// Whether a lease lives, as one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Expired,
    Revoked,
    SessionEnded,
    /// The broker fell silent.
    Lost,
}

impl Lease {
    pub(crate) fn new(granted: &Granted, parts: Parts, now: Now) -> Self {
        // The clock that decides is the broker's at issue and ours since: the lesser of both lives is granted.
        let ttl = granted.expires_at.saturating_since(granted.issued_at);
        let left = granted.expires_at.saturating_since(now.wall).min(ttl);
        let expires_boot = now.boot.saturating_add(left);
        Self {
            id: granted.lease,
            id_text: granted.lease.to_string(),
            credential_type: granted.credential_type.clone(),
            scope: granted.scope.clone(),
            scope_text: granted.scope.to_string(),
            rendered: parts.rendered,
            needles: parts.needles,
            expires_at: AtomicI64::new(granted.expires_at.millis()),
            expires_boot: AtomicU64::new(millis(expires_boot)),
            renew_boot: AtomicU64::new(millis(expires_boot.saturating_sub(ttl / RENEW_SHARE))),
            renewing: AtomicBool::new(false),
            state: AtomicU8::new(Life::Alive as u8),
        }
    }

    /// Whether a new request may use it: one atomic, and the time on both clocks.
    pub(crate) fn usable(&self, now: Now) -> Result<(), Refusal> {
        match self.life() {
            Life::Alive if self.within_ttl(now) => Ok(()),
            Life::Alive => Err(Life::Expired.refusal()),
            ended => Err(ended.refusal()),
        }
    }

    pub(crate) fn within_ttl(&self, now: Now) -> bool {
        now.wall.millis() < self.expires_at.load(Ordering::SeqCst) && now.boot < self.expires_boot()
    }

    /// Whether the time of an open response under this lease is over too.
    pub(crate) fn past_grace(&self, now: Now) -> bool {
        now.boot >= self.expires_boot().saturating_add(EXPIRED_GRACE)
    }

    fn expires_boot(&self) -> Duration {
        Duration::from_millis(self.expires_boot.load(Ordering::SeqCst))
    }

    /// Takes over how long the same lease lives by the broker's newer word. What has ended stays so.
    pub(crate) fn prolong(&self, newer: &Self) {
        for (own, newer) in [(&self.expires_boot, &newer.expires_boot), (&self.renew_boot, &newer.renew_boot)]
        {
            own.store(newer.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.expires_at.store(newer.expires_at.load(Ordering::SeqCst), Ordering::SeqCst);
        self.renewing.store(false, Ordering::SeqCst);
    }

    /// Whether it is time to renew, told to one caller only.
    pub(crate) fn take_renewal(&self, now: Now) -> bool {
        millis(now.boot) >= self.renew_boot.load(Ordering::SeqCst)
            && !self.renewing.swap(true, Ordering::Relaxed)
    }

    /// Ends it. The first end stays, except that a cut overrides an expiry.
    pub(crate) fn end(&self, life: Life) {
        let _ = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            let open = old == Life::Alive as u8 || (old == Life::Expired as u8 && life != Life::Expired);
            open.then_some(life as u8)
        });
    }

    pub(crate) fn life(&self) -> Life {
        let state = self.state.load(Ordering::SeqCst);
        [Life::Alive, Life::Expired, Life::Revoked, Life::SessionEnded]
            .into_iter()
            .find(|life| *life as u8 == state)
            .unwrap_or(Life::Lost)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Life {
    /// The reason in the record of a response that was cut.
    pub(crate) const fn cut_reason(self) -> &'static str {
        match self {
            Self::Alive => "downstream-closed",
            Self::Expired => "lease-expired",
            Self::Revoked => "lease-revoked",
            Self::SessionEnded => "session-ended",
            Self::Lost => "broker-unavailable",
        }
    }

    pub(crate) fn refusal(self) -> Refusal {
        let (kind, detail, next) = match self {
            Self::Revoked => (
                RefusalKind::LeaseRevoked,
                "the lease for this target was revoked",
                "ask whoever revoked it; a new session may be allowed",
            ),
            Self::SessionEnded => (
                RefusalKind::SessionEnded,
                "the session of this program is over",
                "start it again under `writ run`",
            ),
            Self::Lost => (
                RefusalKind::BrokerUnavailable,
                "the broker has not been heard from, so no credential is used",
                "try again in a few seconds; see `writ doctor`",
            ),
            Self::Alive | Self::Expired => (
                RefusalKind::LeaseExpired,
                "the lease for this target has expired",
                "try again, or start a new session",
            ),
        };
        Refusal::new(kind, detail, next)
    }
}

impl From<LeaseEnd> for Life {
    fn from(end: LeaseEnd) -> Self {
        match end {
            LeaseEnd::Expired => Self::Expired,
            // The connections of a superseded lease are cut alike; the next request acquires the new version.
            LeaseEnd::Revoked | LeaseEnd::Superseded => Self::Revoked,
            LeaseEnd::SessionEnded => Self::SessionEnded,
            LeaseEnd::Orphaned => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use writ_core::{Sealed, Ttl};

    use super::*;

    fn at(wall: i64, boot: u64) -> Now {
        Now { wall: Timestamp::from_millis(wall), boot: Duration::from_millis(boot) }
    }

    fn lease(ttl: u64, now: Now) -> Lease {
        let granted = Granted {
            lease: LeaseId::new(now.wall, &[1; 10]),
            credential: Some("c".parse().unwrap()),
            credential_type: "static".into(),
            scope: Scope { authority: "a.example".parse().unwrap(), grants: Vec::new() },
            issued_at: now.wall,
            expires_at: now.wall.saturating_add(Ttl::from_secs(ttl).unwrap()),
            sealed: Some(Sealed { enc: String::new(), ciphertext: String::new() }),
        };
        let needles = Arc::new(Needles::new(&[]).unwrap());
        Lease::new(&granted, Parts { rendered: Vec::new(), needles }, now)
    }

    fn refused(lease: &Lease, now: Now) -> Option<RefusalKind> {
        lease.usable(now).err().map(|refusal| refusal.kind)
    }

    #[test]
    fn expiry_is_judged_at_use_on_both_clocks() {
        let lease = lease(100, at(1_000_000, 5_000));
        assert_eq!(refused(&lease, at(1_099_999, 104_999)), None);
        assert_eq!(refused(&lease, at(1_100_000, 6_000)), Some(RefusalKind::LeaseExpired), "the wall clock");
        assert_eq!(
            refused(&lease, at(0, 105_000)),
            Some(RefusalKind::LeaseExpired),
            "a clock that was set back"
        );
        assert_eq!(
            refused(&lease, at(1_050_000, u64::MAX >> 1)),
            Some(RefusalKind::LeaseExpired),
            "a long sleep"
        );
        assert!(!lease.past_grace(at(1_164_999, 164_999)) && lease.past_grace(at(1_165_000, 165_000)));
    }

    #[test]
    fn an_end_is_final_and_a_cut_overrides_an_expiry() {
        let lease = lease(100, at(0, 0));
        lease.end(Life::Expired);
        assert_eq!(refused(&lease, at(1, 1)), Some(RefusalKind::LeaseExpired));
        lease.end(Life::Revoked);
        assert_eq!(refused(&lease, at(1, 1)), Some(RefusalKind::LeaseRevoked));
        lease.end(Life::Expired);
        lease.end(Life::Lost);
        assert_eq!(lease.life(), Life::Revoked);
    }

    #[test]
    fn the_same_lease_lives_longer_by_the_brokers_word_and_a_dead_one_does_not() {
        let held = lease(100, at(0, 0));
        assert!(held.take_renewal(at(80_000, 80_000)));
        held.prolong(&lease(200, at(0, 0)));
        assert_eq!(refused(&held, at(150_000, 150_000)), None);
        assert!(!held.take_renewal(at(100_000, 100_000)) && held.take_renewal(at(160_000, 160_000)));
        held.end(Life::Revoked);
        held.prolong(&lease(400, at(0, 0)));
        assert_eq!(refused(&held, at(1, 1)), Some(RefusalKind::LeaseRevoked));
    }

    #[test]
    fn renewal_is_told_once_in_the_last_fifth() {
        let lease = lease(100, at(0, 0));
        assert!(!lease.take_renewal(at(79_999, 79_999)));
        assert!(lease.take_renewal(at(80_000, 80_000)));
        assert!(!lease.take_renewal(at(80_001, 80_001)));
    }
}
