//! Talking to the daemon, which is started if it is not there.
//!
//! Two starters cannot race: the daemon holds a lock for its life, the one that does not get it goes, and both starters then
//! find the same sockets. A daemon that is just about to go refuses the connection, and the next round starts another.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use writ_api::{
    VERSION,
    control::{Answer, Ask},
    frame,
};
use writ_core::{RecipientKey, Refusal};

use crate::{daemon, env_vars, fault::Fault, paths::Paths};

/// How long a daemon may take to be ready, another's end included.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at whether the sockets are there.
const RETRY: Duration = Duration::from_millis(10);
/// How long an answer on the control socket may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the control socket, greeted.
pub struct Control {
    stream: UnixStream,
    recipient: RecipientKey,
}

/// What a daemon that was just started says on its stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    Ready,
    /// Another daemon has the lock.
    Busy,
    Failed(Refusal),
}

impl Control {
    /// Connects, and starts the daemon if need be.
    pub fn connect(paths: &Paths) -> Result<Self, Fault> {
        Self::greet(connect(paths, &paths.control_socket())?)
    }

    /// Connects if a daemon is running.
    pub fn running(paths: &Paths) -> Option<Result<Self, Fault>> {
        UnixStream::connect(paths.control_socket()).ok().map(Self::greet)
    }

    fn greet(stream: UnixStream) -> Result<Self, Fault> {
        let slow = |error: std::io::Error| Fault::new(error.to_string(), "try again");
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(slow)?;
        let mut control = Self { stream, recipient: RecipientKey(String::new()) };
        match control.ask(&Ask::Hello { version: VERSION })? {
            Answer::Hello { version: VERSION, recipient } => {
                control.recipient = recipient;
                Ok(control)
            }
            _ => Err(Fault::new("the daemon is of another version of writ", "run: writ stop")),
        }
    }

    /// The key that secrets on this connection are sealed to.
    pub fn recipient(&self) -> &RecipientKey {
        &self.recipient
    }

    /// One question, one answer. A refusal is a fault.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, Fault> {
        frame::write(&mut self.stream, ask)?;
        match frame::read(&mut self.stream)? {
            Answer::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }
}

/// Refuses to go on where a daemon runs with another configuration than the one that `--config` names.
pub fn same_configuration(paths: &Paths) -> Result<(), Fault> {
    let Some(control) = Control::running(paths) else { return Ok(()) };
    let Answer::Status(status) = control?.ask(&Ask::Status)? else { return Ok(()) };
    if status.config == paths.config.display().to_string() {
        return Ok(());
    }
    let what = format!("the daemon runs with {}, not with {}", status.config, paths.config.display());
    Err(Fault::new(what, "writ stop, then the same command again"))
}

/// Connects to one of the daemon's sockets, and starts the daemon if need be.
pub fn connect(paths: &Paths, socket: &Path) -> Result<UnixStream, Fault> {
    paths.prepare()?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if Instant::now() > deadline {
            let what = format!("the daemon does not answer at {}", socket.display());
            return Err(Fault::new(what, format!("look at {}", paths.daemon_log().display())));
        }
        match start(paths)? {
            Readiness::Ready => {}
            Readiness::Busy => thread::sleep(RETRY),
            Readiness::Failed(refusal) => return Err(refusal.into()),
        }
    }
}

fn start(paths: &Paths) -> Result<Readiness, Fault> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Fault::new(format!("{what}: {error}"), "run: writ doctor")
    };
    let own = env::current_exe().map_err(|error| failed("the daemon cannot be started", &error))?;
    let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(paths.daemon_log());
    let log = log.map_err(|error| failed(&paths.daemon_log().display().to_string(), &error))?;
    let mut command = Command::new(own);
    command.arg(daemon::STAGE).arg(&paths.config).current_dir("/").env_clear();
    command
        .envs(env_vars::DAEMON_KEEPS.iter().filter_map(|name| env::var_os(name).map(|value| (name, value))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = writ_sys::new_session(&mut command)
        .spawn()
        .map_err(|error| failed("the daemon cannot be started", &error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    match serde_json::from_str(&line) {
        Ok(Readiness::Ready) => Ok(Readiness::Ready),
        Ok(other) => {
            let _ = child.wait();
            Ok(other)
        }
        Err(_) => {
            let _ = child.wait();
            Err(Fault::new(
                "the daemon ended before it was ready",
                format!("look at {}", paths.daemon_log().display()),
            ))
        }
    }
}
