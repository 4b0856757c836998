//! What PostgreSQL says, in the store's words.

use std::error::Error as _;

use tokio_postgres::{Error, error::SqlState};

use crate::store::StoreFault;

/// What is known after an error.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server refused, and the connection lives.
    Refused(StoreFault),
    /// The server could not, and may when asked again: a deadlock, a lock that took too long.
    Busy(StoreFault),
    /// The connection is gone, and with it what was not committed.
    Lost(StoreFault),
}

impl Failed {
    pub(super) fn into_fault(self) -> StoreFault {
        match self {
            Self::Refused(fault) | Self::Busy(fault) | Self::Lost(fault) => fault,
        }
    }
}

pub(super) fn failed(error: &Error) -> Failed {
    let Some(said) = error.as_db_error() else {
        return Failed::Lost(StoreFault::Io(chain(error)));
    };
    let fault = || StoreFault::Io(format!("{} ({})", said.message(), said.code().code()));
    match said.code() {
        &SqlState::DISK_FULL => Failed::Refused(StoreFault::DiskFull),
        &SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED => {
            Failed::Refused(StoreFault::Damaged(said.message().to_owned()))
        }
        &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::LOCK_NOT_AVAILABLE
        | &SqlState::QUERY_CANCELED => Failed::Busy(fault()),
        // Classes 08 and 57P: the connection, or the server, is about to be gone.
        code if code.code().starts_with("08") || code.code().starts_with("57P") => Failed::Lost(fault()),
        _ => Failed::Refused(fault()),
    }
}

/// The fault alone, where what is known of the connection does not matter.
pub(super) fn plain(error: &Error) -> StoreFault {
    failed(error).into_fault()
}

/// A row that does not decode is damage.
pub(super) fn damaged(error: &Error) -> StoreFault {
    StoreFault::Damaged(chain(error))
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
