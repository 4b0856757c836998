//! Everything that is claimed to be held, as attacks.

use crate::Case;
use crate::host::{Host, PYTHON};

pub const CASES: &[Case] = &[
    ("files", files),
    ("processes", processes),
    ("sockets_of_the_host", sockets_of_the_host),
    ("unix_sockets_of_the_host", unix_sockets_of_the_host),
    ("other_ways_to_connect", other_ways_to_connect),
    ("memory_that_changes_while_it_is_judged", races),
    ("other_terminals", other_terminals),
    ("privileges", privileges),
    ("nothing_is_inherited", nothing_is_inherited),
];

/// How often a race is run until it is won.
const RACES: usize = 10;

/// Refused confined, obtained unconfined.
fn held(host: &Host, attack: &[&str]) {
    let script = host.script("attacks.py");
    let arguments: Vec<&str> = [script.as_str()].into_iter().chain(attack.iter().copied()).collect();
    let (confined, unconfined) = (host.confined(PYTHON, &arguments), host.unconfined(PYTHON, &arguments));
    assert_eq!(confined.code(), Some(1), "{attack:?} obtained what it was after");
    assert_eq!(unconfined.code(), Some(0), "{attack:?} fails anyway: it proves nothing");
}

/// The same for an attack that is a race: unconfined it is won once in a few times, on a machine that does other things as well.
fn held_race(host: &Host, attack: &[&str]) {
    let script = host.script("attacks.py");
    let arguments: Vec<&str> = [script.as_str()].into_iter().chain(attack.iter().copied()).collect();
    let won = (0..RACES).any(|_| host.unconfined(PYTHON, &arguments).code() == Some(0));
    assert!(won, "{attack:?} fails anyway: it proves nothing");
    assert_eq!(host.confined(PYTHON, &arguments).code(), Some(1), "{attack:?} obtained what it was after");
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn files() {
    let host = Host::new();
    let at = |name: &str| host.path(name).to_str().unwrap().to_owned();
    for name in ["state/writ.db", "home/.ssh/id", "home/.npmrc", "home/.bash_history"] {
        held(&host, &["read", &at(name)]);
    }
    for name in ["state", "home", "home/.ssh", ""] {
        held(&host, &["list", &at(name)]);
    }
    held(&host, &["append", &at("home/.bashrc")]);
    held(&host, &["append", &at("home/.npmrc")]);
    held(&host, &["move-in", &at("home/.ssh/id")]);
    if root() {
        held(&host, &["read", "/etc/shadow"]);
        held(&host, &["append", "/proc/sys/kernel/core_pattern"]);
        held(&host, &["append", "/etc/passwd"]);
    }
}

fn processes() {
    let host = Host::new();
    let victim = host.victim();
    for attack in ["environment", "memory", "cwd", "signal", "trace", "take-descriptor", "limit"] {
        held(&host, &[attack, &victim]);
    }
    held(&host, &["root", &victim, "/etc/passwd"]);
    held(&host, &["launcher"]);
}

fn sockets_of_the_host() {
    let host = Host::new();
    let port = |address: std::net::SocketAddr| address.port().to_string();
    held(&host, &["tcp", "127.0.0.1", &port(host.service)]);
    held(&host, &["tcp", "0.0.0.0", &port(host.service)]);
    held(&host, &["tcp", "::ffff:127.0.0.1", &port(host.service)]);
    held(&host, &["tcp", "127.0.0.2", &port(host.other)]);
    held(&host, &["reuse", "127.0.0.1", &port(host.service)]);
    held(&host, &["udp", "127.0.0.1", &port(host.datagrams.local_addr().unwrap())]);
}

fn unix_sockets_of_the_host() {
    let host = Host::new();
    let [outside, inside, datagram] =
        [&host.unix, &host.unix_in_work_tree, &host.unix_datagram].map(|path| path.to_str().unwrap());
    held(&host, &["abstract", &host.abstract_name]);
    for path in [outside, inside] {
        for attack in ["unix", "unix-relative", "unix-by-link"] {
            held(&host, &[attack, path]);
        }
    }
    held(&host, &["unix-renamed", inside]);
    held(&host, &["unix-datagram", datagram]);
    held(&host, &["unix-pair", datagram]);
}

fn other_ways_to_connect() {
    let host = Host::new();
    let port = host.service.port().to_string();
    for attack in ["multipath", "fast-open", "fast-open-message", "fast-open-option"] {
        held(&host, &[attack, "127.0.0.1", &port]);
    }
    for attack in ["io-uring", "device"] {
        held(&host, &[attack]);
    }
    if root() {
        held(&host, &["source-route"]);
        held(&host, &["raw"]);
        held(&host, &["packet"]);
    }
}

fn races() {
    let host = Host::new();
    let (good, bad) = (host.proxy.port().to_string(), host.service.port().to_string());
    held_race(&host, &["flip", &good, &bad]);
    held_race(&host, &["exchange", &good, &bad]);
}

fn other_terminals() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let host = Host::new();
    let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&window).unwrap();
    unlockpt(&window).unwrap();
    let name = ptsname(&window, Vec::new()).unwrap();
    held(&host, &["terminal", name.to_str().unwrap()]);
}

fn privileges() {
    let host = Host::new();
    if root() {
        held(&host, &["mount"]);
        held(&host, &["capable"]);
    }
}

/// What is open in the launcher for others is not open in the program: even what a careless caller left open.
fn nothing_is_inherited() {
    let host = Host::new();
    let careless = std::fs::File::open(host.path("state/writ.db")).unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    held(&host, &["descriptors"]);
}
