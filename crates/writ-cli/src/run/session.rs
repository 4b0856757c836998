//! The launcher's end of `run.sock`: opening a session on doors, adding doors to it, and opening it anew at another daemon.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use aws_lc_rs::digest;
use rustix::net::getsockname;
use writ_api::{
    VERSION, frame,
    run::{FromBroker, FromLauncher, Open, Opened},
    seal::Recipient,
};
use writ_core::{Authority, Door, Level, RoleName, SessionId, Timestamp, Ttl};

use super::program::Program;
use crate::{args, client, fault::Fault, paths::Paths};

/// What a session is asked for with, apart from its doors.
#[derive(Clone, Debug)]
pub struct Request {
    open: Open,
    recipient: Option<Arc<Recipient>>,
}

/// An open session. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    pub stream: UnixStream,
    pub opened: Opened,
    pub held: Held,
}

/// What it takes to go on with a session at another daemon: the same doors, and what they were opened with. Dropped, nobody holds
/// the doors open but the daemon.
#[derive(Debug)]
pub struct Held {
    open: Open,
    expires_at: Timestamp,
    first: Doors,
    /// Those that were added.
    late: Doors,
    /// Logins for the program are sealed to it.
    recipient: Option<Arc<Recipient>>,
}

/// They outlive the daemon that serves them.
type Doors = Vec<(Door, Arc<OwnedFd>)>;

/// A door on the host's loopback, behind a password: all that sessions below `confined` have.
#[derive(Debug)]
pub struct PasswordDoor {
    pub address: SocketAddr,
    password: String,
    listener: TcpListener,
}

impl Request {
    /// A program that is only shown gets no login: none is made.
    pub fn for_program(program: &Program, args: &args::Run) -> Result<Self, Fault> {
        let mut request = Self::new(program, args.role.clone(), args.ttl, false);
        if !args.dry_run {
            let failed = |fault: &dyn std::fmt::Display| Fault::new(fault.to_string(), "try again");
            let mut bytes = zeroize::Zeroizing::new([0; 32]);
            writ_sys::random(bytes.as_mut_slice()).map_err(|fault| failed(&fault))?;
            let recipient = Recipient::from_random(&bytes).map_err(|fault| failed(&fault))?;
            request.open.recipient = Some(recipient.key().clone());
            request.recipient = Some(Arc::new(recipient));
        }
        Ok(request)
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
            keepsake: None,
            variables: std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect(),
            recipient: None,
            by_hand,
        };
        Self { open, recipient: None }
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
        let listener = door.listener.try_clone();
        let listener = listener.map_err(|error| Fault::new(error.to_string(), "close some files"))?;
        Session::open(paths, open, vec![(Door::Proxy, Arc::new(listener.into()))], self.recipient.clone())
    }

    /// Opens a session on doors that nobody else can reach.
    #[cfg(target_os = "linux")]
    pub fn within(&self, paths: &Paths, doors: Vec<(Door, OwnedFd)>) -> Result<Session, Fault> {
        let names = doors.iter().map(|(door, _)| door.clone()).collect();
        let open = Open { level: Level::Confined, doors: names, ..self.open.clone() };
        Session::open(paths, open, shared(doors), self.recipient.clone())
    }
}

impl Session {
    fn open(
        paths: &Paths,
        open: Open,
        doors: Doors,
        recipient: Option<Arc<Recipient>>,
    ) -> Result<Self, Fault> {
        Self::open_on(client::connect(paths, &paths.run_socket())?, open, doors, recipient)
    }

    fn open_on(
        mut stream: UnixStream,
        open: Open,
        doors: Doors,
        recipient: Option<Arc<Recipient>>,
    ) -> Result<Self, Fault> {
        send(&mut stream, &FromLauncher::Open(open.clone()), &apart(&doors).1)?;
        let opened: Opened = match frame::read(&mut stream)? {
            FromBroker::Opened(opened) => opened,
            FromBroker::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(Fault::new("the daemon answered another question", "run: writ stop")),
        };
        let (resumed_from, keepsake) = (Some(opened.session), Some(opened.keepsake.clone()));
        let open = Open { resumed_from, keepsake, ..open };
        let held = Held { open, expires_at: opened.expires_at, first: doors, late: Doors::new(), recipient };
        Ok(Self { stream, opened, held })
    }

    /// Adds doors whose addresses only the answer to the opening told.
    #[cfg(target_os = "linux")]
    pub fn add(&mut self, doors: Vec<(Door, OwnedFd)>) -> Result<(), Fault> {
        self.add_shared(shared(doors))
    }

    /// Adds a door on loopback for each server whose login the program holds: where names do not lead there by themselves.
    pub fn add_login_doors(&mut self) -> Result<Vec<(Authority, SocketAddr)>, Fault> {
        let failed =
            |error: std::io::Error| Fault::new(error.to_string(), "close some files, then try again");
        let (mut doors, mut addresses) = (Doors::new(), Vec::new());
        for revealed in &self.opened.revealed {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            let authority = revealed.authority.clone();
            addresses.push((authority.clone(), listener.local_addr().map_err(failed)?));
            doors.push((Door::Named { authority }, Arc::new(listener.into())));
        }
        self.add_shared(doors)?;
        Ok(addresses)
    }

    fn add_shared(&mut self, doors: Doors) -> Result<(), Fault> {
        if !doors.is_empty() {
            let (names, sockets) = apart(&doors);
            send(&mut self.stream, &FromLauncher::Doors { doors: names }, &sockets)?;
        }
        self.held.late.extend(doors);
        Ok(())
    }

    /// What its doors are.
    pub fn doors(&self) -> impl Iterator<Item = &Door> {
        self.held.first.iter().chain(&self.held.late).map(|(door, _)| door)
    }
}

impl Held {
    /// Opens a session that goes on with this one. A door that the configuration has no place for any more is closed.
    pub fn reopen(&self, paths: &Paths) -> Result<Session, Fault> {
        // A daemon that does not come up has decided nothing about this session.
        let stream = client::connect(paths, &paths.run_socket());
        let stream = stream.map_err(|fault| Fault { kind: None, ..fault })?;
        let recipient = self.recipient.clone();
        let mut session = Session::open_on(stream, self.open.clone(), self.first.clone(), recipient)?;
        let still = |(door, socket): &&(Door, Arc<OwnedFd>)| allows(&session.opened, door, socket);
        let late = self.late.iter().filter(still).cloned().collect();
        session.add_shared(late)?;
        Ok(session)
    }

    /// Which session it was.
    pub fn session(&self) -> Option<SessionId> {
        self.open.resumed_from
    }

    /// Opens logins.
    pub fn recipient(&self) -> Option<&Recipient> {
        self.recipient.as_deref()
    }

    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Whether a session has a door there, of those that come after its opening.
fn allows(opened: &Opened, door: &Door, socket: &OwnedFd) -> bool {
    let at = getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    match (door, at) {
        (Door::Local { port }, _) => opened.local.contains(port),
        (Door::Named { authority }, Some(at)) => {
            let named = opened.named.iter().find(|named| named.authority == *authority);
            let login = opened.revealed.iter().any(|revealed| revealed.authority == *authority);
            named.is_some_and(|named| named.addresses.contains(&at.ip())) || login && at.ip().is_loopback()
        }
        _ => false,
    }
}

fn shared(doors: Vec<(Door, OwnedFd)>) -> Doors {
    doors.into_iter().map(|(door, socket)| (door, Arc::new(socket))).collect()
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

fn apart(doors: &[(Door, Arc<OwnedFd>)]) -> (Vec<Door>, Vec<BorrowedFd<'_>>) {
    doors.iter().map(|(door, socket)| (door.clone(), socket.as_fd())).unzip()
}

/// Sends one message, with descriptors beside it.
pub fn send(
    stream: &mut UnixStream,
    message: &FromLauncher,
    sockets: &[BorrowedFd<'_>],
) -> Result<(), Fault> {
    let lost = |error: std::io::Error| Fault::new(format!("the daemon: {error}"), "try again");
    let message = frame::encode(message)?;
    let sent = writ_sys::send_with_fds(stream, &message, sockets).map_err(lost)?;
    stream.write_all(message.get(sent..).unwrap_or_default()).map_err(lost)
}

/// 32 random bytes, hexadecimal: what every later connection must show.
fn password() -> Result<String, Fault> {
    let mut bytes = [0; 32];
    writ_sys::random(&mut bytes)
        .map_err(|error| Fault::new(format!("the system gives no random bytes: {error}"), ""))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
