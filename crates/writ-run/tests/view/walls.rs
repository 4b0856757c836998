//! What a program inside finds locked or covered.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::scene::{Scene, accounts, hidden, inside, layers};

#[test]
fn mounts_are_locked_for_a_nested_namespace() {
    const NAME: &str = "walls::mounts_are_locked_for_a_nested_namespace";
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
    const NAME: &str = "walls::sockets_in_writable_places_do_not_connect";
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
