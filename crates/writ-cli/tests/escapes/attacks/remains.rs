//! What it changes or leaves behind on the host.

use super::{Attack, as_root, says, shows};

pub const ATTACKS: &[Attack] = &[
    shows(
        "change_shell_startup",
        "appends to ~/.bashrc",
        "the home is a layer",
        |scene| scene.host_file("home/.bashrc").contains("changed"),
        r##"
open(A["home"] + "/.bashrc", "a").write("# changed\n")
"##,
    ),
    shows(
        "plant_a_fake_writ",
        "writes ~/.local/bin/writ",
        "the home is a layer",
        |scene| !scene.host_file("home/.local/bin/writ").is_empty(),
        r##"
os.makedirs(A["home"] + "/.local/bin", exist_ok=True)
open(A["home"] + "/.local/bin/writ", "w").write("#!/bin/sh\n")
"##,
    ),
    shows(
        "change_git_configuration",
        "sets a helper in ~/.gitconfig",
        "the home is a layer",
        |scene| scene.host_file("home/.gitconfig").contains("helper"),
        r#"
open(A["home"] + "/.gitconfig", "a").write("[credential]\n\thelper = evil\n")
"#,
    ),
    shows(
        "change_npm_configuration",
        "sets another registry in ~/.npmrc",
        "the home is a layer",
        |scene| scene.host_file("home/.npmrc").contains("evil"),
        r#"
open(A["home"] + "/.npmrc", "a").write("registry=https://evil.example\n")
"#,
    ),
    shows(
        "leave_a_file_in_tmp",
        "leaves a file in the shared /tmp, where other programs find it",
        "/tmp is fresh",
        |_| {
            let path = format!("/tmp/writ-escape-{}", std::process::id());
            std::fs::remove_file(path).is_ok()
        },
        r#"
open("/tmp/" + A["marker"], "w").write("x")
"#,
    ),
    says(
        "uncover_by_unmounting",
        "unmounts what covers the state, and looks again",
        "mounts are locked",
        r#"
libc.umount2((A["writ_home"] + "/state").encode(), 2)
libc.umount2(A["writ_home"].encode(), 2)
libc.umount2(A["home"].encode(), 2)
if os.listdir(A["writ_home"] + "/state"): got()
"#,
    ),
    says(
        "uncover_in_a_nested_namespace",
        "becomes root of a namespace of its own and unmounts there",
        "mounts are locked",
        r#"
look = 'umount -l "$0" 2>/dev/null; umount -l "$0/state" 2>/dev/null; mount --bind / /mnt 2>/dev/null; ls "$0/state" "/mnt$0/state" 2>/dev/null'
out = subprocess.run(["unshare", "-Urm", "sh", "-c", look, A["writ_home"]], capture_output=True)
if out.stdout: got(out.stdout)
"#,
    ),
    as_root(says(
        "write_core_pattern",
        "opens /proc/sys/kernel/core_pattern, which makes the kernel run a program",
        "read-only /proc/sys",
        r#"
os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
got()
"#,
    )),
    as_root(says(
        "read_root_secrets",
        "reads /etc/shadow",
        "files of root's alone are absent",
        r#"
if read("/etc/shadow"): got()
"#,
    )),
    shows(
        "leave_a_set_id_program",
        "leaves a program in the work tree that runs as the person for whoever starts it",
        "seccomp: no set-id bits",
        |scene| scene.host_mode("work/tool") & 0o6000 != 0,
        r#"
fd = os.open(A["work"] + "/tool", os.O_CREAT | os.O_WRONLY, 0o755)
os.fchmod(fd, 0o4755)
"#,
    ),
    as_root(shows(
        "give_a_program_capabilities",
        "leaves a program that has capabilities on the host",
        "seccomp: no extended attributes for uid 0",
        |scene| scene.has_capabilities("work/tool"),
        r#"
open(A["work"] + "/tool", "w").close()
os.setxattr(A["work"] + "/tool", "security.capability", bytes.fromhex("01000002" + "00000004" + "00" * 12))
"#,
    )),
    shows(
        "outlive_the_run",
        "leaves a process behind that goes on",
        "the init's end is the end of all",
        |scene| scene.is_locked("work/lock"),
        r#"
lock = open(A["work"] + "/lock", "w")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2): os.dup2(null, fd)
        fcntl.flock(lock, fcntl.LOCK_EX)
        signal.alarm(60)
        signal.pause()
    os._exit(0)
os.wait()
while True:
    probe = open(A["work"] + "/lock")
    try: fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: break
    probe.close()
"#,
    ),
];
