//! Background work: reconcilers without input, idempotent, periodic and nudged, one file each.
//!
//! | task | does |
//! |---|---|
//! | [`expiry`] | ends leases and sessions whose time is up |
//! | [`heartbeat`] | says that this daemon lives, where several share a store, and stops it when it cannot |
//! | [`news`] | ends here what another daemon on the store ended |
//! | [`recovery`] | ends what dead boots left |
//! | [`renewal`] | renews what programs hold themselves |
//! | [`revocation`] | makes ends durable that were not, and settles them upstream lane by lane ([`lanes`]), for ever if need be |
//! | [`rotation`] | finishes changes of passwords that were left, and makes those that are due |
//! | [`anchor`] | remembers the audit log's last checkpoint outside of the log |
//!
//! A task that stops never extends a life: expiry is judged at use. Absent: the checkpoints themselves, which the log's own
//! thread signs.

pub(crate) mod anchor;
pub(crate) mod expiry;
pub(crate) mod heartbeat;
pub(crate) mod lanes;
pub(crate) mod news;
pub(crate) mod recovery;
pub(crate) mod renewal;
pub(crate) mod revocation;
pub(crate) mod rotation;
