//! The clients and coding agents that the end-to-end suites drive, in directories of their own.
//!
//! They are the unmodified programs that people use, so they come from their registries, in pinned versions: Python's into
//! `target/clients` (the suites find the interpreter at `target/clients/bin/python`), Node's into `target/clients-node`. No
//! installation script of a package is run; the agents' executables are packages of their own, one for each system.

use std::path::Path;
use std::process::Command;

/// What to install, one `name==version` on a line; kept by the suites.
const REQUIREMENTS: &str = "tests/suites/requirements.txt";
pub(crate) const ENVIRONMENT: &str = "target/clients";
/// What to install for Node: the packages, and everything that they need with its digest.
const PACKAGES: [&str; 2] = ["package.json", "package-lock.json"];
const NODE_LIST: &str = "tests/clients/node";
const NODE_ENVIRONMENT: &str = "target/clients-node";
const SYSTEM_PYTHON: &str = "/usr/bin/python3";
/// Written last into an environment, so it is there only if the installation was complete. Holds what was wanted.
const STAMP: &str = "installed.txt";

/// Installs the clients, unless exactly these are installed already.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let wanted = read(&root.join(REQUIREMENTS))?;
    check_pinned(&wanted)?;
    install(root, ENVIRONMENT, &format!("# {}\n{wanted}", interpreter(root)), python)?;
    let [manifest, lock] = PACKAGES.map(|name| read(&root.join(NODE_LIST).join(name)));
    let (manifest, lock) = (manifest?, lock?);
    check_exact(&manifest, &lock)?;
    install(root, NODE_ENVIRONMENT, &format!("{manifest}{lock}"), node)
}

fn install(
    root: &Path,
    environment: &str,
    wanted: &str,
    how: fn(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let stamp = root.join(environment).join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        crate::say(&format!("clients: installed already: {environment}"));
        return Ok(());
    }
    how(root)?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("clients: {}: {error}", stamp.display()))?;
    crate::say(&format!("clients: installed into {environment}"));
    Ok(())
}

fn python(root: &Path) -> Result<(), String> {
    run(root, interpreter(root), &["-m", "venv", "--clear", ENVIRONMENT])?;
    let python = root.join(ENVIRONMENT).join("bin/python");
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", REQUIREMENTS];
    run(root, &python.to_string_lossy(), &pip)
}

/// The system's own Python where it can make environments. One below somebody's home is out of reach of other accounts, and of
/// confined programs with another home.
fn interpreter(root: &Path) -> &'static str {
    let works = run(root, SYSTEM_PYTHON, &["-c", "import venv, ensurepip"]).is_ok();
    if works { SYSTEM_PYTHON } else { "python3" }
}

fn node(root: &Path) -> Result<(), String> {
    let environment = root.join(NODE_ENVIRONMENT);
    let at = |error: std::io::Error| format!("clients: {}: {error}", environment.display());
    std::fs::create_dir_all(&environment).map_err(at)?;
    // The last installation's stamp must not outlive it.
    let _ = std::fs::remove_file(environment.join(STAMP));
    for name in PACKAGES {
        std::fs::copy(root.join(NODE_LIST).join(name), environment.join(name)).map_err(at)?;
    }
    run(&environment, "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("clients: {}: {error}", path.display()))
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

/// Versions are exact, packages have digests, and nothing says where to fetch them: that is the machine's to say.
fn check_exact(manifest: &str, lock: &str) -> Result<(), String> {
    let ranges = ["\"^", "\"~", "\"*", "\">", "\"latest"];
    let range = ranges.iter().find(|range| manifest.contains(**range));
    match (range, lock.contains("\"integrity\""), lock.contains("\"resolved\"")) {
        (Some(range), _, _) => Err(format!("clients: {NODE_LIST}: not an exact version: {range}")),
        (None, false, _) => Err(format!("clients: {NODE_LIST}: the lock has no digests")),
        (None, true, true) => {
            Err(format!("clients: {NODE_LIST}: the lock says where packages are fetched from"))
        }
        (None, true, false) => Ok(()),
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

    #[test]
    fn every_node_package_is_exact_and_has_a_digest() {
        let manifest = include_str!("../../tests/clients/node/package.json");
        let lock = include_str!("../../tests/clients/node/package-lock.json");
        assert_eq!(check_exact(manifest, lock), Ok(()));
        for range in ["^1.0.0", "~1.0.0", "*", ">=1", "latest"] {
            assert!(check_exact(&format!("{{\"a\": \"{range}\"}}"), lock).is_err(), "{range}");
        }
        for bad in ["{}", "{\"integrity\": \"x\", \"resolved\": \"https://x\"}"] {
            assert!(check_exact(manifest, bad).is_err(), "{bad}");
        }
    }
}
