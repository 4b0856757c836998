//! Keys in the bytes of an env file, and the same bytes with placeholders in their stead.
//!
//! Env files have no one grammar: shells, docker, dotenv for six languages and compose read them differently. So nothing is
//! parsed and written anew. A key is a range of bytes, found by the variable before it or by how it begins, and all else stays
//! as it is: quotes, `export`, comments, line ends, duplicates, a missing last newline, bytes that are no text.

use std::{collections::BTreeMap, ops::Range};

use zeroize::Zeroizing;

use super::{is_placeholder, is_random, is_real_key};

/// Shorter values are no keys.
const VALUE_MIN: usize = 8;
/// Shorter values of variables that only sound like secrets are not worth a word.
const SECRET_MIN: usize = 16;
/// Parts of the names of variables that hold secrets.
const SECRET_WORDS: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];
/// What only a shell, a template or a URL has in a value.
const NOT_IN_KEYS: &[u8] = b"\"'`$<>(){}|&;\\";
/// Words of values that people are meant to replace.
const EXAMPLES: [&str; 6] = ["your", "example", "changeme", "placeholder", "dummy", "xxxx"];

/// A key in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub at: Range<usize>,
    /// From 1.
    pub line: usize,
    /// The variable that holds it; `None` where it stands alone.
    pub variable: Option<String>,
}

/// A variable and its value, as ranges of a file.
struct Assignment {
    variable: String,
    value: Range<usize>,
    /// Behind a `#`.
    comment: bool,
}

/// Every key in `bytes`, in their order. `known` tells which variables hold the keys of services that writ serves.
pub fn findings(bytes: &[u8], known: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, range) in lines(bytes) {
        let assignment = assignment(bytes, range.clone());
        let named = |assignment: &Assignment| {
            let value = text(bytes, assignment.value.clone());
            !assignment.comment && known(&assignment.variable) && value.is_some_and(is_value)
        };
        let variable = assignment.as_ref().map(|assignment| assignment.variable.clone());
        if let Some(assignment) = assignment.filter(named) {
            found.push(Finding { at: assignment.value, line, variable });
            continue;
        }
        let keys = tokens(bytes, range).filter(|at| text(bytes, at.clone()).is_some_and(is_real_key));
        found.extend(keys.map(|at| Finding { at, line, variable: variable.clone() }));
    }
    found
}

/// Variables that sound like secrets, whose values are not among `findings`.
pub fn other_secrets(bytes: &[u8], findings: &[Finding]) -> Vec<String> {
    let mut names: Vec<String> = lines(bytes)
        .filter_map(|(_, range)| assignment(bytes, range))
        .filter(|one| !one.comment && !findings.iter().any(|finding| finding.at == one.value))
        .filter(|one| SECRET_WORDS.iter().any(|word| one.variable.to_ascii_uppercase().contains(word)))
        .filter(|one| {
            let value = text(bytes, one.value.clone()).filter(|value| value.len() >= SECRET_MIN);
            value.is_some_and(|value| is_value(value) && is_random(value))
        })
        .map(|one| one.variable)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The text of a finding.
pub fn text(bytes: &[u8], at: Range<usize>) -> Option<&str> {
    bytes.get(at).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// `bytes` with each range replaced. Ranges are in order and apart; one that is not is left alone.
pub fn rewrite(bytes: &[u8], replacements: &[(Range<usize>, &str)]) -> Zeroizing<Vec<u8>> {
    // Room from the start: a vector that grows leaves what it held behind.
    let more: usize = replacements.iter().map(|(_, text)| text.len()).sum();
    let mut written = Zeroizing::new(Vec::with_capacity(bytes.len() + more));
    let mut done = 0;
    for (at, text) in replacements {
        if let Some(before) = bytes.get(done..at.start) {
            written.extend_from_slice(before);
            written.extend_from_slice(text.as_bytes());
            done = at.end;
        }
    }
    written.extend_from_slice(bytes.get(done..).unwrap_or_default());
    written
}

/// Variables and what they hold, for a difference in names. The last of two counts, as for most readers.
pub fn variables(bytes: &[u8]) -> BTreeMap<String, &[u8]> {
    let all = lines(bytes).filter_map(|(_, range)| assignment(bytes, range)).filter(|one| !one.comment);
    all.filter_map(|one| Some((one.variable, bytes.get(one.value)?))).collect()
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = 0;
    bytes.split(|byte| *byte == b'\n').enumerate().map(move |(number, line)| {
        let range = start..start + line.len();
        start = range.end + 1;
        (number + 1, range)
    })
}

/// `[#] [export] NAME = value`, `- NAME=value`, `NAME: value`.
fn assignment(bytes: &[u8], line: Range<usize>) -> Option<Assignment> {
    let mut rest = Rest { bytes: bytes.get(..line.end)?, at: line.start };
    rest.skip_text(b"\xef\xbb\xbf");
    rest.skip_spaces();
    let mut comment = false;
    while rest.skip_text(b"#") {
        comment = true;
        rest.skip_spaces();
    }
    for word in [&b"- "[..], b"export ", b"set ", b"ENV "] {
        if rest.skip_text(word) {
            rest.skip_spaces();
        }
    }
    let name = rest.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    let variable = text(bytes, name).filter(|name| !name.is_empty() && !name.starts_with('-'))?;
    rest.skip_spaces();
    if !rest.skip_text(b"=") && !rest.skip_text(b":") {
        return None;
    }
    rest.skip_spaces();
    let value = match rest.peek() {
        Some(quote @ (b'"' | b'\'' | b'`')) => {
            rest.at += 1;
            rest.take_while(|byte| byte != quote && byte != b'\r')
        }
        _ => rest.take_while(|byte| !byte.is_ascii_whitespace()),
    };
    Some(Assignment { variable: variable.to_owned(), value, comment })
}

/// What is left of a line.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_text(&mut self, text: &[u8]) -> bool {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text));
        if found {
            self.at += text.len();
        }
        found
    }

    fn skip_spaces(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn take_while(&mut self, takes: impl Fn(u8) -> bool) -> Range<usize> {
        let start = self.at;
        while self.peek().is_some_and(&takes) {
            self.at += 1;
        }
        start..self.at
    }
}

/// Runs of the letters that keys consist of.
pub fn tokens(bytes: &[u8], within: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut rest = Rest { bytes: bytes.get(..within.end).unwrap_or_default(), at: within.start };
    std::iter::from_fn(move || {
        rest.take_while(|byte| !letter(byte));
        let run = rest.take_while(letter);
        (!run.is_empty()).then_some(run)
    })
}

/// Whether a variable's value can be a key at all: no reference, no example, no placeholder.
fn is_value(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    value.len() >= VALUE_MIN
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !NOT_IN_KEYS.contains(&byte))
        && !value.contains("://")
        && !is_placeholder(value)
        && !EXAMPLES.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-proj-0aB1cD2eF3gH4iJ5kL6mN7oP8qR9";
    const PLACEHOLDER: &str = "sk-proj-writPLACEHOLDER";

    fn known(name: &str) -> bool {
        name == "OPENAI_API_KEY" || name == "WIKI_TOKEN"
    }

    /// `@` stands for a key; it is found, and all around it stays.
    fn check(pattern: &str, variable: Option<&str>, key: &str) {
        let bytes = pattern.replace('@', key).into_bytes();
        let found = findings(&bytes, known);
        let names: Vec<_> = found.iter().map(|one| one.variable.as_deref()).collect();
        assert_eq!(names, [variable], "{pattern:?}");
        let replaced = rewrite(&bytes, &[(found[0].at.clone(), PLACEHOLDER)]);
        assert_eq!(replaced.as_slice(), pattern.replace('@', PLACEHOLDER).as_bytes());
    }

    #[test]
    fn a_key_is_replaced_and_nothing_else() {
        for pattern in [
            "A=@",
            "A=@\n",
            "A=@\r\n",
            "A = @",
            "A=\"@\"\n",
            "A='@' # it\u{2019}s mine\n",
            "export A=@\nB=2\n",
            "  export   A=\"@\"\n",
            "\u{feff}A=@\r\nB=2\r\n",
            "      - A=@\n",
            "  A: @\n",
            "  A: \"@\"\n",
            "set A=@\r\n",
            "B=1\n\n\nA=@ # note\nC=3",
        ] {
            check(&pattern.replace('A', "WIKI_TOKEN"), Some("WIKI_TOKEN"), "hunter2-hunter2/+==");
            check(pattern, Some("A"), KEY);
        }
        for pattern in ["# A=@\n", "#A=@", "export A=\"@\"; echo\n", "A=@;B=1"] {
            check(pattern, Some("A"), KEY);
        }
        check("https://user:@@host/\n".replacen("@@", "@/", 1).as_str(), Some("https"), KEY);
        check("@\n", None, KEY);
        check("{\"a\": [\"@\"]}", None, KEY);
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let bytes = [b"\xff\xfe=\x80\nOPENAI_API_KEY=", KEY.as_bytes(), b"\n\xff"].concat();
        let found = findings(&bytes, known);
        assert_eq!(found.len(), 1);
        let replaced = rewrite(&bytes, &[(found[0].at.clone(), "x")]);
        assert_eq!(replaced.as_slice(), b"\xff\xfe=\x80\nOPENAI_API_KEY=x\n\xff");
    }

    #[test]
    fn duplicates_are_found_each() {
        let text = format!("OPENAI_API_KEY={KEY}\nOPENAI_API_KEY={KEY}x\nB={KEY},{KEY}y\n");
        let found = findings(text.as_bytes(), known);
        let lines: Vec<_> = found.iter().map(|one| one.line).collect();
        assert_eq!(lines, [1, 2, 3, 3]);
        let replaced = found.iter().map(|one| (one.at.clone(), "p")).collect::<Vec<_>>();
        let replaced = rewrite(text.as_bytes(), &replaced);
        assert_eq!(replaced.as_slice(), b"OPENAI_API_KEY=p\nOPENAI_API_KEY=p\nB=p,p\n");
    }

    #[test]
    fn a_known_variable_holds_a_key_of_any_form() {
        let found = |text: &str| findings(text.as_bytes(), known).len();
        assert_eq!(found("WIKI_TOKEN=hunter2hunter2\n"), 1);
        for none in [
            "OTHER=hunter2hunter2",
            "WIKI_TOKEN=",
            "WIKI_TOKEN=short",
            "WIKI_TOKEN=${OTHER_TOKEN}",
            "WIKI_TOKEN=$(pass wiki)",
            "WIKI_TOKEN=op://vault/item/field",
            "WIKI_TOKEN=<your token here>",
            "WIKI_TOKEN=your-token-goes-here",
            "WIKI_TOKEN=writ_writ0123456789",
            "OPENAI_API_KEY=sk-proj-writ0123456789aBcDeFgHiJ",
            "# WIKI_TOKEN=hunter2hunter2",
        ] {
            assert_eq!(found(none), 0, "{none}");
        }
    }

    #[test]
    fn other_secrets_are_named() {
        let text = format!(
            "STRIPE_SECRET=0aB1cD2eF3gH4iJ5\nOPENAI_API_KEY={KEY}\nKEYBOARD=us\nTOKEN_URL=https://a/b/c/d/e/f/g\n"
        );
        let found = findings(text.as_bytes(), known);
        assert_eq!(other_secrets(text.as_bytes(), &found), ["STRIPE_SECRET"]);
    }
}
