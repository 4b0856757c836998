//! The system call filter of this level, as a program for the kernel.
//!
//! Landlock's rule for TCP names no address, and Multipath TCP and Fast Open pass it; it says nothing about UDP and
//! Unix sockets in files. So sockets are limited to kinds whose peer is always named by `connect`, and that call is judged.
//!
//! ```text
//!   socket      AF_UNIX stream, seqpacket · AF_INET and AF_INET6 stream with protocol TCP · NETLINK_ROUTE; others EACCES
//!   connect     judged and made by the supervisor          listen   recorded by the supervisor: which servers are the session's
//!   Fast Open   EOPNOTSUPP: it connects without `connect`  source routes, devices EPERM: see `ROUTED`
//! ```
//!
//! Datagram sockets of AF_UNIX are refused as a kind: `sendmsg` names their peer in memory, which a filter cannot read, and the
//! host's sockets in files would be within reach. NETLINK_ROUTE is how programs list their network interfaces; it only reads
//! without a capability, and there is none.
//!
//! Absent: what holds at every level (terminal injection, keyrings, io_uring and so on) is the common filter's, which is
//! installed as well.

use writ_sys::seccomp::Instruction;

/// The program. It allows what it does not name.
pub(super) fn program() -> Vec<Instruction> {
    let mut program = prologue();
    for rule in rules() {
        rule.assemble(&mut program);
    }
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

/// One rule; the first whose call and comparisons hold decides.
struct Rule {
    call: i64,
    when: Vec<Comparison>,
    action: u32,
}

/// Compares half of an argument: `half & mask == value`, or not.
///
/// The kernel reads the arguments compared here as 32-bit numbers, so that the lower half is what counts for it, whatever the
/// upper one says (CVE-2019-10063); pointers are compared in both halves.
#[derive(Clone, Copy)]
struct Comparison {
    argument: u32,
    upper: bool,
    mask: u32,
    value: u32,
    equal: bool,
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |call: i64, when: Vec<Comparison>, action: u32| rules.push(Rule { call, when, action });
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            rule(call, vec![is(0, libc::AF_UNIX), masked(1, TYPE_MASK, kind)], ALLOW);
        }
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP] {
            let when = vec![is(0, family), masked(1, TYPE_MASK, libc::SOCK_STREAM), is(2, protocol)];
            rule(libc::SYS_socket, when, ALLOW);
        }
    }
    for kind in [libc::SOCK_RAW, libc::SOCK_DGRAM] {
        let when = vec![is(0, libc::AF_NETLINK), masked(1, TYPE_MASK, kind), is(2, libc::NETLINK_ROUTE)];
        rule(libc::SYS_socket, when, ALLOW);
    }
    rule(libc::SYS_socket, vec![], refuse(libc::EACCES));
    rule(libc::SYS_socketpair, vec![], refuse(libc::EACCES));
    rule(libc::SYS_connect, vec![], NOTIFY);
    rule(libc::SYS_listen, vec![], NOTIFY);
    for (call, argument) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rule(call, vec![masked(argument, FAST_OPEN, libc::MSG_FASTOPEN)], refuse(libc::EOPNOTSUPP));
    }
    let option = vec![is(1, libc::IPPROTO_TCP), is(2, libc::TCP_FASTOPEN_CONNECT)];
    rule(libc::SYS_setsockopt, option, refuse(libc::EOPNOTSUPP));
    for (level, option) in ROUTED {
        rule(libc::SYS_setsockopt, vec![is(1, *level), is(2, *option)], refuse(libc::EPERM));
    }
    // Limits of another process: Landlock has no say there, and a broker that may open no file is of no use.
    for upper in [false, true] {
        let new = Comparison { argument: 2, upper, mask: u32::MAX, value: 0, equal: false };
        rule(libc::SYS_prlimit64, vec![Comparison { equal: false, ..is(0, 0) }, new], refuse(libc::EPERM));
    }
    rules
}

impl Rule {
    fn assemble(&self, program: &mut Vec<Instruction>) {
        let compared: Vec<Instruction> = self
            .when
            .iter()
            .enumerate()
            .flat_map(|(at, one)| one.assemble(self.when.len() - at - 1))
            .collect();
        let skipped = u8::try_from(compared.len() + 1).unwrap_or(u8::MAX);
        program.push(instruction(LOAD, 0, 0, NUMBER));
        program.push(instruction(EQUAL, 0, skipped, u32::try_from(self.call).unwrap_or(u32::MAX)));
        program.extend(compared);
        program.push(instruction(RETURN, 0, 0, self.action));
    }
}

impl Comparison {
    /// Three instructions: those of the comparisons that follow, and the rule's action, are skipped when it does not hold.
    fn assemble(self, following: usize) -> [Instruction; 3] {
        let skipped = u8::try_from(3 * following + 1).unwrap_or(u8::MAX);
        let (hold, fail) = if self.equal { (0, skipped) } else { (skipped, 0) };
        [
            instruction(LOAD, 0, 0, ARGUMENTS + 8 * self.argument + half(self.upper)),
            instruction(AND, 0, 0, self.mask),
            instruction(EQUAL, hold, fail, self.value),
        ]
    }
}

/// Foreign architectures, and on x86-64 the numbers of x32, mean other calls by the same numbers: they do not exist here.
fn prologue() -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(EQUAL, 1, 0, NATIVE),
        instruction(RETURN, 0, 0, refuse(libc::ENOSYS)),
    ];
    if cfg!(target_arch = "x86_64") {
        program.push(instruction(LOAD, 0, 0, NUMBER));
        program.push(instruction(AT_LEAST, 0, 1, X32));
        program.push(instruction(RETURN, 0, 0, refuse(libc::ENOSYS)));
    }
    program
}

fn is(argument: u32, value: i32) -> Comparison {
    masked(argument, u32::MAX, value)
}

fn masked(argument: u32, mask: u32, value: i32) -> Comparison {
    Comparison { argument, upper: false, mask, value: value.cast_unsigned(), equal: true }
}

const fn refuse(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.cast_unsigned()
}

const fn instruction(code: u16, if_true: u8, if_false: u8, operand: u32) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}

/// Where a half of an argument lies within its eight bytes.
const fn half(upper: bool) -> u32 {
    if upper == cfg!(target_endian = "little") { 4 } else { 0 }
}

/// `BPF_LD | BPF_W | BPF_ABS` and the like, of `linux/filter.h`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Options by which a packet to a judged address goes elsewhere: the first hop of a source route is where it is sent to, and a
/// device of one's choice takes a loopback address out of the machine. None of them needs a capability.
const ROUTED: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_RTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_2292RTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
/// The kernel's `SOCK_TYPE_MASK`: the rest are flags.
const TYPE_MASK: u32 = 0xf;
const FAST_OPEN: u32 = libc::MSG_FASTOPEN.cast_unsigned();
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with the program, for what it is made of.
    fn run(arch: u32, call: i64, arguments: [u64; 6]) -> u32 {
        let mut data = vec![];
        data.extend(u32::try_from(call).unwrap().to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let program = program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, operand } = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { if_true } else { if_false });
            match code {
                LOAD => {
                    let from = operand as usize;
                    accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => accumulator &= operand,
                EQUAL => at += jump(accumulator == operand),
                AT_LEAST => at += jump(accumulator >= operand),
                RETURN => return operand,
                other => panic!("{other}"),
            }
        }
    }

    fn asked(family: i32, kind: i32, protocol: i32) -> u32 {
        let number = |value: i32| u64::from(value.cast_unsigned());
        run(NATIVE, libc::SYS_socket, [number(family), number(kind), number(protocol), 0, 0, 0])
    }

    #[test]
    fn only_sockets_whose_peer_is_named_by_connect_exist() {
        use libc::*;
        let flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
        for (family, kind, protocol) in [
            (AF_UNIX, SOCK_STREAM, 0),
            (AF_UNIX, SOCK_SEQPACKET | flags, 0),
            (AF_INET, SOCK_STREAM, 0),
            (AF_INET, SOCK_STREAM | flags, IPPROTO_TCP),
            (AF_INET6, SOCK_STREAM, IPPROTO_TCP),
            (AF_NETLINK, SOCK_RAW | flags, NETLINK_ROUTE),
        ] {
            assert_eq!(asked(family, kind, protocol), ALLOW, "{family} {kind} {protocol}");
        }
        for (family, kind, protocol) in [
            (AF_UNIX, SOCK_DGRAM, 0),
            (AF_UNIX, SOCK_RAW, 0),
            (AF_INET, SOCK_DGRAM, 0),
            (AF_INET, SOCK_STREAM, 262),
            (AF_INET6, SOCK_STREAM, IPPROTO_SCTP),
            (AF_INET, SOCK_RAW, IPPROTO_ICMP),
            (AF_INET, SOCK_SEQPACKET, 0),
            (AF_PACKET, SOCK_RAW, 0),
            (AF_VSOCK, SOCK_STREAM, 0),
            (AF_ALG, SOCK_SEQPACKET, 0),
            (AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG),
            (AF_NETLINK, SOCK_SEQPACKET, NETLINK_ROUTE),
            (43, SOCK_STREAM, 0),
        ] {
            assert_eq!(asked(family, kind, protocol), refuse(EACCES), "{family} {kind} {protocol}");
        }
    }

    #[test]
    fn the_upper_half_of_a_register_changes_nothing() {
        let high = 1 << 32;
        let unix_datagram = [high | 1, high | 2, 0, 0, 0, 0];
        assert_eq!(run(NATIVE, libc::SYS_socket, unix_datagram), refuse(libc::EACCES));
        let fast_open = [3, 0, 0, high | 0x2000_4000, 0, 0];
        assert_eq!(run(NATIVE, libc::SYS_sendto, fast_open), refuse(libc::EOPNOTSUPP));
        assert_eq!(run(NATIVE, libc::SYS_sendto, [3, 0, 0, 0x4000, 0, 0]), ALLOW);
    }

    #[test]
    fn calls_are_judged_refused_or_left_alone() {
        let none = [0; 6];
        for (call, arguments, action) in [
            (libc::SYS_connect, none, NOTIFY),
            (libc::SYS_listen, none, NOTIFY),
            (libc::SYS_bind, none, ALLOW),
            (libc::SYS_getppid, none, ALLOW),
            (libc::SYS_sendmsg, [3, 0, 0x2000_0000, 0, 0, 0], refuse(libc::EOPNOTSUPP)),
            (libc::SYS_sendmsg, none, ALLOW),
            (libc::SYS_sendmmsg, [3, 0, 1, 0x2000_0000, 0, 0], refuse(libc::EOPNOTSUPP)),
            (libc::SYS_setsockopt, [3, 6, 30, 0, 0, 0], refuse(libc::EOPNOTSUPP)),
            (libc::SYS_setsockopt, [3, 6, 1, 0, 0, 0], ALLOW),
            (libc::SYS_setsockopt, [3, 0, 4, 0, 0, 0], refuse(libc::EPERM)),
            (libc::SYS_setsockopt, [3, 1, 25, 0, 0, 0], refuse(libc::EPERM)),
            (libc::SYS_setsockopt, [3, 41, 57, 0, 0, 0], refuse(libc::EPERM)),
            (libc::SYS_setsockopt, [3, 0, 1, 0, 0, 0], ALLOW),
            (libc::SYS_prlimit64, [0, 7, 0xffff, 0, 0, 0], ALLOW),
            (libc::SYS_prlimit64, [9, 7, 0, 1, 0, 0], ALLOW),
            (libc::SYS_prlimit64, [9, 7, 0xffff, 0, 0, 0], refuse(libc::EPERM)),
            (libc::SYS_prlimit64, [9, 7, 1 << 32, 0, 0, 0], refuse(libc::EPERM)),
        ] {
            assert_eq!(run(NATIVE, call, arguments), action, "{call} {arguments:?}");
        }
    }

    #[test]
    fn other_architectures_have_no_calls() {
        assert_eq!(run(0x4000_0003, libc::SYS_getppid, [0; 6]), refuse(libc::ENOSYS));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(run(NATIVE, 0x4000_0000 + libc::SYS_connect, [0; 6]), refuse(libc::ENOSYS));
            assert_eq!(run(NATIVE, 0xffff_ffff, [0; 6]), refuse(libc::ENOSYS));
        }
    }
}
