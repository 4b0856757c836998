//! What lies open in the writable places: sockets that would still connect to the host's programs, and files that look like keys.
//!
//! The walk is bounded in entries and depth, because a work tree may be of any size and the launch may not. The kernel's own list of
//! bound sockets has no such bound and is read as well; what neither finds stays open, and the caller is told that the walk was cut.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirEntry},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub sockets: BTreeSet<PathBuf>,
    /// Files with something that looks like a real key.
    pub secrets: Vec<PathBuf>,
    /// Whether there was more than was looked at.
    pub cut: bool,
}

/// Looks through `places`, which are canonical, as are `shown`: those are the host's, so nobody left a socket in them but who
/// listens, and the kernel's list is enough. `prefixes` are those of keys that the caller knows, besides ours.
pub(super) fn look(places: &[PathBuf], shown: &[PathBuf], prefixes: &[&str]) -> Found {
    let mut found = Found::default();
    let bound = fs::read("/proc/net/unix").unwrap_or_default();
    // Whoever is connected to a socket is listed with its name as well.
    let bound: BTreeSet<PathBuf> = bound_sockets(&bound).collect();
    let real = bound.iter().filter_map(|path| {
        let directory = fs::canonicalize(path.parent()?).ok()?;
        Some(directory.join(path.file_name()?))
    });
    let in_view = |path: &PathBuf| places.iter().chain(shown).any(|place| path.starts_with(place));
    found.sockets.extend(real.filter(in_view));
    found.sockets.retain(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()));
    for place in places {
        let mut left = ENTRIES_MAX;
        let mut queue = vec![(place.clone(), 0)];
        while let Some((directory, depth)) = queue.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if left == 0 {
                    found.cut = true;
                    break;
                }
                left -= 1;
                visit(&entry, depth, &mut queue, &mut found, prefixes);
            }
        }
    }
    found
}

/// Entries that are looked at in each place.
const ENTRIES_MAX: usize = 4000;
const DEPTH_MAX: usize = 6;
/// Of a file that may hold a key.
const SECRET_READ_MAX: u64 = 65536;
const SECRETS_MAX: usize = 32;
/// Large, and nobody's place for a socket.
const PASSED_OVER: [&str; 4] = ["node_modules", "objects", "target", "__pycache__"];

fn visit(
    entry: &DirEntry,
    depth: usize,
    queue: &mut Vec<(PathBuf, usize)>,
    found: &mut Found,
    prefixes: &[&str],
) {
    let (name, Ok(kind)) = (entry.file_name(), entry.file_type()) else { return };
    if kind.is_dir() {
        if PASSED_OVER.iter().any(|passed| name.as_bytes() == passed.as_bytes()) {
            return;
        }
        if depth == DEPTH_MAX {
            found.cut = true;
            return;
        }
        queue.push((entry.path(), depth + 1));
    } else if kind.is_socket() {
        found.sockets.insert(entry.path());
    } else if kind.is_file()
        && found.secrets.len() < SECRETS_MAX
        && may_hold_keys(&name)
        && read(&entry.path()).is_some_and(|content| holds_key(&content, prefixes))
    {
        found.secrets.push(entry.path());
    }
}

/// The absolute paths in the kernel's list of Unix sockets (`/proc/net/unix`: the path is the eighth column, and may hold anything).
fn bound_sockets(list: &[u8]) -> impl Iterator<Item = PathBuf> {
    list.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let start = line.iter().position(|byte| *byte == b'/')?;
        let path = line.get(start..)?;
        Some(PathBuf::from(OsStr::from_bytes(path)))
    })
}

/// Names of files in which keys are kept.
fn may_hold_keys(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    let exact: [&[u8]; 9] = [
        b".npmrc",
        b".pypirc",
        b".netrc",
        b".git-credentials",
        b"credentials.json",
        b"secrets.toml",
        b"secrets.yaml",
        b"secrets.yml",
        b"secrets.json",
    ];
    let example = [&b".example"[..], b".sample", b".template"].iter().any(|end| name.ends_with(end));
    !example
        && (exact.contains(&name.as_slice())
            || name == b".env"
            || name.starts_with(b".env.")
            || name.ends_with(b".env")
            || name.starts_with(b"service-account") && name.ends_with(b".json")
            || name.starts_with(b"id_") && !name.ends_with(b".pub")
            || name.ends_with(b".pem")
            || name.ends_with(b".key"))
}

/// Begins of keys that are known by sight.
const KEY_PREFIXES: [&str; 18] = [
    "sk-",
    "sk_live_",
    "rk_live_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "AKIA",
    "ASIA",
    "xoxb-",
    "xoxp-",
    "npm_",
    "pypi-",
    "AIza",
    "hf_",
    "dop_v1_",
    "SG.",
];
/// What follows a prefix in a real key, at least.
const KEY_TAIL_MIN: usize = 12;

/// Whether `content` has something that looks like a real key: of a known begin, long, and no placeholder.
fn holds_key(content: &[u8], prefixes: &[&str]) -> bool {
    let text = String::from_utf8_lossy(content);
    if text.contains("PRIVATE KEY-----") {
        return true;
    }
    let known = KEY_PREFIXES.iter().chain(prefixes).filter(|prefix| prefix.len() > 1);
    known.into_iter().any(|prefix| {
        text.match_indices(*prefix).any(|(at, _)| {
            let before = text.get(..at).and_then(|before| before.chars().next_back());
            let rest = text.get(at + prefix.len()..).unwrap_or_default();
            let tail: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
            let starts = !before.is_some_and(|c| c.is_ascii_alphanumeric());
            starts && tail.len() >= KEY_TAIL_MIN && !tail.starts_with("writ")
        })
    })
}

/// The begin of a regular file. Nothing is waited for: it could have become a pipe.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY).bits();
    let file = fs::File::options().read(true).custom_flags(i32::try_from(flags).ok()?).open(path).ok()?;
    let mut content = Vec::new();
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    file.take(SECRET_READ_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_and_keys_are_found_and_placeholders_are_not() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        let _socket = UnixListener::bind(root.join("a/b/s\n\u{e9}.sock")).unwrap();
        for (name, content) in [
            (".env", "A=sk-proj-0123456789abcdef\n"),
            ("a/.env.local", "A=sk-writ0123456789abcdef\n"),
            ("a/.env.example", "A=sk-proj-0123456789abcdef\n"),
            ("a/notes.txt", "A=sk-proj-0123456789abcdef\n"),
            ("a/b/own.env", "T=acme_0123456789abcdef\n"),
            ("a/b/x.pem", "-----BEGIN CERTIFICATE-----"),
            ("id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----"),
            ("b.env", "TASK=task-0123456789abcdef\n"),
        ] {
            fs::write(root.join(name), content).unwrap();
        }
        let mut found = look(std::slice::from_ref(&root), &[], &["acme_"]);
        found.secrets.sort();
        assert_eq!(found.secrets, [root.join(".env"), root.join("a/b/own.env"), root.join("id_ed25519")]);
        assert_eq!(found.sockets.into_iter().collect::<Vec<_>>(), [root.join("a/b/s\n\u{e9}.sock")]);
        assert!(!found.cut);
    }

    #[test]
    fn a_socket_deeper_than_the_walk_is_found_in_the_kernels_list() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let deep = root.join("1/2/3/4/5/6/7/8");
        fs::create_dir_all(&deep).unwrap();
        let _socket = UnixListener::bind(deep.join("s")).unwrap();
        let found = look(&[root], &[], &[]);
        assert!(found.cut && found.sockets.contains(&deep.join("s")));
    }

    #[test]
    fn a_socket_among_what_is_only_shown_is_found_under_its_real_name() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        fs::create_dir(root.join("tool")).unwrap();
        std::os::unix::fs::symlink("tool", root.join("alias")).unwrap();
        let _socket = UnixListener::bind(root.join("alias/s")).unwrap();
        let found = look(&[], &[root.join("tool")], &[]);
        assert_eq!(found.sockets.into_iter().collect::<Vec<_>>(), [root.join("tool/s")]);
    }

    #[test]
    fn a_large_place_is_cut() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..=ENTRIES_MAX {
            fs::write(place.path().join(number.to_string()), "").unwrap();
        }
        assert!(look(&[place.path().to_owned()], &[], &[]).cut);
    }
}
