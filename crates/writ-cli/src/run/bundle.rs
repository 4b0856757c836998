//! The certificates that the program trusts: the system's and the session's, in files that go with the session.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use writ_api::run::Opened;

use crate::{fault::Fault, paths::Paths};

/// Where systems keep their bundle.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Two PEM files.
#[derive(Debug)]
pub struct Bundle {
    /// The system's certificates and the session's.
    pub combined: PathBuf,
    /// The session's alone.
    pub own: PathBuf,
    /// Both, locked: a daemon removes those that nobody holds.
    held: [fs::File; 2],
}

/// Writes both files into the runtime directory.
pub fn write(paths: &Paths, opened: &Opened) -> Result<Bundle, Fault> {
    let combined = paths.run.join(format!("bundle-{}.pem", opened.session));
    let own = paths.run.join(format!("ca-{}.pem", opened.session));
    let system = system_bundle().and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let write = || -> io::Result<[fs::File; 2]> {
        let parts = [system.as_slice(), b"\n", opened.ca_pem.as_bytes()];
        Ok([create(&own, &[opened.ca_pem.as_bytes()])?, create(&combined, &parts)?])
    };
    let held = write().map_err(|error| {
        Fault::new(format!("{}: {error}", combined.display()), "free some space in the runtime directory")
    })?;
    Ok(Bundle { combined, own, held })
}

/// Where this system keeps its certificates.
pub fn system_bundle() -> Option<&'static str> {
    SYSTEM_BUNDLES.iter().copied().find(|path| Path::new(path).is_file())
}

fn create(path: &Path, parts: &[&[u8]]) -> io::Result<fs::File> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.lock()?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file)
}

impl Bundle {
    pub fn remove(self) {
        let _ = fs::remove_file(&self.combined);
        let _ = fs::remove_file(&self.own);
        drop(self.held);
    }
}
