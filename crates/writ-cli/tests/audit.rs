//! What the log holds after a busy day, that no change of it goes unseen, and that nothing works without it.
//!
//! Architecture §4, rule 6. The format itself is tested where it is (`writ-audit`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that the helpers here are tests"
)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use writ_testkit::{Provider, Ran, Scene, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the status `writ failed`.
const FAILED: Option<i32> = Some(125);
/// Bytes that are flipped in each file, evenly spread over what is written.
const FLIPS: u64 = 4;

/// A secret that a program puts where it does not belong.
const IN_QUERY: &str = "query-7f3a9c-must-not-be-logged";

/// Method, path, status, body bytes up: the uses of [`DAY`], in order.
const USES: [(&str, &str, u64, u64); 6] = [
    ("GET", "/echo", 200, 0),
    ("POST", "/echo", 200, 5),
    ("GET", "/status/500", 500, 0),
    ("GET", "/status/401", 401, 0),
    ("GET", "/bytes/100000", 200, 0),
    ("DELETE", "/echo", 200, 0),
];

/// Six uses, then four requests that are refused.
const DAY: &str = r#"
ask() { curl -sS -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" "$@"; }
q="token=query-7f3a9c-must-not-be-logged"
echo "session $WRIT_SESSION"
ask "https://api.openai.com/echo?$q"
ask -d hello "https://api.openai.com/echo?$q"
ask "https://api.openai.com/status/500?$q"
ask "https://api.openai.com/status/401?$q"
ask "https://api.openai.com/bytes/100000?$q"
ask -X DELETE "https://api.openai.com/echo?$q"
ask "https://api.openai.com/elsewhere?$q"
ask "https://api.anthropic.com/echo?$q"
ask "https://unlisted.example/echo?$q"
ask "http://api.openai.com/echo?$q"
exit 0
"#;

const GRANTS: [&str; 2] = [
    r#"{ target = "openai", paths = ["/echo", "/status/*", "/bytes/*", "/wait"] }"#,
    r#"{ target = "anthropic", methods = ["POST"] }"#,
];

fn scene() -> Scene {
    Scene::granted(WRIT, &[Provider::OpenAi, Provider::Anthropic], &GRANTS).unwrap()
}

fn events(scene: &Scene) -> Vec<Value> {
    let ran = scene.home.writ(&["audit", "query", "--json"], b"").unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

/// That `event` says who did it, in which session, when and for how long.
fn check_who(event: &Value, session: &str) {
    assert_eq!(event["session_id"], session, "{event}");
    assert!(event["actor"]["workload"].as_str().unwrap().starts_with("spiffe://"), "{event}");
    assert_eq!(event["actor"]["role"], writ_testkit::ROLE, "{event}");
    assert!(!event["actor"]["requester"].as_str().unwrap().is_empty(), "{event}");
    assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
    assert!(event["outcome"]["duration_us"].is_u64(), "{event}");
    assert!(!event["request_id"].as_str().unwrap().is_empty(), "{event}");
}

/// That `event` says which credential was handed out or used, under which lease, for what.
fn check_credential(event: &Value, lease: &str) {
    let resource = &event["resource"];
    assert_eq!(event["lease_id"], lease, "{event}");
    assert_eq!(resource["credential"], "openai", "{event}");
    assert_eq!(resource["credential_type"], "static", "{event}");
    assert_eq!(resource["target"], "openai", "{event}");
    assert_eq!(resource["scope"], "any method /echo /status/* /bytes/* /wait", "{event}");
    assert_eq!(resource["scheme"], "https", "{event}");
    assert_eq!(resource["host"], "api.openai.com", "{event}");
    assert_eq!(resource["port"], 443, "{event}");
}

fn verify(scene: &Scene) -> Ran {
    scene.home.writ(&["audit", "verify", "--json"], b"").unwrap()
}

/// That the log is sound, and that every attempt in it has its outcome.
fn check_sound(scene: &Scene) {
    let ran = verify(scene);
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    for stream in report["streams"].as_array().unwrap() {
        assert_eq!((&stream["unknown"], &stream["gaps"]), (&0.into(), &0.into()), "{stream}");
        assert_eq!(stream["attempts"], stream["outcomes"], "{stream}");
    }
}

#[test]
fn every_acquisition_and_every_use_is_there_once_with_all_that_it_was() {
    let scene = scene();
    let ran = scene.run(&["sh", "-c", DAY]).unwrap();
    let session = ran.out().lines().next().unwrap().strip_prefix("session ").unwrap().to_owned();
    let statuses: Vec<_> = ran.out().lines().skip(1).map(ToOwned::to_owned).collect();
    // The unlisted host is refused at CONNECT, so curl saw no answer of it.
    let told = ["200", "200", "500", "401", "200", "200", "403", "403", "000", "403"];
    assert_eq!(statuses, told, "{}", ran.told());
    let settled =
        || of_kind(&events(&scene), "use").iter().all(|event| event["outcome"]["result"] != "pending");
    assert!(until(PATIENCE, || settled() && of_kind(&events(&scene), "use").len() == USES.len()));

    let events = events(&scene);
    let acquired = of_kind(&events, "acquire");
    let ok: Vec<_> = acquired.iter().filter(|event| event["outcome"]["result"] == "ok").collect();
    let [acquired_openai] =
        ok.iter().filter(|event| event["resource"]["target"] == "openai").collect::<Vec<_>>()[..]
    else {
        panic!("one acquisition for six uses: {acquired:?}")
    };
    let lease = acquired_openai["lease_id"].as_str().unwrap().to_owned();
    acquired.iter().for_each(|event| check_who(event, &session));
    check_credential(acquired_openai, &lease);

    let mut uses = of_kind(&events, "use");
    // Fractions lose their zeros at the end, so the letter behind them must not be compared.
    uses.sort_by_key(|event| event["time"].as_str().unwrap().trim_end_matches('Z').to_owned());
    for (event, (method, _, status, up)) in uses.iter().zip(USES) {
        check_who(event, &session);
        check_credential(event, &lease);
        assert_eq!(event["within_ttl"], true, "{event}");
        let outcome = &event["outcome"];
        assert_eq!((&outcome["result"], &outcome["status"]), (&"ok".into(), &status.into()), "{event}");
        assert_eq!(event["resource"]["method"], method, "{event}");
        assert_eq!(event["resource"]["dialled"], scene.standin.addr().to_string(), "{event}");
        assert!(event["resource"]["path"].as_str().unwrap().starts_with('/'), "{event}");
        assert_eq!(outcome["bytes_up"], up, "{event}");
        assert!(outcome["bytes_down"].as_u64().unwrap() > 0, "{event}");
    }
    let paths: Vec<_> = uses.iter().map(|event| event["resource"]["path"].as_str().unwrap()).collect();
    assert_eq!((paths[0], paths[1], paths[5]), ("/echo", "/echo", "/echo"), "{paths:?}");
    assert_eq!(uses[4]["outcome"]["bytes_down"], 100_000, "{}", uses[4]);
    let requests: BTreeSet<_> = uses.iter().map(|event| event["request_id"].as_str().unwrap()).collect();
    assert_eq!(requests.len(), USES.len(), "each use is a request of its own");

    let refused = of_kind(&events, "refused");
    refused.iter().for_each(|event| check_who(event, &session));
    let reasons: BTreeSet<_> =
        refused.iter().map(|event| event["outcome"]["reason"].as_str().unwrap()).collect();
    assert!(
        reasons.is_superset(&BTreeSet::from(["out-of-scope", "unlisted-host", "placeholder-elsewhere"])),
        "{reasons:?}"
    );
    assert_eq!(scene.standin.seen().len(), USES.len(), "what was refused did not arrive");
    check_sound(&scene);
    scene.home.close().unwrap();
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_query_never_reaches_the_log() {
    let scene = scene();
    let ran = scene.run(&["sh", "-c", DAY]).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    assert!(scene.standin.seen().iter().all(|seen| seen.query.as_ref().unwrap().contains(IN_QUERY)));
    for args in [&["audit", "query", "--json"][..], &["audit", "tail", "-n", "500"]] {
        let ran = scene.home.writ(args, b"").unwrap();
        assert!(
            ran.out().contains("api.openai.com") && !ran.out().contains("query-7f3a9c"),
            "{}",
            ran.told()
        );
    }
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    let state = scene.home.writ_home().join("state");
    for path in [files(&state.join("audit")), vec![state.join("daemon.log")]].concat() {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(12).any(|window| window == b"query-7f3a9c"), "{}", path.display());
    }
}

/// How many bytes of `path` are written; the rest is allocated ahead.
fn written(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    u64::try_from(end).unwrap()
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn check_unsound(scene: &Scene, what: &str) {
    let ran = verify(scene);
    assert_eq!(ran.code, Some(1), "{what}: {}", ran.told());
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_ne!(report["problems"], serde_json::json!([]), "{what}");
    assert!(ran.err().contains("not what was written"), "{what}: {}", ran.told());
}

#[test]
fn one_flipped_byte_anywhere_is_found() {
    let scene = scene();
    assert_eq!(scene.run(&["sh", "-c", DAY]).unwrap().code, Some(0));
    // A life that ended in order, and its successor: what is flipped is nobody's to write any more.
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    let audit = scene.home.writ_home().join("state/audit");
    let ends: Vec<_> = files(&audit).into_iter().map(|path| (written(&path), path)).collect();
    assert!(ends.len() >= 3, "streams and checkpoints: {ends:?}");
    check_sound(&scene);
    for (end, path) in ends {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for n in 0..=FLIPS {
            let at = n * (end - 1) / FLIPS;
            flip(&file, at);
            check_unsound(&scene, &format!("{} at {at} of {end}", path.display()));
            flip(&file, at);
        }
    }
    check_sound(&scene);
    scene.home.close().unwrap();
}

#[test]
fn a_damaged_log_is_verifiable_while_no_daemon_starts() {
    let scene = scene();
    assert_eq!(scene.run(&["sh", "-c", DAY]).unwrap().code, Some(0));
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    let audit = scene.home.writ_home().join("state/audit");
    for path in files(&audit) {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let middle = written(&path) / 2;
        flip(&file, middle);
        check_unsound(&scene, &path.display().to_string());
        assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
        flip(&file, middle);
    }
    scene.home.close().unwrap();
}

#[test]
fn a_log_that_was_cut_or_replaced_is_found() {
    let scene = scene();
    let audit = scene.home.writ_home().join("state/audit");
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    let early: Vec<_> = files(&audit).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert_eq!(scene.run(&["sh", "-c", DAY]).unwrap().code, Some(0));
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    let late: Vec<_> = files(&audit).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    check_sound(&scene);
    for (bytes, path) in &late {
        // Shorter under a daemon that runs: a byte, a half, all.
        for keep in [bytes.len() - 1, bytes.len() / 2, 0] {
            let now = fs::read(path).unwrap();
            fs::write(path, &bytes[..keep]).unwrap();
            check_unsound(&scene, &format!("{keep} bytes of {}", path.display()));
            fs::write(path, now).unwrap();
        }
    }
    check_sound(&scene);
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));
    // A whole older log, sound in itself: only what is remembered outside of it tells.
    files(&audit).iter().for_each(|path| fs::remove_file(path).unwrap());
    early.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    check_unsound(&scene, "an older log");
    scene.home.close().unwrap();
}

/// Works, waits until the log is gone, and asks until it is refused.
const UNTIL_REFUSED: &str = r#"
ask() { curl -sS -o "$1" -w '%{http_code}' -H "Authorization: Bearer $OPENAI_API_KEY" "$2"; }
echo "first $(ask first https://api.openai.com/echo)"
echo "held $(ask held 'https://api.openai.com/wait?gate=go')"
for n in $(seq 500); do
    status=$(ask last https://api.openai.com/echo)
    [ "$status" = 200 ] || break
done
echo "refused $status"
"#;

#[test]
fn without_a_log_nothing_works_and_everything_says_so() {
    let scene = scene();
    let mut run = scene.spawn(&["sh", "-c", UNTIL_REFUSED]).unwrap();
    assert_eq!(run.line("first ", PATIENCE).as_deref(), Some("200"));
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));
    let audit = scene.home.writ_home().join("state/audit");
    files(&audit).iter().for_each(|path| fs::remove_file(path).unwrap());
    scene.standin.open_gate("go");
    assert_eq!(run.line("refused ", PATIENCE).as_deref(), Some("403"), "requests went on without a record");
    let ran = run.wait(PATIENCE).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    let problem: Value = serde_json::from_slice(&fs::read(scene.home.work().join("last")).unwrap()).unwrap();
    assert_eq!(problem["type"], "urn:writ:refusal:audit-unavailable", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("audit log"), "{problem}");
    assert!(!problem["next"].as_str().unwrap().is_empty(), "{problem}");

    // No new session, no change, no answer.
    let before = scene.standin.seen().len();
    let ran = scene.run(&["echo", "started"]).unwrap();
    assert_eq!((ran.code, ran.out()), (FAILED, String::new()), "{}", ran.told());
    assert!(ran.err().contains("no record, no credential"), "{}", ran.told());
    for args in [&["credential", "list", "--json"][..], &["credential", "remove", "openai", "--json"]] {
        let ran = scene.home.writ(args, b"").unwrap();
        let said: Value = serde_json::from_str(&ran.err()).unwrap();
        assert_eq!((ran.code, &said["kind"]), (FAILED, &"audit-unavailable".into()), "{}", ran.told());
    }
    assert_eq!(scene.standin.seen().len(), before);
    // The way out is open: the daemon can be stopped, and the next one says what is missing.
    let stopped = scene.home.writ(&["stop"], b"").unwrap();
    assert_eq!(stopped.code, Some(0), "{}", stopped.told());
    check_unsound(&scene, "a log that was deleted");
    scene.home.close().unwrap();
}
