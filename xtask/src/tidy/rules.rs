//! The rules that look at one file alone.

use super::Complaint;
use super::source::{Source, find_words, is_test_path, line_of};

/// The most lines of a file, its tests not counted.
const LINES_MAX: usize = 500;

/// Checks one Rust file.
pub(super) fn check_rust(source: &Source, complaints: &mut Vec<Complaint>) {
    for rule in [
        length,
        module_doc,
        policies,
        permits,
        printing,
        sleeping,
        unfinished,
        ignored,
        unsafe_code,
        exceptions,
    ] {
        rule(source, complaints);
    }
}

/// Checks what holds for every text file, whatever it is written in.
pub(super) fn check_text(path: &str, text: &str, complaints: &mut Vec<Complaint>) {
    for (line, content) in text.lines().enumerate() {
        if is_written_by_us(path) && content.ends_with([' ', '\t']) {
            complaints.push(Complaint::new(path, line + 1, "trailing whitespace"));
        }
        for place in WORKPLACES {
            let ours = content.match_indices(place).any(|(offset, _)| {
                let before = content.get(..offset).unwrap_or_default().chars().next_back();
                !before.is_some_and(|before| before.is_alphanumeric() || "._-}$".contains(before))
            });
            if ours {
                let message = format!("`{place}` is a place on one machine");
                complaints.push(Complaint::new(path, line + 1, message));
            }
        }
    }
}

/// Directories of the machine this was written on. They must not be in the source, this one included.
const WORKPLACES: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp/", "wt/")];

fn is_written_by_us(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    let known = ["rs", "md", "toml", "sh", "py", "yml", "cedar", "cedarschema", "sql", "list"];
    extension.is_some_and(|extension| known.contains(&extension))
        || name == "justfile"
        || path.starts_with(".ci/")
}

fn is_package_source(path: &str) -> bool {
    let mut parts = path.split('/');
    let first = parts.next();
    (first == Some("crates") && parts.nth(1) == Some("src"))
        || (first == Some("xtask") && parts.next() == Some("src"))
}

fn length(source: &Source, complaints: &mut Vec<Complaint>) {
    if source.lines_before_tests > LINES_MAX {
        let lines = source.lines_before_tests;
        let message = format!("{lines} lines before the tests, {LINES_MAX} are allowed: split the file");
        complaints.push(Complaint::new(&source.path, 0, message));
    }
}

fn module_doc(source: &Source, complaints: &mut Vec<Complaint>) {
    if is_package_source(&source.path) && !source.text.starts_with("//!") {
        let message = "must start with `//!`: why this module exists and what is absent";
        complaints.push(Complaint::new(&source.path, 1, message));
    }
}

/// A second policy would be a second way to say yes. Tests have their own, and so may the testkit, which is linked into
/// tests only.
fn policies(source: &Source, complaints: &mut Vec<Complaint>) {
    let homes = ["crates/writ-broker/src/policy", "crates/writ-testkit/"];
    if homes.iter().any(|home| source.path.starts_with(home)) {
        return;
    }
    for line in source.lines_with("Policy for").into_iter().filter(|line| !source.is_test_line(*line)) {
        let message = "`impl Policy for` belongs to crates/writ-broker/src/policy";
        complaints.push(Complaint::new(&source.path, line, message));
    }
}

/// Rule 1 of the architecture: only `authorize` makes a permit. The fields are private to its module; this finds
/// the constructor that somebody might add beside it, and holds for tests too.
fn permits(source: &Source, complaints: &mut Vec<Complaint>) {
    let at_home = ["crates/writ-core/src/authorize.rs", "crates/writ-core/src/authorize/"];
    if at_home.iter().any(|home| source.path.starts_with(home)) {
        return;
    }
    for offset in find_words(&source.code, "Permit") {
        let after = source.code.get(offset + "Permit".len()..).unwrap_or_default().trim_start();
        let before = source.code.get(..offset).unwrap_or_default();
        // What stands since the last statement or block tells a literal from a type.
        let since = before.rsplit([';', '{', '}']).next().unwrap_or_default();
        let is_type = since.contains("->")
            || ["struct", "impl", "trait", "enum", "use"]
                .iter()
                .any(|word| !find_words(since, word).is_empty());
        if after.starts_with("::") || (after.starts_with('{') && !is_type) {
            let line = line_of(&source.code, offset);
            let message = "a `Permit` is made in crates/writ-core/src/authorize alone (rule 1)";
            complaints.push(Complaint::new(&source.path, line, message));
        }
    }
}

fn printing(source: &Source, complaints: &mut Vec<Complaint>) {
    if source.path.starts_with("crates/writ-cli/src/output") {
        return;
    }
    for name in ["print!", "println!", "eprint!", "eprintln!"] {
        for line in source.lines_with(name).into_iter().filter(|line| !source.is_test_line(*line)) {
            let message = format!("`{name}` belongs to crates/writ-cli/src/output");
            complaints.push(Complaint::new(&source.path, line, message));
        }
    }
}

/// A test that sleeps is slow when it passes and wrong when the machine is busy. Benchmarks may.
fn sleeping(source: &Source, complaints: &mut Vec<Complaint>) {
    if source.path.split('/').any(|part| part == "benches") {
        return;
    }
    for line in source.lines_with("sleep(").into_iter().filter(|line| source.is_test_line(*line)) {
        complaints.push(Complaint::new(&source.path, line, "a test may not sleep: wait for what happens"));
    }
}

fn unfinished(source: &Source, complaints: &mut Vec<Complaint>) {
    for name in ["todo!", "unimplemented!"] {
        for line in source.lines_with(name) {
            complaints.push(Complaint::new(&source.path, line, format!("`{name}` is not finished")));
        }
    }
    for name in ["FIXME", "XXX", "TODO"] {
        for offset in find_words(&source.comments, name) {
            let line = line_of(&source.comments, offset);
            complaints.push(Complaint::new(&source.path, line, format!("`{name}` is not finished")));
        }
    }
}

fn ignored(source: &Source, complaints: &mut Vec<Complaint>) {
    for line in source.lines_with("#[ignore") {
        let message = "a test is run or removed, never ignored";
        complaints.push(Complaint::new(&source.path, line, message));
    }
}

fn unsafe_code(source: &Source, complaints: &mut Vec<Complaint>) {
    if source.path.starts_with("crates/writ-sys/") {
        return;
    }
    for line in source.lines_with("unsafe") {
        complaints.push(Complaint::new(&source.path, line, "`unsafe` belongs to crates/writ-sys alone"));
    }
}

/// An exception to a lint says why, and ends when the lint no longer strikes: `expect` does both, `allow` neither.
fn exceptions(source: &Source, complaints: &mut Vec<Complaint>) {
    if is_test_path(&source.path) {
        return;
    }
    for line in [source.lines_with("#[allow("), source.lines_with("#![allow(")].concat() {
        complaints.push(Complaint::new(&source.path, line, "use `#[expect(…, reason = …)]`, not `allow`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "crates/writ-proxy/src/a.rs";

    /// The lines of a snippet with complaints from one rule.
    fn lines(rule: fn(&Source, &mut Vec<Complaint>), path: &str, text: &str) -> Vec<usize> {
        let mut complaints = Vec::new();
        rule(&Source::new(path, text, false), &mut complaints);
        complaints.iter().map(|complaint| complaint.line).collect()
    }

    const NONE: [usize; 0] = [];

    #[test]
    fn files_are_short_but_for_their_tests() {
        let code = "a();\n".repeat(LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(lines(length, PROXY, &code), NONE);
        assert_eq!(lines(length, PROXY, &format!("{code}{tests}")), NONE);
        assert_eq!(lines(length, PROXY, &format!("{code}a();\n{tests}")), [0]);
        assert_eq!(lines(length, PROXY, &format!("#[cfg(test)]\nmod testing;\n{code}")), [0]);
        assert_eq!(lines(length, "crates/writ-proxy/tests/a.rs", &code.repeat(2)), NONE);
        assert_eq!(lines(length, "crates/writ-proxy/benches/a.rs", &code.repeat(2)), NONE);
    }

    #[test]
    fn modules_start_with_their_doc() {
        assert_eq!(lines(module_doc, PROXY, "//! Doc.\n"), NONE);
        assert_eq!(lines(module_doc, PROXY, "use a;\n//! Doc.\n"), [1]);
        assert_eq!(lines(module_doc, "xtask/src/main.rs", "fn main() {}\n"), [1]);
        assert_eq!(lines(module_doc, "crates/writ-proxy/tests/a.rs", "use a;\n"), NONE);
    }

    #[test]
    fn policies_have_one_home() {
        for text in ["impl Policy for A {}\n", "impl<T: B> core::Policy for A<T> {}\n"] {
            assert_eq!(lines(policies, PROXY, text), [1], "{text}");
            assert_eq!(lines(policies, "crates/writ-broker/src/policy.rs", text), NONE);
            assert_eq!(lines(policies, "crates/writ-broker/src/policy/cedar.rs", text), NONE);
            assert_eq!(lines(policies, "crates/writ-broker/src/broker.rs", text), [1]);
        }
        assert_eq!(lines(policies, PROXY, "// impl Policy for A\nimpl RetryPolicy for A {}\n"), NONE);
        let fake = "#[cfg(test)]\nmod tests {\n    impl Policy for A {}\n}\n";
        assert_eq!(lines(policies, PROXY, fake), NONE);
    }

    #[test]
    fn permits_are_made_in_one_place() {
        let made = [
            "let p = Permit { scope };\n",
            "f(Permit::new());\n",
            "Ok(writ_core::Permit {\n})\n",
            "fn f() -> Permit { Permit { scope } }\n",
            "x => Permit{},\n",
            "#[cfg(test)]\nmod tests { fn f() { Permit { a } } }\n",
        ];
        for text in made {
            assert_eq!(lines(permits, PROXY, text).len(), 1, "{text}");
            assert_eq!(lines(permits, "crates/writ-core/src/authorize.rs", text), NONE, "{text}");
        }
        let not_made = [
            "fn f(permit: &Permit) {}\n",
            "fn f(a: A) -> Permit {\n}\n",
            "fn f(a: A) -> &'a Permit {\n}\n",
            "impl Deref for Permit {\n}\n",
            "pub struct Permit {\n}\n",
            "use writ_core::{Permit, Lease};\n",
            "fn f(p: OwnedSemaphorePermit) { g::<Permit>() }\n",
            "// Permit { }\n",
        ];
        for text in not_made {
            assert_eq!(lines(permits, PROXY, text), NONE, "{text}");
        }
    }

    #[test]
    fn printing_has_one_home() {
        let text = "fn f() {\n    println!(\"a\");\n    eprint!();\n}\n";
        assert_eq!(lines(printing, PROXY, text), [2, 3]);
        assert_eq!(lines(printing, "crates/writ-cli/src/output.rs", text), NONE);
        assert_eq!(lines(printing, "crates/writ-cli/src/output/table.rs", text), NONE);
        assert_eq!(lines(printing, PROXY, "// println!\nmy_println!();\nlet s = \"print!\";\n"), NONE);
        assert_eq!(lines(printing, PROXY, "#[cfg(test)]\nmod tests {\n    fn f() { println!() }\n}\n"), NONE);
    }

    #[test]
    fn tests_do_not_sleep() {
        let text = "async fn f() { tokio::time::sleep(ms).await }\n";
        let tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(lines(sleeping, PROXY, text), NONE);
        assert_eq!(lines(sleeping, PROXY, &tests), [3]);
        assert_eq!(lines(sleeping, "crates/writ-cli/tests/a.rs", text), [1]);
        assert_eq!(lines(sleeping, "tests/suites/a.rs", text), [1]);
        assert_eq!(lines(sleeping, "crates/writ-cli/benches/a.rs", text), NONE);
    }

    #[test]
    fn everything_is_finished() {
        let text = "//! Doc.\ntodo!();\n// FIXME: a\nlet x = \"XXX FIXME todo!\"; // XXX\nunimplemented!()\n";
        let mut found = lines(unfinished, PROXY, text);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4, 5]);
        assert_eq!(lines(unfinished, PROXY, "// the FIXMES and XXXXXX of others\n"), NONE);
    }

    #[test]
    fn no_test_is_ignored() {
        for text in ["#[ignore]\n", "#[ignore = \"slow\"]\n", "    #[ignore]\n"] {
            assert_eq!(lines(ignored, PROXY, text), [1]);
        }
    }

    #[test]
    fn unsafe_code_has_one_home() {
        let text = "unsafe { f() }\n";
        assert_eq!(lines(unsafe_code, PROXY, text), [1]);
        assert_eq!(lines(unsafe_code, "crates/writ-proxy/tests/a.rs", text), [1]);
        assert_eq!(lines(unsafe_code, "crates/writ-sys/src/peer.rs", text), NONE);
        assert_eq!(lines(unsafe_code, PROXY, "#![forbid(unsafe_code)] // unsafe\n"), NONE);
    }

    #[test]
    fn exceptions_to_lints_expire() {
        assert_eq!(
            lines(exceptions, PROXY, "#[allow(dead_code)]\n#![allow(a)]\n#[expect(b, reason = \"\")]\n"),
            [1, 2]
        );
    }

    #[test]
    fn whitespace_and_workplaces_are_found_in_every_text() {
        let found = |path: &str, text: &str| {
            let mut complaints = Vec::new();
            check_text(path, text, &mut complaints);
            complaints.iter().map(|complaint| complaint.line).collect::<Vec<_>>()
        };
        assert_eq!(found("docs/a.md", "a\nb \nc\t\nd\n"), [2, 3]);
        assert_eq!(found("tests/cli/a.stdout", "a \n"), NONE);
        let place = WORKPLACES[0];
        for text in [format!("cd {place}main\n"), format!("`{place}x`\n"), format!("{place}x\n")] {
            assert_eq!(found("docs/a.md", &text), [1], "{text}");
            assert_eq!(found("tests/a.json", &text), [1], "{text}");
        }
        assert_eq!(found("docs/a.md", "https://example.com/work/a ../work/b net/work/c\n"), NONE);
    }
}
