//! Unmodified clients under `writ run` at the level advisory, on their vendors' default hosts: proxy variables and certificate
//! bundles alone lead them. `clients_confined.rs` runs the same ones confined.
//!
//! Each case is a directory of `tests/suites`: the program as anybody would write it, and what it prints. For every one:
//! the call works; the program's environment holds no window of a real key; every request arrived with exactly the real
//! key; and nothing that the program printed or wrote holds any of it. A missing client is a failure, never a skip.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy does not see that the helpers here are tests")]

use std::path::{Path, PathBuf};

use writ_testkit::{GitRequest, GitServer, Provider, Ran, Scene, SceneConfig, Standin};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");

fn scene(providers: &[Provider]) -> Scene {
    configured(SceneConfig::of(providers))
}

fn configured(config: SceneConfig) -> Scene {
    config.options(&["--no-confine"]).start(WRIT).unwrap()
}

fn suites() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/suites")
}

/// The interpreter with the pinned clients.
fn python() -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/bin/python");
    if !python.is_file() {
        panic!("the client suites need {}: run `cargo xtask clients`", python.display());
    }
    python.display().to_string()
}

/// Runs the program of `case` in `scene`, and checks what holds for every case. Returns the stand-in with what it saw.
fn check(case: &str, scene: Scene) -> Standin {
    let placeholders = scene.learn_placeholders().unwrap();
    let ran = run(case, &scene);
    assert_eq!(ran.code, Some(0), "{}{}", ran.told(), troubles(&scene));
    let expected = suites().join(case).join("expected");
    expect_test::expect_file![expected].assert_eq(&ran.out());

    let environment = std::fs::read(scene.home.work().join("environment")).unwrap();
    for placeholder in &placeholders {
        assert!(
            String::from_utf8_lossy(&environment).contains(placeholder),
            "the environment that was scanned"
        );
    }
    assert_eq!(scene.windows(&environment), 0, "a key in the program's environment");
    assert_eq!(scene.windows(&ran.both()), 0, "a key in the program's output");
    let (leaks, files) = scene.scan(&scene.home.work()).unwrap();
    assert!(leaks.is_empty() && files > 0, "a key in {leaks:?}");

    if scene.git.is_none() {
        assert!(!scene.standin.seen().is_empty());
    }
    assert!(scene.wrongs().is_empty(), "{:#?}", scene.wrongs());
    let verified = scene.home.writ(&["audit", "verify"], b"").unwrap();
    assert_eq!(verified.code, Some(0), "{}", verified.told());
    if let Some(git) = scene.git {
        check_git(git);
    }
    scene.home.close().unwrap();
    scene.standin
}

fn run(case: &str, scene: &Scene) -> Ran {
    let program = |name: &str| suites().join(case).join(name);
    let (interpreter, script) = match program("program.py") {
        script if script.is_file() => (python(), script),
        _ => ("sh".to_owned(), program("program.sh")),
    };
    scene.run(&[&interpreter, &script.display().to_string()]).unwrap()
}

fn troubles(scene: &Scene) -> String {
    let git = scene.git.as_ref().map(GitServer::troubles).unwrap_or_default();
    let log = std::fs::read(scene.home.writ_home().join("state/daemon.log")).unwrap_or_default();
    let wrongs = scene.wrongs();
    format!("--- git\n{git}--- daemon\n{}--- wrongs\n{wrongs:#?}", String::from_utf8_lossy(&log))
}

/// The server took the push, and every request that it answered came with Basic and nothing of a proxy's.
fn check_git(git: GitServer) {
    assert_eq!(git.subjects("main").unwrap(), ["demo: add a large file", "demo: begin"]);
    let log = git.finish().unwrap();
    let served =
        |path: &str| log.iter().any(|r| r.method == "POST" && r.uri.ends_with(path) && r.status == 200);
    assert!(served("/git-upload-pack") && served("/git-receive-pack"), "{log:#?}");
    let wrong = |r: &&GitRequest| !r.authorization.starts_with("Basic ") || !r.proxy.is_empty();
    let wrong: Vec<_> = log.iter().filter(|r| r.status != 401).filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn case_01_curl() {
    use Provider::{GitHub, GitLab, OpenAi};
    check("01-curl", scene(&[OpenAi, GitHub, GitLab]));
}

#[test]
fn case_02_requests() {
    check("02-requests", scene(&[Provider::OpenAi]));
}

#[test]
fn case_03_httpx() {
    check("03-httpx", scene(&[Provider::OpenAi]));
}

#[test]
fn case_04_openai() {
    check("04-openai", scene(&[Provider::OpenAi]));
}

#[test]
fn case_05_anthropic() {
    check("05-anthropic", scene(&[Provider::Anthropic]));
}

#[test]
fn case_06_google_genai() {
    check("06-google-genai", scene(&[Provider::Gemini]));
}

#[test]
fn case_07_three_providers() {
    use Provider::{Anthropic, Gemini, OpenAi};
    check("07-three-providers", scene(&[OpenAi, Anthropic, Gemini]));
}

#[test]
fn case_08_git() {
    check("08-git", configured(SceneConfig { with_git: true, ..SceneConfig::of(&[Provider::GitHub]) }));
}

#[test]
fn case_09_sse_30s() {
    check("09-sse-30s", scene(&[Provider::OpenAi]));
}

#[test]
fn case_10_echo() {
    check("10-echo", scene(&[Provider::OpenAi]));
}

/// Refused in the forms that SDKs understand, without a second try, and the stand-in never hears of it.
#[test]
fn case_11_refused() {
    let grants = vec!["{ target = \"openai\", methods = [\"GET\"], paths = [\"/v1/models\"] }".to_owned()];
    let scene = configured(SceneConfig { grants, ..SceneConfig::of(&[Provider::OpenAi]) });
    let standin = check("11-refused", scene);
    let asked: Vec<_> = standin.seen().into_iter().map(|s| format!("{} {}", s.method, s.path)).collect();
    assert_eq!(asked, ["GET /v1/models", "GET /v1/models"]);
}

/// Every case directory has its test: a directory that nobody runs would look like a proof.
#[test]
fn every_case_is_run() {
    let source = include_str!("clients.rs");
    let directories = std::fs::read_dir(suites()).unwrap().map(|entry| entry.unwrap());
    let cases: Vec<String> = directories
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(!cases.is_empty());
    for case in cases {
        assert!(source.contains(&format!("check(\"{case}\", ")), "{case} has no test");
    }
}
