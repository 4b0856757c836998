//! A machine with something to find: a daemon with a key, a neighbor with another, sockets, files, start-up files.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;
use writ_testkit::{Canary, Shape};

use crate::{
    account::{Account, Who},
    attacks::{Attack, Evidence, LOGIN_FILES, SPOOLS},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Advisory,
    Confined,
}

/// What one try came to.
pub struct Tried {
    /// The script came to its end, or got what it wanted.
    pub ran: bool,
    pub obtained: bool,
    pub told: String,
}

pub struct Scene {
    pub account: Account,
    pub key: Canary,
    victim: Child,
    tcp: TcpListener,
    udp: UdpSocket,
    abstract_name: String,
    _abstract: UnixListener,
    inherited: File,
    starts_in: &'static str,
    writ_home: &'static str,
    descriptors: Option<u32>,
}

/// In front of every script.
const PRELUDE: &str = r#"
import ctypes, fcntl, json, os, signal, socket, subprocess, sys
A = json.loads(os.environ["ATTACK"])
libc = ctypes.CDLL(None, use_errno=True)
def got(what=""):
    print("OBTAINED", what, flush=True)
    sys.exit(0)
def read(path):
    with open(path, "rb") as f:
        return f.read(1 << 20)
def canary(data):
    if A["canary"].encode() in data: got("a key")
def check(result, what):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)
    return result
try:
"#;
const POSTLUDE: &str = r#"
except (OSError, subprocess.SubprocessError) as fault:
    print("REFUSED", type(fault).__name__, fault)
print("TRIED", flush=True)
"#;

/// What another run does: it asks for a name and is told an address, and asks there and is refused.
const ANOTHER: &str = r#"
import socket
s = socket.create_connection(("elsewhere.example", 80), 20)
s.settimeout(20)
s.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
if s.recv(64).startswith(b"HTTP/1.1 403"): print("SERVED")
"#;

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Known credential files and start-up files, below the home directory. `{}` is a key.
const HOME_FILES: &[(&str, &str)] = &[
    (".netrc", "machine git.example login ada password {}\n"),
    (".aws/credentials", "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {}\n"),
    (".config/gh/hosts.yml", "github.com:\n    oauth_token: {}\n    user: ada\n"),
    (".docker/config.json", "{\"auths\":{\"registry.example\":{\"auth\":\"{}\"}}}\n"),
    (".git-credentials", "https://ada:{}@git.example\n"),
    (".npmrc", "//registry.example/:_authToken={}\n"),
    (".kube/config", "users:\n- name: ada\n  user:\n    token: {}\n"),
    (".ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n"),
    (".claude/.credentials.json", "{\"claudeAiOauth\":{\"accessToken\":\"{}\"}}\n"),
    (".codex/auth.json", "{\"OPENAI_API_KEY\":\"{}\"}\n"),
    (".pypirc", "[pypi]\nusername = __token__\npassword = {}\n"),
    (".bashrc", "# start-up\n"),
    (".gitconfig", "[user]\n\tname = Ada\n"),
];

impl Scene {
    pub fn new(who: Who, attack: &Attack) -> Self {
        let key = Canary::new(Shape::OpenAi);
        let account = Account::new(who, key.value());
        for name in ["home", "work", attack.writ_home] {
            account.directory(name);
        }
        fs::set_permissions(account.path(attack.writ_home), fs::Permissions::from_mode(0o700)).unwrap();
        for (name, content) in HOME_FILES {
            account.file(&format!("home/{name}"), &content.replace("{}", key.value()));
        }
        let cache = account.path("work/cache");
        account.file(&format!("{}/writ.toml", attack.writ_home), &configuration(account.uid(), &cache));
        account.file("work/readme", "hello\n");
        account.listen("home/agent.sock");
        account.listen("work/docker.sock");
        (attack.before)(&account);
        let abstract_name = format!("writ-escape-{}", account.dir.path().display());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let inherited = File::open(account.file("secret", key.value())).unwrap();
        let victim = victim(&account, key.value());
        let scene = Self {
            account,
            key,
            victim,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            abstract_name,
            _abstract: listener,
            inherited,
            starts_in: attack.starts_in,
            writ_home: attack.writ_home,
            descriptors: attack.descriptors,
        };
        let out = scene.writ(&["credential", "set", "k"], scene.key.value());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene
    }

    /// Runs the script under `writ run`, and judges.
    pub fn attack(&self, attack: &Attack, level: Level) -> Tried {
        let body: String = attack.script.trim().lines().map(|line| format!("    {line}\n")).collect();
        let script = format!("{PRELUDE}{body}{POSTLUDE}");
        let how = match level {
            Level::Advisory => "--no-confine",
            Level::Confined => "--require=confined",
        };
        let mut command = self.command();
        command.args(["run", how, "--", "python3", "-c", &script]);
        command.env("ATTACK", self.facts().to_string());
        // Descriptors that the caller left open are the caller's mistake; the agent must not get them.
        fcntl_setfd(&self.inherited, FdFlags::empty()).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        fcntl_setfd(&self.inherited, FdFlags::CLOEXEC).unwrap();
        let mut said = String::new();
        let mut meanwhile = None;
        if let Evidence::Meanwhile(holds) = attack.evidence {
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            meanwhile = if said.starts_with("HOLDING") { holds(self) } else { None };
        }
        let out = child.wait_with_output().unwrap();
        said.push_str(&String::from_utf8_lossy(&out.stdout));
        let says = said.lines().any(|line| line.starts_with("OBTAINED"));
        let obtained = match attack.evidence {
            Evidence::Says => says,
            Evidence::Host(holds) => holds(self),
            Evidence::Meanwhile(_) => meanwhile.is_some(),
        };
        let told = String::from_utf8_lossy(&out.stderr);
        let told = format!("{}\n{said}{told}{}", out.status, meanwhile.unwrap_or_default());
        Tried { ran: says || said.lines().any(|line| line == "TRIED"), obtained, told }
    }

    /// Whether somebody holds a lock on this file.
    pub fn is_locked(&self, name: &str) -> bool {
        let file = File::open(self.account.path(name)).unwrap();
        !writ_sys::flock_exclusive_nonblocking(&file).unwrap()
    }

    /// The host's own copy of a file, as text.
    pub fn host_file(&self, name: &str) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.account.path(name)) {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    /// The mode of the host's own copy of a file; 0 where there is none.
    pub fn host_mode(&self, name: &str) -> u32 {
        fs::metadata(self.account.path(name)).map_or(0, |found| found.permissions().mode())
    }

    pub fn has_capabilities(&self, name: &str) -> bool {
        let mut value = [0; 64];
        rustix::fs::getxattr(self.account.path(name), "security.capability", &mut value).is_ok()
    }

    fn facts(&self) -> serde_json::Value {
        let path = |name: &str| self.account.path(name).display().to_string();
        json!({
            "canary": self.key.value(),
            "home": path("home"),
            "work": path("work"),
            "dir": path("."),
            "writ_home": path(self.writ_home),
            "login_files": LOGIN_FILES,
            "spools": SPOOLS,
            "writ": self.account.writ,
            "secret": path("secret"),
            "daemon": self.daemon(),
            "victim": self.victim.id(),
            "tcp": self.tcp.local_addr().unwrap().port(),
            "udp": self.udp.local_addr().unwrap().port(),
            "abstract": self.abstract_name,
            "descriptor": self.inherited.as_raw_fd(),
            "marker": self.marker(),
        })
    }

    /// Whether a datagram of the agent's came.
    pub fn datagram_came(&self) -> bool {
        self.udp.set_nonblocking(true).unwrap();
        self.udp.recv(&mut [0; 16]).is_ok()
    }

    /// A name that is this test's own, in places that are everybody's.
    pub fn marker(&self) -> String {
        format!("writ-escape-{}", std::process::id())
    }

    /// Whether the operator is answered.
    pub fn control_answers(&self) -> bool {
        self.writ(&["credential", "list"], "").status.success()
    }

    /// What another run of the same person's and the operator did not get: names, the proxy's answer, an answer.
    pub fn others_want(&self) -> Option<String> {
        let mut command = self.command();
        command.args(["run", "--", "python3", "-c", ANOTHER]).stdin(Stdio::null());
        let out = command.output().unwrap();
        let served = out.status.success() && out.stdout.ends_with(b"SERVED\n");
        let told = || format!("another run: {}", String::from_utf8_lossy(&out.stderr));
        (!served).then(told).or_else(|| (!self.control_answers()).then(|| "the operator".to_owned()))
    }

    fn daemon(&self) -> Option<i32> {
        let socket = self.account.path(self.writ_home).join("run/control.sock");
        let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
        rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid.as_raw_nonzero().get())
    }

    fn command(&self) -> Command {
        let mut command = match self.descriptors {
            Some(most) => {
                let mut command = self.account.command(Path::new("prlimit"));
                command.arg(format!("--nofile={most}:{most}")).arg(&self.account.writ);
                command
            }
            None => self.account.command(&self.account.writ),
        };
        let own = ["work/.venv/bin", "tools"].map(|name| self.account.path(name).display().to_string());
        let path = format!("{SYSTEM_PATH}:{}:{}", own.join(":"), std::env::temp_dir().display());
        command
            .env("HOME", self.account.path("home"))
            .env("WRIT_HOME", self.account.path(self.writ_home))
            .env("WRIT_IDLE_SECONDS", "60")
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .current_dir(self.account.path(self.starts_in));
        command
    }

    fn writ(&self, args: &[&str], input: &str) -> std::process::Output {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.writ(&["stop"], "");
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn configuration(uid: u32, cache: &Path) -> String {
    let cache = cache.display();
    format!(
        r#"version = 1
egress = "listed"
[seal]
kind = "key-file"
accept_below_confined = true
[run]
caches = ["{cache}"]
[[credential]]
name = "k"
env = ["OPENAI_API_KEY"]
[[target]]
name = "t"
preset = "openai"
credential = "k"
[[role]]
name = "dev"
grants = [{{ target = "t" }}]
[[workload]]
spiffe_id = "spiffe://writ.local/dev"
selectors = ["unix:uid:{uid}"]
role = "dev"
"#
    )
}

/// Another process of the same account, with a key in its environment.
fn victim(account: &Account, key: &str) -> Child {
    let mut command = account.command(Path::new("sleep"));
    command.arg("600").env("PATH", "/usr/bin:/bin").env("NEIGHBORS_KEY", key);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}
