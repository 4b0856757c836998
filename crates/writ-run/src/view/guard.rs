//! Credential files that are not there when a run begins, and may appear while it lasts: the person logs in somewhere.
//!
//! The lower half of an overlay goes on being the real home. So each known place that is empty is closed in the upper half, at the first
//! name that the real home has not: by a whiteout, or, where only the layer has a directory, by making that opaque. Inside nothing is
//! seen of it, and an agent can make its own file there. A kept layer has a record of what was closed, beside what the agent can
//! reach: the next run opens it again before it looks at the home anew.
//!
//! Absent: names that nobody knows beforehand (`~/.ssh/work`), and a known name that is a link to such a place.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fgetxattr, fremovexattr, fstat, mknodat, openat, statat, unlinkat,
};
use rustix::io::{self, Errno};

use super::{layer, mounts};
use crate::RawPath;

/// The record of a kept layer, beside its two directories.
const RECORD: &std::ffi::CStr = c"closed";
const RECORD_MAX: u64 = 256 << 10;

/// Closes `path` in `upper` where neither half has it. Returns the place at which it was closed.
///
/// # Errors
/// Those of the calls.
fn close(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, path: &Path) -> io::Result<Option<RawPath>> {
    let names = mounts::names(path).ok_or(Errno::INVAL)?;
    let (mut above, mut real) =
        (mounts::open_directory(upper, &dot())?, mounts::open_directory(lower, &dot())?);
    let mut at = std::path::PathBuf::new();
    for (name, part) in names.iter().zip(path.iter()) {
        at.push(part);
        match kind(real.as_fd(), name)? {
            Some(FileType::Directory) => {}
            // What is there was decided on when the home was looked at.
            Some(_) => return Ok(None),
            None => return Ok(hide(above.as_fd(), name)?.then_some(RawPath(at))),
        }
        real = mounts::open_directory(real.as_fd(), name)?;
        above = match kind(above.as_fd(), name)? {
            None => mounts::make_directory(above.as_fd(), name, fstat(&real)?.st_mode & 0o7777)?,
            Some(FileType::Directory) => mounts::open_directory(above.as_fd(), name)?,
            Some(_) => return Ok(None),
        };
        if is_opaque(&above) {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Hides what the real home may get at `name`. Whether there was something to do.
fn hide(above: BorrowedFd<'_>, name: &CString) -> io::Result<bool> {
    match kind(above, name)? {
        None => mknodat(above, name, FileType::CharacterDevice, Mode::empty(), 0).map(|()| true),
        Some(FileType::Directory) => {
            let own = readable(above, name)?;
            let open = !is_opaque(&own);
            if open {
                layer::set_opaque(&own)?;
            }
            Ok(open)
        }
        Some(_) => Ok(false),
    }
}

/// Closes all of `paths`, and writes down which in `record`, the directory of a kept layer.
///
/// # Errors
/// Those of the calls.
pub(super) fn close_all(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    paths: &[RawPath],
    record: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut closed = Vec::new();
    let mut outcome = Ok(());
    for path in paths {
        match close(upper, lower, path) {
            Ok(place) => closed.extend(place),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if let Some(directory) = record {
        let bytes = serde_json::to_vec(&closed).map_err(|_| Errno::INVAL)?;
        layer::write(directory, &RECORD.to_owned(), &bytes, 0o600)?;
    }
    outcome
}

/// Opens again what an earlier run closed. Best effort: what stays closed is not seen, no more.
pub(super) fn open_all(directory: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> io::Result<()> {
    for path in record(directory) {
        let Some(mut names) = mounts::names(&path) else { continue };
        let Some(last) = names.pop() else { continue };
        let mut above = mounts::open_directory(upper, &dot());
        for name in &names {
            above = above.and_then(|above| mounts::open_directory(above.as_fd(), name));
        }
        if let Ok(above) = above {
            let _ = reopen(above.as_fd(), &last);
        }
    }
    match unlinkat(directory, RECORD, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn reopen(above: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match kind(above, name)? {
        Some(FileType::CharacterDevice) => unlinkat(above, name.as_c_str(), AtFlags::empty()),
        Some(FileType::Directory) => fremovexattr(readable(above, name)?, OPAQUE),
        _ => Ok(()),
    }
}

fn record(directory: BorrowedFd<'_>) -> Vec<RawPath> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(directory, RECORD, flags, Mode::empty()) else { return Vec::new() };
    let mut bytes = Vec::new();
    let read = File::from(file).take(RECORD_MAX).read_to_end(&mut bytes);
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn kind(above: BorrowedFd<'_>, name: &CString) -> io::Result<Option<FileType>> {
    match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_opaque(directory: &OwnedFd) -> bool {
    // What was opened to be looked at has no attributes.
    let own = readable(directory.as_fd(), &dot());
    own.is_ok_and(|own| fgetxattr(own, OPAQUE, &mut [0_u8; 4]).is_ok())
}

fn readable(above: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name.as_c_str(), flags, Mode::empty())
}

fn dot() -> CString {
    c".".to_owned()
}

const OPAQUE: &std::ffi::CStr = c"user.overlay.opaque";
