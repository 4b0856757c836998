//! What a restricted program may open, decided before it starts.
//!
//! Landlock only adds: a tree that is allowed is allowed whole. So everything is an allow-list, and where a tree holds
//! something that must stay hidden, its entries are listed instead.
//!
//! ```text
//!   system        read, execute           /usr /bin /lib… /opt /nix; /etc by entry, without password hashes, host and private keys
//!   kernel        read                    /proc /sys: other processes' memory and environment stay closed, see `landlock`
//!   devices       by name                 null zero full random urandom shm, our own terminal; no disks, for uid 0 either
//!   work tree     read, write, execute    with the common directory of a linked git worktree; declared caches and paths
//!   home          a fresh directory       below this run's own directory, and `HOME` says so
//!   toolchains    read, execute           in the real home, by name; links in the fresh home lead there
//! ```
//!
//! **Why `HOME` moves.** In the real one, programs would fail at every file they may not write, tool by tool; and allowing
//! what they write (`~/.config`, `~/.cache`, start-up files) would let an agent change what the host runs later. In a fresh
//! one everything can be written and nothing is found: credential files are absent by construction, not by a list of names.
//! What tools need to *run* (compilers, interpreters, installed programs) is linked in, read-only. What they need to
//! *know* (an agent's settings, placeholders) is seeded: [`HomeFile`](crate::HomeFile).
//!
//! What cannot be had at this level: the project's own `writ.toml` stays writable (trust in it is bound to its hash), `/tmp`
//! is not there (`TMPDIR` is), and `stat` and `chmod` are not Landlock's business. New terminals cannot be opened (tmux, `script`):
//! they lie among those of the person's other windows, in which passwords are typed. Who needs them more declares
//! `/dev/pts` writable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use crate::view::credentials;
use crate::{Bytes, HomeFile, RawPath, Seeding, Wishes};

/// What is asked for at this level, besides [`Wishes`].
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// A directory of this run's own, which exists and is only ours; the fresh home and `TMPDIR` are made in it.
    pub private: RawPath,
    /// TCP addresses on the host that may be reached: the session's proxy.
    pub reachable: Vec<SocketAddr>,
    /// Files of this session's own that are readable, such as its certificates: they may lie in what is hidden otherwise.
    pub own: Vec<RawPath>,
    /// Paths that are writable besides, as the person's configuration declares.
    pub writable: Vec<RawPath>,
}

/// What a program may do with a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Directories are listed; no file is opened.
    List,
    Read,
    /// Read and execute.
    Execute,
    /// Read, write, make, remove; not execute.
    Share,
    /// Everything but making devices.
    Own,
    /// Read, write and control what is there: terminals and the like.
    Device,
}

/// One tree or file, and what is allowed there. A path that does not exist allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    pub path: RawPath,
    pub access: Access,
}

/// A restricted launch, planned. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestrictedPlan {
    pub allowed: Vec<Allowed>,
    /// The fresh home, and the place for temporary files: made when the program starts.
    pub home: RawPath,
    pub temporary: RawPath,
    /// Below the fresh home, and where it leads.
    pub links: Vec<(RawPath, RawPath)>,
    pub files: Vec<HomeFile>,
    /// Variables that replace those of the process.
    pub variables: Vec<(Bytes, Bytes)>,
    pub reachable: Vec<SocketAddr>,
    /// For the person: what was left out and why.
    pub notes: Vec<String>,
}

/// Why a launch cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A tree would have to be opened that holds what must stay hidden; Landlock cannot leave it out.
    #[error("{} cannot be opened at this level: it holds {}", tree.display(), hidden.display())]
    Exposes { tree: PathBuf, hidden: PathBuf },
    #[error("{} is no absolute path", .0.display())]
    Relative(PathBuf),
}

/// Decides what is opened. It reads nothing: what it knows of the machine is in `facts`.
///
/// # Errors
/// [`PlanFault::Exposes`] if the work tree, a cache or a declared writable path holds the home directory, a place of credentials or
/// one of writ's own directories, or lies in a place of credentials. What is only to be read is left out then, with a note.
pub fn plan(facts: &Facts, wishes: &Wishes, asked: &Asked) -> Result<RestrictedPlan, PlanFault> {
    let guard = Guard::of(facts, wishes);
    let mut planned = Planned::default();
    for tree in SYSTEM {
        planned.allow(*tree, Access::Execute);
    }
    for (tree, access) in KERNEL.iter().chain(DEVICES).chain(STATE) {
        planned.allow(*tree, *access);
    }
    for terminal in &facts.terminals {
        planned.allow(terminal.clone(), Access::Device);
    }
    for entry in &facts.etc {
        planned.allow(entry.clone(), Access::Read);
    }
    if facts.work.root.is_none() {
        planned
            .notes
            .push("the program was started where nothing may be written: it has no work tree".into());
    }
    for cache in &facts.caches_absent {
        planned.notes.push(format!(
            "the cache {cache:?} is no directory, or a link of the work tree's: it is left out"
        ));
    }
    for path in facts.work.root.iter().chain(&facts.work.common) {
        planned.allow(guard.admit(path)?, Access::Own);
    }
    for path in facts.caches.iter().chain(asked.writable.iter().map(|path| &path.0)) {
        planned.allow(guard.admit(path)?, Access::Own);
    }
    for path in wishes.readable.iter().map(|path| &path.0).chain(&facts.search_path) {
        match guard.admit(path) {
            Ok(path) => planned.allow(path, Access::Execute),
            Err(fault) => planned.notes.push(format!("left out: {fault}")),
        }
    }
    let home = asked.private.join("home");
    for name in &facts.toolchains {
        let place = facts.home.join(name);
        planned.allow(place.clone(), Access::Execute);
        planned.links.push((RawPath(name.clone()), RawPath(place)));
    }
    for file in &asked.own {
        planned.allow(file.0.clone(), Access::Read);
    }
    planned.allow(asked.private.0.clone(), Access::Own);
    Ok(RestrictedPlan {
        allowed: planned.allowed,
        variables: variables(&home, &asked.private.join("tmp")),
        home: RawPath(home),
        temporary: RawPath(asked.private.join("tmp")),
        links: planned.links,
        files: files(facts, wishes),
        reachable: asked.reachable.clone(),
        notes: planned.notes,
    })
}

/// What is in the fresh home: the session's files first, then copies of credential files with placeholders, where they have a
/// form that we know, and who commits with git.
fn files(facts: &Facts, wishes: &Wishes) -> Vec<HomeFile> {
    let mut files = wishes.home.clone();
    let copies = facts.credentials.iter().filter_map(|one| {
        let content = credentials::copy(one.form, &one.content, &wishes.replacements)?;
        Some((one.path.clone(), Bytes::from(content), one.mode))
    });
    let settings = facts.git.concat().into_bytes();
    let git = (PathBuf::from(".gitconfig"), Bytes::from(settings), 0o600);
    for (path, content, mode) in copies.chain((!facts.git.is_empty()).then_some(git)) {
        if !files.iter().any(|file| *file.path == path) {
            files.push(HomeFile { path: RawPath(path), content, mode: mode & 0o777, seed: Seeding::Always });
        }
    }
    files
}

#[derive(Default)]
struct Planned {
    allowed: Vec<Allowed>,
    links: Vec<(RawPath, RawPath)>,
    notes: Vec<String>,
}

impl Planned {
    fn allow(&mut self, path: impl Into<PathBuf>, access: Access) {
        let one = Allowed { path: RawPath(path.into()), access };
        if !self.allowed.contains(&one) {
            self.allowed.push(one);
        }
    }
}

/// What must stay hidden, and the check that a tree holds none of it.
struct Guard {
    /// Not in a tree, and no tree in them.
    closed: Vec<PathBuf>,
    /// Not in a tree; trees may be below, such as a project in the home.
    parents: Vec<PathBuf>,
}

impl Guard {
    fn of(facts: &Facts, wishes: &Wishes) -> Self {
        let closed = CREDENTIALS.iter().map(|name| facts.home.join(name));
        let closed = closed.chain(wishes.hidden.iter().map(|path| path.0.clone())).collect();
        let parents =
            facts.homes.iter().chain([&facts.home]).cloned().chain(PARENTS.iter().map(PathBuf::from));
        Self { closed, parents: parents.collect() }
    }

    fn admit(&self, tree: &Path) -> Result<PathBuf, PlanFault> {
        if !tree.is_absolute() {
            return Err(PlanFault::Relative(tree.to_owned()));
        }
        let held = self.parents.iter().chain(&self.closed).find(|hidden| hidden.starts_with(tree));
        match held.or_else(|| self.closed.iter().find(|closed| tree.starts_with(closed))) {
            Some(hidden) => Err(PlanFault::Exposes { tree: tree.to_owned(), hidden: hidden.clone() }),
            None => Ok(tree.to_owned()),
        }
    }
}

fn variables(home: &Path, temporary: &Path) -> Vec<(Bytes, Bytes)> {
    let places = [
        ("HOME", home.to_owned()),
        ("XDG_CONFIG_HOME", home.join(".config")),
        ("XDG_DATA_HOME", home.join(".local/share")),
        ("XDG_STATE_HOME", home.join(".local/state")),
        ("XDG_CACHE_HOME", home.join(".cache")),
        ("XDG_RUNTIME_DIR", temporary.to_owned()),
        ("TMPDIR", temporary.to_owned()),
        ("TMP", temporary.to_owned()),
        ("TEMP", temporary.to_owned()),
    ];
    places.map(|(name, place)| (Bytes::from(name), Bytes::from(place.into_os_string()))).to_vec()
}

/// Programs, libraries and what they come with.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix",
    "/gnu",
    "/home/linuxbrew/.linuxbrew",
    "/run/current-system",
    "/run/opengl-driver",
    "/etc/alternatives",
    "/etc/profiles",
    "/snap/bin",
];

/// What the kernel tells.
const KERNEL: &[(&str, Access)] = &[("/proc", Access::Read), ("/sys", Access::Read), ("/etc", Access::List)];

/// What is known about the system, where it is not below `/etc`.
const STATE: &[(&str, Access)] = &[
    ("/var/lib/dpkg", Access::Read),
    ("/var/lib/ca-certificates", Access::Read),
    ("/var/lib/alternatives", Access::Read),
    ("/run/systemd/resolve/resolv.conf", Access::Read),
    ("/run/systemd/resolve/stub-resolv.conf", Access::Read),
    ("/run/resolvconf/resolv.conf", Access::Read),
    ("/run/NetworkManager/resolv.conf", Access::Read),
];

const DEVICES: &[(&str, Access)] = &[
    ("/dev/null", Access::Device),
    ("/dev/zero", Access::Device),
    ("/dev/full", Access::Device),
    ("/dev/random", Access::Device),
    ("/dev/urandom", Access::Device),
    ("/dev/tty", Access::Device),
    ("/dev/shm", Access::Share),
];

/// Where toolchains and installed programs lie in a home, and nothing but them: data, settings and logins are kept elsewhere.
pub(super) const TOOLCHAINS: &[&str] = &[
    ".local/bin",
    ".local/lib",
    ".local/share/claude/versions",
    ".local/share/uv/python",
    ".local/share/uv/tools",
    ".local/share/pipx/venvs",
    ".local/share/mise/installs",
    ".local/share/fnm",
    ".local/share/pnpm",
    ".cargo/bin",
    ".rustup/toolchains",
    ".rustup/settings.toml",
    ".nvm/versions",
    ".nvm/alias",
    ".nvm/nvm.sh",
    ".fnm",
    ".volta/bin",
    ".volta/tools",
    ".bun/bin",
    ".deno/bin",
    ".npm-global",
    ".pyenv",
    ".rbenv",
    ".asdf",
    ".sdkman/candidates",
    ".jdks",
    "go/bin",
    "sdk",
    "miniconda3",
    "miniforge3",
    "bin",
];

/// Places of credentials and of what starts by itself: never opened, not even when declared.
const CREDENTIALS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".vault-token",
    ".bash_history",
    ".zsh_history",
    ".config/gh",
    ".config/gcloud",
    ".config/git",
    ".config/op",
    ".password-store",
    ".local/share/keyrings",
    ".mozilla",
    ".config/google-chrome",
    ".config/chromium",
    ".cargo/credentials.toml",
    ".cargo/credentials",
    ".config/autostart",
    ".config/systemd",
];

/// Directories that may have trees below them, but are none.
const PARENTS: &[&str] = &[
    "/",
    "/root",
    "/home",
    "/etc",
    "/run",
    "/run/user",
    "/var",
    "/var/run",
    "/dev",
    "/proc",
    "/sys",
    "/tmp",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::worktree::WorkTree;

    fn facts(root: &str) -> Facts {
        Facts {
            home: "/home/ada".into(),
            homes: vec!["/home/ada".into(), "/home/bob".into()],
            work: WorkTree { root: Some(root.into()), common: None },
            toolchains: vec![".cargo/bin".into()],
            search_path: vec!["/home/ada/tools/bin".into(), "/home/ada".into()],
            ..Facts::default()
        }
    }

    fn planned(root: &str, wishes: Wishes, asked: Asked) -> Result<RestrictedPlan, String> {
        let hidden = vec!["/home/ada/.local/state/writ".into(), "/run/user/1000/writ".into()];
        let private = "/run/user/1000/writ/runs/1".into();
        let asked = Asked { private, ..asked };
        let caches = wishes.caches.iter().map(|path| path.0.clone()).collect();
        plan(&Facts { caches, ..facts(root) }, &Wishes { hidden, ..wishes }, &asked)
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_must_stay_hidden_is_in_no_tree() {
        for tree in [
            "/",
            "/home",
            "/home/ada",
            "/home/bob",
            "/home/ada/.local",
            "/home/ada/.local/state/writ/x",
            "/home/ada/.ssh",
            "/home/ada/.ssh/config.d",
            "/home/ada/.config",
            "/run/user",
            "/tmp",
            "relative",
        ] {
            let one = || vec![RawPath::from(tree)];
            let fault = |wishes, asked| planned("/home/ada/p", wishes, asked).unwrap_err();
            fault(Wishes { caches: one(), ..Wishes::default() }, Asked::default());
            let plan =
                planned("/home/ada/p", Wishes { readable: one(), ..Wishes::default() }, Asked::default());
            let plan = plan.unwrap();
            assert!(!plan.allowed.iter().any(|one| *one.path == *Path::new(tree)), "{tree}");
            assert!(plan.notes.iter().any(|note| note.contains(tree)), "{tree}");
            fault(Wishes::default(), Asked { writable: one(), ..Asked::default() });
        }
        assert_eq!(
            planned("/home/ada/.local/state", Wishes::default(), Asked::default()).unwrap_err(),
            "/home/ada/.local/state cannot be opened at this level: it holds /home/ada/.local/state/writ"
        );
    }

    #[test]
    fn a_plan_opens_the_work_tree_and_moves_the_home() {
        let file = |path: &str| HomeFile {
            path: path.into(),
            content: "x".into(),
            mode: 0o600,
            seed: Seeding::Always,
        };
        let wishes = Wishes { home: vec![file(".claude.json")], ..Wishes::default() };
        let certificates = "/run/user/1000/writ/bundle.pem";
        let asked = Asked { own: vec![certificates.into()], ..Asked::default() };
        let plan = planned("/home/ada/p", wishes, asked).unwrap();
        let access = |path: &str| -> Vec<Access> {
            plan.allowed.iter().filter(|one| *one.path == *Path::new(path)).map(|one| one.access).collect()
        };
        assert_eq!(access("/home/ada/p"), [Access::Own]);
        assert_eq!(access("/run/user/1000/writ/runs/1"), [Access::Own]);
        assert_eq!(access("/home/ada/.cargo/bin"), [Access::Execute]);
        assert_eq!(access("/home/ada/tools/bin"), [Access::Execute]);
        assert_eq!(access("/etc"), [Access::List]);
        assert_eq!(access(certificates), [Access::Read]);
        for path in ["/", "/home", "/home/ada", "/tmp", "/run", "/var", "/dev"] {
            assert_eq!(access(path), [], "{path}");
        }
        assert_eq!(plan.notes.len(), 1, "PATH had the home itself: {:?}", plan.notes);
        assert_eq!(*plan.home, *Path::new("/run/user/1000/writ/runs/1/home"));
        assert!(plan.variables.contains(&("HOME".into(), "/run/user/1000/writ/runs/1/home".into())));
        let message = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<RestrictedPlan>(&message).unwrap(), plan);
    }
}
