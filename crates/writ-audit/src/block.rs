//! A block: the records of one batch, hashed together and chained to the block before.
//!
//! ```text
//!    0   4  magic "WRAU"
//!    4   2  version, 1
//!    6   2  zero
//!    8   4  segment number
//!   12   4  number of records
//!   16   4  length of the payload
//!   20   4  zero
//!   24   8  sequence of the first record
//!   32   8  when it was written, microseconds since the Unix epoch
//!   40  32  stream name, zero-padded
//!   72  32  hash of the block before; zeros in the stream's first
//!  104   n  payload: the records
//! 104+n 32  SHA-256 of all bytes before
//! ```
//!
//! Invariant: every byte of a block is under its hash, and its place (stream, segment, sequence, predecessor) is
//! inside it, so a block that is moved, copied or swapped does not fit where it lands.

use aws_lc_rs::digest::{SHA256, digest};

use crate::{Hash, StreamName, bytes::Reader};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 104;
/// Bytes after it.
pub(crate) const TRAILER: usize = 32;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) segment: u32,
    pub(crate) count: u32,
    pub(crate) length: u32,
    pub(crate) first: u64,
    pub(crate) at: u64,
    pub(crate) stream: [u8; StreamName::MAX],
    pub(crate) previous: Hash,
}

impl Header {
    /// Sequence of the block's last record.
    pub(crate) fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }

    /// Bytes of the whole block.
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.length).saturating_add((HEADER + TRAILER) as u64)
    }
}

/// A block whose hash is right.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    pub(crate) hash: Hash,
}

/// Why bytes are not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// Only zeros, or nothing, up to the end: the padding of a preallocated file.
    Padding,
    /// It does not begin like a block, or a fixed field is wrong.
    Header,
    /// It would reach past the end of the file.
    Short,
    /// Its hash is not that of its bytes.
    Hash,
}

/// Completes a block in place: `buffer` is [`HEADER`] bytes of room and the payload. Returns its hash.
pub(crate) fn seal(buffer: &mut Vec<u8>, header: &Header) -> Hash {
    let mut head = Vec::with_capacity(HEADER);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&header.segment.to_le_bytes());
    head.extend_from_slice(&header.count.to_le_bytes());
    head.extend_from_slice(&header.length.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&header.first.to_le_bytes());
    head.extend_from_slice(&header.at.to_le_bytes());
    head.extend_from_slice(&header.stream);
    head.extend_from_slice(&header.previous);
    for (to, from) in buffer.iter_mut().zip(head) {
        *to = from;
    }
    let hash = sha256(buffer);
    buffer.extend_from_slice(&hash);
    hash
}

/// Reads the block at the start of `bytes`, which reach to the end of the file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Block<'_>, NoBlock> {
    let header = parse_header(bytes).ok_or_else(|| no_header(bytes))?;
    let payload_end = HEADER.saturating_add(header.length as usize);
    let (hashed, rest) = bytes.split_at_checked(payload_end).ok_or(NoBlock::Short)?;
    let hash = Reader(rest).array::<TRAILER>().ok_or(NoBlock::Short)?;
    let payload = hashed.get(HEADER..).ok_or(NoBlock::Short)?;
    if sha256(hashed) == hash { Ok(Block { header, payload, hash }) } else { Err(NoBlock::Hash) }
}

fn parse_header(bytes: &[u8]) -> Option<Header> {
    let mut reader = Reader(bytes);
    let fixed = (reader.array()? == MAGIC, reader.u16()? == VERSION, reader.array()? == [0; 2]);
    let (segment, count, length) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let fixed = fixed == (true, true, true) && reader.array()? == [0; 4] && count > 0;
    let header = Header {
        segment,
        count,
        length,
        first: reader.u64()?,
        at: reader.u64()?,
        stream: reader.array()?,
        previous: reader.array()?,
    };
    fixed.then_some(header)
}

fn no_header(bytes: &[u8]) -> NoBlock {
    let zeros = bytes.iter().all(|byte| *byte == 0);
    if zeros { NoBlock::Padding } else { NoBlock::Header }
}

/// Is there a whole block of this stream somewhere after the first byte? If so, what stands before it is not the
/// torn end of a crash: a writer has one block in flight at most.
pub(crate) fn follows(bytes: &[u8], stream: &StreamName) -> bool {
    let magic = |at: &usize| bytes.get(*at..).is_some_and(|rest| rest.starts_with(&MAGIC));
    (1..bytes.len()).filter(magic).any(|at| {
        let block = parse(bytes.get(at..).unwrap_or_default());
        block.is_ok_and(|block| block.header.stream == stream.field())
    })
}

/// SHA-256 of the bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    hash
}

const MAGIC: [u8; 4] = *b"WRAU";
const VERSION: u16 = 1;
