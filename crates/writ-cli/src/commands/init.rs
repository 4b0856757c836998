//! `writ init`: from keys in the environment and in env files to sealed credentials, after asking.
//!
//! ```text
//!   find.rs     keys in the environment and in the work tree's env files, each with the credential that it would become
//!   choose.rs   one question a key
//!   text.rs     the configuration, where there is none yet
//!   rewrite.rs  env files: the original sealed first, then placeholders in the keys' place
//!   report.rs   what else holds keys on this machine, and what to rotate
//! ```
//!
//! It writes roles, targets and registration entries as well, since a credential alone grants nothing. An existing configuration
//! is never touched: then the keys of its credentials are taken out of the env files, and others are named.

mod choose;
mod find;
mod report;
mod rewrite;
mod text;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use writ_api::control::{Answer, Ask};

use super::{ask::Questions, credential, doctor, proof};
use crate::{client::Control, fault::Fault, output::Output, paths::Paths};
use choose::Chosen;
pub use find::shown;
use find::{Found, Service};

/// Where init tells the way out when there is nobody to ask.
const YES: &str = "writ init --yes takes every key over";

pub fn run(paths: &Paths, output: Output, yes: bool) -> Result<(), Fault> {
    if paths.config.exists() { again(paths, output, yes) } else { first(paths, output, yes) }
}

/// With no configuration yet.
fn first(paths: &Paths, output: Output, yes: bool) -> Result<(), Fault> {
    let questions = Questions::new(output, yes, YES)?;
    let found = Found::with_environment(find::known_services())?;
    let chosen = choose::first(output, &questions, &found)?;
    if chosen.is_empty() {
        output.say("no key of a known service was taken over; the configuration has examples to fill in");
    }
    let accept = accept_below_confined(paths, output, &questions)?;
    let services: Vec<&Service> =
        chosen.iter().filter_map(|one| found.keys.get(one.key)).map(|key| &key.service).collect();
    write_new(&paths.config, &text::configuration(&services, accept))?;
    output.say(&format!("wrote {}", paths.config.display()));
    let mut control = Control::connect(paths)?;
    finish(&mut control, output, &found, &chosen)
}

/// Where programs run confined, nothing less needs to be accepted.
fn accept_below_confined(paths: &Paths, output: Output, questions: &Questions) -> Result<bool, Fault> {
    let Err(fault) = doctor::confined(paths) else { return Ok(false) };
    output.say(&format!("programs cannot run confined here ({fault}); writ doctor tells what would help"));
    output.say("below that they may be able to read a key file, and with it every credential");
    questions.question("Accept that for sessions on this machine (accept_below_confined)?")
}

/// With a configuration that a person may have edited.
fn again(paths: &Paths, output: Output, yes: bool) -> Result<(), Fault> {
    let exists = |rest: &str| {
        let what = format!("{} exists already{rest}", paths.config.display());
        Fault::new(what, "edit it, and store keys with: writ credential set NAME")
    };
    // Before a daemon is started: most work trees hold no key at all.
    if !Found::in_files(find::known_services())?.may_hold_keys() {
        return Err(exists(", and no env file here holds a key"));
    }
    let questions = Questions::new(output, yes, YES)?;
    let mut control = Control::connect(paths)?;
    let Answer::Credentials { credentials } = control.ask(&Ask::CredentialList)? else {
        return Err(Fault::new("the daemon answered another question", "writ stop"));
    };
    let found = Found::in_files(find::configured_services(&credentials))?;
    let chosen = choose::again(output, &questions, &mut control, &found, &credentials)?;
    finish(&mut control, output, &found, &chosen)
}

/// Seals what was chosen, puts placeholders into the files, and says what is left to do.
fn finish(control: &mut Control, output: Output, found: &Found, chosen: &[Chosen]) -> Result<(), Fault> {
    proof::give(control)?;
    for one in chosen.iter().filter(|one| one.seal) {
        let Some(key) = found.keys.get(one.key) else { continue };
        let name = key.service.name.clone();
        let value = credential::sealed(control, &name, key.secret())?;
        control.ask(&Ask::CredentialSet { name: name.clone(), value })?;
        output.say(&format!(
            "{name} is sealed; programs under writ run see a placeholder in {}",
            key.seen_in()
        ));
    }
    let rewritten = rewrite::files(control, output, found, chosen)?;
    let report = report::Report::new(found, chosen, rewritten);
    output.result(&report, || report.text());
    Ok(())
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
