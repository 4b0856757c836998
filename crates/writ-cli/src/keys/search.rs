//! Which files of a work tree may hold keys.
//!
//! Looked into is the start directory, and where it is in a git work tree, all of that. The walk follows no link, skips what
//! tools fill by themselves, and has limits; whoever keeps keys deeper can start writ there.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// How deep below the root.
const DEPTH_MAX: usize = 5;
/// The most directory entries that are looked at.
const ENTRIES_MAX: usize = 50_000;
/// The most files.
const FILES_MAX: usize = 200;
/// Directories of packages, builds and version control.
const SKIPPED: [&str; 16] = [
    ".git",
    ".hg",
    ".svn",
    "node_modules",
    "target",
    "vendor",
    "venv",
    ".venv",
    "__pycache__",
    ".tox",
    ".mypy_cache",
    ".next",
    ".cache",
    ".terraform",
    "site-packages",
    "Pods",
];

/// What was found.
pub struct Files {
    /// In order.
    pub paths: Vec<PathBuf>,
    /// A limit was reached.
    pub cut: bool,
}

/// Files that may hold keys, in `start` and the git work tree around it. In `home` itself, and above it, only `start` is looked
/// into: that is no work tree.
pub fn files(start: &Path, home: Option<&Path>) -> Files {
    let start = fs::canonicalize(start).unwrap_or_else(|_| start.to_owned());
    let home = home.and_then(|home| fs::canonicalize(home).ok());
    let too_wide = |directory: &Path| home.as_ref().is_some_and(|home| home.starts_with(directory));
    let git = start.ancestors().find(|at| at.join(".git").exists()).filter(|at| !too_wide(at));
    let depth = if too_wide(&start) { 0 } else { DEPTH_MAX };
    let root = git.unwrap_or(&start).to_owned();
    let mut walk = Walk { entries: 0, paths: BTreeSet::new(), cut: false };
    walk.directory(&root, depth);
    if root != start {
        walk.directory(&start, 0);
    }
    Files { paths: walk.paths.into_iter().collect(), cut: walk.cut }
}

struct Walk {
    entries: usize,
    paths: BTreeSet<PathBuf>,
    cut: bool,
}

impl Walk {
    fn directory(&mut self, directory: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.filter_map(Result::ok) {
            self.entries += 1;
            if self.entries > ENTRIES_MAX || self.paths.len() >= FILES_MAX {
                self.cut = true;
                return;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() {
                let skipped = name.to_str().is_some_and(|name| SKIPPED.contains(&name));
                if depth > 0 && !skipped {
                    self.directory(&entry.path(), depth - 1);
                }
            } else if is_env_file(&name) {
                self.paths.insert(entry.path());
            }
        }
    }
}

/// By its name: `.env`, `.env.local`, `api.env`, `.envrc`, `.flaskenv`, `.dev.vars`, compose files.
fn is_env_file(name: &OsStr) -> bool {
    let Some(text) = name.to_str() else { return false };
    let lower = text.to_ascii_lowercase();
    let begins = |start: &str| lower.starts_with(start);
    let compose = (begins("docker-compose") || begins("compose"))
        && (lower.ends_with(".yml") || lower.ends_with(".yaml"));
    let env = matches!(lower.as_str(), ".env" | ".envrc" | ".flaskenv" | ".dev.vars")
        || begins(".env.")
        || begins(".envrc.")
        || begins(".dev.vars.")
        || lower.ends_with(".env");
    (env || compose) && !super::file::is_own(name) && !lower.ends_with('~') && !lower.ends_with(".swp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn found(root: &Path, start: &str, home: Option<&str>) -> Vec<String> {
        let root = fs::canonicalize(root).unwrap();
        let files = files(&root.join(start), home.map(|home| root.join(home)).as_deref());
        let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
        files.paths.iter().map(relative).collect()
    }

    #[test]
    fn names() {
        for name in
            [".env", ".env.local", ".ENV", "api.env", ".envrc", "docker-compose.override.yml", "compose.yaml"]
        {
            assert!(is_env_file(OsStr::new(name)), "{name}");
        }
        for name in ["env", "environment.ts", ".env~", "..env.writ-new", ".env.swp", "composer.json", ".git"]
        {
            assert!(!is_env_file(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_git_root_and_what_is_below_it_and_nothing_above() {
        let root = tree(&[
            ".env",
            "app/.git/HEAD",
            "app/.git/.env",
            "app/.env",
            "app/api/.env.local",
            "app/api/deep/.envrc",
            "app/node_modules/x/.env",
            "app/a/b/c/d/e/f/.env",
            "other/.env",
        ]);
        let expected = ["app/.env", "app/api/.env.local", "app/api/deep/.envrc"];
        for start in ["app", "app/api", "app/api/deep"] {
            assert_eq!(found(root.path(), start, None), expected, "{start}");
        }
        let deep = found(root.path(), "app/a/b/c/d/e/f", None);
        assert!(deep.contains(&"app/a/b/c/d/e/f/.env".to_owned()), "the start directory itself: {deep:?}");
        assert_eq!(found(root.path(), "other", None), ["other/.env"]);
    }

    #[test]
    fn a_home_directory_is_no_work_tree() {
        let root = tree(&["home/.env", "home/.git/HEAD", "home/project/.env", "home/project/sub/.env"]);
        assert_eq!(found(root.path(), "home", Some("home")), ["home/.env"]);
        assert_eq!(found(root.path(), "", Some("home")), Vec::<String>::new());
        let project = ["home/project/.env", "home/project/sub/.env"];
        assert_eq!(found(root.path(), "home/project", Some("home")), project);
    }

    #[test]
    fn links_are_listed_but_not_entered() {
        let root = tree(&["app/.env", "outside/.env"]);
        std::os::unix::fs::symlink(root.path().join("outside"), root.path().join("app/out")).unwrap();
        std::os::unix::fs::symlink("../outside/.env", root.path().join("app/.env.local")).unwrap();
        assert_eq!(found(root.path(), "app", None), ["app/.env", "app/.env.local"]);
    }

    #[test]
    fn limits() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..=FILES_MAX {
            fs::write(root.path().join(format!(".env.{number}")), "").unwrap();
        }
        let files = files(root.path(), None);
        assert!(files.cut && files.paths.len() == FILES_MAX);
    }
}
