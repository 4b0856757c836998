//! What of the host's files is there, and what is not: the work tree, what is hidden in it, what is mounted, now or later.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use super::scene::{Scene, accounts, hidden, inside, layers, seeded, told};
use writ_run::Wishes;

#[test]
fn writes_reach_the_host_in_the_work_tree_only() {
    const NAME: &str = "files::writes_reach_the_host_in_the_work_tree_only";
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

#[test]
fn what_is_hidden_is_covered_wherever_it_lies() {
    const NAME: &str = "files::what_is_hidden_is_covered_wherever_it_lies";
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

#[test]
fn a_repositorys_links_do_not_lead_the_launcher_to_the_host() {
    const NAME: &str = "files::a_repositorys_links_do_not_lead_the_launcher_to_the_host";
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
fn commits_of_a_linked_work_tree_are_visible_on_the_host() {
    const NAME: &str = "files::commits_of_a_linked_work_tree_are_visible_on_the_host";
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

#[test]
fn a_container_with_mounts_in_etc_and_in_the_home_is_confined_too() {
    const NAME: &str = "files::a_container_with_mounts_in_etc_and_in_the_home_is_confined_too";
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
fn what_the_host_mounts_later_does_not_appear() {
    const NAME: &str = "files::what_the_host_mounts_later_does_not_appear";
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
