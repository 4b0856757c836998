//! The reference page of the presets, made from their table so that it cannot be behind.

use std::fmt::Write as _;

use writ_core::{PRESETS, Place};

/// `docs/reference/presets.md`
pub fn presets_page() -> String {
    let mut page = String::from(
        "# Presets\n\n<!-- Generated from the table of presets; a test of writ-broker keeps it true. -->\n\n\
         `preset` of a `[[target]]` says where a service is and how it takes its key. With `host` beside it, the same kind of\n\
         service is meant on a host of one's own.\n\n\
         | preset | is | host | takes the key as | variables | paths that `writ init` grants |\n|---|---|---|---|---|---|\n",
    );
    for preset in PRESETS {
        let places: Vec<String> = preset
            .injections()
            .iter()
            .map(|injection| {
                let paths: Vec<String> =
                    injection.paths.iter().map(|path| format!("`{}`", path.as_str())).collect();
                let at = if paths.is_empty() { String::new() } else { format!(" at {}", paths.join(", ")) };
                format!("{}{at}", place(&injection.place))
            })
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | `{}` | {} | {} | {} |",
            preset.name,
            preset.title,
            preset.authority,
            places.join(", else "),
            code(preset.env),
            code(preset.paths),
        );
    }
    page.push_str(
        "\nPrograms of some vendors also ask other hosts of theirs. Those are refused like any host that is not listed, but\n\
         without an alarm:\n\n",
    );
    for preset in PRESETS.iter().filter(|preset| !preset.quiet_hosts.is_empty()) {
        let _ = writeln!(page, "* `{}`: {}", preset.name, code(preset.quiet_hosts));
    }
    page
}

fn place(place: &Place) -> String {
    match place {
        Place::Bearer => "`Authorization: Bearer`".to_owned(),
        Place::Header { name } => format!("`{name}`"),
        Place::Basic { user } => format!("Basic with the user `{user}`"),
        Place::Placeholder => "wherever the placeholder stands".to_owned(),
    }
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        expect_test::expect_file!["../../../../docs/reference/presets.md"].assert_eq(&super::presets_page());
    }
}
