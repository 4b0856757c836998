//! What the agent cannot do inside, and each time that it can outside: or the wall proves nothing.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Access, access},
    process::{geteuid, getpid, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use writ_run::{Event, ProcessPlan, Running, Step, Terminal};

use crate::{
    Case,
    lab::{LONG, Lab, capture, end, event, process, told, told_unconfined},
};

pub const CASES: &[Case] = &[
    ("the_agent_has_no_capability_but_root_can_nest", capabilities),
    ("init_is_out_of_reach", init_out_of_reach),
    ("processes_outside_are_not_there", nobody_outside),
    ("no_signal_leaves_through_a_shared_group", shared_group),
    ("nothing_can_be_typed_into_the_terminal", terminal_input),
    ("sockets_that_leave_the_namespace_are_refused", sockets),
    ("keyrings_and_io_uring_are_absent", absent_calls),
    ("network_settings_cannot_be_changed", network_settings),
    ("sandboxes_nest", sandboxes_nest),
    ("the_agent_leads_its_own_group_in_the_foreground", foreground),
    ("a_refused_namespace_is_named", refused_namespace),
    ("a_refused_second_namespace_is_named", refused_second_namespace),
    ("a_control_group_of_its_own", control_group),
    ("an_agent_freezes_only_itself", freeze),
    ("groups_below_its_own_are_removed", groups_below),
    ("processes_are_limited", processes_limited),
    ("queues_are_shared_with_nobody_outside", queues),
];

fn capabilities() {
    let text = told(&["status"]);
    let kept = if geteuid().is_root() { "0000000080000000" } else { "0000000000000000" };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
        assert!(text.contains(&format!("{set}:\t{kept}\n")), "{set}: {text}");
    }
    for line in ["CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(text.contains(line), "{line} {text}");
    }
    let ids = told_unconfined(&["status"]);
    let line = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    for name in ["Uid:", "Gid:"] {
        assert_eq!(line(&text, name), line(&ids, name), "it is still the caller");
    }
}

/// Perl is on every Debian, and speaks the system calls for which Rust wants `unsafe`.
const PERL: &str = "/usr/bin/perl";
/// `PTRACE_ATTACH`, then `PTRACE_DETACH`. Perl passes text by its address, so it is made a number.
const ATTACH: &str = "my $p = $ARGV[0] + 0; my $done = syscall(101, 16, $p, 0, 0) == 0; print $done ? qq(attached\\n) : qq($!\\n); \
                      if ($done) { waitpid $p, 0; syscall(101, 17, $p, 0, 0) }";

fn init_out_of_reach() {
    let files = ["root/etc/passwd", "mem", "environ", "maps", "fd/0", "ns/user"];
    let paths = |pid: &str| files.map(|file| format!("/proc/{pid}/{file}"));
    let inside = paths("1");
    let arguments: Vec<&str> = ["read"].into_iter().chain(inside.iter().map(String::as_str)).collect();
    let text = told(&arguments);
    assert_eq!(text.matches(" PermissionDenied\n").count(), files.len(), "{text}");
    assert_eq!(perl(&[ATTACH, "1"]), "Operation not permitted\n");
    assert_eq!(perl(&["kill($_, 1) for qw(KILL STOP SEGV TERM HUP); print qq(alive\\n)"]), "alive\n");

    // The same of a process of the same user, outside.
    let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let pid = other.id().to_string();
    let outside = paths(&pid);
    let arguments: Vec<&str> = ["read"].into_iter().chain(outside.iter().map(String::as_str)).collect();
    let text = told_unconfined(&arguments);
    let attached = perl_unconfined(&[ATTACH, &pid]);
    other.kill().unwrap();
    other.wait().unwrap();
    // Nothing is at address 0, and a namespace is no text; but they were opened.
    assert!(!text.contains("PermissionDenied"), "{text}");
    assert_eq!(attached, "attached\n");
}

fn nobody_outside() {
    let pid = getpid().as_raw_nonzero().to_string();
    let kill = "print kill(0, $ARGV[0]) ? qq(there\\n) : qq($!\\n)";
    assert_eq!(perl_unconfined(&[kill, &pid]), "there\n");
    assert_eq!(perl(&[kill, &pid]), "No such process\n");
    let list = "opendir my $d, '/proc'; print join(' ', sort grep /^\\d+$/, readdir $d), qq(\\n)";
    assert_eq!(perl(&[list]).split(' ').count(), 2, "init and the agent");
}

/// In a pipeline the agent is in the group of its neighbors, which are outside of its PID namespace.
fn shared_group() {
    setsid().unwrap();
    // Before we block the signal, which children inherit.
    let mut neighbor = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    writ_sys::SignalQueue::of(&[10]).unwrap();
    let script = "$SIG{USR1} = 'IGNORE'; print kill('USR1', 0) ? qq(sent\\n) : qq($!\\n)";
    let mut output = capture();
    let plan = ProcessPlan { terminal: Terminal::CallersGroup, ..process(PERL, &["-e", script]) };
    assert!(end(Lab::new().start(plan).unwrap()).success());
    assert_eq!(output.text(), "sent\n", "to itself");
    assert_eq!(neighbor.try_wait().unwrap(), None);
    assert_eq!(perl_unconfined(&[script]), "sent\n");
    assert_eq!(neighbor.wait().unwrap().signal(), Some(10));
}

/// Our session gets a terminal for this, or the kernel would refuse in any case.
fn terminal_input() {
    let (_person, terminal) = controlling_terminal();
    rustix::stdio::dup2_stdin(&terminal).unwrap();
    // The plain number, and with more bits than the kernel reads.
    let types = "for (0x5412, 0x100005412) { my $c = 'x'; \
                 print syscall(16, 0, $_, $c) == 0 ? qq(typed\\n) : qq($!\\n) }";
    let legacy = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
    if legacy.is_ok_and(|value| value == "1\n") {
        assert_eq!(perl_unconfined(&[types]), "typed\ntyped\n");
    }
    assert_eq!(perl(&[types]), "Operation not permitted\n".repeat(2));
}

/// vsock and `AF_ALG`. Their families need not be known to this kernel; then they are refused outside as well.
fn sockets() {
    assert_eq!(told(&["sockets", "1", "2"]), "1 open\n2 open\n");
    let text = told(&["sockets", "40", "38"]);
    assert_eq!(text.matches("open").count(), 0, "{text}");
    let outside = told_unconfined(&["sockets", "40"]);
    assert_eq!(outside, "40 open\n", "vsock is in every kernel that runs a virtual machine or may");
}

fn absent_calls() {
    // keyctl, add_key, request_key, io_uring_setup; bpf, userfaultfd.
    let calls = "for (250, 248, 249, 425, 321, 323) { syscall($_, -1, 0, 0, 0, 0); print $!+0, ' ' }";
    assert_eq!(perl(&[calls]), "38 38 38 38 1 1 ");
    let outside = perl_unconfined(&[calls]);
    assert!(!outside.starts_with("38 38 38 38"), "{outside}");
}

fn network_settings() {
    let ip = |arguments: &[&str]| {
        let mut output = capture();
        let status = end(Lab::new().program("/bin/sh", arguments));
        (status.success(), output.text())
    };
    for attempt in [
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "unshare -Ur sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'",
    ] {
        let (done, text) = ip(&["-c", &format!("exec 2>&1; {attempt}")]);
        assert!(!done, "{attempt}: {text}");
    }
    // Raw and packet sockets, as root of a nested user namespace too.
    let raw = "use Socket; print socket(S, AF_INET, SOCK_RAW, 1) ? qq(open ) : qq($! ); print socket(P, 17, SOCK_RAW, 768) ? qq(open ) : qq($! )";
    assert_eq!(perl(&[raw]), "Operation not permitted Operation not permitted ");
    let mut output = capture();
    assert!(end(Lab::new().program("/usr/bin/unshare", &["-Ur", PERL, "-e", raw])).success());
    assert_eq!(output.text(), "Operation not permitted Operation not permitted ");
    // Of a network of its own it may, and it leads nowhere.
    let mut output = capture();
    assert!(end(Lab::new().program("/usr/bin/unshare", &["-Urn", PERL, "-e", raw])).success());
    assert_eq!(output.text(), "open open ");
}

fn sandboxes_nest() {
    for arguments in [&["-Ur", "/bin/true"][..], &["-Urmpf", "/bin/true"], &["-Urnim", "/bin/true"]] {
        assert!(end(Lab::new().program("/usr/bin/unshare", arguments)).success(), "{arguments:?}");
    }
}

fn foreground() {
    let (_person, terminal) = controlling_terminal();
    let mut output = capture();
    // The terminal is standard output; what is said goes to where input comes from.
    rustix::stdio::dup2_stdin(std::io::stdout()).unwrap();
    rustix::stdio::dup2_stdout(&terminal).unwrap();
    let groups = "use POSIX; open my $t, '<', '/dev/tty' or die $!; open my $out, '>&=', 0 or die $!;
        print $out tcgetpgrp(fileno $t) == getpgrp() && getpgrp() == $$ ? 'front' : 'behind'";
    for (foreground, expected) in [(false, "behind"), (true, "behindfront")] {
        let running = Lab::new().start_in(process(PERL, &["-e", groups]), foreground);
        assert!(end(running.unwrap()).success());
        assert_eq!(output.text(), expected);
    }
}

/// In a user namespace in which no more of them can be made.
fn refused_namespace() {
    limited(0, "unshare", libc::ENOSPC);
}

fn refused_second_namespace() {
    limited(1, "second-namespace", libc::ENOSPC);
}

fn limited(namespaces: u32, step: &str, errno: i32) {
    let script = format!(
        "echo {namespaces} > /proc/sys/user/max_user_namespaces; exec \"$0\" case {}",
        "a_probe_launches_a_program_that_does_nothing"
    );
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let fault = Step::ALL.iter().find(|one| one.as_str() == step).unwrap();
    assert!(text.contains(&format!("step: {fault:?}, errno: {errno},")), "{text}");
}

/// Root may make groups where version 2 is mounted writable; a plain account only where they are delegated.
fn control_group() {
    let mut output = capture();
    let running = Lab::new().program("/bin/cat", &["/proc/self/cgroup"]);
    let (group, notes) = (group_of(&running), running.notes().to_vec());
    assert_eq!(group.is_some(), may_make_groups(), "{notes:?}");
    assert_eq!(notes, Vec::<String>::new());
    assert!(end(running).success());
    if let Some(group) = group {
        assert!(output.text().contains("0::/\n"), "{}", output.text());
        assert!(!group.exists(), "it is removed");
    }
}

/// The hierarchy can be mounted anew in nested namespaces, and shows the group that its mounter's namespace begins with.
fn freeze() {
    if !may_make_groups() {
        // Then the hierarchy is not the agent's to write either.
        assert!(!frozen_by("/bin/sh", FREEZE));
        return;
    }
    let mut running = Lab::new().program("/bin/sh", &["-c", FREEZE]);
    let group = group_of(&running).unwrap();
    let events = File::open(group.join("cgroup.events")).unwrap();
    while !std::fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1") {
        let mut watched = [PollFd::new(&events, PollFlags::PRI), PollFd::new(&running, PollFlags::IN)];
        assert_ne!(poll(&mut watched, Some(&LONG)).unwrap(), 0, "it was not frozen");
        assert!(watched[1].revents().is_empty(), "it could not: {:?}", running.next());
    }
    // We were not, and can end it.
    running.kill().unwrap();
    assert_eq!(event(&mut running), Event::Started);
    assert_eq!(event(&mut running), Event::Ended { status: libc::SIGKILL });
    drop(running);
    assert!(!group.exists());
}

/// Version 2, of the agent's own cgroup namespace.
const FREEZE: &str =
    "exec unshare -UrmC sh -c 'mount -t cgroup2 none /dev/shm && echo 1 > /dev/shm/cgroup.freeze'";

/// Nested sandboxes make some; and an agent that wants to leave something.
fn groups_below() {
    // Nobody else's, should it be made where it must not.
    let own = format!("/dev/shm/below-{}", std::process::id());
    let nest = format!("mount -t cgroup2 none /dev/shm && mkdir {own} {own}/b {own}/b/c");
    let running = Lab::new().program("/usr/bin/unshare", &["-UrmC", "sh", "-c", &nest]);
    let group = group_of(&running);
    assert_eq!(end(running).success(), may_make_groups(), "it could make them");
    assert!(group.is_none_or(|group| !group.exists()));
}

/// Each limit where it can be; the bomb itself is among the escapes.
fn processes_limited() {
    let most = "4096";
    let read = |arguments: &[&str]| {
        let mut output = capture();
        let running = Lab::new().program("/bin/cat", arguments);
        let limit = group_of(&running).and_then(|group| std::fs::read_to_string(group.join("pids.max")).ok());
        assert!(limit.is_none_or(|limit| limit.trim() == most));
        assert!(end(running).success());
        output.text()
    };
    let limits = read(&["/proc/self/limits"]);
    let line = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[2..4], [most, most], "{line}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap());
    if (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 14) {
        assert_eq!(read(&["/proc/sys/kernel/pid_max"]).trim(), most);
        assert_ne!(
            std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim(),
            most,
            "the host's is not"
        );
        let raise = "(echo 400000 > /proc/sys/kernel/pid_max) 2>/dev/null; cat /proc/sys/kernel/pid_max";
        let mut output = capture();
        assert!(end(Lab::new().program("/bin/sh", &["-c", raise])).success());
        assert_eq!(output.text().trim(), most, "the agent cannot raise it");
    }
}

/// What programs share without files (`sysvipc(7)`).
fn queues() {
    const LIST: &str = "/proc/sysvipc/msg";
    let made = Command::new("ipcmk").arg("-Q").output().unwrap();
    let number = String::from_utf8(made.stdout).unwrap().split_whitespace().last().unwrap().to_owned();
    let outside = std::fs::read_to_string(LIST).unwrap();
    let mut output = capture();
    assert!(end(Lab::new().program("/bin/cat", &[LIST])).success());
    assert!(Command::new("ipcrm").args(["-q", &number]).status().unwrap().success());
    let has = |text: &str| text.lines().any(|line| line.split_whitespace().nth(1) == Some(number.as_str()));
    assert!(has(&outside) && !has(&output.text()), "{number}: {}", output.text());
}

fn frozen_by(program: &str, script: &str) -> bool {
    end(Lab::new().program(program, &["-c", script])).success()
}

fn group_of(running: &Running) -> Option<PathBuf> {
    running.cgroup().map(Path::to_owned)
}

fn may_make_groups() -> bool {
    our_group().is_some_and(|group| access(&group, Access::WRITE_OK).is_ok())
}

/// Where groups of runs are made.
pub fn our_group() -> Option<PathBuf> {
    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let name = ours.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let groups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|mount| Path::new(mount).join(name));
    groups.into_iter().find(|group| group.join("cgroup.procs").exists())
}

/// A session with a terminal, which is ours from now on. Its end would be the end of us, so we do not listen to it.
fn controlling_terminal() -> (OwnedFd, File) {
    writ_sys::SignalQueue::of(&[libc::SIGHUP]).unwrap();
    setsid().unwrap();
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (person, terminal)
}

fn perl(arguments: &[&str]) -> String {
    let mut output = capture();
    let status = end(Lab::new().program(PERL, &[&["-e"], arguments].concat()));
    let text = output.text();
    assert!(status.success(), "{status} {text}");
    text
}

fn perl_unconfined(arguments: &[&str]) -> String {
    let output = Command::new(PERL).arg("-e").args(arguments).stdin(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
