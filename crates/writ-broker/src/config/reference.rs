//! The reference pages of the presets and of the agents, made from their tables so that they cannot be behind.

use std::fmt::Write as _;

use writ_core::{PRESETS, PROFILES, Place};

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

/// `docs/reference/agents.md`
pub fn agents_page() -> String {
    let mut page = String::from(
        "# Coding agents\n\n<!-- Generated from the table of profiles; a test of writ-broker keeps it true. -->\n\n\
         Every confined run finds these, whatever program it starts: an agent may be started from a shell. Variables that the\n\
         person has set stay as they are. Managed settings repeat what the session decided, so that a repository's own settings\n\
         cannot lead an agent to another host, name a proxy for it, or make it run helpers, hooks or servers. The person's own\n\
         hooks and servers are refused there too.\n\n\
         | agent | services | variables | managed settings | login, never in the view but with placeholders |\n|---|---|---|---|---|\n",
    );
    for profile in PROFILES {
        let same = profile.same.iter().map(|(name, other)| format!("`{name}` as `{other}`"));
        let fixed = profile.variables.iter().map(|(name, value)| format!("`{name}={value}`"));
        let variables: Vec<String> = fixed.chain(same).collect();
        let managed: Vec<String> = profile.managed.iter().map(|path| format!("`/etc/{path}`")).collect();
        let logins: Vec<String> = profile.login_files.iter().map(|path| format!("`~/{path}`")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} |",
            profile.title,
            code(profile.presets),
            variables.join(", "),
            managed.join(", "),
            logins.join(", "),
        );
    }
    page.push_str("\nWhat they send to their makers besides the calls can be switched off by setting:\n\n");
    for profile in PROFILES.iter().filter(|profile| !profile.quiet_variables.is_empty()) {
        let quiet: Vec<String> =
            profile.quiet_variables.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
        let _ = writeln!(page, "* {}: {}", profile.title, quiet.join(", "));
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
    fn the_pages_are_current() {
        expect_test::expect_file!["../../../../docs/reference/presets.md"].assert_eq(&super::presets_page());
        expect_test::expect_file!["../../../../docs/reference/agents.md"].assert_eq(&super::agents_page());
    }
}
