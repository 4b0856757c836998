//! The source `file://`: a secret in a file of this machine.
//!
//! `file:///run/secrets/key` names an absolute path, letter by letter: percent escapes are not decoded. The file must be a
//! regular one that other users can neither read nor write; a trailing line end is not part of the secret.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
};

use rustix::fs::OFlags;
use writ_core::{BoxFuture, Secret, Source, SourceFault};

use crate::{SECRET_MAX, fault, secret};

/// Reads a file.
pub struct Local;

const SCHEME: &str = "file";
/// Readable or writable by users who are neither the owner nor in the group.
const OTHERS: u32 = 0o006;

impl Source for Local {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Secret, SourceFault>> {
        Box::pin(async move {
            let path = reference.strip_prefix("file://").filter(|path| path.starts_with('/'));
            let Some(path) = path.map(str::to_owned) else {
                return Err(fault(reference, "write an absolute path, such as file:///run/secrets/key"));
            };
            match tokio::task::spawn_blocking(move || read(&path)).await {
                Ok(Ok(Some(secret))) => Ok(secret),
                Ok(Ok(None)) => Err(fault(reference, "the file is empty")),
                Ok(Err(error)) => Err(fault(reference, error.to_string())),
                Err(error) => Err(fault(reference, format!("the file was not read: {error}"))),
            }
        })
    }

    fn example(&self) -> &'static str {
        "file:///run/secrets/openai"
    }
}

fn read(path: &str) -> io::Result<Option<Secret>> {
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if facts.permissions().mode() & OTHERS != 0 {
        return Err(io::Error::other(format!("other users can read or write it: run `chmod o-rw {path}`")));
    }
    // Large enough from the start, so that growing leaves no copy behind.
    let mut bytes = Vec::with_capacity(SECRET_MAX + 1);
    file.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SECRET_MAX {
        drop(Secret::new(bytes));
        return Err(io::Error::other(format!("it is larger than {} KiB", SECRET_MAX / 1024)));
    }
    Ok(secret(bytes))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn write(path: &Path, bytes: &[u8], mode: u32) -> String {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        format!("file://{}", path.display())
    }

    async fn check(bytes: &[u8], mode: u32) -> Result<Vec<u8>, String> {
        let place = tempfile::tempdir().unwrap();
        let reference = write(&place.path().join("key"), bytes, mode);
        match Local.read(&reference).await {
            Ok(secret) => Ok(secret.expose().to_owned()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    #[tokio::test]
    async fn secrets_in_files() {
        assert_eq!(check(b"sk-1\n", 0o600).await.unwrap(), b"sk-1");
        assert_eq!(check(b"sk-1\r\n", 0o640).await.unwrap(), b"sk-1");
        assert_eq!(check(b"a\nb\n\n", 0o400).await.unwrap(), b"a\nb\n");
        assert_eq!(check(&vec![b'x'; SECRET_MAX], 0o600).await.unwrap().len(), SECRET_MAX);
    }

    #[tokio::test]
    async fn files_that_are_refused() {
        for mode in [0o644, 0o604, 0o602, 0o666] {
            assert!(check(b"sk-1", mode).await.unwrap_err().contains("other users"), "{mode:o}");
        }
        assert!(check(&vec![b'x'; SECRET_MAX + 1], 0o600).await.unwrap_err().contains("larger"));
        assert!(check(b"\n", 0o600).await.unwrap_err().contains("empty"));
        assert!(Local.read("file:///").await.unwrap_err().detail.contains("regular"));
        assert!(Local.read("file:///dev/zero").await.unwrap_err().detail.contains("regular"));
        assert!(Local.read("file://key").await.unwrap_err().detail.contains("absolute"));
        assert!(Local.read("file:///no/such/key").await.is_err());
    }
}
