//! The attacks, as data. A script is Python; it ends with `got()` when it has what it wanted, and is refused by an `OSError`.

use crate::{account::Account, scene::Scene};

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
    /// The host shows it while the script, which says `HOLDING`, waits for the end of its input: the answer is what went wrong for others.
    Meanwhile(fn(&Scene) -> Option<String>),
}

pub struct Attack {
    pub name: &'static str,
    pub does: &'static str,
    pub held_by: &'static str,
    pub runs: Runs,
    pub evidence: Evidence,
    pub script: &'static str,
    /// What is different on this machine: an agent before this one can have left it.
    pub before: fn(&Account),
    /// Where the program starts, and where writ's own files are.
    pub starts_in: &'static str,
    pub writ_home: &'static str,
    /// How many files each process may have open, where that is less than elsewhere: the daemon as well.
    pub descriptors: Option<u32>,
}

/// The attack of that name.
pub fn named(name: &str) -> &'static Attack {
    ATTACKS.iter().find(|attack| attack.name == name).unwrap()
}

const fn says(name: &'static str, does: &'static str, held_by: &'static str, script: &'static str) -> Attack {
    let (runs, evidence) = (Runs::AsBoth, Evidence::Says);
    Attack {
        name,
        does,
        held_by,
        runs,
        evidence,
        script,
        before: |_| {},
        starts_in: "work",
        writ_home: "writ",
        descriptors: None,
    }
}

const fn shows(
    name: &'static str,
    does: &'static str,
    held_by: &'static str,
    shown: fn(&Scene) -> bool,
    script: &'static str,
) -> Attack {
    Attack { evidence: Evidence::Host(shown), ..says(name, does, held_by, script) }
}

const fn as_root(attack: Attack) -> Attack {
    Attack { runs: Runs::AsRoot, ..attack }
}

const fn after(attack: Attack, before: fn(&Account)) -> Attack {
    Attack { before, ..attack }
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
    says(
        "fork_without_end",
        "starts 6000 processes at once, which is bounded so that the test's machine survives",
        "a limit of 4096 processes for each run",
        r#"
parent = os.getpid()
for number in range(6000):
    if os.fork() == 0:
        libc.prctl(1, 9, 0, 0, 0)
        if os.getppid() == parent: signal.pause()
        os._exit(0)
got()
"#,
    ),
    Attack {
        evidence: Evidence::Meanwhile(Scene::others_want),
        descriptors: Some(2048),
        ..says(
            "use_up_the_daemons_connections",
            "opens thousands of connections to whatever of the daemon's it reaches, and keeps them",
            "no socket of the broker's in the view; each session has a number of connections of its own",
            r##"
import resource, select
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
filled, fills = os.pipe()
first = os.fork() > 0
if not first: libc.prctl(1, 9, 0, 0, 0)
doors = [("unix", A["writ_home"] + "/run/control.sock"), ("unix", A["writ_home"] + "/run/run.sock")]
if not os.path.exists(A["writ_home"] + "/run"):
    for line in open("/proc/net/tcp"):
        address, state = line.split()[1:4:2]
        if state == "0A":
            host, port = address.split(":")
            host = "1.2.3.4" if host == "00000000" else socket.inet_ntoa(bytes.fromhex(host)[::-1])
            doors.append(("tcp", (host, int(port, 16))))
held = {}
def fill(wanted):
    for _ in range(wanted):
        for kind, address in doors:
            if len(held) > most - 64: return
            s = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            s.setblocking(False)
            try: s.connect(address)
            except BlockingIOError: pass
            except OSError:
                s.close()
                continue
            held[s.fileno()] = s
fill(1500)
if first:
    os.read(filled, 1)
    print("HOLDING", len(held), flush=True)
else: os.write(fills, b".")
poll = select.poll()
poll.register(0)
for fd in held: poll.register(fd, select.POLLHUP)
done = False
while not done:
    again = 0
    for fd, event in poll.poll():
        if fd == 0: done = True
        elif fd in held:
            poll.unregister(fd)
            held.pop(fd).close()
            again += 1
    if again and not done:
        before = set(held)
        fill(again)
        for fd in set(held) - before: poll.register(fd, select.POLLHUP)
if not first: os._exit(0)
"##,
        )
    },
    shows(
        "leave_a_program_for_the_next_login",
        "writes units of systemd, autostart entries, start-up files of shells and of ssh into the home",
        "the home is a layer",
        |scene| LOGIN_FILES.iter().any(|name| scene.host_file(&format!("home/{name}")).contains("changed")),
        r##"
for name in A["login_files"]:
    try:
        os.makedirs(os.path.dirname(A["home"] + "/" + name), exist_ok=True)
        open(A["home"] + "/" + name, "a").write("# changed\n")
    except OSError: pass
"##,
    ),
    as_root(shows(
        "leave_a_job_for_cron_and_at",
        "writes job files into the spools of cron and at",
        VIEW,
        |scene| {
            let written = SPOOLS.iter().map(|spool| format!("{spool}/{}", scene.marker()));
            written.filter(|file| std::fs::remove_file(file).is_ok()).count() > 0
        },
        r##"
for spool in A["spools"]:
    try:
        os.makedirs(spool, exist_ok=True)
        open(spool + "/" + A["marker"], "w").write("# changed\n")
    except OSError: pass
"##,
    )),
    after(
        says(
            "look_through_a_linked_tool_directory",
            "reads through a directory of PATH in the work tree, .venv/bin, in whose place a link to elsewhere was left",
            "no link of the agent's own is followed for a tool",
            r#"
canary(read(A["work"] + "/.venv/bin/letter"))
canary(read(A["dir"] + "/elsewhere/letter"))
"#,
        ),
        |account| {
            account.file("elsewhere/letter", &account.key());
            account.directory("work/.venv");
            account.link("work/.venv/bin", "elsewhere");
        },
    ),
    after(
        says(
            "connect_beside_a_tool",
            "connects to a socket that lies beside a tool, in a directory of PATH",
            "sockets in what is shown are covered",
            r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["dir"] + "/tools/service.sock")
got()
"#,
        ),
        |account| {
            account.directory("tools");
            account.listen("tools/service.sock");
        },
    ),
    after(
        says(
            "connect_in_the_shared_tmp",
            "connects to a socket in /tmp, as those of tmux are, where PATH names /tmp itself",
            "/tmp is fresh, and no tool's directory",
            r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["dir"] + "/window.sock")
got()
"#,
        ),
        |account| account.listen("window.sock"),
    ),
    after(
        shows(
            "write_through_a_linked_cache",
            "writes where a cache was that is a link by now",
            "no cache is opened by a link of the agent's own",
            |scene| !scene.host_file("elsewhere/planted").is_empty(),
            r#"
for place in (A["work"] + "/cache", A["dir"] + "/elsewhere"):
    try: open(place + "/planted", "w").write("x")
    except OSError: pass
"#,
        ),
        |account| {
            account.directory("elsewhere");
            account.link("work/cache", "elsewhere");
        },
    ),
    Attack {
        starts_in: "work/own",
        ..after(
            shows(
                "claim_to_be_a_submodule",
                "writes into the repository around its own, whose submodule it says it is",
                "a submodule is believed if its repository says so",
                |scene| scene.host_file("work/readme").contains("changed"),
                r##"
open(A["work"] + "/readme", "a").write("# changed\n")
"##,
            ),
            |account| {
                account.file("work/own/.git", "gitdir: ../.git/modules/part\n");
                account.file("work/.git/HEAD", "ref: refs/heads/main\n");
                let part = "[core]\n\tworktree = ../../../part\n";
                account.file("work/.git/modules/part/config", part);
                account.directory("work/part");
            },
        )
    },
    Attack {
        starts_in: "work/tree",
        ..after(
            shows(
                "claim_to_be_a_linked_work_tree",
                "writes into a repository whose linked work tree it says it is",
                "a linked work tree is believed if its repository says so",
                |scene| scene.host_file("elsewhere/HEAD").contains("changed"),
                r##"
open(A["dir"] + "/elsewhere/HEAD", "a").write("# changed\n")
"##,
            ),
            |account| {
                account.file("elsewhere/HEAD", "ref: refs/heads/main\n");
                account.directory("elsewhere/objects");
                account.directory("elsewhere/refs");
                account.file("work/tree/.git", "gitdir: fake/worktrees/t\n");
                account.file("work/tree/fake/worktrees/t/commondir", "../../../../../elsewhere\n");
                let tree = account.path("work/tree/.git").display().to_string();
                account.file("work/tree/fake/worktrees/t/gitdir", &format!("{tree}\n"));
            },
        )
    },
    after(
        shows(
            "write_a_linked_configuration",
            "appends to writ.toml where that is a link into the work tree, as dotfiles are",
            "the configuration's real place is hidden as well",
            |scene| scene.host_file("work/dotfiles/writ.toml").contains("changed"),
            r##"
open(A["work"] + "/dotfiles/writ.toml", "a").write("# changed\n")
"##,
        ),
        |account| {
            account.directory("work/dotfiles");
            let (named, real) = (account.path("writ/writ.toml"), account.path("work/dotfiles/writ.toml"));
            std::fs::rename(named, real).unwrap();
            account.link("writ/writ.toml", "work/dotfiles/writ.toml");
        },
    ),
    Attack {
        writ_home: "work/deep/writ",
        ..shows(
            "replace_what_is_above_the_state",
            "renames a directory above writ's own, in the work tree, and puts one of its own in its place",
            "what is above writ's files is mounted, so it stays",
            |scene| scene.host_file("work/deep/writ/writ.toml").contains("changed"),
            r##"
os.rename(A["work"] + "/deep", A["work"] + "/gone")
os.makedirs(A["work"] + "/deep/writ")
open(A["work"] + "/deep/writ/writ.toml", "w").write("# changed\n")
"##,
        )
    },
];

/// What a login, a desktop or a manager of services reads, below the home.
pub const LOGIN_FILES: &[&str] = &[
    ".config/systemd/user/evil.service",
    ".config/systemd/user/default.target.wants/evil.service",
    ".local/share/systemd/user/evil.service",
    ".config/autostart/evil.desktop",
    ".config/environment.d/evil.conf",
    ".config/fish/config.fish",
    ".profile",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".zshenv",
    ".zshrc",
    ".zprofile",
    ".xprofile",
    ".pam_environment",
    ".ssh/rc",
    ".ssh/authorized_keys",
];

/// Where cron and at look for jobs, on one system or another.
pub const SPOOLS: &[&str] = &[
    "/var/spool/cron",
    "/var/spool/cron/crontabs",
    "/var/spool/cron/atjobs",
    "/var/spool/at",
    "/etc/cron.d",
];
