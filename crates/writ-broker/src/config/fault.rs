//! What is wrong with a configuration: where, what, and what to do.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Why there is no configuration to work with. `Display` says it all in one line; nothing in it is secret, because the
/// configuration holds no secrets.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    #[error("{} does not exist; run `writ init` to write one", .0.display())]
    Missing(PathBuf),
    #[error("{} cannot be read: {source}; check the file and its permissions", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is larger than {limit} KiB; split off or shorten what it holds", path.display())]
    Size { path: PathBuf, limit: u64 },
    #[error("everybody on this machine can write to {path}; run `chmod o-w {path}` and check what it says", path = .0.display())]
    Writable(PathBuf),
    #[error("{0}")]
    Entry(Box<Problem>),
}

/// One place in a file that has to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub what: String,
    pub next: String,
}

impl ConfigFault {
    /// A fault at a byte range of `text`, which was read from `path`.
    pub(crate) fn at(
        path: &Path,
        text: &str,
        span: Range<usize>,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        let before = text.get(..span.start.min(text.len())).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Entry(Box::new(Problem {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            what: what.into(),
            next: next.into(),
        }))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}; {}", self.path.display(), self.line, self.column, self.what, self.next)
    }
}

/// The name among `known` that is most like `name`, if one is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|one| (distance(name, one), one))
        .filter(|(far, _)| *far <= most)
        .min_by_key(|(far, _)| *far)
        .map(|(_, one)| one)
}

/// Levenshtein's distance: how many letters have to be put in, taken out or exchanged.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut previous = index + 1;
        let mut next = vec![previous];
        for (to, above) in right.chars().zip(row.iter().skip(1)) {
            let exchanged = diagonal + usize::from(from != to);
            previous = exchanged.min(previous + 1).min(above + 1);
            diagonal = *above;
            next.push(previous);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "a = 1\nä = \"é\" # x\n";
        let at = |start: usize| match ConfigFault::at(Path::new("w"), text, start..start, "x", "y") {
            ConfigFault::Entry(problem) => (problem.line, problem.column),
            other => panic!("{other}"),
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(6), (2, 1));
        assert_eq!(at(text.find('#').unwrap()), (2, 9));
        assert_eq!(at(10_000), (3, 1));
    }

    #[test]
    fn slips_of_the_finger() {
        let known = ["openai", "anthropic", "gemini"];
        assert_eq!(nearest("opnai", known), Some("openai"));
        assert_eq!(nearest("antrhopic", known), Some("anthropic"));
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("github", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
