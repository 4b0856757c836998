//! The stream on disk: recovery, appending, rotation. No thread, no queue.
//!
//! Invariant: a block is written and synced before the next one is written, so a crash leaves at most one torn
//! block, at the end. Recovery therefore cuts one torn end and says so with a gap record; anything else that is
//! wrong is damage, and damage is not built upon.

use std::io;

use crate::{
    Hash, Head, LogFault, SegmentFile, SegmentSource, Step, StreamName,
    block::{self, HEADER, Header, NoBlock},
    bytes::Reader,
    record::{self, Cause, Mark, MarkKind, Record},
};

/// The writing end of a stream.
pub(crate) struct Chain {
    name: StreamName,
    file: Box<dyn SegmentFile>,
    segment: u32,
    segment_bytes: u64,
    offset: u64,
    next: u64,
    previous: Hash,
}

/// What opens a stream, and what it says if there was no clean end before.
#[derive(Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) segment_bytes: u64,
    pub(crate) at: u64,
    pub(crate) gap: Cause,
}

impl Chain {
    /// Opens the stream after its last whole block and appends the record that says how it was found.
    pub(crate) fn open(
        name: &StreamName,
        source: &mut dyn SegmentSource,
        opening: Opening,
    ) -> Result<Self, LogFault> {
        let last = source.last().map_err(|error| LogFault::failed(name, 0, Step::Find, &error))?;
        let (mut chain, mark) = match last {
            None => Self::create(name, source, opening)?,
            Some(segment) => Self::recover(name, source, segment, opening)?,
        };
        let mut buffer = vec![0; HEADER];
        record::push_mark(&mut buffer, &mark);
        chain.append(source, &mut buffer, 1, opening.at)?;
        Ok(chain)
    }

    fn create(
        name: &StreamName,
        source: &mut dyn SegmentSource,
        opening: Opening,
    ) -> Result<(Self, Mark), LogFault> {
        let file = source
            .create(1, opening.segment_bytes)
            .map_err(|error| LogFault::failed(name, 1, Step::Create, &error))?;
        let chain = Self {
            name: name.clone(),
            file,
            segment: 1,
            segment_bytes: opening.segment_bytes,
            offset: 0,
            next: 1,
            previous: [0; 32],
        };
        Ok((chain, Mark { kind: MarkKind::Begin, at: opening.at, cause: None, cut: 0, last: 0 }))
    }

    fn recover(
        name: &StreamName,
        source: &mut dyn SegmentSource,
        segment: u32,
        opening: Opening,
    ) -> Result<(Self, Mark), LogFault> {
        let file = open_segment(name, source, segment)?;
        let bytes = file.read().map_err(|error| LogFault::failed(name, segment, Step::Read, &error))?;
        let found = scan(name, segment, &bytes)?;
        let last = match found.last {
            None if segment > 1 => scan_whole(name, source, segment.saturating_sub(1))?,
            last => last,
        };
        let failed = |step| move |error| LogFault::failed(name, segment, step, &error);
        if let Some(block) = found.last_block(&bytes) {
            // A sync that failed may have left this block in memory only, marked as written: write it again.
            file.write_at(block, found.last_start).map_err(failed(Step::Write))?;
        }
        file.cut(found.end).map_err(failed(Step::Cut))?;
        file.reserve(opening.segment_bytes).map_err(failed(Step::Create))?;
        let clean = found.cut == 0 && last.is_some_and(|last| last.ended);
        let mark = Mark {
            kind: if clean { MarkKind::Begin } else { MarkKind::Gap },
            at: opening.at,
            cause: (!clean).then_some(opening.gap),
            cut: found.cut,
            last: last.map_or(0, |last| last.at),
        };
        let chain = Self {
            name: name.clone(),
            file,
            segment,
            segment_bytes: opening.segment_bytes,
            offset: found.end,
            next: last.map_or(1, |last| last.sequence.saturating_add(1)),
            previous: last.map_or([0; 32], |last| last.hash),
        };
        Ok((chain, mark))
    }

    /// Sequence that the next record gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Number of the segment that is being written.
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// Appends `buffer` ([`HEADER`] bytes of room, then `count` records) as one block, and syncs it.
    /// Says also whether it went into a new segment.
    pub(crate) fn append(
        &mut self,
        source: &mut dyn SegmentSource,
        buffer: &mut Vec<u8>,
        count: u32,
        at: u64,
    ) -> Result<Head, LogFault> {
        self.check()?;
        let size = (buffer.len() as u64).saturating_add(block::TRAILER as u64);
        if self.offset > 0 && self.offset.saturating_add(size) > self.segment_bytes {
            self.rotate(source)?;
        }
        let header = Header {
            segment: self.segment,
            count,
            length: u32::try_from(buffer.len().saturating_sub(HEADER)).unwrap_or(u32::MAX),
            first: self.next,
            at,
            stream: self.name.field(),
            previous: self.previous,
        };
        let hash = block::seal(buffer, &header);
        self.file.write_at(buffer, self.offset).map_err(|error| self.failed(Step::Write, &error))?;
        self.file.sync().map_err(|error| self.failed(Step::Sync, &error))?;
        self.check()?;
        self.offset = self.offset.saturating_add(size);
        self.next = self.next.saturating_add(u64::from(count));
        self.previous = hash;
        Ok(self.head())
    }

    /// The end of what is durable.
    pub(crate) fn head(&self) -> Head {
        Head {
            stream: self.name.clone(),
            segment: self.segment,
            offset: self.offset,
            sequence: self.next.saturating_sub(1),
            hash: self.previous,
        }
    }

    /// Fails unless the file is still there.
    pub(crate) fn check(&self) -> Result<(), LogFault> {
        match self.file.present() {
            Ok(true) => Ok(()),
            Ok(false) => Err(LogFault::Gone { stream: self.name.clone(), segment: self.segment }),
            Err(error) => Err(self.failed(Step::Find, &error)),
        }
    }

    /// Appends the record of a clean end and cuts the padding.
    pub(crate) fn end(&mut self, source: &mut dyn SegmentSource, at: u64) -> Result<Head, LogFault> {
        let mut buffer = vec![0; HEADER];
        let mark = Mark { kind: MarkKind::End, at, cause: None, cut: 0, last: 0 };
        record::push_mark(&mut buffer, &mark);
        let head = self.append(source, &mut buffer, 1, at)?;
        self.file.cut(self.offset).map_err(|error| self.failed(Step::Cut, &error))?;
        Ok(head)
    }

    fn rotate(&mut self, source: &mut dyn SegmentSource) -> Result<(), LogFault> {
        self.file.cut(self.offset).map_err(|error| self.failed(Step::Cut, &error))?;
        let number = self.segment.saturating_add(1);
        let file = source
            .create(number, self.segment_bytes)
            .map_err(|error| LogFault::failed(&self.name, number, Step::Create, &error))?;
        (self.file, self.segment, self.offset) = (file, number, 0);
        Ok(())
    }

    fn failed(&self, step: Step, error: &io::Error) -> LogFault {
        LogFault::failed(&self.name, self.segment, step, error)
    }
}

/// The last whole block of a segment.
#[derive(Clone, Copy)]
struct Last {
    sequence: u64,
    hash: Hash,
    at: u64,
    /// Its last record is the mark of a clean end.
    ended: bool,
}

struct Found {
    last: Option<Last>,
    /// Where the last whole block begins.
    last_start: u64,
    /// Where the whole blocks end.
    end: u64,
    /// Bytes behind that are neither blocks nor padding.
    cut: u64,
}

impl Found {
    fn last_block<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.last?;
        bytes.get(usize::try_from(self.last_start).ok()?..usize::try_from(self.end).ok()?)
    }
}

fn open_segment(
    name: &StreamName,
    source: &mut dyn SegmentSource,
    segment: u32,
) -> Result<Box<dyn SegmentFile>, LogFault> {
    source.open(segment).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => LogFault::InUse { stream: name.clone() },
        _ => LogFault::failed(name, segment, Step::Read, &error),
    })
}

/// The last block of a segment that another follows: it must be whole.
fn scan_whole(
    name: &StreamName,
    source: &mut dyn SegmentSource,
    segment: u32,
) -> Result<Option<Last>, LogFault> {
    let file = open_segment(name, source, segment)?;
    let bytes = file.read().map_err(|error| LogFault::failed(name, segment, Step::Read, &error))?;
    let found = scan(name, segment, &bytes)?;
    match found.last {
        Some(last) if found.cut == 0 => Ok(Some(last)),
        _ => Err(LogFault::Damaged { stream: name.clone(), segment, offset: found.end }),
    }
}

fn scan(name: &StreamName, segment: u32, bytes: &[u8]) -> Result<Found, LogFault> {
    let mut rest = bytes;
    let mut last: Option<Last> = None;
    let mut last_start = 0;
    loop {
        let end = bytes.len().saturating_sub(rest.len()) as u64;
        let damaged = || LogFault::Damaged { stream: name.clone(), segment, offset: end };
        let block = match block::parse(rest) {
            Ok(block) => block,
            Err(NoBlock::Padding) => return Ok(Found { last, last_start, end, cut: 0 }),
            Err(_) if block::follows(rest, name) => return Err(damaged()),
            Err(_) => return Ok(Found { last, last_start, end, cut: torn_length(rest) }),
        };
        let fits = block.header.stream == name.field()
            && block.header.segment == segment
            && last.is_none_or(|last| {
                block.header.previous == last.hash && block.header.first == last.sequence.saturating_add(1)
            });
        if !fits {
            return Err(damaged());
        }
        last_start = end;
        last = Some(Last {
            sequence: block.header.last(),
            hash: block.hash,
            at: block.header.at,
            ended: ends(block.payload),
        });
        rest =
            rest.get(usize::try_from(block.header.size()).map_err(|_| damaged())?..).ok_or_else(damaged)?;
    }
}

fn ends(payload: &[u8]) -> bool {
    let mut reader = Reader(payload);
    let mut ended = false;
    while let Some(record) = record::pop(&mut reader) {
        ended = matches!(record, Record::Mark(Mark { kind: MarkKind::End, .. }));
    }
    ended
}

/// Bytes up to the last that is not zero.
fn torn_length(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}
