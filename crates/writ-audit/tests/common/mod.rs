//! What the tests of the log share: a folder with a broker's keys and clock, and a disk that can be told to fail.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test support: a failure here is a failed test")]
#![expect(dead_code, reason = "every test binary uses its part")]

use std::{
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use writ_audit::{
    Attempt, CheckpointLog, Event, Events, FieldKey, HeadSink, Kind, LogFault, Outcome, Report, SegmentDir,
    SegmentFile, SegmentSource, Signer, Stream, StreamConfig, Verifier, WallClock, verify,
};

/// 2026-11-21T00:00:00Z, in microseconds.
pub const START: u64 = 1_795_219_200_000_000;

/// A folder's keys and clock, the same over "restarts".
#[derive(Clone)]
pub struct World {
    pkcs8: Arc<Vec<u8>>,
    pub now: Arc<AtomicU64>,
}

impl World {
    pub fn new() -> Self {
        let pkcs8 = Signer::generate().expect("a key").to_vec();
        Self { pkcs8: Arc::new(pkcs8), now: Arc::new(AtomicU64::new(START)) }
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub fn signer(&self) -> Signer {
        Signer::from_pkcs8(&self.pkcs8).expect("the same key")
    }

    pub fn verifier(&self) -> Verifier {
        self.signer().verifier()
    }

    /// Every look at the clock is one millisecond later.
    pub fn clock(&self) -> WallClock {
        let now = Arc::clone(&self.now);
        Arc::new(move || now.fetch_add(1000, Ordering::Relaxed))
    }

    pub fn checkpoints(&self, dir: &Path) -> Arc<CheckpointLog> {
        Arc::new(CheckpointLog::open(dir, self.signer(), Duration::ZERO).expect("checkpoints"))
    }

    /// Only at the start, at a new segment and at the end.
    pub fn rare_checkpoints(&self, dir: &Path) -> Arc<CheckpointLog> {
        Arc::new(CheckpointLog::open(dir, self.signer(), Duration::from_secs(3600)).expect("checkpoints"))
    }

    pub fn config(&self, name: &str, heads: Option<Arc<CheckpointLog>>) -> StreamConfig {
        let mut config = StreamConfig::new(name.parse().expect("a name"), key(), self.clock());
        config.heads = heads.map(|heads| heads as Arc<dyn HeadSink>);
        config
    }

    pub fn stream(&self, dir: &Path, name: &str, heads: &Arc<CheckpointLog>) -> Stream {
        let source = SegmentDir::new(dir, name.parse().expect("a name")).expect("a folder");
        Stream::start(self.config(name, Some(Arc::clone(heads))), Box::new(source)).expect("a stream")
    }

    pub fn verify(&self, dir: &Path) -> Report {
        verify(dir, &self.verifier(), None).expect("a readable folder")
    }
}

pub fn key() -> FieldKey {
    FieldKey::new(&[7; 32])
}

pub fn use_of(start: u64) -> Attempt<'static> {
    Attempt {
        request_id: Some("r-1"),
        workload: Some("spiffe://writ.local/dev/claude"),
        session: Some("s-1"),
        credential: Some("openai"),
        method: Some("POST"),
        host: Some("api.openai.com"),
        port: Some(443),
        lease: Some("l-1"),
        within_ttl: Some(true),
        ..Attempt::new(Kind::Use, start)
    }
}

pub fn ok() -> Outcome<'static> {
    Outcome {
        duration: Some(1500),
        status: Some(200),
        bytes_up: Some(10),
        bytes_down: Some(20),
        ..Outcome::ok()
    }
}

pub fn events(dir: &Path) -> Vec<Event> {
    Events::read(dir).expect("a folder").collect::<Result<_, _>>().expect("sound events")
}

/// A folder whose disk can be told to fail or to hold.
#[derive(Clone, Default)]
pub struct Disk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    full: AtomicBool,
    broken_sync: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
    syncs: AtomicU64,
    synced: Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Disk {
    pub fn source(&self, dir: &Path, name: &str) -> Box<dyn SegmentSource> {
        let inner = SegmentDir::new(dir, name.parse().unwrap()).unwrap();
        Box::new(DiskSource { inner, disk: self.clone() })
    }

    pub fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::SeqCst);
    }

    pub fn set_broken_sync(&self, broken: bool) {
        self.0.broken_sync.store(broken, Ordering::SeqCst);
    }

    /// From now on a sync does not return until released.
    pub fn hold(&self) {
        *self.0.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.0.held.lock().unwrap() = false;
        self.0.released.notify_all();
    }

    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::SeqCst)
    }

    /// Hears of every sync.
    pub fn listen(&self) -> std::sync::mpsc::Receiver<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        *self.0.synced.lock().unwrap() = Some(sender);
        receiver
    }
}

struct DiskSource {
    inner: SegmentDir,
    disk: Disk,
}

impl SegmentSource for DiskSource {
    fn last(&mut self) -> io::Result<Option<u32>> {
        self.inner.last()
    }

    fn open(&mut self, number: u32) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(DiskFile { inner: self.inner.open(number)?, disk: self.disk.clone() }))
    }

    fn create(&mut self, number: u32, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        if self.disk.0.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Box::new(DiskFile { inner: self.inner.create(number, bytes)?, disk: self.disk.clone() }))
    }
}

struct DiskFile {
    inner: Box<dyn SegmentFile>,
    disk: Disk,
}

impl SegmentFile for DiskFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        self.inner.read()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.0.full.load(Ordering::SeqCst) {
            // As a real disk does: some of it arrives.
            self.inner.write_at(bytes.split_at(bytes.len() / 2).0, offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut held = self.disk.0.held.lock().unwrap();
        while *held {
            held = self.disk.0.released.wait(held).unwrap();
        }
        drop(held);
        if self.disk.0.broken_sync.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        self.inner.sync()?;
        self.disk.0.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some(sender) = &*self.disk.0.synced.lock().unwrap() {
            sender.send(()).ok();
        }
        Ok(())
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.inner.cut(length)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        self.inner.reserve(length)
    }

    fn present(&self) -> io::Result<bool> {
        self.inner.present()
    }
}

pub fn is_full(fault: &LogFault) -> bool {
    matches!(fault, LogFault::Full { .. })
}
