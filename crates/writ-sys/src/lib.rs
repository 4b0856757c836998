//! The system calls that writ needs and that have no safe form in the standard library.
//!
//! This crate exists for one reason: it is the only one that may contain `unsafe`, so that an auditor reads
//! `unsafe` in one place. Every function here is small, safe to call, and says what it does, how it fails and
//! where it is documented. Where `rustix` has a safe and sound form, that form is used; `libc` is used where it
//! has none.
//!
//! | module | what for |
//! |---|---|
//! | [`peer`] | who is at the other end of a Unix socket |
//! | [`descriptors`] | file descriptors passed over a Unix socket |
//! | [`harden`] | a process that holds secrets: no core dump, no tracing, no swap |
//! | [`child`] | children that die with us, sessions of their own, default signals |
//! | [`jobs`] | process groups and the terminal's foreground |
//! | [`pidfd`] | processes held by descriptor, so that a reused pid cannot be meant |
//! | [`signals`] | signals as a descriptor to poll; dying of a signal on purpose |
//! | [`filesystem`] | network file systems, private directories, lock files |
//! | [`terminal`] | a passphrase read from the terminal |
//! | [`inherit`] | which descriptors a child gets and takes; `execve` as it is (Linux) |
//! | [`seccomp`] | installing a filter of system calls (Linux) |
//! | [`notify`] | system calls that another process judges; the version of Landlock (Linux) |
//! | [`namespaces`] | `unshare`, attributes of mounts, the cookie of a network namespace (Linux) |
//! | [`clock`] | time that goes on while the machine sleeps |
//! | [`random`] | random bytes of the kernel's, at once |
//!
//! What is absent on purpose: a sandbox (its order is in `writ-run`), anything asynchronous, and any
//! policy: these functions report or do, and their callers decide.
//!
//! Linux is the system this is built for and tested on. On other Unix systems the crate is meant to compile with
//! reduced behavior, which each function states; nobody has compiled it there yet. Windows is refused by
//! the binary, not here.

pub mod child;
pub mod clock;
pub mod descriptors;
pub mod filesystem;
pub mod harden;
#[cfg(target_os = "linux")]
pub mod inherit;
pub mod jobs;
#[cfg(target_os = "linux")]
pub mod namespaces;
#[cfg(target_os = "linux")]
pub mod notify;
pub mod peer;
pub mod pidfd;
pub mod random;
#[cfg(target_os = "linux")]
pub mod seccomp;
pub mod signals;
pub mod terminal;

#[cfg(test)]
mod testing;

pub use child::{default_signals, die_with_parent, new_session};
pub use clock::boottime;
pub use descriptors::{receive_with_fds, send_with_fds};
pub use filesystem::{
    Privacy, directory_privacy, flock_exclusive_nonblocking, is_network_filesystem, runtime_dir_is_private,
};
pub use harden::{Hardening, harden_process};
#[cfg(target_os = "linux")]
pub use inherit::{close_on_exec_from, execute, inherit_only, inherited, reset_signals};
pub use jobs::{
    own_group, reset_signal, set_foreground_group, signal_group, signal_own_group, signal_process, stop_by,
    terminal_session,
};
#[cfg(target_os = "linux")]
pub use namespaces::{mount_setattr, netns_cookie, unshare};
#[cfg(target_os = "linux")]
pub use notify::{
    Answer, Notification, answer_notification, landlock_abi, notification_waits, receive_notification,
};
pub use peer::{PeerCredentials, peer_credentials, peer_pidfd};
pub use pidfd::{own_pidfd, pidfd_exited, pidfd_kill, pidfd_of_child};
pub use random::random;
#[cfg(target_os = "linux")]
pub use seccomp::{install_filter, install_filter_with_listener};
pub use signals::{SignalQueue, raise_to_signal_death};
pub use terminal::{HiddenInput, hide_terminal_echo, read_passphrase};
