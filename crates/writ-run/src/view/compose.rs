//! A layered directory without one overlay over all of it.
//!
//! The kernel refuses an overlay (EINVAL) where something is mounted in the lower directory: a container's `/etc/resolv.conf`, a network
//! directory in a home. Then the upper directory itself becomes the place. What it has already (our files, and whiteouts
//! for what is left out) stays; the host's entries are put beside it, one by one: links and small files as copies, directories as
//! overlays of their own or as read-only mounts.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::{self, Errno};

use super::layer;
use super::mounts::{self, Access, LOOK};

/// How the host's directories are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directories {
    ReadOnly,
    /// Writable, with the changes in memory.
    Layered,
}

/// Puts the entries of `host` into `upper`, and takes its whiteouts away. `work` is a directory of the same file system for overlays.
///
/// # Errors
/// Those of the calls; `EMFILE` where it is nested too deep.
pub(super) fn compose(
    host: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
    directories: Directories,
) -> io::Result<()> {
    Composer { work, directories, overlays: 0 }.fill(host, upper, DEPTH_MAX)
}

/// A mount that is deeper than this in a home or in `/etc` makes the launch fail.
const DEPTH_MAX: usize = 16;
/// A file that is larger is mounted instead of copied.
const COPY_MAX: u64 = 256 << 10;

struct Composer<'a> {
    work: BorrowedFd<'a>,
    directories: Directories,
    overlays: usize,
}

impl Composer<'_> {
    fn fill(&mut self, host: BorrowedFd<'_>, upper: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or(Errno::MFILE)?;
        // What an ordinary account may not list has nothing that it could open.
        let Ok(listed) =
            openat(host, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            return Ok(());
        };
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entry(host, upper, name, depth)?;
            }
        }
        uncovered(upper)
    }

    fn entry(
        &mut self,
        host: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> io::Result<()> {
        let Ok(stat) = statat(host, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match statat(upper, name, AtFlags::SYMLINK_NOFOLLOW).map(|own| FileType::from_raw_mode(own.st_mode)) {
            Ok(FileType::CharacterDevice) => return unlinkat(upper, name, AtFlags::empty()),
            Ok(FileType::Directory) if kind == FileType::Directory => {
                return self.fill(open(host, name)?.as_fd(), open(upper, name)?.as_fd(), depth);
            }
            Ok(_) => return Ok(()),
            Err(_) => {}
        }
        match kind {
            FileType::Symlink => symlinkat(readlinkat(host, name, Vec::new())?, upper, name),
            FileType::Directory => self.directory(host, upper, name, &stat, depth),
            FileType::RegularFile => self.file(host, upper, name, &stat),
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        host: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        depth: usize,
    ) -> io::Result<()> {
        let from = open(host, name)?;
        mkdirat(upper, name, Mode::from_raw_mode(stat.st_mode))?;
        let target = open(upper, name)?;
        if self.directories == Directories::ReadOnly {
            return mounts::put(copied(&from, Access::ReadOnly)?.as_fd(), target.as_fd());
        }
        self.overlays += 1;
        let place = CString::new(format!("part-{}", self.overlays)).unwrap_or_default();
        let place = mounts::make_directory(self.work, &place, 0o700)?;
        let layer = layer::within(place.as_fd())?;
        layer::like(layer.upper.as_fd(), from.as_fd())?;
        match mounts::overlay(from.as_fd(), layer.upper.as_fd(), layer.work.as_fd()) {
            Ok(overlay) => mounts::put(overlay.as_fd(), target.as_fd()),
            // Something is mounted in this one.
            Err(Errno::INVAL) => self.fill(from.as_fd(), target.as_fd(), depth),
            Err(error) => Err(error),
        }
    }

    fn file(&self, host: BorrowedFd<'_>, upper: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let name = name.to_owned();
        let small = u64::try_from(stat.st_size).is_ok_and(|size| size <= COPY_MAX);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if small && let Ok(file) = openat(host, name.as_c_str(), flags, Mode::empty()) {
            let mut content = Vec::new();
            if File::from(file).take(COPY_MAX).read_to_end(&mut content).is_ok() {
                return layer::write(upper, &name, &content, stat.st_mode & 0o777);
            }
        }
        layer::write(upper, &name, b"", 0o600)?;
        let from = openat(host, name.as_c_str(), LOOK | OFlags::CLOEXEC, Mode::empty())?;
        let target = openat(upper, name.as_c_str(), LOOK | OFlags::CLOEXEC, Mode::empty())?;
        mounts::put(copied(&from, Access::ReadOnly)?.as_fd(), target.as_fd())
    }
}

/// Whiteouts of what the host has not would be seen here, where no overlay reads them.
fn uncovered(upper: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(openat(upper, c".", flags, Mode::empty())?)? {
        let entry = entry?;
        if entry.file_type() == FileType::CharacterDevice {
            unlinkat(upper, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    mounts::open_directory(parent, &name.to_owned())
}

fn copied(from: &OwnedFd, access: Access) -> io::Result<OwnedFd> {
    mounts::copy(from.as_fd(), access).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
