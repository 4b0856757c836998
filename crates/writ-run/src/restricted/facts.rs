//! What is so on this machine, read once before a launch is planned.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{stderr, stdin, stdout};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::termios::ttyname;

use super::plan::TOOLCHAINS;
use crate::RawPath;
use crate::view::facts::{Credential, cache_at, known_credentials};
use crate::view::lead::lead;
use crate::view::worktree::{self, WorkTree};

/// The facts that a restricted launch is planned from. All paths are absolute and free of links, except those of `/etc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The person's home directory.
    pub home: PathBuf,
    /// The home directories of all accounts that have one below a directory of their own.
    pub homes: Vec<PathBuf>,
    /// What may be written.
    pub(crate) work: WorkTree,
    /// Writable directories that runs share, without links: see [`Facts::with_caches`].
    pub caches: Vec<PathBuf>,
    /// Those that were asked for and are none, or are reached by a link that an agent could have laid.
    pub(crate) caches_absent: Vec<PathBuf>,
    /// Files of credentials in the home.
    pub(crate) credentials: Vec<Credential>,
    /// The terminals that the program is given anyway, by name.
    pub terminals: Vec<PathBuf>,
    /// The lines of git's settings that are copied.
    pub git: Vec<String>,
    /// The entries of `/etc` that hold no secret.
    pub etc: Vec<PathBuf>,
    /// Directories of `PATH`.
    pub search_path: Vec<PathBuf>,
    /// Which of the toolchains' places exist below the home, as they are named there.
    pub toolchains: Vec<PathBuf>,
}

impl Facts {
    /// Reads them. What cannot be read is taken for absent, which opens less, not more.
    pub fn gather(directory: &Path, home: &Path, search_path: &OsStr) -> Self {
        let home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
        let work = fs::canonicalize(directory).map(|start| worktree::find(&start, &home)).unwrap_or_default();
        let grounds: Vec<PathBuf> = work.root.iter().chain(&work.common).cloned().collect();
        let toolchains =
            TOOLCHAINS.iter().map(PathBuf::from).filter(|name| toolchain(&home.join(name))).collect();
        Self {
            homes: homes(),
            credentials: known_credentials(&home),
            terminals: terminals(),
            git: git_settings(&home),
            etc: etc(Path::new("/etc")),
            search_path: std::env::split_paths(search_path)
                .filter_map(|path| lead(&path, &grounds))
                .collect(),
            toolchains,
            work,
            home,
            ..Self::default()
        }
    }

    /// With the caches that are asked for, each by where it is.
    #[must_use]
    pub fn with_caches(mut self, caches: &[RawPath]) -> Self {
        let grounds: Vec<PathBuf> = self.work.root.iter().chain(&self.work.common).cloned().collect();
        let real = caches.iter().filter_map(|cache| fs::canonicalize(&**cache).ok());
        let writable: Vec<PathBuf> = grounds.iter().cloned().chain(real).collect();
        for cache in caches {
            match cache_at(cache, &grounds, &writable).filter(|place| place.is_dir()) {
                Some(place) => self.caches.push(place),
                None => self.caches_absent.push(cache.0.clone()),
            }
        }
        self
    }
}

/// A place is what it is named: one that is a link could lead to anything.
fn toolchain(place: &Path) -> bool {
    fs::canonicalize(place).is_ok_and(|real| real == place)
}

/// The lines of git's settings of a person that name nobody else: who commits, and how. Others can hold credentials, or programs.
fn git_settings(home: &Path) -> Vec<String> {
    let places = [home.join(".config/git/config"), home.join(".gitconfig")];
    let texts: Vec<String> = places.iter().filter_map(|place| fs::read_to_string(place).ok()).collect();
    let (mut found, mut section) = (Vec::new(), "");
    for line in texts.iter().flat_map(|text| text.lines()).map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split_once('=').map(|(key, _)| key.trim()).unwrap_or_default();
        let plain = !line.ends_with('\\') && line.len() <= GIT_LINE_MAX;
        if plain && GIT_PLAIN.iter().any(|(of, known)| *of == section && known.eq_ignore_ascii_case(key)) {
            found.push(format!("{section}\n\t{line}\n"));
        }
    }
    found
}

/// A longer line is no name.
const GIT_LINE_MAX: usize = 500;
const GIT_PLAIN: &[(&str, &str)] = &[
    ("[user]", "name"),
    ("[user]", "email"),
    ("[init]", "defaultBranch"),
    ("[core]", "autocrlf"),
    ("[pull]", "rebase"),
    ("[pull]", "ff"),
    ("[push]", "default"),
    ("[push]", "autoSetupRemote"),
    ("[merge]", "conflictStyle"),
    ("[rebase]", "autoStash"),
];

fn terminals() -> Vec<PathBuf> {
    let streams = [
        stdin().as_fd().try_clone_to_owned(),
        stdout().as_fd().try_clone_to_owned(),
        stderr().as_fd().try_clone_to_owned(),
    ];
    let names = streams.into_iter().flatten().filter_map(|stream| ttyname(stream, Vec::new()).ok());
    let names: BTreeSet<_> = names.map(|name| PathBuf::from(OsStr::from_bytes(name.as_bytes()))).collect();
    names.into_iter().collect()
}

fn homes() -> Vec<PathBuf> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = accounts.lines().filter_map(|line| line.split(':').nth(5));
    // System accounts have homes such as `/usr/sbin`, which hold nothing of a person's.
    let people = fields.filter(|home| home.starts_with("/home/") || home.starts_with("/root"));
    people.map(PathBuf::from).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Readable entries, two levels deep where a directory also holds private keys. `/etc` is listed anew for each run.
fn etc(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in entries(root) {
        let Some(name) = entry.file_name().and_then(OsStr::to_str) else { continue };
        if ETC_SECRET.contains(&name.trim_end_matches('-')) || name.ends_with(".keytab") {
            continue;
        }
        if ETC_MIXED.contains(&name) && entry.is_dir() {
            found.extend(entries(&entry).into_iter().filter(|path| !is_private(path)));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn is_private(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name == b"private" || name == b"opasswd" || name.ends_with(b"_key") || name.ends_with(b".key")
}

/// Entries of `/etc` that hold secrets of the machine. An ordinary account cannot read them anyway; uid 0 could.
const ETC_SECRET: &[&str] = &[
    "shadow",
    "gshadow",
    "sudoers",
    "sudoers.d",
    "NetworkManager",
    "wireguard",
    "ppp",
    "ipsec.secrets",
    "ipsec.d",
    "swanctl",
    "openvpn",
    "letsencrypt",
    "docker",
    "kubernetes",
    "rancher",
    "containerd",
    "krb5.conf.d",
    "vault.d",
    "writ",
    "exim4",
    "postfix",
    "mysql",
    "postgresql",
    "redis",
    "ldap",
];

/// Directories in which secrets lie among what programs need.
const ETC_MIXED: &[&str] = &["ssl", "ssh", "pki", "security", "nginx", "apache2"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etc_is_listed_without_what_is_secret() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "shadow",
            "shadow-",
            "gshadow",
            "passwd",
            "krb5.keytab",
            "ssl/certs/a.pem",
            "ssl/private/k",
            "ssh/ssh_config",
            "ssh/ssh_host_rsa_key",
            "ssh/ssh_host_rsa_key.pub",
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = etc(root.path());
        let names: Vec<_> =
            found.iter().map(|path| path.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["passwd", "ssh/ssh_config", "ssh/ssh_host_rsa_key.pub", "ssl/certs"]);
    }

    #[test]
    fn a_directory_of_path_that_became_a_link_in_the_work_tree_opens_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let (work, tools) = (root.join("work"), root.join("tools"));
        for directory in [work.join(".git"), work.join("bin"), tools.clone(), root.join("letters")] {
            fs::create_dir_all(directory).unwrap();
        }
        std::os::unix::fs::symlink(root.join("letters"), work.join("planted")).unwrap();
        let search = std::env::join_paths([work.join("bin"), work.join("planted"), tools.clone()]).unwrap();
        let facts = Facts::gather(&work, &root.join("home"), &search);
        assert_eq!(facts.search_path, [work.join("bin"), tools]);
    }

    #[test]
    fn a_cache_that_became_a_link_in_the_work_tree_opens_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let (work, letters, disk) = (root.join("work"), root.join("letters"), root.join("disk"));
        for directory in [&work.join(".git"), &work.join("own"), &letters, &disk] {
            fs::create_dir_all(directory).unwrap();
        }
        for (link, to) in [("work/planted", &letters), ("work/alias", &work.join("own")), ("cache", &disk)] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        let asked = ["work/planted", "work/alias", "cache", "nowhere"].map(|name| RawPath(root.join(name)));
        let facts = Facts::gather(&work, &root.join("home"), OsStr::new("")).with_caches(&asked);
        assert_eq!(facts.caches, [work.join("own"), disk]);
        assert_eq!(facts.caches_absent, [root.join("work/planted"), root.join("nowhere")]);
    }

    #[test]
    fn of_gits_settings_only_names_and_habits_are_copied() {
        let home = tempfile::tempdir().unwrap();
        let text = "[user]\n name = Ada\n\temail=ada@example.com\n signingkey = x\n[core]\n sshCommand = evil\n\
            [http \"https://github.com\"]\n extraheader = AUTHORIZATION: basic c2VjcmV0\n[credential]\n helper = store\n\
            [user \"x\"]\n name = no\n[user]\n name = continued \\\n\n[pull]\nREBASE = true\n";
        fs::write(home.path().join(".gitconfig"), text).unwrap();
        let settings = git_settings(home.path()).concat();
        assert_eq!(
            settings,
            "[user]\n\tname = Ada\n[user]\n\temail=ada@example.com\n[pull]\n\tREBASE = true\n"
        );
    }
}
