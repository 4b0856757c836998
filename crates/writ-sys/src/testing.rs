//! A test that needs a process of its own runs itself again: state such as signal dispositions, resource limits
//! and the parent of a process belongs to the whole process, and the other tests run in this one.

use std::process::{Command, Stdio};

const ROLE: &str = "WRIT_SYS_TEST_ROLE";

/// The part that this process plays, if it was started by [`again`].
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A command that runs the test `name` (full path) in a new process, in which [`role`] answers `role`.
pub(crate) fn again(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
