//! A person at a terminal: a real pseudo-terminal, a program that leads a session on it, and keys.
//!
//! What the program prints is read by a thread of its own, so that it never waits for us. There are no pauses: a test waits for
//! what it expects to see, and gives up after [`PATIENCE`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// When a test gives up waiting.
const PATIENCE: Duration = Duration::from_secs(60);
/// When a key is pressed again.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Rows and columns at first.
const SIZE: (u16, u16) = (24, 80);

/// A terminal with a program on it. The program is killed when this is dropped.
pub struct Pty {
    person: File,
    screen: Arc<Screen>,
    /// How far [`Pty::wait_for`] has read.
    read: usize,
    child: Child,
    /// The thread that reads ends when the other end of its socket does.
    reading: Option<(UnixStream, JoinHandle<()>)>,
}

#[derive(Default)]
struct Screen {
    shown: Mutex<Shown>,
    changed: Condvar,
}

#[derive(Default)]
struct Shown {
    bytes: Vec<u8>,
    /// Nobody has the terminal open any more.
    over: bool,
}

impl Pty {
    /// Starts `command` as the leader of a session on a new terminal, which is its input, output and error.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the command does not start.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&person)?;
        unlockpt(&person)?;
        let name = ptsname(&person, Vec::new())?.into_string().map_err(io::Error::other)?;
        let no_terminal_of_ours = i32::try_from(OFlags::NOCTTY.bits()).map_err(io::Error::other)?;
        let terminal =
            OpenOptions::new().read(true).write(true).custom_flags(no_terminal_of_ours).open(name)?;
        resize(&person, SIZE)?;
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        let child = writ_sys::terminal_session(&mut command).spawn()?;
        let screen = Arc::new(Screen::default());
        let person = File::from(person);
        let (watcher, watched) = UnixStream::pair()?;
        let (reader, shown) = (person.try_clone()?, Arc::clone(&screen));
        let reading = thread::spawn(move || {
            read_until_closed(reader, &watched, &shown);
            shown.finish();
        });
        Ok(Self { person, screen, read: 0, child, reading: Some((watcher, reading)) })
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) -> io::Result<()> {
        self.person.write_all(keys.as_bytes())
    }

    /// Waits until `text` was shown after what was waited for before, and returns everything in between.
    ///
    /// # Errors
    /// When it is not shown in a minute, or the terminal is over; the error says what was shown instead.
    pub fn wait_for(&mut self, text: &str) -> io::Result<String> {
        self.wait_until(text, Instant::now() + PATIENCE)
    }

    /// Presses `keys` again and again until `text` is shown, as people do with a program that was not looking.
    ///
    /// # Errors
    /// As [`Pty::wait_for`].
    pub fn press_until(&mut self, keys: &str, text: &str) -> io::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.press(keys)?;
            let seen = self.wait_until(text, deadline.min(Instant::now() + IMPATIENCE));
            if seen.is_ok() || Instant::now() >= deadline {
                return seen;
            }
        }
    }

    fn wait_until(&mut self, text: &str, deadline: Instant) -> io::Result<String> {
        let mut shown = self.screen.shown.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = shown.bytes.get(self.read..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.read += at + text.len();
                return Ok(String::from_utf8_lossy(new.get(..at).unwrap_or_default()).into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || shown.over {
                let seen = String::from_utf8_lossy(new).into_owned();
                return Err(io::Error::other(format!("no {text:?} (over: {}) but {seen:?}", shown.over)));
            }
            let waited = self.screen.changed.wait_timeout(shown, left);
            shown = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that was ever shown.
    #[must_use]
    pub fn transcript(&self) -> String {
        let shown = self.screen.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown.bytes).into_owned()
    }

    /// Drags the window to another size.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        resize(&self.person, (rows, columns))
    }

    /// The process group in the foreground; 0 for none.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn foreground(&self) -> io::Result<i32> {
        writ_sys::jobs::foreground_group(&self.person)
    }

    /// The program that leads the session; its process group has the same number.
    #[must_use]
    pub fn leader(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    /// Closes the window: the terminal hangs up. It returns when the leader of the session has ended by that.
    pub fn hang_up(mut self) {
        self.close();
        let Self { person, .. } = &mut self;
        // The descriptor that stays is no terminal any more.
        if let Ok(null) = File::open("/dev/null") {
            *person = null;
        }
        let _ = self.child.wait();
    }

    fn close(&mut self) {
        if let Some((watcher, reading)) = self.reading.take() {
            drop(watcher);
            let _ = reading.join();
        }
    }

    /// Waits for the end of the program that leads the session.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        let process = writ_sys::pidfd_of_child(&self.child)?;
        if writ_sys::pidfd_exited(&process, PATIENCE)? {
            return self.child.wait();
        }
        Err(io::Error::other(format!("no end: {:?}", self.transcript())))
    }
}

/// Shows what comes, until the last process has closed the terminal (EIO), or we close it.
fn read_until_closed(mut terminal: File, watched: &UnixStream, screen: &Screen) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut polled = [PollFd::new(&terminal, PollFlags::IN), PollFd::new(watched, PollFlags::IN)];
        let polled = poll(&mut polled, None).map(|_| polled.map(|one| !one.revents().is_empty()));
        match polled {
            Ok([_, true]) => return,
            Ok([true, false]) => match terminal.read(&mut buffer) {
                Ok(count @ 1..) => screen.show(buffer.get(..count).unwrap_or_default()),
                _ => return,
            },
            _ => {}
        }
    }
}

impl Screen {
    fn show(&self, bytes: &[u8]) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).bytes.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    fn finish(&self) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.close();
    }
}

fn resize(terminal: &impl std::os::fd::AsFd, (rows, columns): (u16, u16)) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}
