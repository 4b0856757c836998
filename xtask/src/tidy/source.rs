//! A Rust file as the rules see it: code without comments and strings, and where its tests begin.

/// A Rust source file, taken apart.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and the contents of strings and characters blanked; same lines, same columns.
    pub(crate) code: String,
    /// The text with everything but comments blanked.
    pub(crate) comments: String,
    /// How many lines come before the tests: all of them, or none for a file of tests.
    pub(crate) lines_before_tests: usize,
}

impl Source {
    /// Takes `text` apart. `in_tests` says that the whole file is compiled for tests only, as files below `tests/` and
    /// `benches/` are anyway.
    pub(crate) fn new(path: &str, text: &str, in_tests: bool) -> Self {
        let (code, comments) = split(text);
        let lines_before_tests = if in_tests || is_test_path(path) { 0 } else { lines_before_tests(&code) };
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text, code, comments, lines_before_tests }
    }

    /// The lines, counted from 1, on which `needle` stands as a whole word in the code.
    pub(crate) fn lines_with(&self, needle: &str) -> Vec<usize> {
        find_words(&self.code, needle).into_iter().map(|offset| line_of(&self.code, offset)).collect()
    }

    /// Whether a line, counted from 1, belongs to the tests.
    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        line > self.lines_before_tests
    }
}

/// Whether cargo compiles the file for tests or benchmarks only.
pub(crate) fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "benches")
}

/// The line, counted from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The byte offsets of `needle` in `text`, where it neither continues nor begins an identifier.
pub(crate) fn find_words(text: &str, needle: &str) -> Vec<usize> {
    let starts_word = needle.starts_with(is_word);
    let ends_word = needle.ends_with(is_word);
    let fits = |offset: usize| {
        let before = text.get(..offset).unwrap_or_default().ends_with(is_word);
        let after = text.get(offset + needle.len()..).unwrap_or_default().starts_with(is_word);
        !(starts_word && before || ends_word && after)
    };
    text.match_indices(needle).map(|(offset, _)| offset).filter(|offset| fits(*offset)).collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Counts the lines up to the first `#[cfg(test)]` that stands before a module with a body. A `#[cfg(test)]` before
/// anything else (`use`, `mod testing;`) does not end the code.
fn lines_before_tests(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let begins = |(index, line): (usize, &&str)| {
        let rest = line.strip_prefix("#[cfg(test)]")?;
        let below = lines.iter().skip(index + 1).copied();
        let item =
            std::iter::once(rest.trim()).chain(below).find(|line| !line.is_empty() && !line.starts_with('#'));
        let item = item.unwrap_or_default();
        (!find_words(item, "mod").is_empty() && item.contains('{')).then_some(index)
    };
    lines.iter().enumerate().find_map(begins).unwrap_or(lines.len())
}

/// What the scanner is inside of.
enum Inside {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

/// Separates code from comments: two texts with the same lines and columns as `text`.
fn split(text: &str) -> (String, String) {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let (mut code, mut comments) = (String::new(), String::new());
    let (mut inside, mut index) = (Inside::Code, 0);
    while index < characters.len() {
        let here = (at(index), at(index + 1));
        let in_code = matches!(inside, Inside::Code);
        // How many characters to take, and where we are after them.
        let (count, next) = match inside {
            Inside::Code => leave_code(&at, index),
            Inside::LineComment if here.0 == '\n' => (1, Inside::Code),
            Inside::LineComment => (1, Inside::LineComment),
            Inside::BlockComment { depth: 1 } if here == ('*', '/') => (2, Inside::Code),
            Inside::BlockComment { depth } if here == ('*', '/') => {
                (2, Inside::BlockComment { depth: depth - 1 })
            }
            Inside::BlockComment { depth } if here == ('/', '*') => {
                (2, Inside::BlockComment { depth: depth + 1 })
            }
            Inside::BlockComment { depth } => (1, Inside::BlockComment { depth }),
            Inside::Text if here.0 == '\\' => (2, Inside::Text),
            Inside::Text if here.0 == '"' => (1, Inside::Code),
            Inside::Text => (1, Inside::Text),
            Inside::RawText { hashes }
                if here.0 == '"' && (1..=hashes).all(|more| at(index + more) == '#') =>
            {
                (1 + hashes, Inside::Code)
            }
            Inside::RawText { hashes } => (1, Inside::RawText { hashes }),
        };
        let is_comment = matches!(inside, Inside::LineComment | Inside::BlockComment { .. })
            || matches!(next, Inside::LineComment | Inside::BlockComment { .. });
        // Only single characters are code: a longer step from code is a literal or the start of a comment.
        let is_code = in_code && count == 1 && !is_comment;
        for character in (index..index + count).map(at) {
            let kept = |keep: bool| if keep || character == '\n' { character } else { ' ' };
            code.push(kept(is_code));
            comments.push(kept(is_comment));
        }
        (inside, index) = (next, index + count);
    }
    (code, comments)
}

/// The step from a character of code: how many characters it takes, and what follows.
fn leave_code(at: &impl Fn(usize) -> char, index: usize) -> (usize, Inside) {
    match (at(index), at(index + 1), at(index + 2)) {
        ('/', '/', _) => (2, Inside::LineComment),
        ('/', '*', _) => (2, Inside::BlockComment { depth: 1 }),
        ('"', _, _) => (1, Inside::Text),
        // A character: escaped, up to its closing quote, or plain. What is left is a lifetime.
        ('\'', '\\', _) => {
            ((3..CHARACTER_MAX).find(|more| at(index + more) == '\'').unwrap_or(1) + 1, Inside::Code)
        }
        ('\'', _, '\'') => (3, Inside::Code),
        ('r', '"' | '#', _) => {
            let hashes = (1..).take_while(|more| at(index + more) == '#').count();
            let word_before = index
                .checked_sub(1)
                .is_some_and(|before| is_word(at(before)) && !matches!(at(before), 'b' | 'c'));
            let is_raw = at(index + hashes + 1) == '"' && !word_before;
            if is_raw { (hashes + 2, Inside::RawText { hashes }) } else { (1, Inside::Code) }
        }
        _ => (1, Inside::Code),
    }
}

/// The longest character literal: `'\u{10ffff}'`.
const CHARACTER_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, comments: &str) {
        let (found_code, found_comments) = split(text);
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            (squeeze(&found_code), squeeze(&found_comments)),
            (code.into(), comments.into()),
            "{text}"
        );
        assert_eq!(found_code.lines().count(), text.lines().count(), "{text}");
        assert_eq!(found_code.chars().count(), text.chars().count(), "{text}");
    }

    #[test]
    fn code_and_comments_come_apart() {
        check("a // b\nc", "a c", "// b");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
        check("f(\"x // y\") // z", "f(\" ) // z".replace(" // z", "").as_str(), "// z");
        check("'a' b '\\'' c '\\u{1f600}' d", "b c d", "");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", "");
        check("let s = \"\\\" // \\\\\"; t", "let s = \" ; t", "");
        check("r\"\\\" x", "x", "");
        check("r#\"a \" // b\"# x", "x", "");
        check("br##\"a \"# b\"## x", "b x", "");
        check("r#type + for_r#\"", "r#type + for_r#\"", "");
        check("//! \"quote\nx", "x", "//! \"quote");
        check("\"a\nb\"\nx // y", "\" x", "// y");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(find_words("unsafe unsafe_code my_unsafe (unsafe)", "unsafe"), [0, 30]);
        assert_eq!(find_words("a.sleep(b) xsleep( sleep(", "sleep("), [2, 19]);
        assert_eq!(find_words("a.expose(x).expose (y)", ".expose("), [1]);
    }

    #[test]
    fn tests_begin_at_their_module() {
        let lines = |text: &str| Source::new("crates/a/src/b.rs", text, false).lines_before_tests;
        assert_eq!(lines("a\nb\n"), 2);
        assert_eq!(lines("a\n#[cfg(test)]\nmod tests {\n}\n"), 1);
        assert_eq!(lines("a\n\n#[cfg(test)]\n#[cfg(unix)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines("#[cfg(test)]\nmod testing;\na\nb\n"), 4);
        assert_eq!(lines("#[cfg(test)]\nuse a::{b};\na\n#[cfg(test)] mod tests {\n}\n"), 3);
        assert_eq!(lines("// #[cfg(test)]\n// mod tests {\na\n"), 3);
        assert_eq!(Source::new("crates/a/tests/b.rs", "a\n", false).lines_before_tests, 0);
        assert_eq!(Source::new("crates/a/src/testing.rs", "a\n", true).lines_before_tests, 0);
    }
}
