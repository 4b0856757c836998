//! A control group of the run's own, where the person's group is delegated to them (`cgroups(7)`, version 2).
//!
//! Inside of namespaces of its own the agent can mount the hierarchy; from our own group it could then freeze the launcher and whatever
//! else of the person's is in it. From a group below, and in a cgroup namespace, it reaches only itself. Where the
//! person may not make groups the agent cannot either, and nothing is lost.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// Where version 2 is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A group that was made, and the file that takes processes into it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) path: PathBuf,
    pub(super) members: File,
}

/// Makes a group. `Ok(None)` if we may not; an error if we may, and it did not work.
pub(super) fn make() -> io::Result<Option<Group>> {
    let ours = fs::read_to_string("/proc/self/cgroup")?;
    let Some(parent) = MOUNTS.iter().find_map(|mount| group_directory(Path::new(mount), &ours)) else {
        return Ok(None);
    };
    let path = parent.join(format!("writ-run-{}", std::process::id()));
    match fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        other => other?,
    }
    match OpenOptions::new().write(true).open(path.join("cgroup.procs")) {
        Ok(members) => Ok(Some(Group { path, members })),
        Err(error) => {
            let _ = fs::remove_dir(&path);
            Err(error)
        }
    }
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
}
