//! The hash of a role's prompt file, which policy may look at.
//!
//! The broker reads the file itself, in the session's directory, so that the launcher cannot say another hash.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags};

/// The largest prompt file that is hashed: 1 MiB.
const PROMPT_MAX: u64 = 1 << 20;

/// SHA-256 of `file` in `directory`, hexadecimal; `None` if there is no such file.
///
/// # Errors
/// What opening or reading returned; `FileTooLarge` over 1 MiB; `InvalidInput` if it is no ordinary file.
pub(super) fn sha256(directory: &Path, file: &Path) -> io::Result<Option<String>> {
    // Without waiting for a writer, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(directory.join(file), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file"));
    }
    let mut text = Vec::new();
    file.take(PROMPT_MAX.saturating_add(1)).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > PROMPT_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut context = Context::new(&SHA256);
    context.update(&text);
    Ok(Some(hex(context.finish().as_ref())))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_directory_is_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let sha256 = |file: &str| sha256(directory.path(), Path::new(file));
        std::fs::write(directory.path().join("AGENTS.md"), "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256("AGENTS.md").unwrap().as_deref(), Some(abc));
        assert_eq!(sha256("absent.md").unwrap(), None);
        assert_eq!(sha256(".").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::write(directory.path().join("long"), vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(sha256("long").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("pipe"), Mode::RUSR).unwrap();
        assert!(sha256("pipe").is_err());
    }
}
