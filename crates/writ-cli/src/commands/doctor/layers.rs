//! Home layers: what agents wrote below a home directory, kept from run to run.
//!
//! A layer that a run has is locked, and a second run of the same work tree gets one in memory, so what it learns is gone at its
//! end. Old ones are an agent's leavings that nobody needs. Nothing in a layer is read here: it is hostile input.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;

use super::Check;

/// When a layer that no run used is old.
const OLD: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The most layers that are named.
const NAMED_MAX: usize = 5;

/// What there is below `layers`; nothing where no run has kept one yet.
pub(super) fn check(layers: &Path, now: SystemTime) -> Vec<Check> {
    let paths: Vec<PathBuf> = fs::read_dir(layers)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()))
        .collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let (used, idle): (Vec<_>, Vec<_>) = paths.iter().partition(|path| is_locked(path));
    let in_use = match used.len() {
        0 => String::new(),
        number => format!(", {number} of them in use: another run there gets one in memory"),
    };
    let mut checks = vec![Check::good(format!("{} home layers are kept{in_use}", paths.len()))];
    let mut old: Vec<_> = idle.into_iter().filter(|path| is_old(path, now)).collect();
    old.sort();
    if !old.is_empty() {
        let days = OLD.as_secs() / (24 * 60 * 60);
        let what = format!("{} home layers were not used for {days} days", old.len());
        let named = old.iter().take(NAMED_MAX).map(|path| path.display().to_string());
        let named = named.collect::<Vec<_>>().join(" ");
        checks.push(Check::warning(what, format!("rm -r {named}, if nothing in them is needed")));
    }
    checks
}

/// Whether a run has it.
fn is_locked(layer: &Path) -> bool {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let lock = File::options().read(true).write(true).custom_flags(flags).open(layer.join("lock"));
    lock.is_ok_and(|lock| matches!(writ_sys::flock_exclusive_nonblocking(&lock), Ok(false)))
}

/// By the directories that every mount and every change at the top touches.
fn is_old(layer: &Path, now: SystemTime) -> bool {
    let touched = |name: &str| layer.join(name).symlink_metadata().and_then(|found| found.modified()).ok();
    let last = [touched("upper"), touched("work")].into_iter().flatten().max();
    last.is_some_and(|last| now.duration_since(last).is_ok_and(|age| age > OLD))
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;

    #[test]
    fn layers_in_use_and_old_ones_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        assert!(check(&directory.path().join("absent"), now).is_empty());
        for name in ["a", "b"] {
            for half in ["upper", "work"] {
                fs::create_dir_all(directory.path().join(name).join(half)).unwrap();
            }
            fs::write(directory.path().join(name).join("lock"), "").unwrap();
        }
        let said = |now| {
            let checks = check(directory.path(), now);
            checks.into_iter().map(|check| (check.finding, check.what, check.next)).collect::<Vec<_>>()
        };
        let [(Finding::Good, what, None)] = &said(now)[..] else { panic!("{:?}", said(now)) };
        assert_eq!(what, "2 home layers are kept");
        let later = now + OLD + Duration::from_secs(60);
        let lock = File::open(directory.path().join("a/lock")).unwrap();
        assert!(writ_sys::flock_exclusive_nonblocking(&lock).unwrap());
        let [(Finding::Good, what, None), (Finding::Warning, old, Some(next))] = &said(later)[..] else {
            panic!("{:?}", said(later))
        };
        assert!(what.contains("1 of them in use"), "{what}");
        assert_eq!(old, "1 home layers were not used for 90 days");
        assert!(next.contains(&directory.path().join("b").display().to_string()), "{next}");
        assert!(!next.contains(&directory.path().join("a").display().to_string()), "{next}");
    }
}
