//! A real PostgreSQL server: Debian's programs, a cluster of its own, run as a plain account since it refuses uid 0.
//!
//! ```text
//!   Postgres::start ── initdb (once a process) ── copied ──► postgres on a port of its own ── ends when dropped, or with us
//!   Postgres::shared ── one for all tests of a process, a database for each of them
//! ```
//!
//! It is a real server with real TLS and SCRAM; only durability is off unless a test asks for it, since no test here cuts the
//! power. Roles belong to the whole server: tests that share one use names of their own.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{account::Who, ca::Ca, hex, random, until};

/// The name in the server's certificate.
pub const HOST: &str = "db.example";
/// The administrator of the cluster.
pub const ADMIN: &str = "root_of_db";
/// Of the directory of a server, and the file in it that is locked.
const PREFIX: &str = "writ-pg-";
const LOCK: &str = "lock";
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Another process may take the port between its choice and its use.
const PORTS: usize = 5;

/// What a test may want otherwise.
#[derive(Debug, Clone, Default)]
pub struct PostgresConfig {
    /// `fsync` and `synchronous_commit` as in production.
    pub durable: bool,
    /// Lines for `postgresql.conf`.
    pub settings: Vec<String>,
}

/// A running server. Ends when dropped, at once.
pub struct Postgres {
    dir: TempDir,
    port: u16,
    password: String,
    config: PostgresConfig,
    server: Mutex<Option<Child>>,
    /// Locked for as long as this process lives: who can lock it may take the directory away.
    _lock: File,
}

impl Postgres {
    /// A server without anything in it but [`ADMIN`], whose certificate for [`HOST`] is of `ca`.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (the message says how), or does not start.
    pub fn start(ca: &Ca, config: PostgresConfig) -> io::Result<Self> {
        sweep();
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = File::create(dir.path().join(LOCK))?;
        lock.lock()?;
        let mut secret = [0; 16];
        random(&mut secret)?;
        let password = hex(&secret);
        Who::User.own(dir.path())?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
        let (leaf, key) = ca.leaf_pem(HOST)?;
        private(&dir.path().join("server.crt"), leaf.as_bytes())?;
        private(&dir.path().join("server.key"), key.as_bytes())?;
        fs::write(dir.path().join("ca.pem"), ca.pem())?;
        init(dir.path(), &password)?;
        let mut server = Self { dir, port: 0, password, config, server: Mutex::new(None), _lock: lock };
        server.settle()?;
        Ok(server)
    }

    /// One server for all tests of this process, and its authority. It ends with the process.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn shared() -> io::Result<(&'static Self, &'static Ca)> {
        static SHARED: OnceLock<Result<(Postgres, Ca), String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            let started = Ca::mint().and_then(|ca| {
                let settings = vec!["max_connections = 200".to_owned()];
                let server = Self::start(&ca, PostgresConfig { settings, ..PostgresConfig::default() })?;
                Ok((server, ca))
            });
            started.map_err(|fault| fault.to_string())
        });
        match shared {
            Ok((server, ca)) => Ok((server, ca)),
            Err(fault) => Err(io::Error::other(fault.clone())),
        }
    }

    /// A new database with a name of its own.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn database(&self) -> io::Result<String> {
        let mut bytes = [0; 6];
        random(&mut bytes)?;
        let name = format!("db_{}", hex(&bytes));
        self.run("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// Runs SQL as [`ADMIN`] and returns what `psql` prints: a line a row, columns with `|` between them.
    ///
    /// # Errors
    /// The server's complaint.
    pub fn run(&self, database: &str, sql: &str) -> io::Result<String> {
        let output = self.psql(ADMIN, &self.password, database, sql)?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs SQL as anyone, over TLS to the loopback address.
    ///
    /// # Errors
    /// When `psql` cannot be run.
    pub fn psql(&self, user: &str, password: &str, database: &str, sql: &str) -> io::Result<Output> {
        Command::new(programs()?.join("psql"))
            .env_clear()
            .env("PGPASSWORD", password)
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", self.dir.path().join("ca.pem"))
            .env("PGHOSTADDR", "127.0.0.1")
            .args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p"])
            .arg(self.port.to_string())
            .args(["-U", user, "-d", database, "-c", sql])
            .stdin(Stdio::null())
            .output()
    }

    /// The port on 127.0.0.1. It stays the same over [`Postgres::restart`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The root that signed the server's certificate, as a file.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Stops the server in mid-flight, as a crash would.
    ///
    /// # Errors
    /// When it does not end.
    pub fn crash(&self) -> io::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        match server.take() {
            Some(mut child) => {
                signal(&child, Signal::QUIT);
                child.wait().map(drop)
            }
            None => Ok(()),
        }
    }

    /// Starts it again after a crash, on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&self) -> io::Result<()> {
        self.crash()?;
        let child = self.launch()?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Stops (`SIGSTOP`) every process of the server, or lets them go on: it is there and does not answer.
    ///
    /// # Errors
    /// When the processes cannot be listed.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = server.as_ref() else { return Ok(()) };
        let main = child.id();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        let own = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        for pid in own.chain(i32::try_from(main)).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    /// Finds a port and starts on it.
    fn settle(&mut self) -> io::Result<()> {
        let mut last = io::Error::other("no port was tried");
        for _ in 0..PORTS {
            self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match self.launch() {
                Ok(child) => {
                    *self.server.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(child);
                    return Ok(());
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    fn launch(&self) -> io::Result<Child> {
        let dir = self.dir.path();
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        let mut command = lasting(&programs()?.join("postgres"));
        command.arg("-D").arg(dir.join("cluster")).arg("-k").arg(dir).args(["-p", &self.port.to_string()]);
        let durable = if self.config.durable { "on" } else { "off" };
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            command.args(["-c", &format!("{setting}={durable}")]);
        }
        for (name, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
            command.args(["-c", &format!("{name}={}", dir.join(file).display())]);
        }
        command.args(["-c", "ssl=on", "-c", "listen_addresses=127.0.0.1", "-c", "log_min_messages=warning"]);
        for setting in &self.config.settings {
            command.args(["-c", &setting.replace(" = ", "=")]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = spawn(command)?;
        match self.answers(&mut child) {
            Ok(()) => Ok(child),
            Err(fault) => {
                signal(&child, Signal::QUIT);
                child.wait()?;
                Err(fault)
            }
        }
    }

    /// Waits until it takes logins.
    fn answers(&self, child: &mut Child) -> io::Result<()> {
        let mut ready = false;
        until(PATIENCE, || {
            let asked = self.psql(ADMIN, &self.password, "postgres", "SELECT 1");
            ready = asked.is_ok_and(|asked| asked.status.success());
            ready || !matches!(child.try_wait(), Ok(None))
        });
        if ready {
            return Ok(());
        }
        Err(io::Error::other(format!("PostgreSQL does not start: {}", self.log())))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.freeze(false);
        let _ = self.crash();
    }
}

/// Takes away what processes left that are gone: whoever shares a server never drops it.
fn sweep() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for path in ours.map(|entry| entry.path()) {
        // One without the file is being made.
        let left = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if left {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Where the server's programs are, the newest of those that are installed.
fn programs() -> io::Result<PathBuf> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "PostgreSQL's server is not installed: apt-get install postgresql",
        )
    };
    let versions = fs::read_dir("/usr/lib/postgresql").map_err(|_| missing())?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/postgres").exists().then(|| (version, path.join("bin")))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs).ok_or_else(missing)
}

/// A cluster in `dir`, whose administrator has `password`.
fn init(dir: &Path, password: &str) -> io::Result<()> {
    let file = dir.join("password");
    private(&file, password.as_bytes())?;
    let output = Who::User
        .command(&programs()?.join("initdb"))
        .current_dir(dir)
        .args(["--no-sync", "--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--encoding=UTF8"])
        .args(["--locale=C", "--username", ADMIN, "--pwfile"])
        .arg(&file)
        .arg("-D")
        .arg(dir.join("cluster"))
        .stdin(Stdio::null())
        .output()?;
    fs::remove_file(file)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&output.stderr))))
}

/// `program` as the plain account, ended by the kernel when whoever started it is gone, however that came about.
fn lasting(program: &Path) -> Command {
    let id = Who::User.uid().to_string();
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(program);
    command
}

/// Starts `command` from a thread that lives as long as the process, since its death is what the kernel looks for.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let gone = || io::Error::other("the thread that starts servers is gone");
    let (answer, answered) = mpsc::channel();
    jobs.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// A file that only the plain account reads.
fn private(path: &Path, content: &[u8]) -> io::Result<()> {
    File::create(path)?.write_all(content)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Who::User.own(path)
}
