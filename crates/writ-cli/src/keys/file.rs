//! One file, read, and replaced as a whole or not at all.
//!
//! The file is a person's, in a directory that an agent may have written to: nothing is followed, and what is no plain file of
//! one name is left alone with a sentence. The new bytes go into a file beside it, which takes the old one's mode, owner and
//! extended attributes, is on the disk, and only then gets the name. A kill at any [`Step`] leaves the old file or the new one,
//! and at the most a `.NAME.writ-new` that the next replacement removes. Absent: files of several names (hard links), which a
//! rename would part.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use zeroize::Zeroizing;

/// The largest file that is read for keys.
pub const FILE_MAX: u64 = 256 * 1024;
/// The longest list of extended attributes, and the longest of them.
const ATTRIBUTES_MAX: usize = 64 * 1024;
/// Saved copies of one file.
const SAVED_MAX: u32 = 100;

/// Why a file is left alone. `Display` is for the person.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("it is a symbolic link, and what it leads to may belong to others: name that file")]
    Link,
    #[error("it has {0} names (hard links), which a rewriting would part: make it one file of its own")]
    Names(u128),
    #[error("it is no plain file")]
    Kind,
    #[error("it belongs to another user (uid {0})")]
    Owner(u32),
    #[error("it is larger than {} KiB", FILE_MAX / 1024)]
    Size,
    #[error("its path is not UTF-8")]
    Name,
    #[error("it was changed meanwhile: try again")]
    Changed,
    #[error("its extended attributes cannot be kept: {0}")]
    Attributes(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What happens to a file, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new file is there, and empty.
    Created,
    /// The new bytes are in it.
    Written,
    /// They are on the disk.
    Synced,
    /// It has the name of the old one.
    Renamed,
}

/// A plain file of one name, as it was read.
pub struct EnvFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    read: Stat,
}

impl EnvFile {
    /// # Errors
    /// [`Unfit`] says why it is left alone.
    pub fn read(path: &Path) -> Result<Self, Unfit> {
        let name = path.file_name().ok_or(Unfit::Kind)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")))?;
        let path = parent.join(&name);
        if path.to_str().is_none() {
            return Err(Unfit::Name);
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&parent, flags, Mode::empty()).map_err(io::Error::from)?;
        let (read, bytes) = read_at(&directory, &name)?;
        Ok(Self { directory, name, path, bytes, read })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// [`EnvFile::path`], as the broker names it.
    pub fn path_text(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Replaces the file, if it is still what was read. `step` is told after each step.
    ///
    /// # Errors
    /// [`Unfit`]; the file is as it was then.
    pub fn replace(&self, bytes: &[u8], step: &mut dyn FnMut(Step)) -> Result<(), Unfit> {
        let mut new_name = OsString::from(".");
        new_name.push(&self.name);
        new_name.push(NEW);
        let replaced = self.replace_by(&new_name, bytes, step);
        if replaced.is_err() {
            let _ = rustix::fs::unlinkat(&self.directory, &new_name, AtFlags::empty());
        }
        replaced
    }

    fn replace_by(&self, new: &OsStr, bytes: &[u8], step: &mut dyn FnMut(Step)) -> Result<(), Unfit> {
        let _ = rustix::fs::unlinkat(&self.directory, new, AtFlags::empty());
        let mut file = self.create(new)?;
        step(Step::Created);
        file.write_all(bytes)?;
        step(Step::Written);
        file.sync_all()?;
        step(Step::Synced);
        let (now, _) = read_at(&self.directory, &self.name).map_err(|_| Unfit::Changed)?;
        if !same(&now, &self.read) {
            return Err(Unfit::Changed);
        }
        rustix::fs::renameat(&self.directory, new, &self.directory, &self.name).map_err(io::Error::from)?;
        step(Step::Renamed);
        rustix::fs::fsync(&self.directory).map_err(io::Error::from)?;
        Ok(())
    }

    /// Writes what is in the file now to `NAME.writ-saved` beside it.
    ///
    /// # Errors
    /// [`Unfit::Io`].
    pub fn save_copy(&self) -> Result<PathBuf, Unfit> {
        for number in 1..=SAVED_MAX {
            let mut name = self.name.clone();
            name.push(SAVED);
            if number > 1 {
                name.push(format!("-{number}"));
            }
            match self.create(&name) {
                Ok(mut file) => {
                    file.write_all(&self.bytes)?;
                    file.sync_all()?;
                    rustix::fs::fsync(&self.directory).map_err(io::Error::from)?;
                    return Ok(self.path.with_file_name(name));
                }
                Err(Unfit::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(unfit) => return Err(unfit),
            }
        }
        Err(io::Error::other(format!("there are {SAVED_MAX} saved copies already")).into())
    }

    /// A new file with the old one's mode, owner and extended attributes.
    fn create(&self, name: &OsStr) -> Result<File, Unfit> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR);
        let made = made.map_err(io::Error::from)?;
        let old = open_at(&self.directory, &self.name)?;
        copy_attributes(&old, &made).map_err(Unfit::Attributes)?;
        let now = rustix::fs::fstat(&made).map_err(io::Error::from)?;
        if (now.st_uid, now.st_gid) != (self.read.st_uid, self.read.st_gid) {
            let owner = rustix::fs::Uid::from_raw(self.read.st_uid);
            let group = rustix::fs::Gid::from_raw(self.read.st_gid);
            rustix::fs::fchown(&made, Some(owner), Some(group)).map_err(io::Error::from)?;
        }
        let mode = Mode::from_raw_mode(self.read.st_mode);
        rustix::fs::fchmod(&made, mode).map_err(io::Error::from)?;
        Ok(File::from(made))
    }
}

/// Writes a file that is not there, for its owner alone.
///
/// # Errors
/// [`Unfit::Io`], also when there is one.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), Unfit> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

/// Of the file that is being written.
const NEW: &str = ".writ-new";
/// Of copies that `restore --force` makes.
const SAVED: &str = ".writ-saved";

/// Whether a name is that of a file that writ is writing, or of one that a kill left.
pub fn is_own(name: &OsStr) -> bool {
    name.as_bytes().ends_with(NEW.as_bytes())
}

fn open_at(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Unfit> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => Ok(file),
        Err(rustix::io::Errno::LOOP) => Err(Unfit::Link),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn read_at(directory: &OwnedFd, name: &OsStr) -> Result<(Stat, Zeroizing<Vec<u8>>), Unfit> {
    let file = open_at(directory, name)?;
    let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
    fit(&stat)?;
    // Room for all of it and a byte more, so that nothing is left behind by a vector that grows.
    let capacity = usize::try_from(FILE_MAX).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::from(file).take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Unfit::Size);
    }
    Ok((stat, bytes))
}

fn fit(stat: &Stat) -> Result<(), Unfit> {
    let me = rustix::process::geteuid();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unfit::Kind);
    }
    if stat.st_nlink != 1 {
        return Err(Unfit::Names(u128::from(stat.st_nlink)));
    }
    if stat.st_uid != me.as_raw() && !me.is_root() {
        return Err(Unfit::Owner(stat.st_uid));
    }
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(Unfit::Size);
    }
    Ok(())
}

/// The same file, which nobody wrote to or changed the owner, mode or names of since.
fn same(one: &Stat, other: &Stat) -> bool {
    let all = |stat: &Stat| {
        (
            stat.st_dev,
            stat.st_ino,
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
        )
    };
    all(one) == all(other)
}

/// Access lists and the user's own attributes. What the system's security modules attach to new files is theirs.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0; ATTRIBUTES_MAX];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let kept = |name: &&[u8]| name.starts_with(b"user.") || *name == b"system.posix_acl_access";
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(kept) {
        let mut value = vec![0; ATTRIBUTES_MAX];
        let length = rustix::fs::fgetxattr(from, name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(to, name, value, rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, fs::PermissionsExt, process::ExitStatusExt};
    use std::process::Command;

    use super::*;

    const OLD: &[u8] = b"A=old\r\n\xff";
    const NEW_BYTES: &[u8] = b"A=something longer than the old one\r\n\xff";
    /// The step at which the child of the test kills itself.
    const DIE_AT: &str = "WRIT_TEST_DIE_AT";
    const DIE_IN: &str = "WRIT_TEST_DIE_IN";
    const DIES: &str = "keys::file::tests::a_kill_at_any_step_leaves_the_old_file_or_the_new_one";
    const STEPS: [Step; 4] = [Step::Created, Step::Written, Step::Synced, Step::Renamed];

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(&path, OLD).unwrap();
        (directory, path)
    }

    #[test]
    fn mode_owner_and_attributes_stay() {
        for mode in [0o600, 0o644, 0o640, 0o400, 0o755] {
            let (_directory, path) = place();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let root = rustix::process::geteuid().is_root();
            if root {
                std::os::unix::fs::chown(&path, Some(4711), Some(4712)).unwrap();
            }
            let marked =
                rustix::fs::setxattr(&path, "user.writ", b"mine", rustix::fs::XattrFlags::empty()).is_ok();
            let before = fs::metadata(&path).unwrap();
            let mut steps = Vec::new();
            EnvFile::read(&path).unwrap().replace(NEW_BYTES, &mut |step| steps.push(step)).unwrap();
            assert_eq!(steps, STEPS);
            assert_eq!(fs::read(&path).unwrap(), NEW_BYTES);
            let after = fs::metadata(&path).unwrap();
            let facts = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid(), found.nlink());
            assert_eq!(facts(&after), facts(&before));
            let mut value = [0; 8];
            let found = rustix::fs::getxattr(&path, "user.writ", &mut value).is_ok_and(|length| length == 4);
            assert_eq!(found, marked);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn what_is_no_plain_file_of_one_name_is_left_alone() {
        let (directory, path) = place();
        let at = |name: &str| directory.path().join(name);
        std::os::unix::fs::symlink(&path, at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(at("large"), vec![b'x'; usize::try_from(FILE_MAX).unwrap() + 1]).unwrap();
        let unfit = |name: &str| EnvFile::read(&at(name)).err().unwrap();
        assert!(matches!(unfit("link"), Unfit::Link));
        assert!(matches!(unfit("directory"), Unfit::Kind));
        assert!(matches!(unfit("fifo"), Unfit::Kind));
        assert!(matches!(unfit("large"), Unfit::Size));
        assert!(matches!(unfit("absent"), Unfit::Io(_)));
        fs::hard_link(&path, at("second")).unwrap();
        assert!(matches!(unfit("second"), Unfit::Names(2)));
        assert!(matches!(unfit(".env"), Unfit::Names(2)));
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let changes: [fn(&Path); 4] = [
            |path| fs::write(path, b"A=new and saved").unwrap(),
            |path| fs::remove_file(path).unwrap(),
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o606)).unwrap(),
            |path| {
                fs::rename(path, path.with_file_name("away")).unwrap();
                std::os::unix::fs::symlink("away", path).unwrap();
            },
        ];
        for change in changes {
            let (directory, path) = place();
            let file = EnvFile::read(&path).unwrap();
            // At the last moment, when the new file is on the disk already.
            let mut meanwhile = |step| {
                if step == Step::Synced {
                    change(&path);
                }
            };
            let refused = file.replace(NEW_BYTES, &mut meanwhile).unwrap_err();
            assert!(matches!(refused, Unfit::Changed), "{refused}");
            for entry in fs::read_dir(directory.path()).unwrap() {
                assert_ne!(fs::read(entry.unwrap().path()).unwrap(), NEW_BYTES);
            }
        }
    }

    #[test]
    fn a_link_in_the_new_files_place_is_not_followed() {
        let (directory, path) = place();
        let victim = directory.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("..env.writ-new")).unwrap();
        EnvFile::read(&path).unwrap().replace(NEW_BYTES, &mut |_| {}).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert!(!path.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), NEW_BYTES);
    }

    #[test]
    fn copies_are_saved_beside_each_other() {
        let (_directory, path) = place();
        let file = EnvFile::read(&path).unwrap();
        let names: Vec<_> =
            (0..3).map(|_| file.save_copy().unwrap().file_name().unwrap().to_owned()).collect();
        assert_eq!(names, [".env.writ-saved", ".env.writ-saved-2", ".env.writ-saved-3"]);
        assert_eq!(fs::read(path.with_file_name(".env.writ-saved-2")).unwrap(), OLD);
    }

    #[test]
    fn a_kill_at_any_step_leaves_the_old_file_or_the_new_one() {
        if let (Ok(at), Some(path)) = (std::env::var(DIE_AT), std::env::var_os(DIE_IN)) {
            let mut die = |step: Step| {
                if format!("{step:?}") == at {
                    let me = rustix::process::getpid();
                    rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
                }
            };
            EnvFile::read(Path::new(&path)).unwrap().replace(NEW_BYTES, &mut die).unwrap();
            panic!("it outlived its kill");
        }
        for step in STEPS {
            let (directory, path) = place();
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args([DIES, "--exact", "--nocapture"]).env(DIE_AT, format!("{step:?}")).env(DIE_IN, &path);
            let status = child.output().unwrap().status;
            assert_eq!(status.signal(), Some(9), "{step:?}: {status}");
            let expected = if step == Step::Renamed { NEW_BYTES } else { OLD };
            assert_eq!(fs::read(&path).unwrap(), expected, "{step:?}");
            // What the kill left is in nobody's way.
            EnvFile::read(&path).unwrap().replace(b"next", &mut |_| {}).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"next");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }
}
