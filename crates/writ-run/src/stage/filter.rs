//! The system calls that the agent does without (`seccomp(2)`): what namespaces do not confine, and what only attacks use.
//!
//! | refused | because |
//! |---|---|
//! | another architecture's calls, x32 | their numbers would pass the rules below |
//! | `ioctl` `TIOCSTI`, `TIOCLINUX` | they type into the terminal, for the shell that outlives us. The kernel reads 32 bits of the number, so do we (CVE-2019-10063) |
//! | vsock | not namespaced: the host answers |
//! | `AF_ALG`, `userfaultfd`, `bpf`, the keyrings | attack surface, and a keyring is shared with the person's other programs |
//! | io_uring | its operations pass no filter, so it could make the sockets above |
//! | set-id bits of a mode, `openat2` | a program in the work tree that runs with our rights for whoever starts it on the host; `openat2` hides its mode from filters |
//! | extended attributes, for uid 0 | file capabilities that count on the host; uid 0 keeps the right to set them, or nothing nests |
//!
//! Absent: `ptrace`, `unshare`, `mount`, `memfd_create`: debuggers and nested sandboxes need them, and they stay inside.

use rustix::io::Errno;
use writ_sys::seccomp::Instruction;

/// A call that is answered with an error where all conditions hold.
struct Rule {
    call: i64,
    conditions: Vec<Condition>,
    error: Errno,
}

/// What must hold of the low 32 bits of an argument, by its number.
#[derive(Clone, Copy)]
enum Condition {
    Equal(u32, u32),
    /// One of these bits is set.
    Any(u32, u32),
}

/// What runs as the agent runs under this, at the levels `confined` and `restricted`. `files_may_empower`: whoever it is may give
/// files capabilities.
pub(crate) fn program(files_may_empower: bool) -> Option<Vec<Instruction>> {
    assemble(NATIVE?, &rules(files_may_empower))
}

fn rules(files_may_empower: bool) -> Vec<Rule> {
    let always = |call, error| Rule { call, conditions: Vec::new(), error };
    let when = |call, conditions: &[Condition], error| Rule { call, conditions: conditions.to_vec(), error };
    let mut rules = vec![
        when(libc::SYS_ioctl, &[Condition::Equal(1, TIOCSTI)], Errno::PERM),
        when(libc::SYS_ioctl, &[Condition::Equal(1, TIOCLINUX)], Errno::PERM),
        always(libc::SYS_userfaultfd, Errno::PERM),
        always(libc::SYS_bpf, Errno::PERM),
    ];
    for family in [AF_VSOCK, AF_ALG] {
        rules.push(when(libc::SYS_socket, &[Condition::Equal(0, family)], Errno::AFNOSUPPORT));
        rules.push(when(libc::SYS_socketpair, &[Condition::Equal(0, family)], Errno::AFNOSUPPORT));
    }
    // As on a kernel that was built without: what can do without does.
    let absent = [
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_openat2,
    ];
    rules.extend(absent.map(|call| always(call, Errno::NOSYS)));
    for (call, mode) in MODES {
        rules.push(when(*call, &[Condition::Any(*mode, SET_ID)], Errno::PERM));
    }
    for (call, flags) in MAKING_OPENS {
        let makes = [Condition::Any(*flags, MAKES), Condition::Any(flags + 1, SET_ID)];
        rules.push(when(*call, &makes, Errno::PERM));
    }
    if files_may_empower {
        rules.extend(ATTRIBUTES.map(|call| always(call, Errno::OPNOTSUPP)));
    }
    rules
}

/// Calls that give a file a mode, and which argument that is.
const MODES: &[(i64, u32)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (SYS_FCHMODAT2, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
];
/// Calls whose mode counts where their flags make a file, and which argument the flags are; the mode is the next.
const MAKING_OPENS: &[(i64, u32)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];
const ATTRIBUTES: [i64; 4] = [libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, SYS_SETXATTRAT];
/// The same on every architecture (`asm-generic/unistd.h`).
const SYS_FCHMODAT2: i64 = 452;
const SYS_SETXATTRAT: i64 = 463;
/// `S_ISUID` and `S_ISGID` (`inode(7)`).
const SET_ID: u32 = 0o6000;
/// `O_CREAT`, and the bit of `O_TMPFILE` that is its own.
const MAKES: u32 = 0o100 | 0o20_000_000;

/// Classic BPF over `struct seccomp_data`: number, architecture, instruction pointer, six arguments of eight bytes.
fn assemble(architecture: u32, rules: &[Rule]) -> Option<Vec<Instruction>> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump(EQUAL, architecture, 1, 0),
        refuse(Errno::NOSYS),
        load(NUMBER),
        jump(AT_LEAST, X32, 0, 1),
        refuse(Errno::NOSYS),
    ];
    for rule in rules {
        let call = u32::try_from(rule.call).ok()?;
        // Behind the conditions: the refusal, and the number loaded again for the next rule.
        let mut left = u8::try_from(2 * rule.conditions.len()).ok()?;
        let again = u8::from(left > 0);
        program.push(jump(EQUAL, call, 0, left + 1 + again));
        for condition in &rule.conditions {
            let (comparison, index, value) = match *condition {
                Condition::Equal(index, value) => (EQUAL, index, value),
                Condition::Any(index, bits) => (ANY_BIT, index, bits),
            };
            left -= 2;
            program.extend([load(ARGUMENTS + 8 * index + LOW_HALF), jump(comparison, value, 0, left + 1)]);
        }
        program.push(refuse(rule.error));
        if again > 0 {
            program.push(load(NUMBER));
        }
    }
    program.push(Instruction { code: RETURN, if_true: 0, if_false: 0, operand: ALLOW });
    Some(program)
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, operand: offset }
}

/// Skips `if_true` or `if_false` instructions.
fn jump(comparison: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: comparison, if_true, if_false, operand }
}

fn refuse(error: Errno) -> Instruction {
    Instruction {
        code: RETURN,
        if_true: 0,
        if_false: 0,
        operand: ERRNO | error.raw_os_error().unsigned_abs(),
    }
}

// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const NATIVE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: Option<u32> = None;

// `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const LOW_HALF: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

/// Numbers from here on are x32's; no native call has one.
const X32: u32 = 0x4000_0000;

// `linux/bpf_common.h`: class, size or comparison, mode.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// `asm-generic/ioctls.h`, `linux/socket.h`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: an interpreter of the six instructions that are used here.
    fn judge(program: &[Instruction], architecture: u32, call: i64, arguments: &[u64]) -> u32 {
        let mut data = Vec::from(u32::try_from(call).unwrap().to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        data.resize(64, 0);
        let (mut at, mut word) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, operand } = program[at];
            let holds = match code {
                RETURN => return operand,
                LOAD => {
                    let from = operand as usize;
                    word = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                    at += 1;
                    continue;
                }
                EQUAL => word == operand,
                AT_LEAST => word >= operand,
                ANY_BIT => word & operand != 0,
                other => panic!("{other}"),
            };
            at += 1 + usize::from(if holds { if_true } else { if_false });
        }
    }

    #[test]
    fn what_is_refused() {
        let native = NATIVE.unwrap();
        let cases = [
            (native, libc::SYS_getpid, [0, 0], None),
            (native, libc::SYS_ioctl, [0, 0x5413], None),
            (native, libc::SYS_ioctl, [0, 0x5412], Some(libc::EPERM)),
            (native, libc::SYS_ioctl, [0, 0x1_0000_5412], Some(libc::EPERM)),
            (native, libc::SYS_ioctl, [0, 0x541c], Some(libc::EPERM)),
            (native, libc::SYS_write, [0, 0x5412], None),
            (native, libc::SYS_socket, [2, 1], None),
            (native, libc::SYS_socket, [40, 1], Some(libc::EAFNOSUPPORT)),
            (native, libc::SYS_socket, [38, 5], Some(libc::EAFNOSUPPORT)),
            (native, libc::SYS_socketpair, [40, 1], Some(libc::EAFNOSUPPORT)),
            (native, libc::SYS_keyctl, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_add_key, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_request_key, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_bpf, [0, 0], Some(libc::EPERM)),
            (native, libc::SYS_userfaultfd, [0, 0], Some(libc::EPERM)),
            (native, libc::SYS_io_uring_setup, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_io_uring_enter, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_io_uring_register, [0, 0], Some(libc::ENOSYS)),
            (native, libc::SYS_ptrace, [0, 0], None),
            (native, libc::SYS_unshare, [0, 0], None),
            (native, libc::SYS_memfd_create, [0, 0], None),
            (native, 0x4000_0000 + libc::SYS_getpid, [0, 0], Some(libc::ENOSYS)),
            (0x4000_0003, libc::SYS_getpid, [0, 0], Some(libc::ENOSYS)),
        ];
        for may_empower in [false, true] {
            let program = program(may_empower).unwrap();
            for (architecture, call, arguments, error) in cases {
                let expected = error.map_or(ALLOW, |error| ERRNO | error.unsigned_abs());
                assert_eq!(
                    judge(&program, architecture, call, &arguments),
                    expected,
                    "{call} {arguments:x?}"
                );
            }
        }
    }

    #[test]
    fn no_file_gets_rights_that_outlive_the_run() {
        const CREATE: u64 = 0o100;
        const TEMPORARY: u64 = 0o20_200_000;
        let native = NATIVE.unwrap();
        let cases: &[(i64, &[u64], bool)] = &[
            (libc::SYS_fchmod, &[3, 0o755], false),
            (libc::SYS_fchmod, &[3, 0o4755], true),
            (libc::SYS_fchmod, &[3, 0o2755], true),
            (libc::SYS_fchmod, &[3, 0x1_0000_0000 | 0o4755], true),
            (libc::SYS_fchmodat, &[3, 0o4000, 0o1755], false),
            (libc::SYS_fchmodat, &[3, 0, 0o4755], true),
            (452, &[3, 0, 0o4755, 0], true),
            (libc::SYS_mknodat, &[3, 0, 0o104_755], true),
            (libc::SYS_openat, &[3, 0, 0, 0o4755], false),
            (libc::SYS_openat, &[3, 0, CREATE, 0o644], false),
            (libc::SYS_openat, &[3, 0, CREATE, 0o4755], true),
            (libc::SYS_openat, &[3, 0, TEMPORARY, 0o4755], true),
        ];
        let program = program(false).unwrap();
        for (call, arguments, refused) in cases {
            let answer = judge(&program, native, *call, arguments);
            assert_eq!(answer != ALLOW, *refused, "{call} {arguments:x?}");
        }
        assert_ne!(judge(&program, native, libc::SYS_openat2, &[]), ALLOW, "its mode cannot be seen");
        for call in ATTRIBUTES {
            assert_eq!(judge(&program, native, call, &[]), ALLOW, "an ordinary user cannot empower files");
            assert_ne!(judge(&self::program(true).unwrap(), native, call, &[]), ALLOW);
        }
    }
}
