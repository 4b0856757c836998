//! SIGKILL of the program, of the launcher, of the daemon, and of each process around a confined program: nothing passes
//! afterwards, and no lease stays.
//!
//! Each test holds a response open at the stand-in, kills, and then asks as a survivor would, who still knows the proxy's
//! address and password. Order and outcome are asserted, never times: [`PATIENCE`] is only when a test gives up.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use writ_testkit::{Provider, Scene, SceneConfig, Spawned, ask_through, ended, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(30);
/// curl's exit code where nobody listens.
const NO_LISTENER: i32 = 7;
/// Runs at once, and the three of them that are killed.
const RUNS: usize = 10;
const KILLED: [usize; 3] = [1, 4, 8];

/// Says what a survivor would know, then has a child that holds a response open, and outlives it.
const HOLDER: &str = r#"
echo "session $WRIT_SESSION"
echo "proxy $HTTPS_PROXY"
echo "key $OPENAI_API_KEY"
echo "pid $$"
curl -sS --no-buffer -H "Authorization: Bearer $OPENAI_API_KEY" 'https://api.openai.com/wait?gate=never'
exec sleep 60
"#;

/// A run that holds a response open.
struct Held {
    run: Spawned,
    session: String,
    proxy: String,
    key: String,
    pid: Pid,
}

fn hold(scene: &Scene) -> Held {
    let mut run = scene.spawn(&["sh", "-c", HOLDER]).unwrap();
    let mut line = |name: &str| run.line(name, PATIENCE).unwrap();
    let (session, proxy, key, pid) = (line("session "), line("proxy "), line("key "), line("pid "));
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let held = Held { run, session, proxy, key, pid };
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));
    assert_eq!(scene.standin.open_connections(), 1);
    assert!(live_sessions(scene).contains(&held.session), "no lease to lose");
    held
}

fn live_sessions(scene: &Scene) -> BTreeSet<String> {
    scene.live_leases().unwrap().into_iter().map(|(_, session)| session).collect()
}

/// What must hold after each of the three kills.
fn check_nothing_is_left(scene: &Scene, session: &str, proxy: &str, key: &str) {
    assert!(scene.standin.wait_closed(PATIENCE), "an upstream connection outlived the kill");
    let before = scene.standin.seen().len();
    let bearer = format!("authorization: Bearer {key}");
    // The end of a session may take a moment to arrive; what counts is that a request never does.
    assert!(until(PATIENCE, || !live_sessions(scene).contains(session)), "a lease outlived the kill");
    let ask = || ask_through(proxy, "https://api.openai.com/echo", &[&bearer]).unwrap().status.code();
    assert!(until(PATIENCE, || ask() == Some(NO_LISTENER)), "the session's door is still open");
    assert_eq!(scene.standin.seen().len(), before, "a request passed");
    let recorded = scene.all_leases().unwrap();
    assert!(recorded.iter().any(|(_, s)| s == session), "the lease is not forgotten: {recorded:?}");
    assert!(scene.wrongs().is_empty());
    let verified = scene.home.writ(&["audit", "verify"], b"").unwrap();
    assert_eq!(verified.code, Some(0), "{}", verified.told());
}

/// A survivor of an advisory run knows an address and a password; one of a confined run is not there.
fn scene() -> Scene {
    SceneConfig::of(&[Provider::OpenAi]).options(&["--no-confine"]).start(WRIT).unwrap()
}

#[test]
fn of_the_program() {
    let scene = scene();
    let held = hold(&scene);
    kill_process(held.pid, Signal::KILL).unwrap();
    let ran = held.run.wait(PATIENCE).unwrap();
    assert_eq!(
        (ran.code, ran.signal),
        (None, Some(9)),
        "the launcher ends as its program did: {}",
        ran.told()
    );
    check_nothing_is_left(&scene, &held.session, &held.proxy, &held.key);
    scene.home.close().unwrap();
}

#[test]
fn of_the_launcher() {
    let scene = scene();
    let mut held = hold(&scene);
    let program = pidfd_open(held.pid, PidfdFlags::empty()).unwrap();
    held.run.kill().unwrap();
    assert!(ended(&program, PATIENCE), "the program outlived its launcher");
    check_nothing_is_left(&scene, &held.session, &held.proxy, &held.key);
    scene.home.close().unwrap();
}

#[test]
fn of_the_daemon() {
    let scene = scene();
    let held = hold(&scene);
    let daemon = scene.home.daemon().unwrap();
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    assert!(ended(&process, PATIENCE));
    assert!(scene.standin.wait_closed(PATIENCE), "an upstream connection outlived the daemon");
    // The launcher starts another daemon, which ends what the dead one left, and asks it for a session that goes on.
    let goes_on = || {
        let sessions = scene.home.json(&["session", "list"]).unwrap();
        sessions.as_array().unwrap().iter().any(|row| row["resumed_from"] == held.session.as_str())
    };
    assert!(until(PATIENCE, goes_on), "the run does not go on");
    assert!(!live_sessions(&scene).contains(&held.session), "a lease outlived the daemon");
    let recorded = scene.all_leases().unwrap();
    assert!(recorded.iter().any(|(_, s)| *s == held.session), "the lease is not forgotten: {recorded:?}");
    assert_ne!(scene.home.daemon(), Some(daemon));
    // And with the launcher ends what went on.
    let Held { mut run, session, proxy, key, .. } = held;
    run.kill().unwrap();
    check_nothing_is_left(&scene, &session, &proxy, &key);
    scene.home.close().unwrap();
}

/// Waits at the gate, then asks once more and says how that went.
const RUNNER: &str = r#"
echo "session $WRIT_SESSION"
ask() { curl -sS -o /dev/null -w "$1 %{http_code}\n" -H "Authorization: Bearer $OPENAI_API_KEY" "$2"; }
ask first "https://api.openai.com/wait?gate=go&run=$1"
ask after "https://api.openai.com/echo?run=$1"
"#;

#[test]
fn of_three_runs_among_ten_ends_exactly_their_leases() {
    let scene = scene();
    let start = |n: usize| scene.spawn(&["sh", "-c", RUNNER, "runner", &n.to_string()]).unwrap();
    let mut runs: Vec<_> = (0..RUNS).map(start).collect();
    let sessions: Vec<String> = runs.iter_mut().map(|run| run.line("session ", PATIENCE).unwrap()).collect();
    assert!(
        scene.standin.wait_seen(PATIENCE, |seen| seen.iter().filter(|s| s.path == "/wait").count() == RUNS)
    );
    assert_eq!(live_sessions(&scene), sessions.iter().cloned().collect());
    let leases = scene.live_leases().unwrap().len();

    for n in KILLED {
        runs[n].kill().unwrap();
    }
    let survivors: BTreeSet<String> =
        (0..RUNS).filter(|n| !KILLED.contains(n)).map(|n| sessions[n].clone()).collect();
    let left = || scene.standin.open_connections() == survivors.len() && live_sessions(&scene) == survivors;
    assert!(until(PATIENCE, left), "left: {:?}, survivors: {survivors:?}", live_sessions(&scene));

    scene.standin.open_gate("go");
    for (n, mut run) in runs.into_iter().enumerate() {
        let after = run.line("after ", PATIENCE);
        let expected = (!KILLED.contains(&n)).then(|| "200".to_owned());
        assert_eq!(after, expected, "run {n}: {}", run.wait(PATIENCE).unwrap().told());
    }
    let asked: BTreeSet<String> =
        scene.standin.seen().iter().filter(|s| s.path == "/echo").filter_map(|s| s.query.clone()).collect();
    let expected = (0..RUNS).filter(|n| !KILLED.contains(n)).map(|n| format!("run={n}")).collect();
    assert_eq!(asked, expected);
    assert!(until(PATIENCE, || live_sessions(&scene).is_empty()));
    assert_eq!(scene.all_leases().unwrap().len(), leases, "a lease was made or lost on the way");
    assert!(scene.wrongs().is_empty());
    scene.home.close().unwrap();
}

/// The processes of a confined run, from the outside: the launcher, its stage, the init inside, the program.
const TREE: [&str; 4] = ["launcher", "stage", "init", "program"];

/// The one child of a process that has one.
fn child(of: Pid) -> Pid {
    let is_child = |pid: &Pid| {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parent == Some(of.as_raw_nonzero().get())
    };
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let mut pids = names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
    pids.find(is_child).unwrap()
}

#[test]
fn of_each_process_around_a_confined_program() {
    let config = SceneConfig::of(&[Provider::OpenAi]).options(&["--require", "confined"]);
    let scene = config.start(WRIT).unwrap();
    for (n, victim) in TREE.into_iter().enumerate() {
        let mut run = scene.spawn(&["sh", "-c", HOLDER]).unwrap();
        let session = run.line("session ", PATIENCE).unwrap();
        let asked = |seen: &[writ_testkit::Seen]| seen.iter().filter(|s| s.path == "/wait").count() > n;
        assert!(scene.standin.wait_seen(PATIENCE, asked), "{victim}");
        assert!(live_sessions(&scene).contains(&session), "{victim}: no lease to lose");
        let mut tree = vec![run.pid().unwrap()];
        for level in 1..TREE.len() {
            let parent = tree[level - 1];
            tree.push(child(parent));
        }
        let held: Vec<_> = tree.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).unwrap()).collect();

        kill_process(tree[n], Signal::KILL).unwrap();
        for (process, name) in held.iter().zip(TREE) {
            assert!(ended(process, PATIENCE), "the {name} outlived the {victim}");
        }
        assert!(scene.standin.wait_closed(PATIENCE), "an upstream connection outlived the {victim}");
        assert!(
            until(PATIENCE, || !live_sessions(&scene).contains(&session)),
            "a lease outlived the {victim}"
        );
    }
    assert!(scene.wrongs().is_empty());
    let verified = scene.home.writ(&["audit", "verify"], b"").unwrap();
    assert_eq!(verified.code, Some(0), "{}", verified.told());
    scene.home.close().unwrap();
}
