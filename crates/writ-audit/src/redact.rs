//! Which values stand in the log as they are, and what replaces the others.
//!
//! A value is written plainly only if its field's class admits it; otherwise the log holds a keyed hash,
//! `h:` and the first 16 bytes of HMAC-SHA-256(key, field name, 0, value) in base64url. The same value in the same
//! field gives the same hash, so that an operator who holds the key can ask "was it this one?", and nobody else can.
//! Absent: encryption. What is hashed is not meant to be read back.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::PathView;

/// The installation's key for hashed fields. `Debug` says nothing of it.
#[derive(Clone)]
pub struct FieldKey(hmac::Key);

impl FieldKey {
    /// A key of 32 random bytes, kept by the caller and the same over restarts.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The text that replaces `value` in the field named `field`.
    #[must_use]
    pub fn hash(&self, field: &str, value: &str) -> String {
        let mut text = String::with_capacity(HASHED_LEN);
        self.push_hash(&mut text, field, value);
        text
    }

    fn push_hash(&self, text: &mut String, field: &str, value: &str) {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(field.as_bytes());
        context.update(&[0]);
        context.update(value.as_bytes());
        let tag = context.sign();
        text.push_str(HASHED_PREFIX);
        if let Some(kept) = tag.as_ref().get(..KEPT_BYTES) {
            URL_SAFE_NO_PAD.encode_string(kept, text);
        }
    }
}

impl std::fmt::Debug for FieldKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FieldKey(…)")
    }
}

/// What a field may hold plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A name or id from the configuration or of our own making: no control characters, 256 bytes.
    Name,
    /// Longer text from the configuration: no control characters, 1,024 bytes.
    Text,
    /// A word of a vocabulary: `a-z 0-9 - _ .` and space, 64 bytes.
    Word,
    /// A registered HTTP method.
    Method,
    /// A host name or address with port: letters, digits, `. - _ : [ ]`, 255 bytes.
    Host,
    /// A path that [`push_path`] has rendered.
    Path,
}

impl Class {
    fn limit(self) -> usize {
        match self {
            Class::Name => MAX_NAME,
            Class::Text | Class::Path => MAX_TEXT,
            Class::Word => MAX_WORD,
            Class::Method => MAX_METHOD,
            Class::Host => MAX_HOST,
        }
    }

    fn admits(self, value: &str) -> bool {
        match self {
            Class::Name | Class::Text | Class::Path => !has_control(value),
            Class::Word => value
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_. ".contains(&byte)),
            Class::Method => METHODS.contains(&value),
            Class::Host => {
                value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
            }
        }
    }
}

/// Appends `value` to a record: its length as `u16`, then itself or what replaces it.
pub(crate) fn push_field(out: &mut Vec<u8>, key: &FieldKey, class: Class, field: &str, value: &str) {
    if value.len() <= class.limit() && class.admits(value) {
        push_text(out, value);
    } else if class.admits(value) && matches!(class, Class::Name | Class::Text | Class::Path) {
        let kept = value.floor_char_boundary(class.limit().saturating_sub(HASHED_LEN + 1));
        let mut cut = String::with_capacity(class.limit());
        cut.push_str(value.get(..kept).unwrap_or_default());
        cut.push('~');
        key.push_hash(&mut cut, field, value);
        push_text(out, &cut);
    } else {
        push_text(out, &key.hash(field, value));
    }
}

/// Control characters of ASCII, and those of Latin-1 that a terminal obeys too (U+0080 to U+009F).
fn has_control(value: &str) -> bool {
    match value.is_ascii() {
        true => value.bytes().any(|byte| byte.is_ascii_control()),
        false => value.chars().any(char::is_control),
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes().get(..usize::from(length)).unwrap_or_default());
}

/// Renders a path as it may stand in the log: never its query, and only hashes unless it is allowed.
pub(crate) fn push_path(out: &mut String, key: &FieldKey, view: PathView<'_>) {
    let end = view.path.find(['?', '#']).unwrap_or(view.path.len());
    let path = view.path.get(..end).unwrap_or_default();
    if view.plain {
        out.push_str(path);
        return;
    }
    for (at, segment) in path.splitn(MAX_SEGMENTS, '/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        if !segment.is_empty() {
            key.push_hash(out, "path", segment);
        }
    }
}

const HASHED_PREFIX: &str = "h:";
const KEPT_BYTES: usize = 16;
/// `h:` and 16 bytes in base64url without padding.
const HASHED_LEN: usize = HASHED_PREFIX.len() + 22;
const MAX_NAME: usize = 256;
const MAX_TEXT: usize = 1024;
const MAX_WORD: usize = 64;
const MAX_METHOD: usize = 16;
const MAX_HOST: usize = 255;
/// Segments of a path that are hashed one by one; the rest is hashed as one, so that a path of slashes stays cheap.
const MAX_SEGMENTS: usize = 32;
/// The methods of RFC 9110 and RFC 5789; an agent chooses the method, and could spell a secret with it.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
