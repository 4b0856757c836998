//! A place of its own for one run of the built `writ`: configuration, state, sockets, work tree.
//!
//! Nothing of the caller's environment but `PATH` reaches the program under test, so no real key can be in a
//! test by accident. A [`Home`] starts no daemon by itself (the first `writ` command does) but ends it, and
//! [`Home::close`] says when it would not end. `Drop` is only the backstop of a failed test.

use std::fs::Permissions;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::account::{Who, bring};
use crate::canary::Canary;
use crate::config::Config;

/// When a command of a test is given up.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// How long a pipe may stay open after its program ended; longer means that somebody inherited it.
const PIPE_MAX: Duration = Duration::from_secs(10);
/// When a daemon that was asked to stop is killed.
const STOP_MAX: Duration = Duration::from_secs(15);

/// What a finished command left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code, or `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Both outputs, for a scan.
    #[must_use]
    pub fn both(&self) -> Vec<u8> {
        [self.stdout.as_slice(), b"\n", self.stderr.as_slice()].concat()
    }

    /// Both outputs as text, for the message of a failed assertion.
    #[must_use]
    pub fn told(&self) -> String {
        format!(
            "exit {:?} signal {:?}\n--- stdout\n{}--- stderr\n{}",
            self.code,
            self.signal,
            self.out(),
            self.err()
        )
    }
}

/// A directory that is `WRIT_HOME`, `HOME` and work tree of one test.
pub struct Home {
    dir: TempDir,
    writ: PathBuf,
    who: Who,
    variables: Vec<(String, String)>,
}

impl Home {
    /// An empty place for the binary `writ`.
    ///
    /// # Errors
    /// When the temporary directory cannot be made, or `writ` is not there.
    pub fn new(writ: impl Into<PathBuf>) -> io::Result<Self> {
        Self::of(writ, Who::Caller)
    }

    /// As [`Home::new`], for an account that may be another than the caller.
    ///
    /// # Errors
    /// As [`Home::new`], and when the account cannot be given its place.
    pub fn of(writ: impl Into<PathBuf>, who: Who) -> io::Result<Self> {
        let mut writ = writ.into();
        if !writ.is_file() {
            return Err(io::Error::other(format!("{} is not a file: build writ first", writ.display())));
        }
        let dir = tempfile::Builder::new().prefix("writ-test-").tempdir()?;
        for name in ["writ", "home", "work"] {
            std::fs::create_dir(dir.path().join(name))?;
            who.own(&dir.path().join(name))?;
        }
        std::fs::set_permissions(dir.path().join("writ"), Permissions::from_mode(0o700))?;
        if who == Who::User {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
            let own = dir.path().join("bin");
            std::fs::create_dir(&own)?;
            bring(&writ, &own.join("writ"))?;
            writ = own.join("writ");
        }
        Ok(Self { dir, writ, who, variables: Vec::new() })
    }

    /// The account that this place belongs to.
    #[must_use]
    pub fn who(&self) -> Who {
        self.who
    }

    /// `HOME`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// `WRIT_HOME`.
    #[must_use]
    pub fn writ_home(&self) -> PathBuf {
        self.dir.path().join("writ")
    }

    /// The directory in which commands run.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Writes `writ.toml`, readable by this user alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, config: &Config) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.writ_home().join("writ.toml");
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(config.text().as_bytes())?;
        self.who.own(&self.writ_home().join("writ.toml"))
    }

    /// Variables for every command from now on, in place of the earlier ones.
    pub fn set_variables(&mut self, variables: &[(&str, &str)]) {
        self.variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    }

    /// `program` in this place's environment, which holds no key and no proxy.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.who.command(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("WRIT_HOME", self.writ_home())
            .env("WRIT_LOG", "debug")
            .env("LANG", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `writ ARGS` to its end, with `stdin`.
    ///
    /// # Errors
    /// When it cannot be started, does not end within two minutes, or leaves a pipe open behind it.
    pub fn writ(&self, args: &[&str], stdin: &[u8]) -> io::Result<Ran> {
        let mut command = self.command(&self.writ);
        command.args(args).stdin(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that does not read its input is judged by what it says.
            let _ = pipe.write_all(stdin);
        }
        Spawned::new(child).wait(COMMAND_MAX)
    }

    /// `writ ARGS --json`, parsed.
    ///
    /// # Errors
    /// As [`Home::writ`], and when it fails or prints something else.
    pub fn json(&self, args: &[&str]) -> io::Result<serde_json::Value> {
        let ran = self.writ(&[args, &["--json"]].concat(), b"")?;
        let parsed = serde_json::from_slice(&ran.stdout);
        parsed.map_err(|fault| io::Error::other(format!("writ {args:?}: {fault}: {}", ran.told())))
    }

    /// `writ credential set NAME`, with the canary on standard input.
    ///
    /// # Errors
    /// As [`Home::writ`], and when it fails.
    pub fn set_credential(&self, name: &str, canary: &Canary) -> io::Result<()> {
        let ran = self.writ(&["credential", "set", name], canary.value().as_bytes())?;
        if ran.code == Some(0) {
            Ok(())
        } else {
            Err(io::Error::other(format!("credential set: {}", ran.told())))
        }
    }

    /// `writ run --role ROLE -- ARGV` to its end.
    ///
    /// # Errors
    /// As [`Home::writ`].
    pub fn run(&self, role: &str, argv: &[&str]) -> io::Result<Ran> {
        self.spawn(role, argv)?.wait(COMMAND_MAX)
    }

    /// `writ run --role ROLE -- ARGV`, not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, role: &str, argv: &[&str]) -> io::Result<Spawned> {
        self.spawn_with(&["--role", role], argv)
    }

    /// `writ run OPTIONS -- ARGV`, not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_with(&self, options: &[&str], argv: &[&str]) -> io::Result<Spawned> {
        let mut command = self.command(&self.writ);
        command.arg("run").args(options).arg("--").args(argv);
        command.spawn().map(Spawned::new)
    }

    /// As [`Home::spawn_with`], with a standard input that stays open until [`Spawned::end_input`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_open(&self, options: &[&str], argv: &[&str]) -> io::Result<Spawned> {
        let mut command = self.command(&self.writ);
        command.arg("run").args(options).arg("--").args(argv).stdin(Stdio::piped());
        command.spawn().map(Spawned::new)
    }

    /// The daemon's process id: who listens on the control socket. `None` when nobody does.
    #[must_use]
    pub fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.writ_home().join("run/control.sock")).ok()?;
        rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid)
    }

    /// Ends the daemon, if there is one, by `writ stop`.
    ///
    /// # Errors
    /// When it does not end by itself within 15 s; it is killed then.
    pub fn close(self) -> io::Result<()> {
        let Some(pid) = self.daemon() else { return Ok(()) };
        let Ok(daemon) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        let stopped = self.writ(&["stop"], b"")?;
        if ended(&daemon, STOP_MAX) {
            return Ok(());
        }
        let _ = pidfd_send_signal(&daemon, Signal::KILL);
        Err(io::Error::other(format!("the daemon outlived `writ stop`: {}", stopped.told())))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let daemon = self.daemon().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(daemon) = daemon {
            let _ = pidfd_send_signal(&daemon, Signal::KILL);
            let _ = ended(&daemon, STOP_MAX);
        }
    }
}

/// Whether the process behind `pidfd` ended within `patience`.
pub fn ended(pidfd: &OwnedFd, patience: Duration) -> bool {
    let limit = Timespec::try_from(patience).ok();
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, limit.as_ref()), Ok(1..))
}

/// A command that runs. Killed when dropped.
pub struct Spawned {
    child: Child,
    lines: Receiver<Vec<u8>>,
    errors: Receiver<Vec<u8>>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Spawned {
    fn new(mut child: Child) -> Self {
        let lines = follow(child.stdout.take());
        let errors = follow(child.stderr.take());
        Self { child, lines, errors, stdout: Vec::new(), stderr: Vec::new() }
    }

    /// The process id of the command.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Blocks until a line of standard output begins with `start`, and returns the rest of it. `None` when the
    /// output ended or `patience` ran out first.
    pub fn line(&mut self, start: &str, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            self.stdout.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line);
            if let Some(rest) = text.strip_prefix(start) {
                return Some(rest.trim().to_owned());
            }
        }
    }

    /// Blocks until a line of standard error contains `words`. `false` when it ended or `patience` ran out first.
    pub fn says(&mut self, words: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.errors.recv_timeout(left) else { return false };
            self.stderr.extend_from_slice(&line);
            if String::from_utf8_lossy(&line).contains(words) {
                return true;
            }
        }
    }

    /// Closes its standard input, where it has one.
    pub fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// SIGKILL for the command itself.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it does not come within `patience` (it is killed then), or when somebody still holds a pipe of the
    /// command afterwards.
    pub fn wait(mut self, patience: Duration) -> io::Result<Ran> {
        let status = self.ended(patience)?;
        let mut stdout = std::mem::take(&mut self.stdout);
        stdout.extend(rest(&self.lines, "standard output")?);
        let mut stderr = std::mem::take(&mut self.stderr);
        stderr.extend(rest(&self.errors, "standard error")?);
        Ok(Ran { code: status.code(), signal: status.signal(), stdout, stderr })
    }

    fn ended(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let pid = self.pid().ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        if ended(&pidfd, patience) {
            return self.child.wait();
        }
        self.child.kill()?;
        self.child.wait()?;
        let said = rest(&self.errors, "standard error").unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {patience:?}: {said}")))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `pipe` line by line on a thread of its own, so that nobody blocks on a full pipe.
fn follow(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let Some(pipe) = pipe else { return };
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match pipe.read_until(b'\n', &mut line) {
                Ok(1..) if sender.send(line).is_ok() => {}
                _ => return,
            }
        }
    });
    receiver
}

fn rest(lines: &Receiver<Vec<u8>>, name: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PIPE_MAX;
    let mut out = Vec::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => out.extend(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(out),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(io::Error::other(format!("somebody holds {name} of a command that ended")));
            }
        }
    }
}
