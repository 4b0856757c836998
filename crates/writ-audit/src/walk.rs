//! Finding the files of a log again: which streams, which segments, and whether somebody writes them now.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use crate::{
    StreamName,
    checkpoint::CHECKPOINT_FILE,
    segment::{file_name, parse_file_name},
};

/// What lies in a log's folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segment numbers of each stream, ascending.
    pub(crate) streams: BTreeMap<StreamName, Vec<u32>>,
    /// The checkpoints are there.
    pub(crate) checkpoints: bool,
    /// Names that are neither.
    pub(crate) others: Vec<String>,
}

pub(crate) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == CHECKPOINT_FILE {
            listing.checkpoints = true;
        } else if let Some((stream, number)) = parse_file_name(&name) {
            listing.streams.entry(stream).or_default().push(number);
        } else {
            listing.others.push(name);
        }
    }
    listing.others.sort_unstable();
    for numbers in listing.streams.values_mut() {
        numbers.sort_unstable();
    }
    Ok(listing)
}

/// A segment's bytes, and whether a writer held it when they were read.
pub(crate) struct Loaded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) live: bool,
}

pub(crate) fn load(dir: &Path, stream: &StreamName, number: u32, from: u64) -> io::Result<Loaded> {
    let mut file = File::open(dir.join(file_name(stream, number)))?;
    // Asked before reading: a writer that ends in between leaves more than was read, never less.
    let live = is_live(&file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Loaded { bytes, live })
}

/// Does a broker hold the checkpoints, so that files may change while they are read?
pub(crate) fn is_signed_now(dir: &Path) -> io::Result<bool> {
    match File::open(dir.join(CHECKPOINT_FILE)) {
        Ok(file) => is_live(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_live(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
