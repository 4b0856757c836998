//! What programs expect of a system: trust in the session's CA, and a terminal with a name.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::scene::{Scene, accounts, inside, layers, told};
use writ_run::{EtcFile, Wishes};

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
    const NAME: &str = "system::the_sessions_ca_is_trusted_by_every_kind_of_program";
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
fn the_terminal_has_a_name_inside() {
    const NAME: &str = "system::the_terminal_has_a_name_inside";
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
