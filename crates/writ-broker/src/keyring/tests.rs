//! Records belong to their place, keys to their installation; every change is found and has a name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rusqlite::Connection;
use tempfile::TempDir;
use writ_core::{CredentialName, SessionId, Shape, Timestamp};

use super::*;
use crate::{
    seal::{Cost, KeyFile, Passphrase, SealFault},
    store::{Change, CredentialVersion, Options, SqliteStore, StoredValue},
};

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn root(byte: u8) -> RootKey {
    RootKey::new(Zeroizing::new([byte; 32]))
}

fn id(byte: u8) -> InstallationId {
    InstallationId::from_bytes([byte; 16])
}

fn credential(name: &str, version: u32) -> Place {
    Place::Credential { name: name.parse().unwrap(), version }
}

fn keepsake(number: u8) -> Place {
    Place::Keepsake { session: SessionId::new(Timestamp::from_millis(1), &[number; 10]) }
}

fn places() -> Vec<Place> {
    vec![
        Place::Keyring,
        Place::PlaceholderKey,
        Place::AuditHashKey,
        Place::AuditSigningKey,
        credential("a", 1),
        credential("a", 2),
        credential("a", 256),
        credential("b", 1),
        credential("a1", 1),
        credential("keyring", 1),
        keepsake(1),
        keepsake(2),
        Place::Remembered { key: "a".to_owned() },
        Place::Remembered { key: "b".to_owned() },
    ]
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn what_is_sealed_opens_at_its_place_and_at_no_other() {
    let keyring = Keyring::create(id(1)).unwrap();
    for (index, place) in places().iter().enumerate() {
        for size in [0, 1, 31, 100_000] {
            let plain = vec![b'k'; size];
            let sealed = keyring.seal(place, &Secret::new(plain.clone())).unwrap();
            assert_eq!(keyring.open(place, &sealed).unwrap().expose(), plain);
        }
        let sealed = keyring.seal(place, &secret("value")).unwrap();
        for (other, elsewhere) in places().iter().enumerate() {
            let opened = keyring.open(elsewhere, &sealed);
            match opened {
                Ok(_) => assert_eq!(index, other),
                Err(KeyringFault::Damaged(named)) => assert!(index != other && named == *elsewhere),
                Err(fault) => panic!("{fault}"),
            }
        }
    }
}

/// The installation is part of the place: even under the same data keys, another one's records do not open.
#[test]
fn records_of_another_installation_do_not_open() {
    let mine = Keyring::create(id(1)).unwrap();
    let key = DataKey::new(mine.keys[&1].bytes.clone()).unwrap();
    let theirs = Keyring { installation: id(2), keys: BTreeMap::from([(1, key)]) };
    let place = credential("a", 1);
    let sealed = theirs.seal(&place, &secret("value")).unwrap();
    assert!(theirs.open(&place, &sealed).is_ok());
    assert!(matches!(mine.open(&place, &sealed), Err(KeyringFault::Damaged(_))));
}

#[test]
fn every_changed_byte_is_found() {
    let keyring = Keyring::create(id(1)).unwrap();
    let place = credential("openai", 3);
    let sealed = keyring.seal(&place, &secret("sk-canary")).unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let fault = keyring.open(&place, &changed).unwrap_err();
            let named = match at {
                0 => matches!(fault, KeyringFault::UnknownFormat { .. }),
                1..5 => matches!(fault, KeyringFault::UnknownKey { .. }),
                _ => matches!(&fault, KeyringFault::Damaged(found) if *found == place),
            };
            assert!(named, "byte {at}: {fault}");
        }
    }
    for length in 0..sealed.len() {
        assert!(matches!(keyring.open(&place, &sealed[..length]), Err(KeyringFault::Damaged(_))), "{length}");
    }
    let longer = [&sealed[..], b"x"].concat();
    assert!(matches!(keyring.open(&place, &longer), Err(KeyringFault::Damaged(_))));
}

/// Threat M: each sealing draws its own nonce.
#[test]
fn nonces_are_never_used_twice() {
    let keyring = Keyring::create(id(1)).unwrap();
    let place = credential("a", 1);
    let seal = || keyring.seal(&place, &secret("value")).unwrap()[5..5 + NONCE_LEN].to_vec();
    let nonces: BTreeSet<Vec<u8>> = (0..10_000).map(|_| seal()).collect();
    assert_eq!(nonces.len(), 10_000);
}

#[test]
fn a_wrong_root_key_and_a_damaged_keyring_are_two_faults() {
    let keyring = Keyring::create(id(1)).unwrap();
    let wrapped = keyring.wrap(&root(1)).unwrap();
    let place = credential("a", 1);
    let sealed = keyring.seal(&place, &secret("value")).unwrap();
    let again = Keyring::unwrap(&root(1), id(1), &wrapped).unwrap();
    assert_eq!(again.open(&place, &sealed).unwrap().expose(), b"value");

    let unwrap = |key, installation, bytes: &[u8]| Keyring::unwrap(&key, installation, bytes).unwrap_err();
    assert!(matches!(unwrap(root(2), id(1), &wrapped), KeyringFault::WrongRootKey));
    assert!(matches!(unwrap(root(1), id(2), &wrapped), KeyringFault::WrongRootKey));
    for at in 1 + CHECK_LEN..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        let fault = unwrap(root(1), id(1), &changed);
        assert!(matches!(fault, KeyringFault::Damaged(Place::Keyring)), "byte {at}: {fault}");
    }
    for length in [0, 1, 5, 17, 30, wrapped.len() - 1] {
        let fault = unwrap(root(1), id(1), &wrapped[..length]);
        assert!(matches!(fault, KeyringFault::Damaged(Place::Keyring)), "{length}: {fault}");
    }
}

#[test]
fn old_data_keys_open_what_they_sealed() {
    let mut keyring = Keyring::create(id(1)).unwrap();
    let before = Keyring::unwrap(&root(1), id(1), &keyring.wrap(&root(1)).unwrap()).unwrap();
    let place = credential("a", 1);
    let first = keyring.seal(&place, &secret("first")).unwrap();
    assert_eq!(keyring.rotate().unwrap(), 2);
    let second = keyring.seal(&place, &secret("second")).unwrap();
    assert_eq!((&first[1..5], &second[1..5]), (&[0, 0, 0, 1][..], &[0, 0, 0, 2][..]));
    let keyring = Keyring::unwrap(&root(1), id(1), &keyring.wrap(&root(1)).unwrap()).unwrap();
    assert_eq!(keyring.open(&place, &first).unwrap().expose(), b"first");
    assert_eq!(keyring.open(&place, &second).unwrap().expose(), b"second");
    assert!(matches!(before.open(&place, &second), Err(KeyringFault::UnknownKey { number: 2, .. })));
}

#[test]
fn a_keyring_has_a_limit() {
    let mut keyring = Keyring::create(id(1)).unwrap();
    for number in 2..=u32::try_from(KEYS_MAX).unwrap() {
        assert_eq!(keyring.rotate().unwrap(), number);
    }
    assert!(matches!(keyring.rotate(), Err(KeyringFault::Full)));
}

/// The form on disk, made by another implementation (OpenSSL's AES-256-GCM and HKDF): it may not drift.
#[test]
fn the_form_on_disk_is_fixed() {
    let root = RootKey::new(Zeroizing::new(std::array::from_fn(|at| u8::try_from(at).unwrap())));
    let installation = InstallationId::from_bytes(std::array::from_fn(|at| u8::try_from(100 + at).unwrap()));
    let wrapped = hex(
        "010b2f03b1838cf3546bf48ae832c75929c8c9cacbcccdcecfd0d1d2d3339a8e8f9c1eaf2962ab4f42d30a6ee9f3\
         25e99692307ae77acc087034664140487237a434562ddad23e1ddff9423dd0c3305b9ee21efb75ccdc3d7cbdd38eca6cc52b19972b\
         331909d97ca955b350b017f4991769da1025",
    );
    let sealed = hex(
        "010000000132333435363738393a3b3c3d2f34261313ce178083e9b131075392c78da494b10824a7fb323514b2d121e5",
    );
    let keyring = Keyring::unwrap(&root, installation, &wrapped).unwrap();
    assert_eq!(keyring.keys.keys().copied().collect::<Vec<_>>(), [1, 7]);
    let opened = keyring.open(&credential("openai", 3), &sealed).unwrap();
    assert_eq!(opened.expose(), b"sk-canary-value");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(work)
}

const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
const PHRASE: &str = "correct horse battery";

struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn database(&self) -> PathBuf {
        self.state().join("writ.db")
    }

    fn open(&self) -> Result<Installation, InstallationFault> {
        block_on(Installation::open(&self.state(), KeyFile::KIND))
    }

    fn with_passphrase(&self) -> Result<Installation, InstallationFault> {
        let store = SqliteStore::open(&self.database(), Options::default())?;
        block_on(Installation::with(Arc::new(store), Arc::new(Passphrase::new(CHEAP))))
    }

    /// Runs SQL on the closed store, as somebody with access to the file would.
    fn tamper(&self, sql: &str) {
        assert!(Connection::open(self.database()).unwrap().execute(sql, ()).unwrap() > 0, "{sql}");
    }
}

/// References hold nothing sealed: they can be there before the first unlock.
#[test]
fn references_do_not_need_a_keyring() {
    let place = Home::new();
    let installation = place.with_passphrase().unwrap();
    let row = CredentialVersion {
        name: "a".parse().unwrap(),
        version: 1,
        value: StoredValue::Reference("cmd://pass a".to_owned()),
        set_at: Timestamp::from_millis(1),
    };
    block_on(installation.store().apply(vec![Change::PutCredential(row)])).unwrap();
    drop(installation);
    block_on(place.with_passphrase().unwrap().unlock(secret(PHRASE))).unwrap();
}

fn keep(installation: &Installation, name: &str, version: u32, value: &str) {
    let vault = installation.vault().unwrap();
    let sealed = vault.seal(&credential(name, version), &secret(value)).unwrap();
    let row = CredentialVersion {
        name: name.parse().unwrap(),
        version,
        value: StoredValue::Sealed(sealed),
        set_at: Timestamp::from_millis(1),
    };
    block_on(installation.store().apply(vec![Change::PutCredential(row)])).unwrap();
}

fn read(installation: &Installation, name: &str, version: u32) -> Result<Secret, KeyringFault> {
    let name: CredentialName = name.parse().unwrap();
    let row = block_on(installation.store().credential(name.clone(), Some(version))).unwrap().unwrap();
    let StoredValue::Sealed(sealed) = row.value else { panic!("not sealed") };
    installation.vault().unwrap().open(&Place::Credential { name, version }, &sealed)
}

#[test]
fn an_installation_keeps_its_keys() {
    let place = Home::new();
    let name: CredentialName = "openai".parse().unwrap();
    let facts = |installation: &Installation| {
        let vault = installation.vault().unwrap();
        (
            vault.installation(),
            vault.placeholder(&name, &Shape::GENERIC),
            *vault.audit_hash_key(),
            vault.audit_signing_key().expose().to_vec(),
        )
    };
    let installation = place.open().unwrap();
    let first = facts(&installation);
    keep(&installation, "openai", 1, "sk-1");
    drop(installation);
    let installation = place.open().unwrap();
    assert_eq!(facts(&installation), first);
    assert_eq!(read(&installation, "openai", 1).unwrap().expose(), b"sk-1");
    assert!(!installation.is_locked() && !block_on(installation.is_new()).unwrap());

    // Keys of different use are different keys, and another installation has others.
    let other = facts(&Home::new().open().unwrap());
    assert!(first.0 != other.0 && first.1 != other.1 && first.2 != other.2 && first.3 != other.3);
    let pair = Ed25519KeyPair::from_pkcs8(&first.3)
        .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&first.3));
    let pair = pair.unwrap();
    let signature = pair.sign(b"head");
    let key = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref());
    key.verify(b"head", signature.as_ref()).unwrap();
}

#[test]
fn swapped_rows_do_not_open() {
    let place = Home::new();
    let installation = place.open().unwrap();
    for (name, version, value) in [("a", 1, "sk-a1"), ("a", 2, "sk-a2"), ("b", 1, "sk-b1")] {
        keep(&installation, name, version, value);
    }
    drop(installation);
    let take = "(SELECT sealed FROM credential_versions WHERE name = ";
    for (sql, name, version) in [
        (
            format!("UPDATE credential_versions SET sealed = {take}'b') WHERE name = 'a' AND version = 1"),
            "a",
            1,
        ),
        (
            format!("UPDATE credential_versions SET sealed = {take}'a' AND version = 2) WHERE name = 'b'"),
            "b",
            1,
        ),
        ("UPDATE credential_versions SET version = 9 WHERE name = 'a' AND version = 2".to_owned(), "a", 9),
        ("UPDATE credential_versions SET name = 'c' WHERE name = 'b'".to_owned(), "c", 1),
    ] {
        place.tamper(&sql);
        let fault = read(&place.open().unwrap(), name, version).unwrap_err();
        assert!(
            matches!(&fault, KeyringFault::Damaged(at) if *at == credential(name, version)),
            "{sql}: {fault}"
        );
    }
}

#[test]
fn swapped_installation_keys_do_not_open() {
    for (key, from, expected) in [
        ("key.placeholder", "key.audit-hash", Place::PlaceholderKey),
        ("key.audit-hash", "key.placeholder", Place::AuditHashKey),
        ("key.audit-signing", "key.placeholder", Place::AuditSigningKey),
    ] {
        let place = Home::new();
        drop(place.open().unwrap());
        place.tamper(&format!(
            "UPDATE meta SET value = (SELECT value FROM meta WHERE key = '{from}') WHERE key = '{key}'"
        ));
        let fault = place.open().err().unwrap();
        let named =
            matches!(&fault, InstallationFault::Keyring(KeyringFault::Damaged(at)) if *at == expected);
        assert!(named, "{key}: {fault}");
    }
}

/// What is missing or does not fit is damage, and is never silently made anew: that would lose every sealed value.
#[test]
fn half_an_installation_is_damage() {
    for key in ["installation", "seal", "keyring", "key.placeholder", "key.audit-hash", "key.audit-signing"] {
        let place = Home::new();
        drop(place.open().unwrap());
        place.tamper(&format!("DELETE FROM meta WHERE key = '{key}'"));
        let fault = place.open().err().unwrap();
        assert!(matches!(fault, InstallationFault::Keyring(KeyringFault::Damaged(_))), "{key}: {fault}");
        assert!(place.open().is_err(), "{key}: opening it twice does not repair it");
    }
}

#[test]
fn credentials_without_a_keyring_are_damage() {
    let place = Home::new();
    keep(&place.open().unwrap(), "a", 1, "sk-1");
    place.tamper("DELETE FROM meta");
    let fault = place.open().err().unwrap();
    assert!(matches!(fault, InstallationFault::Keyring(KeyringFault::Damaged(Place::Keyring))), "{fault}");
}

#[test]
fn a_wrong_key_file_and_a_damaged_keyring_are_two_faults() {
    let (mine, theirs) = (Home::new(), Home::new());
    drop((mine.open().unwrap(), theirs.open().unwrap()));
    let key = mine.state().join("root.key");
    let right = fs::read(&key).unwrap();
    fs::write(&key, fs::read(theirs.state().join("root.key")).unwrap()).unwrap();
    let fault = mine.open().err().unwrap();
    assert!(matches!(fault, InstallationFault::Keyring(KeyringFault::WrongRootKey)), "{fault}");
    fs::write(&key, right).unwrap();
    mine.tamper("UPDATE meta SET value = CAST(value || x'00' AS BLOB) WHERE key = 'keyring'");
    let fault = mine.open().err().unwrap();
    assert!(matches!(fault, InstallationFault::Keyring(KeyringFault::Damaged(Place::Keyring))), "{fault}");
    fs::remove_file(&key).unwrap();
    let fault = mine.open().err().unwrap();
    assert!(matches!(fault, InstallationFault::Seal(SealFault::KeyFileMissing(_))), "{fault}");
}

#[test]
fn with_a_passphrase_it_starts_locked() {
    let place = Home::new();
    let unlock = |installation: &Installation, text: &str| block_on(installation.unlock(secret(text)));
    let installation = place.with_passphrase().unwrap();
    assert!(installation.is_locked() && block_on(installation.is_new()).unwrap());
    assert!(matches!(installation.vault(), Err(InstallationFault::Locked)));
    let short = unlock(&installation, "short").unwrap_err();
    assert!(matches!(short, InstallationFault::Seal(SealFault::PassphraseLength)), "{short}");
    assert!(block_on(installation.is_new()).unwrap());
    unlock(&installation, PHRASE).unwrap();
    keep(&installation, "a", 1, "sk-1");
    installation.lock();
    assert!(installation.is_locked());
    drop(installation);

    let installation = place.with_passphrase().unwrap();
    assert!(installation.is_locked() && !block_on(installation.is_new()).unwrap());
    // The store itself works while it is locked.
    assert_eq!(block_on(installation.store().credentials()).unwrap().len(), 1);
    for wrong in ["correct horse batterz", "short", ""] {
        let fault = unlock(&installation, wrong).unwrap_err();
        assert!(matches!(fault, InstallationFault::WrongPassphrase), "{wrong}: {fault}");
        assert!(installation.is_locked());
    }
    unlock(&installation, PHRASE).unwrap();
    unlock(&installation, "whatever: it is open").unwrap();
    assert_eq!(read(&installation, "a", 1).unwrap().expose(), b"sk-1");
}

/// Two first unlocks at once make one installation.
#[test]
fn unlocking_twice_at_once_makes_one_keyring() {
    let place = Home::new();
    let installation = place.with_passphrase().unwrap();
    block_on(async {
        let (one, two) =
            tokio::join!(installation.unlock(secret(PHRASE)), installation.unlock(secret(PHRASE)));
        one.and(two).unwrap();
    });
    let first = installation.vault().unwrap().installation();
    drop(installation);
    let installation = place.with_passphrase().unwrap();
    block_on(installation.unlock(secret(PHRASE))).unwrap();
    assert_eq!(installation.vault().unwrap().installation(), first);
}

#[test]
fn another_seal_than_the_stored_one_is_refused() {
    let place = Home::new();
    drop(place.open().unwrap());
    let fault = place.with_passphrase().err().unwrap();
    assert!(matches!(&fault, InstallationFault::OtherSeal { stored, .. } if stored == "key-file"), "{fault}");
}

#[test]
fn a_state_directory_that_others_can_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Home::new();
    drop(place.open().unwrap());
    for mode in [0o755, 0o750, 0o701, 0o770] {
        fs::set_permissions(place.state(), fs::Permissions::from_mode(mode)).unwrap();
        let message = place.open().err().unwrap().to_string();
        assert!(message.ends_with(&format!("run chmod 700 {}", place.state().display())), "{message}");
    }
}

#[test]
fn a_rotation_is_durable_before_it_is_used() {
    let place = Home::new();
    let installation = place.open().unwrap();
    keep(&installation, "a", 1, "sk-1");
    assert_eq!(block_on(installation.vault().unwrap().rotate()).unwrap(), 2);
    keep(&installation, "a", 2, "sk-2");
    drop(installation);
    let installation = place.open().unwrap();
    assert_eq!(read(&installation, "a", 1).unwrap().expose(), b"sk-1");
    assert_eq!(read(&installation, "a", 2).unwrap().expose(), b"sk-2");
}

/// Threat M: nothing confidential is readable in any file but the key file, and no file is readable by others.
#[test]
fn no_file_shows_a_secret() {
    const CANARY: &str = "sk-canary-0123456789abcdef";
    let place = Home::new();
    let installation = place.open().unwrap();
    keep(&installation, "a", 1, CANARY);
    let vault = installation.vault().unwrap();
    let signing = vault.audit_signing_key().expose();
    let hidden: Vec<Vec<u8>> = vec![
        CANARY.as_bytes().to_vec(),
        fs::read(place.state().join("root.key")).unwrap(),
        vault.audit_hash_key().to_vec(),
        signing[signing.len() - 32..].to_vec(),
    ];
    assert!(!format!("{vault:?}").contains("canary"));
    let found = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        hidden.iter().any(|secret| bytes.windows(16).any(|window| window == &secret[..16]))
    };
    let mut seen = 0;
    for entry in fs::read_dir(place.state()).unwrap() {
        let path = entry.unwrap().path();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "{}", path.display());
        assert_eq!(found(&path), path.ends_with("root.key"), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 3);
}

/// A removed credential leaves no ciphertext in the database.
#[test]
fn a_removed_value_is_overwritten() {
    let place = Home::new();
    let installation = place.open().unwrap();
    keep(&installation, "a", 1, "sk-1");
    let row = block_on(installation.store().credential("a".parse().unwrap(), None)).unwrap().unwrap();
    let StoredValue::Sealed(sealed) = row.value else { panic!("not sealed") };
    drop(installation);
    let there = || fs::read(place.database()).unwrap().windows(sealed.len()).any(|window| window == sealed);
    assert!(there());
    let installation = place.open().unwrap();
    block_on(installation.store().apply(vec![Change::RemoveCredential("a".parse().unwrap())])).unwrap();
    drop(installation);
    assert!(!there());
}
