//! Files as they were before `writ init` rewrote them: kept sealed, given back once, dropped.
//!
//! An original is full of keys, so it is sealed as credentials are, bound to its path and to the hash of what the file was
//! rewritten to, and every command about it is recorded. It is the one secret that leaves the broker again, since `writ restore`
//! undoes byte for byte; so it leaves only while no program runs that could ask for the same. Absent: the files themselves,
//! which only the command touches.

use aws_lc_rs::digest::{SHA256, digest};
use writ_api::{
    control::{OriginalName, OriginalRow},
    seal::{self, Place as Seal},
};
use writ_core::{CredentialName, Level, RecipientKey, Refusal, RefusalKind, Sealed};

use crate::{
    broker::Broker,
    door::Unlocked,
    fault,
    keyring::Place,
    store::{Change, OriginalRecord, StoreFault, StoredValue},
};

/// The largest file, so that it fits into a frame.
const CONTENT_MAX: usize = 512 * 1024;
/// The longest path (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// The most originals.
const ORIGINALS_MAX: usize = 1000;

/// Keeps an original, durably.
///
/// # Errors
/// [`RefusalKind::Invalid`] when it is not what its name says; [`RefusalKind::Limit`]; the store's fault.
pub(crate) async fn keep(
    broker: &Broker,
    open: &Unlocked,
    name: OriginalName,
    original_sha256: &str,
    content: &Sealed,
) -> Result<(), Refusal> {
    let (place, written_sha256) = place(&name)?;
    let purpose = Seal::Control { purpose: name.purpose() };
    let content = broker.recipient.open(content, &purpose).map_err(|_| unopened())?;
    let original_sha256 = parse_sha256(original_sha256)?;
    if content.len() > CONTENT_MAX {
        return Err(invalid("a file of more than 512 KiB is not kept"));
    }
    if digest(&SHA256, content.expose()).as_ref() != original_sha256 {
        return Err(invalid("the content is not what its hash says"));
    }
    if broker.store.originals().await.map_err(fault::store)?.len() >= ORIGINALS_MAX {
        let next = "bring some back first: `writ restore`";
        return Err(Refusal::new(RefusalKind::Limit, "1,000 originals are kept already", next));
    }
    let sealed = open.vault.seal(&place, &content).map_err(|keyring| fault::internal(&keyring))?;
    let kept_at = broker.clock.now();
    let record = OriginalRecord { path: name.path, written_sha256, original_sha256, sealed, kept_at };
    broker.store.apply(vec![Change::PutOriginal(record)]).await.map_err(fault::store)
}

/// Every original, of one path the newest first.
///
/// # Errors
/// The store's fault.
pub(crate) async fn list(broker: &Broker) -> Result<Vec<OriginalRow>, Refusal> {
    let records = broker.store.originals().await.map_err(fault::store)?;
    let row = |record: OriginalRecord| OriginalRow {
        name: OriginalName { path: record.path, written_sha256: hex(&record.written_sha256) },
        original_sha256: hex(&record.original_sha256),
        kept_at: record.kept_at,
    };
    Ok(records.into_iter().map(row).collect())
}

/// Gives an original back, sealed to whoever asked.
///
/// # Errors
/// [`RefusalKind::Denied`] while a program runs below `confined`, which could ask as well; [`RefusalKind::NotFound`].
pub(crate) async fn open(
    broker: &Broker,
    open: &Unlocked,
    name: &OriginalName,
    recipient: &RecipientKey,
) -> Result<Sealed, Refusal> {
    let running = broker.store.sessions(false).await.map_err(fault::store)?;
    if let Some(session) = running.iter().find(|session| session.level != Level::Confined) {
        return Err(Refusal::new(
            RefusalKind::Denied,
            format!("{} runs below confined and could ask for the same keys", session.program),
            format!("end it first: `writ session revoke {}`", session.session),
        ));
    }
    let (place, written_sha256) = place(name)?;
    let records = broker.store.originals().await.map_err(fault::store)?;
    let found = records.into_iter().find(|one| one.path == name.path && one.written_sha256 == written_sha256);
    let content = open
        .vault
        .open(&place, &found.ok_or_else(|| missing(name))?.sealed)
        .map_err(|keyring| fault::internal(&keyring))?;
    seal::seal(&content, recipient, &Seal::Control { purpose: name.purpose() }).map_err(fault::seal)
}

/// Drops an original.
///
/// # Errors
/// [`RefusalKind::NotFound`]; the store's fault.
pub(crate) async fn forget(broker: &Broker, name: OriginalName) -> Result<(), Refusal> {
    let (_, written_sha256) = place(&name)?;
    let gone = missing(&name);
    let change = Change::RemoveOriginal { path: name.path, written_sha256 };
    broker.store.apply(vec![change]).await.map_err(|fault| match fault {
        StoreFault::Missing(_) => gone,
        fault => fault::store(fault),
    })
}

/// Whether a value is the one that is sealed; `None` where none is.
///
/// # Errors
/// [`RefusalKind::Invalid`] for a value that was sealed for something else; the store's fault.
pub(crate) async fn compare(
    broker: &Broker,
    open: &Unlocked,
    name: &CredentialName,
    value: &Sealed,
) -> Result<Option<bool>, Refusal> {
    let purpose = Seal::Control { purpose: format!("compare {name}") };
    let value = broker.recipient.open(value, &purpose).map_err(|_| unopened())?;
    let newest = broker.store.credential(name.clone(), None).await.map_err(fault::store)?;
    let Some((version, StoredValue::Sealed(sealed))) = newest.map(|one| (one.version, one.value)) else {
        return Ok(None);
    };
    let place = Place::Credential { name: name.clone(), version };
    let stored = open.vault.open(&place, &sealed).map_err(|keyring| fault::internal(&keyring))?;
    // By hash, so that the time tells nothing.
    let same = digest(&SHA256, stored.expose()).as_ref() == digest(&SHA256, value.expose()).as_ref();
    Ok(Some(same))
}

fn place(name: &OriginalName) -> Result<(Place, [u8; 32]), Refusal> {
    let written_sha256 = parse_sha256(&name.written_sha256)?;
    if !name.path.starts_with('/') || name.path.len() > PATH_MAX {
        return Err(invalid("an original is named by its absolute path"));
    }
    Ok((Place::Original { path: name.path.clone(), written_sha256 }, written_sha256))
}

fn parse_sha256(text: &str) -> Result<[u8; 32], Refusal> {
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid("a SHA-256 has 64 hexadecimal digits"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, why, "use the `writ` that belongs to this daemon")
}

fn unopened() -> Refusal {
    invalid("the content was not sealed to this daemon for this purpose")
}

fn missing(name: &OriginalName) -> Refusal {
    let what = format!("no original of {} is kept", name.path);
    Refusal::new(RefusalKind::NotFound, what, "see what there is: `writ restore`")
}
