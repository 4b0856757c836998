//! Trust: whether a repository's `writ.toml` has an effect.
//!
//! ```text
//!   the session's directory ──► the repository's root ──► writ.toml ──► the same as a person trusted?
//!                                                                       yes: it chooses    no: it is named, no effect
//! ```
//!
//! The broker reads the file itself, at the moment at which the session opens, so that nobody can say another one. What was
//! trusted is kept whole (to show what changed), sealed to its path: without the keys nobody writes it. A fault of the file never
//! refuses a session; the file has no effect then either.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{Mode, OFlags};
use tokio::task::spawn_blocking;
use writ_api::control::{TrustState, TrustView};
use writ_core::{Refusal, RefusalKind, Secret};

use crate::{
    broker::Broker,
    config::{REPOSITORY_MAX, Repository},
    door::Unlocked,
    fault,
    keyring::Place,
    sessions::hex,
    store::Change,
};

/// A repository's file.
const FILE: &str = "writ.toml";
/// How many directories up a repository's root may be.
const DEPTH_MAX: usize = 64;

/// A file that was found.
struct Found {
    path: PathBuf,
    text: String,
    sha256: String,
}

/// What a repository has to say about a session.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Trusted.
    pub repository: Option<Repository>,
    /// For the person who watches the run.
    pub said: Option<String>,
}

/// What the repository around `directory` wishes.
///
/// # Errors
/// The store's fault.
pub(crate) async fn wishes(broker: &Broker, open: &Unlocked, directory: &Path) -> Result<Wishes, Refusal> {
    let said = |text: String| Wishes { repository: None, said: Some(text) };
    let found = match look(broker, directory).await? {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Wishes::default()),
        Err(fault) => {
            return Ok(said(format!("this repository's {FILE} cannot be read and has no effect: {fault}")));
        }
    };
    let repository = match Repository::parse(&found.path, &found.text) {
        Ok(repository) => repository,
        Err(fault) => return Ok(said(format!("it has no effect: {fault}"))),
    };
    let asks = match repository.asks() {
        asks if asks.is_empty() => "nothing".to_owned(),
        asks => asks.join(", "),
    };
    Ok(match trusted(broker, open, &found).await?.0 {
        TrustState::Trusted => Wishes { repository: Some(repository), said: None },
        TrustState::Untrusted => {
            said(format!("this repository asks for {asks}; it has no effect until you run `writ trust`"))
        }
        TrustState::Changed => said(format!(
            "this repository's {FILE} has changed and asks for {asks}; it has no effect until you run `writ trust`"
        )),
    })
}

/// What a person is shown before they trust.
///
/// # Errors
/// [`RefusalKind::NotFound`] where there is no file, [`RefusalKind::Invalid`] for one that cannot be trusted; the store's fault.
pub(crate) async fn show(broker: &Broker, open: &Unlocked, directory: &Path) -> Result<TrustView, Refusal> {
    if !directory.is_absolute() {
        return Err(invalid("the directory is not absolute"));
    }
    let directory = std::fs::canonicalize(directory).map_err(|fault| invalid(&fault.to_string()))?;
    let found = look(broker, &directory).await?.map_err(|fault| invalid(&fault.to_string()))?;
    let found = found.ok_or_else(|| {
        let detail = format!("there is no {FILE} of a repository at {}", directory.display());
        Refusal::new(RefusalKind::NotFound, detail, "run it inside of the repository")
    })?;
    let repository = parse(&found)?;
    let (state, before) = trusted(broker, open, &found).await?;
    let before = before.and_then(|text| Repository::parse(&found.path, &text).ok());
    let (now, before) = (repository.asks(), before.map(|before| before.asks()).unwrap_or_default());
    let gone = before.iter().filter(|ask| !now.contains(ask)).map(|ask| format!("- {ask}"));
    let new = now.iter().filter(|ask| !before.contains(ask)).map(|ask| format!("+ {ask}"));
    let differences = gone.chain(new).collect();
    let missing = broker.rules.newest().map(|rules| repository.missing(&rules.resolved, None));
    Ok(TrustView {
        path: found.path,
        sha256: found.sha256,
        state,
        differences,
        asks: now,
        missing: missing.unwrap_or_default(),
    })
}

/// Trusts the file at `path`, if it is still the one that was shown.
///
/// # Errors
/// [`RefusalKind::Invalid`] for another content or another path; the store's fault.
pub(crate) async fn grant(
    broker: &Broker,
    open: &Unlocked,
    path: &Path,
    sha256: &str,
) -> Result<(), Refusal> {
    let directory = path.parent().filter(|_| path.is_absolute()).ok_or_else(|| invalid("no such file"))?;
    let found = look(broker, directory).await?.map_err(|fault| invalid(&fault.to_string()))?;
    let found =
        found.filter(|found| found.path == path).ok_or_else(|| invalid("it is not a repository's file"))?;
    if found.sha256 != sha256 {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!("{} is not the file any more that was shown", path.display()),
            "look at it again: `writ trust`",
        ));
    }
    parse(&found)?;
    let sealed = open.vault.seal(&place(&found), &Secret::new(found.text.as_bytes().to_vec()));
    let value = sealed.map_err(|keyring| fault::internal(&keyring))?;
    let change = Change::PutMeta { key: key(&found), value };
    broker.store.apply(vec![change]).await.map_err(fault::store)
}

/// Whether it is trusted, and the text that was.
async fn trusted(
    broker: &Broker,
    open: &Unlocked,
    found: &Found,
) -> Result<(TrustState, Option<String>), Refusal> {
    let Some(sealed) = broker.store.meta(key(found)).await.map_err(fault::store)? else {
        return Ok((TrustState::Untrusted, None));
    };
    let Ok(text) = open.vault.open(&place(found), &sealed) else {
        tracing::warn!(path = %found.path.display(), "a record of trust does not open; it counts as none");
        return Ok((TrustState::Untrusted, None));
    };
    let same = text.expose() == found.text.as_bytes();
    let state = if same { TrustState::Trusted } else { TrustState::Changed };
    Ok((state, String::from_utf8(text.expose().to_vec()).ok()))
}

fn parse(found: &Found) -> Result<Repository, Refusal> {
    Repository::parse(&found.path, &found.text).map_err(|fault| invalid(&fault.to_string()))
}

/// Looks for the file, off the runtime's workers.
async fn look(broker: &Broker, directory: &Path) -> Result<io::Result<Option<Found>>, Refusal> {
    let (directory, own) = (directory.to_owned(), broker.rules.path().to_owned());
    spawn_blocking(move || find(&directory, &own)).await.map_err(|fault| fault::internal(&fault))
}

/// The file of the repository around `directory`, unless it is the person's own configuration.
fn find(directory: &Path, own: &Path) -> io::Result<Option<Found>> {
    let is_root = |directory: &&Path| directory.join(".git").symlink_metadata().is_ok();
    let root = directory.ancestors().take(DEPTH_MAX).find(is_root).unwrap_or(directory);
    let path = root.join(FILE);
    // Without following a link, which could name what only the broker can read, and without waiting for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    let facts = file.metadata()?;
    if std::fs::metadata(own).is_ok_and(|own| (own.dev(), own.ino()) == (facts.dev(), facts.ino())) {
        return Ok(None);
    }
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file"));
    }
    let mut text = String::new();
    file.take(REPOSITORY_MAX.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > REPOSITORY_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref());
    Ok(Some(Found { path, text, sha256 }))
}

fn place(found: &Found) -> Place {
    Place::Trust { path: found.path.to_string_lossy().into_owned() }
}

fn key(found: &Found) -> String {
    use std::os::unix::ffi::OsStrExt as _;

    format!("trust.{}", hex(digest(&SHA256, found.path.as_os_str().as_bytes()).as_ref()))
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, why, "nothing was changed; mend the file, then try again")
}
