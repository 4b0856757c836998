//! System calls that another process judges (`seccomp_unotify(2)`), and the version of Landlock. Linux only.
//!
//! Whoever judges never lets the original call continue after having read memory: the caller could change it in between. So it
//! makes the call itself, and answers with what came of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names the call at its listener; never given out twice.
    pub id: u64,
    /// The thread that calls, as a number of our PID namespace; 0 if it has none there.
    pub thread: u32,
    /// The call's number.
    pub call: i64,
    /// Its arguments, as they stand in the registers.
    pub arguments: [u64; 6],
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
    /// It is made as it was asked for. Sound only for calls whose meaning the judge need not know.
    Continue,
}

/// Takes the next call, waiting for one.
///
/// # Errors
/// `ENOENT` if the one that was there is gone (its thread was killed or interrupted); `EINTR`; see `seccomp_unotify(2)`.
pub fn receive_notification(listener: impl AsFd) -> io::Result<Notification> {
    // SAFETY: the structure consists of integers, for which zero is a value; the kernel wants it zeroed.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let number = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the structure is writable and of the size that the request's number carries.
    if unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Notification {
        id: notice.id,
        thread: notice.pid,
        call: notice.data.nr.into(),
        arguments: notice.data.args,
    })
}

/// Whether the call still waits: if so, its thread is the one that was named when the call was received, so that what was read
/// or opened *before* by the thread's number belongs to it.
pub fn notification_waits(listener: impl AsFd, id: u64) -> bool {
    let number = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the number is readable memory of the size that the request's number carries.
    unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` if it does not wait any more, which is nobody's fault; `EINPROGRESS` if it was answered already.
pub fn answer_notification(listener: impl AsFd, id: u64, answer: Answer) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match answer {
        Answer::Value(value) => response.val = value,
        Answer::Error(number) => response.error = -number.abs(),
        Answer::Continue => response.flags = 1,
    }
    let number = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the structure is of the size that the request's number carries.
    match unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The version of Landlock's interface that the kernel has (`landlock(7)`), or `None` if it is absent or switched off.
pub fn landlock_abi() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    let (no_attributes, no_size) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: asked for its version, the call reads no memory.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_attributes, no_size, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    use super::*;
    use crate::seccomp::{Instruction, install_filter_with_listener};

    /// A thread whose `getppid` is judged: `answer` decides, the thread says what the call returned.
    fn judged(answer: impl Fn(&OwnedFd, Notification) -> Answer) -> i64 {
        let (sender, listener) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let number = u32::try_from(libc::SYS_getppid).unwrap();
            let instruction = |code, if_false, operand| Instruction { code, if_true: 0, if_false, operand };
            let program = [
                instruction(0x20, 0, 0),
                instruction(0x15, 1, number),
                instruction(0x06, 0, libc::SECCOMP_RET_USER_NOTIF),
                instruction(0x06, 0, libc::SECCOMP_RET_ALLOW),
            ];
            rustix::thread::set_no_new_privs(true).unwrap();
            sender.send(install_filter_with_listener(&program).unwrap()).unwrap();
            // SAFETY: no memory is involved.
            match unsafe { libc::syscall(libc::SYS_getppid, 7, 8) } {
                -1 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap()),
                value => value,
            }
        });
        let listener = listener.recv().unwrap();
        let notice = receive_notification(&listener).unwrap();
        assert_eq!((notice.call, &notice.arguments[..2]), (libc::SYS_getppid, &[7, 8][..]));
        assert!(notification_waits(&listener, notice.id));
        answer_notification(&listener, notice.id, answer(&listener, notice)).unwrap();
        assert!(!notification_waits(&listener, notice.id));
        assert!(answer_notification(&listener, notice.id, Answer::Continue).is_err(), "one answer is enough");
        thread.join().unwrap()
    }

    #[test]
    fn a_call_gets_the_answer_it_was_given() {
        assert_eq!(judged(|_, _| Answer::Value(77)), 77);
        assert_eq!(judged(|_, _| Answer::Error(libc::EACCES)), i64::from(-libc::EACCES));
        let parent = i64::from(std::os::unix::process::parent_id());
        assert_eq!(judged(|_, _| Answer::Continue), parent);
        let _thread = judged(|_, notice| Answer::Value(i64::from(notice.thread)));
    }
}
