//! What the table is asked, and why it says no.

use std::time::Duration;

use writ_core::{CredentialName, LeaseId, Principal, SessionId, TargetName};

use crate::config::{IssueRate, Quota};

/// What a lease is entered with, before anything is known of it elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Booking<'a> {
    pub lease: LeaseId,
    pub principal: &'a Principal,
    pub target: &'a TargetName,
    pub credential: Option<&'a CredentialName>,
    /// The program will hold the credential itself.
    pub revealed: bool,
    pub quota: Quota,
}

/// Which leases.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    Lease(LeaseId),
    Session(SessionId),
    Credential(&'a CredentialName),
    /// Of these only what is in flight.
    Flying(&'a CredentialName),
    All,
}

/// Why a lease may not even be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Too many at once, in this session or in all.
    Crowded,
    /// The role has as many as it may.
    Quota { leases_max: u32 },
    /// The role took as many as it may in that time.
    Rate { rate: IssueRate, wait: Duration },
    /// A lease of this session on this target was revoked.
    Revoked,
}
