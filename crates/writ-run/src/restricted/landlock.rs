//! Enforces a plan's allow-list, and sees that it is enforced.
//!
//! What Landlock holds besides files, from its version 6 on: no signal and no connection to an abstract socket leaves the
//! domain; and, from the first, no tracing: `/proc/PID/{environ,mem,root,cwd,fd}` of all processes outside stay closed. What is
//! claimed needs all of it, so an older kernel gets [`Step::Landlock`] and no half measure.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::plan::{Access, Allowed};
use crate::{Step, StepFault};

/// The version that is needed: the first with signals and abstract sockets (Linux 6.12).
pub(super) const ABI_NEEDED: u32 = 6;
const HANDLED: ABI = ABI::V6;

/// Restricts this thread and what it executes, for good. `no_new_privs` must be set.
pub(super) fn enforce(allowed: &[Allowed]) -> Result<(), StepFault> {
    let fault = |what: &str| {
        let what = what.to_owned();
        move |error: landlock::RulesetError| StepFault::new(Step::Landlock, format!("{what}: {error}"), 0)
    };
    match writ_sys::landlock_abi() {
        Some(abi) if abi >= ABI_NEEDED => {}
        Some(abi) => {
            let what =
                format!("the kernel has version {abi} of it, version {ABI_NEEDED} (Linux 6.12) is needed");
            return Err(StepFault::new(Step::Landlock, what, 0));
        }
        None => return Err(StepFault::new(Step::Landlock, "the kernel has it not, or not switched on", 0)),
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(HANDLED))
        .and_then(|rules| rules.scope(Scope::from_all(HANDLED)))
        .and_then(Ruleset::create)
        .map_err(fault("rules"))?;
    for one in allowed {
        // What does not exist allows nothing.
        let Some(tree) = open(one)? else { continue };
        let about =
            fstat(tree.as_fd()).map_err(StepFault::at(Step::Landlock, one.path.display().to_string()))?;
        let mut access = rights(one.access);
        if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
            access &= AccessFs::from_file(HANDLED);
        }
        if access.is_empty() {
            continue;
        }
        rules =
            rules.add_rule(PathBeneath::new(tree, access)).map_err(fault(&one.path.display().to_string()))?;
    }
    let status = rules.restrict_self().map_err(fault("enforcing"))?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(StepFault::new(Step::Landlock, "not enforced in full", 0));
    }
    verify()
}

/// What a rule is about. What is writable is planned without links, and another agent that works there could have laid one since.
fn open(one: &Allowed) -> Result<Option<OwnedFd>, StepFault> {
    let links = if one.access == Access::Own { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    match openat2(CWD, &*one.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), links) {
        Ok(tree) => Ok(Some(tree)),
        Err(error @ Errno::LOOP) => Err(StepFault::at(Step::Landlock, one.path.display().to_string())(error)),
        Err(_) => Ok(None),
    }
}

/// Keeps the signals of this thread, and of what it executes, among them, where the kernel can (Linux 6.12). `no_new_privs` must be set.
///
/// A PID namespace does not: `kill(2)` with 0 means a process group, and one that is shared with the caller's pipeline is signaled
/// outside as well.
pub(crate) fn keep_signals() -> Result<(), StepFault> {
    let fault = |error: landlock::RulesetError| StepFault::new(Step::Landlock, error.to_string(), 0);
    if writ_sys::landlock_abi().is_none_or(|abi| abi < ABI_NEEDED) {
        return Ok(());
    }
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::Signal);
    rules.and_then(Ruleset::create).and_then(landlock::RulesetCreated::restrict_self).map_err(fault)?;
    Ok(())
}

/// Tries what must fail. A status is a promise; this is the fact.
fn verify() -> Result<(), StepFault> {
    if std::fs::read_dir(Path::new("/")).is_ok() {
        return Err(StepFault::new(
            Step::Landlock,
            "it was enforced, and still the root directory can be listed",
            0,
        ));
    }
    let parent = rustix::process::getppid();
    if parent.is_some_and(|parent| rustix::process::test_kill_process(parent).is_ok()) {
        return Err(StepFault::new(
            Step::Landlock,
            "it was enforced, and still the launcher can be signaled",
            0,
        ));
    }
    Ok(())
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = AccessFs::from_all(HANDLED) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    match access {
        Access::List => AccessFs::ReadDir.into(),
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Share => all & !(AccessFs::Execute | AccessFs::IoctlDev),
        Access::Own => all,
        Access::Device => read | AccessFs::WriteFile | AccessFs::IoctlDev,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_writable_is_not_opened_by_a_link() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/inner")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let at = |name: &str, access| open(&Allowed { path: root.join(name).into(), access });
        assert!(at("real/inner", Access::Own).unwrap().is_some());
        for name in ["link", "link/inner"] {
            assert_eq!(at(name, Access::Own).unwrap_err().errno, libc::ELOOP, "{name}");
            assert!(at(name, Access::Execute).unwrap().is_some(), "{name}");
        }
        assert!(at("nowhere", Access::Own).unwrap().is_none());
    }
}
