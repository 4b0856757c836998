//! What an agent reaches for while it runs: files, processes, networks, sockets.

use super::{Attack, NETWORK, PROCESSES, VIEW, as_root, says, shows};
use crate::scene::Scene;

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
];
