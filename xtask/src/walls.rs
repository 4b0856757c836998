//! The walls between crates, as facts about what is linked.
//!
//! Each is checked by listing the dependencies that cargo would link and searching the list. `cargo tree -i` would not
//! do: it also succeeds for a package that is only in the lock file. And a list that is empty, or of the wrong
//! package, must not look like a wall that holds, so each list must contain the package itself and one
//! dependency that it surely has.

use std::path::Path;
use std::process::Command;

/// What one crate must not link.
struct Wall {
    package: &'static str,
    /// A dependency that shows that the list is a real one.
    has: &'static str,
    lacks: &'static [&'static str],
}

/// The proxy never sees the store or the policy; the shared language, the scanner and the audit log stay free of a
/// runtime, so that they can be used without one.
const WALLS: &[Wall] = &[
    Wall {
        package: "writ-proxy",
        has: "writ-core",
        lacks: &["writ-broker", "writ-engine", "writ-attest", "cedar-policy", "rusqlite", "libsqlite3-sys"],
    },
    Wall { package: "writ-core", has: "serde", lacks: &["tokio", "hyper", "rusqlite"] },
    Wall {
        package: "writ-run",
        has: "rustix",
        lacks: &["tokio", "writ-broker", "writ-proxy", "rustls", "aws-lc-rs"],
    },
    Wall { package: "writ-detect", has: "aho-corasick", lacks: &["tokio", "writ-core"] },
    Wall { package: "writ-audit", has: "serde_json", lacks: &["tokio", "writ-core"] },
];

/// Checks every wall and fails with all that do not hold.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let mut faults = Vec::new();
    for wall in WALLS {
        match list(root, wall.package) {
            Ok(list) => faults.extend(check(wall, &list)),
            Err(message) => faults.push(message),
        }
    }
    if !faults.is_empty() {
        return Err(format!("walls: {}", faults.join("\nwalls: ")));
    }
    for Wall { package, lacks, .. } in WALLS {
        crate::say(&format!("walls: {package} links none of {}", lacks.join(", ")));
    }
    Ok(())
}

/// What `package` links: one line for each package, `name vX.Y.Z …`.
fn list(root: &Path, package: &str) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.args([
        "tree",
        "--locked",
        "--all-features",
        "-e",
        "normal,build",
        "--prefix",
        "none",
        "-p",
        package,
    ]);
    let output = command.current_dir(root).output().map_err(|error| format!("cargo tree: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree -p {package}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo tree -p {package}: {error}"))
}

fn check(wall: &Wall, list: &str) -> Vec<String> {
    let Wall { package, has, lacks } = wall;
    let listed = |name: &str| list.lines().any(|line| line.split(' ').next() == Some(name));
    let mut faults = Vec::new();
    for name in [package, has].into_iter().filter(|name| !listed(name)) {
        faults.push(format!("the list of {package} lacks {name}, so it proves nothing"));
    }
    for name in lacks.iter().filter(|name| listed(name)) {
        faults.push(format!("{package} links {name}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: Wall = Wall { package: "writ-proxy", has: "writ-core", lacks: &["writ-broker", "tokio"] };

    #[test]
    fn a_wall_holds_or_says_who_broke_it() {
        let fine = "writ-proxy v0.1.0 (/a)\nwrit-core v0.1.0 (/b)\ntokio-rustls v0.26.6\nserde v1.0.0\n";
        assert_eq!(check(&PROXY, fine), [""; 0]);
        let broken = format!("{fine}writ-broker v0.1.0 (/c)\n");
        assert_eq!(check(&PROXY, &broken), ["writ-proxy links writ-broker"]);
        assert_eq!(check(&PROXY, &format!("{broken}tokio v1.0.0 (*)\n")).len(), 2);
    }

    #[test]
    fn a_list_of_nothing_proves_nothing() {
        assert_eq!(check(&PROXY, "").len(), 2);
        assert_eq!(check(&PROXY, "writ-core v0.1.0\n").len(), 1);
        assert_eq!(check(&PROXY, "writ-proxy v0.1.0\n").len(), 1);
    }
}
