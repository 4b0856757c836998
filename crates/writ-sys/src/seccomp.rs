//! Installing a system call filter (`seccomp(2)`). What it says is its caller's business. Linux only.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of a filter: `struct sock_filter` of `linux/filter.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What is done: class, size, mode.
    pub code: u16,
    /// How many instructions are skipped when the comparison holds.
    pub if_true: u8,
    /// How many are skipped when it does not.
    pub if_false: u8,
    /// The operand.
    pub operand: u32,
}

/// Filters the system calls of this thread and of all that it starts, for good.
///
/// # Errors
/// `EACCES` without `no_new_privs` (or `CAP_SYS_ADMIN`), `EINVAL` for a program that the kernel refuses or that is longer than
/// 4096 instructions.
pub fn install_filter(program: &[Instruction]) -> io::Result<()> {
    install(program, 0).map(|_| ())
}

/// Like [`install_filter`]; answers with the descriptor at which calls with the action `SECCOMP_RET_USER_NOTIF` are judged.
///
/// From Linux 5.19 on, a call that is being judged is interrupted by fatal signals only: otherwise it would be made again after a
/// signal, when its first attempt has already had its effect.
///
/// # Errors
/// Those of [`install_filter`], and `EBUSY` if a filter of this thread has such a descriptor already.
pub fn install_filter_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    const FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let descriptor = match install(program, FLAGS | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(program, FLAGS)?,
        other => other?,
    };
    let descriptor = i32::try_from(descriptor).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn install(program: &[Instruction], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = Program { len, filter: program.as_ptr() };
    // SAFETY: the program is a list of `len` instructions in the kernel's own layout; it and its header outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `struct sock_fprog` of `linux/filter.h`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURN: u16 = 0x06;
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;

    /// In a thread of its own: the filter stays.
    #[test]
    fn a_filter_refuses_what_it_names() {
        let number = u32::try_from(libc::SYS_getppid).unwrap();
        let instruction = |code, if_true, operand| Instruction { code, if_true, if_false: 0, operand };
        let program = [
            instruction(LOAD, 0, 0),
            instruction(EQUAL, 1, number),
            instruction(RETURN, 0, ALLOW),
            instruction(RETURN, 0, ERRNO | 77),
        ];
        let test = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            install_filter(&program).unwrap();
            // SAFETY: no memory is involved.
            let answer = unsafe { libc::syscall(libc::SYS_getppid) };
            (answer, io::Error::last_os_error().raw_os_error())
        };
        assert_eq!(std::thread::spawn(test).join().unwrap(), (-1, Some(77)));
        // SAFETY: no memory is involved.
        assert!(unsafe { libc::syscall(libc::SYS_getppid) } >= 0);
    }

    #[test]
    fn a_program_without_an_end_is_refused() {
        let test = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let endless = [Instruction { code: LOAD, if_true: 0, if_false: 0, operand: 0 }];
            let long = vec![Instruction { code: RETURN, if_true: 0, if_false: 0, operand: ALLOW }; 70_000];
            (install_filter(&endless).is_err(), install_filter(&[]).is_err(), install_filter(&long).is_err())
        };
        assert_eq!(std::thread::spawn(test).join().unwrap(), (true, true, true));
    }
}
