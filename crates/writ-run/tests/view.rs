//! Real views, built in real namespaces, as this account and, where the tests run as root, as a plain one too.
//!
//! Each test runs itself again under `unshare` (util-linux), where it is alone in new user, mount and PID namespaces: it builds the view
//! there, enters it, and runs a shell script whose exit status is the answer. A rule that is taken away makes its script fail.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use writ_core::Placeholder;
use writ_run::{EtcFile, HomeFile, Replacement, Wishes, view};

/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;
const INSIDE: &str = "WRIT_VIEW_INSIDE";

/// A home, a work tree and a place for layers, which belong to one account.
struct Scene {
    dir: TempDir,
    uid: u32,
}

impl Scene {
    fn new(uid: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("writ:view,").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let scene = Self { dir, uid };
        for name in ["home", "layers", "work", "other"] {
            scene.dir(name);
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn own(&self, path: &Path) {
        if self.uid != rustix::process::geteuid().as_raw() {
            lchown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
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

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        self.dir(Path::new(name).parent().unwrap().to_str().unwrap());
        fs::write(&path, content).unwrap();
        self.own(&path);
        path
    }

    fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).unwrap();
        self.own(&self.path(name));
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The one kept layer.
    fn layer(&self) -> PathBuf {
        let mut all = fs::read_dir(self.path("layers")).unwrap().map(|entry| entry.unwrap().path());
        let layer = all.next().unwrap();
        assert_eq!(all.next(), None);
        layer.join("upper")
    }

    /// Runs the test `name` again, in namespaces of its own, with `script` to be run in the view.
    fn command(&self, name: &str, script: &str) -> Command {
        let test = self.path("test");
        if !test.exists() {
            fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
            fs::set_permissions(&test, Permissions::from_mode(0o755)).unwrap();
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
        command.args(["--user", "--map-current-user", "--keep-caps", "--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child"]);
        command.arg(test).args(["--exact", name, "--nocapture", "--test-threads=1"]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("home"));
        command.env(INSIDE, script).env("SCENE", self.dir.path()).env("RUST_BACKTRACE", "0");
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    /// Runs it, and the script must succeed.
    #[track_caller]
    fn succeeds(&self, name: &str, script: &str) -> String {
        told(&self.command(name, script).output().unwrap(), self.uid, script)
    }
}

#[track_caller]
fn told(output: &Output, uid: u32, script: &str) -> String {
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "as {uid}: {script}\n{told}");
    told
}

/// This account and, from root, a plain one.
fn accounts() -> Vec<u32> {
    let own = rustix::process::geteuid().as_raw();
    if own == 0 { vec![0, NOBODY] } else { vec![own] }
}

/// In the process that a scene started: builds the view for `wishes`, enters it, runs the script. `None` elsewhere.
fn inside(wishes: impl FnOnce(&Path) -> Wishes) -> Option<()> {
    let script = std::env::var(INSIDE).ok()?;
    let scene = PathBuf::from(std::env::var_os("SCENE").unwrap());
    let mut wishes = wishes(&scene);
    if wishes.directory.as_os_str().is_empty() {
        wishes.directory = scene.join("work").into();
    }
    let begin = std::time::Instant::now();
    let facts = view::Facts::gather(&wishes).unwrap();
    println!("gathered in {:?}", begin.elapsed());
    let planned = view::plan(&facts, &wishes).unwrap();
    for note in &planned.notes {
        println!("note: {note}");
    }
    let message = serde_json::to_vec(&planned.view).unwrap();
    let view: writ_run::View = serde_json::from_slice(&message).unwrap();
    let begin = std::time::Instant::now();
    view.build().unwrap_or_else(|fault| panic!("{fault}"));
    view::enter().unwrap_or_else(|fault| panic!("{fault}"));
    println!("built in {:?}, a plan of {} bytes", begin.elapsed(), message.len());
    let mut command = Command::new("/bin/sh");
    command.args(["-euc", &script]).current_dir(&*planned.directory);
    assert!(command.status().unwrap().success(), "the script failed");
    Some(())
}

fn layers(scene: &Path) -> Wishes {
    Wishes { layers: Some(scene.join("layers").into()), ..Wishes::default() }
}

#[test]
fn writes_reach_the_host_in_the_work_tree_only() {
    const NAME: &str = "writes_reach_the_host_in_the_work_tree_only";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("home/.profile", "real");
        scene.file("other/secret", "x");
        scene.succeeds(
            NAME,
            "echo w > file; echo h > ~/new; echo h > ~/.profile; mkdir ~/d; echo t > /tmp/t; echo s > /dev/shm/s
             test ! -e $SCENE/other
             for place in /usr /etc / /dev /run /sys /opt /var; do ! touch $place/x 2>/dev/null || test $place = /run; done
             echo n > /dev/null; head -c1 /dev/urandom > /dev/null; test -r /proc/self/status
             rm ~/.profile; test ! -e ~/.profile",
        );
        assert_eq!(scene.read("work/file"), "w\n");
        assert_eq!(scene.read("home/.profile"), "real");
        assert!(!scene.path("home/new").exists() && !scene.path("home/d").exists());
        assert_eq!(fs::read_to_string(scene.layer().join("new")).unwrap(), "h\n");
        scene.succeeds(NAME, "grep -q h ~/new; test ! -e ~/.profile");
    }
}
