//! Signals as a descriptor to poll, and dying of a signal on purpose.
//!
//! The launcher runs no asynchronous runtime and installs no handlers: it blocks the signals it wants to see and
//! reads them from a descriptor (`signalfd(2)`), next to the descriptor of its child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The numbers, which differ between systems.
pub use libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

/// Signals taken out of normal delivery, to be read instead.
///
/// Dropping it does not unblock the signals: one that arrived meanwhile would strike at that moment.
pub struct SignalQueue {
    descriptor: OwnedFd,
    mask_before: libc::sigset_t,
}

impl SignalQueue {
    /// Blocks `signals` for this thread and those it starts from now on, and queues them.
    ///
    /// Call it before any other thread exists, since a signal to the process goes to any thread that does not block
    /// it. Children inherit the block, unless [`restore_in`](Self::restore_in) was called for their command.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal; the error of `signalfd(2)`; `Unsupported` elsewhere than on
    /// Linux.
    pub fn of(signals: &[i32]) -> io::Result<Self> {
        let (descriptor, mask_before) = system::queue(signals)?;
        Ok(Self { descriptor, mask_before })
    }

    /// Gives the child the signal mask that we had before the queue was made (`sigprocmask(2)`), as a further step
    /// between `fork` and `exec`.
    ///
    /// The standard library hands our own mask on, and a program that starts with its signals blocked cannot be
    /// interrupted.
    pub fn restore_in<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let mask = self.mask_before;
        let step = move || -> io::Result<()> {
            // SAFETY: the set was filled by the kernel, and the old mask is not asked for.
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) } {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        };
        // SAFETY: the step makes one system call and neither allocates nor locks.
        unsafe { command.pre_exec(step) }
    }

    /// Takes the next signal, if one is there. It does not wait: poll the descriptor for that.
    ///
    /// # Errors
    /// The error of `read(2)`.
    pub fn next(&self) -> io::Result<Option<i32>> {
        Ok(self.next_received()?.map(|received| received.signal))
    }

    /// As [`next`](Self::next), with what is known of the sender.
    ///
    /// # Errors
    /// The error of `read(2)`.
    pub fn next_received(&self) -> io::Result<Option<Received>> {
        system::next(&self.descriptor)
    }
}

/// A signal that was taken from a [`SignalQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel itself sent it, as it does for a key of the terminal to the whole foreground group
    /// (`SI_KERNEL`, `sigaction(2)`); otherwise a process did, perhaps to us alone.
    pub from_kernel: bool,
}

impl std::fmt::Debug for SignalQueue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SignalQueue").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Ends this process by `signal`, so that our caller sees the same wait status that we saw of our child.
///
/// The signal gets its default disposition, is unblocked and is sent to ourselves; core files are switched off
/// first, since the core that matters is the child's. Where the signal does not end us (it is ignored by
/// default, or we are the init of a PID namespace) we exit with 128 + `signal`, as shells do. Nothing is dropped or
/// flushed. See `signal(7)`.
pub fn raise_to_signal_death(signal: i32) -> ! {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let mut only = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable memory, which this call initializes.
    unsafe { libc::sigemptyset(only.as_mut_ptr()) };
    // SAFETY: the set was initialized above; a wrong number is an error and changes nothing.
    unsafe { libc::sigaddset(only.as_mut_ptr(), signal) };
    // SAFETY: the default disposition runs no code of ours; a wrong number is an error and changes nothing.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: `raise` sends to this thread; it has no memory arguments. While blocked, the signal stays pending.
    unsafe { libc::raise(signal) };
    // SAFETY: the set is initialized, and the old mask is not asked for. A pending signal strikes here.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), std::ptr::null_mut()) };
    std::process::exit(signal.saturating_add(128))
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{FromRawFd, OwnedFd};

    use rustix::io::Errno;

    pub(super) fn queue(signals: &[i32]) -> io::Result<(OwnedFd, libc::sigset_t)> {
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is writable memory, which this call initializes.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for &signal in signals {
            // SAFETY: the set was initialized above; a wrong number is an error and changes nothing.
            if unsafe { libc::sigaddset(set.as_mut_ptr(), signal) } != 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        // SAFETY: the set is initialized, and there is memory for the old mask.
        let status = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) };
        if status != 0 {
            return Err(io::Error::from_raw_os_error(status));
        }
        // SAFETY: the set is initialized; -1 asks for a new descriptor.
        let raw = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, so it is open and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: it was zeroed, and then filled by the call above, which succeeded.
        Ok((descriptor, unsafe { before.assume_init() }))
    }

    pub(super) fn next(descriptor: &OwnedFd) -> io::Result<Option<super::Received>> {
        // `struct signalfd_siginfo`: 128 bytes; the signal's number, `errno` and the code are the first three numbers, in
        // native order.
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(descriptor, &mut record) {
                Ok(length) if length == record.len() => break,
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (words, _) = record.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        Ok(Some(super::Received { signal: word(0), from_kernel: word(2) == libc::SI_KERNEL }))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;

    pub(super) fn queue(_: &[i32]) -> io::Result<(OwnedFd, libc::sigset_t)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn next(_: &OwnedFd) -> io::Result<Option<super::Received>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::testing::{again, role};

    const DIES: &str = "signals::tests::a_process_dies_of_the_signal_that_it_raises";

    #[test]
    fn a_process_dies_of_the_signal_that_it_raises() {
        if let Some(role) = role() {
            let (state, signal) = role.split_once(' ').unwrap();
            let signal: i32 = signal.parse().unwrap();
            if state == "blocked" {
                SignalQueue::of(&[signal]).unwrap();
            }
            if state == "ignored" {
                // SAFETY: ignoring a signal runs no code of ours.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            raise_to_signal_death(signal);
        }
        for state in ["default", "blocked", "ignored"] {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGSEGV, libc::SIGPIPE] {
                let status = again(DIES, &format!("{state} {signal}")).output().unwrap().status;
                assert_eq!(status.signal(), Some(signal), "{state}");
                assert!(!status.core_dumped());
            }
        }
        let status = again(DIES, &format!("default {}", libc::SIGKILL)).output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // One that is ignored by default.
        let status = again(DIES, &format!("default {}", libc::SIGWINCH)).output().unwrap().status;
        assert_eq!(status.code(), Some(128 + libc::SIGWINCH));
    }

    /// In a thread of its own, because a blocked signal stays blocked for the thread.
    #[test]
    fn a_blocked_signal_is_read_and_a_child_can_be_spared_the_block() {
        let test = || {
            let queue = SignalQueue::of(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();
            assert_eq!(queue.next().unwrap(), None);
            for signal in [libc::SIGUSR1, libc::SIGUSR2] {
                // SAFETY: the signal is blocked in this thread, to which it is sent.
                unsafe { libc::raise(signal) };
                assert_eq!(queue.next().unwrap(), Some(signal));
            }
            assert_eq!(queue.next().unwrap(), None);
            for spared in [false, true] {
                let mut command = Command::new("sh");
                command.args(["-c", "kill -USR1 $$; exit 3"]);
                if spared {
                    queue.restore_in(&mut command);
                }
                let status = command.status().unwrap();
                let expected = if spared { (Some(libc::SIGUSR1), None) } else { (None, Some(3)) };
                assert_eq!((status.signal(), status.code()), expected);
            }
        };
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(SignalQueue::of(&[4096]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
