//! What `verify` can find, in words: where it is, what is wrong, and what to do.

use std::fmt;

/// One finding of [`crate::verify`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The stream; `None` for the checkpoints and the folder.
    pub stream: Option<String>,
    /// The segment's number.
    pub segment: Option<u32>,
    /// Byte in the segment's file, or in the file of checkpoints.
    pub offset: Option<u64>,
    /// Sequence number of the record at which it shows.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub what: What,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(stream) = &self.stream {
            write!(f, "stream `{stream}`")?;
            separator = ", ";
        }
        if let Some(segment) = self.segment {
            write!(f, "{separator}segment {segment}")?;
            separator = ", ";
        }
        if let Some(offset) = self.offset {
            write!(f, "{separator}byte {offset}")?;
            separator = ", ";
        }
        if let Some(sequence) = self.sequence {
            write!(f, "{separator}record {sequence}")?;
            separator = ", ";
        }
        let colon = if separator.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}. {}", self.what, self.what.advice())
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum What {
    /// Neither a block nor zeros.
    #[error("these bytes are neither a block nor the zeros behind the last one")]
    NotABlock,
    /// Neither a block nor zeros, at the very end, and nobody is writing.
    #[error("the last block is torn, or was changed, and no writ is writing")]
    TornEnd,
    /// The block's hash is not that of its bytes.
    #[error("the block was changed: its hash is not that of its bytes")]
    Changed,
    /// A block that belongs elsewhere.
    #[error("this block belongs to stream `{stream}`, segment {segment}")]
    Foreign {
        /// Where it says that it belongs.
        stream: String,
        /// The segment that it says it belongs to.
        segment: u32,
    },
    /// A block that does not follow the one before.
    #[error("the block does not follow the one before it: a block is missing, added, or in another order")]
    BrokenChain,
    /// The numbers jump.
    #[error("record {expected} should be here, and it is {found}: records are missing or repeated")]
    Sequence {
        /// What should come.
        expected: u64,
        /// What comes.
        found: u64,
    },
    /// A record under a right hash that is none.
    #[error(
        "a record cannot be read, although its block is whole: another version wrote it, or a forger did"
    )]
    Record,
    /// An outcome whose attempt is not there, or that has one already.
    #[error("an outcome without an open attempt ({attempt})")]
    Orphan {
        /// The attempt that it speaks of.
        attempt: u64,
    },
    /// A segment's file is not there.
    #[error("the segment's file is missing")]
    MissingSegment,
    /// A segment in the middle holds nothing.
    #[error("the segment holds no block, and another follows")]
    EmptySegment,
    /// All files of a stream are missing.
    #[error("checkpoints speak of this stream, and it has no files")]
    MissingStream,
    /// A stream without a checkpoint.
    #[error("no checkpoint speaks of this stream: the checkpoints were cut, or the stream was planted")]
    UnknownStream,
    /// A file that no log has.
    #[error("`{name}` is no file of an audit log")]
    UnknownFile {
        /// Its name.
        name: String,
    },
    /// The stream is not what was signed.
    #[error("checkpoint {number} signed another block for this place: what was signed is gone")]
    CheckpointDiffers {
        /// The checkpoint's number.
        number: u64,
    },
    /// The stream ends before what was signed.
    #[error("checkpoint {number} signed records up to {signed}, and the stream ends before: its end was cut")]
    Truncated {
        /// The checkpoint's number.
        number: u64,
        /// The sequence that it signed.
        signed: u64,
    },
    /// The file of checkpoints is not there.
    #[error("the file of checkpoints is missing")]
    NoCheckpoints,
    /// A checkpoint that was not signed.
    #[error("checkpoint {number} was changed, or another key signed it")]
    CheckpointChanged {
        /// Its place in the file.
        number: u64,
    },
    /// A checkpoint that does not follow the one before.
    #[error(
        "checkpoint {number} does not follow the one before it: one is missing, repeated, or in another order"
    )]
    CheckpointOrder {
        /// Its place in the file.
        number: u64,
    },
    /// The file of checkpoints does not end with a whole one.
    #[error("the last checkpoint is cut")]
    CheckpointTorn,
    /// The anchor is not in the file.
    #[error("checkpoint {number} is remembered outside of the log, and is not in the file: its end was cut")]
    AnchorMissing {
        /// The anchor's number.
        number: u64,
    },
    /// The anchor is another in the file.
    #[error("checkpoint {number} is remembered outside of the log with another hash: the log was replaced")]
    AnchorDiffers {
        /// The anchor's number.
        number: u64,
    },
}

impl What {
    /// What to do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            What::TornEnd | What::CheckpointTorn => {
                "If writ was killed, start it: it cuts the torn end and records a gap; then verify again. \
                 If it was not, treat it as tampering"
            }
            What::UnknownStream => {
                "If writ was killed while it started, start it and verify again. If not, treat it as tampering"
            }
            What::UnknownFile { .. } => "Move it out of the audit folder, and find out who put it there",
            What::CheckpointChanged { .. } => {
                "Check that the public key is this log's. If it is, treat it as tampering: keep a copy of the \
                 folder and restore from a backup"
            }
            What::Record | What::Orphan { .. } => {
                "Verify with the version of writ that wrote it. If it says the same, treat it as tampering"
            }
            _ => {
                "Treat it as tampering or a failing disk: keep a copy of the folder, look for the missing part \
                 in a backup, and rotate the credentials that were used since the last sound record"
            }
        }
    }
}
