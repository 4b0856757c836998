//! The byte strings to find, and the search for the next of them.
//!
//! A lease brings one to three sources, each with a dozen to a few dozen spellings of up to several hundred bytes.
//! Two decisions shape this file:
//!
//! * **The fast searcher sees heads only.** It gets the first [`HEAD_LEN`] bytes of each needle, without
//!   duplicates, and finds places where a needle *may* start; [`Needles::judge`] then compares whole needles.
//!   Fewer patterns keep the packed (SIMD) searcher within its limit of 64, the choice between
//!   needles is one plain loop, and foreign memory that cannot be wiped holds heads rather than secrets.
//! * **Only a real start is live.** At the end of a piece a needle of which at least a head has arrived is found
//!   by the same search; only the last `HEAD_LEN - 1` bytes need a look of their own.
//!
//! Cost: a place where a head stands is compared with all needles that have its first byte. Text without heads
//! runs at the searcher's speed; the worst text is a run of heads, and only a secret that repeats itself
//! (`aaaa…`) makes each of those comparisons long.
//!
//! Needles are as good as the secret. What this crate owns is wiped on drop; what cannot be wiped is the
//! searcher's copy of the heads, and the stack.

use std::fmt;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, Input, MatchKind, Span, packed};
use bytes::Bytes;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::encode::Form;

/// The shortest secret, in bytes, that can be a needle. Shorter ones would match by chance and damage what the
/// agent reads.
pub const MIN_NEEDLE_LEN: usize = 8;

/// The longest secret, in bytes, that can be a needle; its spellings may be six times as long.
pub const MAX_VALUE_LEN: usize = 8 * 1024;

/// The most secrets in one set.
pub const MAX_SOURCES: usize = 16;

/// Bytes of each needle that the fast searcher knows. Invariant: at most [`MIN_NEEDLE_LEN`], since every needle
/// has a whole head.
const HEAD_LEN: usize = MIN_NEEDLE_LEN;

/// Above this number of heads the packed searcher refuses or slows down; the automaton that takes its place runs at
/// about a tenth of the speed. One lease has fewer; some five ordinary secrets in one set reach it.
const PACKED_MAX: usize = 64;

/// A secret as it was rendered on the wire, and what to put in its place.
#[derive(Clone, Copy)]
pub struct NeedleSource<'a> {
    /// The credential itself, or a text that contains it as it was rendered: for Basic, give `user:secret` and its
    /// base64 text as sources of their own, so that an echo of the header is found in all spellings too.
    /// [`MIN_NEEDLE_LEN`] to [`MAX_VALUE_LEN`] bytes.
    pub value: &'a [u8],
    /// What stands in its place, whatever the encoding, for example `[writ:github]`. It must suit a header value.
    pub replacement: &'a [u8],
}

/// A set of secrets, in all the spellings that are searched for.
///
/// Where two needles start at the same place the longer one counts, and where two sources have an equal spelling
/// the earlier source's replacement.
pub struct Needles {
    /// By first byte, then the longest first.
    needles: Vec<Needle>,
    /// For each first byte, its part of `needles`.
    by_first: [(u16, u16); 256],
    search: Search,
}

/// Why a set of needles cannot be made. Says which source is at fault, never what it holds.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NeedleFault {
    /// Too short to be found without damage to innocent text: the broker should refuse such a secret.
    #[error("secret {index} is shorter than {MIN_NEEDLE_LEN} bytes, too short to be scrubbed")]
    TooShort {
        /// Position of the source in the list.
        index: usize,
    },
    /// Longer than any credential writ handles.
    #[error("secret {index} is longer than {MAX_VALUE_LEN} bytes, too long to be scrubbed")]
    TooLong {
        /// Position of the source in the list.
        index: usize,
    },
    /// More sources than one response can have.
    #[error("{given} secrets to scrub are more than {MAX_SOURCES}")]
    TooMany {
        /// Length of the list.
        given: usize,
    },
    /// The searcher's own limit, out of reach within the limits above.
    #[error("the searcher for secrets cannot be built")]
    Searcher(#[source] BuildError),
}

impl Needles {
    /// Derives the spellings of all `sources` and prepares the search. An empty list gives a set that finds nothing.
    ///
    /// # Errors
    /// When a secret is shorter than [`MIN_NEEDLE_LEN`] or longer than [`MAX_VALUE_LEN`], or there are more than
    /// [`MAX_SOURCES`].
    pub fn new(sources: &[NeedleSource<'_>]) -> Result<Self, NeedleFault> {
        Self::with_forms(sources, Form::ALL, PACKED_MAX)
    }

    /// As [`Needles::new`], but every replacement has the length of what it replaces: cut short, or filled up with `*`. The
    /// length of a body, and so its framing, stays what the upstream announced.
    ///
    /// # Errors
    /// As [`Needles::new`].
    pub fn same_length(sources: &[NeedleSource<'_>]) -> Result<Self, NeedleFault> {
        let mut needles = Self::new(sources)?;
        for needle in &mut needles.needles {
            let mut filled = vec![b'*'; needle.bytes.len()];
            for (to, from) in filled.iter_mut().zip(&needle.replacement) {
                *to = *from;
            }
            needle.replacement = filled.into();
        }
        Ok(needles)
    }

    /// Replaces every needle in `value`, a whole string such as a header value. `None`: there was none.
    #[must_use]
    pub fn scrub_value(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut clean = Vec::new();
        let mut found = false;
        let rest = self.walk(value, 0, Ending::Known, |gap, needle| {
            found = true;
            clean.extend_from_slice(value.get(gap).unwrap_or_default());
            clean.extend_from_slice(&needle.replacement);
        });
        found.then(|| {
            clean.extend_from_slice(value.get(rest.sent..).unwrap_or_default());
            clean
        })
    }

    /// `packed_max` and `forms` are parameters for tests alone: each searcher and each form is to be seen at work.
    pub(crate) fn with_forms(
        sources: &[NeedleSource<'_>],
        forms: &[Form],
        packed_max: usize,
    ) -> Result<Self, NeedleFault> {
        if sources.len() > MAX_SOURCES {
            return Err(NeedleFault::TooMany { given: sources.len() });
        }
        let mut needles = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            match source.value.len() {
                0..MIN_NEEDLE_LEN => return Err(NeedleFault::TooShort { index }),
                MIN_NEEDLE_LEN..=MAX_VALUE_LEN => {}
                _ => return Err(NeedleFault::TooLong { index }),
            }
            let replacement = Bytes::copy_from_slice(source.replacement);
            for form in forms {
                form.spell(source.value, &mut |bytes| {
                    needles.push(Needle { bytes: bytes.into(), replacement: replacement.clone() });
                });
            }
        }
        Self::from_needles(needles, packed_max)
    }

    fn from_needles(mut needles: Vec<Needle>, packed_max: usize) -> Result<Self, NeedleFault> {
        // Stable: of equal spellings the first source's comes first, and stays.
        needles.sort_by(|a, b| {
            let (first, len) = (a.bytes.first().cmp(&b.bytes.first()), b.bytes.len().cmp(&a.bytes.len()));
            first.then(len).then_with(|| a.bytes.cmp(&b.bytes))
        });
        needles.dedup_by(|later, earlier| later.bytes == earlier.bytes);
        let mut by_first = [(0, 0); 256];
        for (byte, part) in (0u8..=u8::MAX).zip(by_first.iter_mut()) {
            let start = needles.partition_point(|needle| needle.bytes.first() < Some(&byte));
            let end = needles.partition_point(|needle| needle.bytes.first() <= Some(&byte));
            // At most 16 sources of fewer than 100 spellings.
            *part = (u16::try_from(start).unwrap_or(u16::MAX), u16::try_from(end).unwrap_or(u16::MAX));
        }
        let search = Search::new(&heads(&needles), packed_max)?;
        Ok(Self { needles, by_first, search })
    }

    /// Finds the needles of `text` from `from` on, and calls `hit` with the gap before each and the needle.
    pub(crate) fn walk(
        &self,
        text: &[u8],
        from: usize,
        ending: Ending,
        mut hit: impl FnMut(Range<usize>, &Needle),
    ) -> Rest {
        let (mut sent, mut at) = (from, from);
        while let Some(start) = self.next_start(text, at) {
            match self.judge(&[], text.get(start..).unwrap_or_default(), ending) {
                Verdict::Dead => at = start + 1,
                Verdict::Live => return Rest { sent, hold: start },
                Verdict::Hit(needle) => {
                    hit(sent..start, needle);
                    at = start + needle.len();
                    sent = at;
                }
            }
        }
        Rest { sent, hold: text.len() }
    }

    /// What begins with the bytes `head ++ tail`. The longest needle counts, so one that may still become complete
    /// is live even where a shorter one is complete.
    pub(crate) fn judge(&self, head: &[u8], tail: &[u8], ending: Ending) -> Verdict<'_> {
        let Some(&first) = head.first().or(tail.first()) else { return Verdict::Dead };
        for needle in self.starting_with(first) {
            match needle.fit(head, tail) {
                Fit::Whole => return Verdict::Hit(needle),
                Fit::Prefix if ending == Ending::Open => return Verdict::Live,
                Fit::Prefix | Fit::No => {}
            }
        }
        Verdict::Dead
    }

    /// The next place from `at` on where a needle may start, whole or cut off by the end of `text`.
    fn next_start(&self, text: &[u8], at: usize) -> Option<usize> {
        if text.len().saturating_sub(at) >= HEAD_LEN
            && let Some(start) = self.search.next(text, at)
        {
            return Some(start);
        }
        let tail = at.max(text.len().saturating_sub(HEAD_LEN - 1));
        let last = text.get(tail..)?;
        last.iter().position(|&byte| !self.starting_with(byte).is_empty()).map(|place| tail + place)
    }

    fn starting_with(&self, first: u8) -> &[Needle] {
        let (start, end) = self.by_first.get(usize::from(first)).copied().unwrap_or_default();
        self.needles.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needles").field("count", &self.needles.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for NeedleSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeedleSource").finish_non_exhaustive()
    }
}

/// Whether more bytes may follow a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Open,
    Known,
}

/// What a walk leaves: `sent..hold` is clean, and what starts at `hold` waits for more bytes.
pub(crate) struct Rest {
    pub(crate) sent: usize,
    pub(crate) hold: usize,
}

/// What starts at a place.
pub(crate) enum Verdict<'n> {
    /// No needle.
    Dead,
    /// Perhaps a needle: all bytes so far fit one.
    Live,
    /// This needle.
    Hit(&'n Needle),
}

/// One spelling of one secret.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Needle {
    bytes: Box<[u8]>,
    #[zeroize(skip)]
    replacement: Bytes,
}

enum Fit {
    No,
    Prefix,
    Whole,
}

impl Needle {
    /// Never zero: no spelling is shorter than the secret.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn replacement(&self) -> Bytes {
        self.replacement.clone()
    }

    /// Whether `head ++ tail` starts with this needle, or is a prefix of it.
    fn fit(&self, head: &[u8], tail: &[u8]) -> Fit {
        let (ours, theirs) = self.bytes.split_at(self.bytes.len().min(head.len()));
        let seen = theirs.len().min(tail.len());
        // Nothing is equal to nothing: comparing empty slices is left out because glibc's `memcmp` touches their
        // dangling pointers with masked loads, which costs a hundred nanoseconds on some processors.
        let head_fits = head.is_empty() || head.starts_with(ours);
        if !head_fits || (seen > 0 && tail.get(..seen) != theirs.get(..seen)) {
            Fit::No
        } else if seen == theirs.len() {
            Fit::Whole
        } else {
            Fit::Prefix
        }
    }
}

/// The heads of all needles, without duplicates.
fn heads(needles: &[Needle]) -> Vec<&[u8]> {
    let mut heads: Vec<&[u8]> = needles.iter().filter_map(|needle| needle.bytes.get(..HEAD_LEN)).collect();
    heads.sort_unstable();
    heads.dedup();
    heads
}

/// Finds heads. Chosen by hand: left to itself, Aho-Corasick picks an automaton far slower.
enum Search {
    /// There is nothing to find.
    Nothing,
    /// SIMD over up to [`PACKED_MAX`] heads.
    Packed(packed::Searcher),
    /// More heads, or a processor without the instructions.
    Automaton(AhoCorasick),
}

impl Search {
    fn new(heads: &[&[u8]], packed_max: usize) -> Result<Self, NeedleFault> {
        if heads.is_empty() {
            return Ok(Search::Nothing);
        }
        if heads.len() <= packed_max
            && let Some(searcher) = packed::Searcher::new(heads)
        {
            return Ok(Search::Packed(searcher));
        }
        let mut builder = AhoCorasick::builder();
        builder.kind(Some(AhoCorasickKind::DFA)).match_kind(MatchKind::LeftmostFirst);
        builder.build(heads).map(Search::Automaton).map_err(NeedleFault::Searcher)
    }

    /// Where the next head from `at` on starts.
    fn next(&self, text: &[u8], at: usize) -> Option<usize> {
        let found = match self {
            Search::Nothing => None,
            Search::Packed(searcher) => searcher.find_in(text, Span { start: at, end: text.len() }),
            Search::Automaton(automaton) => automaton.find(Input::new(text).range(at..)),
        };
        found.map(|found| found.start())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// One lease has a key, the pair of Basic and the pair's base64. Its heads must fit the packed searcher even
    /// where every habit of every encoder shows, and the searcher must not see more of a needle than its head.
    #[test]
    fn the_searcher_sees_heads_only_and_few() {
        for key in ["sk-proj-Zk3vQ9wXb7LrT2mHcYd8NfGsJ4aPeU6o1iK5", "/+&<>\"'\\=`*~@ ü?~sk-proj"] {
            let pair = format!("x-access-token:{key}");
            let basic = STANDARD.encode(&pair);
            let sources =
                [key, &pair, &basic].map(|value| NeedleSource { value: value.as_bytes(), replacement: b"" });
            let needles = Needles::new(&sources).unwrap();
            let heads = heads(&needles.needles);
            assert!(heads.len() <= PACKED_MAX, "{key}: {}", heads.len());
            assert!(heads.iter().all(|head| head.len() == HEAD_LEN));
        }
    }
}
