//! Which values can be credentials at all.
//!
//! A value must be long enough for the scrubber to tell it from chance, and fit into a header. Both are judged when a value is
//! set, and again at each issue, because a reference can change behind our back.

use writ_core::{CredentialName, Refusal, RefusalKind, Secret};

/// Shorter values would be found everywhere in ordinary answers.
pub const VALUE_MIN: usize = 8;
/// Longer values fit into no header that servers accept.
pub const VALUE_MAX: usize = 16 * 1024;

/// Why a value cannot be used. It never quotes the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("it has {0} bytes; under {VALUE_MIN} it could not be told from chance in an answer")]
    Short(usize),
    #[error("it has {0} bytes, more than the {VALUE_MAX} that a header takes")]
    Long(usize),
    #[error("it begins or ends with a space or a line break")]
    Edge,
    #[error(
        "it has a control character or a line break at byte {0}, which a header cannot carry (RFC 9110 §5.5)"
    )]
    Byte(usize),
}

/// # Errors
/// [`Unusable`] names the reason.
pub fn check(secret: &Secret) -> Result<(), Unusable> {
    let bytes = secret.expose();
    if bytes.len() < VALUE_MIN {
        return Err(Unusable::Short(bytes.len()));
    }
    if bytes.len() > VALUE_MAX {
        return Err(Unusable::Long(bytes.len()));
    }
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    if edge(bytes.first()) || edge(bytes.last()) {
        return Err(Unusable::Edge);
    }
    match bytes.iter().position(u8::is_ascii_control) {
        Some(at) => Err(Unusable::Byte(at)),
        None => Ok(()),
    }
}

impl Unusable {
    pub(crate) fn refuse(self, name: &CredentialName) -> Refusal {
        Refusal::new(
            RefusalKind::NoCredential,
            format!("the value of {name} cannot be used: {self}"),
            format!("set another value: `writ credential set {name}`"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |bytes: &[u8]| super::check(&Secret::new(bytes.to_vec()));
        assert_eq!(check(b"sk-12345"), Ok(()));
        assert_eq!(check("sk-schlüssel".as_bytes()), Ok(()));
        assert_eq!(check(b"a b c d e f"), Ok(()));
        assert_eq!(check(b""), Err(Unusable::Short(0)));
        assert_eq!(check(b"sk-1234"), Err(Unusable::Short(7)));
        assert_eq!(check(&[b'x'; VALUE_MAX]), Ok(()));
        assert_eq!(check(&[b'x'; VALUE_MAX + 1]), Err(Unusable::Long(VALUE_MAX + 1)));
        assert_eq!(check(b"sk-123456\n"), Err(Unusable::Edge));
        assert_eq!(check(b" sk-123456"), Err(Unusable::Edge));
        assert_eq!(check(b"sk-1\r\nx: 2"), Err(Unusable::Byte(4)));
        assert_eq!(check(b"sk-12345\0x"), Err(Unusable::Byte(8)));
        assert_eq!(check(b"sk-12345\x7fx"), Err(Unusable::Byte(8)));
        assert_eq!(check(b"sk-12345\tx"), Err(Unusable::Byte(8)));
    }
}
