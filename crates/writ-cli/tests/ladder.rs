//! The ladder: which level a run gets, where the machine refuses what a higher one needs.
//!
//! The machine that refuses is made here: the test runs itself again behind a filter that refuses namespaces as Docker's default profile does.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use writ_testkit::{Provider, Scene, refuse_namespaces};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// The arguments of `writ`, for the process behind the filter, one a line.
const ARGUMENTS: &str = "WRIT_LADDER_ARGUMENTS";
const BEHIND: &str = "behind_the_filter";

/// Becomes `writ` on a machine that refuses namespaces.
#[test]
fn behind_the_filter() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    refuse_namespaces().unwrap();
    let mut command = Command::new(WRIT);
    let error = command.args(arguments.lines()).env_remove(ARGUMENTS).exec();
    assert!(error.kind() == std::io::ErrorKind::NotFound, "{error}");
}

fn refused(scene: &Scene, arguments: &[&str]) -> Output {
    let mut command = scene.home.command(&std::env::current_exe().unwrap());
    command.args(["--exact", BEHIND, "--nocapture", "--test-threads=1"]).env(ARGUMENTS, arguments.join("\n"));
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const SCRIPT: &str = "echo \"key $OPENAI_API_KEY\"; cat \"$1\"/state/* 2>&1 | head -c 100; \
    curl -sS -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/echo -o /dev/null -w 'proxy %{http_code}\\n'; \
    curl -sS --noproxy '*' --max-time 5 https://127.0.0.1:9/ 2>&1";

#[test]
fn where_namespaces_are_refused_the_level_is_restricted_and_says_why() {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    let home = scene.home.writ_home().display().to_string();
    let out = refused(&scene, &["run", "--", "sh", "-c", SCRIPT, "sh", &home]);
    let (said, told) = (text(&out.stdout), text(&out.stderr));
    assert!(told.contains("(restricted)") && told.contains("confined is not possible here"), "{told}");
    assert!(said.contains("key sk-proj-writ") && said.contains("proxy 200"), "{said}{told}");
    assert!(!said.contains("SQLite"), "{said}");
    assert_eq!(scene.windows(&[out.stdout, out.stderr].concat()), 0);
    scene.home.close().unwrap();
}

#[test]
fn what_is_required_and_not_there_does_not_start() {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    let out = refused(&scene, &["run", "--require", "confined", "--", "touch", "started"]);
    assert_eq!(out.status.code(), Some(125));
    let told = text(&out.stderr);
    assert!(told.contains("the program was not started: confined is not possible here (unshare"), "{told}");
    assert!(!scene.home.work().join("started").exists());
    scene.home.close().unwrap();
}

/// A program that runs already could have used it up, so as to get the next one a lower level.
#[test]
fn what_ran_out_is_no_reason_for_a_lower_level() {
    const FEW: &str = "echo 1 > /proc/sys/user/max_user_namespaces; exec \"$0\" run -- touch started";
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    let mut command = scene.home.command(Path::new("unshare"));
    let out = command
        .args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", FEW, WRIT])
        .output()
        .unwrap();
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(125), "{told}");
    assert!(told.contains("confined is not possible right now: second-namespace"), "{told}");
    assert!(!scene.home.work().join("started").exists());
    scene.home.close().unwrap();
}

#[test]
fn the_doctor_finds_the_level_by_trying_it() {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    let out = refused(&scene, &["doctor"]);
    let said = text(&out.stdout);
    assert!(said.contains("programs run at the level restricted"), "{said}");
    assert!(said.contains("the level confined is not possible here: unshare"), "{said}");
    scene.home.close().unwrap();
}

#[test]
fn a_plan_is_shown_and_nothing_is_done() {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    let ran = scene.home.writ(&["--json", "run", "--dry-run", "--", "touch", "started"], b"").unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(shown["level"], "confined", "{shown}");
    let work = format!("{:?}: the host's, writable", scene.home.work());
    assert!(shown["sees"].as_array().unwrap().iter().any(|line| line == &work), "{shown}");
    assert!(shown["hosts"].as_array().unwrap().iter().any(|host| host == "api.openai.com"), "{shown}");
    assert!(!scene.home.work().join("started").exists());
    let sessions = scene.home.json(&["session", "list"]).unwrap();
    assert_eq!(
        sessions.as_array().unwrap().len(),
        0,
        "the session that it was planned for is over: {sessions}"
    );
    scene.home.close().unwrap();
}
