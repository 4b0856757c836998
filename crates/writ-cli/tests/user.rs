//! An ordinary user, from nothing: no right of root's is needed for anything.
//!
//! Where the tests run as root, the binary is copied to where a plain account can execute it, and runs as `nobody`
//! (setpriv, of util-linux). The paths are the ones that a person has: `HOME` alone, no `WRIT_HOME`.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use writ_testkit::{Canary, Shape};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;

struct Account {
    dir: TempDir,
    writ: PathBuf,
    uid: u32,
}

impl Account {
    /// An account with a home and the binary, and nothing else.
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("writ-user-").tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        if own != 0 {
            return Self { dir, writ: WRIT.into(), uid: own };
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        let writ = dir.path().join("writ");
        fs::copy(WRIT, &writ).unwrap();
        fs::set_permissions(&writ, Permissions::from_mode(0o755)).unwrap();
        Self { dir, writ, uid: NOBODY }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn command(&self, args: &[&str]) -> Command {
        let own = rustix::process::geteuid().as_raw();
        let mut command = if own == self.uid {
            Command::new(&self.writ)
        } else {
            let mut command = Command::new("setpriv");
            let id = self.uid.to_string();
            command
                .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"])
                .arg(&self.writ);
            command
        };
        command.args(args).env_clear().env("HOME", self.home()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
        // The backstop of a failed test.
        command.env("WRIT_IDLE_SECONDS", "60").env("TMPDIR", self.home()).current_dir(self.home());
        command.stdin(Stdio::null());
        command
    }

    fn writ(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = self.command(&["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn told(out: &Output) -> String {
    format!(
        "{}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Everything below `dir`.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn sees_the_demo_and_keeps_nothing_of_it() {
    let account = Account::new();
    let out = account.writ(&["demo"]);
    assert!(out.status.success(), "{}", told(&out));
    let said = told(&out);
    assert!(said.contains("audit verify") && said.contains("0 of 9 canaries obtained"), "{said}");
    assert_eq!(below(&account.home()), Vec::<PathBuf>::new(), "{said}");
}

#[test]
fn runs_a_program_from_nothing() {
    let account = Account::new();
    let key = Canary::new(Shape::OpenAi);
    let out = account.command(&["init", "--yes"]).env("OPENAI_API_KEY", key.value()).output().unwrap();
    assert!(out.status.success(), "{}", told(&out));

    let script = "id -u; echo \"$OPENAI_API_KEY\"; env; exit 7";
    let ran = account
        .command(&["run", "--", "sh", "-c", script])
        .env("OPENAI_API_KEY", key.value())
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(7), "{}", told(&ran));
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let lines: Vec<_> = said.lines().take(2).collect();
    assert_eq!(lines[0], account.uid.to_string());
    assert!(lines[1].starts_with("sk-proj-writ"), "{}", told(&ran));
    assert_eq!(key.windows(&[ran.stdout, ran.stderr].concat()), 0);

    for args in [&["doctor"][..], &["audit", "verify"], &["stop"]] {
        let out = account.writ(args);
        assert!(out.status.success(), "{args:?}: {}", told(&out));
    }
    for path in below(&account.home()) {
        let found = fs::symlink_metadata(&path).unwrap();
        let mode = found.permissions().mode();
        // What is in a home layer has the modes of the home, behind directories that are for their owner alone.
        if path.components().any(|part| part.as_os_str() == "upper" || part.as_os_str() == "work") {
            continue;
        }
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}: it is for its owner alone", path.display());
        if path.is_file() {
            assert_eq!(key.windows(&fs::read(&path).unwrap()), 0, "{}", path.display());
        }
    }
}
