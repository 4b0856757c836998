//! Judges each `connect` of the session, and makes it itself.
//!
//! ```text
//!   A  connect(fd, address) ──► waits in the kernel
//!   us   1. copy the address out of the caller's memory, take the socket out of its descriptors
//!        2. does the call still wait? then both belong to the thread that asked
//!        3. judge the copy
//!        4. connect our end of the socket to the copy, and answer with what came of it
//! ```
//!
//! Invariant: no answer lets the original `connect` continue. Its memory may change at any time, in another thread or process;
//! ours does not, and the socket is the same open file whatever becomes of the caller's number for it.
//!
//! `listen` does continue: it is only noted whose sockets listen (see [`servers`](super::servers)), and a socket that was
//! exchanged in between is a stranger's.
//!
//! A connect that may block has a thread of its own, up to [`CONNECTING_MAX`]; the next one waits for a place. All of this ends
//! with the launcher: a `connect` of what is left then fails with `ENOSYS`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_getfl, open, openat2};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType, ipproto, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use writ_sys::{Answer, Notification, answer_notification, notification_waits, receive_notification};

use super::judge::{self, ADDRESS_MAX, Target, Verdict};
use super::orphans::Orphans;
use super::servers::{Place, Server, Servers};

/// The most connects that may be waiting for their servers at a time.
const CONNECTING_MAX: usize = 128;
/// How long nothing has happened when ended orphans are reaped.
const REAPING: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Of a thread that makes one call.
const STACK: usize = 128 * 1024;

/// The judge of one session's connections. It ends when this is ended or dropped.
#[derive(Debug)]
pub struct Supervisor {
    /// Closed to end the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<thread::JoinHandle<()>>,
    orphans: Orphans,
}

impl Supervisor {
    /// Starts to judge. The thread it starts blocks the signals that this one blocks.
    pub(super) fn start(listener: OwnedFd, reachable: Vec<SocketAddr>, orphans: Orphans) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let bench = Arc::new(Bench {
            listener,
            reachable,
            servers: Servers::default(),
            connecting: Mutex::new(0),
            done: Condvar::new(),
        });
        let thread = thread::Builder::new()
            .name("connect-judge".into())
            .spawn(move || serve(&bench, &stopped, orphans))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), orphans })
    }

    /// Ends with the run: nothing is connected any more, and programs that the run left behind are killed.
    pub fn end(mut self) {
        self.stop();
        self.orphans.kill();
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a call is judged with.
#[derive(Debug)]
struct Bench {
    listener: OwnedFd,
    reachable: Vec<SocketAddr>,
    servers: Servers,
    connecting: Mutex<usize>,
    done: Condvar,
}

fn serve(bench: &Arc<Bench>, stopped: &io::PipeReader, orphans: Orphans) {
    loop {
        let mut polled = [PollFd::new(&bench.listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut polled, Some(&REAPING)) {
            Ok(0) => {
                orphans.reap();
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let [calls, end] = polled.map(|one| one.revents());
        // Without a process that is judged, the listener hangs up.
        if !end.is_empty() || !calls.contains(PollFlags::IN) {
            return;
        }
        // One that is gone already needs no answer.
        if let Ok(notice) = receive_notification(&bench.listener) {
            take(bench, notice);
        }
    }
}

fn take(bench: &Arc<Bench>, notice: Notification) {
    let judged = match notice.call {
        libc::SYS_connect => connect(bench, notice),
        libc::SYS_listen => listen(bench, notice),
        _ => Err(Errno::NOSYS.into()),
    };
    match judged {
        Ok(Some(answer)) => bench.answer(notice.id, answer),
        Ok(None) => {}
        Err(error) => bench.answer(notice.id, refusal(&error)),
    }
}

/// `listen`: notes the socket, and lets the call go on.
fn listen(bench: &Bench, notice: Notification) -> io::Result<Option<Answer>> {
    let caller = Caller::of(notice)?;
    let socket = caller.socket(notice)?;
    if !notification_waits(&bench.listener, notice.id) {
        return Ok(None);
    }
    bench.servers.note(&socket)?;
    Ok(Some(Answer::Continue))
}

/// `connect`: `None` if the answer comes later or is not needed any more.
fn connect(bench: &Arc<Bench>, notice: Notification) -> io::Result<Option<Answer>> {
    let caller = Caller::of(notice)?;
    let address = caller.address(notice)?;
    let socket = caller.socket(notice)?;
    let place = match Target::parse(&address) {
        Some(Target::File(path)) => Some(caller.open(&path)),
        _ => None,
    };
    if !notification_waits(&bench.listener, notice.id) {
        return Ok(None);
    }
    let target = Target::parse(&address).ok_or(Errno::ACCESS)?;
    let destination = bench.judge(target, place, &socket)?;
    if fcntl_getfl(&socket)?.contains(OFlags::NONBLOCK) {
        return Ok(Some(destination.connect(&socket)));
    }
    bench.wait_for_place();
    let (id, shared) = (notice.id, Arc::clone(bench));
    let task = move || {
        shared.answer(id, destination.connect(&socket));
        shared.leave_place();
    };
    if let Err(error) = thread::Builder::new().name("connect".into()).stack_size(STACK).spawn(task) {
        bench.leave_place();
        return Err(error);
    }
    Ok(None)
}

/// Where our end of the socket is connected to: nothing of this is the caller's memory.
enum Destination {
    Tcp(SocketAddr),
    File(OwnedFd),
    Abstract(Vec<u8>),
    Nothing,
}

impl Bench {
    fn judge(
        &self,
        target: Target,
        place: Option<io::Result<OwnedFd>>,
        socket: &OwnedFd,
    ) -> io::Result<Destination> {
        let family = sockopt::socket_domain(socket)?;
        let is_unix = family == AddressFamily::UNIX;
        let is_tcp = [AddressFamily::INET, AddressFamily::INET6].contains(&family)
            && sockopt::socket_type(socket)? == SocketType::STREAM
            && sockopt::socket_protocol(socket)? == Some(ipproto::TCP);
        match target {
            Target::Nothing if is_tcp => Ok(Destination::Nothing),
            Target::Tcp(address) if is_tcp => match judge::judge(address, &self.reachable) {
                Verdict::Connect => Ok(Destination::Tcp(address)),
                Verdict::OwnServer(meant) => own(self.servers.tcp(meant)?, Destination::Tcp(address)),
                Verdict::Refuse => Err(Errno::ACCESS.into()),
            },
            Target::File(_) if is_unix => {
                let file = place.ok_or(Errno::ACCESS)??;
                own(self.servers.unix(Place::File(&file))?, Destination::File(file))
            }
            Target::Abstract(name) if is_unix => {
                own(self.servers.unix(Place::Abstract(&name))?, Destination::Abstract(name))
            }
            _ => Err(Errno::ACCESS.into()),
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
        // Whoever does not wait any more was killed.
        let _ = answer_notification(&self.listener, id, answer);
    }

    fn wait_for_place(&self) {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        while *connecting >= CONNECTING_MAX {
            connecting = self.done.wait(connecting).unwrap_or_else(PoisonError::into_inner);
        }
        *connecting += 1;
    }

    fn leave_place(&self) {
        *self.connecting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.done.notify_one();
    }
}

/// A place where nobody listens refuses, as it would without us; one where a stranger does is closed to the session.
fn own(server: Server, destination: Destination) -> io::Result<Destination> {
    match server {
        Server::Ours => Ok(destination),
        Server::Nobody => Err(Errno::CONNREFUSED.into()),
        Server::Stranger => Err(Errno::ACCESS.into()),
    }
}

impl Destination {
    fn connect(self, socket: &OwnedFd) -> Answer {
        let outcome = match self {
            Self::Tcp(address) => net::connect(socket, &address),
            // The path of an open file leads to that file and to nothing else.
            Self::File(file) => SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .and_then(|address| net::connect(socket, &address)),
            Self::Abstract(name) => {
                SocketAddrUnix::new_abstract_name(&name).and_then(|address| net::connect(socket, &address))
            }
            Self::Nothing => net::connect_unspec(socket),
        };
        outcome.map_or_else(|error| Answer::Error(error.raw_os_error()), |()| Answer::Value(0))
    }
}

/// The thread that asks. What is opened by its number counts only once the call is known to wait still.
struct Caller {
    thread: u32,
    process: OwnedFd,
}

impl Caller {
    fn of(notice: Notification) -> io::Result<Self> {
        let thread = notice.thread;
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let process = process.and_then(|number| number.trim().parse().ok()).and_then(Pid::from_raw);
        let process = pidfd_open(process.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
        Ok(Self { thread, process })
    }

    fn socket(&self, notice: Notification) -> io::Result<OwnedFd> {
        let [number, ..] = notice.arguments;
        // The kernel reads an `int`.
        let number = RawFd::from_ne_bytes(low_half(number).to_ne_bytes());
        Ok(pidfd_getfd(&self.process, number, PidfdGetfdFlags::empty())?)
    }

    /// Our copy of the address.
    fn address(&self, notice: Notification) -> io::Result<Vec<u8>> {
        let [_, from, length, ..] = notice.arguments;
        let length = usize::try_from(low_half(length)).unwrap_or(usize::MAX);
        if length > ADDRESS_MAX {
            return Err(Errno::INVAL.into());
        }
        let mut bytes = vec![0; length];
        let memory = File::open(format!("/proc/{}/mem", self.thread))?;
        memory.read_exact_at(&mut bytes, from).map_err(|_| io::Error::from(Errno::FAULT))?;
        Ok(bytes)
    }

    /// Opens the file of a Unix socket as the caller sees it, without opening what is in it. One with another root
    /// directory than ours is refused: paths mean something else there.
    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let proc = |name: &str| format!("/proc/{}/{name}", self.thread);
        let (theirs, ours) = (std::fs::metadata(proc("root"))?, std::fs::metadata("/")?);
        if (theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()) {
            return Err(Errno::ACCESS.into());
        }
        let path = Path::new(OsStr::from_bytes(path));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_MAGICLINKS;
        if path.is_absolute() {
            return Ok(openat2(CWD, path, flags, Mode::empty(), resolve)?);
        }
        let directory = open(proc("cwd"), flags | OFlags::DIRECTORY, Mode::empty())?;
        Ok(openat2(directory.as_fd(), path, flags, Mode::empty(), resolve)?)
    }
}

fn low_half(register: u64) -> u32 {
    u32::try_from(register & u64::from(u32::MAX)).unwrap_or_default()
}

/// What the caller is told when its call could not even be judged.
fn refusal(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(number) => Answer::Error(number),
        None if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Error(libc::ECONNREFUSED),
        None => Answer::Error(libc::EACCES),
    }
}
