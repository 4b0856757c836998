//! Where writ keeps its things.
//!
//! ```text
//!   $XDG_CONFIG_HOME/writ/writ.toml     configuration        $WRIT_HOME/writ.toml
//!   $XDG_STATE_HOME/writ/               store, key, audit    $WRIT_HOME/state/
//!   $XDG_RUNTIME_DIR/writ/              sockets, bundles     $WRIT_HOME/run/
//! ```

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{env_vars, fault::Fault};

/// A Unix socket's path must fit into `sockaddr_un` (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

#[derive(Clone, Debug)]
pub struct Paths {
    pub config: PathBuf,
    pub state: PathBuf,
    pub run: PathBuf,
}

impl Paths {
    /// From the environment, and `--config` where it was given.
    pub fn resolve(config: Option<PathBuf>) -> Result<Self, Fault> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let mut paths = match env::var_os(env_vars::WRIT_HOME) {
            Some(home) => {
                let home = std::path::absolute(home)
                    .map_err(|error| Fault::new(error.to_string(), "set WRIT_HOME to a directory"))?;
                Self { config: home.join("writ.toml"), state: home.join("state"), run: home.join("run") }
            }
            None => {
                let home = absolute(env_vars::HOME)
                    .ok_or_else(|| Fault::new("HOME is not set", "set HOME or WRIT_HOME"))?;
                let state = absolute(env_vars::XDG_STATE_HOME)
                    .unwrap_or_else(|| home.join(".local/state"))
                    .join("writ");
                Self {
                    config: absolute(env_vars::XDG_CONFIG_HOME)
                        .unwrap_or_else(|| home.join(".config"))
                        .join("writ/writ.toml"),
                    run: absolute(env_vars::XDG_RUNTIME_DIR)
                        .map_or_else(|| state.join("run"), |run| run.join("writ")),
                    state,
                }
            }
        };
        if let Some(config) = config {
            paths.config = std::path::absolute(config)
                .map_err(|error| Fault::new(error.to_string(), "name the file"))?;
        }
        Ok(paths)
    }

    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    pub fn run_socket(&self) -> PathBuf {
        self.run.join("run.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.run.join("daemon.lock")
    }

    pub fn state_lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    pub fn store(&self) -> PathBuf {
        self.state.join("writ.db")
    }

    /// Where what confined programs write into their home is kept, one layer for each work tree.
    pub fn layers(&self) -> PathBuf {
        self.state.join("layers")
    }

    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// Where the daemon writes the public key of the audit log's checkpoints.
    pub fn audit_key(&self) -> PathBuf {
        self.state.join("audit.pub")
    }

    /// Makes the state and runtime directories, for their owner alone.
    pub fn prepare(&self) -> Result<(), Fault> {
        for directory in [&self.state, &self.run] {
            private_directory(directory).map_err(|error| {
                Fault::new(
                    format!("{}: {error}", directory.display()),
                    "make it a directory of yours, or set WRIT_HOME to another place",
                )
            })?;
        }
        let socket = self.control_socket();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Fault::new(
                format!("{} is too long for a socket: {SOCKET_PATH_MAX} bytes at the most", socket.display()),
                "set WRIT_HOME or XDG_RUNTIME_DIR to a shorter path",
            ));
        }
        Ok(())
    }
}

/// Makes a directory for its owner alone, or checks that it is one.
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if !writ_sys::runtime_dir_is_private(path)? {
        let found = fs::symlink_metadata(path)?;
        let mine = found.is_dir() && fs::set_permissions(path, fs::Permissions::from_mode(0o700)).is_ok();
        if !mine || !writ_sys::runtime_dir_is_private(path)? {
            return Err(io::Error::other("not a directory that belongs to you alone"));
        }
    }
    Ok(())
}
