//! Why the log cannot take a record.
//!
//! One fault stops a stream: after it every `open` answers the same until the stream is reopened, because a log
//! that lost one record cannot promise the next (*no record, no credential*). The texts are safe for callers: they
//! name the stream and the segment's number, never a path and never a value.

use std::io;

use crate::StreamName;

/// What the log thread was doing when the operating system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Listing or locking the stream's segments.
    Find,
    /// Opening or reading back a segment.
    Read,
    /// Creating or preallocating a segment.
    Create,
    /// Cutting a torn or padded end.
    Cut,
    /// Writing a block.
    Write,
    /// Waiting for the disk (`fdatasync`).
    Sync,
    /// Appending a signed checkpoint.
    Checkpoint,
    /// Starting the log thread.
    Start,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Step::Find => "find",
            Step::Read => "read",
            Step::Create => "create",
            Step::Cut => "cut the end of",
            Step::Write => "write to",
            Step::Sync => "sync",
            Step::Checkpoint => "sign a checkpoint of",
            Step::Start => "start the thread of",
        }
    }
}

/// Why a record was not taken. Each is a refusal of the request that wanted to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// The bounded queue is full, or too many entries are open. The only fault that passes by itself.
    #[error(
        "the audit log `{stream}` is full: the disk does not keep up; retry, and look at the disk's load"
    )]
    Full {
        /// The stream whose queue is full.
        stream: StreamName,
    },
    /// The operating system refused; the stream takes nothing until it is reopened.
    #[error("the audit log `{stream}` failed: cannot {} segment {segment}: {kind}{}; free the disk or repair it, then restart writ",
        step.as_str(), code.map(|code| format!(" (os error {code})")).unwrap_or_default())]
    Failed {
        /// The stream that failed.
        stream: StreamName,
        /// The number of the segment at work; 0 before the first.
        segment: u32,
        /// What was being done.
        step: Step,
        /// The class of the error.
        kind: io::ErrorKind,
        /// The system's own number for it, where there is one.
        code: Option<i32>,
    },
    /// The segment's file was deleted, or another stands in its place.
    #[error(
        "the audit log `{stream}` failed: the file of segment {segment} is gone or was replaced; run `writ audit verify`, then restart writ"
    )]
    Gone {
        /// The stream that failed.
        stream: StreamName,
        /// The number of the segment whose file is gone.
        segment: u32,
    },
    /// What is on disk cannot be the remains of a crash; the stream is not opened over it.
    #[error(
        "the audit log `{stream}` is damaged at segment {segment}, byte {offset}, and not as a crash would; run `writ audit verify`, keep the files, and start with an empty folder"
    )]
    Damaged {
        /// The stream that is damaged.
        stream: StreamName,
        /// The number of the damaged segment.
        segment: u32,
        /// Where in the segment's file.
        offset: u64,
    },
    /// Another process writes this stream.
    #[error("the audit log `{stream}` is in use by another writ; stop that one first")]
    InUse {
        /// The stream that is locked.
        stream: StreamName,
    },
    /// The stream was closed.
    #[error("the audit log `{stream}` is closed")]
    Closed {
        /// The stream that is closed.
        stream: StreamName,
    },
}

impl LogFault {
    pub(crate) fn failed(stream: &StreamName, segment: u32, step: Step, error: &io::Error) -> Self {
        LogFault::Failed {
            stream: stream.clone(),
            segment,
            step,
            kind: error.kind(),
            code: error.raw_os_error(),
        }
    }
}
