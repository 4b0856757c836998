//! One state directory: its store, its seal, and the vault once it is open. The store may be a server that several share; each
//! then has a state directory of its own, and the same root key.
//!
//! ```text
//! open ──key-file──► open (a new one is made at once)
//! open ──passphrase──► locked ──unlock──► open (a new one is made with the first passphrase)
//! ```
//!
//! The store works while the installation is locked: sessions and leases can be listed and ended, nothing sealed can be read.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use writ_core::Secret;
use writ_sys::filesystem::{Privacy, directory_privacy};

use super::{
    InstallationId, KeyringFault, Place, Vault,
    vault::{KEYRING, put},
};
use crate::{
    seal::{self, RootKey, Seal, SealFault, SealPlaces},
    store::{
        Change, Options, Place as StorePlace, PostgresStore, SqliteStore, Store, StoreFault, StoredValue,
    },
};

/// Why an installation does not open.
#[derive(Debug, thiserror::Error)]
pub enum InstallationFault {
    #[error("writ is locked: run writ unlock")]
    Locked,
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    #[error(
        "the store at {store} was made with another root key: copy {} from where it was made (mode 0600), or name it with path under [seal]",
        .key_file.display()
    )]
    OtherKey { store: String, key_file: PathBuf },
    #[error(
        "the state is sealed by {stored:?}, the configuration says {asked:?}: put kind = {stored:?} under [seal]"
    )]
    OtherSeal { stored: String, asked: String },
    #[error("the state directory {} {found}: {fix}", .path.display())]
    Exposed { path: PathBuf, found: &'static str, fix: String },
    #[error("the state directory {} cannot be used: {source}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Seal(#[from] SealFault),
    #[error(transparent)]
    Keyring(#[from] KeyringFault),
}

/// A state directory in use.
pub struct Installation {
    store: Arc<dyn Store>,
    seal: Arc<dyn Seal>,
    vault: ArcSwapOption<Vault>,
    /// Among the daemons that share the store, for what each of them keeps there for itself.
    node: Option<String>,
    /// One unlocking at a time.
    unlocking: Mutex<()>,
}

/// What the store says about the seal, in the clear.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealRecord {
    kind: String,
    parameters: Value,
}

const INSTALLATION: &str = "installation";
const SEAL: &str = "seal";
/// The store's file in the state directory.
const STORE_FILE: &str = "writ.db";
/// Of the directory's name among those that share a store.
const NODE_FILE: &str = "node";

impl Installation {
    /// Opens the state directory, which is made where there is none. With a seal that asks nothing, the vault is open afterwards.
    /// Blocks while the store's file is looked at.
    ///
    /// # Errors
    /// [`InstallationFault`].
    pub async fn open(state: &Path, seal: &str) -> Result<Self, InstallationFault> {
        Self::open_with(state, seal, &SealPlaces::within(state)).await
    }

    /// The same with the seal's things in other places.
    ///
    /// # Errors
    /// [`InstallationFault`].
    pub async fn open_with(state: &Path, seal: &str, places: &SealPlaces) -> Result<Self, InstallationFault> {
        let seal = seal::seal(seal, places)?;
        prepare(state)?;
        let store = SqliteStore::open(&state.join(STORE_FILE), Options::default())?;
        let store: Arc<dyn Store> = Arc::new(store);
        #[cfg(feature = "fault-points")]
        let store = crate::store::reversed(store);
        Self::with(store, seal.into()).await
    }

    /// The same with the store on a PostgreSQL server, which other installations may share.
    ///
    /// # Errors
    /// [`InstallationFault::OtherKey`] when the root key here is not that of the store, and others.
    pub async fn open_shared(
        state: &Path,
        seal: &str,
        places: &SealPlaces,
        place: &StorePlace,
    ) -> Result<Self, InstallationFault> {
        let seal = seal::seal(seal, places)?;
        prepare(state)?;
        let store = PostgresStore::open(place).await?;
        let opened = Self::with(Arc::new(store), seal.into()).await;
        let mut this = opened.map_err(|fault| match fault {
            InstallationFault::Seal(SealFault::KeyFileMissing(_))
            | InstallationFault::Keyring(KeyringFault::WrongRootKey) => {
                let key_file = places.key_file.clone();
                InstallationFault::OtherKey { store: place.shown(), key_file }
            }
            other => other,
        })?;
        this.node = Some(node(state)?);
        Ok(this)
    }

    /// The same on a store that is open already.
    ///
    /// # Errors
    /// [`InstallationFault`].
    pub async fn with(store: Arc<dyn Store>, seal: Arc<dyn Seal>) -> Result<Self, InstallationFault> {
        let this = Self { store, seal, vault: ArcSwapOption::empty(), node: None, unlocking: Mutex::new(()) };
        this.known().await?;
        if !this.seal.asks() {
            this.unseal(None).await?;
        }
        Ok(this)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The name of this state directory among those that share the store; `None` where nobody does.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// # Errors
    /// [`InstallationFault::Locked`].
    pub fn vault(&self) -> Result<Arc<Vault>, InstallationFault> {
        self.vault.load_full().ok_or(InstallationFault::Locked)
    }

    /// The name of its seal.
    pub fn seal_kind(&self) -> &'static str {
        self.seal.kind()
    }

    pub fn is_locked(&self) -> bool {
        self.vault.load().is_none()
    }

    /// Whether nothing was ever sealed here: the next [`Installation::unlock`] sets the passphrase, so ask for it twice.
    ///
    /// # Errors
    /// [`InstallationFault::Store`].
    pub async fn is_new(&self) -> Result<bool, InstallationFault> {
        Ok(self.known().await?.is_none())
    }

    /// Opens the vault. Harmless when it is open. Takes a second of a core and 64 MiB, off the runtime's workers.
    ///
    /// # Errors
    /// [`InstallationFault::WrongPassphrase`], [`InstallationFault::Seal`] and others.
    pub async fn unlock(&self, passphrase: Secret) -> Result<(), InstallationFault> {
        self.unseal(Some(passphrase)).await
    }

    /// Whether the seal asks a person for something.
    pub fn asks(&self) -> bool {
        self.seal.asks()
    }

    /// Whether that is the passphrase. Takes as long as [`Installation::unlock`]; a seal that asks nothing believes everybody.
    ///
    /// # Errors
    /// [`InstallationFault::WrongPassphrase`]; [`InstallationFault::Locked`] where nothing was ever sealed.
    pub async fn prove(&self, passphrase: Secret) -> Result<(), InstallationFault> {
        let _one = self.unlocking.lock().await;
        let (installation, record) = self.known().await?.ok_or(InstallationFault::Locked)?;
        let (root, _) = self.root(Some(passphrase), Some(record.parameters)).await?;
        self.opened(root, installation).await.map(drop)
    }

    /// Forgets the keys. Whoever still holds the vault keeps them until it lets go.
    pub fn lock(&self) {
        self.vault.store(None);
    }

    async fn unseal(&self, passphrase: Option<Secret>) -> Result<(), InstallationFault> {
        let _one = self.unlocking.lock().await;
        if !self.is_locked() {
            return Ok(());
        }
        let (root, installation) = match self.known().await? {
            Some((installation, record)) => {
                (self.root(passphrase, Some(record.parameters)).await?.0, installation)
            }
            None => match self.create(passphrase).await? {
                Some(made) => made,
                // Another daemon was quicker: what it made counts.
                None => return Err(KeyringFault::WrongRootKey.into()),
            },
        };
        let vault = self.opened(root, installation).await?;
        self.vault.store(Some(Arc::new(vault)));
        Ok(())
    }

    async fn opened(&self, root: RootKey, installation: InstallationId) -> Result<Vault, InstallationFault> {
        Vault::open_with(Arc::clone(&self.store), root, installation).await.map_err(|fault| match fault {
            InstallationFault::Keyring(KeyringFault::WrongRootKey) if self.seal.asks() => {
                InstallationFault::WrongPassphrase
            }
            other => other,
        })
    }

    /// Makes a new installation, in one durable step; `None` if another daemon has just made one in the same store.
    async fn create(
        &self,
        passphrase: Option<Secret>,
    ) -> Result<Option<(RootKey, InstallationId)>, InstallationFault> {
        let (root, parameters) = self.root(passphrase, None).await?;
        let installation = InstallationId::generate()?;
        let record = SealRecord { kind: self.seal.kind().to_owned(), parameters };
        let record = serde_json::to_vec(&record).map_err(|error| SealFault::Parameters(error.to_string()))?;
        let id = Change::AddMeta { key: INSTALLATION.to_owned(), value: installation.as_bytes().to_vec() };
        let mut changes = vec![id];
        changes.extend(Vault::changes_of_new(&root, installation)?);
        changes.push(put(SEAL, record));
        match self.store.apply(changes).await {
            Ok(()) => Ok(Some((root, installation))),
            Err(StoreFault::Conflict(_)) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Asks the seal, on a thread that may compute for a second. Without `stored` parameters it makes a new root key.
    async fn root(
        &self,
        passphrase: Option<Secret>,
        stored: Option<Value>,
    ) -> Result<(RootKey, Value), InstallationFault> {
        let seal = Arc::clone(&self.seal);
        let ask = move || match stored {
            None => seal.create(passphrase.as_ref()),
            Some(parameters) => Ok((seal.unseal(&parameters, passphrase.as_ref())?, parameters)),
        };
        let found = match tokio::runtime::Handle::try_current() {
            Err(_) => ask(),
            Ok(runtime) => {
                let done = runtime.spawn_blocking(ask).await;
                done.map_err(|error| StoreFault::Io(error.to_string()))?
            }
        };
        Ok(found?)
    }

    /// What the store says, in the clear; `None` for a new one.
    async fn known(&self) -> Result<Option<(InstallationId, SealRecord)>, InstallationFault> {
        let read = |key: &str| self.store.meta(key.to_owned());
        let (installation, record) = match (read(INSTALLATION).await?, read(SEAL).await?) {
            (Some(installation), Some(record)) => (installation, record),
            (None, None) if read(KEYRING).await?.is_none() && !self.has_sealed_values().await? => {
                return Ok(None);
            }
            _ => return Err(KeyringFault::Damaged(Place::Keyring).into()),
        };
        let bytes = installation.try_into().map_err(|_| KeyringFault::Damaged(Place::Keyring))?;
        let record: SealRecord =
            serde_json::from_slice(&record).map_err(|error| SealFault::Parameters(error.to_string()))?;
        if record.kind != self.seal.kind() {
            let asked = self.seal.kind().to_owned();
            return Err(InstallationFault::OtherSeal { stored: record.kind, asked });
        }
        Ok(Some((InstallationId::from_bytes(bytes), record)))
    }

    /// Sealed values without a keyring are damage: a new keyring would bury them.
    async fn has_sealed_values(&self) -> Result<bool, InstallationFault> {
        let values = self.store.credentials().await?;
        Ok(values.iter().any(|row| matches!(row.value, StoredValue::Sealed(_))))
    }
}

/// Makes the directory, 0700, or refuses one that others can enter.
fn prepare(state: &Path) -> Result<(), InstallationFault> {
    let failed = |source| InstallationFault::Directory { path: state.to_owned(), source };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(state) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let path = state.display();
    let (found, fix) = match directory_privacy(state).map_err(failed)? {
        Privacy::Private => return Ok(()),
        Privacy::Mode(_) => ("can be entered by others", format!("run chmod 700 {path}")),
        Privacy::OtherOwner(_) => ("belongs to another user", "choose another with WRIT_HOME".to_owned()),
        Privacy::Symlink => ("is a symbolic link", "name the directory itself".to_owned()),
        Privacy::NotADirectory => ("is not a directory", format!("move {path} away")),
    };
    Err(InstallationFault::Exposed { path: state.to_owned(), found, fix })
}

/// The name of this state directory: 16 random bytes that are made once.
fn node(state: &Path) -> Result<String, InstallationFault> {
    let path = state.join(NODE_FILE);
    let failed = |source| InstallationFault::Directory { path: state.to_owned(), source };
    match fs::read_to_string(&path) {
        Ok(known) if known.len() == 32 && known.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            return Ok(known);
        }
        Ok(_) => return Err(failed(io::Error::other(format!("{NODE_FILE} is not what writ wrote")))),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let name = uuid::Uuid::from_bytes(*InstallationId::generate()?.as_bytes()).simple().to_string();
    let early = path.with_extension("early");
    fs::write(&early, &name).and_then(|()| fs::rename(&early, &path)).map_err(failed)?;
    Ok(name)
}
