//! After a busy day, no window of a key is anywhere but under its seal and at its service.
//!
//! Architecture §4, rule 5. What is searched: every file under `WRIT_HOME` (store, audit, logs, sockets' directory), the work
//! tree, the daemon's environment and command line, everything that any command printed, errors and refusals included.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::path::PathBuf;

use writ_testkit::{Faults, Provider, Ran, Scene, SceneConfig};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");

/// Works, is reflected, is refused, fails: each line is one way in which a key could come out.
const BUSY: &str = r#"
ask() { curl -sS -i --max-time 20 "$@" || echo "curl: $?"; echo; }
openai="Authorization: Bearer $OPENAI_API_KEY"
for as in raw base64 base64url hex percent json html; do
    ask -H "$openai" "https://api.openai.com/echo-encoded?as=$as"
done
ask -H "$openai" https://api.openai.com/echo
ask --http1.1 -H "$openai" https://api.openai.com/gzip-echo
ask -H "$openai" https://api.openai.com/setcookie-echo
ask -H "$openai" 'https://api.openai.com/sse-echo?events=5'
ask -H "$openai" https://api.openai.com/status/500
ask -H "$openai" https://api.openai.com/status/401
ask -H "$openai" https://api.openai.com/reset
ask -H "$openai" https://api.openai.com/cut
ask -H "$openai" 'https://api.openai.com/redirect?to=https://elsewhere.example/'
ask -H "x-api-key: $ANTHROPIC_API_KEY" https://api.anthropic.com/echo
ask -H "Authorization: Bearer $ANTHROPIC_API_KEY" https://api.anthropic.com/setcookie-echo
ask -H "x-goog-api-key: $GEMINI_API_KEY" https://generativelanguage.googleapis.com/echo
ask -H "Authorization: token $GITHUB_TOKEN" https://api.github.com/echo
ask -H "PRIVATE-TOKEN: $GITLAB_TOKEN" https://gitlab.com/echo
# refused: another host's placeholder, an unlisted host, plain http, an address, a wrong proxy password
ask -H "Authorization: Bearer $OPENAI_API_KEY" https://api.anthropic.com/echo
ask -H "$openai" https://elsewhere.example/
ask -H "$openai" http://api.openai.com/echo
ask --noproxy '' -H "$openai" https://127.0.0.1/
ask --proxy "http://writ:wrong@${HTTPS_PROXY#*@}" -H "$openai" https://api.openai.com/echo
env
"#;

const COMMANDS: [&[&str]; 8] = [
    &["credential", "list"],
    &["credential", "list", "--json"],
    &["session", "list", "--all", "--json"],
    &["lease", "list", "--all", "--json"],
    &["audit", "query", "--json"],
    &["audit", "tail", "-n", "500"],
    &["audit", "verify"],
    &["doctor"],
];

/// A level, and what the first run at it must have met, or its scan would prove less than it says.
type At = (&'static [&'static str], &'static [&'static str]);

const CONFINED: At = (
    &["--require", "confined"],
    &[
        "[writ:openai]",
        "urn:writ:refusal:placeholder-elsewhere",
        "urn:writ:refusal:upstream-failed",
        "urn:writ:refusal:unlisted-host",
        "curl: (35)",
        "curl: (92)",
    ],
);
const ADVISORY: At = (
    &["--no-confine"],
    &[
        "[writ:openai]",
        "urn:writ:refusal:placeholder-elsewhere",
        "urn:writ:refusal:upstream-failed",
        "urn:writ:refusal:denied",
        "CONNECT tunnel failed, response 403",
        "CONNECT tunnel failed, response 407",
        "curl: (92)",
    ],
);

fn scene(options: &[&str]) -> Scene {
    use Provider::{Anthropic, Gemini, GitHub, GitLab, OpenAi};
    SceneConfig::of(&[OpenAi, Anthropic, Gemini, GitHub, GitLab]).options(options).start(WRIT).unwrap()
}

/// Everything that a busy day printed.
fn busy(scene: &Scene) -> Vec<Ran> {
    let mut ran = vec![scene.run(&["sh", "-c", BUSY]).unwrap()];
    // The key that the service no longer takes, and a service that is not there.
    scene.standin.set_demand(writ_testkit::Demand::of("api.openai.com", "rotated-upstream-and-not-here"));
    ran.push(scene.run(&["sh", "-c", BUSY]).unwrap());
    scene.standin.set_faults(Faults { refuse_connections: true, ..Faults::default() });
    ran.push(scene.run(&["sh", "-c", BUSY]).unwrap());
    scene.standin.set_faults(Faults::default());
    let openai = scene.canary(Provider::OpenAi).unwrap();
    // Said twice, said to nobody, said in the wrong place.
    ran.push(scene.home.writ(&["credential", "set", "openai"], openai.value().as_bytes()).unwrap());
    ran.push(scene.home.writ(&["credential", "set", "nobody"], openai.value().as_bytes()).unwrap());
    ran.extend(COMMANDS.map(|command| scene.home.writ(command, b"").unwrap()));
    ran.push(scene.home.writ(&["credential", "remove", "openai"], b"").unwrap());
    ran
}

fn files(scene: &Scene) -> (Vec<PathBuf>, usize) {
    let (mut found, read) = scene.scan(&scene.home.writ_home()).unwrap();
    found.extend(scene.scan(&scene.home.work()).unwrap().0);
    (found, read)
}

#[test]
fn no_window_of_a_key_is_anywhere() {
    for (options, met) in [CONFINED, ADVISORY] {
        busy_day(options, met);
    }
}

fn busy_day(options: &[&str], met: &[&str]) {
    let scene = scene(options);
    let ran = busy(&scene);
    let first = ran.first().unwrap();
    assert_eq!(first.code, Some(0), "{}", first.told());
    assert!(first.out().matches("HTTP/2 200").count() >= 10, "the day was busy: {}", first.told());
    for told in met {
        assert!(first.told().contains(told), "not {told}: {}", first.told());
    }
    for ran in &ran {
        assert_eq!(scene.windows(&ran.both()), 0, "{}", ran.told());
    }
    let daemon = scene.home.daemon().unwrap().as_raw_pid();
    for name in ["environ", "cmdline", "comm", "status"] {
        let read = std::fs::read(format!("/proc/{daemon}/{name}"));
        // An undumpable daemon's environment is not ours to read, which is the better answer.
        assert!(read.is_ok() || name == "environ", "{name}: {read:?}");
        assert_eq!(scene.windows(&read.unwrap_or_default()), 0, "{name}");
    }
    let (found, read) = files(&scene);
    assert!(found.is_empty() && read > 3, "{found:?} of {read}");
    let stopped = scene.home.writ(&["stop"], b"").unwrap();
    assert_eq!((stopped.code, scene.windows(&stopped.both())), (Some(0), 0), "{}", stopped.told());
    assert!(writ_testkit::until(std::time::Duration::from_secs(15), || scene.home.daemon().is_none()));
    // What the end itself wrote.
    assert!(files(&scene).0.is_empty());
}

/// The search finds what it searches for: a key written by hand, raw and encoded, is found.
#[test]
fn the_search_itself_is_not_blind() {
    let scene = scene(ADVISORY.0);
    assert!(files(&scene).0.is_empty());
    for provider in [Provider::OpenAi, Provider::GitLab] {
        let key = scene.canary(provider).unwrap().value();
        let hex: String = key.bytes().map(|b| format!("{b:02x}")).collect();
        for (name, text) in [("raw", key.to_owned()), ("hex", hex), ("part", key[4..20].to_owned())] {
            let planted = scene.home.writ_home().join("state").join(name);
            std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
            std::fs::write(&planted, format!("log line with {text} in it\n")).unwrap();
            assert_eq!(files(&scene).0, std::slice::from_ref(&planted));
            std::fs::remove_file(planted).unwrap();
        }
    }
    scene.home.close().unwrap();
}
