//! Mounts by descriptor. Every function here names the thing that it works on by a descriptor and never resolves a link.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use writ_sys::namespaces::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// What a mount from the host is good for inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    Writable,
    /// Read-only would not matter: a device node.
    Device,
}

/// Opens what lies at `path` beneath `root`, itself and not what a link there means. No component may be a link.
///
/// # Errors
/// `ELOOP` for a link on the way, `EXDEV` for a way out, and those of `openat2(2)`.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = relative(path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed meanwhile, so that `..` could not be judged.
    for _ in 0..OPEN_TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

const OPEN_TRIES: usize = 16;

/// For looking and for mounting: the thing itself, a link too.
pub(super) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// A copy of the mounts at `source`, in nobody's tree yet.
///
/// # Errors
/// Those of `open_tree(2)` and `mount_setattr(2)`.
pub(super) fn copy(source: BorrowedFd<'_>, access: Access) -> std::io::Result<OwnedFd> {
    let recursive =
        if access == Access::Device { OpenTreeFlags::empty() } else { OpenTreeFlags::AT_RECURSIVE };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(source, "", flags | recursive)?;
    let set = match access {
        Access::ReadOnly => MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        Access::Writable => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        Access::Device => MOUNT_ATTR_NOSUID,
    };
    writ_sys::mount_setattr(&tree, access != Access::Device, set, 0, 0)?;
    Ok(tree)
}

/// Puts the mounts at `tree` over `target`.
///
/// # Errors
/// Those of `move_mount(2)`.
pub(super) fn put(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// A file system in memory.
///
/// # Errors
/// Those of `fsopen(2)`, `fsconfig(2)` and `fsmount(2)`.
pub(super) fn memory(mode: u32) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", format!("{mode:o}"))?;
    fsconfig_set_string(&context, "source", "writ")?;
    fsconfig_create(&context)?;
    mounted(&context, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Terminals of their own.
///
/// # Errors
/// Those of `fsopen(2)`, `fsconfig(2)` and `fsmount(2)`.
pub(super) fn terminals() -> io::Result<OwnedFd> {
    let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "ptmxmode", "0666")?;
    fsconfig_set_string(&context, "mode", "0620")?;
    fsconfig_create(&context)?;
    mounted(&context, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// `upper` over `lower`. The layers are named by descriptor, so no name can hold a `:` or be too long.
///
/// # Errors
/// Those of `fsopen(2)`, `fsconfig(2)` and `fsmount(2)`: `EINVAL` for an upper layer on an overlay, or where a layer has mounts in it.
pub(super) fn overlay(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "writ")?;
    fsconfig_set_flag(&context, "userxattr")?;
    for (key, layer) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", layer.as_fd().as_raw_fd()))?;
    }
    fsconfig_create(&context)?;
    mounted(&context, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn mounted(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes `mount` read-only, without the mounts below it.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub(super) fn read_only(mount: BorrowedFd<'_>) -> std::io::Result<()> {
    writ_sys::mount_setattr(mount, false, MOUNT_ATTR_RDONLY, 0, 0)
}

/// Opens one component of `parent`, a directory and no link.
///
/// # Errors
/// Those of `openat(2)`: `ENOTDIR` for a link or a file.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name.as_c_str(), flags, Mode::empty())
}

/// As [`open_directory`], and makes it if it is not there.
///
/// # Errors
/// Those of `openat(2)` and `mkdirat(2)`.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &CString, mode: u32) -> io::Result<OwnedFd> {
    match open_directory(parent, name) {
        Err(Errno::NOENT) => {
            mkdirat(parent, name.as_c_str(), Mode::from_raw_mode(mode))?;
            open_directory(parent, name)
        }
        result => result,
    }
}

/// The names in an absolute or relative path. `None` if it has a `..`, which no place of a view may.
pub(super) fn names(path: &Path) -> Option<Vec<CString>> {
    path.components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => CString::new(name.as_bytes()).ok(),
            _ => None,
        })
        .collect()
}

/// `path` from the root.
pub(super) fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
