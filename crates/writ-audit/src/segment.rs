//! Segment files: where they come from, and the few things a log does with one.
//!
//! The traits are the seam between the log and the file system: the broker opens files in its own folder with
//! [`SegmentDir`], and a proxy in a process of its own will be handed descriptors by an implementation that never sees a path.
//! Tests put failing disks here. Absent: deleting. No segment is ever removed by this crate.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::StreamName;

/// Opens the segments of one stream.
pub trait SegmentSource: Send {
    /// The highest segment number that exists; `None` for a new stream.
    fn last(&mut self) -> io::Result<Option<u32>>;

    /// Opens an existing segment for writing. [`io::ErrorKind::ResourceBusy`] when another process writes it.
    fn open(&mut self, number: u32) -> io::Result<Box<dyn SegmentFile>>;

    /// Makes a new segment of `bytes` zeros, durably: it is there after a crash. It must not exist yet.
    fn create(&mut self, number: u32, bytes: u64) -> io::Result<Box<dyn SegmentFile>>;
}

/// One segment file, held by its writer alone.
pub trait SegmentFile: Send {
    /// The whole file.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Writes all bytes at the offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written is on the disk.
    fn sync(&self) -> io::Result<()>;

    /// Cuts everything from `length` on, and makes that durable.
    fn cut(&self, length: u64) -> io::Result<()>;

    /// Preallocates zeros up to `length`.
    fn reserve(&self, length: u64) -> io::Result<()>;

    /// Is it still the file that a reader would find?
    fn present(&self) -> io::Result<bool>;
}

/// Segments as files `STREAM-NNNNNN.seg` in one folder, mode 0600, locked while written.
#[derive(Debug)]
pub struct SegmentDir {
    dir: PathBuf,
    stream: StreamName,
}

impl SegmentDir {
    /// The segments of `stream` in `dir`, which is made with mode 0700 if it is missing.
    ///
    /// # Errors
    /// What making the folder returns.
    pub fn new(dir: &Path, stream: StreamName) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned(), stream })
    }

    fn file(&self, number: u32, options: &mut OpenOptions) -> io::Result<DirFile> {
        let path = self.dir.join(file_name(&self.stream, number));
        let file = options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&path)?;
        lock(&file)?;
        Ok(DirFile { file, path })
    }
}

impl SegmentSource for SegmentDir {
    fn last(&mut self) -> io::Result<Option<u32>> {
        let mut last = None;
        for entry in std::fs::read_dir(&self.dir)? {
            if let Some((stream, number)) = entry?.file_name().to_str().and_then(parse_file_name) {
                last = if stream == self.stream { last.max(Some(number)) } else { last };
            }
        }
        Ok(last)
    }

    fn open(&mut self, number: u32) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(self.file(number, &mut OpenOptions::new())?))
    }

    fn create(&mut self, number: u32, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let file = self.file(number, OpenOptions::new().create_new(true))?;
        file.reserve(bytes)?;
        file.file.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        Ok(Box::new(file))
    }
}

/// Takes the writer's lock. A reader holds it for an instant, to see whether there is a writer.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

struct DirFile {
    file: File,
    path: PathBuf,
}

impl SegmentFile for DirFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        let length = self.file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP) => self.file.set_len(length),
            done => Ok(done?),
        }
    }

    fn present(&self) -> io::Result<bool> {
        let held = self.file.metadata()?;
        let found = match std::fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(held.nlink() > 0 && (held.dev(), held.ino()) == (found.dev(), found.ino()))
    }
}

/// The name of a segment's file.
pub(crate) fn file_name(stream: &StreamName, number: u32) -> String {
    format!("{stream}-{number:06}.{SEGMENT_EXTENSION}")
}

/// Reads a segment's file name; `None` unless it is exactly what [`file_name`] writes.
pub(crate) fn parse_file_name(name: &str) -> Option<(StreamName, u32)> {
    let stem = name.strip_suffix(SEGMENT_EXTENSION)?.strip_suffix('.')?;
    let (stream, number) = stem.rsplit_once('-')?;
    let (stream, number) = (stream.parse::<StreamName>().ok()?, number.parse::<u32>().ok()?);
    (number > 0 && file_name(&stream, number) == name).then_some((stream, number))
}

const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// What a segment's file name ends with.
pub(crate) const SEGMENT_EXTENSION: &str = "seg";
