//! The spellings of a secret: how common software writes it when it puts it into some other text.
//!
//! Each [`Form`] stands for a family of encoders that differ in small habits (which characters they escape, the
//! case of hex digits, the alignment of base64). A form yields one spelling for each habit; spellings that come
//! out equal, as most do for a secret of letters and digits, are dropped by the caller.
//!
//! Absent on purpose: encodings of encodings, and mixtures of habits within one secret. Their number has no
//! bound; the crate's documentation says so to users.

use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// No spelling is longer than this many bytes for each byte of the secret (`&quot;`, `&#115;`, `\u0073`).
pub(crate) const MAX_GROWTH: usize = 6;

/// A family of spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The bytes themselves.
    Literal,
    /// RFC 4648 §4, at each of the three alignments.
    Base64,
    /// RFC 4648 §5 (`-` and `_`), at each of the three alignments.
    Base64Url,
    /// RFC 3986 percent encoding of what some encoder takes for reserved.
    PercentReserved,
    /// Each byte as `%XX`.
    PercentAll,
    /// The body of a JSON string (RFC 8259 §7), with the optional escapes that writers add.
    JsonString,
    /// Each UTF-16 unit as `\uXXXX`.
    JsonUnicode,
    /// HTML escapes by name, as the usual libraries mix them.
    HtmlNamed,
    /// HTML numeric references for special characters.
    HtmlNumeric,
    /// HTML numeric references for every character.
    HtmlAll,
    /// Two hex digits for each byte.
    Hex,
}

impl Form {
    pub(crate) const ALL: &[Form] = &[
        Form::Literal,
        Form::Base64,
        Form::Base64Url,
        Form::PercentReserved,
        Form::PercentAll,
        Form::JsonString,
        Form::JsonUnicode,
        Form::HtmlNamed,
        Form::HtmlNumeric,
        Form::HtmlAll,
        Form::Hex,
    ];

    /// Calls `each` with every spelling of `value` in this form, duplicates included.
    ///
    /// The buffer behind the spellings never grows (so that no copy stays behind) and is wiped at the end.
    pub(crate) fn spell(self, value: &[u8], each: &mut dyn FnMut(&[u8])) {
        let ink = Zeroizing::new(Vec::with_capacity(value.len().saturating_mul(MAX_GROWTH)));
        let mut pen = Pen { ink, each };
        match self {
            Form::Literal => pen.write(|out| out.extend_from_slice(value)),
            Form::Base64 => base64(value, &STANDARD_NO_PAD, &mut pen),
            Form::Base64Url => base64(value, &URL_SAFE_NO_PAD, &mut pen),
            Form::PercentReserved => percent_reserved(value, &mut pen),
            Form::PercentAll => {
                for case in Case::BOTH {
                    pen.write(|out| value.iter().for_each(|&byte| percent(byte, case, out)));
                }
            }
            Form::JsonString => json_string(value, &mut pen),
            Form::JsonUnicode => {
                for case in Case::BOTH {
                    pen.write(|out| letters(value).for_each(|letter| unicode(letter.code(), case, out)));
                }
            }
            Form::HtmlNamed => html_named(value, &mut pen),
            Form::HtmlNumeric => {
                html_numeric(value, |c| "&<>\"'".contains(c), &mut pen);
                html_numeric(value, |c| !c.is_ascii_alphanumeric(), &mut pen);
            }
            Form::HtmlAll => html_numeric(value, |_| true, &mut pen),
            Form::Hex => {
                for case in Case::BOTH {
                    pen.write(|out| value.iter().for_each(|&byte| hex(byte, case, out)));
                }
            }
        }
    }
}

/// The one buffer that all spellings of a form are written to in turn.
struct Pen<'e> {
    ink: Zeroizing<Vec<u8>>,
    each: &'e mut dyn FnMut(&[u8]),
}

impl Pen<'_> {
    fn write(&mut self, spelling: impl FnOnce(&mut Vec<u8>)) {
        self.ink.clear();
        spelling(&mut self.ink);
        (self.each)(&self.ink);
    }
}

/// The case of the hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    const BOTH: [Case; 2] = [Case::Lower, Case::Upper];
}

/// A character of the secret, or a byte that is not part of one.
#[derive(Clone, Copy)]
enum Letter {
    Char(char),
    Byte(u8),
}

impl Letter {
    /// The code point; a stray byte counts as Latin-1, which is what software that does not fail makes of it.
    fn code(self) -> char {
        match self {
            Letter::Char(c) => c,
            Letter::Byte(byte) => char::from(byte),
        }
    }

    fn raw(self, out: &mut Vec<u8>) {
        match self {
            Letter::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Letter::Byte(byte) => out.push(byte),
        }
    }
}

fn letters(value: &[u8]) -> impl Iterator<Item = Letter> {
    value.utf8_chunks().flat_map(|chunk| {
        let stray = chunk.invalid().iter().copied().map(Letter::Byte);
        chunk.valid().chars().map(Letter::Char).chain(stray)
    })
}

// ── base64 ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Bits in one character of base64.
const SEXTET: usize = 6;

/// The characters that `value` alone determines, when zero, one or two foreign bytes precede it in its group.
///
/// The first and the last character are left out where they also carry bits of what stands before and behind,
/// and padding with them, so that the core is found whatever surrounds the secret.
fn base64(value: &[u8], alphabet: &GeneralPurpose, pen: &mut Pen<'_>) {
    for before in 0..3 {
        let mut plain = Zeroizing::new(Vec::with_capacity(before + value.len()));
        plain.resize(before, 0);
        plain.extend_from_slice(value);
        let first = (before * 8).div_ceil(SEXTET);
        let end = plain.len() * 8 / SEXTET;
        let mut text = Zeroizing::new(vec![0; plain.len().div_ceil(3) * 4]);
        if alphabet.encode_slice(plain.as_slice(), text.as_mut_slice()).is_ok() {
            pen.write(|out| out.extend_from_slice(text.get(first..end).unwrap_or_default()));
        }
    }
}

// ── percent ─────────────────────────────────────────────────────────────────────────────────────────────────

/// What percent encoders leave as it is besides ASCII letters and digits, and whether a space becomes `+`.
const PERCENT_HABITS: &[(&[u8], bool)] = &[
    (b"-._~", false),                 // RFC 3986 unreserved: Rust, Go, Python `quote(safe='')`
    (b"-._~", true),                  // Go `QueryEscape`, Python `quote_plus`
    (b"-._~/", false),                // Python `quote`
    (b"-._!~*'()", false),            // JavaScript `encodeURIComponent`
    (b"-._!~*'();,/?:@&=+$#", false), // JavaScript `encodeURI`
    (b"-._~$&+:=@", false),           // Go `PathEscape`
    (b"*-._", true),                  // WHATWG form encoding, Java `URLEncoder`
    (b"-._", true),                   // PHP `urlencode`
];

fn percent_reserved(value: &[u8], pen: &mut Pen<'_>) {
    for &(kept, plus) in PERCENT_HABITS {
        for case in Case::BOTH {
            pen.write(|out| {
                for &byte in value {
                    match byte {
                        b' ' if plus => out.push(b'+'),
                        _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => out.push(byte),
                        _ => percent(byte, case, out),
                    }
                }
            });
        }
    }
}

fn percent(byte: u8, case: Case, out: &mut Vec<u8>) {
    out.push(b'%');
    hex(byte, case, out);
}

fn hex(byte: u8, case: Case, out: &mut Vec<u8>) {
    match case {
        Case::Lower => put(out, format_args!("{byte:02x}")),
        Case::Upper => put(out, format_args!("{byte:02X}")),
    }
}

// ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Characters that JSON writers escape as `\uXXXX` though they need not.
const JSON_CAUTION: &[&str] = &[
    "",
    "<>&\u{2028}\u{2029}", // Go `encoding/json`, Rails
    "<>&'\"+`",            // .NET `System.Text.Json`
];

#[derive(Clone, Copy)]
struct JsonHabit {
    caution: &'static str,
    /// `/` becomes `\/` (PHP).
    slash: bool,
    /// Everything outside ASCII becomes `\uXXXX` (Python, PHP, .NET).
    ascii: bool,
    case: Case,
}

fn json_string(value: &[u8], pen: &mut Pen<'_>) {
    for caution in JSON_CAUTION {
        for (slash, ascii) in [(false, false), (false, true), (true, false), (true, true)] {
            for case in Case::BOTH {
                let habit = JsonHabit { caution, slash, ascii, case };
                pen.write(|out| letters(value).for_each(|letter| json_letter(letter, habit, out)));
            }
        }
    }
}

fn json_letter(letter: Letter, habit: JsonHabit, out: &mut Vec<u8>) {
    match letter.code() {
        c if habit.caution.contains(c) => unicode(c, habit.case, out),
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '/' if habit.slash => out.extend_from_slice(b"\\/"),
        c if c < ' ' || (habit.ascii && !c.is_ascii()) => unicode(c, habit.case, out),
        _ => letter.raw(out),
    }
}

fn unicode(c: char, case: Case, out: &mut Vec<u8>) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        match case {
            Case::Lower => put(out, format_args!("\\u{unit:04x}")),
            Case::Upper => put(out, format_args!("\\u{unit:04X}")),
        }
    }
}

// ── HTML ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Which characters HTML writers escape, and how.
const HTML_HABITS: &[&[(char, &str)]] = &[
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;")], // text of an element
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")], // value of an attribute
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#x27;")], // Python, Rust
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")], // Go, Jinja
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#39;")], // Rails, Node
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#039;")], // PHP
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&apos;")], // XML
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;"), ('+', "&#43;")], // Go templates
    &[
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&quot;"),
        ('\'', "&#39;"),
        ('/', "&#x2F;"),
        ('`', "&#x60;"),
        ('=', "&#x3D;"),
    ], // Mustache
];

fn html_named(value: &[u8], pen: &mut Pen<'_>) {
    for habit in HTML_HABITS {
        pen.write(|out| {
            for letter in letters(value) {
                match habit.iter().find(|(c, _)| *c == letter.code()) {
                    Some((_, name)) => out.extend_from_slice(name.as_bytes()),
                    None => letter.raw(out),
                }
            }
        });
    }
}

fn html_numeric(value: &[u8], escaped: fn(char) -> bool, pen: &mut Pen<'_>) {
    let formats: [fn(u32, &mut Vec<u8>); 3] = [
        |code, out| put(out, format_args!("&#{code};")),
        |code, out| put(out, format_args!("&#x{code:x};")),
        |code, out| put(out, format_args!("&#x{code:X};")),
    ];
    for format in formats {
        pen.write(|out| {
            for letter in letters(value) {
                if escaped(letter.code()) { format(letter.code().into(), out) } else { letter.raw(out) }
            }
        });
    }
}

/// Appends formatted text.
fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to a `Vec` has no way to fail.
    let _ = out.write_fmt(text);
}
