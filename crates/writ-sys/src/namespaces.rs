//! Namespaces and mounts, where `rustix` has no safe form: `unshare(2)`, `mount_setattr(2)`, and which network namespace a
//! socket is of.
//!
//! These are calls, not a sandbox: what is unshared and mounted in which order is decided in `writ-run`.
//! Linux only.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::thread::UnshareFlags;

/// Attributes of a mount, for [`mount_setattr`].
pub use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
};
/// Kinds of propagation, for [`mount_setattr`].
pub use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Leaves the namespaces that `namespaces` names, for new ones (`unshare(2)`).
///
/// A new user namespace is made before the others, so that an ordinary user gets them all in one call. A new PID namespace is
/// for children: the first of them becomes its init.
///
/// # Errors
/// `InvalidInput` for `FILES`, which would tear apart the descriptors of threads. `EINVAL` for `NEWUSER` with several
/// threads, `EPERM` where namespaces are refused (also in a `chroot`), `ENOSPC` at a limit such as
/// `user.max_user_namespaces`.
pub fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    if namespaces.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the table of descriptors, the one thing that threads may not lose, stays shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Changes attributes of the mount that `mount` is the root of, and of those below it if `recursive` (`mount_setattr(2)`, Linux 5.12).
///
/// `set` and `clear` are made of `MOUNT_ATTR_…`; `propagation` is one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` and `MS_UNBINDABLE`, or 0
/// to leave it. With `recursive` either all mounts change or none does. `mount` may be opened with `O_PATH` or come
/// from `open_tree(2)`.
///
/// # Errors
/// `EINVAL` if it is not the root of a mount of our namespace, `EPERM` for an attribute that is locked, and the others of the call.
pub fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = Attributes { set, clear, propagation, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the attributes are of the size that is told, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which network namespace `socket` was made in: a number that is never given out twice while the machine runs
/// (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.14, `ENOTSOCK` for another descriptor.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: there is memory for the eight bytes that are told, and both pointers outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Of `asm-generic/socket.h`, which the C library does not repeat.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;

    use rustix::fs::{StatVfsMountFlags, fstatvfs};
    use rustix::process::geteuid;

    use super::*;
    use crate::testing::{again, role};

    const COOKIE: &str = "namespaces::tests::each_network_namespace_has_a_cookie_of_its_own";
    const READ_ONLY: &str = "namespaces::tests::a_tree_becomes_read_only_with_all_that_is_below";

    /// Runs the test `name` again where it may unshare. `NEWUSER` wants no threads, which a harness has: an ordinary user takes
    /// the command for it (util-linux).
    fn inside(name: &str) -> bool {
        if role().is_some() {
            return true;
        }
        let mut command = again(name, "inside");
        if !geteuid().is_root() {
            let program = command.get_program().to_owned();
            let mut unshared = std::process::Command::new("unshare");
            unshared.args(["--user", "--map-root-user"]).arg(program).args(command.get_args());
            unshared.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            command = unshared;
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        false
    }

    #[test]
    fn each_network_namespace_has_a_cookie_of_its_own() {
        if !inside(COOKIE) {
            return;
        }
        let (first, second) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        assert_eq!(netns_cookie(&first).unwrap(), netns_cookie(&second).unwrap());
        unshare(UnshareFlags::NEWNET).unwrap();
        let elsewhere = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_ne!(netns_cookie(&first).unwrap(), netns_cookie(&elsewhere).unwrap());
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(netns_cookie(&unix).unwrap(), netns_cookie(&elsewhere).unwrap());
        assert_eq!(
            netns_cookie(File::open("/dev/null").unwrap()).unwrap_err().raw_os_error(),
            Some(libc::ENOTSOCK)
        );
    }

    #[test]
    fn a_tree_becomes_read_only_with_all_that_is_below() {
        if !inside(READ_ONLY) {
            return;
        }
        unshare(UnshareFlags::NEWNS).unwrap();
        let root = File::open("/").unwrap();
        let shm = File::open("/dev/shm").unwrap();
        let flags = |file: &File| fstatvfs(file).unwrap().f_flag;
        let read_only = |file: &File| flags(file).contains(StatVfsMountFlags::RDONLY);
        mount_setattr(&root, true, 0, 0, MS_PRIVATE).unwrap();
        assert!(!read_only(&shm), "/dev/shm is a mount of its own, and writable");
        mount_setattr(&root, false, MOUNT_ATTR_RDONLY, 0, 0).unwrap();
        assert!(read_only(&root) && !read_only(&shm));
        mount_setattr(&root, true, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0).unwrap();
        assert!(read_only(&root) && read_only(&shm));
        mount_setattr(&root, false, 0, MOUNT_ATTR_RDONLY, 0).unwrap();
        assert!(!read_only(&root) && flags(&root).contains(StatVfsMountFlags::NOSUID));
    }

    #[test]
    fn what_is_no_mount_has_no_attributes() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        assert!(mount_setattr(&file, false, 0, MOUNT_ATTR_NOATIME, 0).is_err());
        assert!(mount_setattr(&file, false, 1 << 60, 0, 0).is_err());
    }

    #[test]
    fn descriptors_are_never_unshared_and_a_threaded_process_keeps_its_user() {
        assert_eq!(unshare(UnshareFlags::FILES).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let error = unshare(UnshareFlags::NEWUSER).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "a test is a thread of its harness");
    }
}
