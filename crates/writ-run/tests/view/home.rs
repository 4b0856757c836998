//! The home: its layer, and placeholders where credentials were.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::scene::{Scene, accounts, inside, layers, seeded, told};

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
    const NAME: &str = "home::no_secret_of_the_home_is_readable_and_planted_links_do_not_touch_the_host";
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
fn a_second_run_on_the_same_layer_gets_another() {
    const NAME: &str = "home::a_second_run_on_the_same_layer_gets_another";
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
fn a_layer_that_cannot_be_kept_is_in_memory() {
    const NAME: &str = "home::a_layer_that_cannot_be_kept_is_in_memory";
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
fn a_credential_that_appears_meanwhile_is_not_seen() {
    const NAME: &str = "home::a_credential_that_appears_meanwhile_is_not_seen";
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
