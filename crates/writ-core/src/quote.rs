//! Quoting a refused text in a message.
//!
//! The text may come from anybody and have any length, and the message ends up in logs and answers.

/// At most this many characters are quoted.
const QUOTED_MAX: usize = 200;

/// The beginning of `text`. Messages print it with `{:?}`, which escapes what could move a terminal's cursor.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Authority, CredentialName, Host, PathPattern, SpiffeId, Ttl};

    #[test]
    fn no_error_repeats_a_long_text() {
        let long = "é:".repeat(100_000);
        let errors = [
            long.parse::<Authority>().unwrap_err().to_string(),
            format!("a:{long}").parse::<Authority>().unwrap_err().to_string(),
            format!("a:{}", "9".repeat(100_000)).parse::<Authority>().unwrap_err().to_string(),
            long.parse::<Host>().unwrap_err().to_string(),
            long.parse::<PathPattern>().unwrap_err().to_string(),
            long.parse::<CredentialName>().unwrap_err().to_string(),
            long.parse::<SpiffeId>().unwrap_err().to_string(),
            long.parse::<Ttl>().unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(error.len() < 1000, "{} bytes", error.len());
        }
    }
}
