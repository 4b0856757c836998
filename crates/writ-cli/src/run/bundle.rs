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
}

/// Writes both files into the runtime directory.
pub fn write(paths: &Paths, opened: &Opened) -> Result<Bundle, Fault> {
    let bundle = Bundle {
        combined: paths.run.join(format!("bundle-{}.pem", opened.session)),
        own: paths.run.join(format!("ca-{}.pem", opened.session)),
    };
    let system = system_bundle().and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let written = create(&bundle.own, &[opened.ca_pem.as_bytes()])
        .and_then(|()| create(&bundle.combined, &[system.as_slice(), b"\n", opened.ca_pem.as_bytes()]));
    written.map_err(|error| {
        Fault::new(
            format!("{}: {error}", bundle.combined.display()),
            "free some space in the runtime directory",
        )
    })?;
    Ok(bundle)
}

/// Where this system keeps its certificates.
pub fn system_bundle() -> Option<&'static str> {
    SYSTEM_BUNDLES.iter().copied().find(|path| Path::new(path).is_file())
}

fn create(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

impl Bundle {
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.combined);
        let _ = fs::remove_file(&self.own);
    }
}
