//! Real keys that earlier, unconfined runs left in the home directory: transcripts, histories, snapshots, databases.
//!
//! Agents write down what their tools print, so a single `env` in a session of last month is a key on the disk today
//! (transcripts of Claude Code, rollouts and databases of Codex, chats of Gemini CLI, the database of opencode). Files are read as
//! bytes, whatever their format: a key is a run of letters with a known beginning. Nothing is changed, since only the person knows
//! what may go; and what leaked is mended by rotation, not by deletion. Absent: git history, compressed and encoded copies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use writ_core::PRESETS;

use super::{is_real_key, mask, sha256, text};

/// The most bytes of one file: the newest of a transcript are at its end, so a larger file is read from there.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// The most bytes in all.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most files.
const FILES_MAX: usize = 5_000;
/// How deep below a place.
const DEPTH_MAX: usize = 8;
/// The most different keys that are told of one file.
const KEYS_MAX: usize = 100;

/// Where agents and shells write down what was said, below the home directory.
const PLACES: [&str; 27] = [
    ".claude",
    ".claude.json",
    ".codex",
    ".gemini",
    ".local/share/opencode",
    ".local/state/opencode",
    ".config/opencode",
    ".aider.chat.history.md",
    ".aider.input.history",
    ".bash_history",
    ".zsh_history",
    ".histfile",
    ".local/share/fish/fish_history",
    ".python_history",
    ".node_repl_history",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".config/fish",
    ".config/environment.d",
    ".envrc",
];

/// Files below the home directory that hold logins of known programs.
const LOGINS: [&str; 23] = [
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".aws/credentials",
    ".aws/sso/cache",
    ".azure/msal_token_cache.json",
    ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db",
    ".config/gh/hosts.yml",
    ".config/glab-cli/config.yml",
    ".config/hub",
    ".docker/config.json",
    ".kube/config",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".local/share/opencode/auth.json",
];
/// What private SSH keys are called.
const SSH_KEYS: [&str; 4] = ["id_rsa", "id_ecdsa", "id_ed25519", "id_dsa"];

/// A file that holds real keys.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Leftover {
    pub path: PathBuf,
    /// Masked, each once.
    pub keys: Vec<String>,
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Scan {
    pub found: Vec<Leftover>,
    /// A limit was reached: there may be more.
    pub cut: bool,
}

/// Files with real keys among the places below `home`.
pub fn scan(home: &Path) -> Scan {
    let mut reader = Reader { files: 0, bytes: 0, scan: Scan::default(), seen: BTreeSet::new() };
    for place in PLACES {
        reader.path(&home.join(place), DEPTH_MAX);
    }
    reader.scan.found.sort_by(|one, other| one.path.cmp(&other.path));
    reader.scan
}

/// Files of logins that are there, by name.
pub fn logins(home: &Path) -> Vec<PathBuf> {
    let ssh = SSH_KEYS.iter().map(|name| home.join(".ssh").join(name));
    LOGINS.iter().map(|name| home.join(name)).chain(ssh).filter(|path| path.exists()).collect()
}

struct Reader {
    files: usize,
    bytes: u64,
    scan: Scan,
    /// Places overlap.
    seen: BTreeSet<PathBuf>,
}

impl Reader {
    fn path(&mut self, path: &Path, depth: usize) {
        let Ok(found) = fs::symlink_metadata(path) else { return };
        if found.is_dir() {
            let Some(depth) = depth.checked_sub(1) else {
                self.scan.cut = true;
                return;
            };
            let mut below: Vec<PathBuf> =
                fs::read_dir(path).into_iter().flatten().filter_map(|one| Some(one.ok()?.path())).collect();
            below.sort();
            for one in below {
                self.path(&one, depth);
            }
        } else if found.is_file() {
            self.file(path, found.len());
        }
    }

    fn file(&mut self, path: &Path, length: u64) {
        if self.files >= FILES_MAX || self.bytes >= BYTES_MAX {
            self.scan.cut = true;
            return;
        }
        self.files += 1;
        let Some(bytes) = read_end(path, length) else { return };
        self.scan.cut |= length > FILE_MAX;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let keys = keys(&bytes);
        if !keys.is_empty() && self.seen.insert(path.to_owned()) {
            self.scan.found.push(Leftover { path: path.to_owned(), keys });
        }
    }
}

fn read_end(path: &Path, length: u64) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    use std::io::{Seek, SeekFrom};
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let mut file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub(FILE_MAX))).ok()?;
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The real keys in `bytes`, masked, each once.
pub fn keys(bytes: &[u8]) -> Vec<String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for run in text::tokens(bytes, 0..bytes.len()) {
        let Some(token) = text::text(bytes, run.clone()) else { continue };
        let before = run.start.checked_sub(1).and_then(|at| bytes.get(at)).copied();
        for start in starts(token, before == Some(b'\\')) {
            let key = token.get(start..).unwrap_or_default();
            if is_real_key(key) {
                found.entry(sha256(key.as_bytes())).or_insert_with(|| mask(key));
                break;
            }
        }
        if found.len() >= KEYS_MAX {
            break;
        }
    }
    found.into_values().collect()
}

/// Where a key may begin in a run of letters: at its beginning, behind the letter of an escape such as `\n`, and, for beginnings
/// that no word contains, anywhere, since in a database a length may stand before the text.
fn starts(token: &str, escaped: bool) -> Vec<usize> {
    let mut starts = vec![0];
    if escaped {
        starts.push(1);
    }
    let prefixes = PRESETS.iter().flat_map(|preset| preset.key_prefixes.iter().chain([&preset.shape.prefix]));
    let telling = prefixes.filter(|prefix| prefix.len() >= TELLING);
    starts.extend(telling.filter_map(|prefix| token.find(prefix)));
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Shorter beginnings are found in words: `task-…` has `sk-`.
const TELLING: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-proj-0aB1cD2eF3gH4iJ5kL6mN7oP8qR9";
    const OLD: &str = "sk-0aB1cD2eF3gH4iJ5kL6mN7oP8qR9";

    #[test]
    fn keys_are_found_in_any_format() {
        for (text, count) in [
            (format!("export OPENAI_API_KEY={KEY}\n"), 1),
            (format!(r#"{{"stdout":"PATH=/bin\nOPENAI_API_KEY={KEY}\nX=1"}}"#), 1),
            (format!(r#"{{"stdout":"one\n{OLD}\ntwo"}}"#), 1),
            (format!("{KEY} {OLD} {KEY}"), 2),
            (format!("\0\u{1}!x{KEY}\0"), 1),
            ("task-0aB1cD2eF3gH4iJ5kL6mN7oP8qR9".to_owned(), 0),
            ("sk-proj-writ0aB1cD2eF3gH4iJ5kL6mN7oP8qR9".to_owned(), 0),
            ("sk-proj-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".to_owned(), 0),
            (String::new(), 0),
        ] {
            assert_eq!(keys(text.as_bytes()).len(), count, "{text}");
        }
        assert_eq!(keys(KEY.as_bytes()), ["sk-proj-…8qR9"]);
    }

    #[test]
    fn places_of_agents_and_shells_are_scanned_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".claude/projects/-home-ada/1.jsonl", &format!("{{\"x\":\"{KEY}\"}}"));
        write(".codex/sessions/2026/11/21/rollout-1.jsonl", KEY);
        write(".gemini/tmp/x/chats/session.json", "nothing");
        write(".bash_history", &format!("export A={OLD}\n"));
        write("Documents/keys.txt", KEY);
        write(".aws/credentials", "x");
        write(".ssh/id_ed25519", "x");
        std::os::unix::fs::symlink(home.path().join("Documents"), home.path().join(".gemini/docs")).unwrap();
        let found = scan(home.path());
        let names: Vec<_> =
            found.found.iter().map(|one| one.path.strip_prefix(home.path()).unwrap().to_owned()).collect();
        let expected = [
            ".bash_history",
            ".claude/projects/-home-ada/1.jsonl",
            ".codex/sessions/2026/11/21/rollout-1.jsonl",
        ];
        assert_eq!(names, expected.map(PathBuf::from));
        assert!(!found.cut);
        let logins = logins(home.path());
        assert_eq!(logins, [".aws/credentials", ".ssh/id_ed25519"].map(|name| home.path().join(name)));
    }
}
