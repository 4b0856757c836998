//! How many processes and threads a run may have at once: a fork bomb must starve only itself.
//!
//! | what holds | whom | where |
//! |---|---|---|
//! | `kernel.pid_max` of the run's own PID namespace | everybody | Linux 6.14 and newer |
//! | `pids.max` of the run's own control group | everybody | where groups are delegated, with that controller |
//! | `RLIMIT_NPROC`, which counts within a user namespace since Linux 5.14 | an ordinary user | everywhere else |
//!
//! No one of them is everywhere, so each is set that can be. Absent: a limit at the levels below, which share the person's
//! namespaces: there `RLIMIT_NPROC` would count the person's other programs too.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::BorrowedFd,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    system::uname,
};

use crate::{Step, StepFault};

/// Processes and threads of one run, at once. A large parallel build has some hundreds; a machine has room for tens of thousands.
pub const PROCESSES_MAX: u32 = 4096;

/// The first version in which a PID namespace has its own `kernel.pid_max`. Before, the file is the whole machine's, and uid 0
/// would change that.
const OWN_PID_MAX: (u32, u32) = (6, 14);

/// Whether this kernel limits a PID namespace.
pub(crate) fn limited_by_namespace() -> bool {
    version(&uname().release().to_string_lossy()).is_some_and(|version| version >= OWN_PID_MAX)
}

/// Limits the caller's PID namespace, where the kernel has that. `proc` is a `/proc` of it; the caller is its first process, with
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// Those of `openat(2)` and `write(2)`: Docker's AppArmor profile refuses it, and is no reason not to confine.
pub(crate) fn limit_namespace(proc: BorrowedFd<'_>) -> io::Result<()> {
    if !limited_by_namespace() {
        return Ok(());
    }
    let file = openat(proc, "sys/kernel/pid_max", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(PROCESSES_MAX.to_string().as_bytes())
}

/// Limits what the caller starts, in the user namespace that it has just entered. Uid 0 is not held by this.
///
/// # Errors
/// [`Step::Capabilities`].
pub(super) fn limit_account() -> Result<(), StepFault> {
    let most = u64::from(PROCESSES_MAX);
    let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    let Rlimit { current, maximum } = getrlimit(Resource::Nproc);
    let limit = Rlimit { current: lower(current), maximum: lower(maximum) };
    setrlimit(Resource::Nproc, limit).map_err(StepFault::at(Step::Capabilities, "RLIMIT_NPROC"))
}

/// The first two numbers of a release such as `6.14.0-rc1`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_limited_only_where_that_is_not_the_whole_machine() {
        for (release, limited) in [
            ("6.14.0", true),
            ("6.18.44-fc-v595", true),
            ("7.0-rc1", true),
            ("6.13.12-generic", false),
            ("6.9", false),
            ("5.15.0-1-amd64", false),
            ("", false),
            ("next", false),
        ] {
            assert_eq!(version(release).is_some_and(|found| found >= OWN_PID_MAX), limited, "{release}");
        }
    }
}
