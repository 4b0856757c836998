//! The launcher's end of `run.sock`: opening a session on doors, and adding doors to it.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use aws_lc_rs::{digest, rand};
use writ_api::{
    VERSION, frame,
    run::{FromBroker, FromLauncher, Open, Opened},
};
use writ_core::{Door, Level, RoleName, Ttl};

use super::program::Program;
use crate::{args, client, fault::Fault, paths::Paths};

/// What a session is asked for with, apart from its doors.
#[derive(Clone, Debug)]
pub struct Request {
    open: Open,
}

/// An open session. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    pub stream: UnixStream,
    pub opened: Opened,
}

/// A door on the host's loopback, behind a password: all that sessions below `confined` have.
#[derive(Debug)]
pub struct PasswordDoor {
    pub address: SocketAddr,
    password: String,
    listener: TcpListener,
}

impl Request {
    pub fn for_program(program: &Program, args: &args::Run) -> Self {
        Self::new(program, args.role.clone(), args.ttl, false)
    }

    pub fn by_hand(role: Option<RoleName>, ttl: Option<Ttl>) -> Result<Self, Fault> {
        Ok(Self::new(&Program::ourselves()?, role, ttl, true))
    }

    fn new(program: &Program, role: Option<RoleName>, ttl: Option<Ttl>, by_hand: bool) -> Self {
        let open = Open {
            version: VERSION,
            role,
            ttl,
            program: program.executable.clone(),
            script: program.script.clone(),
            level: Level::Advisory,
            doors: Vec::new(),
            password_sha256: None,
            resumed_from: None,
            variables: std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect(),
            by_hand,
        };
        Self { open }
    }

    /// Opens a session behind a password.
    pub fn behind(&self, paths: &Paths, level: Level, door: &PasswordDoor) -> Result<Session, Fault> {
        let hashed = digest::digest(&digest::SHA256, door.password.as_bytes());
        let open = Open {
            level,
            doors: vec![Door::Proxy],
            password_sha256: Some(hex(hashed.as_ref())),
            ..self.open.clone()
        };
        Session::open(paths, open, &[door.listener.as_fd()])
    }

    /// Opens a session on doors that nobody else can reach.
    #[cfg(target_os = "linux")]
    pub fn within(&self, paths: &Paths, doors: &[(Door, OwnedFd)]) -> Result<Session, Fault> {
        let (names, sockets) = apart(doors);
        let open = Open { level: Level::Confined, doors: names, ..self.open.clone() };
        Session::open(paths, open, &sockets)
    }
}

impl Session {
    fn open(paths: &Paths, open: Open, doors: &[BorrowedFd<'_>]) -> Result<Self, Fault> {
        let mut stream = client::connect(paths, &paths.run_socket())?;
        send(&mut stream, &FromLauncher::Open(open), doors)?;
        match frame::read(&mut stream)? {
            FromBroker::Opened(opened) => Ok(Self { stream, opened }),
            FromBroker::Refused(refusal) => Err(refusal.into()),
            _ => Err(Fault::new("the daemon answered another question", "run: writ stop")),
        }
    }

    /// Adds doors whose addresses only the answer to the opening told.
    #[cfg(target_os = "linux")]
    pub fn add(&mut self, doors: &[(Door, OwnedFd)]) -> Result<(), Fault> {
        if doors.is_empty() {
            return Ok(());
        }
        let (doors, sockets) = apart(doors);
        send(&mut self.stream, &FromLauncher::Doors { doors }, &sockets)
    }
}

impl PasswordDoor {
    pub fn listen(at: SocketAddr) -> Result<Self, Fault> {
        let failed =
            |error: std::io::Error| Fault::new(format!("{at}: {error}"), "name a free loopback address");
        let listener = TcpListener::bind(at).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, password: password()?, listener })
    }

    pub fn anywhere() -> Result<Self, Fault> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Where the program sends its requests, with the session's password.
    pub fn url(&self) -> String {
        format!("http://writ:{}@{}", self.password, self.address)
    }

    pub fn password(&self) -> &str {
        &self.password
    }
}

fn apart(doors: &[(Door, OwnedFd)]) -> (Vec<Door>, Vec<BorrowedFd<'_>>) {
    doors.iter().map(|(door, socket)| (door.clone(), socket.as_fd())).unzip()
}

fn send(stream: &mut UnixStream, message: &FromLauncher, sockets: &[BorrowedFd<'_>]) -> Result<(), Fault> {
    let lost = |error: std::io::Error| Fault::new(format!("the daemon: {error}"), "try again");
    let message = frame::encode(message)?;
    let sent = writ_sys::send_with_fds(stream, &message, sockets).map_err(lost)?;
    stream.write_all(message.get(sent..).unwrap_or_default()).map_err(lost)
}

/// 32 random bytes, hexadecimal: what every later connection must show.
fn password() -> Result<String, Fault> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Fault::new("the system gives no random bytes", ""))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
