//! An unlocked installation: seals and opens records, and lends the keys that belong to the installation itself.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::{rand, signature::Ed25519KeyPair};
use tokio::sync::Mutex;
use writ_core::{CredentialName, Placeholder, Secret, Shape};
use zeroize::Zeroizing;

use super::{InstallationFault, InstallationId, Keyring, KeyringFault, Place, placeholder};
use crate::{
    seal::RootKey,
    store::{Change, Store},
};

/// The open keyring and what is derived from it. Dropping the last one locks the installation.
pub struct Vault {
    store: Arc<dyn Store>,
    root: RootKey,
    keyring: ArcSwap<Keyring>,
    /// One rotation at a time.
    rotating: Mutex<()>,
    placeholder_key: Zeroizing<[u8; 32]>,
    audit_hash_key: Zeroizing<[u8; 32]>,
    audit_signing_key: Secret,
}

/// The values of the store's `meta` that are the keyring's.
pub(super) const KEYRING: &str = "keyring";
const PLACEHOLDER_KEY: &str = "key.placeholder";
const AUDIT_HASH_KEY: &str = "key.audit-hash";
const AUDIT_SIGNING_KEY: &str = "key.audit-signing";

impl Vault {
    /// Makes keyring and keys of a new installation, as changes to be applied together.
    pub(super) fn changes_of_new(
        root: &RootKey,
        installation: InstallationId,
    ) -> Result<Vec<Change>, KeyringFault> {
        let keyring = Keyring::create(installation)?;
        let mut changes = vec![put(KEYRING, keyring.wrap(root)?)];
        for (key, place, secret) in [
            (PLACEHOLDER_KEY, Place::PlaceholderKey, random()?),
            (AUDIT_HASH_KEY, Place::AuditHashKey, random()?),
            (AUDIT_SIGNING_KEY, Place::AuditSigningKey, signing_key()?),
        ] {
            changes.push(put(key, keyring.seal(&place, &secret)?));
        }
        Ok(changes)
    }

    /// Opens the keyring of an existing installation.
    pub(super) async fn open_with(
        store: Arc<dyn Store>,
        root: RootKey,
        installation: InstallationId,
    ) -> Result<Self, InstallationFault> {
        let wrapped = required(&*store, KEYRING, Place::Keyring).await?;
        let keyring = Keyring::unwrap(&root, installation, &wrapped)?;
        let mut secrets = Vec::with_capacity(3);
        for (key, place) in [
            (PLACEHOLDER_KEY, Place::PlaceholderKey),
            (AUDIT_HASH_KEY, Place::AuditHashKey),
            (AUDIT_SIGNING_KEY, Place::AuditSigningKey),
        ] {
            let sealed = required(&*store, key, place.clone()).await?;
            secrets.push(keyring.open(&place, &sealed)?);
        }
        let mut secrets = secrets.into_iter();
        let mut next = || secrets.next().ok_or(KeyringFault::Damaged(Place::Keyring));
        Ok(Self {
            placeholder_key: key_of(&next()?, Place::PlaceholderKey)?,
            audit_hash_key: key_of(&next()?, Place::AuditHashKey)?,
            audit_signing_key: next()?,
            store,
            root,
            keyring: ArcSwap::from_pointee(keyring),
            rotating: Mutex::new(()),
        })
    }

    pub fn installation(&self) -> InstallationId {
        self.keyring.load().installation()
    }

    /// Seals a secret for one place. About a microsecond.
    ///
    /// # Errors
    /// As [`Keyring::seal`].
    pub fn seal(&self, place: &Place, secret: &Secret) -> Result<Vec<u8>, KeyringFault> {
        self.keyring.load().seal(place, secret)
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Secret, KeyringFault> {
        self.keyring.load().open(place, sealed)
    }

    /// What an agent holds in this credential's stead, the same on every run.
    pub fn placeholder(&self, credential: &CredentialName, shape: &Shape) -> Placeholder {
        placeholder(&self.placeholder_key, credential, shape)
    }

    /// The key under which the audit log hashes what it may not show.
    pub fn audit_hash_key(&self) -> &[u8; 32] {
        &self.audit_hash_key
    }

    /// The Ed25519 key that signs the audit log's checkpoints, PKCS#8 version 1 (RFC 5958, RFC 8410).
    pub fn audit_signing_key(&self) -> &Secret {
        &self.audit_signing_key
    }

    /// Adds a data key, durable before the first record is sealed with it. Returns its number.
    ///
    /// # Errors
    /// [`InstallationFault`]; the old data key stays in use then.
    pub async fn rotate(&self) -> Result<u32, InstallationFault> {
        let _one = self.rotating.lock().await;
        let wrapped = required(&*self.store, KEYRING, Place::Keyring).await?;
        let mut keyring = Keyring::unwrap(&self.root, self.installation(), &wrapped)?;
        let number = keyring.rotate()?;
        self.store.apply(vec![put(KEYRING, keyring.wrap(&self.root)?)]).await?;
        self.keyring.store(Arc::new(keyring));
        Ok(number)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.installation())
    }
}

pub(super) fn put(key: &str, value: Vec<u8>) -> Change {
    Change::PutMeta { key: key.to_owned(), value }
}

async fn required(store: &dyn Store, key: &str, place: Place) -> Result<Vec<u8>, InstallationFault> {
    let value = store.meta(key.to_owned()).await?;
    Ok(value.ok_or(KeyringFault::Damaged(place))?)
}

fn random() -> Result<Secret, KeyringFault> {
    let mut bytes = vec![0; 32];
    rand::fill(&mut bytes).map_err(|_| KeyringFault::Random)?;
    Ok(Secret::new(bytes))
}

fn signing_key() -> Result<Secret, KeyringFault> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyringFault::Random)?;
    let document = pair.to_pkcs8v1().map_err(|_| KeyringFault::Random)?;
    Ok(Secret::new(document.as_ref().to_vec()))
}

fn key_of(secret: &Secret, place: Place) -> Result<Zeroizing<[u8; 32]>, KeyringFault> {
    secret.expose().try_into().map(Zeroizing::new).map_err(|_| KeyringFault::Damaged(place))
}
