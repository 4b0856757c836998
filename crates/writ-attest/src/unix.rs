//! The peer of a Unix socket, and the program that it launches.
//!
//! The kernel says who the peer is (uid, gid). Which program it launches is the launcher's word, and on its own account that
//! is what there is: the attestor checks that the word names real files by their one true path, and reads those files by an
//! opened descriptor when a hash is asked for. A hash is of the file as it is now; the file may be exchanged afterwards.
//! Absent: process trees and control groups, which come with confinement.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::OFlags;
use writ_core::{AttestFault, Attestation, Attestor, Evidence, Selector};

/// Proves facts about a local process.
pub struct Unix;

const KIND: &str = "unix";
/// Larger programs are not hashed.
const PROGRAM_MAX: u64 = 2 * 1024 * 1024 * 1024;
const BUFFER: usize = 64 * 1024;
/// The local accounts. Accounts of a directory service have no name here, and so no `unix:user`.
const ACCOUNTS: &str = "/etc/passwd";
const ACCOUNTS_MAX: u64 = 4 * 1024 * 1024;

impl Attestor for Unix {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn attest(&self, evidence: &Evidence, questions: &BTreeSet<String>) -> Result<Attestation, AttestFault> {
        let Evidence::Unix(evidence) = evidence;
        let asked = |key: &str| questions.contains(&format!("{KIND}:{key}"));
        let mut proven = Proven::default();
        proven.add("uid", evidence.uid);
        proven.add("gid", evidence.gid);
        if asked("user") {
            for name in account_names(evidence.uid, Path::new(ACCOUNTS))? {
                proven.add("user", name);
            }
        }
        proven.add("path", true_path(&evidence.program)?);
        if asked("sha256") {
            proven.add("sha256", sha256(&evidence.program, PROGRAM_MAX)?);
        }
        if let Some(script) = &evidence.script {
            proven.add("script", true_path(script)?);
            if asked("script-sha256") {
                proven.add("script-sha256", sha256(script, PROGRAM_MAX)?);
            }
        }
        Ok(Attestation { selectors: proven.0 })
    }

    fn examples(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("unix:uid:1000", "the user id of the peer, from the kernel"),
            ("unix:gid:1000", "its primary group id, from the kernel"),
            ("unix:user:ada", "the name of that user among the local accounts"),
            (
                "unix:path:/usr/bin/claude",
                "the program, without symbolic links; for a script its interpreter",
            ),
            ("unix:script:/usr/lib/node_modules/codex/bin/codex.js", "the script, where the program is one"),
            (
                "unix:sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "the SHA-256 of the program; for a script that of its interpreter",
            ),
            (
                "unix:script-sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                "the SHA-256 of the script",
            ),
        ]
    }
}

#[derive(Default)]
struct Proven(BTreeSet<Selector>);

impl Proven {
    fn add(&mut self, key: &str, value: impl std::fmt::Display) {
        self.0.insert(Selector::new(KIND, key, value));
    }
}

/// The path as text, if it is the one true path of a regular file.
fn true_path(path: &Path) -> Result<&str, AttestFault> {
    let resolved = fs::canonicalize(path).map_err(unreadable(path))?;
    // Compared byte by byte: `Path` thinks that `/a/./b` and `/a/b` are the same.
    if resolved.as_os_str() != path.as_os_str() {
        return Err(unreadable(path)(io::Error::other("it is not its path without symbolic links")));
    }
    if !fs::metadata(path).map_err(unreadable(path))?.is_file() {
        return Err(unreadable(path)(io::Error::other("it is not a regular file")));
    }
    // A lossy spelling could be that of another file.
    path.to_str().ok_or_else(|| unreadable(path)(io::Error::other("its path is not UTF-8")))
}

/// The SHA-256 of a regular file of at most `limit` bytes, hexadecimal.
fn sha256(path: &Path, limit: u64) -> Result<String, AttestFault> {
    hash(path, limit).map_err(unreadable(path))
}

fn hash(path: &Path, limit: u64) -> io::Result<String> {
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if before.len() > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut left = limit + 1;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        left = left.saturating_sub(bytes.len() as u64);
        if left == 0 {
            return Err(io::Error::other(format!("it is larger than {limit} bytes")));
        }
        context.update(bytes);
    }
    if version(&file.metadata()?) != version(&before) {
        return Err(io::Error::other("it changed while it was read"));
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn version(facts: &Metadata) -> (u64, i64, i64) {
    (facts.len(), facts.ctime(), facts.ctime_nsec())
}

/// The names of `uid` in a file of the form of passwd(5): usually one.
fn account_names(uid: u32, accounts: &Path) -> Result<Vec<String>, AttestFault> {
    let file = File::open(accounts).map_err(unreadable(accounts))?;
    let mut names = Vec::new();
    for line in BufReader::new(file.take(ACCOUNTS_MAX)).lines() {
        let line = line.map_err(unreadable(accounts))?;
        let mut fields = line.split(':');
        let (name, number) = (fields.next(), fields.nth(1));
        if let (Some(name), Some(Ok(number))) = (name, number.map(str::parse::<u32>))
            && number == uid
            && !name.is_empty()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> AttestFault {
    move |source| AttestFault::Read { what: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStrExt, path::PathBuf};

    use writ_core::UnixEvidence;

    use super::*;

    fn evidence(program: &Path, script: Option<&Path>) -> Evidence {
        Evidence::Unix(UnixEvidence {
            uid: 0,
            gid: 7,
            pid: 1,
            program: program.to_owned(),
            script: script.map(Path::to_owned),
        })
    }

    fn attest(program: &Path, script: Option<&Path>, asked: &[&str]) -> Result<Vec<String>, AttestFault> {
        let asked = asked.iter().map(|one| (*one).to_owned()).collect();
        let attestation = Unix.attest(&evidence(program, script), &asked)?;
        Ok(attestation.selectors.iter().map(|one| one.as_str().to_owned()).collect())
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(place.path()).unwrap();
        (place, path)
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_is_proven() {
        let (_place, dir) = place();
        let (program, script) = (dir.join("interpreter"), dir.join("script"));
        fs::write(&program, "abc").unwrap();
        fs::write(&script, "").unwrap();
        let shown = attest(&program, Some(&script), &[]).unwrap();
        let at = |key: &str, path: &Path| format!("unix:{key}:{}", path.display());
        assert_eq!(
            shown,
            ["unix:gid:7".to_owned(), at("path", &program), at("script", &script), "unix:uid:0".to_owned()]
        );
        let shown =
            attest(&program, Some(&script), &["unix:sha256", "unix:script-sha256", "unix:user"]).unwrap();
        assert!(shown.contains(&format!("unix:sha256:{ABC}")), "{shown:?}");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(shown.contains(&format!("unix:script-sha256:{empty}")), "{shown:?}");
        assert!(shown.contains(&"unix:user:root".to_owned()), "{shown:?}");
    }

    #[test]
    fn a_hash_is_made_only_when_it_is_asked_for() {
        let (_place, dir) = place();
        let program = dir.join("p");
        fs::write(&program, "abc").unwrap();
        let shown = attest(&program, None, &["unix:path", "unix:script-sha256"]).unwrap();
        assert!(!shown.iter().any(|one| one.contains("sha256")), "{shown:?}");
    }

    #[test]
    fn another_name_of_the_same_file_proves_nothing() {
        let (_place, dir) = place();
        let program = dir.join("p");
        fs::write(&program, "abc").unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let linked = dir.join("linked");
        std::os::unix::fs::symlink(&dir, &linked).unwrap();
        for bad in
            [link.clone(), linked.join("p"), dir.join("./p"), dir.join("gone"), dir.clone(), "p".into()]
        {
            assert!(matches!(attest(&bad, None, &[]), Err(AttestFault::Read { .. })), "{}", bad.display());
            assert!(attest(&program, Some(&bad), &[]).is_err(), "{}", bad.display());
        }
        assert!(sha256(&link, 10).is_err(), "a hash follows no link");
    }

    #[test]
    fn a_path_that_has_no_exact_spelling_proves_nothing() {
        let (_place, dir) = place();
        let program = dir.join(std::ffi::OsStr::from_bytes(b"p\xff"));
        fs::write(&program, "abc").unwrap();
        assert!(attest(&program, None, &[]).is_err());
    }

    #[test]
    fn only_regular_files_within_the_limit_are_hashed() {
        let (_place, dir) = place();
        let program = dir.join("p");
        fs::write(&program, "abc").unwrap();
        assert_eq!(sha256(&program, 3).unwrap(), ABC);
        assert!(sha256(&program, 2).unwrap_err().to_string().contains("larger"));
        assert!(sha256(&dir, 10).is_err());
        assert!(sha256(Path::new("/dev/null"), 10).unwrap_err().to_string().contains("regular"));
        let fifo = dir.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(sha256(&fifo, 10).unwrap_err().to_string().contains("regular"));
    }

    #[test]
    fn accounts() {
        let (_place, dir) = place();
        let accounts = dir.join("passwd");
        fs::write(
            &accounts,
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/:\n:x:1000:1::/:\nbad\ntoor:x:0:0::/:\n",
        )
        .unwrap();
        assert_eq!(account_names(1000, &accounts).unwrap(), ["ada"]);
        assert_eq!(account_names(0, &accounts).unwrap(), ["root", "toor"]);
        assert!(account_names(5, &accounts).unwrap().is_empty());
    }
}
