//! Reading a log back as events: all of it once, or what is new, again and again.
//!
//! Streams are read block by block, each checked against its hash and its predecessor, joined attempt to outcome,
//! and merged by the time at which events ended. Reading is no proof (signatures and checkpoints are `verify`'s), but
//! a broken block stops it. Absent: an index; a query reads everything.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
};

use crate::{
    Event, Hash, StreamName,
    block::{self, NoBlock},
    bytes::Reader,
    record::{self, AttemptRecord, MarkKind, Record},
    segment::file_name,
    walk,
};

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// The operating system refused.
    #[error("cannot read the audit log")]
    Io(#[from] io::Error),
    /// What is there is not what was written.
    #[error(
        "the audit log `{stream}` is damaged in segment {segment} at byte {offset}; run `writ audit verify`"
    )]
    Damaged {
        /// The stream.
        stream: StreamName,
        /// The segment's number.
        segment: u32,
        /// Where in the segment's file.
        offset: u64,
    },
}

/// All events of a log, in the order in which they ended; those without an outcome last in their stream.
pub struct Events {
    cursors: Vec<Cursor>,
}

impl Events {
    /// Reads the log in `dir` as it is now.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn read(dir: &Path) -> Result<Self, ReadFault> {
        let listing = walk::list(dir)?;
        Ok(Self { cursors: listing.streams.into_keys().map(|name| Cursor::new(dir, name)).collect() })
    }
}

impl Iterator for Events {
    type Item = Result<Event, ReadFault>;

    fn next(&mut self) -> Option<Self::Item> {
        for cursor in &mut self.cursors {
            if let Err(fault) = cursor.fill_or_end() {
                self.cursors.clear();
                return Some(Err(fault));
            }
        }
        pop_earliest(&mut self.cursors).map(Ok)
    }
}

/// What is new in a log since the last look.
pub struct Tail {
    dir: PathBuf,
    cursors: Vec<Cursor>,
}

impl Tail {
    /// A tail whose first look returns everything there is.
    #[must_use]
    pub fn from_start(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), cursors: Vec::new() }
    }

    /// A tail that returns only what ends after this call. Reads the log once, to know what is open.
    ///
    /// # Errors
    /// As [`Tail::poll`].
    pub fn from_now(dir: &Path) -> Result<Self, ReadFault> {
        let mut tail = Self::from_start(dir);
        tail.poll()?;
        Ok(tail)
    }

    /// The events that have ended since the last call, of streams old and new, without waiting. A caller that
    /// follows calls it a few times a second: records reach the disk within 100 ms.
    ///
    /// # Errors
    /// When a file cannot be read, or is damaged.
    pub fn poll(&mut self) -> Result<Vec<Event>, ReadFault> {
        for name in walk::list(&self.dir)?.streams.into_keys() {
            if !self.cursors.iter().any(|cursor| cursor.name == name) {
                self.cursors.push(Cursor::new(&self.dir, name));
            }
        }
        for cursor in &mut self.cursors {
            while cursor.advance()? {}
        }
        Ok(std::iter::from_fn(|| pop_earliest(&mut self.cursors)).collect())
    }
}

fn pop_earliest(cursors: &mut [Cursor]) -> Option<Event> {
    let ended = |cursor: &&mut Cursor| cursor.ready.front().map(Event::ended);
    let cursor = cursors.iter_mut().filter(|cursor| !cursor.ready.is_empty()).min_by_key(ended)?;
    cursor.ready.pop_front()
}

/// A place in a stream, and what is open there.
struct Cursor {
    dir: PathBuf,
    name: StreamName,
    segment: u32,
    /// What was read of the segment, from `base` on; `at` of it is used.
    bytes: Vec<u8>,
    base: u64,
    at: usize,
    next: u64,
    previous: Hash,
    live: bool,
    open: BTreeMap<u64, AttemptRecord>,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Cursor {
    fn new(dir: &Path, name: StreamName) -> Self {
        Self {
            dir: dir.to_owned(),
            name,
            segment: 1,
            bytes: Vec::new(),
            base: 0,
            at: 0,
            next: 1,
            previous: [0; 32],
            live: false,
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// Reads until there is an event, or until the end, where what is open becomes events.
    fn fill_or_end(&mut self) -> Result<(), ReadFault> {
        while self.ready.is_empty() && !self.ended {
            if !self.advance()? {
                self.ended = true;
                self.give_up_open(self.live);
            }
        }
        Ok(())
    }

    /// Reads one block. `false` when there is no more for now.
    fn advance(&mut self) -> Result<bool, ReadFault> {
        if self.block()? {
            return Ok(true);
        }
        // The next segment is looked for before the rest of this one is read: nothing is added here once it exists.
        let next = self.segment.saturating_add(1);
        let rotated = self.dir.join(file_name(&self.name, next)).try_exists()?;
        self.reload(self.segment, self.offset())?;
        if self.block()? {
            return Ok(true);
        }
        if rotated {
            self.reload(next, 0)?;
            self.segment = next;
            return self.advance();
        }
        Ok(false)
    }

    fn reload(&mut self, segment: u32, from: u64) -> Result<(), ReadFault> {
        let loaded = walk::load(&self.dir, &self.name, segment, from)?;
        (self.bytes, self.live, self.base, self.at) = (loaded.bytes, loaded.live, from, 0);
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// Takes the next block of what is loaded, if there is a whole one.
    fn block(&mut self) -> Result<bool, ReadFault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let block = match block::parse(rest) {
            Ok(block) => block,
            Err(NoBlock::Padding) => return Ok(false),
            // Being written, or torn by a crash; whole blocks behind it would be neither.
            Err(_) if self.live || !block::follows(rest, &self.name) => return Ok(false),
            Err(_) => return Err(self.damaged()),
        };
        let header = block.header;
        let fits = header.stream == self.name.field()
            && header.segment == self.segment
            && header.previous == self.previous
            && header.first == self.next;
        if !fits {
            return Err(self.damaged());
        }
        let hash = block.hash;
        let mut records = Vec::new();
        let mut payload = Reader(block.payload);
        for _ in 0..header.count {
            records.push(record::pop(&mut payload).ok_or_else(|| self.damaged())?);
        }
        for record in records {
            self.record(record);
            self.next = self.next.saturating_add(1);
        }
        self.previous = hash;
        self.at = self.at.saturating_add(usize::try_from(header.size()).unwrap_or(usize::MAX));
        Ok(true)
    }

    fn record(&mut self, record: Record) {
        match record {
            Record::Attempt(attempt) => {
                self.open.insert(self.next, *attempt);
            }
            Record::Outcome(outcome) => {
                if let Some(attempt) = self.open.remove(&outcome.attempt) {
                    let sequence = outcome.attempt;
                    self.ready.push_back(Event::ended_attempt(&self.name, sequence, attempt, *outcome));
                }
            }
            Record::Mark(mark) => {
                self.give_up_open(false);
                if mark.kind == MarkKind::Gap {
                    self.ready.push_back(Event::gap(&self.name, self.next, &mark));
                }
            }
        }
    }

    fn give_up_open(&mut self, pending: bool) {
        for (sequence, attempt) in std::mem::take(&mut self.open) {
            self.ready.push_back(Event::open_attempt(&self.name, sequence, attempt, pending));
        }
    }

    fn damaged(&self) -> ReadFault {
        ReadFault::Damaged { stream: self.name.clone(), segment: self.segment, offset: self.offset() }
    }
}
