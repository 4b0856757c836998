//! Seals, as a person meets them: what is refused, with which words, and that nothing is open before the seal is.
//!
//! The seals themselves are tested where they are (`writ-broker`). Here it counts that the words of a daemon that does not start
//! reach the command that started it, and that the refusal ends when its cause does.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that the helpers here are tests"
)]

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use writ_testkit::{Canary, Config, Home, Provider, ROLE, Ran, Scene, Shape, Standin, StandinConfig, Target};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PASSPHRASE: &[u8] = b"correct horse battery staple\n";
const WRONG: &[u8] = b"incorrect horse battery staple\n";
/// Of the status `writ failed`.
const FAILED: Option<i32> = Some(125);
/// Where SQLite keeps `user_version` (File Format §1.3.16): four bytes, big endian.
const USER_VERSION_AT: u64 = 60;

/// One request with the placeholder; its status.
const ASK: &str = r#"curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo"#;

/// Every command that needs the key, or could tell or change what it protects.
const LOCKED: [&[&str]; 13] = [
    &["restore"],
    &["trust"],
    &["seen"],
    &["credential", "set", "openai"],
    &["credential", "list"],
    &["credential", "remove", "openai"],
    &["session", "list"],
    &["session", "show", "01a1fef1-a00a-7244-8138-ed0219126a38"],
    &["session", "revoke", "01a1fef1-a00a-7244-8138-ed0219126a38"],
    &["session", "open"],
    &["lease", "list"],
    &["lease", "show", "01a1fef1-a00a-7244-8138-ed0219126a38"],
    &["lease", "revoke", "01a1fef1-a00a-7244-8138-ed0219126a38"],
];

struct Sealed {
    home: Home,
    standin: Standin,
    key: Canary,
}

/// A home with a passphrase seal that nobody has opened yet.
fn passphrase_sealed() -> Sealed {
    let key = Canary::new(Shape::OpenAi);
    let standin = Standin::start(StandinConfig::default().demand("api.openai.com", key.value())).unwrap();
    let home = Home::new(WRIT).unwrap();
    let target = Target::standin("openai", "openai", &standin).credential("openai");
    let config = Config::new().credential("openai", &["OPENAI_API_KEY"]).target(&target).role_for_all(ROLE);
    let text = config.text().replace("kind = \"key-file\"", "kind = \"passphrase\"");
    assert_ne!(text, config.text());
    fs::write(home.writ_home().join("writ.toml"), text).unwrap();
    Sealed { home, standin, key }
}

impl Sealed {
    fn writ(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let ran = self.home.writ(args, stdin).unwrap();
        assert_eq!(self.key.windows(&ran.both()), 0, "{}", ran.told());
        ran
    }

    fn check_locked(&self) {
        for args in LOCKED {
            let ran = self.writ(&[args, &["--json"]].concat(), self.key.value().as_bytes());
            let said: serde_json::Value = serde_json::from_str(&ran.err()).unwrap();
            assert_eq!((ran.code, &said["kind"]), (FAILED, &"locked".into()), "{args:?}: {}", ran.told());
            assert!(said["next"].as_str().unwrap().contains("writ unlock"), "{args:?}: {}", ran.told());
        }
        let ran = self.writ(&["audit", "verify"], b"");
        assert_eq!(ran.code, FAILED, "{}", ran.told());
        assert!(ran.err().contains("locked") && ran.err().contains("writ unlock"), "{}", ran.told());
        let ran = self.home.run(ROLE, &["echo", "started"]).unwrap();
        assert_eq!((ran.code, ran.out()), (FAILED, String::new()), "{}", ran.told());
        assert!(ran.err().contains("locked") && ran.err().contains("writ unlock"), "{}", ran.told());
        // What looks at the daemon itself is answered.
        let ran = self.writ(&["doctor"], b"");
        assert_eq!(ran.code, Some(0), "{}", ran.told());
        assert!(
            ran.out().contains("seal passphrase") && ran.out().contains("it is locked"),
            "{}",
            ran.told()
        );
    }

    fn check_refused(&self, passphrase: &[u8], words: &[&str]) {
        let ran = self.writ(&["unlock"], passphrase);
        assert_eq!(ran.code, FAILED, "{}", ran.told());
        for word in words {
            assert!(ran.err().contains(word), "not {word}: {}", ran.told());
        }
        assert!(!ran.err().contains("horse"), "a passphrase is a secret too: {}", ran.told());
    }

    fn check_open(&self) {
        let ran = self.home.run(ROLE, &["sh", "-c", ASK]).unwrap();
        assert_eq!((ran.code, ran.out().as_str()), (Some(0), "200"), "{}", ran.told());
    }
}

fn succeeds(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}", ran.told());
}

#[test]
fn a_passphrase_opens_until_the_daemon_ends() {
    let sealed = passphrase_sealed();
    sealed.check_locked();
    sealed.check_refused(b"short\n", &["12 to 1024 bytes"]);
    sealed.check_locked();

    succeeds(&sealed.writ(&["unlock"], PASSPHRASE));
    succeeds(&sealed.writ(&["credential", "set", "openai"], sealed.key.value().as_bytes()));
    sealed.check_open();

    succeeds(&sealed.writ(&["stop"], b""));
    sealed.check_locked();
    sealed.check_refused(WRONG, &["the passphrase is wrong", "next: run `writ unlock` again"]);
    sealed.check_locked();
    succeeds(&sealed.writ(&["stop"], b""));

    succeeds(&sealed.writ(&["unlock"], PASSPHRASE));
    sealed.check_open();
    let verified = sealed.writ(&["audit", "verify"], b"");
    succeeds(&verified);
    assert_eq!(sealed.standin.seen().len(), 2);
    sealed.home.close().unwrap();
}

/// A state directory with a credential, and nobody at work in it.
fn at_rest() -> Scene {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    succeeds(&scene.run(&["sh", "-c", ASK]).unwrap());
    succeeds(&scene.home.writ(&["stop"], b"").unwrap());
    // A start that is refused closes the database in order, so that all of it is in the one file that is damaged below.
    let state = scene.home.writ_home().join("state");
    mode(&state.join("root.key"), 0o644);
    assert_eq!(scene.home.writ(&["credential", "list"], b"").unwrap().code, FAILED);
    mode(&state.join("root.key"), 0o600);
    let log = fs::metadata(state.join("writ.db-wal")).map_or(0, |found| found.len());
    assert_eq!(log, 0, "the write-ahead log is in the database");
    scene
}

/// Name, what is done to the state directory, and what the refusal must say.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

const DAMAGES: [Damage; 9] = [
    (
        "a key file for all to read",
        |state| mode(&state.join("root.key"), 0o644),
        &["root.key has mode 0644", "run chmod 600"],
    ),
    (
        "a key file for the group",
        |state| mode(&state.join("root.key"), 0o640),
        &["root.key has mode 0640", "run chmod 600"],
    ),
    (
        "another's key file",
        |state| fs::write(state.join("root.key"), [7; 32]).unwrap(),
        &["the root key does not belong to this store"],
    ),
    (
        "half a key file",
        |state| fs::write(state.join("root.key"), [7; 16]).unwrap(),
        &["root.key is not a regular file of 32 bytes", "backup"],
    ),
    (
        "no key file",
        |state| fs::remove_file(state.join("root.key")).unwrap(),
        &["root.key is gone", "backup"],
    ),
    (
        "a database of a newer writ",
        |state| patch(state, USER_VERSION_AT, &9999_u32.to_be_bytes()),
        &["schema 9999", "use the newer writ"],
    ),
    ("another kind of file", |state| patch(state, 0, &[0xff; 16]), &["the store is damaged", "backup"]),
    ("a damaged page", |state| patch(state, 4096, &[0xa5; 4096]), &["the store is damaged", "backup"]),
    ("half a database", |state| cut(&state.join("writ.db")), &["the store is damaged", "backup"]),
];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn patch(state: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(state.join("writ.db")).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn cut(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let half = file.metadata().unwrap().len() / 2;
    assert!(half > 4096);
    file.set_len(half + 100).unwrap();
}

/// The files that are damaged, with their bytes.
fn kept(state: &Path) -> [(PathBuf, Vec<u8>); 2] {
    ["root.key", "writ.db"].map(|name| {
        let path = state.join(name);
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    })
}

fn put_back(state: &Path, kept: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in kept {
        fs::write(path, bytes).unwrap();
        mode(path, 0o600);
    }
    for name in ["writ.db-wal", "writ.db-shm"] {
        let _ = fs::remove_file(state.join(name));
    }
}

#[test]
fn what_cannot_be_opened_is_refused_by_name() {
    let scene = at_rest();
    let state = scene.home.writ_home().join("state");
    let kept = kept(&state);
    for (name, damage, words) in DAMAGES {
        damage(&state);
        let listed = scene.home.writ(&["credential", "list"], b"").unwrap();
        let ran = scene.run(&["echo", "started"]).unwrap();
        assert_eq!(ran.out(), "", "{name}: {}", ran.told());
        let diagnosed = scene.home.writ(&["doctor"], b"").unwrap();
        assert_eq!(diagnosed.code, Some(1), "{name}: {}", diagnosed.told());
        for word in words {
            assert!(diagnosed.out().contains(word), "{name}: not {word}: {}", diagnosed.told());
            for ran in [&listed, &ran] {
                assert_eq!(ran.code, FAILED, "{name}: {}", ran.told());
                assert!(ran.err().contains(word), "{name}: not {word}: {}", ran.told());
            }
        }
        assert_eq!(scene.home.daemon(), None, "{name}: a daemon stayed");
        put_back(&state, &kept);
    }
    // Each refusal was for its damage alone, and none of them made it worse.
    let ran = scene.run(&["sh", "-c", ASK]).unwrap();
    assert_eq!((ran.code, ran.out().as_str()), (Some(0), "200"), "{}", ran.told());
    scene.home.close().unwrap();
}
