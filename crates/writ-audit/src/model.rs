//! What is recorded: attempts, outcomes, and the names they speak of.
//!
//! Everything at this boundary is a primitive or a string, because the broker and the proxy record with types of
//! their own and neither may reach the other through this crate. An absent field is `None` and takes no byte.
//! Absent: values. No field here may hold a credential; what could (a path) is keyed-hashed unless allowed.

use std::{fmt, str::FromStr, sync::Arc};

/// The name of a stream: `broker`, `proxy-0`. It is part of file names and of every block.
///
/// Lower-case ASCII letters, digits and inner hyphens, 1 to [`StreamName::MAX`] bytes, a letter first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Longest name, in bytes: its field in a block.
    pub const MAX: usize = 32;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the zero-padded field of a block or a checkpoint.
    pub(crate) fn field(&self) -> [u8; Self::MAX] {
        let mut field = [0; Self::MAX];
        for (to, from) in field.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        field
    }

    /// Reads the field back; `None` unless it is exactly what [`Self::field`] writes.
    pub(crate) fn from_field(field: &[u8; Self::MAX]) -> Option<Self> {
        let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        let name: StreamName = std::str::from_utf8(field.get(..length)?).ok()?.parse().ok()?;
        (name.field() == *field).then_some(name)
    }
}

/// A stream's name that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamNameError {
    /// Empty, or longer than [`StreamName::MAX`].
    #[error("a stream's name has 1 to {max} bytes, not {0}", max = StreamName::MAX)]
    Length(usize),
    /// A byte that may not stand where it stands.
    #[error("a stream's name has letters a-z first, then also digits and inner hyphens; byte {0} is another")]
    Byte(usize),
}

impl FromStr for StreamName {
    type Err = StreamNameError;

    fn from_str(text: &str) -> Result<Self, StreamNameError> {
        if text.is_empty() || text.len() > Self::MAX {
            return Err(StreamNameError::Length(text.len()));
        }
        let last = text.len().saturating_sub(1);
        let allowed = |(at, byte): (usize, u8)| match byte {
            b'a'..=b'z' => true,
            b'0'..=b'9' => at > 0,
            b'-' => at > 0 && at < last,
            _ => false,
        };
        match text.bytes().enumerate().find(|pair| !allowed(*pair)) {
            Some((at, _)) => Err(StreamNameError::Byte(at)),
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for StreamName {
    type Error = StreamNameError;

    fn try_from(text: String) -> Result<Self, StreamNameError> {
        text.parse()
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// What an attempt is an attempt at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A credential was asked for.
    Acquire,
    /// A request under a lease.
    Use,
    /// A session was opened or ended (`action`).
    Session,
    /// A lease was revoked or expired (`action`).
    Lease,
    /// A command of the operator (`action`): `credential set`, `unlock`, `stop`.
    Control,
    /// Something that was refused before it was an acquisition or a use: an unlisted host, a placeholder at
    /// another host.
    Refused,
    /// Only read, never opened: records may be missing here, because the writer was killed or its log failed.
    Gap,
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Kind::Acquire => 1,
            Kind::Use => 2,
            Kind::Session => 3,
            Kind::Lease => 4,
            Kind::Control => 5,
            Kind::Refused => 6,
            Kind::Gap => 0,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Kind::Acquire,
            2 => Kind::Use,
            3 => Kind::Session,
            4 => Kind::Lease,
            5 => Kind::Control,
            6 => Kind::Refused,
            _ => return None,
        })
    }

    /// The stable name of the kind, as in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Acquire => "acquire",
            Kind::Use => "use",
            Kind::Session => "session",
            Kind::Lease => "lease",
            Kind::Control => "control",
            Kind::Refused => "refused",
            Kind::Gap => "gap",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It happened.
    Ok,
    /// writ said no; the reason says why.
    Refused,
    /// writ or the upstream could not; the reason says why.
    Failed,
    /// It was cut while it ran: revocation, session end.
    Cut,
    /// Nobody knows: the writer was killed, or the caller forgot to say.
    Unknown,
    /// Only read, never recorded: it has not ended yet.
    Pending,
}

impl Verdict {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Verdict::Ok => 1,
            Verdict::Refused => 2,
            Verdict::Failed => 3,
            Verdict::Cut => 4,
            Verdict::Unknown | Verdict::Pending => 5,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Verdict::Ok,
            2 => Verdict::Refused,
            3 => Verdict::Failed,
            4 => Verdict::Cut,
            5 => Verdict::Unknown,
            _ => return None,
        })
    }

    /// The stable name of the verdict, as in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Refused => "refused",
            Verdict::Failed => "failed",
            Verdict::Cut => "cut",
            Verdict::Unknown => "unknown",
            Verdict::Pending => "pending",
        }
    }
}

/// A request's path, and whether it may stand in the log as it is.
///
/// Whatever follows the first `?` or `#` is dropped even here. Without `plain`, every segment is replaced by its
/// keyed hash (`h:` and 22 characters), because vendors put tokens into paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathView<'a> {
    /// The path as it went upstream.
    pub path: &'a str,
    /// The caller's allow-list knows this path to carry no secret.
    pub plain: bool,
}

/// What is about to happen. Made with [`Attempt::new`] and a struct update for what is known.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What kind of thing.
    pub kind: Kind,
    /// When it began: wall clock, microseconds since the Unix epoch.
    pub start: u64,
    /// The request's id.
    pub request_id: Option<&'a str>,
    /// SPIFFE ID of the workload.
    pub workload: Option<&'a str>,
    /// The role asked for or held.
    pub role: Option<&'a str>,
    /// The session's id.
    pub session: Option<&'a str>,
    /// The user on whose behalf: name or uid.
    pub requester: Option<&'a str>,
    /// Name of the credential.
    pub credential: Option<&'a str>,
    /// Its type: `static`, `postgres`. A word.
    pub credential_type: Option<&'a str>,
    /// The lease's scope, as text; of a session that goes on with another one, `resumed_from` and its id.
    pub scope: Option<&'a str>,
    /// HTTP method. Anything but a registered method is hashed.
    pub method: Option<&'a str>,
    /// `https`, `ssh`. A word.
    pub scheme: Option<&'a str>,
    /// Host name of the target, as in the canonical authority.
    pub host: Option<&'a str>,
    /// Port of the target.
    pub port: Option<u16>,
    /// The address that was dialled, where it is known already.
    pub dialled: Option<&'a str>,
    /// Path without query.
    pub path: Option<PathView<'a>>,
    /// The lease's id, where there is one already.
    pub lease: Option<&'a str>,
    /// Was the lease within its TTL at this moment?
    pub within_ttl: Option<bool>,
    /// What exactly, for the kinds `session`, `lease`, `control` and `refused`. A word.
    pub action: Option<&'a str>,
    /// Name of the target in the configuration.
    pub target: Option<&'a str>,
}

impl Attempt<'_> {
    /// An attempt of which only the kind and the start are known.
    #[must_use]
    pub const fn new(kind: Kind, start: u64) -> Self {
        Attempt {
            kind,
            start,
            request_id: None,
            workload: None,
            role: None,
            session: None,
            requester: None,
            credential: None,
            credential_type: None,
            scope: None,
            method: None,
            scheme: None,
            host: None,
            port: None,
            dialled: None,
            path: None,
            lease: None,
            within_ttl: None,
            action: None,
            target: None,
        }
    }
}

/// How it ended, with what only the end knows.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, as a stable word (`host-not-listed`). Anything else is hashed.
    pub reason: Option<&'a str>,
    /// How long it took, in microseconds.
    pub duration: Option<u64>,
    /// The upstream's HTTP status.
    pub status: Option<u16>,
    /// Body bytes sent upstream.
    pub bytes_up: Option<u64>,
    /// Body bytes sent to the agent.
    pub bytes_down: Option<u64>,
    /// How many times the scrubber found the credential in the response.
    pub scrubbed: Option<u32>,
    /// The lease that was made.
    pub lease: Option<&'a str>,
    /// The address that was dialled.
    pub dialled: Option<&'a str>,
}

impl<'a> Outcome<'a> {
    /// An outcome of which only the verdict is known.
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Outcome {
            verdict,
            reason: None,
            duration: None,
            status: None,
            bytes_up: None,
            bytes_down: None,
            scrubbed: None,
            lease: None,
            dialled: None,
        }
    }

    /// It happened.
    #[must_use]
    pub const fn ok() -> Self {
        Self::new(Verdict::Ok)
    }

    /// Refused, for a reason that is a stable word.
    #[must_use]
    pub const fn refused(reason: &'a str) -> Self {
        Outcome { reason: Some(reason), ..Self::new(Verdict::Refused) }
    }

    /// Failed, for a reason that is a stable word.
    #[must_use]
    pub const fn failed(reason: &'a str) -> Self {
        Outcome { reason: Some(reason), ..Self::new(Verdict::Failed) }
    }

    /// Cut while it ran.
    #[must_use]
    pub const fn cut(reason: &'a str) -> Self {
        Outcome { reason: Some(reason), ..Self::new(Verdict::Cut) }
    }
}

/// A SHA-256 hash: of a block, or of a checkpoint.
pub type Hash = [u8; 32];

/// The end of what a stream has made durable. It crosses the wire when the signer is another process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// The stream.
    pub stream: StreamName,
    /// Its current segment.
    pub segment: u32,
    /// Where in that segment's file its last block ends, in bytes.
    pub offset: u64,
    /// Sequence number of its last record.
    pub sequence: u64,
    /// Hash of its last block.
    pub hash: Hash,
}

#[cfg(test)]
mod tests {
    use super::StreamName;

    #[test]
    fn a_name_is_a_safe_file_name_and_nothing_else() {
        for name in ["broker", "proxy-0", "a", "a-b-1", &"a".repeat(32)] {
            let parsed: StreamName = name.parse().unwrap();
            assert_eq!(StreamName::from_field(&parsed.field()), Some(parsed.clone()));
            assert_eq!(
                crate::segment::parse_file_name(&crate::segment::file_name(&parsed, 7)),
                Some((parsed, 7))
            );
        }
        for name in ["", "-a", "a-", "0a", "A", "a/b", "..", "a.b", "é", "a b", &"a".repeat(33)] {
            assert!(name.parse::<StreamName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_field_with_anything_behind_the_name_is_no_name() {
        let mut field = "broker".parse::<StreamName>().unwrap().field();
        field[31] = b'x';
        assert_eq!(StreamName::from_field(&field), None);
    }

    #[test]
    fn only_the_written_form_of_a_file_name_is_one() {
        for name in
            ["broker-1.seg", "broker-000000.seg", "broker-+00001.seg", "broker-000001.SEG", "broker.seg"]
        {
            assert_eq!(crate::segment::parse_file_name(name), None, "{name}");
        }
    }
}
