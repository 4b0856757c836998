//! What the stages are to do, decided before the first of them starts.
//!
//! ```text
//!   Wishes (the session, the command line)  ┐
//!                                           ├─► pure function ─► Plan { view, process } ─► sealed memfd ─► S ─► I ─► A
//!   Facts (this machine, this directory)    ┘
//! ```
//!
//! A plan holds no secret but what the program is given anyway: the values of its variables, and files that are delivered to it.
//! The agent cannot read it, but nothing depends on that.

use serde::{Deserialize, Serialize};
use writ_core::Placeholder;
use zeroize::Zeroize as _;

use crate::{Bytes, RawPath};

/// What the first half of a launch needs: it runs before the session is open, because its sockets open the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Ports that are captured on every address.
    pub captured: Vec<u16>,
    /// Port of the explicit proxy on the session's loopback, for programs that have it configured; 0 for any.
    pub proxy_port: u16,
}

/// What is captured: the answer to [`NetworkPlan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The port that the explicit proxy got.
    pub proxy_port: u16,
}

/// What is asked for by the session and the command line: half of what a plan is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The directory in which the program starts: the caller's. The work tree is found from it.
    pub directory: RawPath,
    /// Writable directories of the host that runs share, absolute.
    pub caches: Vec<RawPath>,
    /// Read-only in the view although it is in none of its trees: where the program lies, or a tool of the person's. Absolute.
    pub readable: Vec<RawPath>,
    /// Never in the view, wherever they are: writ's own state, configuration and runtime directories.
    pub hidden: Vec<RawPath>,
    /// The session's CA, PEM: it is added to the system's certificates in every form that programs read.
    pub ca_pem: String,
    /// Files of the `/etc` overlay, such as agents' managed settings.
    pub etc: Vec<EtcFile>,
    /// Files to be seeded into the home's layer where the layer has none yet.
    pub home: Vec<HomeFile>,
    /// Placeholders for the copies of credential files.
    pub replacements: Vec<Replacement>,
    /// Files in the memory of the run, in [`DELIVERED`], which the launcher may replace while it goes on.
    pub delivered: Vec<Delivered>,
    /// Read-only inside although they lie in the work tree: the project's own `writ.toml`.
    pub read_only: Vec<RawPath>,
    /// Where home layers are kept, one directory each; `None` for one in memory that goes with the run.
    pub layers: Option<RawPath>,
}

/// Where a confined program finds what is [`Delivered`] to it: a directory of its own in memory, read-only inside.
pub const DELIVERED: &str = "/run/writ";

/// A file for the program alone, such as one with a password: mode 0600, in memory, gone with the run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// One component.
    pub name: String,
    pub content: Bytes,
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.content.0.zeroize();
    }
}

impl std::fmt::Debug for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delivered({})", self.name)
    }
}

/// A file of the `/etc` overlay; it is owned by root inside as outside where the system allows, and is read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcFile {
    /// Below `/etc`, without `..`, such as `claude-code/managed-settings.json`.
    pub path: RawPath,
    pub content: Bytes,
}

/// A file of the home's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeFile {
    /// Below the home directory.
    pub path: RawPath,
    pub content: Bytes,
    pub mode: u32,
    pub seed: Seeding,
}

/// When a file of the home's layer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seeding {
    /// Where neither the layer nor the real home has one.
    Absent,
    /// Where the layer has none: it stands before the real home's, and is the agent's from then on.
    NotInLayer,
    /// In any case: what the session decides, not the agent.
    Always,
}

/// A placeholder, and how the keys that it stands for begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub placeholder: Placeholder,
    pub key_prefixes: Vec<String>,
}

/// The second half of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub view: crate::view::View,
    pub process: ProcessPlan,
}

/// The program, as it is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// What is executed, absolute, by the same path inside as outside.
    pub path: RawPath,
    /// `argv`, with the name as it was typed first.
    pub arguments: Vec<Bytes>,
    pub environment: Vec<(Bytes, Bytes)>,
    pub directory: RawPath,
    pub terminal: Terminal,
}

/// Whose terminal it is (confinement research §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terminal {
    /// Standard output is the terminal: the program leads a process group of its own, in the foreground if we are there when it starts.
    OwnGroup,
    /// In a pipeline or without a terminal: it stays in the caller's group, and stops are nobody's business.
    CallersGroup,
}
