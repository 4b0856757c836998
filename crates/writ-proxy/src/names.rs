//! Fresh identifiers and random bytes.
//!
//! Ten random bytes per request, drawn from the system's generator in blocks, so that a request pays a copy and not a call.

use std::cell::RefCell;

use aws_lc_rs::rand;
use writ_core::{RequestId, Timestamp};

/// Bytes drawn at once.
const BLOCK: usize = 640;
/// Bytes of one identifier.
const EACH: usize = 10;

struct Block {
    bytes: [u8; BLOCK],
    used: usize,
}

thread_local! {
    static RANDOM: RefCell<Block> = const { RefCell::new(Block { bytes: [0; BLOCK], used: BLOCK }) };
}

/// A request's identifier; `None` when the system gives no randomness.
pub(crate) fn request_id(now: Timestamp) -> Option<RequestId> {
    RANDOM.with_borrow_mut(|block| {
        if block.used + EACH > BLOCK {
            rand::fill(&mut block.bytes).ok()?;
            block.used = 0;
        }
        let fresh = block.bytes.get(block.used..)?.first_chunk::<EACH>()?;
        let id = RequestId::new(now, fresh);
        block.used += EACH;
        Some(id)
    })
}

/// Sixteen random bytes: a certificate's serial number.
pub(crate) fn serial() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}
