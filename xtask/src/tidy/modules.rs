//! Files that no `mod` leads to: they look like code and are never compiled.

use std::collections::BTreeMap;

use super::source::{Source, find_words, line_of};
use super::{Complaint, Tree};

/// How a file is reached from the root of its crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reached {
    /// Only through `#[cfg(test)] mod x;`.
    InTests,
    /// In every build.
    Always,
}

/// Follows the `mod` lines of every package, complains about files that they do not reach, and tells how the others
/// were reached.
pub(super) fn check(tree: &Tree, complaints: &mut Vec<Complaint>) -> BTreeMap<String, Reached> {
    let mut reached = BTreeMap::new();
    let mut pending: Vec<(String, Reached)> =
        tree.keys().filter(|path| is_root(path)).map(|path| (path.clone(), Reached::Always)).collect();
    while let Some((path, how)) = pending.pop() {
        // A file that is reached twice counts as reached in every build if one way is.
        let Some(text) = tree.get(&path) else { continue };
        if reached.get(&path).is_some_and(|before| *before >= how) {
            continue;
        }
        for declared in declarations(&Source::new(&path, text, false)) {
            let how = if declared.in_tests { Reached::InTests } else { how };
            pending.extend(candidates(&path, &declared).into_iter().map(|candidate| (candidate, how)));
        }
        reached.insert(path, how);
    }
    for path in tree.keys().filter(|path| source_directory(path).is_some() && !reached.contains_key(*path)) {
        let name = module_name(path);
        let message = format!("no `mod {name};` leads here from lib.rs or main.rs");
        complaints.push(Complaint::new(path, 0, message));
    }
    reached
}

/// A `mod name;`.
struct Declared {
    name: String,
    /// The file named by `#[path = "…"]`.
    path: Option<String>,
    in_tests: bool,
}

fn declarations(source: &Source) -> Vec<Declared> {
    let mut found = Vec::new();
    for offset in find_words(&source.code, "mod") {
        let rest = source.code.get(offset + "mod".len()..).unwrap_or_default();
        let Some((name, _)) = rest.split_once(';') else { continue };
        let name = name.trim().trim_start_matches("r#");
        if name.is_empty()
            || name.contains(|character: char| !character.is_alphanumeric() && character != '_')
        {
            continue;
        }
        let attributes = attributes_above(source, line_of(&source.code, offset));
        let path = attributes.iter().find_map(|line| line.strip_prefix("#[path = \"")?.strip_suffix("\"]"));
        let line = line_of(&source.code, offset);
        let in_tests =
            source.is_test_line(line) || attributes.iter().any(|line| line.starts_with("#[cfg(test)]"));
        found.push(Declared { name: name.to_owned(), path: path.map(str::to_owned), in_tests });
    }
    found
}

/// The attributes on a line, counted from 1, and right above it.
fn attributes_above(source: &Source, line: usize) -> Vec<&str> {
    let lines: Vec<&str> = source.text.lines().take(line).map(str::trim).collect();
    let own = lines.last().into_iter().filter(|line| line.starts_with("#["));
    let above =
        lines.iter().rev().skip(1).take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    own.chain(above).copied().collect()
}

/// Where the file of a declared module may be.
fn candidates(path: &str, declared: &Declared) -> Vec<String> {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(named) = &declared.path {
        return vec![format!("{directory}/{named}")];
    }
    let stem = file.trim_end_matches(".rs");
    let inside =
        if is_root(path) || stem == "mod" { directory.to_owned() } else { format!("{directory}/{stem}") };
    let name = &declared.name;
    vec![format!("{inside}/{name}.rs"), format!("{inside}/{name}/mod.rs")]
}

/// Whether cargo starts at this file.
fn is_root(path: &str) -> bool {
    let Some(source) = source_directory(path) else { return false };
    matches!(source, "lib.rs" | "main.rs")
        || source.strip_prefix("bin/").is_some_and(|rest| !rest.contains('/') || rest.ends_with("/main.rs"))
}

/// The path below `src/`, for a Rust file of a package.
fn source_directory(path: &str) -> Option<&str> {
    let rest = match path.strip_prefix("crates/") {
        Some(rest) => rest.split_once('/')?.1,
        None => path.strip_prefix("xtask/")?,
    };
    rest.strip_prefix("src/").filter(|rest| rest.ends_with(".rs"))
}

fn module_name(path: &str) -> &str {
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    stem.rsplit('/').next().unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of one crate below `src/`; the orphans among them.
    fn orphans(files: &[(&str, &str)]) -> Vec<String> {
        let tree: Tree =
            files.iter().map(|(path, text)| (format!("crates/a/src/{path}"), (*text).to_owned())).collect();
        let mut complaints = Vec::new();
        check(&tree, &mut complaints);
        complaints.into_iter().map(|complaint| complaint.path.replace("crates/a/src/", "")).collect()
    }

    #[test]
    fn every_way_to_place_a_module_is_followed() {
        let files = [
            (
                "lib.rs",
                "mod a;\npub mod b;\npub(crate) mod c;\n#[path = \"odd/name.rs\"]\nmod d;\nmod r#type;\n",
            ),
            ("a.rs", "mod x;"),
            ("a/x.rs", ""),
            ("b/mod.rs", "mod y;"),
            ("b/y.rs", ""),
            ("c.rs", ""),
            ("odd/name.rs", ""),
            ("type.rs", ""),
            ("main.rs", "mod only_main;"),
            ("only_main.rs", ""),
            ("bin/tool.rs", ""),
        ];
        assert_eq!(orphans(&files), [""; 0]);
    }

    #[test]
    fn what_is_not_declared_is_an_orphan() {
        let files = [
            ("lib.rs", "// mod a;\nlet s = \"mod b;\";\nmod c { }\nmod d;"),
            ("a.rs", ""),
            ("b.rs", ""),
            ("c.rs", ""),
            ("d.rs", ""),
            ("e.rs", "mod f;"),
            ("e/f.rs", ""),
        ];
        assert_eq!(orphans(&files), ["a.rs", "b.rs", "c.rs", "e.rs", "e/f.rs"]);
    }

    #[test]
    fn files_for_tests_only_are_told_apart() {
        let tree: Tree = [
            ("crates/a/src/lib.rs", "mod a;\n#[cfg(test)]\nmod testing;\n#[cfg(test)]\nmod both;\n"),
            (
                "crates/a/src/a.rs",
                "#[path = \"both.rs\"]\nmod both;\n#[cfg(test)]\nmod tests {\n    mod deep;\n}\n",
            ),
            ("crates/a/src/a/deep.rs", ""),
            ("crates/a/src/testing.rs", "mod more;"),
            ("crates/a/src/testing/more.rs", ""),
            ("crates/a/src/both.rs", ""),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
        let reached = check(&tree, &mut Vec::new());
        let in_tests: Vec<&str> = reached
            .iter()
            .filter(|(_, how)| **how == Reached::InTests)
            .map(|(path, _)| path.trim_start_matches("crates/a/src/"))
            .collect();
        assert_eq!(in_tests, ["a/deep.rs", "testing.rs", "testing/more.rs"]);
    }
}
