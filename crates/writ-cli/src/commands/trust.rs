//! `writ trust`: what a repository's `writ.toml` asks for, and a person's yes to exactly that file.
//!
//! The repository is an agent's to write, so its file has no effect until then, and a changed one has none again. The hash that
//! was shown goes back with the yes: a file that changes under the question is refused.

use writ_api::control::{Answer, Ask, TrustState, TrustView};

use super::{ask::Questions, proof};
use crate::{args, client::Control, fault::Fault, output::Output, paths::Paths};

pub fn run(paths: &Paths, output: Output, typed: &args::Trust) -> Result<(), Fault> {
    let directory = match &typed.directory {
        Some(directory) => std::path::absolute(directory),
        None => std::env::current_dir(),
    };
    let directory =
        directory.map_err(|error| Fault::new(format!("the directory: {error}"), "name another one"))?;
    let mut control = Control::connect(paths)?;
    let Answer::Trust(view) = control.ask(&Ask::TrustShow { directory })? else {
        return Err(Fault::new("the daemon answered another question", "writ stop"));
    };
    output.result(&view, || text(&view));
    if typed.show || view.state == TrustState::Trusted {
        return Ok(());
    }
    let questions = Questions::new(output, typed.yes, "read what it asks for, then: writ trust --yes")?;
    if !questions.question("Trust this file as it is now?")? {
        output.say("it has no effect");
        return Ok(());
    }
    proof::give(&mut control)?;
    control.ask(&Ask::TrustGrant { path: view.path, sha256: view.sha256 })?;
    output.say("trusted; a changed file has no effect until you trust it again");
    Ok(())
}

fn text(view: &TrustView) -> String {
    let state = match view.state {
        TrustState::Trusted => "is trusted as it is",
        TrustState::Changed => "was trusted, and has changed: it has no effect",
        TrustState::Untrusted => "is not trusted: it has no effect",
    };
    let mut text = format!("{} {state}\n", view.path.display());
    let mut part = |heading: &str, lines: &[String]| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{heading}\n  {}\n", lines.join("\n  ")));
        }
    };
    part("It asks for:", &view.asks);
    if view.state == TrustState::Changed {
        part("Compared with what you trusted:", &view.differences);
    }
    part("In vain, since your own configuration does not have it:", &view.missing);
    if view.asks.is_empty() {
        text.push_str("\nIt asks for nothing.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_asked_and_what_changed() {
        let view = TrustView {
            path: "/home/ada/app/writ.toml".into(),
            sha256: "ab".repeat(32),
            state: TrustState::Changed,
            asks: vec!["role ops".to_owned(), "target wiki".to_owned()],
            differences: vec!["- role dev".to_owned(), "+ role ops".to_owned()],
            missing: vec!["target wiki: add a [[target]]".to_owned()],
        };
        expect![[r#"
            /home/ada/app/writ.toml was trusted, and has changed: it has no effect

            It asks for:
              role ops
              target wiki

            Compared with what you trusted:
              - role dev
              + role ops

            In vain, since your own configuration does not have it:
              target wiki: add a [[target]]
        "#]]
        .assert_eq(&text(&view));
        let nothing = TrustView { state: TrustState::Untrusted, asks: vec![], missing: vec![], ..view };
        expect![[r#"
            /home/ada/app/writ.toml is not trusted: it has no effect

            It asks for nothing.
        "#]]
        .assert_eq(&text(&nothing));
    }
}
