//! Which crate may depend on which, and that none escapes the lints.
//!
//! The table is that of architecture §2; it is what the manifests say, and `cargo xtask walls` checks what is
//! linked in the end.

use super::{Complaint, Tree};

/// Each crate with the crates of ours that it may depend on. Development dependencies are free, but for the
/// testkit, which may be nothing else.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("writ-core", &[]),
    ("writ-detect", &[]),
    ("writ-audit", &[]),
    ("writ-sys", &[]),
    ("writ-attest", &["writ-core", "writ-identity", "writ-sys"]),
    ("writ-identity", &["writ-core"]),
    ("writ-engine", &["writ-core"]),
    ("writ-api", &["writ-core", "writ-sys"]),
    ("writ-run", &["writ-core", "writ-sys"]),
    (
        "writ-broker",
        &["writ-core", "writ-identity", "writ-attest", "writ-engine", "writ-api", "writ-audit", "writ-sys"],
    ),
    ("writ-proxy", &["writ-core", "writ-detect", "writ-identity", "writ-api", "writ-audit"]),
    (
        "writ-cli",
        &[
            "writ-core",
            "writ-detect",
            "writ-identity",
            "writ-attest",
            "writ-engine",
            "writ-api",
            "writ-audit",
            "writ-broker",
            "writ-proxy",
            "writ-run",
            "writ-sys",
        ],
    ),
    ("writ-testkit", &["writ-core", "writ-sys"]),
    ("xtask", &[]),
];

/// The crate that has its own copy of the lints, since it lifts one of them.
const OWN_LINTS: &str = "writ-sys";

pub(super) fn check(tree: &Tree, complaints: &mut Vec<Complaint>) {
    let root_lints = tree.get("Cargo.toml").map(|text| section(text, "workspace.lints.clippy"));
    for (path, text) in tree {
        let Some(package) = path.strip_suffix("/Cargo.toml") else { continue };
        let name = package.strip_prefix("crates/").unwrap_or(package);
        if name.contains('/') || (name == package && name != "xtask") {
            continue;
        }
        if !text.lines().any(|line| line.trim() == format!("name = \"{name}\"")) {
            complaints.push(Complaint::new(path, 0, "the package has the name of its folder"));
        }
        directions(path, name, text, complaints);
        if name == OWN_LINTS {
            copied_lints(path, text, root_lints.as_deref().unwrap_or_default(), complaints);
        } else if !section(text, "lints").contains(&"workspace = true") {
            complaints.push(Complaint::new(path, 0, "needs `[lints]` with `workspace = true`"));
        }
    }
}

fn directions(path: &str, name: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(package, _)| *package == name) else {
        complaints.push(Complaint::new(
            path,
            0,
            format!("{name} is not in the table of xtask/src/tidy/manifests.rs"),
        ));
        return;
    };
    for (line, dependency) in dependencies(text) {
        if !allowed.contains(&dependency) {
            let message = format!("{name} may not depend on {dependency} (architecture §2)");
            complaints.push(Complaint::new(path, line, message));
        }
    }
}

/// The normal and build dependencies that are crates of ours, with their lines: keys in a table of dependencies, and
/// tables of their own (`[dependencies.x]`).
fn dependencies(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_table = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            let parts: Vec<&str> = header.split('.').collect();
            let is_kind = |part: &&str| matches!(*part, "dependencies" | "build-dependencies");
            in_table = parts.last().is_some_and(is_kind);
            let own_table = parts.iter().rev().nth(1).is_some_and(is_kind);
            found.extend(parts.last().filter(|_| own_table).map(|name| (index + 1, *name)));
        } else if in_table {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            found.push((index + 1, name));
        }
    }
    found.retain(|(_, name)| name.starts_with("writ-") || *name == "xtask");
    found
}

/// The lines of one table, without comments.
fn section<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let inside = lines.skip_while(|line| *line != format!("[{name}]")).skip(1);
    inside.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty()).collect()
}

fn copied_lints(path: &str, text: &str, root: &[&str], complaints: &mut Vec<Complaint>) {
    let own = section(text, "lints.clippy");
    for lint in root.iter().filter(|lint| !own.contains(lint)) {
        complaints.push(Complaint::new(path, 0, format!("lacks a lint of the workspace: {lint}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn complaints(name: &str, rest: &str) -> Vec<String> {
        let root = "[workspace.lints.clippy]\ntodo = \"deny\"\npanic = \"deny\"\n\n[profile.dev]\n";
        let manifest = format!("[package]\nname = \"{name}\"\n{rest}");
        let tree = Tree::from([
            ("Cargo.toml".to_owned(), root.to_owned()),
            (format!("crates/{name}/Cargo.toml"), manifest),
        ]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|complaint| complaint.message).collect()
    }

    #[test]
    fn the_proxy_may_not_know_the_broker() {
        let expected = ["writ-proxy may not depend on writ-broker (architecture §2)"];
        let ways = [
            "[dependencies]\nwrit-core.workspace = true\nwrit-broker.workspace = true\n",
            "[dependencies]\nwrit-broker = { path = \"../writ-broker\" }\n",
            "[build-dependencies]\nwrit-broker.workspace = true\n",
            "[target.'cfg(unix)'.dependencies]\nwrit-broker.workspace = true\n",
            "[dependencies.writ-broker]\nworkspace = true\n",
        ];
        for way in ways {
            assert_eq!(complaints("writ-proxy", &format!("{LINTS}{way}")), expected, "{way}");
        }
        let fine =
            "[dependencies]\nwrit-core.workspace = true\n[dev-dependencies]\nwrit-testkit.workspace = true\n";
        assert_eq!(complaints("writ-proxy", &format!("{LINTS}{fine}")), [""; 0]);
    }

    #[test]
    fn the_testkit_is_for_development_only() {
        let normal = format!("{LINTS}[dependencies]\nwrit-testkit.workspace = true\n");
        for name in ["writ-cli", "writ-broker", "writ-core"] {
            assert_eq!(complaints(name, &normal).len(), 1, "{name}");
        }
    }

    #[test]
    fn the_table_runs_one_way() {
        for (name, allowed) in DIRECTIONS {
            for other in *allowed {
                let (_, back) = DIRECTIONS.iter().find(|(package, _)| package == other).unwrap();
                assert!(!back.contains(name), "{name} and {other} depend on each other");
            }
        }
    }

    #[test]
    fn a_crate_that_nobody_knows_is_an_error() {
        assert_eq!(complaints("writ-extra", LINTS).len(), 1);
        assert_eq!(complaints("writ-core", LINTS), [""; 0]);
    }

    #[test]
    fn no_crate_escapes_the_lints() {
        assert_eq!(complaints("writ-core", "[lints]\n"), ["needs `[lints]` with `workspace = true`"]);
        assert_eq!(complaints("writ-core", "[dependencies]\n").len(), 1);
        let copied = "[lints.clippy]\npanic = \"deny\"\ntodo = \"deny\"\n";
        assert_eq!(complaints("writ-sys", copied), [""; 0]);
        let weaker = "[lints.clippy]\npanic = \"deny\"\ntodo = \"warn\"\n";
        assert_eq!(complaints("writ-sys", weaker), ["lacks a lint of the workspace: todo = \"deny\""]);
    }

    #[test]
    fn a_package_has_the_name_of_its_folder() {
        let tree =
            Tree::from([("crates/writ-core/Cargo.toml".to_owned(), format!("name = \"core\"\n{LINTS}"))]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        assert_eq!(found.len(), 1);
    }
}
