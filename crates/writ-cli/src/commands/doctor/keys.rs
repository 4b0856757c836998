//! Keys in reach of programs: in this environment, in the work tree's env files, and where earlier runs left them.

use std::{collections::BTreeSet, env, path::PathBuf};

use writ_core::{PRESETS, Placeholder};

use super::Check;
use crate::{
    commands::init::shown,
    env_vars,
    keys::{
        file::EnvFile,
        leftovers::{self, Leftover},
        search, text,
    },
};

/// Shorter values are no keys.
const KEY_MIN: usize = 8;
/// The most files that are named in one line.
const NAMED_MAX: usize = 3;

/// Keys that programs would find without `writ run`.
pub(super) fn environment() -> Vec<Check> {
    let names = PRESETS.iter().flat_map(|preset| preset.env).collect::<BTreeSet<_>>();
    let held = |name: &&str| {
        env::var(name).is_ok_and(|value| value.len() >= KEY_MIN && !value.contains(Placeholder::MARK))
    };
    let held = names.into_iter().copied().filter(held);
    held.map(|name| {
        Check::warning(
            format!("{name} holds a key in this very environment"),
            "writ init, then remove it from your shell's start-up files",
        )
    })
    .collect()
}

/// Real keys in the env files of the work tree around here.
pub(super) fn work_tree() -> Option<Check> {
    let start = env::current_dir().ok()?;
    let known = |name: &str| PRESETS.iter().any(|preset| preset.env.contains(&name));
    let holds = |path: &PathBuf| {
        let file = EnvFile::read(path).ok()?;
        let variables: Vec<String> = text::findings(file.bytes(), known)
            .into_iter()
            .map(|finding| finding.variable.unwrap_or_else(|| format!("line {}", finding.line)))
            .collect();
        (!variables.is_empty()).then(|| format!("{} ({})", shown(file.path()), variables.join(", ")))
    };
    let files: Vec<String> =
        search::files(&start, home().as_deref()).paths.iter().filter_map(holds).collect();
    if files.is_empty() {
        return None;
    }
    let what = format!("real keys are in env files of this work tree: {}", named(&files));
    Some(Check::warning(what, "writ init puts placeholders there"))
}

/// Real keys that earlier runs left below the home directory.
pub(super) fn left_behind() -> Option<Check> {
    let found = leftovers::scan(&home()?).found;
    if found.is_empty() {
        return None;
    }
    let line = |one: &Leftover| format!("{} ({})", one.path.display(), one.keys.join(", "));
    let what =
        format!("real keys that earlier runs left: {}", named(&found.iter().map(line).collect::<Vec<_>>()));
    Some(Check::warning(what, "rotate these keys at their services, then remove the files or the lines"))
}

fn named(files: &[String]) -> String {
    let mut text = files.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = files.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more (writ init --json lists them)"));
    }
    text
}

fn home() -> Option<PathBuf> {
    env::var_os(env_vars::HOME).map(PathBuf::from)
}
