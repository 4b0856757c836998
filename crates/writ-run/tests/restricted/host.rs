//! A machine with something to steal: a home, a work tree, services of the host, and a process that holds a secret.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use writ_run::restricted::{self, Asked, Facts, RestrictedPlan, Supervisor};
use writ_run::{Bytes, ProcessPlan, RawPath, StepFault, Terminal, Wishes};

const SCRIPTS: &[(&str, &str)] =
    &[("attacks.py", include_str!("attacks.py")), ("works.py", include_str!("works.py"))];
/// The system's own; others may lie in a home.
pub const PYTHON: &str = "/usr/bin/python3";
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// How long a program may take for one word.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Questions {
    seen: Mutex<Vec<u8>>,
    more: Condvar,
}

pub struct Host {
    pub root: TempDir,
    /// The session's proxy, or whatever stands at its address: it says `proxy`.
    pub proxy: SocketAddr,
    /// A service of the host's: it says `host`.
    pub service: SocketAddr,
    /// A service with the proxy's port at another address.
    pub other: SocketAddr,
    pub datagrams: UdpSocket,
    pub abstract_name: String,
    pub unix: PathBuf,
    pub unix_in_work_tree: PathBuf,
    pub unix_datagram: PathBuf,
    /// What the proxy was asked.
    asked: Arc<Questions>,
    victim: Child,
    _held: UnixDatagram,
}

impl Host {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("writ-host-").tempdir().unwrap();
        let at = |name: &str| {
            let path = fs::canonicalize(root.path()).unwrap().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for name in [
            "home/.ssh/id",
            "home/.npmrc",
            "home/.bash_history",
            "home/.bashrc",
            "state/writ.db",
            "home/project/file",
        ] {
            fs::write(at(name), "secret").unwrap();
        }
        fs::create_dir_all(at("private/x").parent().unwrap()).unwrap();
        for (name, text) in SCRIPTS {
            fs::write(at("scripts/x").with_file_name(name), text).unwrap();
        }
        let (proxy, other) = pair();
        let abstract_name = format!("writ-host-{}-{}", std::process::id(), number());
        let address = UnixAddress::from_abstract_name(&abstract_name).unwrap();
        greet_unix(UnixListener::bind_addr(&address).unwrap());
        let [unix, unix_in_work_tree, unix_datagram] =
            ["home/agent.sock", "home/project/host.sock", "home/project/log"].map(at);
        greet_unix(UnixListener::bind(&unix).unwrap());
        greet_unix(UnixListener::bind(&unix_in_work_tree).unwrap());
        let held = UnixDatagram::bind(&unix_datagram).unwrap();
        let mut victim = Command::new("cat");
        victim.env("KEY", "canary").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut victim = victim.spawn().unwrap();
        // It has executed, and shows its own environment, once it answers.
        victim.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        victim.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let asked = Arc::default();
        Self {
            proxy: greet(proxy, b"proxy", &asked),
            service: greet(TcpListener::bind("127.0.0.1:0").unwrap(), b"host", &Arc::default()),
            other: greet(other, b"host", &Arc::default()),
            asked,
            datagrams: UdpSocket::bind("127.0.0.1:0").unwrap(),
            abstract_name,
            unix,
            unix_in_work_tree,
            unix_datagram,
            victim,
            _held: held,
            root,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.root.path()).unwrap().join(name)
    }

    pub fn victim(&self) -> String {
        self.victim.id().to_string()
    }

    pub fn plan(&self, private: &Path, wishes: &Wishes) -> RestrictedPlan {
        let facts = Facts::gather(&self.path("home/project"), &self.path("home"), OsStr::new(PATH));
        let (hidden, readable) = (vec![self.path("state").into()], vec![self.path("scripts").into()]);
        let wishes = Wishes { hidden, readable, ..wishes.clone() };
        let asked =
            Asked { private: private.into(), reachable: vec![self.proxy], own: vec![], writable: vec![] };
        restricted::plan(&facts, &wishes, &asked).unwrap()
    }

    pub fn process(&self, program: &str, arguments: &[&str]) -> ProcessPlan {
        let arguments = [program].iter().chain(arguments).map(|one| Bytes::from(*one)).collect();
        let proxy = format!("http://session:word@{}", self.proxy);
        let home = self.path("home");
        let environment = [
            ("PATH", PATH),
            ("HOME", home.to_str().unwrap()),
            ("LANG", "C.UTF-8"),
            ("HTTPS_PROXY", &proxy),
            ("https_proxy", &proxy),
        ];
        ProcessPlan {
            path: RawPath::from(program),
            arguments,
            environment: environment.map(|(name, value)| (name.into(), value.into())).to_vec(),
            directory: self.path("home/project").into(),
            terminal: Terminal::CallersGroup,
        }
    }

    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<(Child, Supervisor), StepFault> {
        let private = self.path(&format!("private/{}", number()));
        fs::create_dir(&private).unwrap();
        let plan = self.plan(&private, &Wishes::default());
        restricted::start(&self.process(program, arguments), &plan, &|| false)
    }

    pub fn confined(&self, program: &str, arguments: &[&str]) -> ExitStatus {
        let (mut child, supervisor) =
            self.start(program, arguments).unwrap_or_else(|fault| panic!("{fault}"));
        let status = child.wait().unwrap();
        supervisor.end();
        status
    }

    pub fn unconfined(&self, program: &str, arguments: &[&str]) -> ExitStatus {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path("home/project"));
        command.env_clear().env("PATH", PATH).env("HOME", self.path("home")).status().unwrap()
    }

    /// Waits until the proxy was asked this, so often.
    pub fn was_asked(&self, words: &str, times: usize) {
        let (seen, more) = (&self.asked.seen, &self.asked.more);
        let count = |seen: &[u8]| String::from_utf8_lossy(seen).matches(words).count();
        let (seen, _) =
            more.wait_timeout_while(seen.lock().unwrap(), PATIENCE, |seen| count(seen) < times).unwrap();
        assert!(count(&seen) >= times, "{words:?} is not in {}", String::from_utf8_lossy(&seen));
    }

    pub fn script(&self, name: &str) -> String {
        self.path("scripts").join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = (self.victim.kill(), self.victim.wait());
    }
}

/// Another one each time.
fn number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Two addresses with one port.
fn pair() -> (TcpListener, TcpListener) {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(other) = TcpListener::bind(("127.0.0.2", one.local_addr().unwrap().port())) {
            return (one, other);
        }
    }
}

fn greet(listener: TcpListener, word: &'static [u8], asked: &Arc<Questions>) -> SocketAddr {
    let asked = Arc::clone(asked);
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let asked = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(word);
                // What the peer sends is read, so that its end is not a reset.
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    asked.seen.lock().unwrap().extend(&bytes[..length]);
                    asked.more.notify_all();
                }
            });
        }
    });
    address
}

fn greet_unix(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"host");
        }
    });
}
