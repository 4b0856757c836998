//! A control group of the run's own, where the person's group is delegated to them (`cgroups(7)`, version 2).
//!
//! Inside of namespaces of its own the agent can mount the hierarchy; from our own group it could then freeze the launcher and whatever
//! else of the person's is in it. From a group below, and in a cgroup namespace, it reaches only itself. Where the
//! person may not make groups the agent cannot either, and nothing is lost.
//!
//! A group outlives its processes. Whoever is killed cannot take its own away, so each launch takes away what others left.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::processes::PROCESSES_MAX;

/// Where version 2 is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Before the number of the first stage, which makes the group.
const PREFIX: &str = "writ-run-";
/// Groups of others that are taken away by one launch.
const LEFTOVERS_MAX: usize = 64;
/// Groups below a run's own that an agent can leave for us to take away, in depth and in all.
const DEPTH_MAX: usize = 16;
const BELOW_MAX: usize = 4096;

/// A group that was made, and the file that takes processes into it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) path: PathBuf,
    pub(super) members: File,
    /// Whether it holds the number of processes.
    pub(super) limited: bool,
}

/// Makes a group. `Ok(None)` if we may not; an error if we may, and it did not work.
pub(super) fn make() -> io::Result<Option<Group>> {
    let ours = fs::read_to_string("/proc/self/cgroup")?;
    let Some(parent) = MOUNTS.iter().find_map(|mount| group_directory(Path::new(mount), &ours)) else {
        return Ok(None);
    };
    sweep(&parent, lives);
    let path = parent.join(format!("{PREFIX}{}", std::process::id()));
    match fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        // Somebody's before us with our number, whose processes are gone.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove(&path),
        other => other?,
    }
    // The file is there where the controller was given to the groups here.
    let limited = fs::write(path.join("pids.max"), PROCESSES_MAX.to_string()).is_ok();
    match OpenOptions::new().write(true).open(path.join("cgroup.procs")) {
        Ok(members) => Ok(Some(Group { path, members, limited })),
        Err(error) => {
            let _ = fs::remove_dir(&path);
            Err(error)
        }
    }
}

/// Ends what is in a group of ours and takes it away, with those that an agent made below. Best effort: what is left is empty, and the next
/// launch tries again.
pub(crate) fn remove(group: &Path) {
    // Linux 5.14; before, what is in it died with its init anyway.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    remove_below(group, DEPTH_MAX, &mut { BELOW_MAX });
}

fn remove_below(group: &Path, depth: usize, left: &mut usize) {
    let Some(deeper) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        // A link would not be the kernel's.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Some(rest) = left.checked_sub(1) else { return };
        *left = rest;
        remove_below(&entry.path(), deeper, left);
    }
    let _ = fs::remove_dir(group);
}

/// Takes away the groups of launches whose first stage is gone. One that is being made has a stage that lives.
fn sweep(parent: &Path, lives: impl Fn(u32) -> bool) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let groups = entries.filter_map(|entry| Some((stage(&entry.file_name())?, entry.path())));
    for (_, path) in groups.filter(|(pid, _)| !lives(*pid)).take(LEFTOVERS_MAX) {
        // Nobody is killed here: the number may be of another PID namespace, and a group with processes in it stays by itself.
        remove_below(&path, DEPTH_MAX, &mut { BELOW_MAX });
    }
}

/// Whether there is such a process; one that nobody has waited for is dead (`proc_pid_stat(5)`).
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The number of the stage that made a group of this name.
fn stage(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// The line of version 2 is `0::/path`.
fn group_directory(mount: &Path, ours: &str) -> Option<PathBuf> {
    let name = ours.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = mount.join(name);
    // A directory of version 1 has no such file; a group outside of our cgroup namespace shows as `..`.
    (directory.join("cgroup.procs").exists() && !name.starts_with("..")).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_two_has_our_group() {
        let mount = tempfile::tempdir().unwrap();
        let group = mount.path().join("user.slice/one");
        fs::create_dir_all(&group).unwrap();
        let lines = "4:memory:/x\n0::/user.slice/one\n";
        assert_eq!(group_directory(mount.path(), lines), None);
        fs::write(group.join("cgroup.procs"), "").unwrap();
        assert_eq!(group_directory(mount.path(), lines), Some(group));
        for other in ["4:memory:/user.slice/one\n", "0::/../user.slice/one\n", ""] {
            assert_eq!(group_directory(mount.path(), other), None, "{other}");
        }
    }

    #[test]
    fn groups_of_dead_launches_are_taken_away_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["writ-run-7/a/b", "writ-run-8", "writ-run-9", "writ-run-x", "writ-run-", "other"] {
            fs::create_dir_all(parent.path().join(name)).unwrap();
        }
        sweep(parent.path(), |pid| pid == 8);
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "writ-run-", "writ-run-8", "writ-run-x"]);
    }
}
