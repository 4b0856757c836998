//! Names and text inside SQL: the statements about roles take no parameters, so what goes into them is quoted here.
//!
//! Invariant: no text of another's making reaches a statement but through [`ident`] or [`literal`]
//! (PostgreSQL documentation §4.1.1 and §4.1.2). Absent: `E''` strings and `standard_conforming_strings = off`; sessions
//! set it on.

use std::fmt::Write as _;

/// The longest name in bytes: `NAMEDATALEN` - 1. Longer ones would be cut.
pub(super) const IDENTIFIER_MAX: usize = 63;

/// A name between double quotes. A NUL, which no name of a server has, is left out.
pub(super) fn ident(name: &str) -> String {
    quoted(name, '"')
}

/// Text between single quotes. A NUL, which no text of a server has, is left out.
pub(super) fn literal(text: &str) -> String {
    quoted(text, '\'')
}

fn quoted(text: &str, mark: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(mark);
    for letter in text.chars().filter(|letter| *letter != '\0') {
        if letter == mark {
            out.push(mark);
        }
        out.push(letter);
    }
    out.push(mark);
    out
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_are_doubled() {
        assert_eq!(ident("plain"), "\"plain\"");
        assert_eq!(ident("a\"; DROP ROLE b; --"), "\"a\"\"; DROP ROLE b; --\"");
        assert_eq!(literal("it's \\ 'so'\0"), "'it''s \\ ''so'''");
        assert_eq!(hex(&[0, 0x0f, 0xff]), "000fff");
    }
}
