//! `run.sock` over a real socket: the opening of a session, its conversation, its ends.

use std::{
    io::Write,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
};

use tokio::net::{UnixListener, UnixStream};
use writ_api::{
    frame,
    run::{FromBroker, FromLauncher, Open, Opened},
};
use writ_core::{DOORS_MAX, Door, RefusalKind, SessionId};

use super::harness::{Home, KEY, Life, ask_open, until};

/// A launcher's end.
pub(super) struct Launcher(UnixStream);

impl Launcher {
    /// Connects and sends `message` with `listeners` descriptors beside it.
    fn send(life: &Life, home: &Home, message: &FromLauncher, listeners: usize) -> Self {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap().into();
        Self::send_with(life, home, message, &(0..listeners).map(|_| listener()).collect::<Vec<_>>())
    }

    pub(super) fn send_with(life: &Life, home: &Home, message: &FromLauncher, sockets: &[OwnedFd]) -> Self {
        let path = home.dir.path().join(format!("run-{}.sock", uuid::Uuid::new_v4()));
        let listener = UnixListener::bind(&path).unwrap();
        let broker = life.broker.clone();
        tokio::spawn(async move { broker.serve_run(listener).await });
        let stream = StdStream::connect(&path).unwrap();
        let bytes = frame::encode(message).unwrap();
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let sent = writ_sys::send_with_fds(&stream, &bytes, &descriptors).unwrap();
        (&stream).write_all(&bytes[sent..]).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self(UnixStream::from_std(stream).unwrap())
    }

    async fn open(life: &Life, home: &Home, ask: Open) -> Result<(Self, Opened), writ_core::Refusal> {
        let mut launcher = Self::send(life, home, &FromLauncher::Open(ask), 1);
        match launcher.receive().await {
            FromBroker::Opened(opened) => Ok((launcher, opened)),
            FromBroker::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a later message with `sockets` beside it.
    pub(super) fn pass(&mut self, message: &FromLauncher, sockets: &[OwnedFd]) {
        let raw = StdStream::from(self.0.as_fd().try_clone_to_owned().unwrap());
        let bytes = frame::encode(message).unwrap();
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        assert_eq!(writ_sys::send_with_fds(&raw, &bytes, &descriptors).unwrap(), bytes.len());
    }

    pub(super) async fn receive(&mut self) -> FromBroker {
        frame::receive(&mut self.0).await.unwrap()
    }
}

pub(super) async fn ended(life: &Life, session: SessionId) -> String {
    let end = async || life.broker.store.session(session).await.unwrap().unwrap().end;
    until(async || end().await.is_some()).await;
    end().await.unwrap()
}

#[tokio::test]
async fn opened_says_what_the_launcher_needs() {
    let home = Home::new();
    let life = home.life().await;
    let (_launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    assert_eq!((opened.workload.as_str(), opened.role.as_str()), ("spiffe://writ.local/dev/me", "dev"));
    let names: Vec<&str> = opened.variables.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!((names, opened.hosts), (vec!["C_KEY"], vec!["t.example".to_owned()]));
    assert!(opened.variables[0].placeholder.as_str().contains("writ"));
    assert_eq!(opened.withhold, ["OPENAI_API_KEY"], "a key that writ does not manage is withheld");
    let plan = life.plane.plans.lock().unwrap()[0].clone();
    assert_eq!(
        (plan.routes.len(), plan.placeholders.len()),
        (1, 2),
        "every placeholder is known to every session"
    );
    let record = life.broker.store.session(opened.session).await.unwrap().unwrap();
    assert_eq!(record.directory, std::env::current_dir().unwrap().display().to_string());
    assert_eq!(record.pid, i32::try_from(std::process::id()).unwrap());
}

#[tokio::test]
async fn each_end_of_the_launcher_ends_the_session_and_its_leases() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    for (say, end) in [(Some(FromLauncher::Closed { status: 3 }), "closed"), (None, "launcher-gone")] {
        let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
        life.acquire(opened.session, "t").await.unwrap();
        if let Some(message) = say {
            frame::send(&mut launcher.0, &message).await.unwrap();
        }
        drop(launcher);
        assert_eq!(ended(&life, opened.session).await, end);
        assert_eq!(life.broker.leases.count(crate::leases::Which::All), 0);
        assert!(life.acquire(opened.session, "t").await.is_err());
    }
    until(async || life.broker.idle()).await;
    life.broker.until_idle(std::time::Duration::ZERO).await;
}

#[tokio::test]
async fn a_second_opening_on_one_connection_ends_the_session() {
    let home = Home::new();
    let life = home.life().await;
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    frame::send(&mut launcher.0, &FromLauncher::Open(ask_open())).await.unwrap();
    assert_eq!(ended(&life, opened.session).await, "launcher-gone");
}

#[tokio::test]
async fn doors_that_a_session_may_not_have_end_it() {
    let home = Home::new();
    let life = home.life().await;
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    let doors = FromLauncher::Doors { doors: vec![Door::Local { port: 5432 }] };
    launcher.pass(&doors, &[TcpListener::bind("127.0.0.1:0").unwrap().into()]);
    let why = "the launcher brought a socket that the session may not have".to_owned();
    assert_eq!(launcher.receive().await, FromBroker::Ended { why });
    assert_eq!(ended(&life, opened.session).await, "doors");
}

#[tokio::test]
async fn doors_without_their_descriptors_end_it() {
    let home = Home::new();
    let life = home.life().await;
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    launcher.pass(&FromLauncher::Doors { doors: vec![Door::Local { port: 5432 }] }, &[]);
    assert!(matches!(launcher.receive().await, FromBroker::Ended { .. }));
    assert_eq!(ended(&life, opened.session).await, "doors");
}

#[tokio::test]
async fn an_end_from_elsewhere_is_told_to_the_launcher() {
    let home = Home::new();
    let life = home.life().await;
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    assert!(!life.broker.idle());
    crate::sessions::end(&life.broker, opened.session, crate::sessions::End::Revoked).await.unwrap();
    let why = "an operator revoked the session".to_owned();
    assert_eq!(launcher.receive().await, FromBroker::Ended { why });
}

#[tokio::test]
async fn what_is_no_opening_is_refused() {
    let home = Home::new();
    let life = home.life().await;
    let open = FromLauncher::Open(ask_open());
    let other_version = FromLauncher::Open(Open { version: 99, ..ask_open() });
    for (message, descriptors) in [(&open, 0), (&other_version, 1), (&FromLauncher::Closed { status: 0 }, 1)]
    {
        let mut launcher = Launcher::send(&life, &home, message, descriptors);
        let FromBroker::Refused(refusal) = launcher.receive().await else { panic!("it was opened") };
        assert_eq!(refusal.kind, RefusalKind::Invalid);
    }
    // More descriptors than agreed: all are closed, and so is the connection.
    let mut launcher = Launcher::send(&life, &home, &open, DOORS_MAX + 1);
    assert!(frame::receive::<FromBroker>(&mut launcher.0).await.is_err());
    assert_eq!(life.broker.sessions.count(), 0);
}

#[tokio::test]
async fn roles_and_walls() {
    let home = Home::new();
    let life = home.life().await;
    let refused = async |ask: Open| life.open_as(&ask).await.err().map(|refusal| refusal.kind);
    let role = |name: &str| Open { role: Some(name.parse().unwrap()), ..ask_open() };
    assert_eq!(refused(role("dev")).await, None);
    assert_eq!(refused(role("ops")).await, Some(RefusalKind::Denied), "--role never widens");
    let program = std::path::PathBuf::from("/no/such/program");
    assert_eq!(refused(Open { program, ..ask_open() }).await, Some(RefusalKind::UnknownWorkload));
    let password_sha256 = Some("short".to_owned());
    assert_eq!(refused(Open { password_sha256, ..ask_open() }).await, Some(RefusalKind::Invalid));
    home.write(&home.text("key-file").replace("accept_below_confined = true", ""));
    assert_eq!(refused(ask_open()).await, Some(RefusalKind::Denied), "a key file below confined");
    home.write(&home.text("key-file").replace("selectors = [\"unix:uid:", "selectors = [\"unix:uid:9"));
    assert_eq!(refused(ask_open()).await, Some(RefusalKind::UnknownWorkload));
    let log = home.log(&life, writ_audit::Kind::Session).await;
    let expected = [
        "ok",
        "refused denied",
        "refused unknown-workload",
        "refused invalid",
        "refused denied",
        "refused unknown-workload",
    ];
    let opens: Vec<&String> = log.iter().filter(|line| line.starts_with("open")).collect();
    assert_eq!(opens, expected.map(|line| format!("open {line}")).iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_broken_configuration_refuses_new_sessions_and_keeps_the_old() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    home.write("version = 1\nnonsense = true\n");
    let refusal = life.open_as(&ask_open()).await.err().unwrap();
    assert!(refusal.detail.contains("nonsense"), "{refusal:?}");
    assert!(life.acquire(opened.session, "t").await.is_ok());
    home.write(&home.text("key-file"));
    assert!(life.open_as(&ask_open()).await.is_ok());
}

#[tokio::test]
async fn a_data_plane_that_does_not_serve_leaves_an_ended_session() {
    let home = Home::new();
    let life = home.life().await;
    life.plane.fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let refusal = life.open_as(&ask_open()).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::BrokerUnavailable);
    let records = life.broker.store.sessions(true).await.unwrap();
    assert_eq!(records.iter().map(|one| one.end.as_deref()).collect::<Vec<_>>(), [Some("unserved")]);
}

#[tokio::test]
async fn a_number_that_means_another_process_by_now_is_refused() {
    let home = Home::new();
    let life = home.life().await;
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = writ_sys::pidfd_of_child(&child).unwrap();
    child.wait().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = crate::sessions::Peer { process, ..super::harness::myself() };
    let opened = crate::sessions::open(
        &life.broker,
        &peer,
        &ask_open(),
        vec![(writ_core::Door::Proxy, listener.into())],
    )
    .await;
    assert_eq!(opened.err().unwrap().kind, RefusalKind::Invalid);
}

#[tokio::test]
async fn without_a_log_no_session_opens_and_nothing_is_handed_out() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    let log = life.broker.unlocked().unwrap().log.clone();
    tokio::task::spawn_blocking(move || log.close()).await.unwrap().unwrap();
    assert_eq!(life.acquire(opened.session, "t").await.unwrap_err().kind, RefusalKind::AuditUnavailable);
    assert_eq!(life.broker.store.leases(Default::default()).await.unwrap(), []);
    assert_eq!(life.open_as(&ask_open()).await.err().unwrap().kind, RefusalKind::AuditUnavailable);
    // Store and log are written at the same time: what is in the one and not in the other was never served, and is over.
    let sessions = life.broker.store.sessions(true).await.unwrap();
    let (alive, over): (Vec<_>, Vec<_>) = sessions.iter().partition(|session| session.end.is_none());
    assert_eq!(alive.iter().map(|session| session.session).collect::<Vec<_>>(), [opened.session]);
    assert_eq!(over.iter().map(|session| session.end.as_deref()).collect::<Vec<_>>(), [Some("unserved")]);
    assert_eq!(life.plane.plans.lock().unwrap().len(), 1);
}

/// What remains of a run is closed on a thread of its own; a confined session opens when that is done.
#[tokio::test]
async fn what_remains_of_a_run_is_taken_and_closed() {
    let home = Home::new();
    let life = home.life().await;
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    launcher.pass(&FromLauncher::Closed { status: 3 }, &[writer.into()]);
    assert_eq!(launcher.receive().await, FromBroker::Taken);
    life.broker.settling.settled().await;
    let mut end = Vec::new();
    std::io::Read::read_to_end(&mut &reader, &mut end).unwrap();
    assert_eq!(ended(&life, opened.session).await, "closed");
    let (mut launcher, opened) = Launcher::open(&life, &home, ask_open()).await.unwrap();
    let many = (0..=writ_api::run::REMAINS_MAX).map(|_| std::io::pipe().unwrap().0.into());
    launcher.pass(&FromLauncher::Closed { status: 3 }, &many.collect::<Vec<OwnedFd>>());
    assert_eq!(ended(&life, opened.session).await, "launcher-gone", "not so many");
}
