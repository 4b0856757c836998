//! Programs that the tests need and that cargo cannot bring.
//!
//! A test whose program is missing would have to be skipped, and a skipped test proves nothing. So what is missing is an
//! error that names the package, before anything else runs.

use std::path::Path;
use std::process::{Command, Stdio};

/// One package on a line, then `|` and a shell command that succeeds when it is there.
const LIST: &str = ".ci/packages";
/// Where servers are installed; not in every user's path.
const SERVER_PATHS: &str = "/usr/sbin:/sbin";

/// Fails with the packages that are missing.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let list = std::fs::read_to_string(root.join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    let packages = parse(&list)?;
    let missing: Vec<&str> =
        packages.iter().filter(|(_, check)| !succeeds(root, check)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    Err(format!("prerequisites: missing {names}; on Debian: apt-get install {names}"))
}

fn parse(list: &str) -> Result<Vec<(&str, &str)>, String> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries: Option<Vec<_>> = lines
        .map(|line| {
            let (package, check) = line.split_once('|')?;
            Some((package.trim(), check.trim()))
                .filter(|(package, check)| !package.is_empty() && !check.is_empty())
        })
        .collect();
    let entries = entries.ok_or_else(|| format!("{LIST}: every line is `package | command`"))?;
    if entries.is_empty() { Err(format!("{LIST}: names no package")) } else { Ok(entries) }
}

fn succeeds(root: &Path, check: &str) -> bool {
    let script = format!("PATH=\"$PATH:{SERVER_PATHS}\"; {check}");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(root);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_packages_and_commands() {
        let list = "# comment\n\ngit | git --version\nx-y   |  a | b\n";
        assert_eq!(parse(list).unwrap(), [("git", "git --version"), ("x-y", "a | b")]);
        for broken in ["", "# nothing\n", "git\n", "git |\n", "| git\n"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_list_of_the_project_can_be_read() {
        let list = include_str!("../../.ci/packages");
        assert!(parse(list).unwrap().iter().any(|(package, _)| *package == "git"));
    }

    #[test]
    fn a_command_tells_what_is_missing() {
        let root = Path::new("/");
        assert!(succeeds(root, "true"));
        assert!(!succeeds(root, "false"));
        assert!(!succeeds(root, "no-such-program-anywhere --version"));
    }
}
