//! A machine on which namespaces are refused, as in a container with Docker's default profile.
//!
//! A machine that refuses them is where the level `restricted` counts, and where nobody's tests run by themselves.

use std::io;

use writ_sys::seccomp::Instruction;

/// Refuses namespaces and mounts to this thread and to all that it starts from now on, for good, as Docker's default profile does
/// (moby/profiles: `seccomp/default.json`): `unshare`, `setns`, mounts and `clone` with a flag for a namespace are `EPERM`, `clone3`,
/// whose flags cannot be seen, `ENOSYS`.
///
/// Call it in a process of its own, before other threads exist, or in a thread that starts what is tested.
///
/// # Errors
/// What `seccomp(2)` says.
pub fn refuse_namespaces() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    writ_sys::install_filter(&program())
}

/// `CLONE_NEW*` of `linux/sched.h`; the time namespace's flag is no flag of `clone`.
const NAMESPACES: u32 = 0x7e02_0000;

const REFUSED: &[i64] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
];

fn program() -> Vec<Instruction> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    let one = |code, if_true, if_false, operand| Instruction { code, if_true, if_false, operand };
    let refuse = |error: i32| one(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error.cast_unsigned());
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    let mut program = vec![one(LOAD, 0, 0, 0)];
    for call in REFUSED {
        program.extend([one(EQUAL, 0, 1, number(*call)), refuse(libc::EPERM)]);
    }
    program.extend([one(EQUAL, 0, 1, number(libc::SYS_clone3)), refuse(libc::ENOSYS)]);
    program.extend([one(EQUAL, 0, 3, number(libc::SYS_clone)), one(LOAD, 0, 0, FIRST_ARGUMENT)]);
    program.extend([one(ANY_BIT, 0, 1, NAMESPACES), refuse(libc::EPERM)]);
    program.push(one(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a thread of its own: the filter stays.
    #[test]
    fn namespaces_are_refused_and_programs_start() {
        let status = || Command::new("unshare").args(["-Ur", "true"]).status().unwrap().success();
        let test = move || {
            refuse_namespaces().unwrap();
            (Command::new("true").status().unwrap().success(), status())
        };
        assert_eq!(std::thread::spawn(test).join().unwrap(), (true, false));
        assert!(status(), "they are refused anyway: it proves nothing");
    }
}
