//! Env files: the original is sealed first, then the placeholders take the keys' place.
//!
//! Invariant: whenever the file is not the original, the broker keeps the original. A kill in between leaves the original in both
//! places, which `writ restore` recognizes.

use std::path::PathBuf;

use writ_api::{
    control::{Answer, Ask, OriginalName},
    seal::{self, Place as Seal},
};
use writ_core::{Placeholder, Secret};

use super::{
    choose::Chosen,
    find::{Found, Place, shown},
};
use crate::{
    client::Control,
    fault::Fault,
    keys::{file::EnvFile, sha256, text},
    output::Output,
};

/// A file that holds placeholders now.
#[derive(Debug, serde::Serialize)]
pub(super) struct Rewritten {
    pub path: PathBuf,
    pub variables: Vec<String>,
}

/// Rewrites every file that holds a chosen key. One that cannot be rewritten is said, and the others go on.
pub(super) fn files(
    control: &mut Control,
    output: Output,
    found: &Found,
    chosen: &[Chosen],
) -> Result<Vec<Rewritten>, Fault> {
    let mut placeholders = Vec::new();
    for one in chosen {
        let Some(key) = found.keys.get(one.key).filter(|key| key.in_a_file()) else { continue };
        placeholders.push((key, placeholder(control, key)?));
    }
    let mut rewritten = Vec::new();
    for (number, file) in found.files.iter().enumerate() {
        let mut replacements = Vec::new();
        let mut variables = Vec::new();
        for (key, placeholder) in &placeholders {
            for place in &key.places {
                if let Place::File { file, finding } = place
                    && *file == number
                {
                    replacements.push((finding.at.clone(), placeholder.as_str()));
                    variables
                        .push(finding.variable.clone().unwrap_or_else(|| format!("line {}", finding.line)));
                }
            }
        }
        if replacements.is_empty() {
            continue;
        }
        replacements.sort_by_key(|(at, _)| at.start);
        variables.sort();
        variables.dedup();
        let bytes = text::rewrite(file.bytes(), &replacements);
        match replace(control, file, &bytes)? {
            Ok(()) => {
                output.say(&format!(
                    "{} holds placeholders now: {}",
                    shown(file.path()),
                    variables.join(", ")
                ));
                rewritten.push(Rewritten { path: file.path().to_owned(), variables });
            }
            Err(unfit) => output.say(&format!("{} is left as it is: {unfit}", shown(file.path()))),
        }
    }
    Ok(rewritten)
}

fn placeholder(control: &mut Control, key: &super::find::Key) -> Result<Placeholder, Fault> {
    match control.ask(&Ask::PlaceholderShow { name: key.service.name.clone() })? {
        Answer::Placeholder { placeholder } => Ok(placeholder),
        _ => Err(Fault::new("the daemon answered another question", "writ stop")),
    }
}

fn replace(
    control: &mut Control,
    file: &EnvFile,
    bytes: &[u8],
) -> Result<Result<(), crate::keys::file::Unfit>, Fault> {
    let name = OriginalName { path: file.path_text().to_owned(), written_sha256: sha256(bytes) };
    let place = Seal::Control { purpose: name.purpose() };
    let content = seal::seal(&Secret::new(file.bytes().to_vec()), control.recipient(), &place)
        .map_err(|fault| Fault::new(fault.to_string(), "try again"))?;
    let original_sha256 = sha256(file.bytes());
    control.ask(&Ask::OriginalKeep { name: name.clone(), original_sha256, content })?;
    let replaced = file.replace(bytes, &mut |_| {});
    // The error may be that of the last step, behind the renaming: then the original must stay.
    let is_written =
        || EnvFile::read(file.path()).is_ok_and(|now| sha256(now.bytes()) == name.written_sha256);
    if replaced.is_err() && !is_written() {
        control.ask(&Ask::OriginalForget { name })?;
    }
    Ok(replaced)
}
