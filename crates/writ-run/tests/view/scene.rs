//! A home on a machine, and a script in the view of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use writ_core::Placeholder;
use writ_run::{HomeFile, Replacement, Seeding, Wishes, view};

/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;
const INSIDE: &str = "WRIT_VIEW_INSIDE";

/// A home, a work tree and a place for layers, which belong to one account.
pub struct Scene {
    pub dir: TempDir,
    uid: u32,
}

impl Scene {
    pub fn new(uid: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("writ:view,").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let scene = Self { dir, uid };
        for name in ["home", "layers", "work", "other"] {
            scene.dir(name);
        }
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn own(&self, path: &Path) {
        if self.uid != rustix::process::geteuid().as_raw() {
            lchown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let mut path = self.dir.path().to_owned();
        for part in Path::new(name) {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).unwrap();
                self.own(&path);
            }
        }
        path
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        self.dir(Path::new(name).parent().unwrap().to_str().unwrap());
        fs::write(&path, content).unwrap();
        self.own(&path);
        path
    }

    pub fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).unwrap();
        self.own(&self.path(name));
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The one kept layer.
    pub fn layer(&self) -> PathBuf {
        let mut all = fs::read_dir(self.path("layers")).unwrap().map(|entry| entry.unwrap().path());
        let layer = all.next().unwrap();
        assert_eq!(all.next(), None);
        layer.join("upper")
    }

    /// Runs the test `name` again, in namespaces of its own, with `script` to be run in the view.
    pub fn command(&self, name: &str, script: &str) -> Command {
        let test = self.path("test");
        if !test.exists() {
            // By a program of its own: a writable descriptor, inherited by another test's child, would keep it from being executed.
            let exe = std::env::current_exe().unwrap();
            let copied = fs::hard_link(&exe, &test).is_ok()
                || Command::new("cp").arg(&exe).arg(&test).status().unwrap().success();
            assert!(copied);
        }
        let own = rustix::process::geteuid().as_raw();
        let mut command = if self.uid == own {
            Command::new("unshare")
        } else {
            let mut command = Command::new("setpriv");
            let id = self.uid.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "unshare"]);
            command
        };
        command.args([
            "--user",
            "--map-current-user",
            "--keep-caps",
            "--mount",
            "--pid",
            "--ipc",
            "--net",
            "--fork",
            "--kill-child",
            "--propagation",
            "unchanged",
        ]);
        command.arg(test).args(["--exact", name, "--nocapture", "--test-threads=1"]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("home"));
        command.env(INSIDE, script).env("SCENE", self.dir.path()).env("RUST_BACKTRACE", "0");
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    /// As [`Scene::command`], from a mount namespace in which `setup` stands for the host: a script in the scene's directory, with the
    /// command as its arguments.
    pub fn after(&self, setup: &str, name: &str, script: &str) -> Command {
        let inner = self.command(name, script);
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args(["--mount", "sh", "-euc", setup, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs it, and the script must succeed.
    #[track_caller]
    pub fn succeeds(&self, name: &str, script: &str) -> String {
        told(&self.command(name, script).output().unwrap(), self.uid, script)
    }
}

#[track_caller]
pub fn told(output: &Output, uid: u32, script: &str) -> String {
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "as {uid}: {script}\n{told}");
    told
}

/// This account and, from root, a plain one.
pub fn accounts() -> Vec<u32> {
    let own = rustix::process::geteuid().as_raw();
    if own == 0 { vec![0, NOBODY] } else { vec![own] }
}

/// In the process that a scene started: builds the view for `wishes`, enters it, runs the script. `None` elsewhere.
pub fn inside(wishes: impl FnOnce(&Path) -> Wishes) -> Option<()> {
    let script = std::env::var(INSIDE).ok()?;
    let scene = PathBuf::from(std::env::var_os("SCENE").unwrap());
    let mut wishes = wishes(&scene);
    if wishes.directory.as_os_str().is_empty() {
        wishes.directory = scene.join("work").into();
    }
    let begin = std::time::Instant::now();
    let facts = view::Facts::gather(view::Host::look().unwrap(), &wishes).unwrap();
    println!("gathered in {:?}", begin.elapsed());
    let planned = view::plan(&facts, &wishes).unwrap();
    for note in &planned.notes {
        println!("note: {note}");
    }
    let message = serde_json::to_vec(&planned.view).unwrap();
    let view: writ_run::View = serde_json::from_slice(&message).unwrap();
    let begin = std::time::Instant::now();
    // The lock on a kept layer, for as long as the view is used.
    let _built = view.build().unwrap_or_else(|fault| panic!("{fault}"));
    view::enter().unwrap_or_else(|fault| panic!("{fault}"));
    println!("built in {:?}, a plan of {} bytes", begin.elapsed(), message.len());
    let mut command = Command::new("/bin/sh");
    command.env("PRELUDE", PRELUDE);
    command.args(["-euc", &format!("{PRELUDE}\n{script}")]).current_dir(&*planned.directory);
    assert!(command.status().unwrap().success(), "the script failed");
    Some(())
}

/// `no` fails if the command that follows succeeds; a plain `!` is no reason for `sh -e` to stop. `write` and the like are for it.
const PRELUDE: &str = "no() { if \"$@\" 2> /dev/null; then echo \"unexpected: $*\"; exit 1; fi; }
write() { sh -c 'echo x > \"$0\"' \"$1\"; }
full() { test -n \"$(ls -A \"$1\")\"; }";

pub fn layers(scene: &Path) -> Wishes {
    Wishes { layers: Some(scene.join("layers").into()), ..Wishes::default() }
}

pub fn hidden(scene: &Path) -> Wishes {
    let hidden = ["home/.local/state/writ", "work/state", "home/absent"];
    Wishes {
        hidden: hidden.iter().map(|path| scene.join(path).into()).collect(),
        read_only: vec![scene.join("work/writ.toml").into()],
        ..layers(scene)
    }
}

pub fn seeded(scene: &Path) -> Wishes {
    let placeholder = Placeholder::try_from("ghp_writPLACEHOLDER".to_owned()).unwrap();
    let home = |path: &str, seed| HomeFile { path: path.into(), content: "seed".into(), mode: 0o600, seed };
    Wishes {
        replacements: vec![Replacement { placeholder, key_prefixes: vec!["ghp_".into()] }],
        home: vec![
            home(".config/new", Seeding::Absent),
            home(".real", Seeding::Absent),
            home(".state", Seeding::NotInLayer),
            home(".session", Seeding::Always),
        ],
        ..layers(scene)
    }
}
