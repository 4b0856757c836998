//! `writ restore`: env files as they were before `writ init`, byte for byte.
//!
//! A file that is still what writ wrote is replaced by its original. One that was changed since is not: the difference is shown,
//! in names only, and `--force` keeps a copy of it first. The original leaves the broker when the file has it back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;
use writ_api::{
    control::{Answer, Ask, OriginalName, OriginalRow},
    seal::{Place as Seal, Recipient},
};
use zeroize::Zeroizing;

use super::{ask::Questions, init::shown, proof};
use crate::{
    args,
    client::Control,
    fault::Fault,
    keys::{
        file::{self, EnvFile, Unfit},
        is_placeholder, sha256, text,
    },
    output::Output,
    paths::Paths,
};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Became {
    Restored,
    /// It was the original already.
    Same,
    /// The person said no.
    Kept,
    /// It is neither what writ wrote nor the original.
    Changed,
    /// It could not be replaced.
    Failed,
}

#[derive(Debug, Serialize)]
struct Done {
    path: String,
    became: Became,
    /// Where `--force` put what was in the file.
    saved: Option<PathBuf>,
}

/// What is known of a file and its originals.
enum Now {
    Written(EnvFile, OriginalRow),
    Original(Vec<OriginalRow>),
    Changed(Option<EnvFile>, OriginalRow),
}

pub fn run(paths: &Paths, output: Output, typed: &args::Restore) -> Result<ExitCode, Fault> {
    let mut control = Control::connect(paths)?;
    let Answer::Originals { originals } = control.ask(&Ask::OriginalList)? else {
        return Err(Fault::new("the daemon answered another question", "writ stop"));
    };
    let files = wanted(originals, &typed.files)?;
    if files.is_empty() {
        output.say("no file was rewritten, so there is nothing to bring back");
        return Ok(ExitCode::SUCCESS);
    }
    let questions = Questions::new(output, typed.yes, "writ restore --yes brings every file back")?;
    proof::give(&mut control)?;
    let mut task = Task { control, output, questions, force: typed.force };
    let mut done = Vec::new();
    for (path, rows) in files {
        done.push(task.file(path, rows)?);
    }
    output.result(&done, || done.iter().map(line).collect::<Vec<_>>().join("\n"));
    let changed = done.iter().any(|one| one.became == Became::Changed);
    let failed = done.iter().any(|one| one.became == Became::Failed);
    match (changed, failed) {
        (true, _) => Err(Fault::new(
            "not every file was brought back: some were changed since",
            "writ restore --force FILE keeps a copy of what is there, and brings the original back",
        )),
        (_, true) => {
            Err(Fault::new("not every file was brought back", "mend what is said above, then again"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The originals by file: of those that were named, or of all.
fn wanted(rows: Vec<OriginalRow>, named: &[PathBuf]) -> Result<BTreeMap<String, Vec<OriginalRow>>, Fault> {
    let mut files: BTreeMap<String, Vec<OriginalRow>> = BTreeMap::new();
    for row in rows {
        files.entry(row.name.path.clone()).or_default().push(row);
    }
    if named.is_empty() {
        return Ok(files);
    }
    let mut wanted = BTreeMap::new();
    for path in named {
        let known = absolute(path).and_then(|path| files.remove_entry(&path));
        let Some((path, rows)) = known else {
            let what = format!("{} was not rewritten by writ", path.display());
            return Err(Fault::new(what, "writ restore without a name shows what was"));
        };
        wanted.insert(path, rows);
    }
    Ok(wanted)
}

/// As the broker names it: the directory without symbolic links.
fn absolute(path: &Path) -> Option<String> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    parent.join(path.file_name()?).to_str().map(ToOwned::to_owned)
}

fn line(done: &Done) -> String {
    let path = shown(Path::new(&done.path));
    let saved = done
        .saved
        .as_ref()
        .map_or_else(String::new, |saved| format!("; what was there is in {}", shown(saved)));
    match done.became {
        Became::Restored => format!("{path} is as it was{saved}"),
        Became::Same => format!("{path} was as it was already"),
        Became::Kept => format!("{path} keeps its placeholders"),
        Became::Changed => format!("{path} was changed since, and is left alone"),
        Became::Failed => format!("{path} is left alone"),
    }
}

struct Task {
    control: Control,
    output: Output,
    questions: Questions,
    force: bool,
}

impl Task {
    fn file(&mut self, path: String, rows: Vec<OriginalRow>) -> Result<Done, Fault> {
        let mut saved = None;
        let became = match look(&path, rows.clone()) {
            Ok(Now::Original(rows)) => {
                rows.into_iter().try_for_each(|row| self.forget(row.name))?;
                Became::Same
            }
            Ok(Now::Written(file, row)) if self.agreed(&path)? => self.bring_back(file, row, rows)?,
            Ok(Now::Written(..)) => Became::Kept,
            Ok(Now::Changed(file, row)) => {
                let original = self.original(&row.name)?;
                self.output.say(&difference(&path, file.as_ref(), &original));
                if !self.force {
                    Became::Changed
                } else if !self.agreed(&path)? {
                    Became::Kept
                } else {
                    self.overwrite(&path, file.as_ref(), row.name, &original, &mut saved)?
                }
            }
            Err(unfit) => self.failed(&path, &unfit),
        };
        Ok(Done { path, became, saved })
    }

    fn agreed(&self, path: &str) -> Result<bool, Fault> {
        self.questions.question(&format!("Bring {} back, keys and all?", shown(Path::new(path))))
    }

    /// Replaces what writ wrote, and what it had written before over that, and so on.
    fn bring_back(
        &mut self,
        mut file: EnvFile,
        mut row: OriginalRow,
        mut rows: Vec<OriginalRow>,
    ) -> Result<Became, Fault> {
        loop {
            let original = self.original(&row.name)?;
            if let Err(unfit) = file.replace(&original, &mut |_| {}) {
                return Ok(self.failed(&row.name.path, &unfit));
            }
            rows.retain(|other| other.name != row.name);
            let path = row.name.path.clone();
            self.forget(row.name)?;
            match look(&path, rows.clone()) {
                Ok(Now::Written(earlier, its_row)) => (file, row) = (earlier, its_row),
                _ => return Ok(Became::Restored),
            }
        }
    }

    fn overwrite(
        &mut self,
        path: &str,
        file: Option<&EnvFile>,
        name: OriginalName,
        original: &[u8],
        saved: &mut Option<PathBuf>,
    ) -> Result<Became, Fault> {
        let written = match file {
            Some(file) => file.save_copy().and_then(|copy| {
                *saved = Some(copy);
                file.replace(original, &mut |_| {})
            }),
            None => file::create(Path::new(path), original),
        };
        if let Err(unfit) = written {
            return Ok(self.failed(path, &unfit));
        }
        self.forget(name)?;
        Ok(Became::Restored)
    }

    fn failed(&self, path: &str, unfit: &Unfit) -> Became {
        self.output.say(&format!("{}: {unfit}", shown(Path::new(path))));
        Became::Failed
    }

    fn original(&mut self, name: &OriginalName) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let failed = |fault: writ_api::seal::SealFault| Fault::new(fault.to_string(), "try again");
        let recipient = Recipient::generate().map_err(failed)?;
        let ask = Ask::OriginalOpen { name: name.clone(), recipient: recipient.key().clone() };
        let Answer::Original { content } = self.control.ask(&ask)? else {
            return Err(Fault::new("the daemon answered another question", "writ stop"));
        };
        let content = recipient.open(&content, &Seal::Control { purpose: name.purpose() }).map_err(failed)?;
        Ok(Zeroizing::new(content.expose().to_vec()))
    }

    fn forget(&mut self, name: OriginalName) -> Result<(), Fault> {
        self.control.ask(&Ask::OriginalForget { name }).map(drop)
    }
}

fn look(path: &str, rows: Vec<OriginalRow>) -> Result<Now, Unfit> {
    let file = match EnvFile::read(Path::new(path)) {
        Ok(file) => Some(file),
        Err(Unfit::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(unfit) => return Err(unfit),
    };
    let hash = file.as_ref().map(|file| sha256(file.bytes()));
    let is_written = |row: &&OriginalRow| Some(&row.name.written_sha256) == hash.as_ref();
    let written = rows.iter().find(is_written).cloned();
    let (same, others): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| Some(&row.original_sha256) == hash.as_ref());
    Ok(match (file, written, others.into_iter().next()) {
        (Some(file), Some(row), _) => Now::Written(file, row),
        (file, None, Some(row)) if same.is_empty() => Now::Changed(file, row),
        _ => Now::Original(same),
    })
}

/// What is other than in the original, in names.
fn difference(path: &str, file: Option<&EnvFile>, original: &[u8]) -> String {
    let path = shown(Path::new(path));
    let Some(file) = file else { return format!("{path} is gone") };
    let (now, then) = (text::variables(file.bytes()), text::variables(original));
    let stands_for_key = |value: &[u8]| std::str::from_utf8(value).is_ok_and(is_placeholder);
    let mut parts = Vec::new();
    let mut part = |what: &str, names: Vec<&String>| {
        if !names.is_empty() {
            let names = names.into_iter().cloned().collect::<Vec<_>>().join(", ");
            parts.push(format!("{what} {names}"));
        }
    };
    part("new:", now.keys().filter(|name| !then.contains_key(*name)).collect());
    part("gone:", then.keys().filter(|name| !now.contains_key(*name)).collect());
    let other = now
        .iter()
        .filter(|(name, value)| then.get(*name).is_some_and(|then| then != *value) && !stands_for_key(value));
    part("other values:", other.map(|(name, _)| name).collect());
    match parts.is_empty() {
        true => format!("{path} was changed since writ rewrote it, but no variable was"),
        false => format!("{path} was changed since writ rewrote it ({})", parts.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(written: &str, original: &str) -> OriginalRow {
        OriginalRow {
            name: OriginalName { path: "x".to_owned(), written_sha256: sha256(written.as_bytes()) },
            original_sha256: sha256(original.as_bytes()),
            kept_at: writ_core::Timestamp::from_millis(0),
        }
    }

    #[test]
    fn a_file_is_what_writ_wrote_or_the_original_or_something_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        let name = path.to_str().unwrap();
        let rows = || vec![row("w2", "w1"), row("w1", "o")];
        let look = |content: &str| {
            std::fs::write(&path, content).unwrap();
            match look(name, rows()).unwrap() {
                Now::Written(_, row) => {
                    format!("written {}", rows().iter().position(|one| *one == row).unwrap())
                }
                Now::Original(rows) => format!("original {}", rows.len()),
                Now::Changed(_, row) => {
                    format!("changed {}", rows().iter().position(|one| *one == row).unwrap())
                }
            }
        };
        assert_eq!(look("w2"), "written 0");
        assert_eq!(
            look("w1"),
            "written 1",
            "not the original of the second rewriting, but what the first wrote"
        );
        assert_eq!(look("o"), "original 1");
        assert_eq!(look("else"), "changed 0");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(super::look(name, rows()).unwrap(), Now::Changed(None, _)));
    }

    #[test]
    fn differences_are_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        std::fs::write(&path, "A=1\nB=writ_writ0123\nD=4\nE=6\n").unwrap();
        let file = EnvFile::read(&path).unwrap();
        let said = difference("/x/.env", Some(&file), b"A=1\nB=key\nC=3\nE=5\n");
        assert_eq!(said, "/x/.env was changed since writ rewrote it (new: D; gone: C; other values: E)");
    }
}
