//! `writ seen`: the hosts that programs tried, and the lines of `writ.toml` that would allow what was refused.

use writ_api::control::{Answer, Ask, SeenRow};
use writ_core::Timestamp;

use super::{audit, when};
use crate::{
    args,
    client::Control,
    fault::Fault,
    output::{self, Output},
    paths::Paths,
};

pub fn run(paths: &Paths, output: Output, typed: &args::Seen) -> Result<(), Fault> {
    let since = typed.since.as_deref().map(audit::instant).transpose()?;
    let since = since.map(|since| Timestamp::from_millis(since.as_millisecond()));
    let Answer::Seen { hosts, more } = Control::connect(paths)?.ask(&Ask::Seen { since })? else {
        return Err(Fault::new("the daemon answered another question", "writ stop"));
    };
    let shown: Vec<&SeenRow> = hosts.iter().filter(|row| !typed.refused || row.refused > 0).collect();
    if output.json || !shown.is_empty() {
        output.result(&shown, || text(&shown));
    } else {
        output.say(if typed.refused { "nothing was refused" } else { "no program tried a host yet" });
    }
    if more > 0 {
        output.say(&format!("{more} more hosts are not shown; --since narrows it"));
    }
    Ok(())
}

/// A table, and below it the lines for what was refused.
fn text(rows: &[&SeenRow]) -> String {
    let cells = |row: &&SeenRow| {
        [
            name(row),
            count(row.used),
            count(row.tunnelled),
            count(row.refused),
            when(row.last),
            row.roles.join(" "),
            row.reason.clone().filter(|_| row.refused > 0).unwrap_or_default(),
        ]
    };
    let header = ["HOST", "USED", "TUNNELLED", "REFUSED", "LAST", "ROLES", "WHY"];
    let mut text = output::table(header, rows.iter().map(cells));
    for row in rows.iter().filter(|row| !row.lines.is_empty()) {
        text.push_str(&format!("\n\n# writ.toml, for {}\n{}", name(row), row.lines.join("\n")));
    }
    text
}

fn name(row: &SeenRow) -> String {
    match row.port {
        Some(port) if port != HTTPS => format!("{}:{port}", row.host),
        _ => row.host.clone(),
    }
}

/// The port that goes without saying.
const HTTPS: u16 = 443;

fn count(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn row(host: &str, port: Option<u16>, [used, tunnelled, refused]: [u64; 3], lines: &[&str]) -> SeenRow {
        SeenRow {
            host: host.to_owned(),
            port,
            refused,
            tunnelled,
            used,
            first: Timestamp::from_millis(1_800_000_000_000),
            last: Timestamp::from_millis(1_800_000_060_000),
            roles: vec!["dev".to_owned()],
            reason: Some("unlisted-host".to_owned()),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn hosts_and_the_lines_that_would_allow_them() {
        let rows = [
            row("api.openai.com", Some(443), [12, 0, 0], &[]),
            row("db.example", Some(5432), [0, 0, 3], &["[[target]]", "name = \"db-example\""]),
            row("crates.io", None, [0, 7, 0], &[]),
        ];
        let text = text(&rows.iter().collect::<Vec<_>>());
        let trimmed: Vec<_> = text.lines().map(str::trim_end).collect();
        expect![[r#"
             HOST             USED  TUNNELLED  REFUSED  LAST                  ROLES  WHY
             api.openai.com   12                        2027-01-15 08:01:00Z  dev
             db.example:5432                   3        2027-01-15 08:01:00Z  dev    unlisted-host
             crates.io              7                   2027-01-15 08:01:00Z  dev

            # writ.toml, for db.example:5432
            [[target]]
            name = "db-example""#]]
        .assert_eq(&trimmed.join("\n"));
    }
}
