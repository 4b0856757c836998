//! The unmodified clients, put where a scene's account can run them.
//!
//! `cargo xtask clients` installs them below the checkout's `target`, which may be out of the account's reach and is not in a
//! confined program's view. So a scene gets what it asks for into its own home, where a person would have installed it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::account::bring;
use crate::home::Home;

/// Below `HOME`.
const PLACE: &str = ".local/lib";

/// The interpreter with the pinned Python clients.
///
/// # Errors
/// When the clients are not installed, or cannot be put into the home.
pub fn python(home: &Home) -> io::Result<String> {
    let place = installed(home, Path::new("target/clients"), "python")?;
    Ok(place.join("bin/python").display().to_string())
}

/// Claude Code's executable, under the name by which people start it.
///
/// # Errors
/// As [`python`].
pub fn claude(home: &Home) -> io::Result<String> {
    let modules = Path::new("target/clients-node/node_modules");
    let package = modules.join("@anthropic-ai").join(format!("claude-code-linux-{}", node_arch()?));
    Ok(installed(home, &package, "claude-code")?.join("claude").display().to_string())
}

/// Codex's executable, with the programs that it brings along.
///
/// # Errors
/// As [`python`].
pub fn codex(home: &Home) -> io::Result<String> {
    let modules = Path::new("target/clients-node/node_modules");
    let package = modules.join("@openai").join(format!("codex-linux-{}", node_arch()?)).join("vendor");
    let place = installed(home, &package, "codex")?;
    let of_system = fs::read_dir(&place)?.next().transpose()?;
    let of_system = of_system.ok_or_else(|| io::Error::other(format!("{} is empty", place.display())))?;
    Ok(of_system.path().join("bin/codex").display().to_string())
}

/// The Node package `name`, where programs of the work tree find it.
///
/// # Errors
/// As [`python`].
pub fn node_package(home: &Home, name: &str) -> io::Result<()> {
    let to = home.work().join("node_modules").join(name);
    if to.exists() {
        return Ok(());
    }
    bring(&checkout(&Path::new("target/clients-node/node_modules").join(name))?, &to)
}

/// A copy of the checkout's `path` (a file or a directory of sources) in the work tree, under its own name.
///
/// # Errors
/// When it cannot be read or written.
pub fn source(home: &Home, path: &str) -> io::Result<PathBuf> {
    let from = checkout(Path::new(path))?;
    let name = from.file_name().ok_or_else(|| io::Error::other(format!("{path} has no name")))?;
    let to = home.work().join(name);
    copy(home, &from, &to)?;
    Ok(to)
}

fn copy(home: &Home, from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(home, &entry.path(), &to.join(entry.file_name()))?;
        }
    } else {
        fs::copy(from, to)?;
    }
    home.who().own(to)
}

fn installed(home: &Home, from: &Path, name: &str) -> io::Result<PathBuf> {
    let to = home.home().join(PLACE).join(name);
    if !to.exists() {
        bring(&checkout(from)?, &to)?;
        // Above the package are the account's own directories, as if it had made them.
        for directory in [PLACE, ".local"] {
            home.who().own(&home.home().join(directory))?;
        }
    }
    Ok(to)
}

fn checkout(path: &Path) -> io::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    path.canonicalize().map_err(|fault| {
        let told = format!("{}: {fault}: run `cargo xtask clients`", path.display());
        io::Error::new(fault.kind(), told)
    })
}

/// As Node calls this machine.
fn node_arch() -> io::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x64"),
        "aarch64" => Ok("arm64"),
        other => Err(io::Error::other(format!("the agents are not built for {other}"))),
    }
}
