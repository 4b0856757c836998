//! `control.sock` over a real socket.

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};
use writ_api::{
    VERSION,
    control::{Answer, Ask, OriginalName, Proof, Value},
    frame,
    seal::{self, Place},
};
use writ_audit::Kind;
use writ_core::{LeaseState, RecipientKey, RefusalKind, Sealed, Secret};

use super::harness::{Home, KEY, Life, until};
use crate::{Engines, config::Config};

/// An operator's end.
struct Operator {
    stream: UnixStream,
    recipient: RecipientKey,
}

async fn connect(life: &Life, home: &Home) -> UnixStream {
    let path = home.dir.path().join(format!("control-{}.sock", uuid::Uuid::new_v4()));
    let listener = UnixListener::bind(&path).unwrap();
    let broker = life.broker.clone();
    tokio::spawn(async move { broker.serve_control(listener).await });
    UnixStream::connect(&path).await.unwrap()
}

impl Operator {
    async fn new(life: &Life, home: &Home) -> Self {
        let mut stream = connect(life, home).await;
        frame::send(&mut stream, &Ask::Hello { version: VERSION }).await.unwrap();
        let Answer::Hello { recipient, version: VERSION } = frame::receive(&mut stream).await.unwrap() else {
            panic!("no hello")
        };
        Self { stream, recipient }
    }

    async fn ask(&mut self, ask: Ask) -> Answer {
        frame::send(&mut self.stream, &ask).await.unwrap();
        frame::receive(&mut self.stream).await.unwrap()
    }

    async fn refused(&mut self, ask: Ask) -> Option<RefusalKind> {
        match self.ask(ask).await {
            Answer::Refused(refusal) => Some(refusal.kind),
            _ => None,
        }
    }

    fn seal(&self, text: &str, purpose: &str) -> Sealed {
        let place = Place::Control { purpose: purpose.to_owned() };
        seal::seal(&Secret::new(text.into()), &self.recipient, &place).unwrap()
    }

    fn set(&self, value: &str, purpose: &str) -> Ask {
        let value = Value::Sealed { value: self.seal(value, purpose) };
        Ask::CredentialSet { name: "c".parse().unwrap(), value }
    }
}

#[tokio::test]
async fn hello_comes_first_and_names_the_version() {
    let home = Home::new();
    let life = home.life().await;
    for first in [Ask::Status, Ask::Hello { version: VERSION + 1 }, Ask::Stop] {
        let mut stream = connect(&life, &home).await;
        frame::send(&mut stream, &first).await.unwrap();
        let Answer::Refused(refusal) = frame::receive(&mut stream).await.unwrap() else { panic!("served") };
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        assert!(frame::receive::<Answer>(&mut stream).await.is_err(), "and the connection is closed");
    }
    assert!(!*life.broker.stopping.borrow());
}

#[tokio::test]
async fn an_oversize_frame_closes_the_connection_unread() {
    let home = Home::new();
    let life = home.life().await;
    let mut operator = Operator::new(&life, &home).await;
    operator.stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert!(frame::receive::<Answer>(&mut operator.stream).await.is_err());
}

#[tokio::test]
async fn a_revocation_needs_no_record() {
    let home = Home::new();
    let life = home.life().await;
    let mut operator = Operator::new(&life, &home).await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    let log = life.broker.unlocked().unwrap().log.clone();
    tokio::task::spawn_blocking(move || log.close()).await.unwrap().unwrap();
    assert_eq!(operator.refused(Ask::CredentialList).await, Some(RefusalKind::AuditUnavailable));
    assert_eq!(operator.ask(Ask::LeaseRevoke { lease: granted.lease }).await, Answer::Done);
    let lease = life.broker.store.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!(lease.end, Some(writ_core::LeaseEnd::Revoked));
    assert_eq!(operator.ask(Ask::SessionRevoke { session: opened.session }).await, Answer::Done);
    assert!(life.broker.store.session(opened.session).await.unwrap().unwrap().ended_at.is_some());
}

#[tokio::test]
async fn the_operators_commands() {
    let home = Home::new();
    let life = home.life().await;
    let mut operator = Operator::new(&life, &home).await;
    let set = operator.set(KEY, "credential c");
    assert_eq!(operator.ask(set).await, Answer::CredentialSet { version: 1, leases_revoked: 0 });
    let (opened, _attached) = life.open().await;
    let granted = life.acquire(opened.session, "t").await.unwrap();
    let Answer::Credentials { credentials } = operator.ask(Ask::CredentialList).await else {
        panic!("no list")
    };
    let rows: Vec<_> = credentials
        .iter()
        .map(|row| (row.name.as_str(), row.version, row.source.as_str(), row.leases))
        .collect();
    assert_eq!(rows, [("c", 1, "sealed", 1), ("other", 0, "missing", 0)]);
    let Answer::Status(status) = operator.ask(Ask::Status).await else { panic!("no status") };
    assert_eq!((status.locked, status.sessions, status.leases), (false, 1, 1));
    assert!(status.audit_key.is_some());
    assert_eq!(operator.ask(Ask::LeaseRevoke { lease: granted.lease }).await, Answer::Done);
    let mut show = async || {
        let Answer::Leases { leases } = operator.ask(Ask::LeaseShow { lease: granted.lease }).await else {
            panic!("no lease")
        };
        leases[0].clone()
    };
    let mut shown = show().await;
    while shown.state != LeaseState::Ended {
        shown = show().await;
    }
    assert_eq!(shown.revoked.as_deref(), Some("use-blocked"));
    assert_eq!(operator.ask(Ask::SessionRevoke { session: opened.session }).await, Answer::Done);
    let Answer::Sessions { sessions } = operator.ask(Ask::SessionList { ended: true }).await else {
        panic!("none")
    };
    assert_eq!(sessions[0].end.as_deref(), Some("revoked"));
    assert_eq!(operator.ask(Ask::CredentialRemove { name: "c".parse().unwrap() }).await, Answer::Done);
    let name = "c".parse().unwrap();
    assert_eq!(operator.refused(Ask::CredentialRemove { name }).await, Some(RefusalKind::NotFound));
    assert_eq!(operator.ask(Ask::Stop).await, Answer::Done);
    life.broker.until_stopped().await;
}

#[tokio::test]
async fn a_removed_credential_is_revoked_first() {
    let home = Home::new();
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    let (opened, _attached) = life.open().await;
    life.acquire(opened.session, "t").await.unwrap();
    let mut operator = Operator::new(&life, &home).await;
    let name = "c".parse().unwrap();
    assert_eq!(operator.ask(Ask::CredentialRemove { name }).await, Answer::Done);
    assert_eq!(life.broker.leases.count(crate::leases::Which::All), 0);
    assert!(life.acquire(opened.session, "t").await.is_err());
}

#[tokio::test]
async fn commands_are_recorded_without_their_values() {
    let home = Home::new();
    let life = home.life().await;
    let mut operator = Operator::new(&life, &home).await;
    let set = operator.set(KEY, "credential c");
    operator.ask(set).await;
    let elsewhere = operator.set(KEY, "credential other");
    assert_eq!(
        operator.refused(elsewhere).await,
        Some(RefusalKind::Invalid),
        "sealed for another credential"
    );
    let short = operator.set("short", "credential c");
    assert_eq!(operator.refused(short).await, Some(RefusalKind::Invalid));
    let reference = Value::Reference { reference: "nonsense".into() };
    let unreadable = Ask::CredentialSet { name: "c".parse().unwrap(), value: reference };
    assert_eq!(operator.refused(unreadable).await, Some(RefusalKind::Invalid));
    operator.ask(Ask::LeaseList { ended: true }).await;
    let expected = [
        "credential set ok",
        "credential set refused invalid",
        "credential set refused invalid",
        "credential set refused invalid",
        "lease list ok",
    ];
    assert_eq!(home.log(&life, Kind::Control).await, expected);
    for file in std::fs::read_dir(home.audit()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|window| window == &KEY.as_bytes()[..16]), "a value in the log");
    }
}

/// Commands that grant or change something.
fn changes(operator: &Operator) -> Vec<Ask> {
    let name = || "c".parse().unwrap();
    vec![
        operator.set(KEY, "credential c"),
        Ask::TrustGrant { path: "/no/writ.toml".into(), sha256: "00".repeat(32) },
        Ask::CredentialRemove { name: name() },
    ]
}

#[tokio::test]
async fn below_confined_changes_need_the_passphrase() {
    let home = Home::new();
    home.write(&home.text("passphrase"));
    let life = home.life_with("passphrase", Engines::default()).await;
    let mut operator = Operator::new(&life, &home).await;
    let passphrase = operator.seal("correct horse battery", "unlock");
    assert_eq!(operator.ask(Ask::Unlock { passphrase }).await, Answer::Done);
    let proof = async |operator: &mut Operator| match operator.ask(Ask::Status).await {
        Answer::Status(status) => (status.below_confined, status.proof),
        other => panic!("{other:?}"),
    };
    assert_eq!(proof(&mut operator).await, (0, Proof::Nothing));
    let set = operator.set(KEY, "credential c");
    assert!(
        matches!(operator.ask(set).await, Answer::CredentialSet { version: 1, .. }),
        "no agent, no proof"
    );
    let (opened, _attached) = life.open().await;
    assert_eq!(proof(&mut operator).await, (1, Proof::Passphrase));
    for ask in changes(&operator) {
        assert_eq!(operator.refused(ask.clone()).await, Some(RefusalKind::Denied), "{ask:?}");
    }
    assert!(matches!(operator.ask(Ask::CredentialList).await, Answer::Credentials { .. }), "looking is free");
    // A wrong one, and one that was sealed for something else.
    let wrong = operator.seal("wrong horse battery", "prove");
    assert_eq!(operator.refused(Ask::Prove { passphrase: wrong }).await, Some(RefusalKind::Denied));
    let elsewhere = operator.seal("correct horse battery", "unlock");
    assert_eq!(operator.refused(Ask::Prove { passphrase: elsewhere }).await, Some(RefusalKind::Invalid));
    let set = operator.set(KEY, "credential c");
    assert_eq!(operator.refused(set).await, Some(RefusalKind::Denied));
    // Proof holds for its own connection.
    let right = operator.seal("correct horse battery", "prove");
    assert_eq!(operator.ask(Ask::Prove { passphrase: right }).await, Answer::Done);
    let mut other = Operator::new(&life, &home).await;
    let set = other.set(KEY, "credential c");
    assert_eq!(other.refused(set).await, Some(RefusalKind::Denied));
    let set = operator.set(KEY, "credential c");
    assert!(matches!(operator.ask(set).await, Answer::CredentialSet { version: 2, .. }));
    // What ends something is never held up.
    assert_eq!(other.ask(Ask::SessionRevoke { session: opened.session }).await, Answer::Done);
    assert_eq!(proof(&mut other).await, (0, Proof::Nothing));
    let set = other.set(KEY, "credential c");
    assert!(matches!(other.ask(set).await, Answer::CredentialSet { version: 3, .. }));
}

#[tokio::test]
async fn a_key_file_is_no_wall_and_the_status_says_so() {
    let home = Home::new();
    let life = home.life().await;
    let mut operator = Operator::new(&life, &home).await;
    let (_opened, _attached) = life.open().await;
    let Answer::Status(status) = operator.ask(Ask::Status).await else { panic!("no status") };
    assert_eq!((status.below_confined, status.proof), (1, Proof::NoWall));
    let set = operator.set(KEY, "credential c");
    assert!(matches!(operator.ask(set).await, Answer::CredentialSet { .. }));
}

/// Launchers that never say what they want fill their own socket, and no more of it than their part.
#[tokio::test]
async fn whoever_says_nothing_keeps_nobody_else_out() {
    let home = Home::new();
    let life = home.life().await;
    let (control, run) = (home.dir.path().join("c.sock"), home.dir.path().join("r.sock"));
    let (operators, launchers) = (UnixListener::bind(&control).unwrap(), UnixListener::bind(&run).unwrap());
    let broker = life.broker.clone();
    tokio::spawn(async move { broker.serve_control(operators).await });
    let broker = life.broker.clone();
    tokio::spawn(async move { broker.serve_run(launchers).await });
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(UnixStream::connect(&run).await.unwrap());
    }
    until(async || *life.broker.busy.borrow() == 64).await;
    let mut closed = 0;
    for stream in &mut silent[64..] {
        closed += usize::from(frame::receive::<writ_api::run::FromBroker>(stream).await.is_err());
    }
    assert_eq!((closed, *life.broker.busy.borrow()), (36, 64));
    let mut stream = UnixStream::connect(&control).await.unwrap();
    frame::send(&mut stream, &Ask::Hello { version: VERSION }).await.unwrap();
    assert!(matches!(frame::receive::<Answer>(&mut stream).await, Ok(Answer::Hello { .. })));
}

#[tokio::test]
async fn while_locked_only_status_unlock_and_stop_are_answered() {
    let home = Home::new();
    home.write(&home.text("passphrase"));
    assert!(Config::load(&home.config()).is_ok());
    let life = home.life_with("passphrase", Engines::default()).await;
    let mut operator = Operator::new(&life, &home).await;
    let stranger = writ_core::SessionId::new(writ_core::Timestamp::from_millis(1), &[1; 10]);
    let set = operator.set(KEY, "credential c");
    let name: writ_core::CredentialName = "c".parse().unwrap();
    let lease = writ_core::LeaseId::new(writ_core::Timestamp::from_millis(1), &[1; 10]);
    let original = OriginalName { path: "/a/.env".into(), written_sha256: "ab".repeat(32) };
    let sealed = operator.seal(KEY, "compare c");
    for ask in [
        set,
        Ask::CredentialList,
        Ask::CredentialCompare { name: name.clone(), value: sealed.clone() },
        Ask::PlaceholderShow { name: name.clone() },
        Ask::OriginalKeep { name: original.clone(), original_sha256: "ab".repeat(32), content: sealed },
        Ask::OriginalList,
        Ask::OriginalOpen { name: original.clone(), recipient: operator.recipient.clone() },
        Ask::OriginalForget { name: original },
        Ask::CredentialRemove { name },
        Ask::SessionList { ended: true },
        Ask::SessionShow { session: stranger },
        Ask::SessionRevoke { session: stranger },
        Ask::LeaseList { ended: true },
        Ask::LeaseShow { lease },
        Ask::LeaseRevoke { lease },
        Ask::Seen { since: None },
        Ask::TrustShow { directory: "/".into() },
        Ask::TrustGrant { path: "/writ.toml".into(), sha256: "00".repeat(32) },
        Ask::Prove { passphrase: operator.seal("correct horse battery", "prove") },
    ] {
        let Answer::Refused(refusal) = operator.ask(ask).await else { panic!("answered while locked") };
        assert_eq!((refusal.kind, refusal.next.as_str()), (RefusalKind::Locked, "run `writ unlock`"));
    }
    assert_eq!(life.acquire(stranger, "t").await.unwrap_err().kind, RefusalKind::Locked);
    assert_eq!(life.open_as(&super::harness::ask_open()).await.err().unwrap().kind, RefusalKind::Locked);
    let Answer::Status(status) = operator.ask(Ask::Status).await else { panic!("no status") };
    assert_eq!((status.locked, status.seal.as_str(), status.audit_key), (true, "passphrase", None));
    let passphrase = operator.seal("correct horse battery", "unlock");
    assert_eq!(operator.ask(Ask::Unlock { passphrase }).await, Answer::Done);
    let (opened, _attached) = life.open().await;
    life.set("c", KEY).await.unwrap();
    assert!(life.acquire(opened.session, "t").await.is_ok());
    let wrong = operator.seal("wrong horse battery", "unlock");
    assert_eq!(operator.ask(Ask::Unlock { passphrase: wrong }).await, Answer::Done, "harmless when open");
    until(async || life.broker.open_door().is_some()).await;
}
