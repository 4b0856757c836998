//! A child that starts in another control group.
//!
//! A process that is moved into a group makes the kernel wait until no other processor can be in the middle of a fork, which is ten
//! milliseconds of nothing. One that is born in the group costs no such wait. The standard library cannot say this to the
//! kernel. Linux only.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::inherit::{keep_only, pointers};

/// Starts `path` in the control group whose directory is `group`, and holds the child by descriptor (`clone3(2)` with
/// `CLONE_INTO_CGROUP`, Linux 5.7). It gets `arguments`, no variable, `descriptors` under their numbers, and the standard streams.
///
/// # Errors
/// `EBADF` for what is no directory of a version 2 hierarchy, `EACCES` where its processes are not ours to say, `ENOSYS`
/// before Linux 5.3 and where a filter refuses the call; those of `execve(2)`. No child is left then.
pub fn spawn_in_group(
    group: impl AsFd,
    path: &CStr,
    arguments: &[CString],
    descriptors: &[OwnedFd],
) -> io::Result<OwnedFd> {
    let (mut told, tells) = io::pipe()?;
    let (arguments, environment) = (pointers(arguments), pointers(&[]));
    let mut process: libc::c_int = -1;
    let number =
        |number: i32| u64::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let clone = libc::clone_args {
        flags: CLONE_PIDFD | CLONE_INTO_CGROUP,
        pidfd: (&raw mut process) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: number(group.as_fd().as_raw_fd())?,
    };
    // SAFETY: without `CLONE_VM` the child has a copy of this memory and this stack, as after `fork`; the arguments are of the size that is
    // told, and `process` is writable and outlives the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) } {
        0 => {
            let errno = keep_only(descriptors).err().unwrap_or_else(|| {
                // SAFETY: both lists are C strings that live in this copy of the memory, and end with a null pointer.
                unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
                io::Error::last_os_error()
            });
            let errno = errno.raw_os_error().unwrap_or_default().to_ne_bytes();
            // SAFETY: the bytes outlive the call; `_exit` runs nothing of the parent's.
            unsafe {
                libc::write(tells.as_raw_fd(), errno.as_ptr().cast(), errno.len());
                libc::_exit(127)
            }
        }
        child if child > 0 => {
            // SAFETY: the kernel has made this descriptor for us.
            let process = unsafe { OwnedFd::from_raw_fd(process) };
            drop(tells);
            // The end without a word is the `exec`, which closes the other one.
            let mut errno = [0; 4];
            match told.read(&mut errno)? {
                0 => Ok(process),
                _ => {
                    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED);
                    Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
                }
            }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

// `linux/sched.h`. The C library's constants are too narrow for the second.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::*;
    use crate::pidfd_exited;

    const LONG: Duration = Duration::from_secs(20);

    fn start(group: &File, script: &str, descriptors: &[OwnedFd]) -> io::Result<OwnedFd> {
        let arguments = ["sh", "-c", script].map(|one| CString::new(one).unwrap());
        spawn_in_group(group, c"/bin/sh", &arguments, descriptors)
    }

    /// What `script` writes to the descriptor that it is given the number of.
    fn told(group: &File, script: &str) -> String {
        let (mut told, tells) = io::pipe().unwrap();
        let tells = OwnedFd::from(tells);
        let script = format!("exec >/dev/fd/{}; {script}; echo end", tells.as_raw_fd());
        let process = start(group, &script, std::slice::from_ref(&tells)).unwrap();
        drop(tells);
        let mut text = String::new();
        told.read_to_string(&mut text).unwrap();
        assert!(pidfd_exited(&process, LONG).unwrap());
        waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED).unwrap();
        text
    }

    /// Our own group of version 2, if the machine has it.
    fn ours() -> Option<PathBuf> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let name = groups.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|mount| Path::new(mount).join(&name));
        mounts.into_iter().find(|group| group.join("cgroup.procs").exists())
    }

    #[test]
    fn a_child_is_born_in_its_group() {
        let Some(ours) = ours() else { panic!("no version 2 of control groups is mounted") };
        let group = ours.join(format!("writ-sys-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&group) {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            // Not ours to say, and the kernel judges it for this call as well.
            let refused = start(&File::open(&ours).unwrap(), "exit 0", &[]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
            return;
        }
        let directory = File::open(&group).unwrap();
        let groups = told(&directory, "cat /proc/self/cgroup");
        let name = group.file_name().unwrap().to_str().unwrap();
        assert!(groups.lines().any(|line| line.starts_with("0::") && line.ends_with(name)), "{groups}");
        let environment = told(&directory, "env");
        assert_eq!(environment.lines().last(), Some("end"));
        assert!(!environment.contains("CARGO"), "{environment}");
        let missing = spawn_in_group(&directory, c"/no/such/file", &[], &[]).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        drop(directory);
        fs::remove_dir(&group).unwrap();
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let error = start(&File::open("/tmp").unwrap(), "exit 0", &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
