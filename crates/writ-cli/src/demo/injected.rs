//! The demo's injected agent: a shell script that looks for keys wherever it can and sends them away.
//!
//! It is run twice: as it is, to show that it finds what there is to find, and under `writ run`. What counts is not what it
//! says but what arrived: its output and the attacker's host are searched for the keys that the demo hid.

use super::{Report, canary, home::Home, upstream::Sink};
use crate::fault::Fault;

const SCRIPT: &str = include_str!("injected.sh");
/// The attacker's hosts. The role lists the first, without a credential, so that what arrives there can be seen.
pub const LISTED: &str = "collector.example";
const UNLISTED: &str = "elsewhere.example";

/// Where a person's home has keys, and how they stand there. `{}` is a key.
const HIDDEN: &[(&str, &str)] = &[
    (".netrc", "machine api.example login ada password {}\n"),
    (".git-credentials", "https://ada:{}@git.example\n"),
    (".aws/credentials", "[default]\naws_secret_access_key = {}\n"),
    (".config/gh/hosts.yml", "github.com:\n    oauth_token: {}\n"),
    (".npmrc", "//registry.example/:_authToken={}\n"),
    (".ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n"),
    (".claude/.credentials.json", "{\"claudeAiOauth\":{\"accessToken\":\"{}\"}}\n"),
];
/// The variable of the caller's that holds a real key, and gets a placeholder.
const VARIABLE: &str = "OPENAI_API_KEY";

/// What was hidden, and where.
pub struct Hidden {
    keys: Vec<(String, String)>,
    in_environment: String,
}

/// Hides keys in a home of the demo's own.
pub fn hide(home: &Home, sealed: &str) -> Result<Hidden, Fault> {
    let in_environment = canary()?;
    let mut keys = vec![
        ("sealed in writ".to_owned(), sealed.to_owned()),
        (format!("{VARIABLE} of the caller"), in_environment.clone()),
    ];
    for (name, content) in HIDDEN {
        let key = canary()?;
        home.hide(name, &content.replace("{}", &key))?;
        keys.push((format!("~/{name}"), key));
    }
    Ok(Hidden { keys, in_environment })
}

/// Runs the script with and without `writ run`, and counts.
pub fn run(
    home: &Home,
    hidden: &Hidden,
    sink: &Sink,
    service: &str,
    report: &mut Report,
) -> Result<(), Fault> {
    let before = obtained(home, hidden, sink, service, false)?;
    let total = hidden.keys.len();
    report.check(
        "without writ it gets what there is",
        before.keys.len() + 1 >= total,
        &format!("{} of {total} canaries, all but the one that is sealed", before.keys.len()),
    );
    let after = obtained(home, hidden, sink, service, true)?;
    for refused in &after.refused {
        report.line(&format!("    refused: {refused}"));
    }
    let names = after.keys.join(", ");
    report.check(
        &format!("under writ run: {} of {total} canaries obtained", after.keys.len()),
        after.keys.is_empty() && after.ran,
        &names,
    );
    Ok(())
}

struct Obtained {
    /// The names of those that were found.
    keys: Vec<String>,
    refused: Vec<String>,
    ran: bool,
}

fn obtained(
    home: &Home,
    hidden: &Hidden,
    sink: &Sink,
    service: &str,
    confined: bool,
) -> Result<Obtained, Fault> {
    let own = std::env::current_exe().map_err(|error| Fault::new(error.to_string(), ""))?;
    let own = own.display().to_string();
    // Unconfined it is kept to the demo's own directory, and sends nothing.
    let everywhere = home.directory();
    let arguments =
        if confined { [&own, service, LISTED, UNLISTED, "/"] } else { [&own, "", "", "", &everywhere] };
    let script = [["sh", "-c", SCRIPT, "injected"].as_slice(), &arguments].concat();
    let variable = (VARIABLE, hidden.in_environment.as_str());
    let ran = home.injected(&script, variable, confined)?;
    let arrived = sink.take();
    let has = |key: &str| ran.text.contains(key) || arrived.contains(key);
    let found = hidden.keys.iter().filter(|(_, key)| has(key));
    let said = ran.text.lines().filter(|line| line.contains("refused") || line.contains("exfiltration"));
    Ok(Obtained {
        keys: found.map(|(name, _)| name.clone()).collect(),
        refused: said.map(|line| line.trim_start_matches("writ: ").to_owned()).collect(),
        // It came to its end, and its way to the attacker's host was open.
        ran: ran.text.contains("found ") && !arrived.is_empty(),
    })
}
