//! Going on after the daemon was lost: another daemon, and a new session on the same doors.
//!
//! ```text
//!   lost ─► connect (this starts a daemon) ─► Open, resumed_from, doors ─► Opened ─► Doors of named targets and of loopback
//!             │ locked, or no daemon comes up: said once, and tried again
//!             └ refused, or the session's time is up: said, and the doors are closed
//! ```
//!
//! It happens on a thread of its own, so that signals, the terminal and the program's end are attended to meanwhile; the thread holds
//! nothing that the program's life depends on, and goes with the process. Connections that the program opens meanwhile wait in the
//! doors, unless they are more than these hold.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use writ_core::{Clock, RefusalKind, Timestamp};

use super::session::{Held, Session};
use crate::{daemon::SystemClock, fault::Fault, paths::Paths};

/// Between the first tries; each pause is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Between later ones. A person who unlocks writ waits no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// An attempt to go on, under way.
pub struct Comeback {
    news: Receiver<News>,
    /// Readable when there is news.
    wake: UnixStream,
}

/// What came of it.
pub enum News {
    /// A line for the person.
    Said(String),
    /// The session goes on as this one.
    Back(Box<Session>),
    /// It does not go on, and why.
    Over(String),
}

impl Comeback {
    /// Begins to try.
    ///
    /// # Errors
    /// When the system gives no thread or no pipe.
    pub fn begin(paths: &Paths, held: Held) -> io::Result<Self> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (sender, news) = mpsc::channel();
        let (paths, teller) = (paths.clone(), Teller { sender, waker });
        thread::Builder::new().name("comeback".to_owned()).spawn(move || attempt(&paths, held, teller))?;
        Ok(Self { news, wake })
    }

    /// The next piece of news, if there is one.
    pub fn next(&self) -> Option<News> {
        let mut byte = [0];
        let woken = (&self.wake).read(&mut byte);
        match self.news.try_recv() {
            Ok(news) => Some(news),
            Err(_) if matches!(woken, Ok(0)) => Some(News::Over("the attempt failed".to_owned())),
            Err(_) => None,
        }
    }
}

impl AsFd for Comeback {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

struct Teller {
    sender: Sender<News>,
    waker: UnixStream,
}

impl Teller {
    fn tell(&mut self, news: News) {
        // Nobody listens any more: the run is over.
        let _ = self.sender.send(news);
        let _ = self.waker.write_all(&[0]);
    }
}

fn attempt(paths: &Paths, held: Held, mut teller: Teller) {
    let (mut pause, mut told) = (PAUSE_MIN, None);
    loop {
        match held.reopen(paths) {
            Ok(session) => return teller.tell(News::Back(Box::new(session))),
            Err(fault) if passes(&fault) && !is_over(held.expires_at()) => {
                // The same trouble is told once.
                if told.as_ref() != Some(&fault.what) {
                    teller.tell(News::Said(line(&fault)));
                    told = Some(fault.what);
                }
            }
            Err(fault) => return teller.tell(News::Over(fault.what)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn line(fault: &Fault) -> String {
    if fault.kind == Some(RefusalKind::Locked) {
        return "the daemon was lost, and another one is locked: the program waits. Run: writ unlock"
            .to_owned();
    }
    format!("the daemon was lost, and no other is there yet: {}", fault.what)
}

/// Whether it may be better in a while. What the daemon decided stays decided.
fn passes(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        None | Some(
            RefusalKind::Locked
                | RefusalKind::BrokerUnavailable
                | RefusalKind::AuditUnavailable
                | RefusalKind::Limit
                | RefusalKind::Internal
        )
    )
}

/// Whether a session's time is up: no daemon would take it.
fn is_over(expires_at: Timestamp) -> bool {
    SystemClock.now() >= expires_at
}
