//! Reads the configuration and the files that it names.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigFault, PolicyFile, Resolved, resolve};

/// `writ.toml` may have 1 MiB.
const CONFIG_MAX: u64 = 1024 * 1024;
/// One file of Cedar policies may have 256 KiB, and there may be 64.
const POLICY_MAX: u64 = 256 * 1024;
const POLICIES_MAX: usize = 64;
/// A bundle of certificates may have 256 KiB.
pub(super) const CA_MAX: u64 = 256 * 1024;
/// The directory of Cedar policies beside `writ.toml`.
const POLICIES: &str = "policies";
const VERSION: u32 = 1;

impl Config {
    /// Loads `path`, the files that it names and the Cedar policies beside it.
    ///
    /// # Errors
    /// [`ConfigFault`]; [`ConfigFault::Missing`] when there is no such file.
    pub fn load(path: &Path) -> Result<Resolved, ConfigFault> {
        let text = match read(path, CONFIG_MAX) {
            Err(ConfigFault::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigFault::Missing(path.to_owned()));
            }
            other => other?,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        let config = Self::parse(path, &text)?;
        let mut resolved = resolve::resolve(config, path, &text)?;
        resolved.policies = read_policies(&directory.join(POLICIES))?;
        resolved.hash = hash(&text, &resolved);
        Ok(resolved)
    }

    /// Reads `text`, which stands in `path`, without looking anything up.
    ///
    /// # Errors
    /// [`ConfigFault::Entry`] for what is not TOML, for unknown keys and for malformed values.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigFault> {
        check_version(path, text)?;
        toml::from_str(text).map_err(|fault| form(path, text, &fault))
    }
}

/// That `text` says a version that this release reads. Looked at first: a newer file has keys that this release does not know.
pub(super) fn check_version(path: &Path, text: &str) -> Result<(), ConfigFault> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<Spanned<u32>>,
    }
    let version = toml::from_str::<Versioned>(text).map_err(|fault| form(path, text, &fault))?.version;
    match version {
        Some(version) if *version.as_ref() == VERSION => Ok(()),
        Some(version) => Err(ConfigFault::at(
            path,
            text,
            version.span(),
            format!("this writ reads version {VERSION} of the configuration, not {}", version.as_ref()),
            "use the writ that wrote it",
        )),
        None => Err(ConfigFault::at(
            path,
            text,
            0..0,
            "the configuration does not say its version",
            "write `version = 1` above everything else",
        )),
    }
}

/// What TOML says of a text that is none, or is not what was expected.
pub(super) fn form(path: &Path, text: &str, fault: &toml::de::Error) -> ConfigFault {
    let what = fault.message().trim_end_matches('.').replace('\n', ", ");
    ConfigFault::at(path, text, fault.span().unwrap_or(0..0), what, "correct it and try again")
}

/// The text of a regular file that not everybody can write to.
pub(super) fn read(path: &Path, limit: u64) -> Result<String, ConfigFault> {
    let unreadable = |source| ConfigFault::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    if facts.permissions().mode() & 0o002 != 0 {
        return Err(ConfigFault::Writable(path.to_owned()));
    }
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limit {
        return Err(ConfigFault::Size { path: path.to_owned(), limit: limit / 1024 });
    }
    Ok(text)
}

fn read_policies(directory: &Path) -> Result<Vec<PolicyFile>, ConfigFault> {
    let unreadable = |source| ConfigFault::Unreadable { path: directory.to_owned(), source };
    let entries = match directory.read_dir() {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            paths.push(path);
        }
        if paths.len() > POLICIES_MAX {
            return Err(unreadable(io::Error::other(format!("it has more than {POLICIES_MAX} policies"))));
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Ok(PolicyFile { text: read(&path, POLICY_MAX)?, path })).collect()
}

fn hash(text: &str, resolved: &Resolved) -> String {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &str| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    };
    add(text);
    resolved.targets().filter_map(|target| target.tls_ca.as_deref()).for_each(&mut add);
    for file in &resolved.policies {
        add(&file.path.to_string_lossy());
        add(&file.text);
    }
    hex(&context.finish())
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
