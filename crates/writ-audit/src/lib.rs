//! The audit log of writ: who asked for which credential, what became of it, and proof that nothing was changed.
//!
//! ```text
//! Stream::open(attempt) ─► queue ─► log thread ─► block ─► segment file ─► checkpoint, signed
//!        └► Entry::close(outcome) ─┘   one per writer   SHA-256 chain              │
//!                                                             verify ◄────────────┤
//!                                      Events ◄── attempt + outcome ◄── records ◄──┘
//! ```
//!
//! It is a crate of its own because the broker and the proxy both write and the proxy never links the broker; the
//! `writ` binary reads and verifies. It knows none of their types: primitives and strings at the boundary, OS
//! threads inside, no runtime. The format on disk is `spec/audit.md`; why it is so is
//! `docs/adr/0006-audit-streams-and-blocks.md`.
//!
//! What is absent: deleting old segments, shipping them elsewhere, more than one signing key, and SQL.

mod block;
mod bytes;
mod chain;
mod checkpoint;
mod event;
mod fault;
#[cfg(test)]
mod forged;
mod log;
mod model;
mod problem;
mod queue;
mod read;
mod record;
mod redact;
mod segment;
mod sign;
mod stream;
mod ticket;
#[cfg(test)]
mod vectors;
mod verify;
mod walk;

pub use checkpoint::{Anchor, CHECKPOINT_FILE, CHECKPOINT_INTERVAL, CheckpointFault, CheckpointLog};
pub use event::{Actor, Ending, Event, Filter, NO_OUTCOME, Resource};
pub use fault::{LogFault, Step};
pub use model::{Attempt, Hash, Head, Kind, Outcome, PathView, StreamName, StreamNameError, Verdict};
pub use problem::{Problem, What};
pub use queue::{MAX_OPEN_ENTRIES, QUEUE_BYTES};
pub use read::{Events, ReadFault, Tail};
pub use redact::FieldKey;
pub use segment::{SegmentDir, SegmentFile, SegmentSource};
pub use sign::{KeyError, Signer, Verifier};
pub use stream::{
    DROPPED, Entry, HeadSink, Moment, OpenDurable, SEGMENT_BYTES, SYNC_DELAY, Stream, StreamConfig, WallClock,
};
pub use ticket::Ticket;
pub use verify::{Report, StreamReport, verify};
