//! Who runs the program under test: uid 0, or a plain account made out of `nobody`.
//!
//! Where the tests do not run as root, both are the caller, who is plain already. What an account is to execute is put where
//! it can read it, since the checkout may lie below a directory that only root may enter.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;

/// An account that runs `writ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Who {
    /// Whoever runs the tests: uid 0 in continuous integration.
    #[default]
    Caller,
    /// A plain account.
    User,
}

impl Who {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Caller, Self::User];

    /// The user id.
    #[must_use]
    pub fn uid(self) -> u32 {
        let own = rustix::process::geteuid().as_raw();
        if own == 0 && self == Self::User { NOBODY } else { own }
    }

    /// Gives `path` to this account.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn own(self, path: &Path) -> io::Result<()> {
        if self.is_other() { chown(path, Some(self.uid()), Some(self.uid())) } else { Ok(()) }
    }

    /// `program` as this account.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        if !self.is_other() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        let id = self.uid().to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
        command
    }

    fn is_other(self) -> bool {
        self.uid() != rustix::process::geteuid().as_raw()
    }
}

/// Puts `from`, a file or a whole directory, at `to`: linked where the file system allows, else copied. Symbolic links stay.
///
/// # Errors
/// When a file cannot be read or written.
pub fn bring(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        fs::set_permissions(to, Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            bring(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}
