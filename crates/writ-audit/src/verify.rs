//! Proof that a log is whole: every stream, block by block, against every signed checkpoint.
//!
//! It trusts the public key and, where given, the anchor; nothing in the folder. What it cannot see without the
//! anchor is the end after the last checkpoint, and a folder that was taken back to an earlier state as a whole.
//! A stream that is being written may end in a block that is not complete yet: that is no problem.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    time::Duration,
};

use crate::{
    Anchor, Hash, StreamName, Verifier,
    block::{self, Block, NoBlock},
    bytes::Reader,
    checkpoint::{CHECKPOINT_FILE, Checkpoint, SIZE},
    problem::{Problem, What},
    record::{self, MarkKind, Record},
    walk::{self, Loaded},
};

/// What [`verify`] found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Every stream, by name.
    pub streams: Vec<StreamReport>,
    /// How many checkpoints were read.
    pub checkpoints: u64,
    /// The last of them: remember it elsewhere, and give it to the next `verify`.
    pub last: Option<Anchor>,
    /// Everything that is wrong. A broken block ends the walk of its stream.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What one stream holds.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct StreamReport {
    /// Its name.
    pub name: String,
    /// Segments that are there.
    pub segments: u64,
    /// Records that were read.
    pub records: u64,
    /// Attempts among them.
    pub attempts: u64,
    /// Outcomes among them.
    pub outcomes: u64,
    /// Places where a crash or a failure may have lost records.
    pub gaps: u64,
    /// Attempts without an outcome.
    pub unknown: u64,
    /// Records behind the last checkpoint, that no signature covers yet.
    pub unsigned: u64,
    /// Somebody is writing it.
    pub live: bool,
}

/// Verifies the log in `dir` with the broker's public key, and with an anchor if there is one.
///
/// It may be called while the log is written. A file that is caught in the middle of a change can look wrong, so with a
/// broker at work a log is wrong only if it stays wrong.
///
/// # Errors
/// Only when the folder or a file in it cannot be read; whatever is wrong with what was read is in the report.
pub fn verify(dir: &Path, key: &Verifier, anchor: Option<&Anchor>) -> io::Result<Report> {
    let mut report = verify_once(dir, key, anchor)?;
    for _ in 1..LIVE_TRIES {
        if report.is_sound() || !walk::is_signed_now(dir)? {
            break;
        }
        std::thread::sleep(LIVE_PAUSE);
        report = verify_once(dir, key, anchor)?;
    }
    Ok(report)
}

fn verify_once(dir: &Path, key: &Verifier, anchor: Option<&Anchor>) -> io::Result<Report> {
    // Checkpoints first: a stream that is being written only grows beyond them.
    let signed = Signed::read(dir, key, anchor)?;
    let listing = walk::list(dir)?;
    let mut report = Report {
        streams: Vec::new(),
        checkpoints: signed.count,
        last: signed.last,
        problems: signed.problems,
    };
    for name in listing.others {
        report.problems.push(in_folder(What::UnknownFile { name }));
    }
    for name in signed.heads.keys().filter(|name| !listing.streams.contains_key(name)) {
        report.problems.push(Problem { stream: Some(name.to_string()), ..in_folder(What::MissingStream) });
    }
    for (name, numbers) in &listing.streams {
        let heads = signed.heads.get(name).map_or(&[][..], Vec::as_slice);
        let mut walk = StreamWalk::new(name, heads);
        walk.run(dir, numbers)?;
        report.streams.push(walk.report);
        report.problems.extend(walk.problems);
    }
    Ok(report)
}

/// How often a log that is being written is looked at before it is called wrong.
const LIVE_TRIES: u32 = 3;
/// Long enough for a new stream's first checkpoint.
const LIVE_PAUSE: Duration = Duration::from_millis(200);

fn in_folder(what: What) -> Problem {
    Problem { stream: None, segment: None, offset: None, sequence: None, what }
}

/// One signed head, as a stream must show it.
struct SignedHead {
    number: u64,
    sequence: u64,
    segment: u32,
    offset: u64,
    hash: Hash,
}

struct Signed {
    heads: BTreeMap<StreamName, Vec<SignedHead>>,
    count: u64,
    last: Option<Anchor>,
    problems: Vec<Problem>,
}

impl Signed {
    fn read(dir: &Path, key: &Verifier, anchor: Option<&Anchor>) -> io::Result<Self> {
        let mut signed = Signed { heads: BTreeMap::new(), count: 0, last: None, problems: Vec::new() };
        let bytes = match std::fs::read(dir.join(CHECKPOINT_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                signed.problems.push(in_folder(What::NoCheckpoints));
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let (whole, rest) = bytes.as_chunks::<SIZE>();
        let mut anchored = false;
        for entry in whole {
            let hash = block::sha256(entry);
            signed.count = signed.count.saturating_add(1);
            signed.take(entry, key);
            signed.last = Some(Anchor { number: signed.count, hash });
            if let Some(anchor) = anchor.filter(|anchor| anchor.number == signed.count) {
                anchored = true;
                if anchor.hash != hash {
                    signed.problem(What::AnchorDiffers { number: anchor.number });
                }
            }
        }
        if !rest.is_empty() {
            signed.count = signed.count.saturating_add(1);
            signed.problem(What::CheckpointTorn);
            signed.count = signed.count.saturating_sub(1);
        }
        if let Some(anchor) = anchor.filter(|_| !anchored) {
            signed.problems.push(in_folder(What::AnchorMissing { number: anchor.number }));
        }
        Ok(signed)
    }

    fn take(&mut self, entry: &[u8; SIZE], key: &Verifier) {
        let number = self.count;
        let Some(checkpoint) = Checkpoint::parse(entry, key) else {
            self.problem(What::CheckpointChanged { number });
            return;
        };
        let previous = self.last.map_or([0; 32], |last| last.hash);
        if checkpoint.number != number || checkpoint.previous != previous {
            self.problem(What::CheckpointOrder { number });
        }
        let head = checkpoint.head;
        self.heads.entry(head.stream).or_default().push(SignedHead {
            number,
            sequence: head.sequence,
            segment: head.segment,
            offset: head.offset,
            hash: head.hash,
        });
    }

    fn problem(&mut self, what: What) {
        let offset = self.count.saturating_sub(1).saturating_mul(SIZE as u64);
        self.problems.push(Problem { offset: Some(offset), ..in_folder(what) });
    }
}

/// The walk of one stream, from its first byte.
struct StreamWalk<'a> {
    name: &'a StreamName,
    heads: &'a [SignedHead],
    next: u64,
    previous: Hash,
    signed_up_to: u64,
    open: HashSet<u64>,
    report: StreamReport,
    problems: Vec<Problem>,
}

/// Whether a walk goes on.
enum Step {
    On,
    Stop,
}

impl<'a> StreamWalk<'a> {
    fn new(name: &'a StreamName, heads: &'a [SignedHead]) -> Self {
        let report = StreamReport { name: name.to_string(), ..StreamReport::default() };
        Self {
            name,
            heads,
            next: 1,
            previous: [0; 32],
            signed_up_to: 0,
            open: HashSet::new(),
            report,
            problems: Vec::new(),
        }
    }

    fn run(&mut self, dir: &Path, numbers: &[u32]) -> io::Result<()> {
        if self.heads.is_empty() {
            self.problem(0, 0, What::UnknownStream);
        }
        let last = numbers.last().copied().unwrap_or(0);
        let missing = (1..=last).find(|number| numbers.binary_search(number).is_err());
        if let Some(missing) = missing {
            self.problem(missing, 0, What::MissingSegment);
        }
        self.report.segments = numbers.len() as u64;
        for number in numbers.iter().take_while(|number| missing.is_none_or(|missing| **number < missing)) {
            let loaded = walk::load(dir, self.name, *number, 0)?;
            self.report.live = loaded.live;
            if let Step::Stop = self.segment(*number, *number == last, &loaded) {
                return Ok(());
            }
        }
        if missing.is_none() {
            self.end(last);
        }
        Ok(())
    }

    fn segment(&mut self, number: u32, is_last: bool, loaded: &Loaded) -> Step {
        let mut rest = loaded.bytes.as_slice();
        loop {
            let offset = loaded.bytes.len().saturating_sub(rest.len()) as u64;
            let block = match block::parse(rest) {
                Ok(block) => block,
                Err(NoBlock::Padding) if offset == 0 && !is_last => {
                    return self.stop(number, offset, What::EmptySegment);
                }
                Err(NoBlock::Padding) => return Step::On,
                Err(_) if is_last && loaded.live => return Step::On,
                Err(fault) => {
                    let torn = is_last && !block::follows(rest, self.name);
                    let what = match fault {
                        _ if torn => What::TornEnd,
                        NoBlock::Hash => What::Changed,
                        _ => What::NotABlock,
                    };
                    return self.stop(number, offset, what);
                }
            };
            let size = usize::try_from(block.header.size()).unwrap_or(usize::MAX);
            rest = rest.get(size..).unwrap_or_default();
            if let Step::Stop = self.block(number, offset, &block) {
                return Step::Stop;
            }
        }
    }

    fn block(&mut self, number: u32, offset: u64, block: &Block<'_>) -> Step {
        let header = &block.header;
        if header.stream != self.name.field() || header.segment != number {
            let stream = StreamName::from_field(&header.stream).map(|name| name.to_string());
            let what = What::Foreign { stream: stream.unwrap_or_default(), segment: header.segment };
            return self.stop(number, offset, what);
        }
        if header.previous != self.previous {
            return self.stop(number, offset, What::BrokenChain);
        }
        if header.first != self.next {
            let what = What::Sequence { expected: self.next, found: header.first };
            return self.stop(number, offset, what);
        }
        let mut payload = Reader(block.payload);
        for _ in 0..header.count {
            match record::pop(&mut payload) {
                Some(record) => self.record(number, offset, &record),
                None => return self.stop(number, offset, What::Record),
            }
            self.next = self.next.saturating_add(1);
        }
        if !payload.0.is_empty() {
            return self.stop(number, offset, What::Record);
        }
        self.previous = block.hash;
        self.checkpoints(number, offset.saturating_add(header.size()))
    }

    fn record(&mut self, number: u32, offset: u64, record: &Record) {
        self.report.records = self.report.records.saturating_add(1);
        match record {
            Record::Attempt(_) => {
                self.report.attempts = self.report.attempts.saturating_add(1);
                self.open.insert(self.next);
            }
            Record::Outcome(outcome) => {
                self.report.outcomes = self.report.outcomes.saturating_add(1);
                if !self.open.remove(&outcome.attempt) {
                    self.problem(number, offset, What::Orphan { attempt: outcome.attempt });
                }
            }
            Record::Mark(mark) => {
                self.forget_open();
                self.report.gaps = self.report.gaps.saturating_add(u64::from(mark.kind == MarkKind::Gap));
            }
        }
    }

    fn forget_open(&mut self) {
        self.report.unknown = self.report.unknown.saturating_add(self.open.len() as u64);
        self.open.clear();
    }

    /// Compares the end of a block with the checkpoints that name it, or should have.
    fn checkpoints(&mut self, number: u32, offset: u64) -> Step {
        let last = self.next.saturating_sub(1);
        while let Some((head, rest)) = self.heads.split_first().filter(|(head, _)| head.sequence <= last) {
            self.heads = rest;
            let same = head.sequence == last
                && head.hash == self.previous
                && head.segment == number
                && head.offset == offset;
            if !same {
                return self.stop(number, offset, What::CheckpointDiffers { number: head.number });
            }
            self.signed_up_to = last;
        }
        Step::On
    }

    fn end(&mut self, last_segment: u32) {
        if !self.report.live {
            self.forget_open();
        }
        self.report.unsigned = self.next.saturating_sub(1).saturating_sub(self.signed_up_to);
        if let Some(head) = self.heads.first() {
            let what = What::Truncated { number: head.number, signed: head.sequence };
            self.problem(last_segment, 0, what);
        }
    }

    fn stop(&mut self, segment: u32, offset: u64, what: What) -> Step {
        self.problem(segment, offset, what);
        Step::Stop
    }

    fn problem(&mut self, segment: u32, offset: u64, what: What) {
        self.problems.push(Problem {
            stream: Some(self.name.to_string()),
            segment: (segment > 0).then_some(segment),
            offset: (segment > 0).then_some(offset),
            sequence: Some(self.next),
            what,
        });
    }
}
