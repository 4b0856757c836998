//! Who runs `writ`: uid 0, or a plain account made out of `nobody`. Where the tests do not run as root, both are the caller.

use std::{
    cell::RefCell,
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    User,
    Root,
}

impl Who {
    pub const ALL: [Self; 2] = [Self::User, Self::Root];
}

/// A directory that one account owns, with the binary where it can execute it.
pub struct Account {
    pub dir: TempDir,
    pub writ: PathBuf,
    uid: u32,
    key: String,
    /// Held for as long as the account: what listens is what can be reached.
    listeners: RefCell<Vec<UnixListener>>,
}

impl Account {
    pub fn new(who: Who, key: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("writ-escape-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let uid = if own == 0 && who == Who::User { NOBODY } else { own };
        // Beside the account's directories: what is executed is not in its reach.
        let writ = dir.path().join("bin/writ");
        fs::create_dir(dir.path().join("bin")).unwrap();
        if fs::hard_link(WRIT, &writ).is_err() {
            fs::copy(WRIT, &writ).unwrap();
        }
        fs::set_permissions(&writ, Permissions::from_mode(0o755)).unwrap();
        Self { dir, writ, uid, key: key.to_owned(), listeners: RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory of the account's.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        let mut own = path.as_path();
        while own != self.dir.path() {
            self.own(own);
            own = own.parent().unwrap();
        }
        path
    }

    /// A file of the account's, for it alone.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        let mut parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        while parent != self.dir.path() {
            self.own(parent);
            parent = parent.parent().unwrap();
        }
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        self.own(&path);
        path
    }

    /// A link of the account's to another place of its own.
    pub fn link(&self, name: &str, to: &str) {
        symlink(self.path(to), self.path(name)).unwrap();
    }

    /// A socket that everybody may connect to.
    pub fn listen(&self, name: &str) {
        let listener = UnixListener::bind(self.path(name)).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o777)).unwrap();
        self.listeners.borrow_mut().push(listener);
    }

    /// What nobody else is to read.
    pub fn key(&self) -> String {
        self.key.clone()
    }

    pub fn own(&self, path: &Path) {
        if rustix::process::geteuid().is_root() {
            chown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    /// `program` as this account, with an empty environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = if rustix::process::geteuid().as_raw() == self.uid {
            Command::new(program)
        } else {
            let mut command = Command::new("setpriv");
            let id = self.uid.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
            command
        };
        command.env_clear();
        command
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }
}
