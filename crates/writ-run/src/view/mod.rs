//! What the agent sees of the file system: an allow-list, built by descriptors.

use std::os::fd::OwnedFd;

use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
        move_mount, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root},
};
use serde::{Deserialize, Serialize};
use writ_sys::namespaces::MOUNT_ATTR_RDONLY;

use crate::{Step, StepFault};

/// The whole view, planned. Only this module knows what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {}

impl View {
    /// The host's root, read-only.
    pub fn build(&self) -> Result<(), StepFault> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(StepFault::at(Step::Propagation, "/"))?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree: OwnedFd = open_tree(CWD, "/", flags).map_err(StepFault::at(Step::Tree, "/"))?;
        writ_sys::mount_setattr(&tree, true, MOUNT_ATTR_RDONLY, 0, 0)
            .map_err(StepFault::at(Step::Tree, "/"))?;
        move_mount(&tree, "", CWD, "/mnt", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(StepFault::at(Step::Tree, "/"))?;
        fchdir(&tree).map_err(StepFault::at(Step::Tree, "/"))
    }
}

/// Init's part.
pub fn enter() -> Result<(), StepFault> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "proc", "proc", flags, None).map_err(StepFault::at(Step::Proc, "/proc"))?;
    pivot_root(".", ".").map_err(StepFault::at(Step::Pivot, "/"))?;
    unmount(".", UnmountFlags::DETACH).map_err(StepFault::at(Step::Pivot, "/"))?;
    chdir("/").map_err(StepFault::at(Step::Pivot, "/"))
}
