//! The Python clients that the end-to-end suites drive, in an environment of their own.
//!
//! They are the unmodified libraries that agents use, so they come from their registry, in pinned versions, into
//! `target/clients`. The suites find the interpreter at `target/clients/bin/python`.

use std::path::Path;
use std::process::Command;

/// What to install, one `name==version` on a line; kept by the suites.
const REQUIREMENTS: &str = "tests/suites/requirements.txt";
pub(crate) const ENVIRONMENT: &str = "target/clients";

/// Installs the clients, unless exactly these are installed already.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let wanted = std::fs::read_to_string(root.join(REQUIREMENTS))
        .map_err(|error| format!("clients: {REQUIREMENTS}: {error}"))?;
    check_pinned(&wanted)?;
    // Written last, so it is there only if the installation was complete.
    let stamp = root.join(ENVIRONMENT).join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        crate::say("clients: installed already");
        return Ok(());
    }
    run(root, "python3", &["-m", "venv", "--clear", ENVIRONMENT])?;
    let python = root.join(ENVIRONMENT).join("bin/python");
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", REQUIREMENTS];
    run(root, &python.to_string_lossy(), &pip)?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("clients: {}: {error}", stamp.display()))?;
    crate::say(&format!("clients: installed into {ENVIRONMENT}"));
    Ok(())
}

fn check_pinned(requirements: &str) -> Result<(), String> {
    let lines = requirements.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let loose: Vec<&str> = lines.iter().filter(|line| !line.contains("==")).copied().collect();
    match (lines.is_empty(), loose.is_empty()) {
        (true, _) => Err(format!("clients: {REQUIREMENTS} names nothing")),
        (false, true) => Ok(()),
        (false, false) => Err(format!("clients: not pinned by `==`: {}", loose.join(", "))),
    }
}

fn run(root: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).current_dir(root).output();
    let output = output.map_err(|error| format!("clients: {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(format!("clients: {program} {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_pinned() {
        assert_eq!(check_pinned("# c\nopenai==1.2.3  # why\nrequests==2.0\n"), Ok(()));
        for loose in ["openai\n", "openai>=1\nrequests==2\n", "", "# nothing\n"] {
            assert!(check_pinned(loose).is_err(), "{loose}");
        }
    }
}
