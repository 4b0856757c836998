//! The end of a lease while it is in use: what is open is cut, what is new is refused, and nothing else is touched.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::time::Duration;

use writ_testkit::{Provider, Scene, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(30);

/// Holds a response open until it is cut, then asks again at both services.
const PROGRAM: &str = r#"
openai="Authorization: Bearer $OPENAI_API_KEY"
anthropic="x-api-key: $ANTHROPIC_API_KEY"
echo "session $WRIT_SESSION"
ask() { curl -sS -o "$1" -w "$1 %{http_code}\n" -H "$2" "$3"; }
ask other-before "$anthropic" https://api.anthropic.com/echo
curl -sS --no-buffer -o cut -H "$openai" 'https://api.openai.com/wait?gate=never'
echo "cut $?"
ask again "$openai" https://api.openai.com/echo
ask other-after "$anthropic" https://api.anthropic.com/echo
"#;

fn scene() -> Scene {
    Scene::start(WRIT, &[Provider::OpenAi, Provider::Anthropic]).unwrap()
}

/// The id of the live lease for `target`.
fn lease_of(scene: &Scene, target: &str) -> String {
    let rows = scene.home.json(&["lease", "list"]).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["target"] == target).unwrap();
    row["lease"].as_str().unwrap().to_owned()
}

#[test]
fn of_a_lease_cuts_it_and_only_it() {
    let scene = scene();
    let mut run = scene.spawn(&["sh", "-c", PROGRAM]).unwrap();
    assert_eq!(run.line("other-before ", PATIENCE).as_deref(), Some("200"));
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));
    let lease = lease_of(&scene, "openai");

    let revoked = scene.home.writ(&["lease", "revoke", &lease], b"").unwrap();
    assert_eq!(revoked.code, Some(0), "{}", revoked.told());
    let cut = run.line("cut ", PATIENCE).unwrap();
    assert_ne!(cut, "0", "an open response outlived its lease");
    assert_eq!(run.line("again ", PATIENCE).as_deref(), Some("403"), "a new use after the end");
    assert_eq!(run.line("other-after ", PATIENCE).as_deref(), Some("200"), "another lease was touched");
    let ran = run.wait(PATIENCE).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());

    let problem = std::fs::read_to_string(scene.home.work().join("again")).unwrap();
    assert!(problem.contains("urn:writ:refusal:lease-revoked"), "{problem}");
    let openai = |host: &str, path: &str| {
        scene.standin.seen().iter().filter(|s| s.host == host && s.path == path).count()
    };
    assert_eq!((openai("api.openai.com", "/wait"), openai("api.openai.com", "/echo")), (1, 0));
    assert_eq!(openai("api.anthropic.com", "/echo"), 2);
    assert!(scene.wrongs().is_empty());
    scene.home.close().unwrap();
}

#[test]
fn of_a_session_ends_its_program_and_all_of_its_leases() {
    let scene = scene();
    let mut run = scene.spawn(&["sh", "-c", PROGRAM]).unwrap();
    let session = run.line("session ", PATIENCE).unwrap();
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));
    assert_eq!(scene.live_leases().unwrap().len(), 2);

    let revoked = scene.home.writ(&["session", "revoke", &session], b"").unwrap();
    assert_eq!(revoked.code, Some(0), "{}", revoked.told());
    let ran = run.wait(PATIENCE).unwrap();
    assert_ne!(ran.code, Some(0), "the program went on: {}", ran.told());
    assert!(scene.standin.wait_closed(PATIENCE));
    assert!(until(PATIENCE, || scene.live_leases().unwrap().is_empty()));
    assert!(!scene.standin.seen().iter().any(|s| s.host == "api.openai.com" && s.path == "/echo"));
    scene.home.close().unwrap();
}

#[test]
fn of_a_credential_ends_its_leases_and_leaves_no_value() {
    let scene = scene();
    let mut run = scene.spawn(&["sh", "-c", PROGRAM]).unwrap();
    assert_eq!(run.line("other-before ", PATIENCE).as_deref(), Some("200"));
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));

    let removed = scene.home.writ(&["credential", "remove", "openai"], b"").unwrap();
    assert_eq!(removed.code, Some(0), "{}", removed.told());
    assert_ne!(run.line("cut ", PATIENCE).unwrap(), "0", "an open response outlived its credential");
    assert_eq!(run.line("again ", PATIENCE).as_deref(), Some("403"));
    assert_eq!(run.line("other-after ", PATIENCE).as_deref(), Some("200"), "another credential was touched");
    run.wait(PATIENCE).unwrap();
    scene.home.close().unwrap();
}
