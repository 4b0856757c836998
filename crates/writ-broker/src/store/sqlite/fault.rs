//! What SQLite says, in the store's words.

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreFault;

/// Translates an error of SQLite. `what` names the thing that a constraint was about.
pub(super) fn fault(error: Error, what: impl FnOnce() -> String) -> StoreFault {
    match &error {
        Error::SqliteFailure(failure, message) => match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreFault::Damaged(message.clone().unwrap_or_else(|| failure.to_string()))
            }
            ErrorCode::DiskFull => StoreFault::DiskFull,
            ErrorCode::ConstraintViolation => match failure.extended_code {
                ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE => {
                    StoreFault::Conflict(what())
                }
                ffi::SQLITE_CONSTRAINT_FOREIGNKEY => StoreFault::Missing(what()),
                _ => StoreFault::Io(error.to_string()),
            },
            _ => StoreFault::Io(error.to_string()),
        },
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::Utf8Error(..)
        | Error::InvalidColumnType(..) => StoreFault::Damaged(error.to_string()),
        _ => StoreFault::Io(error.to_string()),
    }
}

/// The same where no constraint can be broken.
pub(super) fn plain(error: Error) -> StoreFault {
    fault(error, || "row".to_owned())
}

pub(super) fn io(what: &str, error: &std::io::Error) -> StoreFault {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return StoreFault::DiskFull;
    }
    StoreFault::Io(format!("{what}: {error}"))
}
