//! The last steps, which only the first process inside can take: a `/proc` of its processes, and leaving the host's root behind.

use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, unmount,
};
use rustix::process::{chdir, geteuid, pivot_root};

use super::mounts::{self, Access};
use crate::stage::processes::limit_namespace;
use crate::{Step, StepFault};

/// Enters the view that lies in the current directory. Afterwards nothing of the host can be reached by any path. Returns what did not
/// work and is no fault, for the person.
///
/// To be called by PID 1 of the new PID namespace, with `CAP_SYS_ADMIN` in the new user namespace.
///
/// # Errors
/// [`Step::Proc`] and [`Step::Pivot`].
pub fn enter() -> Result<Vec<String>, StepFault> {
    let notes = proc()?;
    let fault = |what: &'static str| StepFault::at::<Errno>(Step::Pivot, what);
    pivot_root(".", ".").map_err(fault("pivot_root"))?;
    // The old root lies over the new one now.
    unmount(".", UnmountFlags::DETACH).map_err(fault("the host's root"))?;
    chdir("/").map_err(fault("/"))?;
    for path in ["/dev", "/"] {
        let place = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        mounts::read_only(place.map_err(fault(path))?.as_fd()).map_err(StepFault::at(Step::Pivot, path))?;
    }
    Ok(notes)
}

fn proc() -> Result<Vec<String>, StepFault> {
    let fault = |what: &'static str| StepFault::at::<Errno>(Step::Proc, what);
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fault("proc"))?;
    fsconfig_create(&context).map_err(fault("proc"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(fault("proc"))?;
    let here = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let here = here.map_err(fault("."))?;
    let target = mounts::open_beneath(here.as_fd(), "proc".as_ref(), mounts::LOOK).map_err(fault("/proc"))?;
    mounts::put(proc.as_fd(), target.as_fd()).map_err(fault("/proc"))?;
    let limited = limit_namespace(proc.as_fd());
    if geteuid().is_root() {
        for name in OWNED_BY_ROOT {
            match mounts::open_beneath(proc.as_fd(), name.as_ref(), mounts::LOOK) {
                Ok(place) => {
                    let copy = mounts::copy(place.as_fd(), Access::ReadOnly)
                        .map_err(StepFault::at(Step::Proc, name))?;
                    mounts::put(copy.as_fd(), place.as_fd()).map_err(fault(name))?;
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(fault(name)(error)),
            }
        }
    }
    // Others are held by their own limit as well.
    let unheld = limited.err().filter(|_| geteuid().is_root());
    let note = |error| format!("the number of processes inside could not be limited: {error}");
    Ok(unheld.map(note).into_iter().collect())
}

/// What root may write by being the owner, such as `core_pattern`, without any capability. For others the system's own modes are enough,
/// and a mask would keep them from mounting a `/proc` of their own in nested sandboxes.
const OWNED_BY_ROOT: [&str; 9] =
    ["sys", "sysrq-trigger", "irq", "bus", "fs", "mtrr", "pressure", "acpi", "scsi"];
