//! Process groups and sessions, by raw number.
//!
//! The number of a group whose leader is outside of our PID namespace is 0: in a container whose init never called
//! `setsid`, and inside of every confined run. `rustix` takes a pid for non-zero, and answers such a number with a panic.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Our process group, or `None` when its leader has no number in our PID namespace (`getpgrp(2)`).
pub fn process_group() -> Option<i32> {
    // SAFETY: no memory is involved, and it cannot fail.
    Some(unsafe { libc::getpgrp() }).filter(|group| *group > 0)
}

/// Our session, or `None` when its leader has no number in our PID namespace (`getsid(2)`).
pub fn session() -> Option<i32> {
    // SAFETY: no memory is involved.
    Some(unsafe { libc::getsid(0) }).filter(|session| *session > 0)
}

/// The process group in the foreground of `terminal`, or `None` when its leader has no number in our PID namespace (`tcgetpgrp(3)`).
///
/// # Errors
/// `ENOTTY` if it is no terminal, or not the one of our session.
pub fn foreground_group(terminal: impl AsFd) -> io::Result<Option<i32>> {
    // SAFETY: the descriptor is open; no memory is involved.
    match unsafe { libc::tcgetpgrp(terminal.as_fd().as_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        group => Ok(Some(group).filter(|group| *group > 0)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let number = |index: usize| Some(fields[index].parse::<i32>().unwrap()).filter(|number| *number > 0);
        assert_eq!((process_group(), session()), (number(2), number(3)));
        let error = foreground_group(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
