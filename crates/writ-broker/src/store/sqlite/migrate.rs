//! Schema versions: numbered SQL files, one transaction, a backup of the file first.
//!
//! The number stands in the file's header (`user_version`), beside an `application_id` that tells writ's databases from others.
//! There is no way down: an older writ refuses a newer file, and the backup is the way back.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, backup::Backup};

use super::fault::{io, plain};
use crate::store::StoreFault;

/// Each brings the schema from its index to the next number.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];

/// "writ", in the header of every database of ours.
const APPLICATION_ID: i64 = 0x7772_6974;
/// Copied in one step of the backup.
const BACKUP_PAGES: i32 = 1024;

/// Refuses what this writ cannot read: another program's file, a newer schema. Changes nothing.
///
/// # Errors
/// [`StoreFault::Downgrade`], [`StoreFault::Damaged`].
pub(super) fn check_readable(connection: &Connection, migrations: &[&str]) -> Result<(), StoreFault> {
    let known = known(migrations);
    let found = version(connection)?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(plain)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).map_err(plain)?;
    let new = found == 0 && application == 0 && tables == 0;
    if !new && application != APPLICATION_ID {
        return Err(StoreFault::Damaged("it is a database of another program".to_owned()));
    }
    if found > known {
        return Err(StoreFault::Downgrade { found, known });
    }
    Ok(())
}

/// Brings the schema up to date. A database that held something is copied to `NAME.before-vN` first.
///
/// # Errors
/// Any fault: the database is then as before.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreFault> {
    if version(connection)? == known(migrations) {
        return Ok(());
    }
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate).map_err(plain)?;
    let found = version(&transaction)?;
    if found > 0 && found < known(migrations) {
        back_up(path, known(migrations))?;
    }
    for sql in migrations.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(sql).map_err(plain)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(plain)?;
    transaction.pragma_update(None, "user_version", known(migrations)).map_err(plain)?;
    transaction.commit().map_err(plain)
}

/// Where the copy made before the upgrade to `version` lies.
pub(super) fn backup_path(path: &Path, version: i64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-v{version}"));
    PathBuf::from(name)
}

/// Copies the database, complete and on disk before the final name exists.
///
/// Reads through a connection of its own: the caller holds the write lock, so nothing changes meanwhile.
fn back_up(path: &Path, version: i64) -> Result<(), StoreFault> {
    let target = backup_path(path, version);
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |error: std::io::Error| io("the backup before the upgrade", &error);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
    let source =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(plain)?;
    let mut copy = Connection::open_with_flags(
        &partial,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(plain)?;
    Backup::new(&source, &mut copy)
        .and_then(|backup| backup.run_to_completion(BACKUP_PAGES, Duration::ZERO, None))
        .map_err(plain)?;
    copy.close().map_err(|(_, error)| plain(error))?;
    File::open(&partial).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, &target).map_err(failed)?;
    super::open::sync_directory(&target)
}

fn version(connection: &Connection) -> Result<i64, StoreFault> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(plain)
}

fn known(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).unwrap_or(i64::MAX)
}
