//! Where a path leads, and who says so.
//!
//! A directory of `PATH` is often inside of the work tree (`.venv/bin`, `node_modules/.bin`), where an agent can put a link in its
//! place. The next run would then show what the link names: the host's `/tmp`, say, with its sockets. So a way that an agent
//! could have laid counts only where it ends among what is the agent's anyway.

use std::{
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

/// Links on one way (`MAXSYMLINKS` of the kernel).
const LINKS_MAX: usize = 40;

/// `path` without links; `None` where it leads nowhere, or out of `grounds` by a link that lies in them.
pub(crate) fn lead(path: &Path, grounds: &[PathBuf]) -> Option<PathBuf> {
    let within = |place: &Path| grounds.iter().any(|ground| place.starts_with(ground));
    let Way { end, links } = way(path)?;
    (within(&end) || !links.iter().any(|link| within(link))).then_some(end)
}

/// Where a path ends, and the links on the way, each by where it lies.
pub(super) struct Way {
    pub end: PathBuf,
    pub links: Vec<PathBuf>,
}

/// Follows `path`; `None` where it leads nowhere.
pub(super) fn way(path: &Path) -> Option<Way> {
    let (mut end, mut links) = (PathBuf::from("/"), Vec::new());
    let mut left = reversed(path);
    while let Some(name) = left.pop() {
        if name == ".." {
            end.pop();
            continue;
        }
        let next = end.join(&name);
        if !fs::symlink_metadata(&next).ok()?.is_symlink() {
            end = next;
            continue;
        }
        if links.len() == LINKS_MAX {
            return None;
        }
        let target = fs::read_link(&next).ok()?;
        links.push(next);
        if target.is_absolute() {
            end = PathBuf::from("/");
        }
        left.extend(reversed(&target));
    }
    Some(Way { end, links })
}

/// The names in `path`, the last one first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.rev().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_in_a_writable_place_leads_nowhere_outside_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        for name in ["work/own/bin", "other/bin", "outside"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for (link, target) in [
            ("work/planted", "../outside"),
            ("work/absolute", root.join("outside").to_str().unwrap()),
            ("work/up", ".."),
            ("work/again", "planted"),
            ("work/alias", "own"),
            ("outside/into", "../work/planted"),
            ("honest", "other"),
            ("loop", "loop"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let grounds = [at("work")];
        for planted in
            ["work/planted", "work/absolute", "work/up/outside", "work/again", "outside/into", "work/up"]
        {
            assert_eq!(lead(&at(planted), &grounds), None, "{planted}");
            assert!(lead(&at(planted), &[]).is_some(), "{planted} leads somewhere where nobody else writes");
        }
        for (good, to) in
            [("honest/bin", "other/bin"), ("work/alias/bin", "work/own/bin"), ("other", "other")]
        {
            assert_eq!(lead(&at(good), &grounds), Some(at(to)), "{good}");
        }
        for nowhere in ["loop", "absent", "work/absent"] {
            assert_eq!(lead(&at(nowhere), &grounds), None, "{nowhere}");
        }
    }
}
