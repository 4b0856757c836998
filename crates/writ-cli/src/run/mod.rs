//! `writ run`: the launcher.
//!
//! ```text
//!   resolve the program ─► listen on loopback ─► open the session ─► write the CA bundle ─► plan the environment
//!     ─► start the program ─► wait: its end, the session's end, signals ─► close the session, pass its status on
//! ```
//!
//! It holds no key and runs no asynchronous runtime: one thread that polls. In this release the level is `advisory`: variables
//! and certificate bundles. Absent: confinement, which will be stages before the program.

mod bundle;
mod environment;
mod program;
mod supervise;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    process::{ExitCode, ExitStatus},
};

use aws_lc_rs::{digest, rand};
use writ_api::{
    VERSION, frame,
    run::{FromBroker, FromLauncher, Open, Opened},
};
use writ_core::{Door, Level, RoleName, Ttl};
use writ_run::{Agent, Job, Plain, Publish, Published, Step, Terminal, TerminalFacts, publish::Relays};

use crate::{
    args, client,
    fault::{EXIT_NOT_EXECUTABLE, EXIT_WRIT_FAILED, Fault},
    output::Output,
    paths::Paths,
};
pub use bundle::system_bundle;
use program::Program;

/// What this release can do.
const LEVEL: Level = Level::Advisory;

/// Runs a program in a session of its own, and ends as it ended.
pub fn run(paths: &Paths, output: Output, args: &args::Run) -> Result<ExitCode, Fault> {
    if args.require.is_some_and(|required| required > LEVEL) {
        return Err(Fault::new(
            "this release runs programs at the level advisory only",
            "leave --require out, or name advisory",
        ));
    }
    let program = Program::resolve(&args.program)?;
    let session = Session::open(paths, &Request::for_program(&program, args))?;
    warn(output, &session.opened);
    let bundle = bundle::write(paths, &session.opened)?;
    let variables = environment::plan(std::env::vars_os(), &session.opened, &session.proxy_url(), &bundle);
    let status = supervise(&program, variables, session.stream, &args.publish, output);
    bundle.remove();
    Ok(supervise::pass_on(status?))
}

/// Starts the program as our own child, and waits for its end.
fn supervise(
    program: &Program,
    environment: Vec<(OsString, OsString)>,
    stream: UnixStream,
    publish: &[Publish],
    output: Output,
) -> Result<ExitStatus, Fault> {
    let failed = |error: std::io::Error| Fault::new(error.to_string(), "try again");
    let facts = TerminalFacts::gather();
    let terminal = Terminal::decide(&facts);
    let job = Job::new(&facts, terminal).map_err(failed)?;
    let signals = supervise::signals().map_err(failed)?;
    let published = published(publish)?;
    let plan = program.plan(environment, terminal);
    let agent = Plain::start(Plain::command(&plan), terminal, &signals).map_err(|fault| {
        Fault::new(fault.to_string(), "name a program").exit(if fault.step == Step::Execute {
            EXIT_NOT_EXECUTABLE
        } else {
            EXIT_WRIT_FAILED
        })
    })?;
    let on_daemon_gone = &mut || None;
    let agent = Agent::Plain(agent);
    supervise::Supervisor { agent, terminal, job, signals, stream, published, output, on_daemon_gone }.run()
}

/// Listens on the published ports. Where the program is on the host's own network, a port of the same number is there already.
fn published(publish: &[Publish]) -> Result<Vec<Published>, Fault> {
    let relays = Relays::default();
    let needed = publish.iter().filter(|port| LEVEL == Level::Confined || port.host != port.inner);
    let listen = |port: &Publish| {
        Published::listen(*port, &relays).map_err(|error| {
            Fault::new(format!("--publish {port}: {error}"), "publish another port of the host")
        })
    };
    needed.map(listen).collect()
}

fn warn(output: Output, opened: &Opened) {
    output.say(&format!(
        "session {} as {} with role {} (advisory)",
        opened.session, opened.workload, opened.role
    ));
    output.say("advisory: the program runs as you, unconfined. It could read writ's state and your files,");
    output.say("and reach hosts around the proxy. Its environment holds placeholders only.");
    for name in &opened.withhold {
        output.say(&format!("{name} is withheld: writ has no credential for it (writ init takes it over)"));
    }
    for (name, _) in std::env::vars().filter(|(_, value)| writ_core::looks_like_key(value)) {
        let replaced = opened.variables.iter().any(|variable| variable.name == name);
        if !replaced && !opened.withhold.contains(&name) {
            output.say(&format!("{name} is withheld: its value looks like a real key"));
        }
    }
}

/// What a session is opened with.
pub struct Request {
    pub open: Open,
    pub listen: SocketAddr,
}

impl Request {
    fn for_program(program: &Program, args: &args::Run) -> Self {
        Self::new(program, args.role.clone(), args.ttl, false, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub fn by_hand(role: Option<RoleName>, ttl: Option<Ttl>, listen: SocketAddr) -> Result<Self, Fault> {
        Ok(Self::new(&Program::ourselves()?, role, ttl, true, listen))
    }

    fn new(
        program: &Program,
        role: Option<RoleName>,
        ttl: Option<Ttl>,
        by_hand: bool,
        listen: SocketAddr,
    ) -> Self {
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        let open = Open {
            version: VERSION,
            role,
            ttl,
            program: program.executable.clone(),
            script: program.script.clone(),
            level: LEVEL,
            doors: vec![Door::Proxy],
            password_sha256: None,
            resumed_from: None,
            variables,
            by_hand,
        };
        Self { open, listen }
    }
}

/// An open session, from the launcher's side. Dropping the stream ends it.
pub struct Session {
    pub stream: UnixStream,
    pub opened: Opened,
    pub password: String,
    pub address: SocketAddr,
}

impl Session {
    /// Listens, and asks the broker for a session on that listener.
    pub fn open(paths: &Paths, request: &Request) -> Result<Self, Fault> {
        let listening = |error: std::io::Error| {
            Fault::new(format!("{}: {error}", request.listen), "name a free loopback address")
        };
        let listener = TcpListener::bind(request.listen).map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let password = password()?;
        let mut open = request.open.clone();
        open.password_sha256 = Some(hex(digest::digest(&digest::SHA256, password.as_bytes()).as_ref()));
        let mut stream = client::connect(paths, &paths.run_socket())?;
        send_open(&mut stream, open, listener.as_fd())?;
        drop(listener);
        match frame::read(&mut stream)? {
            FromBroker::Opened(opened) => Ok(Self { stream, opened, password, address }),
            FromBroker::Refused(refusal) => Err(refusal.into()),
            _ => Err(Fault::new("the daemon answered another question", "run: writ stop")),
        }
    }

    /// Where the program sends its requests, with the session's password.
    pub fn proxy_url(&self) -> String {
        format!("http://writ:{}@{}", self.password, self.address)
    }
}

fn send_open(stream: &mut UnixStream, open: Open, listener: BorrowedFd<'_>) -> Result<(), Fault> {
    let message = frame::encode(&FromLauncher::Open(open))?;
    let sent = writ_sys::send_with_fds(stream, &message, &[listener]);
    let sent = sent.map_err(|error| Fault::new(format!("the daemon: {error}"), "try again"))?;
    let rest = message.get(sent..).unwrap_or_default();
    std::io::Write::write_all(stream, rest)
        .map_err(|error| Fault::new(format!("the daemon: {error}"), "try again"))
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
