//! What the agent sees of the file system: an allow-list, built by descriptors.
//!
//! ```text
//!   H  Host::look ─► Facts::gather ─┐
//!                                   ├─► plan() ─► View ─► S  View::build ─► I  enter()
//!   H  Wishes ──────────────────────┘   pure                the new root        /proc, pivot_root, read-only
//! ```
//!
//! An agent can leave any link, socket or name in the places it may write, so nothing is ever mounted by path: sources and targets are
//! opened beneath a descriptor without following links, and mounts are moved from descriptor to descriptor. All places keep
//! the path that they have outside.
//!
//! Invariant: what is writable inside and lies on the host is a [`Content::Ground`]; everything else is read-only or goes into the home's
//! layer or the run's memory.
//! Invariant: a layer that is kept was written by an agent, so it is entered as carefully as a work tree.
//!
//! Absent: who may write into the work tree from outside meanwhile, sockets that appear there later, and the hooks and tasks that an
//! agent leaves there.

mod build;
mod compose;
pub(crate) mod credentials;
pub(crate) mod delivered;
mod enter;
mod etc;
pub(crate) mod facts;
mod guard;
mod layer;
pub(crate) mod lead;
mod mounts;
mod planning;
mod scan;
mod trust;
pub(crate) mod worktree;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Delivered, RawPath, Seeding};

pub use build::Built;
pub use enter::enter;
pub use facts::{Facts, Host};
pub use planning::{PlanFault, Planned, plan};

/// The whole view, planned. Only this module knows what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// What is put where, parents before what lies in them.
    places: Vec<Place>,
}

impl View {
    /// The view in words, a line for each place.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.places.iter().map(|place| {
            let what = match &place.content {
                Content::Link { target } => format!("a link to {:?}", target.0),
                Content::Directory { .. } => "an empty directory".to_owned(),
                Content::Tree => "the host's, read-only".to_owned(),
                Content::Ground => "the host's, writable".to_owned(),
                Content::Fresh { .. } => "fresh, in memory".to_owned(),
                Content::Device { .. } => "the device".to_owned(),
                Content::Terminals => "terminals of its own".to_owned(),
                Content::Home(home) => match &home.layer {
                    Some(layer) => format!("the host's below a layer that is kept in {:?}", layer.0),
                    None => "the host's below a layer in memory".to_owned(),
                },
                Content::Etc(etc) => format!("the host's with {} files of writ's over it", etc.files.len()),
                Content::File { .. } => "a file of writ's".to_owned(),
                Content::Delivered { files } => {
                    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
                    format!("in memory, for this program: {}", names.join(", "))
                }
                Content::Cover => "covered".to_owned(),
            };
            format!("{:?}: {what}", place.at.0)
        })
    }
}

/// One place of the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Absolute, without `.` and `..`.
    at: RawPath,
    content: Content,
}

/// What a place holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Content {
    /// A symbolic link of the system, such as `/bin`.
    Link { target: RawPath },
    /// An empty directory of the base.
    Directory { mode: u32 },
    /// The host's file or directory of the same path, read-only.
    Tree,
    /// The host's directory of the same path, writable.
    Ground,
    /// A file system in memory.
    Fresh { mode: u32 },
    /// A device of the host's.
    Device { from: RawPath },
    /// Terminals of its own.
    Terminals,
    /// The layered home.
    Home(Home),
    /// `/etc`, with our files over the host's.
    Etc(Etc),
    /// A read-only file of ours.
    File { source: Source },
    /// A directory in memory with files for the program, read-only inside and written from outside.
    Delivered { files: Vec<Delivered> },
    /// Nothing: an empty, read-only directory or file over what the host has there.
    Cover,
}

/// The home: the real one below, a layer above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    /// The layer's directory, which is made if need be; in memory without.
    layer: Option<RawPath>,
    /// Files that are put into the layer.
    files: Vec<Seed>,
    /// What the real home has and the view has not, below the home.
    absent: Vec<RawPath>,
    /// Known places of credentials that the real home has not, below the home: they stay empty.
    closed: Vec<RawPath>,
}

/// A file that is put into the home's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seed {
    /// Below the home.
    path: RawPath,
    content: Bytes,
    mode: u32,
    seed: Seeding,
}

/// What is different in `/etc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Etc {
    /// By path below `/etc`.
    files: Vec<(RawPath, Source)>,
    /// What is left out, below `/etc`.
    absent: Vec<RawPath>,
}

/// Where the content of a file comes from. Large ones are made by the stage: the plan stays small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
enum Source {
    Text {
        content: Bytes,
    },
    /// A copy of the host's file, which then belongs to us.
    Copy {
        from: RawPath,
    },
    /// The host's bundle of certificates and one more.
    Bundle {
        from: RawPath,
        extra: Bytes,
    },
    /// The same for Java.
    KeyStore {
        from: RawPath,
        extra: Bytes,
    },
}
