//! The work tree: the part of the host that the agent may write.
//!
//! A `.git` file can be written by an agent, so it is believed only where the directory that it names says the same: a linked work tree is
//! registered in its repository.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// What is writable around the start directory. All paths are canonical.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkTree {
    /// `None` where nothing may be writable.
    pub root: Option<PathBuf>,
    /// Of a linked work tree: the repository's own directory, where its commits go.
    pub common: Option<PathBuf>,
}

/// The work tree around `directory`, for the home `home`.
pub(crate) fn find(directory: &Path, home: &Path) -> WorkTree {
    let mut found = WorkTree::default();
    if !writable(directory, home) {
        return found;
    }
    found.root = Some(directory.to_owned());
    let repository = directory.ancestors().find(|place| fs::symlink_metadata(place.join(".git")).is_ok());
    let Some(root) = repository.filter(|root| writable(root, home)) else { return found };
    found.root = Some(root.to_owned());
    let Some(git) = git_file(root) else { return found };
    if let Some(whole) = superproject(root, &git).filter(|whole| writable(whole, home)) {
        found.root = Some(whole.to_owned());
    }
    found.common = common(root, &git).filter(|common| writable(common, home));
    found
}

/// Whether an agent may write here at all: not where the system or the person's whole home would be opened.
pub(super) fn writable(place: &Path, home: &Path) -> bool {
    let system = SYSTEM.iter().any(|system| place.starts_with(system));
    !system && !home.starts_with(place) && !SHARED.iter().any(|shared| Path::new(shared) == place)
}

/// Whether an agent may be shown all that is in `place`, because a tool is said to be there: not the host's temporary and runtime
/// directories, whose sockets would connect, and not what holds the person's home.
pub(super) fn showable(place: &Path, home: &Path) -> bool {
    let live = LIVE.iter().any(|live| place.starts_with(live));
    !live && !home.starts_with(place) && !SHARED.iter().any(|shared| Path::new(shared) == place)
}

/// The host at work: processes, devices, sockets.
const LIVE: [&str; 6] = ["/dev", "/proc", "/sys", "/run", "/var/run", "/var/lock"];
/// Never writable, nor what is in them.
const SYSTEM: [&str; 20] = [
    "/etc",
    "/dev",
    "/proc",
    "/sys",
    "/run",
    "/boot",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/var/spool",
];
/// Too wide, but one may work somewhere below.
const SHARED: [&str; 12] = [
    "/",
    "/usr",
    "/usr/local",
    "/var",
    "/var/tmp",
    "/var/lib",
    "/opt",
    "/srv",
    "/home",
    "/mnt",
    "/media",
    "/tmp",
];

/// What a `.git` file names, canonical.
fn git_file(root: &Path) -> Option<PathBuf> {
    let file = root.join(".git");
    let found = fs::symlink_metadata(&file).ok()?;
    if !found.is_file() || found.len() > GIT_FILE_MAX {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    fs::canonicalize(root.join(text.trim_end().strip_prefix("gitdir:")?.trim_start())).ok()
}

const GIT_FILE_MAX: u64 = 8192;

/// For a submodule: the repository that it is a part of, where its own directory is, if that says the same.
fn superproject<'a>(root: &'a Path, git: &Path) -> Option<&'a Path> {
    let whole = root.ancestors().skip(1).find(|place| git.starts_with(place.join(".git/modules")))?;
    let config = fs::File::open(git.join("config")).ok()?;
    let mut text = String::new();
    config.take(CONFIG_MAX).read_to_string(&mut text).ok()?;
    (fs::canonicalize(git.join(core_worktree(&text)?)).ok()? == root).then_some(whole)
}

/// Of a submodule's configuration, read at the most.
const CONFIG_MAX: u64 = 65536;

/// `core.worktree`, which git writes into the configuration of each submodule.
fn core_worktree(config: &str) -> Option<&str> {
    let mut section = "";
    config.lines().map(str::trim).find_map(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let (key, value) = line.split_once('=')?;
        (section == "[core]" && key.trim() == "worktree").then(|| value.trim().trim_matches('"'))
    })
}

/// For a linked work tree: the repository's directory, if it knows of this work tree.
fn common(root: &Path, git: &Path) -> Option<PathBuf> {
    let registered = fs::read_to_string(git.join("gitdir")).ok()?;
    let back = fs::canonicalize(git.join(registered.trim_end())).ok()?;
    let named = fs::read_to_string(git.join("commondir")).ok()?;
    let common = fs::canonicalize(git.join(named.trim_end())).ok()?;
    let own = back == root.join(".git") && git.parent()? == common.join("worktrees");
    let shaped =
        common.join("HEAD").is_file() && common.join("objects").is_dir() && common.join("refs").is_dir();
    (own && shaped).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ground(tempfile::TempDir);

    impl Ground {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn dir(&self, path: &str) -> PathBuf {
            let path = self.0.path().canonicalize().unwrap().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        }

        fn file(&self, path: &str, content: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn repository(&self, at: &str) {
            self.dir(&format!("{at}/objects"));
            self.dir(&format!("{at}/refs"));
            self.file(&format!("{at}/HEAD"), "ref: refs/heads/main\n");
        }
    }

    #[test]
    fn the_repositorys_root_is_the_work_tree_and_never_the_home_or_the_system() {
        let ground = Ground::new();
        ground.repository("home/p/.git");
        let (home, deep) = (ground.dir("home"), ground.dir("home/p/a/b"));
        let root = ground.dir("home/p");
        assert_eq!(find(&deep, &home), WorkTree { root: Some(root), common: None });
        ground.repository("home/.git");
        let plain = ground.dir("home/q/c");
        assert_eq!(
            find(&plain, &home).root,
            Some(plain),
            "a repository in the home itself counts for nothing"
        );
        for none in [
            home.as_path(),
            home.parent().unwrap(),
            Path::new("/"),
            Path::new("/etc/x"),
            Path::new("/tmp"),
            Path::new("/usr/bin"),
            Path::new("/usr/local/bin"),
            Path::new("/usr/lib/python3"),
            Path::new("/var/spool/cron"),
        ] {
            assert_eq!(find(none, &home), WorkTree::default(), "{none:?}");
        }
    }

    #[test]
    fn a_linked_work_tree_brings_its_repository_only_if_that_knows_it() {
        let ground = Ground::new();
        let home = ground.dir("home");
        ground.repository("main/.git");
        let common = ground.dir("main/.git");
        let tree = ground.dir("tree");
        ground.file("tree/.git", &format!("gitdir: {}/worktrees/t\n", common.display()));
        ground.file("main/.git/worktrees/t/commondir", "../..\n");
        ground.file("main/.git/worktrees/t/gitdir", &format!("{}/.git\n", tree.display()));
        assert_eq!(find(&tree, &home), WorkTree { root: Some(tree.clone()), common: Some(common) });
        ground.file("main/.git/worktrees/t/gitdir", "/elsewhere/.git\n");
        assert_eq!(find(&tree, &home).common, None);
        // What an agent could plant: everything in its own tree, pointing at a place that it wants to write.
        ground.repository("home/wanted");
        ground.file("tree/.git", "gitdir: fake/worktrees/t\n");
        ground.file("tree/fake/worktrees/t/commondir", &format!("{}/wanted\n", home.display()));
        ground.file("tree/fake/worktrees/t/gitdir", &format!("{}/.git\n", tree.display()));
        assert_eq!(find(&tree, &home).common, None);
    }

    #[test]
    fn a_submodule_opens_the_repository_that_holds_it() {
        let ground = Ground::new();
        let home = ground.dir("home");
        ground.repository("whole/.git/modules/part");
        ground.file("whole/part/.git", "gitdir: ../.git/modules/part\n");
        let (whole, part) = (ground.dir("whole"), ground.dir("whole/part"));
        let config = "[core]\n\tbare = false\n\tworktree = ../../../part\n";
        ground.file("whole/.git/modules/part/config", config);
        assert_eq!(find(&part, &home), WorkTree { root: Some(whole.clone()), common: None });
        // What an agent could plant that works in a repository within another: it names a part that it is not.
        ground.file("whole/own/.git", "gitdir: ../.git/modules/part\n");
        let own = ground.dir("whole/own");
        assert_eq!(find(&own, &home), WorkTree { root: Some(own), common: None });
        ground.file("whole/.git/modules/part/config", "[other]\n\tworktree = ../../../part\n");
        assert_eq!(find(&part, &home), WorkTree { root: Some(part), common: None });
    }
}
