//! Opening the file: who may read it, where it lies, whether it is whole.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};

use super::{
    Options,
    fault::{io, plain},
    migrate,
};
use crate::store::StoreFault;

/// How long a statement waits for another process's lock, such as a backup's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Up to this size (16 MiB) a file is checked whole when it is opened; above, damage shows when it is read.
const CHECKED_PAGES: i64 = 4096;
const STATEMENTS_CACHED: usize = 64;
/// No text or blob is larger: 8 MiB.
const VALUE_MAX: i32 = 8 * 1024 * 1024;

/// Opens the connection that writes, creates and upgrades the file.
pub(super) fn writer(path: &Path, options: &Options) -> Result<Connection, StoreFault> {
    prepare(path, options)?;
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    migrate::check_readable(&connection, options.migrations)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(plain)?;
    if mode != "wal" {
        return Err(StoreFault::Io(format!("the store's journal mode is {mode} instead of wal")));
    }
    for (pragma, value) in [
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("secure_delete", "ON"),
        ("wal_autocheckpoint", "0"),
    ] {
        connection.pragma_update(None, pragma, value).map_err(plain)?;
    }
    if let Some(pages) = options.pages_max {
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .map_err(plain)?;
    }
    check_whole(&connection)?;
    migrate::migrate(&mut connection, path, options.migrations)?;
    Ok(connection)
}

/// Opens a connection that cannot write. The writer's must be open already.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreFault> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "query_only", "ON").map_err(plain)?;
    // The first read opens the log: now, by the same names as the writer, not when another file may have its name.
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(())).map_err(plain)?;
    Ok(connection)
}

pub(super) fn sync_directory(path: &Path) -> Result<(), StoreFault> {
    File::open(directory(path)?)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io("the store's directory", &error))
}

/// The files that must stay in place while the store is open, by device and inode.
pub(super) struct Identity {
    files: [(PathBuf, (u64, u64)); 2],
}

impl Identity {
    /// Of the database and its write-ahead log. SQLite keeps writing to a file that has lost its name, and all of that is gone
    /// with the process.
    pub(super) fn of(path: &Path) -> Result<Self, StoreFault> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        let (store, wal) = (inode(path)?, inode(&log)?);
        Ok(Self { files: [(path.to_owned(), store), (log, wal)] })
    }

    /// # Errors
    /// [`StoreFault::Replaced`].
    pub(super) fn check(&self) -> Result<(), StoreFault> {
        let same = |(path, known): &(PathBuf, (u64, u64))| inode(path).is_ok_and(|found| found == *known);
        if self.files.iter().all(same) { Ok(()) } else { Err(StoreFault::Replaced) }
    }
}

fn inode(path: &Path) -> Result<(u64, u64), StoreFault> {
    let found = fs::symlink_metadata(path).map_err(|error| io("the store's file", &error))?;
    Ok((found.dev(), found.ino()))
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreFault> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(plain)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(plain)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX).map_err(plain)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(plain)?;
    for (pragma, value) in [("trusted_schema", "OFF"), ("cell_size_check", "ON"), ("temp_store", "MEMORY")] {
        connection.pragma_update(None, pragma, value).map_err(plain)?;
    }
    Ok(connection)
}

/// Makes directory (0700) and file (0600) where they are missing, and refuses what others can read or replace.
///
/// An existing file is looked at without opening it: closing any descriptor of a database drops the locks that SQLite holds on
/// it in this process (fcntl(2), "advisory record locking").
fn prepare(path: &Path, options: &Options) -> Result<(), StoreFault> {
    let directory = directory(path)?;
    let failed = |error: std::io::Error| io("the store's directory", &error);
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let network = (options.network_filesystem)(directory).map_err(failed)?;
    if let Some(kind) = network {
        return Err(StoreFault::NetworkFileSystem(kind.to_owned()));
    }
    let found = fs::metadata(directory).map_err(failed)?;
    if found.mode() & 0o022 != 0 {
        let fix = format!("chmod 700 {}", directory.display());
        return Err(StoreFault::Exposed { what: "directory can be written to by others", fix });
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match created {
        Ok(file) => {
            drop(file);
            return sync_directory(path);
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io("the store's file", &error)),
    }
    let found = fs::symlink_metadata(path).map_err(|error| io("the store's file", &error))?;
    if !found.is_file() {
        return Err(StoreFault::Io(format!("{} is not a regular file", path.display())));
    }
    if found.uid() != options.owner {
        let fix = format!("chown {} {}", options.owner, path.display());
        return Err(StoreFault::Exposed { what: "file belongs to another user", fix });
    }
    if found.mode() & 0o077 != 0 {
        let fix = format!("chmod 600 {}", path.display());
        return Err(StoreFault::Exposed { what: "file can be read by others", fix });
    }
    Ok(())
}

fn directory(path: &Path) -> Result<&Path, StoreFault> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .ok_or_else(|| StoreFault::Io(format!("{} names no directory", path.display())))
}

/// # Errors
/// [`StoreFault::Damaged`] with the first finding of `quick_check` or `foreign_key_check`.
fn check_whole(connection: &Connection) -> Result<(), StoreFault> {
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).map_err(plain)?;
    if pages > CHECKED_PAGES {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0)).map_err(plain)?;
    if found != "ok" {
        return Err(StoreFault::Damaged(found));
    }
    let mut orphans = connection.prepare("PRAGMA foreign_key_check").map_err(plain)?;
    let orphan = orphans.query(()).and_then(|mut rows| Ok(rows.next()?.is_some())).map_err(plain)?;
    if orphan { Err(StoreFault::Damaged("a lease has no session".to_owned())) } else { Ok(()) }
}
