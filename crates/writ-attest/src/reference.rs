//! The reference page of the attestors, made from the registry so that it cannot be behind.

use std::fmt::Write as _;

use crate::attestors;

/// `docs/reference/attestors.md`
pub fn page() -> String {
    let mut page = String::from(
        "# Attestors\n\n<!-- Generated from the registry; the test of writ-attest keeps it true. -->\n\n\
         An attestor proves what a workload is. What it proves stands in `selectors` of a `[[workload]]` entry.\n",
    );
    for attestor in attestors() {
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## `{}`\n\n| selector | proves |\n|---|---|\n", attestor.kind());
        for (example, meaning) in attestor.examples() {
            let _ = writeln!(page, "| `{example}` | {meaning} |");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        expect_test::expect_file!["../../../docs/reference/attestors.md"].assert_eq(&super::page());
    }
}
