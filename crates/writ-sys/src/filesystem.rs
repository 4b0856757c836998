//! Questions about a place on disk that must be answered before secrets are put there.
//!
//! A database on a network file system can lose the locks and the write order that it relies on, and the file's
//! bytes pass through other machines. A runtime directory that others can enter gives them the sockets in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Who may enter a directory, as [`directory_privacy`] found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// A directory of our own with mode 0700.
    Private,
    /// The path itself is a symbolic link: whoever owns it decides where it leads.
    Symlink,
    /// Something else than a directory.
    NotADirectory,
    /// It belongs to this user id, not to us.
    OtherOwner(u32),
    /// It has this mode instead of 0700.
    Mode(u32),
}

/// Tells whether the directory at `path` is ours alone. Symbolic links above the last component are followed.
///
/// # Errors
/// The error of `lstat(2)`; `NotFound` if nothing is there.
pub fn directory_privacy(path: &Path) -> io::Result<Privacy> {
    let found = path.symlink_metadata()?;
    let mode = found.mode() & 0o7777;
    Ok(if found.is_symlink() {
        Privacy::Symlink
    } else if !found.is_dir() {
        Privacy::NotADirectory
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        Privacy::OtherOwner(found.uid())
    } else if mode != PRIVATE_MODE {
        Privacy::Mode(mode)
    } else {
        Privacy::Private
    })
}

/// Whether [`directory_privacy`] is [`Privacy::Private`].
///
/// # Errors
/// As there.
pub fn runtime_dir_is_private(path: &Path) -> io::Result<bool> {
    Ok(directory_privacy(path)? == Privacy::Private)
}

/// Takes an exclusive lock on the open file, without waiting. Returns whether we have it now.
///
/// The lock belongs to the open file description, so it ends when the last descriptor of it closes, however the
/// process ends; children inherit it only with the descriptor. It binds only those who ask for it too. See
/// `flock(2)`.
///
/// # Errors
/// The error of `flock(2)`, other than that another holds the lock.
pub fn flock_exclusive_nonblocking(file: &File) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Names the network file system on which `path` lies, or `None` if it lies on this machine.
///
/// Linux: by the magic number of `statfs(2)`. FUSE has one number for all; then the mount's type in
/// `/proc/self/mountinfo` decides, and a type that is not known to be local counts as a network, under the name
/// `FUSE`. File systems that a hypervisor shares (9p, virtiofs, `vboxsf`) count too. A network file system below an overlay
/// or a block device cannot be seen. macOS and FreeBSD: whatever is not marked as local, under the name `network`.
///
/// # Errors
/// The error of `statfs(2)`: `NotFound` if nothing is at `path`. `Unsupported` on other systems.
pub fn is_network_filesystem(path: &Path) -> io::Result<Option<&'static str>> {
    system::network(path)
}

const PRIVATE_MODE: u32 = 0o700;

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::{major, minor, statfs};

    /// From `linux/magic.h` and the modules that are not in the kernel's tree.
    const NETWORK: &[(u32, &str)] = &[
        (0x0000_6969, "NFS"),
        (0x0000_517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x0102_1997, "9p"),
        (0x5346_414F, "AFS"),
        (0x6B41_4653, "AFS"),
        (0x00C3_6400, "Ceph"),
        (0x0BD0_0BD0, "Lustre"),
        (0x7375_7245, "Coda"),
        (0x0000_564C, "NCP"),
        (0x4750_4653, "GPFS"),
        (0x7461_636F, "OCFS2"),
        (0x0116_1970, "GFS2"),
        (0x2003_0528, "OrangeFS"),
        (0x1983_0326, "BeeGFS"),
        (0xAAD7_AAEA, "PanFS"),
        (0x786F_4256, "vboxsf"),
        (0xBACB_ACBC, "vmhgfs"),
        (0x7C7C_6673, "prl_fs"),
    ];
    const FUSE: u32 = 0x6573_5546;

    /// FUSE file systems whose bytes are on this machine.
    const FUSE_LOCAL: &[&str] = &[
        "fuseblk",
        "fuse.bindfs",
        "fuse.cryfs",
        "fuse.encfs",
        "fuse.exfat",
        "fuse.fuse-overlayfs",
        "fuse.fuse2fs",
        "fuse.gocryptfs",
        "fuse.mergerfs",
        "fuse.ntfs-3g",
        "fuse.securefs",
        "fuse.unionfs",
    ];

    pub(super) fn network(path: &Path) -> io::Result<Option<&'static str>> {
        let found = statfs(path)?;
        // The field's type differs between architectures; the number is one of 32 bits on all of them.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        #[expect(clippy::cast_sign_loss, reason = "see above")]
        let magic = found.f_type as u32;
        if magic != FUSE {
            return Ok(by_magic(magic));
        }
        let device = path.metadata()?.dev();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(fuse(mount_type(&mounts, major(device), minor(device))))
    }

    pub(super) fn by_magic(magic: u32) -> Option<&'static str> {
        NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
    }

    pub(super) fn fuse(kind: Option<&str>) -> Option<&'static str> {
        match kind {
            Some(kind) if FUSE_LOCAL.contains(&kind) => None,
            Some("fuse.sshfs") => Some("sshfs"),
            Some("fuse.rclone") => Some("rclone"),
            Some("fuse.s3fs") => Some("s3fs"),
            Some("fuse.glusterfs") => Some("GlusterFS"),
            Some("virtiofs") => Some("virtiofs"),
            _ => Some("FUSE"),
        }
    }

    /// The type of the mount of a device in `mountinfo` (`proc_pid_mountinfo(5)`): the third field is the device,
    /// and the type follows a field that is a single hyphen.
    pub(super) fn mount_type(mounts: &str, major: u32, minor: u32) -> Option<&str> {
        let device = format!("{major}:{minor}");
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
        let (_, after) = line.split_once(" - ")?;
        after.split(' ').next()
    }
}

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
mod system {
    use std::io;
    use std::path::Path;

    pub(super) fn network(path: &Path) -> io::Result<Option<&'static str>> {
        let local = u64::try_from(libc::MNT_LOCAL).map_err(io::Error::other)?;
        let flags = u64::from(rustix::fs::statfs(path)?.f_flags);
        Ok((flags & local == 0).then_some("network"))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
mod system {
    use std::io;
    use std::path::Path;

    pub(super) fn network(_: &Path) -> io::Result<Option<&'static str>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testing::{again, role};

    const LOCKS: &str = "filesystem::tests::a_lock_is_held_once_and_ends_with_its_file";

    #[test]
    fn a_directory_is_private_or_says_why_not() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let private = make("private", 0o700);
        for mode in [0o755, 0o750, 0o701, 0o770, 0o1700, 0o500] {
            let path = make(&format!("{mode:o}"), mode);
            assert_eq!(directory_privacy(&path).unwrap(), Privacy::Mode(mode));
            assert!(!runtime_dir_is_private(&path).unwrap());
        }
        assert_eq!(directory_privacy(&private).unwrap(), Privacy::Private);
        assert!(runtime_dir_is_private(&private).unwrap());

        let link = parent.path().join("link");
        symlink(&private, &link).unwrap();
        assert_eq!(directory_privacy(&link).unwrap(), Privacy::Symlink);
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory_privacy(&file).unwrap(), Privacy::NotADirectory);
        let missing = directory_privacy(&parent.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    /// `/proc/1` belongs to the superuser, so this shows it to everyone else; the superuser gives a directory away.
    #[test]
    fn a_directory_of_another_user_is_not_private() {
        let parent = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(parent.path(), Some(12345), None).unwrap();
            assert_eq!(directory_privacy(parent.path()).unwrap(), Privacy::OtherOwner(12345));
        } else {
            assert_eq!(directory_privacy(Path::new("/proc/1")).unwrap(), Privacy::OtherOwner(0));
        }
    }

    /// In a process of its own: the other tests start processes, which hold a copy of everything until they execute.
    #[test]
    fn a_lock_is_held_once_and_ends_with_its_file() {
        if role().is_none() {
            assert!(again(LOCKS, "lock").status().unwrap().success());
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = file.reopen().unwrap();
        let second = file.reopen().unwrap();
        assert!(flock_exclusive_nonblocking(&first).unwrap());
        assert!(flock_exclusive_nonblocking(&first).unwrap(), "again by its holder");
        assert!(!flock_exclusive_nonblocking(&second).unwrap());
        drop(first);
        assert!(flock_exclusive_nonblocking(&second).unwrap());
    }

    #[test]
    fn local_places_are_local() {
        for path in ["/proc", "/sys", "/dev"] {
            assert_eq!(is_network_filesystem(Path::new(path)).unwrap(), None, "{path}");
        }
        let missing = is_network_filesystem(Path::new("/nonexistent/place")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn file_systems_are_known_by_number() {
        let expected = [
            (0x6969, Some("NFS")),
            (0xFF53_4D42, Some("CIFS")),
            (0x0102_1997, Some("9p")),
            (0xEF53, None),      // ext4
            (0x9123_683E, None), // btrfs
            (0x5846_5342, None), // xfs
            (0x0102_1994, None), // tmpfs
            (0x794C_7630, None), // overlay
        ];
        for (magic, name) in expected {
            assert_eq!(system::by_magic(magic), name, "{magic:#x}");
        }
    }

    #[test]
    fn fuse_is_judged_by_the_type_of_its_mount() {
        let mounts = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:51 / /home/a/remote rw,nosuid shared:7 master:2 - fuse.sshfs a@h:/ rw\n\
            91 22 0:52 / /media/disk rw - fuseblk /dev/sdb1 rw\n\
            92 22 0:53 / /odd\\040-\\040name rw - fuse.unheard-of x rw\n\
            93 22 0:54 / /share rw - virtiofs share rw\n";
        let expected = [
            ((0, 51), Some("sshfs")),
            ((0, 52), None),
            ((0, 53), Some("FUSE")),
            ((0, 54), Some("virtiofs")),
            ((0, 99), Some("FUSE")),
        ];
        for ((major, minor), name) in expected {
            assert_eq!(system::fuse(system::mount_type(mounts, major, minor)), name, "{major}:{minor}");
        }
    }
}
