//! What must go on working, and how a run ends.

use std::process::Command;

use writ_run::restricted;

use crate::Case;
use crate::host::{Host, PYTHON};

pub const CASES: &[Case] = &[
    ("own_servers_and_files_work", works),
    ("programs_run", programs_run),
    ("clients_reach_the_proxy", clients),
    ("it_needs_no_namespaces", without_namespaces),
    ("faults_are_told", faults),
    ("nothing_outlives_a_run", nothing_outlives),
    ("the_probe_does_it_all", probe),
];

fn works() {
    let host = Host::new();
    let (port, home) = (host.proxy.port().to_string(), host.path("home"));
    let script = host.script("works.py");
    for work in [
        &["own_servers"][..],
        &["nobody"],
        &["many", &port],
        &["daemon", &port],
        &["interfaces"],
        &["files", home.to_str().unwrap()],
    ] {
        let arguments: Vec<&str> = [script.as_str()].into_iter().chain(work.iter().copied()).collect();
        assert!(host.confined(PYTHON, &arguments).success(), "{work:?}");
    }
}

fn programs_run() {
    let host = Host::new();
    let shell = "set -e; test \"$HOME\" != '' -a -w \"$HOME\"; echo x > made; cat < made | grep -q x; \
                 cat <<< here > \"$TMPDIR/t\"; sleep 0 & wait; cat /etc/passwd > /dev/null; test \"$(ls)\" != ''";
    assert!(host.confined("/bin/bash", &["-c", shell]).success());
    let git = "set -e; git init -q r; cd r; git config user.name a; git config user.email a@example.com; \
               echo x > f; git add f; git commit -qm m; git log | grep -q m; git gc -q; git worktree add -q ../w";
    assert!(host.confined("/bin/sh", &["-c", git]).success());
    assert_eq!(host.confined("/bin/sh", &["-c", "exit 7"]).code(), Some(7));
}

/// Programs that know a proxy reach it, with its password, and nothing else.
fn clients() {
    let host = Host::new();
    let curl =
        "curl -sS --max-time 20 -o /dev/null https://api.example.com/; test $? = 56 -o $? = 97 -o $? = 43";
    assert!(host.confined("/bin/sh", &["-c", curl]).success());
    host.was_asked("CONNECT api.example.com:443", 1);
    let python =
        "import urllib.request as r\ntry: r.urlopen('https://py.example.com/')\nexcept Exception: pass";
    assert!(host.confined(PYTHON, &["-c", python]).success());
    host.was_asked("CONNECT py.example.com:443", 1);
    let node = "const s = require('net').createServer(c => c.end('own')).listen(0, '127.0.0.1', () => \
                require('net').connect(s.address().port).on('data', d => { require('os').networkInterfaces(); \
                process.exit(String(d) === 'own' ? 0 : 1) }))";
    assert!(host.confined("/usr/bin/env", &["node", "-e", node]).success());
    host.was_asked("Basic c2Vzc2lvbjp3b3Jk", 2);
}

/// Where they are refused, and the level above cannot be had, this one holds all the same.
fn without_namespaces() {
    writ_testkit::refuse_namespaces().unwrap();
    assert!(writ_sys::unshare(rustix::thread::UnshareFlags::NEWUSER).is_err());
    let host = Host::new();
    // Mounting is refused to the attacks, too: it cannot succeed unconfined.
    crate::attacks::CASES.iter().filter(|(name, _)| *name != "privileges").for_each(|(_, case)| case());
    let script = host.script("works.py");
    assert!(host.confined(PYTHON, &[&script, "own_servers"]).success());
    restricted::probe(&host.path("private")).unwrap_or_else(|fault| panic!("{fault}"));
}

fn faults() {
    let host = Host::new();
    let fault = host.start("/nowhere/program", &[]).unwrap_err();
    assert_eq!((fault.step, fault.errno), (writ_run::Step::Execute, rustix::io::Errno::NOENT.raw_os_error()));
    // It exists, and is not for the program: the home is not executable.
    let secret = host.path("home/.npmrc");
    let fault = host.start(secret.to_str().unwrap(), &[]).unwrap_err();
    assert_eq!(fault.step, writ_run::Step::Execute);
}

/// What is left behind is killed, and a child of ours that is not the session's lives.
fn nothing_outlives() {
    let host = Host::new();
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let (mut child, supervisor) = host
        .start("/bin/sh", &["-c", "setsid sh -c 'sleep 600 & sleep 600' & echo $! > left; exit 3"])
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let left = std::fs::read_to_string(host.path("home/project/left")).unwrap();
    let left = format!("/proc/{}", left.trim());
    assert!(std::fs::exists(&left).unwrap());
    supervisor.end();
    assert!(!std::fs::exists(&left).unwrap());
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

fn probe() {
    let host = Host::new();
    let private = host.path("private");
    restricted::probe(&private).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(std::fs::read_dir(private).unwrap().count(), 0);
    assert!(restricted::landlock_abi().is_some_and(|abi| abi >= 6));
}
