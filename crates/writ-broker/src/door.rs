//! What exists only once the seal is open: the vault and the log.
//!
//! With a key file the door opens at the start, with a passphrase at `writ unlock`. Until then there is no log, so nothing is
//! handed out, and no session opens.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, PoisonError},
};

use writ_audit::{
    Anchor, CHECKPOINT_INTERVAL, CheckpointFault, CheckpointLog, FieldKey, KeyError, LogFault, SegmentDir,
    Signer, Stream, StreamConfig, StreamName, WallClock,
};
use writ_core::Clock;

use crate::{
    broker::Broker,
    keyring::{InstallationFault, Vault},
    leases::quarantine,
    records,
    store::StoreFault,
};

/// What exists only once the seal is open.
pub(crate) struct Unlocked {
    pub vault: Arc<Vault>,
    pub log: Stream,
    checkpoints: Arc<CheckpointLog>,
}

/// Why the door does not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorFault {
    #[error(transparent)]
    Installation(#[from] InstallationFault),
    #[error(transparent)]
    Log(#[from] LogFault),
    #[error("the checkpoints of the audit log cannot be opened: {0}")]
    Checkpoints(#[from] CheckpointFault),
    #[error("the key of the audit log cannot be used: {0}")]
    Key(#[from] KeyError),
    #[error("the directory of the audit log cannot be used: {0}")]
    Directory(#[from] std::io::Error),
    #[error("the audit log could not be opened: {0}")]
    Thread(String),
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Of the file beside the log's directory that holds the public key of its checkpoints.
const KEY_EXTENSION: &str = "pub";
/// The broker's own stream.
const STREAM: &str = "broker";

impl Unlocked {
    /// The last checkpoint, of whatever stream.
    pub(crate) fn anchor(&self) -> Option<Anchor> {
        self.checkpoints.anchor()
    }

    /// The public key of the checkpoints, as people compare it.
    pub(crate) fn audit_key(&self) -> String {
        self.checkpoints.verifier().to_string()
    }
}

/// Opens the door, once the installation is open. Harmless when it is open.
pub(crate) async fn open(broker: &Broker) -> Result<(), DoorFault> {
    let _one = broker.opening.lock().await;
    if broker.open_door().is_some() {
        return Ok(());
    }
    let vault = broker.installation.vault()?;
    let (directory, clock) = (broker.audit.clone(), broker.clock.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let signer = Signer::from_pkcs8(vault.audit_signing_key().expose())?;
        // A log that is damaged keeps the door shut, and must be verifiable then.
        write_key(&directory.with_extension(KEY_EXTENSION), &signer)?;
        let checkpoints = Arc::new(CheckpointLog::open(&directory, signer, CHECKPOINT_INTERVAL)?);
        let log = start(STREAM, &directory, &vault, &checkpoints, clock)?;
        Ok::<_, DoorFault>(Unlocked { vault, log, checkpoints })
    });
    let opened = opened.await.map_err(|fault| DoorFault::Thread(fault.to_string()))??;
    let open = broker.door.get_or_init(|| opened);
    let recovered = std::mem::take(&mut *broker.recovered.lock().unwrap_or_else(PoisonError::into_inner));
    records::recovered(broker, open, &recovered.sessions, &recovered.leases);
    // Before anything is issued: a restart lets nobody out.
    quarantine::review(broker, open).await?;
    broker.unlocked.send_replace(true);
    broker.leases.ending.notify_one();
    Ok(())
}

impl Broker {
    /// Another writer's stream of the audit log, such as `proxy-0`, under the same keys and checkpoints. Blocks on the disk.
    ///
    /// # Errors
    /// [`DoorFault::Installation`] while the installation is locked; what opening a stream returns.
    pub fn audit_stream(&self, name: &str) -> Result<Stream, DoorFault> {
        let Some(open) = self.open_door() else { return Err(InstallationFault::Locked.into()) };
        start(name, &self.audit, &open.vault, &open.checkpoints, self.clock.clone())
    }

    /// Waits until the seal is open.
    pub async fn until_unlocked(&self) {
        let _ = self.unlocked.subscribe().wait_for(|unlocked| *unlocked).await;
    }
}

/// Writes the public key, for the owner alone as all of the state.
fn write_key(path: &Path, signer: &Signer) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(signer.verifier().to_string().as_bytes())
}

fn start(
    name: &str,
    directory: &Path,
    vault: &Vault,
    checkpoints: &Arc<CheckpointLog>,
    clock: Arc<dyn Clock>,
) -> Result<Stream, DoorFault> {
    let name: StreamName = name.parse().map_err(|fault| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{name:?}: {fault}"))
    })?;
    let micros: WallClock =
        Arc::new(move || u64::try_from(clock.now().millis()).unwrap_or(0).saturating_mul(1000));
    let key = FieldKey::new(vault.audit_hash_key());
    let mut config = StreamConfig::new(name.clone(), key, micros);
    config.heads = Some(checkpoints.clone());
    Ok(Stream::start(config, Box::new(SegmentDir::new(directory, name)?))?)
}
