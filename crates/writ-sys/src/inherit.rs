//! Descriptors across `exec`: which a child gets, how it takes them, and the `exec` itself.
//!
//! A stage of a launch is the same binary again. It gets exactly the descriptors that are meant for it, by number, however
//! careless our own caller was with its own. Linux only.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the child inherit `descriptors`, standard input, output and error, and nothing else, as a step between `fork` and
/// `exec`. They keep their numbers, and stay open here as long as `command` lives.
///
/// What else is open is marked close-on-exec in the child (`close_range(2)`, Linux 5.11), also what our caller left
/// open for us.
pub fn inherit_only(command: &mut Command, descriptors: Vec<OwnedFd>) -> &mut Command {
    let step = move || -> io::Result<()> {
        close_on_exec_from(3)?;
        for descriptor in &descriptors {
            // SAFETY: `F_SETFD` changes a flag of a descriptor that is owned here, and touches no memory.
            if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the step makes system calls only and neither allocates nor locks; `last_os_error` reads `errno`.
    unsafe { command.pre_exec(step) }
}

/// Takes a descriptor that was inherited by its number. It is close-on-exec afterwards.
///
/// It can be taken once: whatever this program opens itself is close-on-exec already, and such a descriptor is refused.
///
/// # Errors
/// `InvalidInput` for standard input, output and error and for one that was not inherited; `EBADF` if it is not open.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `F_GETFD` reads a flag and touches no memory; a wrong number is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `F_SETFD` changes a flag and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody here owns it: it was inherited, and whoever takes it marks it, just above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks all descriptors from `first` on close-on-exec (`close_range(2)` with `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
///
/// # Errors
/// `EINVAL` or `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const FLAGS: libc::c_uint = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: nothing is closed, so nobody's descriptor is taken away; there are no memory arguments.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, FLAGS) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Executes `path` with exactly these arguments and variables, in this order (`execve(2)`). It returns only when that failed.
///
/// Unlike [`Command::exec`], nothing is sorted, merged, searched in `PATH` or handed to a shell.
pub fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists are C strings that outlive the call, and end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives `signals` their default disposition in this process, and unblocks all signals in this thread: how a program expects to start.
///
/// # Errors
/// `EINVAL` for a number that is no signal or cannot be changed.
pub fn reset_signals(signals: &[i32]) -> io::Result<()> {
    for &number in signals {
        // SAFETY: the default disposition runs no code of ours; a wrong number is reported as an error.
        if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable memory, which this call initializes.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set is initialized, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::process::Stdio;

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    use super::*;
    use crate::testing::{again, role};

    const TAKES: &str = "inherit::tests::a_child_gets_what_is_meant_for_it_and_takes_it_once";
    const EXECUTES: &str = "inherit::tests::a_program_gets_exactly_its_arguments_and_variables";

    #[test]
    fn a_child_gets_what_is_meant_for_it_and_takes_it_once() {
        if let Some(role) = role() {
            let (meant, other) = role.split_once(' ').unwrap();
            let meant: i32 = meant.parse().unwrap();
            let taken = inherited(meant).unwrap();
            File::from(taken.try_clone().unwrap()).write_all(b"here").unwrap();
            assert_eq!(fcntl_getfd(&taken).unwrap(), FdFlags::CLOEXEC);
            assert_eq!(inherited(meant).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(inherited(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            // The harness may have opened the number again; then it is close-on-exec.
            assert!(inherited(other.parse().unwrap()).is_err());
            return;
        }
        let (mut read, write) = std::io::pipe().unwrap();
        let careless = File::open("/dev/null").unwrap();
        fcntl_setfd(&careless, FdFlags::empty()).unwrap();
        let role = format!("{} {}", write.as_raw_fd(), careless.as_raw_fd());
        let mut command = again(TAKES, &role);
        let output = inherit_only(&mut command, vec![write.into()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        drop(command);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut read, &mut text).unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn a_program_gets_exactly_its_arguments_and_variables() {
        if role().is_some() {
            let strings =
                |texts: &[&[u8]]| texts.iter().map(|text| CString::new(*text).unwrap()).collect::<Vec<_>>();
            let arguments = strings(&[
                b"named otherwise",
                b"-c",
                b"cat /proc/$$/environ; printf '%s' \"$1\" >&2",
                b"0",
                b"\xff",
            ]);
            let environment = strings(&[b"Z=2", b"A=1", b"Z=3", b"\xfe=\xff"]);
            let error = execute(c"/bin/sh", &arguments, &environment);
            panic!("{error}");
        }
        let mut command = again(EXECUTES, "execute");
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(output.stdout.ends_with(b"Z=2\0A=1\0Z=3\0\xfe=\xff\0"), "{output:?}");
        assert!(output.stderr.ends_with(b"\xff"));
        let error = execute(c"/nowhere", &[], &[]);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(reset_signals(&[4096]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
