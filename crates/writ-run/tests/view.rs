//! Real views, built in real namespaces, as this account and, where the tests run as root, as a plain one too.
//!
//! Each test runs itself again under `unshare` (util-linux), where it is alone in new user, mount and PID namespaces: it builds the view
//! there, enters it, and runs a shell script whose exit status is the answer. A rule that is taken away makes its script fail.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy does not see that the helpers here are tests"
)]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use writ_core::Placeholder;
use writ_run::{EtcFile, HomeFile, Replacement, Seeding, Wishes, view};

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
    fn after(&self, setup: &str, name: &str, script: &str) -> Command {
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
    fn succeeds(&self, name: &str, script: &str) -> String {
        told(&self.command(name, script).output().unwrap(), self.uid, script)
    }
}

#[track_caller]
fn told(output: &Output, uid: u32, script: &str) -> String {
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
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
    let facts = view::Facts::gather(view::Host::look().unwrap(), &wishes).unwrap();
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
    command.env("PRELUDE", PRELUDE);
    command.args(["-euc", &format!("{PRELUDE}\n{script}")]).current_dir(&*planned.directory);
    assert!(command.status().unwrap().success(), "the script failed");
    Some(())
}

/// `no` fails if the command that follows succeeds; a plain `!` is no reason for `sh -e` to stop. `write` and the like are for it.
const PRELUDE: &str = "no() { if \"$@\" 2> /dev/null; then echo \"unexpected: $*\"; exit 1; fi; }
write() { sh -c 'echo x > \"$0\"' \"$1\"; }
full() { test -n \"$(ls -A \"$1\")\"; }";

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
             no cat /etc/shadow; no ls /etc/ssl/private; test -e /etc/passwd
             for place in /usr /etc / /dev /sys /opt /var /proc; do no touch $place/x; done
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

fn hidden(scene: &Path) -> Wishes {
    let hidden = ["home/.local/state/writ", "work/state", "home/absent"];
    Wishes {
        hidden: hidden.iter().map(|path| scene.join(path).into()).collect(),
        read_only: vec![scene.join("work/writ.toml").into()],
        ..layers(scene)
    }
}

#[test]
fn what_is_hidden_is_covered_wherever_it_lies() {
    const NAME: &str = "what_is_hidden_is_covered_wherever_it_lies";
    if inside(hidden).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("home/.local/state/writ/key", "key");
        scene.file("work/state/key", "key");
        scene.file("work/writ.toml", "mine");
        scene.succeeds(
            NAME,
            "for place in ~/.local/state/writ state; do
               test -d $place; no full $place; no touch $place/x; no mv $place moved
             done
             grep -q mine writ.toml; no write writ.toml; no rm -f writ.toml
             no mv writ.toml gone; no mv new writ.toml; echo x > new; mv new newer; test ! -e /.writ; test ! -e ~/absent",
        );
        assert_eq!(scene.read("work/writ.toml"), "mine");
        // A layer in which the way there was made a link.
        let layer = scene.layer();
        fs::remove_dir_all(layer.join(".local")).ok();
        scene.dir("home/elsewhere");
        symlink(scene.path("home/.local"), layer.join(".local2")).unwrap();
        symlink("elsewhere", layer.join(".local")).unwrap();
        scene.succeeds(NAME, "no grep -rq key ~ state; no cat ~/.local2/state/writ/key");
    }
}

fn seeded(scene: &Path) -> Wishes {
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

const CREDENTIALS: [&str; 6] = [
    ".npmrc",
    ".ssh/id_ed25519",
    ".config/gh/hosts.yml",
    ".aws/sso/cache/t.json",
    ".claude/.credentials.json",
    "dotfiles/netrc",
];

#[test]
fn no_secret_of_the_home_is_readable_and_planted_links_do_not_touch_the_host() {
    const NAME: &str = "no_secret_of_the_home_is_readable_and_planted_links_do_not_touch_the_host";
    if inside(seeded).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("home/.npmrc", "registry=https://r.example/\n//r.example/:_authToken=ghp_SECRETSECRET\n");
        scene.file("home/.ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET");
        scene.file("home/.ssh/config", "Host *\n");
        scene.file("home/.config/gh/hosts.yml", "github.com:\n  oauth_token: ghp_SECRETSECRET\n");
        scene.file("home/.aws/sso/cache/t.json", "SECRET");
        scene.file("home/.claude/.credentials.json", "{\"accessToken\": \"SECRET\"}");
        scene.file("home/dotfiles/netrc", "machine x login y password SECRET\n");
        scene.link("home/.netrc", "dotfiles/netrc");
        scene.file("home/.real", "real");
        scene.file("home/.session", "real");
        scene.file("home/.state", "real");
        let script = "no grep -rq SECRET ~; grep -q ghp_writPLACEHOLDER ~/.npmrc ~/.config/gh/hosts.yml
             grep -q r.example ~/.npmrc; grep -q writ_withheld ~/.netrc; grep -q Host ~/.ssh/config
             test ! -e ~/.ssh/id_ed25519; test ! -e ~/.claude/.credentials.json; grep -q real ~/.real
             grep -q seed ~/.session; grep -q seed ~/.state; grep -q seed ~/.config/new";
        scene.succeeds(NAME, script);
        // An agent that wrote links to the host into its layer, and directories that would show what is below.
        let layer = scene.layer();
        let victim = scene.file("other/victim", "untouched");
        for name in [".npmrc", ".session", ".claude/.credentials.json"] {
            fs::remove_file(layer.join(name)).unwrap();
            symlink(&victim, layer.join(name)).unwrap();
        }
        fs::remove_dir_all(layer.join(".config")).unwrap();
        symlink(scene.path("other"), layer.join(".config")).unwrap();
        fs::remove_dir_all(layer.join(".aws")).unwrap();
        fs::create_dir_all(layer.join(".aws/sso/cache")).unwrap();
        for path in [".aws", ".aws/sso", ".aws/sso/cache", ".config", ".npmrc", ".session"] {
            scene.own(&layer.join(path));
        }
        scene.succeeds(
            NAME,
            "no grep -rq SECRET ~; grep -q ghp_writ ~/.npmrc; grep -q seed ~/.session; ls ~/.aws/sso/cache",
        );
        assert_eq!(scene.read("other/victim"), "untouched");
        assert_eq!(fs::read_dir(scene.path("other")).unwrap().count(), 1);
        for name in CREDENTIALS {
            assert!(scene.read(&format!("home/{name}")).contains("SECRET"), "{name}");
        }
    }
}

#[test]
fn a_repositorys_links_do_not_lead_the_launcher_to_the_host() {
    const NAME: &str = "a_repositorys_links_do_not_lead_the_launcher_to_the_host";
    if inside(|scene| Wishes {
        hidden: vec![scene.join("elsewhere/hidden").into()],
        caches: vec![scene.join("cache").into(), scene.join("work/c").into(), scene.join("none").into()],
        ..layers(scene)
    })
    .is_some()
    {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.dir("cache");
        scene.dir("elsewhere/hidden");
        scene.file("elsewhere/hidden/f", "x");
        scene.dir("work/.git");
        scene.link("work/.npmrc", "/etc/passwd");
        scene.link("work/a", "../elsewhere");
        scene.link("work/c", "../other");
        let before = fs::metadata("/etc/passwd").unwrap();
        let told = scene.succeeds(
            NAME,
            "echo y > $SCENE/cache/y; test -L .npmrc; test ! -e $SCENE/elsewhere; test ! -e $SCENE/other; test ! -e $SCENE/none",
        );
        assert!(told.contains("none\" is no directory"), "{told}");
        assert_eq!(scene.read("cache/y"), "y\n");
        assert_eq!(before.mtime(), fs::metadata("/etc/passwd").unwrap().mtime());
        assert_eq!(scene.read("elsewhere/hidden/f"), "x");
    }
}

#[test]
fn a_second_run_on_the_same_layer_gets_another() {
    const NAME: &str = "a_second_run_on_the_same_layer_gets_another";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        let mut first = scene.command(NAME, "echo 1 > ~/first; echo ready; read line; test ! -e ~/second");
        let mut first =
            first.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(first.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "ready"));
        scene.succeeds(NAME, "test ! -e ~/first; echo 2 > ~/second");
        first.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(said.any(|line| line.unwrap().contains("1 passed")));
        assert!(first.wait().unwrap().success());
        scene.succeeds(NAME, "test -e ~/first; test ! -e ~/second");
    }
}

#[test]
fn mounts_are_locked_for_a_nested_namespace() {
    const NAME: &str = "mounts_are_locked_for_a_nested_namespace";
    if inside(hidden).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("work/state/key", "key");
        scene.file("home/x", "");
        scene.succeeds(
            NAME,
            "cat > attack <<'END'
             for place in state /etc /proc/sys ~ /usr /tmp . /; do
               no umount $place; no umount -l $place; no mount --move $place /tmp/to
             done
             for place in state /etc /usr / /dev /sys; do no mount -o remount,bind,rw $place; no touch $place/x; done
             mount --rbind . /tmp; no full /tmp/state; no umount /tmp/state; no umount -l /tmp/state
END
             mkdir /tmp/to; (echo \"$PRELUDE\"; cat attack) > script
             unshare --user --map-root-user --mount sh -eu ./script
             # The same is possible where nothing locks: here, beside the first process inside.
             umount state; test -e state/key; mount -o remount,bind,rw /usr; umount -l /usr",
        );
    }
}

#[test]
fn sockets_in_writable_places_do_not_connect() {
    const NAME: &str = "sockets_in_writable_places_do_not_connect";
    if inside(layers).is_some() {
        return;
    }
    const CONNECT: &str = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.dir("work/.git");
        let path = scene.dir("work/run").join("s\n.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        scene.file("work/connect.py", CONNECT);
        let outside = Command::new("python3").args(["-c", CONNECT]).arg(&path).status().unwrap();
        assert!(outside.success(), "it connects outside");
        let told = scene.succeeds(NAME, "no python3 connect.py \"$(ls -d run/*)\"; ls run");
        assert!(told.contains("sockets that do not connect"), "{told}");
    }
}

/// A CA of the shape that sessions have, and a server's certificate from it: PEM of the CA, then files in `dir`.
fn session_ca(dir: &Path) -> String {
    let sh = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj '/CN=writ session root' -days 2
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost
        echo subjectAltName=DNS:localhost > ext
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 1 -extfile ext";
    let output = Command::new("sh").args(["-euc", sh]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(dir.join("ca.pem")).unwrap()
}

#[test]
fn the_sessions_ca_is_trusted_by_every_kind_of_program() {
    const NAME: &str = "the_sessions_ca_is_trusted_by_every_kind_of_program";
    if inside(|scene| Wishes {
        ca_pem: fs::read_to_string(scene.join("work/ca.pem")).unwrap(),
        readable: vec![scene.join("java").into()],
        etc: vec![EtcFile { path: "claude-code/managed-settings.json".into(), content: "{}".into() }],
        ..layers(scene)
    })
    .is_some()
    {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        session_ca(&scene.path("work"));
        for entry in fs::read_dir(scene.path("work")).unwrap() {
            scene.own(&entry.unwrap().path());
        }
        let bundle = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap();
        let count = bundle.matches("BEGIN CERTIFICATE").count() + 1;
        let script = format!(
            "openssl verify -no-CApath -no-CAstore -CAfile /etc/ssl/certs/ca-certificates.crt leaf.pem
             openssl verify -no-CAfile -no-CAstore -CApath /etc/ssl/certs leaf.pem
             openssl x509 -in /etc/ssl/certs/$(openssl x509 -in ca.pem -subject_hash -noout).0 -noout
             keytool -list -cacerts -storepass changeit | grep -c trustedCertEntry | grep -qx {count}
             grep -qx 'nameserver 127.0.0.53' /etc/resolv.conf; grep -qx 'hosts: files dns' /etc/nsswitch.conf
             grep -q ::1 /etc/hosts; test -s /etc/claude-code/managed-settings.json; test ! -L /etc/resolv.conf
             ip link set lo up 2>/dev/null || python3 -c '{LO}'
             openssl s_server -quiet -accept 127.0.0.1:4433 -cert leaf.pem -key leaf.key -www > /dev/null 2>&1 &
             server=$!; for try in 1 2 3 4 5 6 7 8 9; do curl -s -o page https://localhost:4433/ && break; sleep 0.1; done
             kill $server; test -s page"
        );
        // A Java that keeps its certificates with itself.
        let java = scene.file("java/lib/security/cacerts", "not a key store");
        let script = format!(
            "{script}; keytool -list -keystore $SCENE/java/lib/security/cacerts -storepass changeit | grep -c trustedCertEntry | grep -qx {count}
             no write $SCENE/java/lib/security/cacerts"
        );
        let output = scene.command(NAME, &script).env("JAVA_HOME", scene.path("java")).output().unwrap();
        told(&output, uid, &script);
        assert_eq!(fs::read_to_string(java).unwrap(), "not a key store");
        assert!(!Path::new("/etc/claude-code").exists());
    }
}

#[test]
fn a_container_with_mounts_in_etc_and_in_the_home_is_confined_too() {
    const NAME: &str = "a_container_with_mounts_in_etc_and_in_the_home_is_confined_too";
    if inside(|scene| Wishes {
        hidden: vec![scene.join("home/d/hidden").into()],
        ca_pem: "CA".into(),
        ..seeded(scene)
    })
    .is_some()
    {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("home/.npmrc", "token=ghp_SECRETSECRET\n");
        scene.file("home/.ssh/id_rsa", "SECRET");
        scene.file("home/.config/gh/hosts.yml", "oauth_token: ghp_SECRETSECRET\n");
        scene.file("home/.config/other", "kept");
        scene.file("home/d/e/f", "real");
        scene.file("home/d/hidden/key", "SECRET");
        scene.dir("home/d/mounted");
        scene.link("home/link", "d/e");
        let setup =
            "mount --bind other/volume home/d/mounted; mount --bind other/name /etc/hostname; cd work";
        scene.file("other/volume/v", "v");
        scene.file("other/name", "container");
        let script = "no grep -rq SECRET ~; grep -q ghp_writ ~/.npmrc ~/.config/gh/hosts.yml; grep -q kept ~/.config/other
             grep -q real ~/link/f; grep -q v ~/d/mounted/v; echo x > ~/d/e/f; echo x > ~/d/mounted/v; echo x > ~/new
             echo x > ~/.config/new; no full ~/d/hidden; no touch ~/d/hidden/x; grep -q seed ~/.session
             grep -q container /etc/hostname; no write /etc/hostname; no touch /etc/x; no touch /etc/ssl/x
             grep -qx 'nameserver 127.0.0.53' /etc/resolv.conf; grep -q CA /etc/ssl/certs/ca-certificates.crt
             no cat /etc/shadow; grep -q root /etc/passwd; test -d /etc/ssl/certs; test ! -c /etc/shadow
             git --version > /dev/null; echo done > file";
        let mut command = scene.after(&format!("{setup}; exec \"$@\""), NAME, script);
        let told = told(&command.output().unwrap(), uid, script);
        assert!(told.contains("something is mounted in it"), "{told}");
        assert_eq!(scene.read("home/d/e/f"), "real");
        assert_eq!(scene.read("other/volume/v"), "v");
        assert_eq!(scene.read("work/file"), "done\n");
        assert!(!scene.path("home/new").exists() && !scene.path("home/.config/new").exists());
    }
}

#[test]
fn a_layer_that_cannot_be_kept_is_in_memory() {
    const NAME: &str = "a_layer_that_cannot_be_kept_is_in_memory";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.dir("upper");
        scene.dir("workdir");
        let setup = "mount -t overlay overlay -o userxattr,lowerdir=other,upperdir=upper,workdir=workdir layers; cd work; exec \"$@\"";
        let script = "echo x > ~/new; grep -q x ~/new";
        let told = told(&scene.after(setup, NAME, script).output().unwrap(), uid, script);
        assert!(told.contains("not kept: it lies on an overlay"), "{told}");
    }
}

#[test]
fn what_the_host_mounts_later_does_not_appear() {
    const NAME: &str = "what_the_host_mounts_later_does_not_appear";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.dir("work/x");
        let setup = "mount --make-rshared /; mkfifo -m 666 work/to work/from; (cd work; exec \"$@\") & inner=$!
             read line < work/to; mount -t tmpfs host work/x; touch work/x/inside; echo go > work/from; wait $inner";
        let script = "echo ready > to; read line < from; test ! -e x/inside; test -d x";
        told(&scene.after(setup, NAME, script).output().unwrap(), uid, script);
    }
}

#[test]
fn a_credential_that_appears_meanwhile_is_not_seen() {
    const NAME: &str = "a_credential_that_appears_meanwhile_is_not_seen";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        scene.file("home/.aws/config", "[default]\nregion = x\n");
        scene.file("home/.config/known", "x");
        scene.file("home/.ssh/config", "Host *\n");
        let setup = "mkfifo -m 666 work/to work/from; (cd work; exec \"$@\") & inner=$!
             read line < work/to; cd home; mkdir -p .config/gh .kube .codex
             for f in .config/gh/hosts.yml .kube/config .codex/auth.json .ssh/id_rsa; do echo 'oauth_token: SECRET' > $f; done
             echo 'machine x login y password SECRET' > .netrc; echo 'token = SECRET' > .aws/credentials; echo 'editor: SECRET' > .config/gh/config.yml
             chmod -R a+rX .; cd ..; echo go > work/from; wait $inner";
        let before = "test ! -e ~/.kube; test -z \"$(ls -A ~ | grep netrc)\"; test \"$(ls ~/.aws)\" = config; mkdir ~/.codex
             echo own > ~/.codex/auth.json";
        let after = "no grep -rq SECRET ~; test ! -e ~/.kube; test \"$(ls ~/.ssh ~/.aws | grep -v :)\" = \"$(printf 'config\\n\\nconfig')\"
             grep -q own ~/.codex/auth.json; grep -q x ~/.config/known; mkdir ~/.kube; echo own > ~/.kube/own; ls ~/.kube";
        let script = format!("{before}\necho ready > to; read line < from\n{after}");
        told(&scene.after(setup, NAME, &script).output().unwrap(), uid, &script);
        // Now they are there from the beginning: what is no secret of theirs is seen, and the agent's own stays.
        let script = "no grep -rq SECRET ~/.netrc ~/.aws ~/.config/gh/hosts.yml ~/.ssh
             grep -q SECRET ~/.config/gh/config.yml; grep -q writ_withheld ~/.config/gh/hosts.yml; test ! -e ~/.ssh/id_rsa
             grep -q own ~/.kube/own; test -e ~/.kube/config";
        scene.succeeds(NAME, script);
    }
}

#[test]
fn the_terminal_has_a_name_inside() {
    const NAME: &str = "the_terminal_has_a_name_inside";
    if inside(layers).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        // script(1), of util-linux, gives it a terminal.
        let setup = "cd work; export line=; for word; do line=\"$line '$word'\"; done; exec script -qec \"$line\" /dev/null";
        let script =
            "test \"$(tty)\" = /dev/console; test -c /dev/pts/ptmx; test -z \"$(ls /dev/pts | grep -v ptmx)\"
             python3 -c 'import pty; pty.openpty()'";
        told(&scene.after(setup, NAME, script).output().unwrap(), uid, script);
    }
}

/// `SIOCSIFFLAGS` with `IFF_UP`, for machines without `ip`.
const LO: &str =
    "import fcntl,socket,struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sh22x\", b\"lo\", 1))";

#[test]
fn commits_of_a_linked_work_tree_are_visible_on_the_host() {
    const NAME: &str = "commits_of_a_linked_work_tree_are_visible_on_the_host";
    if inside(|scene| Wishes { directory: scene.join("linked").into(), ..layers(scene) }).is_some() {
        return;
    }
    for uid in accounts() {
        let scene = Scene::new(uid);
        let git = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a";
        let script = format!(
            "{git}; git init -q main; cd main; git commit -q --allow-empty -m 1; git worktree add -q ../linked"
        );
        let id = uid.to_string();
        let setpriv = ["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-euc", &script];
        let mut command =
            Command::new(if uid == rustix::process::geteuid().as_raw() { "sh" } else { "setpriv" });
        command.args(if command.get_program() == "sh" { &setpriv[6..] } else { &setpriv[..] });
        scene.own(scene.dir.path());
        let output = command.current_dir(scene.dir.path()).env("HOME", scene.path("home")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        scene.succeeds(
            NAME,
            &format!("{git}; echo x > f; git add f; git commit -qm inside; test ! -e $SCENE/main/f"),
        );
        let log = Command::new("git")
            .args(["-c", "safe.directory=*", "log", "--oneline", "--all"])
            .current_dir(scene.path("main"))
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&log.stdout).contains("inside"), "{log:?}");
    }
}
