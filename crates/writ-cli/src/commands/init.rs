//! `writ init`: from keys in the environment to sealed credentials, after asking.
//!
//! It writes roles, targets and registration entries as well, since a credential alone grants nothing. An existing
//! configuration is never touched.

mod text;

use std::{
    env, fs,
    io::{self, BufRead, IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use writ_api::control::Ask;
use writ_core::{PRESETS, Placeholder, Preset, Secret};

use super::credential;
use crate::{client::Control, fault::Fault, output::Output, paths::Paths};

/// A key that was found, and the services that take it.
struct Found {
    /// The credential's name.
    name: &'static str,
    variable: &'static str,
    value: Secret,
    presets: Vec<&'static Preset>,
}

pub fn run(paths: &Paths, output: Output, yes: bool) -> Result<(), Fault> {
    if paths.config.exists() {
        let what = format!("{} exists already", paths.config.display());
        return Err(Fault::new(what, "edit it, and store keys with: writ credential set NAME"));
    }
    let ask = Questions { output, yes, terminal: io::stdin().is_terminal() };
    if !yes && !ask.terminal {
        return Err(Fault::new("there is no terminal to ask on", "writ init --yes takes every key over"));
    }
    let taken = choose(output, &ask)?;
    output
        .say("this release runs programs at the level advisory: they run as you and could read a key file.");
    let accept = ask.question("Accept that for sessions on this machine (accept_below_confined)?")?;
    write_new(&paths.config, &text::configuration(&taken, accept))?;
    output.say(&format!("wrote {}", paths.config.display()));
    store(paths, output, taken)?;
    output.say(
        "next: remove the keys from your shell's start-up files, open a new shell, and: writ run -- CMD",
    );
    Ok(())
}

/// Every variable of a known service that holds a key, and that the person wants to be taken over.
fn choose(output: Output, ask: &Questions) -> Result<Vec<Found>, Fault> {
    let mut taken: Vec<Found> = Vec::new();
    for preset in PRESETS {
        if let Some(known) = taken.iter_mut().find(|found| preset.env.contains(&found.variable)) {
            known.presets.push(preset);
            continue;
        }
        let held = preset
            .env
            .iter()
            .find_map(|name| Some((*name, env::var(name).ok().filter(|value| is_key(value))?)));
        let Some((variable, value)) = held else { continue };
        let shown: String = value.chars().take(4).collect();
        let question =
            format!("Seal {variable} ({shown}…, {} characters) as credential {}?", value.len(), preset.name);
        for other in preset.env.iter().filter(|name| **name != variable) {
            if env::var(other).is_ok_and(|second| is_key(&second) && second != value) {
                output.say(&format!("{other} holds another value, which is not sealed; programs will see {variable}'s placeholder there"));
            }
        }
        if ask.question(&question)? {
            taken.push(Found {
                name: preset.name,
                variable,
                value: Secret::new(value.into_bytes()),
                presets: vec![preset],
            });
        }
    }
    if taken.is_empty() {
        output.say(
            "no key of a known service is in the environment; the configuration has examples to fill in",
        );
    }
    Ok(taken)
}

fn is_key(value: &str) -> bool {
    value.len() >= 8 && !value.contains(Placeholder::MARK)
}

fn write_new(path: &Path, text: &str) -> Result<(), Fault> {
    let failed = |error: io::Error| {
        Fault::new(format!("{}: {error}", path.display()), "check the directory, or set WRIT_HOME")
    };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn store(paths: &Paths, output: Output, taken: Vec<Found>) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    for found in taken {
        let name =
            found.name.parse().map_err(|error: writ_core::NameError| Fault::new(error.to_string(), ""))?;
        let value = credential::sealed(&control, &name, found.value)?;
        control.ask(&Ask::CredentialSet { name, value })?;
        output.say(&format!(
            "{} is sealed; programs under writ run see a placeholder in {}",
            found.name, found.variable
        ));
    }
    Ok(())
}

/// How questions are answered.
struct Questions {
    output: Output,
    yes: bool,
    terminal: bool,
}

impl Questions {
    fn question(&self, text: &str) -> Result<bool, Fault> {
        if self.yes || !self.terminal {
            return Ok(self.yes);
        }
        let failed = |error: io::Error| Fault::new(error.to_string(), "");
        self.output.prompt(text);
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
