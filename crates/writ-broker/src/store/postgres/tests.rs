//! What is PostgreSQL's own: the suite on it, and everything that can happen to a connection, a server, or another daemon.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use writ_core::{LeaseEnd, Revoked};
use writ_testkit::{
    Ca,
    postgres::{ADMIN, HOST, Postgres, PostgresConfig},
};

use super::{Place, PlaceFault, PostgresStore, boots, changes, listen, migrate, rows};
use crate::store::{
    Beat, Change, Claim, LeaseRecord, News, Orphan, Orphaned, SessionRecord, Shared, Store, StoreFault,
    suite::{self, at, boot, lease, lease_id, name, sealed, session, session_id},
};

/// A wait that only a failure makes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database of one's own on the shared server.
pub(crate) fn place() -> (&'static Postgres, Place) {
    let (server, _) = Postgres::shared().unwrap();
    (server, place_on(server, &server.database().unwrap()))
}

fn place_on(server: &Postgres, database: &str) -> Place {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), server.password()).unwrap();
    let url = format!("postgres://{ADMIN}@127.0.0.1:{}/{database}", server.port());
    Place { url, password_file: Some(file.into_temp_path().keep().unwrap()), tls_ca: None, dial: None }
}

fn database(place: &Place) -> &str {
    place.url.rsplit_once('/').unwrap().1
}

fn meta(key: &str) -> Vec<Change> {
    vec![Change::PutMeta { key: key.to_owned(), value: vec![1] }]
}

async fn has(store: &PostgresStore, key: &str) -> bool {
    store.meta(key.to_owned()).await.unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_promises_of_the_store() {
    suite::check_store(async || {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&place().1).await.unwrap());
        store
    })
    .await;
}

/// A slip in a statement that is seldom needed shows here.
#[tokio::test]
async fn every_statement_is_understood() {
    let (_, place) = place();
    drop(PostgresStore::open(&place).await.unwrap());
    let link = super::Server::of(&place).unwrap().connect(None).await.unwrap();
    for sql in [changes::ALL, rows::ALL, boots::ALL, listen::ALL].concat() {
        assert!(link.prepare(sql).await.is_ok(), "{sql}");
    }
}

#[test]
fn a_url_names_a_place_and_no_secret() {
    let check =
        |url: &str| Place { url: url.to_owned(), password_file: None, tls_ca: None, dial: None }.check();
    for (url, result) in [
        ("postgres://writ@db.example:5432/writ", Ok(())),
        ("postgresql://writ@127.0.0.1/writ", Ok(())),
        ("postgres://writ:hunter2@db.example/writ", Err(PlaceFault::Password)),
        ("postgres://writ@db.example/writ?sslmode=disable", Err(PlaceFault::Parameters)),
        ("host=db.example user=writ", Err(PlaceFault::Form)),
        ("mysql://writ@db.example/writ", Err(PlaceFault::Form)),
        ("postgres://db.example/writ", Err(PlaceFault::Lacks("no user"))),
        ("postgres://writ@db.example", Err(PlaceFault::Lacks("no database"))),
        ("postgres://writ@a,b/writ", Err(PlaceFault::Lacks("not one host"))),
    ] {
        assert_eq!(check(url), result, "{url}");
    }
}

#[tokio::test]
async fn a_password_that_others_can_read_is_refused() {
    let (_, place) = place();
    let file = place.password_file.clone().unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let fault = PostgresStore::open(&place).await.err().unwrap();
    assert!(matches!(&fault, StoreFault::Exposed { fix, .. } if fix.starts_with("chmod 600")), "{fault}");
}

/// The name in the certificate counts, whatever is dialled, and TLS is not given up where it fails.
#[tokio::test]
async fn a_server_that_is_not_on_this_machine_must_prove_its_name() {
    let (server, plain) = place();
    let ca = std::fs::read_to_string(server.ca_file()).unwrap();
    let url = |host: &str| format!("postgres://{ADMIN}@{host}:{}/{}", server.port(), database(&plain));
    let dial = Some(([127, 0, 0, 1], server.port()).into());
    let place = |host: &str, ca: Option<&str>| Place {
        url: url(host),
        dial,
        tls_ca: ca.map(str::to_owned),
        ..plain.clone()
    };
    let store = PostgresStore::open(&place(HOST, Some(&ca))).await.unwrap();
    store.apply(meta("by TLS")).await.unwrap();
    let other = Ca::mint().unwrap().pem().to_owned();
    for wrong in [place("other.example", Some(&ca)), place(HOST, Some(&other)), place(HOST, None)] {
        assert!(PostgresStore::open(&wrong).await.is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_store_is_refused_and_left_alone() {
    let (server, place) = place();
    drop(PostgresStore::open(&place).await.unwrap());
    server.run(database(&place), "UPDATE writ.schema_version SET version = 99").unwrap();
    let fault = PostgresStore::open(&place).await.err().unwrap();
    let known = i64::try_from(migrate::MIGRATIONS.len()).unwrap();
    assert!(matches!(fault, StoreFault::Downgrade { found: 99, known: k } if k == known), "{fault}");

    let name = format!("{}_latin", database(&place));
    let sql =
        format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    server.run("postgres", &sql).unwrap();
    let fault = PostgresStore::open(&place_on(server, &name)).await.err().unwrap();
    assert!(matches!(&fault, StoreFault::Unsuitable(why) if why.contains("LATIN1")), "{fault}");
    assert_eq!(server.run(&name, "SELECT count(*) FROM pg_namespace WHERE nspname = 'writ'").unwrap(), "0");
}

#[tokio::test]
async fn a_failed_upgrade_changes_nothing() {
    let (_, place) = place();
    drop(PostgresStore::open(&place).await.unwrap());
    let broken = [migrate::MIGRATIONS, &["CREATE TABLE writ.half (x int); SELECT 1 / 0"]].concat();
    assert!(PostgresStore::open_with(&place, &broken).await.is_err());
    let store = PostgresStore::open(&place).await.unwrap();
    store.apply(meta("as before")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_may_make_the_tables_at_once() {
    let (_, place) = place();
    let opened: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let place = place.clone();
                async move { PostgresStore::open(&place).await.map(drop) }
            })
        })
        .collect();
    for one in opened {
        one.await.unwrap().unwrap();
    }
}

/// No default of the role or the database makes an answer say more than is on disk.
#[tokio::test]
async fn a_commit_is_on_disk_whatever_the_database_says() {
    let (server, place) = place();
    let name = database(&place);
    server.run("postgres", &format!("ALTER DATABASE {name} SET synchronous_commit = off")).unwrap();
    let link = super::Server::of(&place).unwrap().connect(None).await.unwrap();
    let row = link.client().query_one("SHOW synchronous_commit", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "on");
}

/// Where the relay cuts the connection, once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    AtBegin,
    /// The server never hears of the commit.
    BeforeCommit,
    /// The server has answered, and nobody hears that.
    AfterCommit,
}

type Knife = Arc<Mutex<Option<Cut>>>;

/// Passes bytes on between the store and its server.
async fn relay(port: u16, knife: Knife) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(pass_on(client, server, Arc::clone(&knife)));
        }
    });
    own
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream, knife: Knife) {
    let (mut up, mut down) = ([0; 65_536], [0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                let holds = |word: &[u8]| up[..read].windows(word.len()).any(|window| window == word);
                let cut = *knife.lock().unwrap();
                let here = match cut {
                    Some(Cut::AtBegin) => holds(b"BEGIN\0"),
                    Some(Cut::BeforeCommit | Cut::AfterCommit) => holds(b"COMMIT\0"),
                    None => false,
                };
                if here {
                    *knife.lock().unwrap() = None;
                    if cut == Some(Cut::AfterCommit) {
                        server.write_all(&up[..read]).await.unwrap();
                        assert!(server.read(&mut down).await.unwrap() > 0);
                    }
                    return;
                }
                server.write_all(&up[..read]).await.unwrap();
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Lost before the commit was sent, the jobs are done again. Lost afterwards, nobody is told that they are done, whether they are
/// or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_around_the_commit() {
    let (server, place) = place();
    let knife = Knife::default();
    let port = relay(server.port(), Arc::clone(&knife)).await;
    let through = Place { url: place.url.replace(&server.port().to_string(), &port.to_string()), ..place };
    let store = PostgresStore::open(&through).await.unwrap();
    store.apply(meta("first")).await.unwrap();
    for (cut, told, kept) in
        [(Cut::AtBegin, true, true), (Cut::BeforeCommit, false, false), (Cut::AfterCommit, false, true)]
    {
        let key = format!("{cut:?}");
        *knife.lock().unwrap() = Some(cut);
        let result = store.apply(meta(&key)).await;
        assert_eq!(*knife.lock().unwrap(), None, "it was cut");
        match result {
            Ok(()) => assert!(told, "{cut:?}"),
            Err(StoreFault::Io(_)) => assert!(!told, "{cut:?}"),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(has(&store, &key).await, kept, "{cut:?}");
        store.apply(meta("after")).await.unwrap();
    }
}

/// What was done and not confirmed says so when it is repeated, or is harmless.
#[tokio::test]
async fn changes_may_be_repeated() {
    let store = PostgresStore::open(&place().1).await.unwrap();
    let revoke = Change::RevokeLease { lease: lease_id(1), at: at(5), end: LeaseEnd::Expired };
    let ended = Change::EndLease { lease: lease_id(1), at: at(6), revoked: Revoked::Gone };
    let over = Change::EndSession { session: session_id(1), at: at(7), end: "closed".into() };
    for (change, conflict) in [
        (Change::OpenSession(session(1)), true),
        (Change::OpenLease(lease(1, 1)), true),
        (Change::ActivateLease { lease: lease_id(1), version: 1, receipt: None }, true),
        (revoke, false),
        (ended, false),
        (over, false),
        (Change::PutCredential(sealed("a", 1)), true),
        (Change::PutMeta { key: "k".into(), value: vec![] }, false),
    ] {
        store.apply(vec![change.clone()]).await.unwrap();
        let again = store.apply(vec![change.clone()]).await;
        assert_eq!(matches!(again, Err(StoreFault::Conflict(_))), conflict, "{change:?}: {again:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_an_administrator_ends_are_made_anew() {
    let (server, place) = place();
    let store = PostgresStore::open(&place).await.unwrap();
    for turn in 0..3 {
        store.apply(meta("a")).await.unwrap();
        assert!(has(&store, "a").await && store.credentials().await.unwrap().is_empty(), "turn {turn}");
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'writ'";
        assert_ne!(server.run(database(&place), sql).unwrap(), "0");
    }
    store.apply(meta("b")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_has_what_was_acknowledged() {
    let config = PostgresConfig { durable: true, ..PostgresConfig::default() };
    let server = Postgres::start(&Ca::mint().unwrap(), config).unwrap();
    let store = PostgresStore::open(&place_on(&server, &server.database().unwrap())).await.unwrap();
    store.apply(meta("before")).await.unwrap();
    server.crash().unwrap();
    assert!(matches!(store.apply(meta("meanwhile")).await, Err(StoreFault::Io(_))));
    server.restart().unwrap();
    assert!(has(&store, "before").await && !has(&store, "meanwhile").await);
    store.apply(meta("after")).await.unwrap();
}

/// A job that the server does not take fails alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_the_server_refuses_fails_alone() {
    let store = Arc::new(PostgresStore::open(&place().1).await.unwrap());
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&store);
        // No text of PostgreSQL holds U+0000.
        let key = if number == 20 { "nul\0".to_owned() } else { format!("key {number}") };
        jobs.spawn(async move { (number, store.apply(meta(&key)).await) });
    }
    for (number, result) in jobs.join_all().await {
        assert_eq!(result.is_err(), number == 20, "{number}: {result:?}");
    }
}

/// Two daemons, the second of which owns session 1 and its lease 1.
async fn two() -> (&'static Postgres, Place, PostgresStore, PostgresStore) {
    let (server, place) = place();
    let first = PostgresStore::open(&place).await.unwrap();
    let second = PostgresStore::open(&place).await.unwrap();
    first.enlist(boot(1), None).await.unwrap();
    second.enlist(boot(2), None).await.unwrap();
    own(&second, 1, 2).await;
    (server, place, first, second)
}

async fn own(store: &PostgresStore, number: u16, owner: u16) {
    let session = SessionRecord { boot: boot(owner), ..session(number) };
    let lease = LeaseRecord { boot: boot(owner), ..lease(number, number) };
    store.apply(vec![Change::OpenSession(session), Change::OpenLease(lease)]).await.unwrap();
}

async fn told(store: &PostgresStore, number: u16) -> Vec<News> {
    timeout(PATIENCE, store.news(boot(number))).await.expect("it is never told").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ended_elsewhere_is_told_to_its_owner_alone() {
    let (_, _, first, second) = two().await;
    let revoke = |number, end| vec![Change::RevokeLease { lease: lease_id(number), at: at(5), end }];
    first.apply(revoke(1, LeaseEnd::Revoked)).await.unwrap();
    assert_eq!(told(&second, 2).await, [News::Lease { lease: lease_id(1), end: LeaseEnd::Revoked }]);
    first.apply(revoke(1, LeaseEnd::Revoked)).await.unwrap();
    // Its own ends, and repeated ones, are no news; what follows shows that they were not told.
    own(&second, 3, 2).await;
    second.apply(revoke(3, LeaseEnd::Expired)).await.unwrap();
    let end = Change::EndSession { session: session_id(1), at: at(6), end: "revoked".into() };
    first.apply(vec![end]).await.unwrap();
    assert_eq!(told(&second, 2).await, [News::Session { session: session_id(1) }]);
    first.apply(vec![Change::PutCredential(sealed("c", 1))]).await.unwrap();
    let superseded = News::Credential { credential: name("c"), end: LeaseEnd::Superseded };
    assert_eq!(told(&second, 2).await, [superseded]);
    second.apply(vec![Change::RemoveCredential(name("c"))]).await.unwrap();
    let revoked = News::Credential { credential: name("c"), end: LeaseEnd::Revoked };
    assert_eq!(told(&first, 1).await, [revoked]);
}

/// News that were told and not acted on are told again by whoever asks for this boot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_stay_until_they_are_acted_on() {
    let (server, place, first, second) = two().await;
    first.apply(vec![Change::PutCredential(sealed("c", 1))]).await.unwrap();
    let news = told(&second, 2).await;
    drop(second);
    let again = PostgresStore::open(&place).await.unwrap();
    assert_eq!(told(&again, 2).await, news);
    // Asking for more says that these are done.
    let waiting = tokio::spawn(async move { again.news(boot(2)).await });
    let gone = async {
        while server.run(database(&place), "SELECT count(*) FROM writ.news").unwrap() != "0" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("they stay");
    waiting.abort();
}

/// A newer writ's news, or what somebody wrote by hand, ends its subject where it has one and keeps nothing else from being heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_cannot_be_read_do_not_make_deaf() {
    let (server, place, first, second) = two().await;
    let sql = |text: &str| server.run(database(&place), text).unwrap();
    sql("ALTER TABLE writ.news DROP CONSTRAINT news_kind_check");
    let write = |kind: &str, subject: &str, detail: &str| {
        sql(&format!(
            "INSERT INTO writ.news (boot, kind, subject, detail) VALUES ('{}', '{kind}', '{subject}', '{detail}')",
            boot(2)
        ));
    };
    write("lease", "", "revoked");
    write("later", "No Name!", "");
    write("lease", &lease_id(1).to_string(), "a-later-end");
    write("later", "c", "");
    let revoked = News::Credential { credential: name("c"), end: LeaseEnd::Revoked };
    let mut heard = Vec::new();
    while !heard.contains(&revoked) {
        heard.extend(told(&second, 2).await);
    }
    assert_eq!(heard, [News::Lease { lease: lease_id(1), end: LeaseEnd::Revoked }, revoked]);
    // Alone, what means nothing is deleted without being told, and what follows is heard.
    write("later", "No Name!", "");
    let waiting = tokio::spawn(async move { told(&second, 2).await });
    let gone = async {
        while server.run(database(&place), "SELECT count(*) FROM writ.news").unwrap() != "0" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("they stay");
    first.apply(vec![Change::PutCredential(sealed("c", 1))]).await.unwrap();
    let superseded = News::Credential { credential: name("c"), end: LeaseEnd::Superseded };
    assert_eq!(waiting.await.unwrap(), [superseded]);
}

/// A bell that does not ring: looking finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_costs_a_second_and_no_more() {
    let (server, place, first, second) = two().await;
    server.run(database(&place), "ALTER TABLE writ.news DISABLE TRIGGER ring").unwrap();
    let waiting = tokio::spawn(async move { told(&second, 2).await });
    first.apply(vec![Change::RemoveCredential(name("none"))]).await.unwrap_err();
    let revoke = Change::RevokeLease { lease: lease_id(1), at: at(5), end: LeaseEnd::Revoked };
    first.apply(vec![revoke]).await.unwrap();
    assert_eq!(waiting.await.unwrap(), [News::Lease { lease: lease_id(1), end: LeaseEnd::Revoked }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_orphaned_and_they_stay_dead() {
    let (server, place, first, second) = two().await;
    let ask = || first.orphan(Orphan { boot: boot(1), at: at(9), end: "orphaned".into(), limit: 10 });
    let sql = |text: &str| server.run(database(&place), text).unwrap();
    assert_eq!(ask().await.unwrap(), Orphaned::default(), "the second lives");

    sql("UPDATE writ.boots SET beat_at = now() - interval '16 seconds'");
    assert_eq!(first.beat(boot(1)).await.unwrap(), Beat::Alive);
    assert_eq!(ask().await.unwrap(), Orphaned::default(), "who was not heard itself cannot say who is dead");
    sql(&format!(
        "UPDATE writ.boots SET steady_since = now() - interval '16 seconds' WHERE boot = '{}'",
        boot(1)
    ));
    assert_eq!(ask().await.unwrap().sessions, [session_id(1)]);
    assert_eq!(ask().await.unwrap().leases, [lease_id(1)]);
    assert_eq!(ask().await.unwrap(), Orphaned::default());

    assert_eq!(second.beat(boot(2)).await.unwrap(), Beat::Dead);
    second.enlist(boot(2), None).await.unwrap();
    assert_eq!(second.beat(boot(2)).await.unwrap(), Beat::Dead, "for ever");
    let mine = SessionRecord { boot: boot(2), ..session(5) };
    second.apply(vec![Change::OpenSession(mine)]).await.unwrap();
    let late = LeaseRecord { boot: boot(2), ..lease(5, 5) };
    let refused = second.apply(vec![Change::OpenLease(late)]).await;
    assert!(matches!(refused, Err(StoreFault::Conflict(_))), "{refused:?}");
    assert_eq!(first.beat(boot(1)).await.unwrap(), Beat::Alive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_settled_by_one_daemon_at_a_time() {
    let (_, _, first, second) = two().await;
    first.apply(vec![Change::OpenSession(session(2))]).await.unwrap();
    for number in 11..=20 {
        let revoke = Change::RevokeLease { lease: lease_id(number), at: at(5), end: LeaseEnd::Revoked };
        first.apply(vec![Change::OpenLease(lease(number, 2)), revoke]).await.unwrap();
    }
    let claim = async |store: &PostgresStore, who: u16, limit: u32| {
        let asked = Claim { boot: boot(who), lane: "static".into(), now: at(100), until: at(60_100), limit };
        let found = store.claim(asked).await.unwrap();
        found.into_iter().map(|lease| lease.lease).collect::<Vec<_>>()
    };
    let (mine, others) = tokio::join!(claim(&first, 1, 6), claim(&second, 2, 6));
    let mut all = [mine.clone(), others.clone()].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), mine.len() + others.len(), "nobody's twice: {mine:?} {others:?}");
    let rest = claim(&second, 2, 10).await;
    assert_eq!(claim(&second, 2, 10).await, rest, "one's own again");
    assert_eq!(mine.len() + rest.len(), 10);
    let end = |lease| Change::EndLease { lease, at: at(200), revoked: Revoked::Gone };
    second.apply(rest.into_iter().map(end).collect()).await.unwrap();
    assert!(claim(&second, 2, 10).await.is_empty(), "the others are the first's");
    first.retire(boot(1)).await.unwrap();
    assert_eq!(claim(&second, 2, 10).await, mine, "whose claims end with it");
}
