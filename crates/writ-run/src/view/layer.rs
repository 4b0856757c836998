//! The home's layer: the upper half of its overlay, kept from run to run or in memory.
//!
//! A kept layer was written by agents. Nothing here follows a link in it: whatever stands where a directory is needed is taken away, and
//! files of ours are made anew.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fchmod, fsetxattr, fstat, mkdirat, mknodat, openat, statat,
    unlinkat,
};
use rustix::io::{self, Errno};

use super::{Home, Seed, guard, mounts};
use crate::{RawPath, Seeding, Step, StepFault};

/// The two directories of an overlay's upper half, and the lock on a kept one.
pub(super) struct Layer {
    pub upper: OwnedFd,
    pub work: OwnedFd,
    /// Held while it is open: to the end of the run, and until what was written is on the disk.
    pub lock: Option<File>,
    /// What holds the two, of a kept layer; the agent cannot reach it.
    pub directory: Option<OwnedFd>,
}

/// Opens the kept layer at `path` on the host, and makes it if need be. `None` if another run has it.
///
/// # Errors
/// [`Step::Home`] with the path.
pub(super) fn kept(host: BorrowedFd<'_>, path: &Path) -> Result<Option<Layer>, StepFault> {
    let fault = || StepFault::at::<io::Errno>(Step::Home, path.display().to_string());
    let missing = || StepFault::new(Step::Home, path.display().to_string(), 0);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(missing()) };
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| missing())?;
    let parent = mounts::open_beneath(host, parent, OFlags::PATH | OFlags::DIRECTORY).map_err(fault())?;
    let directory = mounts::make_directory(parent.as_fd(), &name, 0o700).map_err(fault())?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(openat(&directory, c"lock", flags, Mode::RUSR | Mode::WUSR).map_err(fault())?);
    let locked = writ_sys::flock_exclusive_nonblocking(&lock);
    if !locked.map_err(StepFault::at(Step::Home, path.display().to_string()))? {
        return Ok(None);
    }
    let mut layer = within(directory.as_fd()).map_err(fault())?;
    layer.lock = Some(lock);
    guard::open_all(directory.as_fd(), layer.upper.as_fd()).map_err(fault())?;
    layer.directory = Some(directory);
    Ok(Some(layer))
}

/// The two directories within `directory`.
///
/// # Errors
/// Those of `mkdirat(2)` and `openat(2)`.
pub(super) fn within(directory: BorrowedFd<'_>) -> io::Result<Layer> {
    let make = |name: &str| mounts::make_directory(directory, &CString::new(name).unwrap_or_default(), 0o700);
    Ok(Layer { upper: make("upper")?, work: make("work")?, lock: None, directory: None })
}

/// Puts into the layer what `home` says, before it is mounted over `lower`.
///
/// # Errors
/// [`Step::Home`] with the file.
pub(super) fn fill(layer: &Layer, lower: BorrowedFd<'_>, home: &Home) -> Result<(), StepFault> {
    let upper = layer.upper.as_fd();
    let fault = |path: &RawPath| StepFault::at::<Errno>(Step::Home, path.display().to_string());
    like(upper, lower).map_err(StepFault::at(Step::Home, "the layer"))?;
    for path in &home.absent {
        leave_out(upper, lower, path).map_err(fault(path))?;
    }
    for seed in &home.files {
        self::seed(upper, lower, seed).map_err(fault(&seed.path))?;
    }
    let record = layer.directory.as_ref().map(AsFd::as_fd);
    guard::close_all(upper, lower, &home.closed, record)
        .map_err(StepFault::at(Step::Home, "places of credentials"))
}

/// Gives `upper` the mode of `lower`: the root of an overlay has the attributes of its upper half.
///
/// # Errors
/// Those of `fchmod(2)`.
pub(super) fn like(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>) -> io::Result<()> {
    let mode = fstat(lower).map_or(0o700, |stat| stat.st_mode & 0o7777);
    fchmod(open(upper, c".", OFlags::DIRECTORY)?, Mode::from_raw_mode(mode))
}

/// Of a directory in the home that the real one has not.
const PRIVATE: u32 = 0o700;

/// A whiteout, as overlays know it, where `lower` has something that the view has not.
pub(super) fn leave_out(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let (parent, name) = parent(upper, lower, path, PRIVATE)?;
    match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => mknodat(&parent, &name, FileType::CharacterDevice, Mode::empty(), 0),
        // A directory of the agent's own would show what is below it.
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            set_opaque(&open(parent.as_fd(), &name, OFlags::DIRECTORY)?)
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn seed(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, seed: &Seed) -> io::Result<()> {
    if seed.seed == Seeding::Absent && mounts::open_beneath(lower, &seed.path, mounts::LOOK).is_ok() {
        return Ok(());
    }
    let (parent, name) = parent(upper, lower, &seed.path, PRIVATE)?;
    if seed.seed == Seeding::Always {
        match unlinkat(&parent, &name, AtFlags::empty()) {
            // A directory in the layer hides the real file as well.
            Err(Errno::ISDIR) => return Ok(()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    match write(parent.as_fd(), &name, &seed.content.0, seed.mode) {
        Err(Errno::EXIST) if seed.seed != Seeding::Always => Ok(()),
        result => result,
    }
}

/// Makes the file `name` with this content. There must be none.
///
/// # Errors
/// Those of `openat(2)` and `write(2)`.
pub(super) fn write(parent: BorrowedFd<'_>, name: &CString, content: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(parent, name.as_c_str(), flags, Mode::from_raw_mode(mode))?);
    file.write_all(content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// The directory in `upper` for the last component of `path`, made on the way with the modes that `lower` has; with `otherwise` where
/// `lower` has none.
pub(super) fn parent(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    path: &Path,
    otherwise: u32,
) -> io::Result<(OwnedFd, CString)> {
    let mut names = mounts::names(path).ok_or(Errno::INVAL)?;
    let last = names.pop().ok_or(Errno::INVAL)?;
    let mut above = upper.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let mut real = mounts::open_directory(lower, &c".".to_owned()).ok();
    for name in &names {
        real = real.and_then(|real| mounts::open_directory(real.as_fd(), name).ok());
        let mode =
            real.as_ref().and_then(|real| fstat(real).ok()).map_or(otherwise, |stat| stat.st_mode & 0o7777);
        above = directory(above.as_fd(), name, mode)?;
    }
    Ok((above, last))
}

/// The directory `name` of a layer, made if need be, whatever an agent put in its place.
pub(super) fn directory(above: BorrowedFd<'_>, name: &CString, mode: u32) -> io::Result<OwnedFd> {
    match mounts::make_directory(above, name, mode) {
        Err(Errno::NOTDIR | Errno::LOOP) => {
            unlinkat(above, name.as_c_str(), AtFlags::empty())?;
            mkdirat(above, name.as_c_str(), Mode::from_raw_mode(mode))?;
            // What stood here hid the real directory, and goes on doing so.
            set_opaque(&open(above, name, OFlags::DIRECTORY)?)?;
            mounts::open_directory(above, name)
        }
        result => result,
    }
}

fn open(parent: BorrowedFd<'_>, name: &std::ffi::CStr, flags: OFlags) -> io::Result<OwnedFd> {
    openat(parent, name, flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Hides what lower layers have in this directory (`user.overlay.opaque`, for overlays with `userxattr`).
pub(super) fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    fsetxattr(directory, c"user.overlay.opaque", b"y", XattrFlags::empty())
}
