//! The life of the daemon: one at a time, gone when idle, and nothing in it of the command that happened to start it.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use writ_testkit::{Canary, Config, Home, Provider, ROLE, Scene, Shape, ended};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(30);
/// Commands that start at once.
const STARTERS: usize = 10;

/// What may stand in the daemon's environment, and why it is there: its own paths, its log, the user's names.
const ENVIRONMENT: [&str; 13] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "TZ",
    "USER",
    "WRIT_HOME",
    "WRIT_IDLE_SECONDS",
    "WRIT_LOG",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

fn command(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(Path::new(WRIT));
    command.args(args);
    command
}

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.writ_home().join("state/daemon.log")).unwrap()
}

/// Every process that is a daemon of `home`.
fn daemons(home: &Home) -> BTreeSet<i32> {
    let config = home.writ_home().join("writ.toml").display().to_string();
    let is_one = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"__daemon"[..]) && words.get(2) == Some(&config.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

#[test]
fn ten_starters_find_one_daemon() {
    let home = Home::new(WRIT).unwrap();
    let started: Vec<Child> =
        (0..STARTERS).map(|_| command(&home, &["credential", "list"]).spawn().unwrap()).collect();
    for child in started {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let pid = home.daemon().unwrap();
    assert_eq!(daemons(&home), BTreeSet::from([pid.as_raw_pid()]), "those that lost the race have gone");
    let stopped = home.writ(&["stop"], b"").unwrap();
    assert_eq!(stopped.code, Some(0), "{}", stopped.told());
    assert_eq!(daemons(&home), BTreeSet::new());
    let log = log(&home);
    assert_eq!(log.matches(": ready pid=").count(), 1, "{log}");
}

#[test]
fn an_idle_daemon_goes_and_the_next_command_starts_another() {
    let scene = Scene::start(WRIT, &[Provider::OpenAi]).unwrap();
    assert_eq!(scene.home.writ(&["stop"], b"").unwrap().code, Some(0));

    let mut launcher = command(&scene.home, &["run", "--role", ROLE, "--", "sh", "-c", "exec sleep 60"]);
    let mut launcher = launcher.env("WRIT_IDLE_SECONDS", "1").spawn().unwrap();
    // A session holds it, so that it cannot go before we look.
    let sessions = || scene.home.json(&["session", "list"]).unwrap().as_array().unwrap().len();
    assert!(writ_testkit::until(PATIENCE, || scene.home.daemon().is_some() && sessions() == 1));
    let daemon = scene.home.daemon().unwrap();
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    launcher.kill().unwrap();
    launcher.wait().unwrap();

    assert!(ended(&process, PATIENCE), "an idle daemon stayed");
    assert!(log(&scene.home).contains("ending why=\"idle\""), "{}", log(&scene.home));
    assert_eq!(scene.home.daemon(), None);
    assert_eq!(scene.home.writ(&["credential", "list"], b"").unwrap().code, Some(0));
    assert_ne!(scene.home.daemon(), Some(daemon));
    scene.home.close().unwrap();
}

#[test]
fn the_environment_of_the_first_command_is_not_the_daemons() {
    let home = Home::new(WRIT).unwrap();
    let key = Canary::new(Shape::OpenAi);
    let names = ["OPENAI_API_KEY", "MY_OWN_SECRET", "LD_PRELOAD_NOT", "AWS_SECRET_ACCESS_KEY"];
    let mut starter = command(&home, &["credential", "list"]);
    starter.envs(names.map(|name| (name, key.value())));
    assert!(starter.output().unwrap().status.success());

    let pid = home.daemon().unwrap().as_raw_pid();
    match std::fs::read(format!("/proc/{pid}/environ")) {
        Ok(environ) => {
            assert_eq!(key.windows(&environ), 0);
            let text = String::from_utf8_lossy(&environ).into_owned();
            let set = text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            let set: BTreeSet<&str> = set.collect();
            assert!(set.contains("WRIT_HOME"), "this is the environment: {set:?}");
            assert!(set.is_subset(&BTreeSet::from(ENVIRONMENT)), "{set:?}");
        }
        // An undumpable process's environment is for root alone.
        Err(fault) => assert_eq!(fault.kind(), std::io::ErrorKind::PermissionDenied, "{fault}"),
    }
    assert_eq!(key.windows(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()), 0);
    home.close().unwrap();
}

#[test]
fn a_signal_ends_it_in_order() {
    let home = Home::new(WRIT).unwrap();
    assert_eq!(home.writ(&["credential", "list"], b"").unwrap().code, Some(0));
    let pid: Pid = home.daemon().unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(ended(&process, PATIENCE));
    assert!(log(&home).contains("ending why=\"a signal\""), "{}", log(&home));
    for name in ["control.sock", "run.sock"] {
        assert!(!home.writ_home().join("run").join(name).exists(), "{name} stayed");
    }
}

/// Connections are descriptors: what one session may hold must not be all that there are.
#[test]
fn a_low_limit_of_open_files_is_raised_to_what_is_allowed() {
    let home = Home::new(WRIT).unwrap();
    home.configure(&Config::new()).unwrap();
    let mut command = home.command(Path::new("sh"));
    command.args(["-c", "ulimit -Sn 256; exec \"$0\" credential list", WRIT]);
    assert!(command.status().unwrap().success());
    let daemon = home.daemon().unwrap().as_raw_nonzero();
    let limits = std::fs::read_to_string(format!("/proc/{daemon}/limits")).unwrap();
    let files: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    let [.., soft, hard, _] = files[..] else { panic!("{files:?}") };
    assert!(soft == hard && soft != "256", "{files:?}");
    home.close().unwrap();
}
