//! The state of one stream between two of its pieces.
//!
//! ```text
//! …bytes that are out│ held: fits the start of a needle │ next piece …
//!                    └ at most the longest needle less one byte
//! ```
//!
//! Bytes wait only while they *are* the start of a needle (a live prefix), never as a fixed tail: a stream of
//! events is not delayed, and a piece without a hit leaves as the buffer it came in.
//!
//! Invariant: what came out, plus what is held, is the leftmost-longest replacement of what went in, however the
//! input was cut. `tests.rs` checks it against an oracle.
//!
//! Absent: time (the proxy owns the timer), decompression, and the logical text inside events: a secret that an
//! upstream spreads over two JSON events is not one string of bytes.

use std::fmt;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use crate::needles::{Ending, Needles, Verdict};

/// Replaces needles in one stream of bytes, such as the body of a response.
///
/// The held bytes are not wiped when the scrubber goes away: they came from the network's buffers.
pub struct Scrubber {
    needles: Arc<Needles>,
    held: Vec<u8>,
    hits: u64,
}

impl Scrubber {
    /// A scrubber at the start of a stream.
    #[must_use]
    pub fn new(needles: Arc<Needles>) -> Self {
        Self { needles, held: Vec::new(), hits: 0 }
    }

    /// Takes the next piece of the stream, and puts into `out` whatever can leave, in order; never an empty piece.
    ///
    /// A piece without a hit, without a live prefix at its end, and with nothing held before it, leaves as the
    /// same buffer. Otherwise it leaves in slices of that buffer with replacements between them; only held bytes
    /// are copied.
    pub fn push(&mut self, piece: Bytes, out: &mut impl Extend<Bytes>) {
        if let Some(eaten) = self.settle(&piece, out) {
            self.sweep(piece, eaten, out);
        }
    }

    /// How many bytes wait for the next piece. They are the start of a needle.
    #[must_use]
    pub fn hold(&self) -> usize {
        self.held.len()
    }

    /// How many needles were replaced so far. Each is an event that the operator should hear of.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Lets go of what is held, at the end of the stream or when it has waited too long. The stream may go on.
    ///
    /// A needle that lies across the flush is **not found**: its start is out. On a timer, therefore, flush while
    /// [`hold`](Self::hold) is below [`MIN_NEEDLE_LEN`](crate::MIN_NEEDLE_LEN), which innocent text reaches only
    /// by a vendor's prefix, and let a longer hold wait for the next piece or the end.
    pub fn flush(&mut self, out: &mut impl Extend<Bytes>) {
        let held = Bytes::from(mem::take(&mut self.held));
        let rest = self.needles.walk(&held, 0, Ending::Known, |gap, needle| {
            self.hits = self.hits.saturating_add(1);
            emit(held.slice(gap), out);
            emit(needle.replacement(), out);
        });
        emit(held.slice(rest.sent..), out);
    }

    /// Decides what starts within the held bytes, now that `piece` follows them. Returns how many bytes of the
    /// piece went into a replacement; `None` when the whole piece is held too.
    fn settle(&mut self, piece: &[u8], out: &mut impl Extend<Bytes>) -> Option<usize> {
        let (mut sent, mut at) = (0, 0);
        while let Some(head) = self.held.get(at..).filter(|head| !head.is_empty()) {
            match self.needles.judge(head, piece, Ending::Open) {
                Verdict::Dead => at += 1,
                Verdict::Live => {
                    emit(copy(&self.held, sent, at), out);
                    self.held.drain(..at);
                    self.held.extend_from_slice(piece);
                    return None;
                }
                Verdict::Hit(needle) => {
                    self.hits = self.hits.saturating_add(1);
                    emit(copy(&self.held, sent, at), out);
                    emit(needle.replacement(), out);
                    at += needle.len();
                    sent = at;
                }
            }
        }
        emit(copy(&self.held, sent, self.held.len()), out);
        let eaten = at.saturating_sub(self.held.len());
        self.held.clear();
        Some(eaten)
    }

    /// Scrubs `piece` from `from` on, with nothing held before it, and holds the live prefix at its end.
    fn sweep(&mut self, piece: Bytes, from: usize, out: &mut impl Extend<Bytes>) {
        let rest = self.needles.walk(&piece, from, Ending::Open, |gap, needle| {
            self.hits = self.hits.saturating_add(1);
            emit(piece.slice(gap), out);
            emit(needle.replacement(), out);
        });
        self.held.extend_from_slice(piece.get(rest.hold..).unwrap_or_default());
        if rest.sent == 0 && rest.hold == piece.len() {
            emit(piece, out);
        } else {
            emit(piece.slice(rest.sent..rest.hold), out);
        }
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Scrubber");
        debug.field("needles", &self.needles).field("hold", &self.held.len()).field("hits", &self.hits);
        debug.finish_non_exhaustive()
    }
}

fn emit(bytes: Bytes, out: &mut impl Extend<Bytes>) {
    if !bytes.is_empty() {
        out.extend([bytes]);
    }
}

/// Held bytes as a piece of their own.
fn copy(held: &[u8], start: usize, end: usize) -> Bytes {
    Bytes::copy_from_slice(held.get(start..end).unwrap_or_default())
}
