//! Files that are delivered into a view, at first and while the program runs.
//!
//! Each is written under another name and renamed, so that whoever opens it sees the old content or the new one, whole, at the same
//! path. The directory is written through a descriptor that the agent has no way to; what it sees is a read-only mount of the same.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{AtFlags, renameat, unlinkat},
    io::{self, Errno},
};

use super::layer;
use crate::Delivered;

/// What is being written. No delivered file has this name.
const NEXT: &str = ".next";

/// Writes `files` into `directory`, or replaces them.
///
/// # Errors
/// `EINVAL` for a name that is not one plain component; those of `openat(2)`, `write(2)` and `renameat(2)`.
pub(crate) fn write(directory: BorrowedFd<'_>, files: &[Delivered]) -> io::Result<()> {
    let next = CString::new(NEXT).map_err(|_| Errno::INVAL)?;
    for file in files {
        if file.name.is_empty() || file.name.starts_with('.') || file.name.contains('/') {
            return Err(Errno::INVAL);
        }
        let name = CString::new(file.name.as_str()).map_err(|_| Errno::INVAL)?;
        match unlinkat(directory, &next, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        layer::write(directory, &next, &file.content.0, 0o600)?;
        renameat(directory, &next, directory.as_fd(), &name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(name: &str, content: &str) -> Delivered {
        Delivered { name: name.to_owned(), content: content.into() }
    }

    #[test]
    fn it_is_replaced_whole_and_is_nobody_elses() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = fs::File::open(scratch.path()).unwrap();
        write(directory.as_fd(), &[file("pgpass", "one"), file("other", "stays")]).unwrap();
        let before = fs::File::open(scratch.path().join("pgpass")).unwrap();
        write(directory.as_fd(), &[file("pgpass", "two")]).unwrap();
        assert_eq!(std::io::read_to_string(before).unwrap(), "one", "who has it open is not disturbed");
        assert_eq!(fs::read_to_string(scratch.path().join("pgpass")).unwrap(), "two");
        let mode = fs::metadata(scratch.path().join("pgpass")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
        for name in ["", "a/b", "..", ".next", "nul\0"] {
            assert_eq!(write(directory.as_fd(), &[file(name, "x")]), Err(Errno::INVAL), "{name:?}");
        }
    }
}
