//! SIGKILL of the daemon under a running program: another daemon takes over, and the same process goes on.
//!
//! Order and outcome are asserted, never times: [`PATIENCE`] is only when a test gives up. What the program asks before, during and
//! after the kill is seen by the stand-in, which demands the real key.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that the helpers here are tests"
)]

use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use writ_testkit::{Home, Provider, ROLE, Ran, Scene, SceneConfig, Spawned, ended, refuse_namespaces, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(60);
/// The arguments of `writ`, for the process behind the filter, one a line.
const ARGUMENTS: &str = "WRIT_RESUME_ARGUMENTS";

/// Asks until there is a file `stop`. Each curl is a process of its own, which reads the certificates anew.
const CURL: &str = r#"
echo "session $WRIT_SESSION"
until [ -e stop ]; do
    curl -sS -m 5 -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" "https://api.openai.com/echo?pid=$$" || :
done
echo "stopped"
"#;

/// One process that has loaded the certificates, and looked the name up, before the kill; it does neither again.
const PYTHON: &str = r#"
import os, socket, ssl, sys
print("session", os.environ["WRIT_SESSION"], flush=True)
context = ssl.create_default_context()
address = socket.getaddrinfo("api.openai.com", 443, type=socket.SOCK_STREAM)[0][4]
request = "GET /echo?pid=%d HTTP/1.1\r\nHost: api.openai.com\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n"
request = (request % (os.getpid(), os.environ["OPENAI_API_KEY"])).encode()
while not os.path.exists("stop"):
    try:
        with socket.create_connection(address[:2], timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname="api.openai.com") as tls:
                tls.sendall(request)
                tls.recv(16)
    except OSError as error:
        if "certificate" in str(error).lower():
            sys.exit("untrusted: %s" % error)
print("stopped", flush=True)
"#;

/// A program that runs, and asks.
struct Asking {
    scene: Scene,
    run: Spawned,
    session: String,
}

impl Asking {
    fn start(options: &[&str], argv: &[&str]) -> Self {
        Self::of(SceneConfig::of(&[Provider::OpenAi]).options(options).start(WRIT).unwrap(), argv)
    }

    fn of(scene: Scene, argv: &[&str]) -> Self {
        let mut run = scene.spawn(argv).unwrap();
        let session = run.line("session ", PATIENCE).unwrap();
        let asking = Self { scene, run, session };
        assert!(asking.asks(), "it asks before anything happens to the daemon");
        asking
    }

    /// Waits for one request more, of the process that asked first.
    fn asks(&self) -> bool {
        let of_process = |seen: &[writ_testkit::Seen]| {
            let first = seen.iter().find(|one| one.path == "/echo").and_then(|one| one.query.clone());
            seen.iter().filter(|one| one.query == first && one.path == "/echo").count()
        };
        let before = of_process(&self.scene.standin.seen());
        // One that is under way does not count.
        self.scene.standin.wait_seen(PATIENCE, |seen| of_process(seen) > before + 1)
    }

    /// Kills the daemon, and waits for the session that goes on with the last one. Returns it.
    fn lose_daemon(&mut self) -> String {
        let daemon = self.scene.home.daemon().unwrap();
        let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
        kill_process(daemon, Signal::KILL).unwrap();
        assert!(ended(&process, PATIENCE));
        let old = self.session.clone();
        let mut next = None;
        assert!(until(PATIENCE, || {
            next = self.sessions().into_iter().find(|row| row["resumed_from"] == old.as_str());
            next.is_some()
        }));
        assert_ne!(self.daemon(), daemon);
        self.session = text(&next.unwrap()["session"]);
        old
    }

    fn daemon(&self) -> Pid {
        self.scene.home.daemon().unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        self.scene.home.json(&["session", "list", "--all"]).unwrap().as_array().unwrap().clone()
    }

    fn row(&self, session: &str) -> Value {
        self.sessions().into_iter().find(|row| row["session"] == session).unwrap()
    }

    /// Lets the program end by itself.
    fn stop(self) -> (Scene, Ran) {
        std::fs::write(self.scene.home.work().join("stop"), b"").unwrap();
        let ran = self.run.wait(PATIENCE).unwrap();
        assert!(ran.out().ends_with("stopped\n") && ran.code == Some(0), "{}", ran.told());
        assert!(self.scene.wrongs().is_empty(), "{:#?}", self.scene.wrongs());
        (self.scene, ran)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Twice, since what goes on must be able to go on.
fn check_goes_on(options: &[&str], argv: &[&str]) {
    let mut asking = Asking::start(options, argv);
    for _ in 0..2 {
        let old = asking.lose_daemon();
        assert!(asking.asks(), "the same process is served by the next daemon");
        assert_eq!(asking.row(&old)["end"], "orphaned");
        assert_eq!(asking.row(&asking.session)["end"], Value::Null);
        let live = asking.scene.live_leases().unwrap();
        assert!(live.iter().all(|(_, session)| *session == asking.session), "{live:?}");
        let all = asking.scene.all_leases().unwrap();
        assert!(all.iter().any(|(_, session)| *session == old), "{all:?}");
    }
    let session = asking.session.clone();
    let (scene, ran) = asking.stop();
    assert!(ran.err().contains(&format!("goes on as {session}")), "{}", ran.told());
    assert_eq!(scene.windows(&ran.both()), 0);
    let verified = scene.home.writ(&["audit", "verify"], b"").unwrap();
    assert_eq!(verified.code, Some(0), "{}", verified.told());
    let shown = scene.home.writ(&["audit", "query", "--json"], b"").unwrap();
    assert!(shown.out().contains("resumed_from ") && shown.out().contains(&session), "{}", shown.told());
    scene.home.close().unwrap();
}

#[test]
fn of_a_confined_shell() {
    check_goes_on(&["--require", "confined"], &["sh", "-c", CURL]);
}

#[test]
fn of_a_confined_process_that_holds_certificates_and_an_address() {
    check_goes_on(&["--require", "confined"], &["python3", "-c", PYTHON]);
}

#[test]
fn of_an_advisory_shell() {
    check_goes_on(&["--no-confine"], &["sh", "-c", CURL]);
}

/// Becomes `writ` on a machine that refuses namespaces.
#[test]
fn behind_the_filter() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    refuse_namespaces().unwrap();
    let error = Command::new(WRIT).args(arguments.lines()).env_remove(ARGUMENTS).exec();
    assert!(error.kind() == std::io::ErrorKind::NotFound, "{error}");
}

#[test]
fn of_a_restricted_shell() {
    let directory = tempfile::tempdir().unwrap();
    let writ = directory.path().join("writ");
    let test = std::env::current_exe().unwrap();
    let wrapper = format!(
        "#!/bin/sh\n[ \"$1\" = run ] || exec {WRIT} \"$@\"\n{ARGUMENTS}=$(printf '%s\\n' \"$@\")\nexport {ARGUMENTS}\n\
         exec {} --exact behind_the_filter --nocapture --test-threads=1\n",
        test.display()
    );
    std::fs::write(&writ, wrapper).unwrap();
    std::fs::set_permissions(&writ, std::fs::Permissions::from_mode(0o700)).unwrap();
    let scene =
        SceneConfig::of(&[Provider::OpenAi]).options(&["--require", "restricted"]).start(writ).unwrap();
    // The test behind the filter has begun a line.
    std::fs::write(scene.home.work().join("ask.sh"), format!("echo\n{CURL}")).unwrap();
    let mut asking = Asking::of(scene, &["sh", "ask.sh"]);
    assert_eq!(asking.row(&asking.session)["level"], "restricted");
    asking.lose_daemon();
    assert!(asking.asks());
    let (scene, _) = asking.stop();
    scene.home.close().unwrap();
}

/// A door that only the opened session told: of a target at another port.
#[test]
fn of_a_target_with_a_door_of_its_own() {
    const ASK: &str = r#"
echo "session $WRIT_SESSION"
until [ -e stop ]; do curl -sS -m 5 --noproxy "*" -o /dev/null "https://mirror.example:8443/echo?pid=$$" || :; done
echo "stopped"
"#;
    let config = SceneConfig::of(&[Provider::OpenAi]).options(&["--require", "confined"]);
    let scene = config.host("mirror", "mirror.example:8443", &[]).start(WRIT).unwrap();
    let mut asking = Asking::of(scene, &["sh", "-c", ASK]);
    asking.lose_daemon();
    assert!(asking.asks(), "its door is served by the next daemon");
    std::fs::write(asking.scene.home.work().join("stop"), b"").unwrap();
    let ran = asking.run.wait(PATIENCE).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    asking.scene.home.close().unwrap();
}

/// Nobody but a person can open the seal again: the program waits, and the person is told once.
#[test]
fn behind_a_passphrase_it_waits_for_the_person() {
    const PASSPHRASE: &[u8] = b"correct horse battery staple\n";
    let scene = SceneConfig::of(&[Provider::OpenAi]).options(&["--require", "confined"]).start(WRIT).unwrap();
    let home = Home::new(WRIT).unwrap();
    let config = scene.config().role_for_all(ROLE);
    let text = config.text().replace("kind = \"key-file\"", "kind = \"passphrase\"");
    std::fs::write(home.writ_home().join("writ.toml"), text).unwrap();
    assert_eq!(home.writ(&["unlock"], PASSPHRASE).unwrap().code, Some(0));
    home.set_credential("openai", scene.canary(Provider::OpenAi).unwrap()).unwrap();
    let options = ["--role", ROLE, "--require", "confined"];
    let mut run = home.spawn_with(&options, &["sh", "-c", CURL]).unwrap();
    run.line("session ", PATIENCE).unwrap();
    let asks = |before: usize| scene.standin.wait_seen(PATIENCE, |seen| seen.len() > before + 1);
    assert!(asks(0));
    let daemon = home.daemon().unwrap();
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    assert!(ended(&process, PATIENCE));
    let before = scene.standin.seen().len();
    assert!(run.says("Run: writ unlock", PATIENCE));
    assert_eq!(scene.standin.seen().len(), before, "nothing passes a locked daemon");
    assert_eq!(home.writ(&["unlock"], PASSPHRASE).unwrap().code, Some(0));
    assert!(run.says("the daemon came back", PATIENCE));
    assert!(asks(before));
    std::fs::write(home.work().join("stop"), b"").unwrap();
    let ran = run.wait(PATIENCE).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    assert_eq!(ran.err().matches("writ unlock").count(), 1, "{}", ran.told());
    home.close().unwrap();
    scene.home.close().unwrap();
}

/// What the daemon says stays said: nobody seeks another one after `writ stop`.
#[test]
fn a_session_that_was_ended_does_not_go_on() {
    let mut asking = Asking::start(&["--require", "confined"], &["sh", "-c", CURL]);
    asking.lose_daemon();
    assert!(asking.asks());
    let stopped = asking.scene.home.writ(&["stop"], b"").unwrap();
    assert_eq!(stopped.code, Some(0), "{}", stopped.told());
    let Asking { scene, run, .. } = asking;
    let ran = run.wait(PATIENCE).unwrap();
    assert!(ran.err().contains("the session is over: writ was stopped"), "{}", ran.told());
    assert_ne!(ran.code, Some(0));
    assert_eq!(scene.home.daemon(), None, "nobody started another");
    scene.home.close().unwrap();
}
