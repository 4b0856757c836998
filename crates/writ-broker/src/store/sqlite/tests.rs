//! What is SQLite's own: the suite on it, and everything that can happen to a file.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Options, SqliteStore, migrate, open, rows, writer};
use crate::store::{Change, LeaseFilter, LeaseRecord, SessionRecord, Store, StoreFault, suite};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(work)
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state").join("writ.db");
    (directory, path)
}

fn opened(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Options::default()).unwrap()
}

fn refused(path: &Path, options: Options) -> StoreFault {
    SqliteStore::open(path, options).err().expect("it must not open")
}

fn meta(key: &str, size: usize) -> Change {
    Change::PutMeta { key: key.to_owned(), value: vec![b'v'; size] }
}

/// Runs SQL on the file from outside, as another program would.
fn outside(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn sqlite_keeps_the_promises_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    block_on(suite::check_store(|| async {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store: Arc<dyn Store> = Arc::new(opened(&directory.path().join(format!("{number}.db"))));
        store
    }));
    assert!(count.into_inner() >= 12);
}

#[test]
fn the_files_are_for_their_owner_only() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(store.apply(vec![meta("a", 1)])).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        assert_eq!(mode(Path::new(&name)), 0o600, "{suffix:?}");
    }
}

#[test]
fn what_others_can_reach_is_refused_with_the_remedy() {
    let (_directory, path) = place();
    drop(opened(&path));
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o644, 0o640, 0o602, 0o660] {
        chmod(&path, mode);
        let message = refused(&path, Options::default()).to_string();
        assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
    }
    chmod(&path, 0o600);
    for mode in [0o777, 0o720, 0o1777] {
        chmod(path.parent().unwrap(), mode);
        let message = refused(&path, Options::default()).to_string();
        assert!(message.contains("chmod 700"), "{message}");
    }
    chmod(path.parent().unwrap(), 0o700);
    drop(opened(&path));
    let stranger = Options { owner: Options::default().owner + 1, ..Options::default() };
    let message = refused(&path, stranger).to_string();
    assert!(message.contains("another user") && message.contains("chown"), "{message}");
    let link = path.with_file_name("link.db");
    symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link, Options::default()), StoreFault::Io(_)));
}

#[test]
fn a_network_file_system_is_refused_before_a_file_is_made() {
    let (_directory, path) = place();
    let options = Options { network_filesystem: |_| Ok(Some("NFS")), ..Options::default() };
    assert!(matches!(refused(&path, options), StoreFault::NetworkFileSystem(kind) if kind == "NFS"));
    assert!(!path.exists());
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_directory, path) = place();
    drop(opened(&path));
    outside(&path, "PRAGMA journal_mode = DELETE; PRAGMA user_version = 99");
    let before = fs::read(&path).unwrap();
    let fault = refused(&path, Options::default());
    assert!(matches!(fault, StoreFault::Downgrade { found: 99, known: 4 }), "{fault}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let (_directory, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    outside(&path, "CREATE TABLE bookmarks (url TEXT)");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(refused(&path, Options::default()), StoreFault::Damaged(_)));
    assert_eq!(fs::read(&path).unwrap(), before);
}

const NEXT: &[&str] = &[
    migrate::MIGRATIONS[0],
    migrate::MIGRATIONS[1],
    migrate::MIGRATIONS[2],
    migrate::MIGRATIONS[3],
    "ALTER TABLE meta ADD COLUMN note TEXT",
];
const BROKEN: &[&str] = &[
    migrate::MIGRATIONS[0],
    migrate::MIGRATIONS[1],
    migrate::MIGRATIONS[2],
    migrate::MIGRATIONS[3],
    "CREATE TABLE half (x); ALTER TABLE nothing ADD COLUMN y",
];

#[test]
fn an_upgrade_copies_the_file_first() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(store.apply(vec![meta("before", 5)])).unwrap();
    drop(store);
    let backup = migrate::backup_path(&path, 5);
    assert!(!backup.exists(), "a new store needs no backup");

    let store = SqliteStore::open(&path, Options { migrations: NEXT, ..Options::default() }).unwrap();
    block_on(store.apply(vec![meta("after", 5)])).unwrap();
    assert!(block_on(store.meta("before".to_owned())).unwrap().is_some());
    drop(store);
    assert!(matches!(refused(&path, Options::default()), StoreFault::Downgrade { found: 5, known: 4 }));

    // The copy is a store of the old version, whole, and private.
    assert_eq!(fs::metadata(&backup).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(backup.file_name().unwrap(), "writ.db.before-v5");
    let old = opened(&backup);
    assert!(block_on(old.meta("before".to_owned())).unwrap().is_some());
    assert_eq!(block_on(old.meta("after".to_owned())).unwrap(), None);
}

/// What a store of version 1 holds is there afterwards, and what it could not hold finds room.
#[test]
fn version_1_becomes_the_newest() {
    let (_directory, path) = place();
    let first = Options { migrations: &migrate::MIGRATIONS[..1], ..Options::default() };
    drop(SqliteStore::open(&path, first).unwrap());
    outside(
        &path,
        "INSERT INTO sessions SELECT x'01a3185c500071018101010101010101', x'01a3185c500071018101010101010103',
             'spiffe://writ.local/a', 'dev', 'ada', 'p', 'd', 1, 'advisory', NULL, 1, 2, NULL, NULL;
         INSERT INTO leases SELECT x'01a3185c500071018101010101010102', id, boot, workload, role, 't', 'c', 'static', 1,
             '{\"authority\":\"t.example\",\"grants\":[]}', 'null', 'active', NULL, NULL, 1, 2, NULL, NULL FROM sessions;",
    );
    let store = opened(&path);
    let old = block_on(store.leases(LeaseFilter::default())).unwrap();
    assert_eq!(
        old.iter().map(|lease| lease.credential.clone()).collect::<Vec<_>>(),
        [Some(suite::name("c"))]
    );
    assert_eq!(block_on(store.sessions(false)).unwrap()[0].resumed_from, None);
    let session = SessionRecord { resumed_from: Some(suite::session(9).session), ..suite::session(1) };
    let lease = LeaseRecord { credential: None, ..suite::lease(1, 1) };
    block_on(store.apply(vec![Change::OpenSession(session.clone()), Change::OpenLease(lease.clone())]))
        .unwrap();
    assert_eq!(block_on(store.session(session.session)).unwrap(), Some(session));
    assert_eq!(block_on(store.lease(lease.lease)).unwrap().unwrap().credential, None);
    assert!(migrate::backup_path(&path, 4).exists());
}

#[test]
fn a_failed_upgrade_changes_nothing() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(store.apply(vec![meta("before", 5)])).unwrap();
    drop(store);
    let fault = refused(&path, Options { migrations: BROKEN, ..Options::default() });
    assert!(matches!(fault, StoreFault::Io(_)), "{fault}");
    let store = opened(&path);
    assert!(block_on(store.meta("before".to_owned())).unwrap().is_some());
    drop(store);
    let tables: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'half'", (), |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 0);
}

#[test]
fn a_file_that_is_no_database_is_damaged() {
    for contents in [b"not a database, but long enough to have a header".repeat(20), vec![0; 5000]] {
        let (_directory, path) = place();
        drop(opened(&path));
        fs::write(&path, contents).unwrap();
        assert!(matches!(refused(&path, Options::default()), StoreFault::Damaged(_)));
    }
}

/// Every page in turn gets a broken header: that is found when the file is opened.
#[test]
fn a_broken_page_is_damage() {
    let (_directory, path) = place();
    let store = opened(&path);
    let mut changes = vec![Change::OpenSession(suite::session(1))];
    changes.extend((1..200).map(|number| Change::OpenLease(suite::lease(number, 1))));
    block_on(store.apply(changes)).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 10 * 4096);
    for page in 0..whole.len() / 4096 {
        let header = if page == 0 { 100 } else { page * 4096 };
        let mut broken = whole.clone();
        broken[header] ^= 0x55;
        fs::write(&path, &broken).unwrap();
        let fault = refused(&path, Options::default());
        assert!(matches!(fault, StoreFault::Damaged(_)), "page {page}: {fault}");
    }
    fs::write(&path, &whole).unwrap();
    drop(opened(&path));
}

/// Pages that break while the store is open, or that were not looked at, are found when they are read.
#[test]
fn damage_shows_when_it_is_read() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(
        store.apply(vec![Change::OpenSession(suite::session(1)), Change::OpenLease(suite::lease(1, 1))]),
    )
    .unwrap();
    drop(store);
    for sql in [
        "UPDATE leases SET scope = '{'",
        "UPDATE leases SET scope = '{\"authority\":\"127.0.0.1\",\"grants\":[]}'",
        "UPDATE leases SET receipt = ''",
        "UPDATE leases SET workload = 'spiffe://'",
        "UPDATE leases SET end_reason = 'bored'",
        "UPDATE leases SET revoked = 'maybe'",
        "UPDATE leases SET version = -1",
        "UPDATE leases SET role = CAST(x'ff' AS TEXT)",
    ] {
        let copy = path.with_file_name("copy.db");
        fs::copy(&path, &copy).unwrap();
        outside(&copy, sql);
        let store = opened(&copy);
        let fault = block_on(store.lease(suite::lease_id(1))).unwrap_err();
        assert!(matches!(fault, StoreFault::Damaged(_)), "{sql}: {fault}");
        let fault = block_on(store.leases(LeaseFilter::default())).unwrap_err();
        assert!(matches!(fault, StoreFault::Damaged(_)), "{sql}: {fault}");
    }
}

#[test]
fn a_lease_whose_session_is_gone_is_damage() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(
        store.apply(vec![Change::OpenSession(suite::session(1)), Change::OpenLease(suite::lease(1, 1))]),
    )
    .unwrap();
    drop(store);
    outside(&path, "PRAGMA foreign_keys = OFF; DELETE FROM sessions");
    assert!(matches!(refused(&path, Options::default()), StoreFault::Damaged(_)));
}

#[test]
fn a_full_disk_fails_the_job_that_fills_it_and_no_other() {
    let (_directory, path) = place();
    let store = SqliteStore::open(&path, Options { pages_max: Some(40), ..Options::default() }).unwrap();
    let (small, large, other) = block_on(async {
        tokio::join!(
            store.apply(vec![meta("small", 10)]),
            store.apply(vec![meta("first", 10), meta("large", 400_000)]),
            store.apply(vec![meta("other", 10)]),
        )
    });
    assert!(small.is_ok() && other.is_ok(), "{small:?} {other:?}");
    assert!(matches!(large, Err(StoreFault::DiskFull)), "{large:?}");
    assert_eq!(block_on(store.meta("first".to_owned())).unwrap(), None);
    // There is room again for what fits.
    block_on(store.apply(vec![meta("later", 10)])).unwrap();
}

#[test]
fn a_file_that_is_gone_or_replaced_takes_no_more_writes() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("database removed", |path| fs::remove_file(path).unwrap()),
        ("database replaced", |path| {
            let copy = path.with_file_name("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("log removed", |path| fs::remove_file(path.with_file_name("writ.db-wal")).unwrap()),
        ("directory moved", |path| {
            let parent = path.parent().unwrap();
            fs::rename(parent, parent.with_file_name("elsewhere")).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let (_directory, path) = place();
        let store = opened(&path);
        block_on(store.apply(vec![meta("a", 1)])).unwrap();
        harm(&path);
        let fault = block_on(store.apply(vec![meta("b", 1)])).unwrap_err();
        assert!(matches!(fault, StoreFault::Replaced), "{what}: {fault}");
        assert_eq!(block_on(store.meta("b".to_owned())).unwrap(), None, "{what}: nothing was written");
    }
}

/// A batch of exactly these jobs, in one transaction: the second conflicts, the others hold.
#[test]
fn a_conflicting_job_fails_alone() {
    let (_directory, path) = place();
    let connection = open::writer(&path, &Options::default()).unwrap();
    let results = writer::tests::one_batch(
        connection,
        &path,
        vec![
            vec![Change::PutCredential(suite::sealed("a", 1))],
            vec![meta("undone", 1), Change::PutCredential(suite::sealed("a", 1))],
            vec![Change::RemoveCredential(suite::name("none"))],
            vec![Change::PutCredential(suite::sealed("a", 2))],
        ],
    );
    assert!(matches!(
        &results[..],
        [Ok(()), Err(StoreFault::Conflict(_)), Err(StoreFault::Missing(_)), Ok(())]
    ));
    let store = opened(&path);
    assert_eq!(block_on(store.credential(suite::name("a"), None)).unwrap().unwrap().version, 2);
    assert_eq!(block_on(store.meta("undone".to_owned())).unwrap(), None);
}

#[test]
fn readers_cannot_write() {
    let (_directory, path) = place();
    let _store = opened(&path);
    let reader = open::reader(&path).unwrap();
    assert!(reader.execute_batch("DELETE FROM meta").is_err());
    assert!(reader.execute_batch("PRAGMA query_only = OFF; DELETE FROM meta").is_err());
}

#[test]
fn the_durable_settings_are_on() {
    let (_directory, path) = place();
    let connection = open::writer(&path, &Options::default()).unwrap();
    for (pragma, value) in [
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("secure_delete", 1),
        ("wal_autocheckpoint", 0),
        ("user_version", 4),
    ] {
        let found: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0)).unwrap();
        assert_eq!(found, value, "{pragma}");
    }
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

/// Nothing that grows without bound is read from one end to the other, and nothing is sorted.
#[test]
fn lists_use_an_index() {
    let (_directory, path) = place();
    let connection = open::writer(&path, &Options::default()).unwrap();
    for (sql, expected) in [
        (rows::SESSIONS, "SCAN sessions"),
        (rows::SESSIONS_ALIVE, "SCAN sessions USING INDEX sessions_alive"),
        (rows::LEASES_ALIVE, "SCAN leases USING INDEX leases_alive"),
        (rows::LEASES_ENDED, "SCAN leases"),
        (rows::LEASES_ENDED_OF_SESSION, "SEARCH leases USING INDEX leases_by_session (session=?)"),
    ] {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut lines = statement.raw_query();
        let mut plan = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            plan.push(line.get::<_, String>(3).unwrap());
        }
        assert_eq!(plan, [expected], "{sql}");
    }
}

/// What is found by the background work costs as much as there is to do, however much is alive or waits.
#[test]
fn background_work_uses_an_index() {
    let (_directory, path) = place();
    let connection = open::writer(&path, &Options::default()).unwrap();
    for sql in [rows::LANES, rows::DUE, rows::ORPHAN_LEASES[0], rows::ORPHAN_LEASES[1], rows::STUCK] {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut lines = statement.raw_query();
        while let Some(line) = lines.next().unwrap() {
            let line = line.get::<_, String>(3).unwrap();
            let reads = line.contains(" leases");
            assert!(!reads || line.starts_with("SEARCH") && line.contains("INDEX"), "{line}: {sql}");
        }
    }
}

/// The log does not grow for ever: idle moments move it into the database.
#[test]
fn the_log_is_moved_into_the_database() {
    let (_directory, path) = place();
    let store = opened(&path);
    block_on(async {
        for _ in 0..200 {
            store.apply(vec![meta("large", 100_000)]).await.unwrap();
        }
    });
    let log = fs::metadata(path.with_file_name("writ.db-wal")).unwrap().len();
    assert!(log < 8 * 1024 * 1024, "20 MB were written, the log has {log} bytes");
    drop(store);
    let left = fs::metadata(path.with_file_name("writ.db-wal")).map_or(0, |found| found.len());
    assert_eq!(left, 0, "closing leaves no log");
}

/// A caller that goes away does not stop its job, nor harm the others.
#[test]
fn a_caller_may_go_away() {
    let (_directory, path) = place();
    let store = Arc::new(opened(&path));
    block_on(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..50 {
            let (store, sender) = (Arc::clone(&store), sender.clone());
            let caller = tokio::spawn(async move {
                let apply = store.apply(vec![meta(&format!("k{number}"), 10)]);
                sender.send(()).unwrap();
                apply.await
            });
            receiver.recv().await.unwrap();
            caller.abort();
        }
        store.apply(vec![meta("last", 10)]).await.unwrap();
        assert!(store.meta("last".to_owned()).await.unwrap().is_some());
    });
}

const CHILD: &str = "WRIT_TEST_STORE_CHILD";

/// The child of the next test: it says the number of each write that was acknowledged, until it is killed.
#[test]
fn killed_writer_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(opened(Path::new(&path)));
    block_on(async {
        store.apply(vec![Change::OpenSession(suite::session(1))]).await.unwrap();
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..16_u16 {
            let store = Arc::clone(&store);
            callers.spawn(async move {
                for turn in 0..u16::MAX / 16 {
                    let number = turn * 16 + caller;
                    store.apply(vec![Change::OpenLease(suite::lease(number, 1))]).await.unwrap();
                    println!("acknowledged {number}");
                }
            });
        }
        callers.join_all().await;
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    for kill_after in [1, 50, 300] {
        let (_directory, path) = place();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sqlite::tests::killed_writer_child", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = Vec::new();
        let mut line = String::new();
        while acknowledged.len() < kill_after {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended by itself");
            acknowledged.extend(number(&line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        // The last line may be cut short, and then it is not known what it said.
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        acknowledged.extend(whole.lines().filter_map(number));

        let store = opened(&path);
        for number in acknowledged {
            let found = block_on(store.lease(suite::lease_id(number))).unwrap();
            assert!(found.is_some(), "lease {number} was acknowledged and is gone");
        }
    }
}

fn number(line: &str) -> Option<u16> {
    // The test harness may write in front of the first one.
    line.trim_end().split_once("acknowledged ")?.1.parse().ok()
}
