//! The records of a stream, written by hand into a buffer and read back strictly.
//!
//! ```text
//! record   = length u16 (of what follows) · type u8 · body
//! attempt  = kind u8 · start u64 · present u32 · the present fields, in bit order
//! outcome  = attempt's sequence u64 · end u64 · verdict u8 · present u16 · the present fields, in bit order
//! mark     = mark u8 · at u64 · cause u8 · bytes cut u64 · last block's time u64
//! ```
//!
//! A record has no number of its own: it is the first sequence of its block plus its place in it. `spec/audit.md`
//! is the contract. Absent: JSON on the way in, which costs more than a whole request may.

use crate::{
    Attempt, FieldKey, Kind, Outcome, Verdict,
    bytes::Reader,
    redact::{Class, push_field, push_path},
};

/// The text fields of an attempt, in the order of their bits.
pub(crate) const ATTEMPT_TEXTS: [(&str, Class); 16] = [
    ("request_id", Class::Name),
    ("workload", Class::Name),
    ("role", Class::Name),
    ("session", Class::Name),
    ("requester", Class::Name),
    ("credential", Class::Name),
    ("credential_type", Class::Word),
    ("scope", Class::Text),
    ("method", Class::Method),
    ("scheme", Class::Word),
    ("host", Class::Host),
    ("dialled", Class::Host),
    ("path", Class::Path),
    ("lease", Class::Name),
    ("action", Class::Word),
    ("target", Class::Name),
];

/// An attempt as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptRecord {
    pub(crate) kind: Kind,
    pub(crate) start: u64,
    pub(crate) texts: [Option<String>; ATTEMPT_TEXTS.len()],
    pub(crate) port: Option<u16>,
    pub(crate) within_ttl: Option<bool>,
}

/// An outcome as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutcomeRecord {
    /// Sequence of the attempt that ended, in the same stream.
    pub(crate) attempt: u64,
    pub(crate) end: u64,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Option<String>,
    pub(crate) duration: Option<u64>,
    pub(crate) status: Option<u16>,
    pub(crate) bytes_up: Option<u64>,
    pub(crate) bytes_down: Option<u64>,
    pub(crate) scrubbed: Option<u32>,
    pub(crate) lease: Option<String>,
    pub(crate) dialled: Option<String>,
}

/// What happened to the stream itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The stream was opened after a clean end, or for the first time.
    Begin,
    /// The stream was opened without a clean end before: records may be missing here.
    Gap,
    /// The stream was closed cleanly.
    End,
}

/// Why a gap is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The writer was killed, or the machine went down.
    Crash,
    /// The log failed and was reopened by the same writer.
    Failure,
}

/// A mark as written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: MarkKind,
    /// When, in microseconds since the Unix epoch.
    pub(crate) at: u64,
    pub(crate) cause: Option<Cause>,
    /// Bytes of a torn block that were cut off.
    pub(crate) cut: u64,
    /// When the block before the gap was written; 0 when there is none.
    pub(crate) last: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Attempt(Box<AttemptRecord>),
    Outcome(Box<OutcomeRecord>),
    Mark(Mark),
}

/// Appends an attempt. At most [`MAX_ATTEMPT`] bytes.
pub(crate) fn push_attempt(out: &mut Vec<u8>, key: &FieldKey, attempt: &Attempt<'_>) {
    framed(out, TYPE_ATTEMPT, |out| {
        out.push(attempt.kind.code());
        out.extend_from_slice(&attempt.start.to_le_bytes());
        let path = attempt.path.map(|view| {
            let mut rendered = String::new();
            push_path(&mut rendered, key, view);
            rendered
        });
        let texts = attempt_texts(attempt, path.as_deref());
        let mut present = 0_u32;
        for (bit, text) in texts.iter().enumerate() {
            present |= u32::from(text.is_some()) << bit;
        }
        present |= u32::from(attempt.port.is_some()) << BIT_PORT;
        present |= u32::from(attempt.within_ttl.is_some()) << BIT_WITHIN_TTL;
        out.extend_from_slice(&present.to_le_bytes());
        for (text, (field, class)) in texts.iter().zip(ATTEMPT_TEXTS) {
            if let Some(text) = text {
                push_field(out, key, class, field, text);
            }
        }
        if let Some(port) = attempt.port {
            out.extend_from_slice(&port.to_le_bytes());
        }
        if let Some(within) = attempt.within_ttl {
            out.push(u8::from(within));
        }
    });
}

fn attempt_texts<'a>(attempt: &Attempt<'a>, path: Option<&'a str>) -> [Option<&'a str>; ATTEMPT_TEXTS.len()] {
    [
        attempt.request_id,
        attempt.workload,
        attempt.role,
        attempt.session,
        attempt.requester,
        attempt.credential,
        attempt.credential_type,
        attempt.scope,
        attempt.method,
        attempt.scheme,
        attempt.host,
        attempt.dialled,
        path,
        attempt.lease,
        attempt.action,
        attempt.target,
    ]
}

/// Appends an outcome. At most [`MAX_OUTCOME`] bytes.
pub(crate) fn push_outcome(out: &mut Vec<u8>, key: &FieldKey, attempt: u64, end: u64, outcome: &Outcome<'_>) {
    framed(out, TYPE_OUTCOME, |out| {
        out.extend_from_slice(&attempt.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
        out.push(outcome.verdict.code());
        let flags = [
            outcome.reason.is_some(),
            outcome.duration.is_some(),
            outcome.status.is_some(),
            outcome.bytes_up.is_some(),
            outcome.bytes_down.is_some(),
            outcome.scrubbed.is_some(),
            outcome.lease.is_some(),
            outcome.dialled.is_some(),
        ];
        let mut present = 0_u16;
        for (bit, flag) in flags.into_iter().enumerate() {
            present |= u16::from(flag) << bit;
        }
        out.extend_from_slice(&present.to_le_bytes());
        if let Some(reason) = outcome.reason {
            push_field(out, key, Class::Word, "reason", reason);
        }
        if let Some(duration) = outcome.duration {
            out.extend_from_slice(&duration.to_le_bytes());
        }
        if let Some(status) = outcome.status {
            out.extend_from_slice(&status.to_le_bytes());
        }
        for count in [outcome.bytes_up, outcome.bytes_down].into_iter().flatten() {
            out.extend_from_slice(&count.to_le_bytes());
        }
        if let Some(scrubbed) = outcome.scrubbed {
            out.extend_from_slice(&scrubbed.to_le_bytes());
        }
        if let Some(lease) = outcome.lease {
            push_field(out, key, Class::Name, "lease", lease);
        }
        if let Some(dialled) = outcome.dialled {
            push_field(out, key, Class::Host, "dialled", dialled);
        }
    });
}

/// Appends a mark.
pub(crate) fn push_mark(out: &mut Vec<u8>, mark: &Mark) {
    framed(out, TYPE_MARK, |out| {
        out.push(match mark.kind {
            MarkKind::Begin => 1,
            MarkKind::Gap => 2,
            MarkKind::End => 3,
        });
        out.extend_from_slice(&mark.at.to_le_bytes());
        out.push(match mark.cause {
            None => 0,
            Some(Cause::Crash) => 1,
            Some(Cause::Failure) => 2,
        });
        out.extend_from_slice(&mark.cut.to_le_bytes());
        out.extend_from_slice(&mark.last.to_le_bytes());
    });
}

fn framed(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, kind]);
    body(out);
    let length = out.len().saturating_sub(start).saturating_sub(2);
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start..start.saturating_add(2)) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

/// Takes the next record off the payload; `None` when it is none, or not exactly one.
pub(crate) fn pop(payload: &mut Reader<'_>) -> Option<Record> {
    let length = payload.u16()?;
    let mut body = Reader(payload.take(usize::from(length))?);
    let record = match body.u8()? {
        TYPE_ATTEMPT => Record::Attempt(Box::new(pop_attempt(&mut body)?)),
        TYPE_OUTCOME => Record::Outcome(Box::new(pop_outcome(&mut body)?)),
        TYPE_MARK => Record::Mark(pop_mark(&mut body)?),
        _ => return None,
    };
    body.0.is_empty().then_some(record)
}

fn pop_attempt(body: &mut Reader<'_>) -> Option<AttemptRecord> {
    let kind = Kind::from_code(body.u8()?)?;
    let start = body.u64()?;
    let present = body.u32()?;
    if present >> (BIT_WITHIN_TTL + 1) != 0 {
        return None;
    }
    let mut texts = [const { None }; ATTEMPT_TEXTS.len()];
    for (bit, text) in texts.iter_mut().enumerate() {
        if present >> bit & 1 == 1 {
            *text = Some(body.text()?.to_owned());
        }
    }
    let port = if present >> BIT_PORT & 1 == 1 { Some(body.u16()?) } else { None };
    let within_ttl = if present >> BIT_WITHIN_TTL & 1 == 1 { Some(pop_bool(body)?) } else { None };
    Some(AttemptRecord { kind, start, texts, port, within_ttl })
}

fn pop_outcome(body: &mut Reader<'_>) -> Option<OutcomeRecord> {
    let attempt = body.u64()?;
    let end = body.u64()?;
    let verdict = Verdict::from_code(body.u8()?)?;
    let present = body.u16()?;
    if present >> 8 != 0 {
        return None;
    }
    let has = |bit: u16| present >> bit & 1 == 1;
    Some(OutcomeRecord {
        attempt,
        end,
        verdict,
        reason: if has(0) { Some(body.text()?.to_owned()) } else { None },
        duration: if has(1) { Some(body.u64()?) } else { None },
        status: if has(2) { Some(body.u16()?) } else { None },
        bytes_up: if has(3) { Some(body.u64()?) } else { None },
        bytes_down: if has(4) { Some(body.u64()?) } else { None },
        scrubbed: if has(5) { Some(body.u32()?) } else { None },
        lease: if has(6) { Some(body.text()?.to_owned()) } else { None },
        dialled: if has(7) { Some(body.text()?.to_owned()) } else { None },
    })
}

fn pop_mark(body: &mut Reader<'_>) -> Option<Mark> {
    let kind = match body.u8()? {
        1 => MarkKind::Begin,
        2 => MarkKind::Gap,
        3 => MarkKind::End,
        _ => return None,
    };
    let at = body.u64()?;
    let cause = match body.u8()? {
        0 => None,
        1 => Some(Cause::Crash),
        2 => Some(Cause::Failure),
        _ => return None,
    };
    Some(Mark { kind, at, cause, cut: body.u64()?, last: body.u64()? })
}

fn pop_bool(body: &mut Reader<'_>) -> Option<bool> {
    match body.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// No attempt is longer: sixteen texts, two of 1,024 bytes and the others of at most 256, their lengths, the rest.
pub(crate) const MAX_ATTEMPT: usize = 2 * 1026 + 14 * 258 + 32;
/// No outcome is longer: a word, a name, an address, their lengths, the rest.
pub(crate) const MAX_OUTCOME: usize = 66 + 258 + 257 + 64;

const TYPE_ATTEMPT: u8 = 1;
const TYPE_OUTCOME: u8 = 2;
const TYPE_MARK: u8 = 3;
const BIT_PORT: u32 = ATTEMPT_TEXTS.len() as u32;
const BIT_WITHIN_TTL: u32 = BIT_PORT + 1;
