//! Splits a command line into words as a shell would, without a shell.
//!
//! Quotes and backslashes group (POSIX.1-2024 shell §2.2); nothing is expanded: no variables, no tilde, no patterns, no
//! operators. A character that a shell would act on is refused unless it is quoted, so that nobody relies on what does not happen.

/// The words of `line`.
///
/// # Errors
/// What is wrong, in a sentence.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => word.get_or_insert_default().push_str(&single(&mut letters)?),
            '"' => word.get_or_insert_default().push_str(&double(&mut letters)?),
            '\\' => {
                let next = letters.next().ok_or("the command line ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            '\0' => return Err("the command line has a NUL".to_owned()),
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '#' | '~' => {
                let sentence = "is not acted on, because there is no shell: quote it, or call a script";
                return Err(format!("{letter:?} in the command line {sentence}"));
            }
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single(letters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let (inside, rest) = letters.as_str().split_once('\'').ok_or("a single quote is not closed")?;
    *letters = rest.chars();
    Ok(inside.to_owned())
}

fn double(letters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let unclosed = "a double quote is not closed";
    let mut inside = String::new();
    loop {
        match letters.next().ok_or(unclosed)? {
            '"' => return Ok(inside),
            '\\' => match letters.next().ok_or(unclosed)? {
                escaped @ ('"' | '\\' | '$' | '`') => inside.push(escaped),
                other => inside.extend(['\\', other]),
            },
            plain @ ('$' | '`') => {
                return Err(format!("{plain:?} in double quotes is not expanded: use single quotes"));
            }
            plain => inside.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words() {
        for (line, words) in [
            ("", &[] as &[&str]),
            ("  a  b\tc ", &["a", "b", "c"]),
            ("op read 'op://vault/my key/x'", &["op", "read", "op://vault/my key/x"]),
            (r#"a "b \"c\" \n" d\ e"#, &["a", r#"b "c" \n"#, "d e"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a'b'\"c\"d", &["abcd"]),
            ("'$HOME' \\$x \"\\$y\"", &["$HOME", "$x", "$y"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_a_shell_would_do_is_refused() {
        for line in [
            "a 'b",
            "a \"b",
            "a \\",
            "a | b",
            "a $HOME",
            "a \"$HOME\"",
            "a `b`",
            "a > b",
            "~/x",
            "a *",
            "a\0b",
        ] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
