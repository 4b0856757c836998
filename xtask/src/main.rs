//! The project's own checks, as a program: `cargo xtask <task>`.
//!
//! They are here and not in a shell script because most of them are rules about the source, which want tests of
//! their own, and because the one command that runs everything must do the same on every machine. The program has
//! no dependencies, so that it builds in a second.
//!
//! | task | does |
//! |---|---|
//! | `tidy` | checks the rules on the source that no compiler checks ([`tidy`]) |
//! | `walls` | checks which crates are linked into which ([`walls`]) |
//! | `clients` | installs the clients and agents that the end-to-end suites drive ([`clients`]) |
//! | `ci` | runs every check and every test ([`ci`]) |

mod ci;
mod clients;
mod prerequisites;
mod tidy;
mod walls;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy | walls | clients | ci";

fn main() -> ExitCode {
    let root = workspace_root();
    let tasks: Vec<String> = std::env::args().skip(1).collect();
    let result = match tasks.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy::task(&root),
        ["walls"] => walls::task(&root),
        ["clients"] => prerequisites::task(&root).and_then(|()| clients::task(&root)),
        ["ci"] => ci::task(&root),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&message);
            ExitCode::FAILURE
        }
    }
}

/// The directory of the workspace: the parent of this package's, which cargo names when it runs us.
fn workspace_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.as_deref().and_then(Path::parent).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Prints one line at once, so that the order is kept in a log with the output of other programs.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // There is nobody left to tell if this fails; the exit code still counts.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
