//! Where secrets are read: the files with `.expose(` are listed, each with its reason.
//!
//! The list may only shrink by itself: an entry that is no longer needed is an error, and a new one is a line in the
//! review. Tests read secrets freely.

use super::source::Source;
use super::{Complaint, Tree};

/// One path on a line, then `#` and the reason.
const LIST: &str = "xtask/expose.list";

pub(super) fn check(tree: &Tree, sources: &[Source], complaints: &mut Vec<Complaint>) {
    let mut listed = Vec::new();
    for (index, line) in tree.get(LIST).map_or("", String::as_str).lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (path, reason) = line.split_once('#').unwrap_or((line, ""));
        if reason.trim().is_empty() {
            complaints.push(Complaint::new(LIST, index + 1, "an entry needs `# reason`"));
        }
        listed.push((index + 1, path.trim()));
    }
    let mut exposing = Vec::new();
    for source in sources {
        let mut lines = source.lines_with(".expose(");
        lines.retain(|line| !source.is_test_line(*line));
        let Some(first) = lines.first() else { continue };
        exposing.push(source.path.as_str());
        if !listed.iter().any(|(_, path)| *path == source.path) {
            let message = format!("`.expose(` in a file that {LIST} does not name");
            complaints.push(Complaint::new(&source.path, *first, message));
        }
    }
    for (line, path) in listed {
        if !exposing.contains(&path) {
            let message = format!("{path} exposes nothing: remove it, the list may only shrink");
            complaints.push(Complaint::new(LIST, line, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(list: &str, files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::from([(LIST.to_owned(), list.to_owned())]);
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text, false)).collect();
        let mut found = Vec::new();
        check(&tree, &sources, &mut found);
        found.iter().map(Complaint::to_string).collect()
    }

    const EXPOSES: &str = "fn f() {\n    secret.expose(|bytes| bytes.len())\n}\n";

    #[test]
    fn a_listed_file_may_expose() {
        assert_eq!(complaints("# why\na.rs  # seals\n", &[("a.rs", EXPOSES)]), [""; 0]);
    }

    #[test]
    fn others_may_not() {
        let expected = ["b.rs:2: `.expose(` in a file that xtask/expose.list does not name"];
        assert_eq!(complaints("a.rs # seals\n", &[("a.rs", EXPOSES), ("b.rs", EXPOSES)]), expected);
        let split = "fn f() {\n    secret\n        .expose(g)\n}\n";
        assert_eq!(complaints("", &[("b.rs", split)]).len(), 1);
    }

    #[test]
    fn an_entry_that_is_not_needed_is_an_error() {
        let expected = ["xtask/expose.list:1: a.rs exposes nothing: remove it, the list may only shrink"];
        assert_eq!(complaints("a.rs # seals\n", &[]), expected);
        assert_eq!(complaints("a.rs # seals\n", &[("a.rs", "// secret.expose(f)\n")]), expected);
        let in_tests = "#[cfg(test)]\nmod tests {\n    fn f() { s.expose(g) }\n}\n";
        assert_eq!(complaints("a.rs # seals\n", &[("a.rs", in_tests)]), expected);
    }

    #[test]
    fn an_entry_has_a_reason() {
        let expected = ["xtask/expose.list:1: an entry needs `# reason`"];
        assert_eq!(complaints("a.rs\n", &[("a.rs", EXPOSES)]), expected);
        assert_eq!(complaints("a.rs # \n", &[("a.rs", EXPOSES)]), expected);
    }

    #[test]
    fn tests_expose_freely() {
        let in_tests = "#[cfg(test)]\nmod tests {\n    fn f() { s.expose(g) }\n}\n";
        assert_eq!(complaints("", &[("a.rs", in_tests), ("crates/a/tests/b.rs", EXPOSES)]), [""; 0]);
    }
}
