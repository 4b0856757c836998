//! Signed checkpoints: what makes a cut end visible.
//!
//! A hash chain shows a change in the middle; only a signature over its head shows that the end is missing. The
//! broker signs (stream, sequence, head) at the start and the end of a stream, at every new segment, and while records
//! come at an interval; each checkpoint holds the hash of the one before. An [`Anchor`] kept elsewhere
//! shows that the checkpoints themselves were cut.
//!
//! ```text
//!   0  4  magic "WRCP"          40  32  stream name, zero-padded
//!   4  2  version, 1            72  32  hash of the stream's block that ends there
//!   6  2  moment                104  32  hash of the checkpoint before, zeros in the first
//!   8  8  number, from 1        136  64  Ed25519 over "writ audit checkpoint v1\n" and bytes 0..136
//!  16  8  time, µs
//!  24  8  sequence              A checkpoint's hash is SHA-256 over its 200 bytes.
//!  32  4  segment
//!  36  4  offset of the head's end in its segment
//! ```
//!
//! Invariant: a checkpoint is signed only over what is on the disk, so a crash never leaves one without its block.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    Hash, Head, HeadSink, LogFault, Moment, Signer, Step, StreamName, Verifier, block::sha256, bytes::Reader,
    segment::lock, sign::SIGNATURE,
};

/// While records come, a stream is signed this often.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// The file beside the segments.
pub const CHECKPOINT_FILE: &str = "checkpoints";
/// Bytes of one checkpoint.
pub(crate) const SIZE: usize = 200;
/// At start, the last signed head of each stream is looked for in this many checkpoints.
const LOOK_BACK: u64 = 1024;

/// The last checkpoint that somebody remembers outside of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Anchor {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
}

/// A checkpoint as written and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) number: u64,
    pub(crate) moment: Moment,
    pub(crate) at: u64,
    pub(crate) head: Head,
    pub(crate) previous: Hash,
}

impl Checkpoint {
    pub(crate) fn seal(&self, signer: &Signer) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&moment_code(self.moment).to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.at.to_le_bytes());
        bytes.extend_from_slice(&self.head.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.head.segment.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.head.offset).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.head.stream.field());
        bytes.extend_from_slice(&self.head.hash);
        bytes.extend_from_slice(&self.previous);
        let signature = signer.sign(&message(&bytes));
        bytes.extend_from_slice(&signature);
        bytes
    }

    /// Reads a checkpoint whose signature is right.
    pub(crate) fn parse(bytes: &[u8; SIZE], key: &Verifier) -> Option<Self> {
        let (signed, signature) = bytes.split_last_chunk::<SIGNATURE>()?;
        let checkpoint = Self::parse_fields(signed)?;
        key.verify(&message(signed), signature).then_some(checkpoint)
    }

    fn parse_fields(signed: &[u8]) -> Option<Self> {
        let mut reader = Reader(signed);
        if reader.array()? != MAGIC || reader.u16()? != VERSION {
            return None;
        }
        let moment = moment_from(reader.u16()?)?;
        let (number, at, sequence) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (segment, offset) = (reader.u32()?, u64::from(reader.u32()?));
        let stream = StreamName::from_field(&reader.array()?)?;
        let head = Head { stream, segment, offset, sequence, hash: reader.array()? };
        Some(Self { number, moment, at, head, previous: reader.array()? })
    }
}

fn message(signed: &[u8]) -> Vec<u8> {
    [DOMAIN, signed].concat()
}

fn moment_code(moment: Moment) -> u16 {
    match moment {
        Moment::Start => 1,
        Moment::Progress => 2,
        Moment::Rotation => 3,
        Moment::Close => 4,
    }
}

fn moment_from(code: u16) -> Option<Moment> {
    Some(match code {
        1 => Moment::Start,
        2 => Moment::Progress,
        3 => Moment::Rotation,
        4 => Moment::Close,
        _ => return None,
    })
}

/// The broker's file of checkpoints: a [`HeadSink`] for every stream of the folder.
pub struct CheckpointLog {
    signer: Signer,
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    file: File,
    path: PathBuf,
    last: Option<Anchor>,
    /// For each stream, what was signed last and when.
    signed: HashMap<StreamName, (Head, u64)>,
}

impl CheckpointLog {
    /// Opens `dir/checkpoints`, cutting a torn last entry. One process holds it at a time.
    ///
    /// # Errors
    /// [`CheckpointFault`].
    pub fn open(dir: &Path, signer: Signer, interval: Duration) -> Result<Self, CheckpointFault> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(CHECKPOINT_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&path)?;
        lock(&file).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => CheckpointFault::InUse,
            _ => CheckpointFault::Io(error),
        })?;
        let count = cut_torn(&file)?;
        let mut state = State { file, path, last: None, signed: HashMap::new() };
        for number in count.saturating_sub(LOOK_BACK).saturating_add(1)..=count {
            state.remember(number, &signer.verifier())?;
        }
        File::open(dir)?.sync_all()?;
        Ok(Self { signer, interval, state: Mutex::new(state) })
    }

    /// The last checkpoint, to be kept where the log's files are not.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// The key that checks these checkpoints.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        self.signer.verifier()
    }

    fn is_due(&self, state: &State, head: &Head, moment: Moment, now: u64) -> bool {
        let Some((signed, at)) = state.signed.get(&head.stream) else { return true };
        let waited = now.checked_sub(*at).map(Duration::from_micros);
        match moment {
            Moment::Progress => {
                signed.sequence != head.sequence && waited.is_none_or(|waited| waited >= self.interval)
            }
            Moment::Start | Moment::Rotation | Moment::Close => true,
        }
    }
}

impl HeadSink for CheckpointLog {
    fn durable(&self, head: &Head, moment: Moment, now: u64) -> Result<(), LogFault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((signed, _)) = state.signed.get(&head.stream)
            && signed.sequence > head.sequence
        {
            let Head { stream, segment, offset, .. } = head.clone();
            return Err(LogFault::Damaged { stream, segment, offset });
        }
        if !self.is_due(&state, head, moment, now) {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            number: state.last.map_or(1, |last| last.number.saturating_add(1)),
            moment,
            at: now,
            head: head.clone(),
            previous: state.last.map_or([0; 32], |last| last.hash),
        };
        state
            .append(&checkpoint, &self.signer)
            .map_err(|error| LogFault::failed(&head.stream, head.segment, Step::Checkpoint, &error))
    }
}

impl State {
    fn append(&mut self, checkpoint: &Checkpoint, signer: &Signer) -> io::Result<()> {
        let (held, found) = (self.file.metadata()?, std::fs::symlink_metadata(&self.path)?);
        if (held.dev(), held.ino()) != (found.dev(), found.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes = checkpoint.seal(signer);
        self.file.write_all_at(&bytes, checkpoint.number.saturating_sub(1).saturating_mul(SIZE as u64))?;
        self.file.sync_data()?;
        self.last = Some(Anchor { number: checkpoint.number, hash: sha256(&bytes) });
        self.signed.insert(checkpoint.head.stream.clone(), (checkpoint.head.clone(), checkpoint.at));
        Ok(())
    }

    fn remember(&mut self, number: u64, key: &Verifier) -> Result<(), CheckpointFault> {
        let mut bytes = [0; SIZE];
        self.file.read_exact_at(&mut bytes, number.saturating_sub(1).saturating_mul(SIZE as u64))?;
        let checkpoint = Checkpoint::parse(&bytes, key).ok_or(CheckpointFault::Damaged { number })?;
        self.last = Some(Anchor { number, hash: sha256(&bytes) });
        self.signed.insert(checkpoint.head.stream.clone(), (checkpoint.head, checkpoint.at));
        Ok(())
    }
}

/// Cuts what an interrupted append left, and returns how many whole checkpoints there are.
fn cut_torn(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut count = length / SIZE as u64;
    let mut last = [0; SIZE];
    if count > 0 {
        file.read_exact_at(&mut last, count.saturating_sub(1).saturating_mul(SIZE as u64))?;
        count = if last == [0; SIZE] { count.saturating_sub(1) } else { count };
    }
    if count.saturating_mul(SIZE as u64) != length {
        file.set_len(count.saturating_mul(SIZE as u64))?;
        file.sync_all()?;
    }
    Ok(count)
}

/// Why the checkpoints cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// The operating system refused.
    #[error("cannot open the audit checkpoints")]
    Io(#[from] io::Error),
    /// Another process signs here.
    #[error("the audit checkpoints are in use by another writ; stop that one first")]
    InUse,
    /// A checkpoint is not what this key signed.
    #[error(
        "audit checkpoint {number} is damaged or signed by another key; run `writ audit verify`, keep the files, and start with an empty folder"
    )]
    Damaged {
        /// Its number.
        number: u64,
    },
}

const MAGIC: [u8; 4] = *b"WRCP";
const VERSION: u16 = 1;
const DOMAIN: &[u8] = b"writ audit checkpoint v1\n";
