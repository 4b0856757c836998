//! Seal `key-file`: the root key is a file that only its owner can read.
//!
//! It protects the store against other users and in backups that do not hold the file. It does not protect against a program that
//! runs as the same user: that is what confinement is for. The file's state is judged on the open descriptor, so that what was
//! checked is what is read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use writ_core::Secret;
use zeroize::Zeroizing;

use super::{ROOT_KEY_LEN, RootKey, Seal, SealFault};

/// The root key in a file.
pub struct KeyFile {
    path: PathBuf,
    /// The only user to whom it may belong.
    own: u32,
}

/// What the store says about it: nothing, since the place is the configuration's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {}

impl KeyFile {
    pub const KIND: &'static str = "key-file";

    pub fn new(path: PathBuf) -> Self {
        Self::of_user(path, rustix::process::geteuid().as_raw())
    }

    pub(super) fn of_user(path: PathBuf, own: u32) -> Self {
        Self { path, own }
    }

    fn read(&self) -> Result<RootKey, SealFault> {
        let path = || self.path.clone();
        // NONBLOCK: a FIFO in its place must not hang the start.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.path)
            .map_err(|source| self.open_fault(source))?;
        let found = file.metadata().map_err(|source| self.io(source))?;
        if !found.is_file() {
            return Err(SealFault::KeyFileForm(path()));
        }
        if found.uid() != self.own {
            return Err(SealFault::KeyFileOwner { path: path(), uid: found.uid(), own: self.own });
        }
        if found.mode() & 0o7777 != MODE {
            return Err(SealFault::KeyFileMode { path: path(), mode: found.mode() & 0o7777 });
        }
        if found.len() != ROOT_KEY_LEN as u64 {
            return Err(SealFault::KeyFileForm(path()));
        }
        let mut bytes = Zeroizing::new([0; ROOT_KEY_LEN]);
        file.read_exact(&mut *bytes).map_err(|source| self.io(source))?;
        Ok(RootKey::new(bytes))
    }

    /// Writes the key under another name, makes that durable, and only then gives it its name: there is never half a key file, and
    /// one that exists is never written to.
    fn write(&self, key: &RootKey) -> Result<(), SealFault> {
        let mut suffix = [0; 8];
        rand::fill(&mut suffix).map_err(|_| SealFault::Random)?;
        let mut partial = self.path.as_os_str().to_owned();
        partial.push(format!(".{:016x}.partial", u64::from_be_bytes(suffix)));
        let partial = PathBuf::from(partial);
        let written = write_new(&partial, key)
            .and_then(|()| match fs::hard_link(&partial, &self.path) {
                // Another start was faster: its key is the key.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            })
            .and_then(|()| sync_parent(&self.path));
        let removed = fs::remove_file(&partial);
        written.and(removed).map_err(|source| self.io(source))
    }

    fn open_fault(&self, source: io::Error) -> SealFault {
        if source.kind() == ErrorKind::NotFound {
            return SealFault::KeyFileMissing(self.path.clone());
        }
        let link = self.path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        if link { SealFault::KeyFileLink(self.path.clone()) } else { self.io(source) }
    }

    fn io(&self, source: io::Error) -> SealFault {
        SealFault::KeyFileIo { path: self.path.clone(), source }
    }
}

impl Seal for KeyFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn asks(&self) -> bool {
        false
    }

    /// Uses the file that is there, if it is a good one: a first start that was cut short left it.
    fn create(&self, _: Option<&Secret>) -> Result<(RootKey, Value), SealFault> {
        let key = match self.read() {
            Err(SealFault::KeyFileMissing(_)) => {
                self.write(&RootKey::generate()?)?;
                self.read()?
            }
            found => found?,
        };
        Ok((key, json!(Parameters {})))
    }

    fn unseal(&self, parameters: &Value, _: Option<&Secret>) -> Result<RootKey, SealFault> {
        let Parameters {} =
            Parameters::deserialize(parameters).map_err(|error| SealFault::Parameters(error.to_string()))?;
        self.read()
    }
}

/// The only mode that is accepted.
const MODE: u32 = 0o600;

fn write_new(path: &Path, key: &RootKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // The umask may have taken away more.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(key.expose())?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
