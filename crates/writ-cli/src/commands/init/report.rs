//! What is left to do after `writ init`: other places that hold keys, and which keys to rotate.

use std::{env, path::PathBuf};

use serde::Serialize;

use super::{
    choose::Chosen,
    find::{Found, shown},
    rewrite::Rewritten,
};
use crate::{
    env_vars,
    keys::{
        file::Unfit,
        leftovers::{self, Leftover},
    },
};

/// The most paths of a kind that people are shown; `--json` has all of them.
pub(crate) const SHOWN_MAX: usize = 10;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    sealed: Vec<String>,
    rewritten: Vec<Rewritten>,
    /// Env files that were left alone, and why.
    left: Vec<Left>,
    /// Keys of known services that the configuration has no credential for.
    unserved: Vec<Unserved>,
    /// Secrets of services that writ does not know.
    unknown: Vec<Unknown>,
    /// Real keys that earlier runs left.
    leftovers: Vec<Leftover>,
    /// Files of other programs' logins.
    logins: Vec<PathBuf>,
    /// A search reached its limit: there may be more.
    cut: bool,
}

#[derive(Debug, Serialize)]
struct Left {
    path: PathBuf,
    why: String,
}

#[derive(Debug, Serialize)]
struct Unserved {
    path: PathBuf,
    variable: String,
    preset: &'static str,
}

#[derive(Debug, Serialize)]
struct Unknown {
    path: PathBuf,
    variables: Vec<String>,
}

impl Report {
    pub(super) fn new(found: &Found, chosen: &[Chosen], rewritten: Vec<Rewritten>) -> Self {
        let home = env::var_os(env_vars::HOME).map(PathBuf::from);
        let scan = home.as_deref().map(leftovers::scan).unwrap_or_default();
        let name = |one: &Chosen| found.keys.get(one.key).map(|key| key.service.name.to_string());
        Self {
            sealed: chosen.iter().filter(|one| one.seal).filter_map(name).collect(),
            rewritten,
            left: found.unfit.iter().map(|(path, unfit)| left(path, unfit)).collect(),
            unserved: found
                .unserved
                .iter()
                .map(|(path, variable, preset)| Unserved {
                    path: path.clone(),
                    variable: variable.clone(),
                    preset: preset.name,
                })
                .collect(),
            unknown: found
                .others
                .iter()
                .map(|(path, variables)| Unknown { path: path.clone(), variables: variables.clone() })
                .collect(),
            leftovers: scan.found,
            logins: home.as_deref().map(leftovers::logins).unwrap_or_default(),
            cut: scan.cut || found.cut,
        }
    }

    /// For people: one paragraph a kind, and nothing about what there is nothing of.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let left = self.left.iter().map(|one| format!("{}: {}", shown(&one.path), one.why));
        paragraph(&mut text, "Left as they are:", left);
        let unserved = self.unserved.iter().map(|one| {
            format!(
                "{} in {}: add to writ.toml a [[credential]], a [[target]] with preset = \"{}\", and a grant",
                one.variable,
                shown(&one.path),
                one.preset
            )
        });
        paragraph(&mut text, "Keys that writ.toml has no credential for:", unserved);
        let unknown =
            self.unknown.iter().map(|one| format!("{} in {}", one.variables.join(", "), shown(&one.path)));
        paragraph(
            &mut text,
            "Secrets of services that writ does not know (a [[target]] with host and inject):",
            unknown,
        );
        let leftovers =
            self.leftovers.iter().map(|one| format!("{}: {}", one.path.display(), one.keys.join(", ")));
        paragraph(
            &mut text,
            "Real keys that earlier runs left, in reach of every program that runs as you:",
            leftovers,
        );
        let logins = self.logins.iter().map(|path| path.display().to_string());
        paragraph(&mut text, "Logins of other programs, which a confined run does not see:", logins);
        text.push_str(if self.rewritten.is_empty() { "" } else { UNDO });
        text.push_str(NEXT);
        if self.cut {
            text.push_str(
                "\nThe search reached a limit: start writ init in the directories that matter to you.",
            );
        }
        text
    }
}

const UNDO: &str = "The env files work under writ run only; writ restore brings the keys back.\n";
const NEXT: &str = "Next: remove the keys from your shell's start-up files and from the files above; rotate every key that an agent \
could read before; git keeps what was ever committed (git log -S KEY). Then open a new shell, and: writ run -- CMD";

fn left(path: &std::path::Path, unfit: &Unfit) -> Left {
    Left { path: path.to_owned(), why: unfit.to_string() }
}

/// A heading and its lines, if there are any.
pub(crate) fn paragraph(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    text.push_str(heading);
    for line in lines.iter().take(SHOWN_MAX) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if let Some(more) = lines.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("\n  and {more} more (--json)"));
    }
    text.push_str("\n\n");
}
