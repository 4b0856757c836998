//! Rules on the source that no compiler checks.
//!
//! A plain scan of text, on purpose: it needs no parser, runs in a moment, and each rule is a short function with
//! its tests next to it. What it sees is the text with comments and string contents taken out
//! ([`source`]), so a rule cannot be tripped by prose; what it does not see is what macros produce.
//!
//! Limits on functions (70 lines), `unwrap`, printing and the like are clippy's; crates, licenses and sources are
//! cargo-deny's.

mod expose;
mod manifests;
mod modules;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use self::source::Source;

/// One place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Complaint {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, message } = self;
        match line {
            0 => write!(formatter, "{path}: {message}"),
            _ => write!(formatter, "{path}:{line}: {message}"),
        }
    }
}

/// The text files of the workspace: path from its root, with `/`, and contents.
pub(crate) type Tree = BTreeMap<String, String>;

/// Checks the workspace at `root` and fails with every complaint.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let tree = read(root).map_err(|error| format!("tidy: {}: {error}", root.display()))?;
    if !tree.contains_key("Cargo.toml") {
        return Err(format!("tidy: {} is not the workspace", root.display()));
    }
    let complaints = check(&tree);
    if complaints.is_empty() {
        crate::say(&format!("tidy: {} files, no complaints", tree.len()));
        return Ok(());
    }
    let lines: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    Err(format!("{}\ntidy: {} complaints", lines.join("\n"), lines.len()))
}

/// Every complaint about the tree, in order of path and line.
fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let reached = modules::check(tree, &mut complaints);
    let sources: Vec<Source> = tree
        .iter()
        .filter(|(path, _)| path.ends_with(".rs") && !path.starts_with(STANDALONE))
        .map(|(path, text)| Source::new(path, text, reached.get(path) == Some(&modules::Reached::InTests)))
        .collect();
    for source in &sources {
        rules::check_rust(source, &mut complaints);
    }
    for (path, text) in tree {
        rules::check_text(path, text, &mut complaints);
    }
    expose::check(tree, &sources, &mut complaints);
    manifests::check(tree, &mut complaints);
    complaints.sort();
    complaints.dedup();
    complaints
}

/// Reads every text file below `root` that is ours. Links are not followed.
fn read(root: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_file() && entry.metadata()?.len() <= TEXT_MAX {
                // What is not UTF-8 is data, and no rule is about data.
                let Ok(text) = String::from_utf8(std::fs::read(&path)?) else { continue };
                let parts = path.strip_prefix(root).unwrap_or(&path).components();
                let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
                tree.insert(parts.join("/"), text);
            }
        }
    }
    Ok(tree)
}

/// A workspace of its own: benchmark programs that must not change the product's dependencies. Only the rules for every
/// text hold there.
const STANDALONE: &str = "benches/load/";
/// What holds no source of ours. In a linked worktree `.git` is a file.
const SKIPPED: &[&str] = &["target", ".git", ".venv", "node_modules", "__pycache__"];
/// Larger files are data.
const TEXT_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole check on a small tree of files, as lines.
    fn complaints(files: &[(&str, &str)]) -> Vec<String> {
        let tree = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        check(&tree).iter().map(Complaint::to_string).collect()
    }

    #[test]
    fn a_tree_in_order_has_no_complaints() {
        let files = [
            ("crates/writ-core/Cargo.toml", "[package]\nname = \"writ-core\"\n[lints]\nworkspace = true\n"),
            ("crates/writ-core/src/lib.rs", "//! Doc.\n\nmod a;\n#[cfg(test)]\nmod testing;\n"),
            ("crates/writ-core/src/a.rs", "//! Doc.\nfn f() {}\n"),
            ("crates/writ-core/src/testing.rs", "//! Doc.\nfn f() { println!() }\n"),
            ("benches/load/src/lib.rs", "fn f() { unsafe { println!() } }\n"),
        ];
        assert_eq!(complaints(&files), [""; 0]);
    }

    #[test]
    fn complaints_of_all_kinds_come_in_order() {
        let files = [
            ("README.md", "text \n"),
            (
                "crates/writ-core/Cargo.toml",
                "[package]\nname = \"writ-core\"\n[dependencies]\nwrit-api = {}\n",
            ),
            ("crates/writ-core/src/lib.rs", "mod a;\n"),
            ("crates/writ-core/src/a.rs", "//! Doc.\nfn f() { s.expose(|b| b) }\n"),
            ("crates/writ-core/src/b.rs", "//! Doc.\n"),
        ];
        let expected = [
            "README.md:1: trailing whitespace",
            "crates/writ-core/Cargo.toml: needs `[lints]` with `workspace = true`",
            "crates/writ-core/Cargo.toml:4: writ-core may not depend on writ-api (architecture §2)",
            "crates/writ-core/src/a.rs:2: `.expose(` in a file that xtask/expose.list does not name",
            "crates/writ-core/src/b.rs: no `mod b;` leads here from lib.rs or main.rs",
            "crates/writ-core/src/lib.rs:1: must start with `//!`: why this module exists and what is absent",
        ];
        assert_eq!(complaints(&files), expected);
    }
}
