//! The reference page of the secrets engines and sources, made from the registries so that it cannot be behind.

use std::fmt::Write as _;

use crate::{engines, sources};

/// `docs/reference/engines.md`
pub fn page() -> String {
    let mut page = String::from(
        "# Secrets engines and sources\n\n<!-- Generated from the registries; the test of writ-engine keeps it true. -->\n\n\
         A credential's `engine` says how it comes to be; left out, it is `static`.\n\n| engine | example of what it is told |\n|---|---|\n",
    );
    for engine in engines() {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{}` | `{}` |", engine.name(), engine.example());
    }
    page.push_str("\nA `source` reads a value from where it is kept already, at each acquisition.\n\n| scheme | example |\n|---|---|\n");
    for source in sources() {
        let _ = writeln!(page, "| `{}://` | `{}` |", source.scheme(), source.example());
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        expect_test::expect_file!["../../../docs/reference/engines.md"].assert_eq(&super::page());
    }
}
