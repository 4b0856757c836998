//! One file a command. Each parses nothing and prints only through [`Output`](crate::output::Output).

pub mod ask;
pub mod audit;
pub mod credential;
pub mod daemon_control;
pub mod doctor;
pub mod init;
pub mod lease;
pub mod proof;
pub mod reconcile;
pub mod restore;
pub mod seen;
pub mod session;
pub mod trust;

use jiff::Timestamp as Instant;
use writ_core::Timestamp;

/// An instant for people: seconds, UTC.
pub fn when(at: Timestamp) -> String {
    Instant::from_millisecond(at.millis())
        .map_or_else(|_| at.millis().to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
