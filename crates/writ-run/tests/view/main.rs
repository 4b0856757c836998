//! Real views, built in real namespaces, as this account and, where the tests run as root, as a plain one too.
//!
//! Each test runs itself again under `unshare` (util-linux), where it is alone in new user, mount and PID namespaces: it builds the view
//! there, enters it, and runs a shell script whose exit status is the answer. A rule that is taken away makes its script fail.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy does not see that the helpers here are tests"
)]

mod files;
mod home;
mod scene;
mod system;
mod walls;
