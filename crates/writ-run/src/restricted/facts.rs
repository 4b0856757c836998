//! What is so on this machine, read once before a launch is planned.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::plan::TOOLCHAINS;

/// The facts that a restricted launch is planned from. All paths are absolute and free of links, except those of `/etc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The person's home directory.
    pub home: PathBuf,
    /// The home directories of all accounts that have one below a directory of their own.
    pub homes: Vec<PathBuf>,
    /// The repository's root, or the directory in which the program starts.
    pub work_tree: Option<PathBuf>,
    /// Where a linked git worktree keeps its commits.
    pub common_directory: Option<PathBuf>,
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
        let directory = fs::canonicalize(directory).ok();
        let work_tree = directory.map(|start| repository(&start).unwrap_or(start));
        let home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
        let toolchains =
            TOOLCHAINS.iter().map(PathBuf::from).filter(|name| toolchain(&home.join(name))).collect();
        Self {
            homes: homes(),
            common_directory: work_tree.as_deref().and_then(common_directory),
            etc: etc(Path::new("/etc")),
            search_path: std::env::split_paths(search_path)
                .filter_map(|path| fs::canonicalize(path).ok())
                .collect(),
            toolchains,
            work_tree,
            home,
        }
    }
}

/// A place is what it is named: one that is a link could lead to anything.
fn toolchain(place: &Path) -> bool {
    fs::canonicalize(place).is_ok_and(|real| real == place)
}

/// The nearest directory upwards with a `.git`.
fn repository(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|directory| directory.join(".git").exists()).map(Path::to_owned)
}

/// `.git` of a linked worktree is a file that names its directory in the main repository. A repository's files are not to be
/// believed: the directory counts only if it names this work tree in return, as git's own does.
fn common_directory(work_tree: &Path) -> Option<PathBuf> {
    let link = work_tree.join(".git");
    let text = link.is_file().then(|| fs::read(&link).ok()).flatten()?;
    let named = text.strip_prefix(b"gitdir: ")?.trim_ascii_end();
    let own = fs::canonicalize(work_tree.join(OsStr::from_bytes(named))).ok()?;
    let back = fs::read(own.join("gitdir")).ok()?;
    let back = fs::canonicalize(OsStr::from_bytes(back.trim_ascii_end())).ok()?;
    let common = own.parent().filter(|parent| parent.ends_with("worktrees"))?.parent()?;
    (back == fs::canonicalize(&link).ok()? && common.join("objects").is_dir()).then(|| common.to_owned())
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
    fn a_common_directory_is_believed_only_if_it_names_the_work_tree() {
        let root = fs::canonicalize(tempfile::tempdir().unwrap().keep()).unwrap();
        let (main, linked) = (root.join("main/.git"), root.join("linked"));
        let own = main.join("worktrees/linked");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(main.join("objects")).unwrap();
        fs::create_dir_all(&linked).unwrap();
        fs::write(linked.join(".git"), format!("gitdir: {}\n", own.display())).unwrap();
        fs::write(own.join("gitdir"), format!("{}\n", linked.join(".git").display())).unwrap();
        assert_eq!(common_directory(&linked), Some(main.clone()));
        fs::write(own.join("gitdir"), format!("{}\n", root.join("other/.git").display())).unwrap();
        assert_eq!(common_directory(&linked), None);
        fs::remove_dir_all(root).unwrap();
    }
}
