//! The wire format, pinned: an example of every message is in `spec/wire-vectors.json`, and reads back as what was written.
//!
//! A changed file is a changed wire: raise [`writ_api::VERSION`]. `UPDATE_EXPECT=1 cargo test -p writ-api` writes it anew.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a failure here is a failed test")]

use std::{collections::BTreeSet, fmt::Debug};

use expect_test::expect_file;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use writ_api::{
    VERSION,
    control::{
        self, Answer, Ask, CredentialRow, Finding, FindingKind, LeaseRow, Mended, OriginalName, OriginalRow,
        Proof, Repair, SeenRow, SessionRow, Status, Survey, TrustState, TrustView, Unreached,
    },
    frame::{self, FRAME_MAX, FrameFault},
    run::{FromBroker, FromLauncher, Open, Opened, Variable},
};
use writ_core::{
    AcquireAsk, Door, Egress, Grant, Granted, Injection, LeaseEnd, LeaseId, LeaseState, Level, Lost,
    NamedAddress, Notice, OpenFault, Place, Placeholder, PlaceholderEntry, RecipientKey, Refusal,
    RefusalKind, RequestId, RoutePlan, Scope, Sealed, SessionId, SessionPlan, SessionReady, Shape, Tiding,
    Timestamp, Ttl, WatchAnswer, WatchAsk,
};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn session() -> SessionId {
    SessionId::new(NOW, &[1; 10])
}

fn lease() -> LeaseId {
    LeaseId::new(NOW, &[2; 10])
}

fn later() -> Timestamp {
    NOW.saturating_add(Ttl::from_secs(900).unwrap())
}

fn placeholder() -> Placeholder {
    Shape::GENERIC.build(0..=255)
}

fn sealed() -> Sealed {
    Sealed { enc: "ZW5j".into(), ciphertext: "Y2lwaGVydGV4dA==".into() }
}

fn recipient() -> RecipientKey {
    RecipientKey("cHVibGljIGtleQ==".into())
}

fn refusal() -> Refusal {
    Refusal::new(RefusalKind::Denied, "the role dev has no such target", "ask the operator")
}

fn scope() -> Scope {
    let grant = |methods: &[&str], paths: &[&str]| Grant {
        methods: methods.iter().map(|one| (*one).to_owned()).collect(),
        paths: paths.iter().map(|one| one.parse().unwrap()).collect(),
    };
    Scope {
        authority: "api.openai.com".parse().unwrap(),
        grants: vec![grant(&["POST"], &["/v1/*", "/v1/models"]), grant(&[], &[])],
    }
}

fn from_launcher() -> Vec<FromLauncher> {
    let open = Open {
        version: VERSION,
        role: Some("dev".parse().unwrap()),
        ttl: Some(Ttl::from_secs(900).unwrap()),
        program: "/usr/bin/python3".into(),
        script: Some("/home/ada/agent.py".into()),
        level: Level::Confined,
        doors: vec![Door::Proxy, Door::Capture { port: 443 }, Door::DnsUdp, Door::DnsTcp],
        password_sha256: None,
        resumed_from: Some(session()),
        keepsake: Some("a2VlcHNha2U=".into()),
        variables: vec!["PATH".into(), "OPENAI_API_KEY".into()],
        recipient: None,
        by_hand: false,
    };
    let bare = Open {
        role: None,
        ttl: None,
        script: None,
        level: Level::Advisory,
        doors: vec![Door::Proxy],
        password_sha256: Some("00".repeat(32)),
        resumed_from: None,
        keepsake: None,
        variables: vec![],
        by_hand: true,
        ..open.clone()
    };
    vec![
        FromLauncher::Open(open),
        FromLauncher::Open(bare),
        FromLauncher::Doors {
            doors: vec![
                Door::Named { authority: "db.example:5432".parse().unwrap() },
                Door::Local { port: 5432 },
            ],
        },
        FromLauncher::Closed { status: 130 },
    ]
}

fn from_broker() -> Vec<FromBroker> {
    let variable = Variable {
        name: "OPENAI_API_KEY".into(),
        placeholder: placeholder(),
        credential: "openai".parse().unwrap(),
    };
    vec![
        FromBroker::Opened(Opened {
            session: session(),
            workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
            role: "dev".parse().unwrap(),
            expires_at: later(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            variables: vec![variable],
            withhold: vec!["GITHUB_TOKEN".into()],
            hosts: vec!["api.openai.com".into()],
            named: vec![NamedAddress {
                authority: "db.example:5432".parse().unwrap(),
                addresses: vec!["198.18.0.1".parse().unwrap(), "fd77::1".parse().unwrap()],
            }],
            local: vec![5432],
            caches: vec!["~/.cargo/registry".into()],
            readable: vec!["/srv/tools".into()],
            presets: vec!["openai".into()],
            revealed: Vec::new(),
            keepsake: "a2VlcHNha2U=".into(),
        }),
        FromBroker::Refused(refusal()),
        FromBroker::Said { text: "refused: example.com is not listed".into() },
        FromBroker::Ended { why: "an operator revoked it".into() },
        FromBroker::Taken,
    ]
}

fn asks() -> Vec<Ask> {
    let (name, session, lease) = (|| "openai".parse().unwrap(), session(), lease());
    vec![
        Ask::Hello { version: VERSION },
        Ask::Status,
        Ask::Unlock { passphrase: sealed() },
        Ask::CredentialSet { name: name(), value: control::Value::Sealed { value: sealed() } },
        Ask::CredentialSet {
            name: name(),
            value: control::Value::Reference { reference: "cmd://pass show openai".into() },
        },
        Ask::CredentialList,
        Ask::CredentialRemove { name: name() },
        Ask::CredentialCompare { name: name(), value: sealed() },
        Ask::PlaceholderShow { name: name() },
        Ask::OriginalKeep { name: original(), original_sha256: "cd".repeat(32), content: sealed() },
        Ask::OriginalList,
        Ask::OriginalOpen { name: original(), recipient: recipient() },
        Ask::OriginalForget { name: original() },
        Ask::SessionList { ended: false },
        Ask::SessionShow { session },
        Ask::SessionRevoke { session },
        Ask::LeaseList { ended: true },
        Ask::LeaseShow { lease },
        Ask::LeaseRevoke { lease },
        Ask::LeaseRenew { lease },
        Ask::LeaseSurvey,
        Ask::LeaseReconcile { repair: vec![lease] },
        Ask::CredentialRotate { name: name() },
        Ask::Prove { passphrase: sealed() },
        Ask::TrustShow { directory: "/home/ada/project/src".into() },
        Ask::TrustGrant { path: "/home/ada/project/writ.toml".into(), sha256: "00".repeat(32) },
        Ask::Seen { since: None },
        Ask::Seen { since: Some(NOW) },
        Ask::Stop,
    ]
}

fn answers() -> Vec<Answer> {
    let status = Status {
        pid: 4711,
        started_at: NOW,
        locked: false,
        seal: "key-file".into(),
        sessions: 1,
        leases: 2,
        audit_key: Some("a2V5".into()),
        audit_anchor: Some(json!({"sequence": 1})),
        config: "/home/ada/.config/writ/writ.toml".into(),
        below_confined: 1,
        proof: Proof::Passphrase,
        quarantined: Vec::new(),
    };
    vec![
        Answer::Hello { version: VERSION, recipient: recipient() },
        Answer::Status(status.clone()),
        Answer::Status(Status { proof: Proof::NoWall, ..status.clone() }),
        Answer::Status(Status {
            locked: true,
            audit_key: None,
            audit_anchor: None,
            below_confined: 0,
            proof: Proof::Nothing,
            ..status
        }),
        Answer::Done,
        Answer::CredentialSet { version: 2, leases_revoked: 1 },
        Answer::Credentials { credentials: vec![credential_row()] },
        Answer::Sessions { sessions: vec![session_row()] },
        Answer::Leases { leases: vec![lease_row()] },
        Answer::Survey(survey()),
        Answer::Reconciled { repairs: repairs() },
        Answer::Rotated { version: 3, leases_ended: 1 },
        Answer::Compared { same: Some(true) },
        Answer::Compared { same: None },
        Answer::Placeholder { placeholder: placeholder() },
        Answer::Originals {
            originals: vec![OriginalRow { name: original(), original_sha256: "cd".repeat(32), kept_at: NOW }],
        },
        Answer::Original { content: sealed() },
        Answer::Trust(trust_view(TrustState::Untrusted)),
        Answer::Trust(trust_view(TrustState::Changed)),
        Answer::Trust(trust_view(TrustState::Trusted)),
        Answer::Seen { hosts: vec![seen_row()], more: 0 },
        Answer::Refused(refusal()),
    ]
}

fn original() -> OriginalName {
    OriginalName { path: "/home/ada/project/.env".into(), written_sha256: "ab".repeat(32) }
}

fn credential_row() -> CredentialRow {
    CredentialRow {
        name: "openai".parse().unwrap(),
        version: 2,
        set_at: Some(NOW),
        source: "sealed".into(),
        owner: None,
        env: vec!["OPENAI_API_KEY".into()],
        targets: vec!["openai".parse().unwrap()],
        leases: 1,
        rotating: false,
    }
}

fn survey() -> Survey {
    let finding = |kind, name: &str| Finding {
        kind,
        credential: "orders".parse().unwrap(),
        lease: lease(),
        name: name.into(),
        lane: "postgres db.example:5432".into(),
    };
    Survey {
        surveyed: vec!["orders".parse().unwrap()],
        unreachable: vec![Unreached { credential: "wiki".parse().unwrap(), why: "it did not answer".into() }],
        findings: vec![finding(FindingKind::Orphan, "writ_0a1b2c3d_1"), finding(FindingKind::Lost, "")],
        more: 0,
        agreed: 3,
    }
}

fn repairs() -> Vec<Repair> {
    let why = || "the database is being started".to_owned();
    let mended = [Mended::Done, Mended::Agrees, Mended::Begun { why: why() }, Mended::Failed { why: why() }];
    mended.map(|mended| Repair { lease: lease(), mended }).into()
}

fn trust_view(state: TrustState) -> TrustView {
    TrustView {
        path: "/home/ada/project/writ.toml".into(),
        sha256: "00".repeat(32),
        state,
        asks: vec!["role dev".into()],
        differences: vec!["+ role dev".into()],
        missing: vec![],
    }
}

fn seen_row() -> SeenRow {
    SeenRow {
        host: "example.com".into(),
        port: Some(443),
        refused: 2,
        tunnelled: 0,
        used: 0,
        first: NOW,
        last: later(),
        roles: vec!["dev".into()],
        reason: Some("unlisted-host".into()),
        lines: vec!["[[target]]".into(), "name = \"example\"".into(), "host = \"example.com\"".into()],
    }
}

fn session_row() -> SessionRow {
    SessionRow {
        session: session(),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        requester: "ada (1000)".into(),
        program: "/usr/bin/claude".into(),
        directory: "/home/ada/project".into(),
        pid: 4711,
        level: Level::Confined,
        prompt_sha256: None,
        resumed_from: None,
        opened_at: NOW,
        expires_at: later(),
        ended_at: Some(later()),
        end: Some("expired".into()),
        leases: 1,
    }
}

fn lease_row() -> LeaseRow {
    LeaseRow {
        lease: lease(),
        session: session(),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        target: "openai".parse().unwrap(),
        credential: Some("openai".parse().unwrap()),
        version: 2,
        scope: scope(),
        state: LeaseState::Ended,
        end: Some(LeaseEnd::SessionEnded),
        revoked: Some("use-blocked".into()),
        issued_at: NOW,
        expires_at: later(),
        revealed: false,
        lane: "static".into(),
        ended_at: Some(later()),
    }
}

fn granted() -> Granted {
    Granted {
        lease: lease(),
        credential: Some("openai".parse().unwrap()),
        credential_type: "static".into(),
        scope: scope(),
        issued_at: NOW,
        expires_at: later(),
        sealed: Some(sealed()),
    }
}

fn notices() -> Vec<Notice> {
    let ended = |end| Notice::LeaseEnded { lease: lease(), end };
    let ends = [
        LeaseEnd::Expired,
        LeaseEnd::Revoked,
        LeaseEnd::Superseded,
        LeaseEnd::SessionEnded,
        LeaseEnd::Orphaned,
        LeaseEnd::Lost,
    ];
    ends.map(ended).into_iter().chain([Notice::SessionEnded { session: session() }]).collect()
}

fn plan() -> SessionPlan {
    let place = |place| Injection { place, paths: vec!["/api/*".parse().unwrap()] };
    let places = [
        Place::Bearer,
        Place::Header { name: "x-api-key".into() },
        Place::Basic { user: "x-access-token".into() },
        Place::Placeholder,
    ];
    SessionPlan {
        session: session(),
        workload: "spiffe://writ.local/dev/claude".parse().unwrap(),
        role: "dev".parse().unwrap(),
        requester: "ada (1000)".into(),
        level: Level::Restricted,
        expires_at: later(),
        password_sha256: Some("00".repeat(32)),
        egress: Egress::Public,
        local: vec![5432],
        routes: vec![RoutePlan {
            target: "openai".parse().unwrap(),
            authority: "api.openai.com:8443".parse().unwrap(),
            credential: Some("openai".parse().unwrap()),
            tunnel: false,
            injections: places.map(place).to_vec(),
            dial: Some("127.0.0.1:8443".into()),
            tls_ca: None,
            allow_private: vec!["10.2.0.0/16".parse().unwrap()],
            encoded_slash: false,
            pass_unscrubbed: false,
            refuse_as_400: vec!["/v1/responses*".parse().unwrap()],
        }],
        placeholders: vec![PlaceholderEntry {
            credential: "openai".parse().unwrap(),
            placeholder: placeholder(),
        }],
        quiet_hosts: vec!["telemetry.example".parse().unwrap()],
        keeper: recipient(),
        authority: Some(sealed()),
    }
}

/// Every message, by the conversation and the Rust type.
fn vectors() -> Vec<(&'static str, Vec<Value>)> {
    let request = RequestId::new(NOW, &[3; 10]);
    let acquire = AcquireAsk { session: session(), target: "openai".parse().unwrap(), request };
    let watched = WatchAnswer { upto: 7, missed: false, notices: notices() };
    vec![
        ("run.sock: FromLauncher", check(from_launcher())),
        ("run.sock: FromBroker", check(from_broker())),
        ("control.sock: Ask", check(asks())),
        ("control.sock: Answer", check(answers())),
        ("brokerage: AcquireAsk", check(vec![acquire])),
        ("brokerage: acquired", check(vec![Ok(granted()), Err(refusal())])),
        ("brokerage: WatchAsk", check(vec![WatchAsk { since: 0 }])),
        ("brokerage: watched", check(vec![Ok(watched), Err(Lost("it is stopping".into()))])),
        ("brokerage: Tiding", check(vec![Tiding { session: session(), text: "a line".into() }])),
        ("data plane: SessionPlan", check(vec![plan()])),
        (
            "data plane: opened",
            check(vec![
                Ok(SessionReady {
                    ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
                    recipient: recipient(),
                    named: vec![],
                    authority: sealed(),
                }),
                Err(OpenFault("no descriptors are left".into())),
            ]),
        ),
    ]
}

/// Through a frame and back, and the JSON.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(messages: Vec<T>) -> Vec<Value> {
    let through = |message: &T| {
        let frame = frame::encode(message).unwrap();
        assert_eq!(frame::read::<T>(&mut frame.as_slice()).unwrap(), *message);
        serde_json::from_slice(&frame[4..]).unwrap()
    };
    messages.iter().map(through).collect()
}

#[test]
fn the_wire_is_as_specified() {
    let all: Map<String, Value> =
        vectors().into_iter().map(|(name, examples)| (name.to_owned(), examples.into())).collect();
    // Another crate of the workspace may make serde_json keep the order of insertion.
    let mut all = Value::Object(all);
    all.sort_all_objects();
    let text = format!("{}\n", serde_json::to_string_pretty(&all).unwrap());
    expect_file!["../../../spec/wire-vectors.json"].assert_eq(&text);
}

/// A new variant does not compile until it is named here, and does not pass until it has an example.
#[test]
fn every_variant_has_an_example() {
    let launcher = |message: &FromLauncher| match message {
        FromLauncher::Open(_) => 0,
        FromLauncher::Doors { .. } => 1,
        FromLauncher::Closed { .. } => 2,
    };
    let broker = |message: &FromBroker| match message {
        FromBroker::Opened(_) => 0,
        FromBroker::Refused(_) => 1,
        FromBroker::Said { .. } => 2,
        FromBroker::Ended { .. } => 3,
        FromBroker::Taken => 4,
    };
    let ask = |ask: &Ask| match ask {
        Ask::Hello { .. } => 0,
        Ask::Status => 1,
        Ask::Unlock { .. } => 2,
        Ask::CredentialSet { .. } => 3,
        Ask::CredentialList => 4,
        Ask::CredentialRemove { .. } => 5,
        Ask::SessionList { .. } => 6,
        Ask::SessionShow { .. } => 7,
        Ask::SessionRevoke { .. } => 8,
        Ask::LeaseList { .. } => 9,
        Ask::LeaseShow { .. } => 10,
        Ask::LeaseRevoke { .. } => 11,
        Ask::Stop => 12,
        Ask::CredentialCompare { .. } => 13,
        Ask::PlaceholderShow { .. } => 14,
        Ask::OriginalKeep { .. } => 15,
        Ask::OriginalList => 16,
        Ask::OriginalOpen { .. } => 17,
        Ask::OriginalForget { .. } => 18,
        Ask::Prove { .. } => 19,
        Ask::TrustShow { .. } => 20,
        Ask::TrustGrant { .. } => 21,
        Ask::Seen { .. } => 22,
        Ask::LeaseRenew { .. } => 23,
        Ask::LeaseSurvey => 24,
        Ask::LeaseReconcile { .. } => 25,
        Ask::CredentialRotate { .. } => 26,
    };
    let answer = |answer: &Answer| match answer {
        Answer::Hello { .. } => 0,
        Answer::Status(_) => 1,
        Answer::Done => 2,
        Answer::CredentialSet { .. } => 3,
        Answer::Credentials { .. } => 4,
        Answer::Sessions { .. } => 5,
        Answer::Leases { .. } => 6,
        Answer::Refused(_) => 7,
        Answer::Compared { .. } => 8,
        Answer::Placeholder { .. } => 9,
        Answer::Originals { .. } => 10,
        Answer::Original { .. } => 11,
        Answer::Trust(_) => 12,
        Answer::Seen { .. } => 13,
        Answer::Survey(_) => 14,
        Answer::Reconciled { .. } => 15,
        Answer::Rotated { .. } => 16,
    };
    all_of(&from_launcher(), launcher, 3);
    all_of(&from_broker(), broker, 5);
    all_of(&asks(), ask, 27);
    all_of(&answers(), answer, 17);
}

fn all_of<T>(examples: &[T], number: impl Fn(&T) -> usize, count: usize) {
    let seen: BTreeSet<usize> = examples.iter().map(number).collect();
    assert_eq!(seen, (0..count).collect());
}

fn read_as_anything(wire: &[u8]) {
    let fault = |fault: Option<FrameFault>| match fault {
        Some(FrameFault::TooLong(length)) => assert!(length > FRAME_MAX),
        Some(fault) => assert!(fault.to_string().len() < 500, "it quotes the frame"),
        None => {}
    };
    fault(frame::read::<FromLauncher>(&mut &*wire).err());
    fault(frame::read::<FromBroker>(&mut &*wire).err());
    fault(frame::read::<Ask>(&mut &*wire).err());
    fault(frame::read::<Answer>(&mut &*wire).err());
    fault(frame::read::<Result<Granted, Refusal>>(&mut &*wire).err());
    fault(frame::read::<WatchAnswer>(&mut &*wire).err());
    fault(frame::read::<SessionPlan>(&mut &*wire).err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_a_message_or_a_fault(bytes in vec(any::<u8>(), 0..600), framed: bool) {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let prefix = if framed { length.as_slice() } else { &[] };
        read_as_anything(&[prefix, &bytes].concat());
    }

    /// One byte of a good message replaced, and the message cut.
    #[test]
    fn damaged_messages_are_a_message_or_a_fault(which: Index, at: Index, byte: u8, cut: Index) {
        let all: Vec<Value> = vectors().into_iter().flat_map(|(_, examples)| examples).collect();
        let mut wire = frame::encode(which.get(&all)).unwrap();
        let at = at.index(wire.len());
        wire[at] = byte;
        read_as_anything(&wire);
        read_as_anything(&wire[..cut.index(wire.len())]);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wire = [u32::try_from(deep.len()).unwrap().to_be_bytes().as_slice(), deep.as_bytes()].concat();
    read_as_anything(&wire);
    assert!(frame::read::<Value>(&mut wire.as_slice()).is_err());
}
