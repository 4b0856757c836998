//! Env files: `writ init` takes the keys out of them, programs work unchanged under `writ run`, `writ restore` undoes it.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use writ_testkit::{Canary, Config, Home, Pty, ROLE, Ran, Shape, Standin, StandinConfig, Target};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// Of the status `writ failed`.
const FAILED: Option<i32> = Some(125);

/// A work tree with two keys.
struct Tree {
    home: Home,
    openai: Canary,
    github: Canary,
}

impl Tree {
    fn new() -> Self {
        let home = Home::new(WRIT).unwrap();
        fs::create_dir(home.work().join(".git")).unwrap();
        Self { home, openai: Canary::new(Shape::OpenAi), github: Canary::new(Shape::GitHub) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.work().join(name)
    }

    /// `@O` and `@G` stand for the keys.
    fn write(&self, name: &str, text: &str) -> Vec<u8> {
        let text = text.replace("@O", self.openai.value()).replace("@G", self.github.value());
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), &text).unwrap();
        text.into_bytes()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Nothing that is said has a key in it.
    fn writ(&self, args: &[&str]) -> Ran {
        let ran = self.home.writ(args, b"").unwrap();
        self.check_clean(&ran.both());
        ran
    }

    fn succeeds(&self, args: &[&str]) -> Ran {
        let ran = self.writ(args);
        assert_eq!(ran.code, Some(0), "{}", ran.told());
        ran
    }

    fn check_clean(&self, bytes: &[u8]) {
        let said = String::from_utf8_lossy(bytes);
        assert_eq!(self.openai.windows(bytes) + self.github.windows(bytes), 0, "a key: {said}");
    }

    /// What programs get in a key's stead.
    fn placeholders(&self) -> BTreeMap<String, String> {
        let ran = self.succeeds(&["run", "--", "env"]);
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        ran.out().lines().filter_map(|line| line.split_once('=')).map(owned).collect()
    }
}

/// Files of every form, with the same keys in them.
const FORMS: [(&str, &str); 9] = [
    (".env", "OPENAI_API_KEY=@O\nDEBUG=1\n"),
    (".env.local", "# mine\r\nexport OPENAI_API_KEY='@O' # do not share\r\n\r\nGITHUB_TOKEN = \"@G\""),
    ("api/.env", "\u{feff}OPENAI_API_KEY=@O\nOPENAI_API_KEY=@O\n#OPENAI_API_KEY=@O\n"),
    ("api/prod.env", "A=\u{e9}\nGH_TOKEN=@G\n\n\n"),
    (".envrc", "export OPENAI_API_KEY=\"@O\"; layout python\n"),
    ("docker-compose.yml", "services:\n  a:\n    environment:\n      - OPENAI_API_KEY=@O\n      X: 'y'\n"),
    (".dev.vars", "GITHUB_URL=https://x:@G@github.com/a/b\n"),
    (".env.empty", ""),
    (".env.none", "PORT=3000\nOPENAI_API_KEY=${OPENAI_API_KEY}\n"),
];

#[test]
fn files_of_every_form_are_rewritten_and_brought_back_byte_for_byte() {
    let tree = Tree::new();
    let before: Vec<_> = FORMS.map(|(name, text)| tree.write(name, text)).into();
    fs::write(
        tree.path(".env.bytes"),
        [b"X=\xff\xfe\nOPENAI_API_KEY=", tree.openai.value().as_bytes()].concat(),
    )
    .unwrap();
    for (mode, (name, _)) in [0o600, 0o644, 0o640].into_iter().cycle().zip(FORMS) {
        fs::set_permissions(tree.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let modes = || FORMS.map(|(name, _)| fs::metadata(tree.path(name)).unwrap().mode());
    let (modes_before, inode) = (modes(), fs::metadata(tree.path(".env.none")).unwrap().ino());

    tree.succeeds(&["init", "--yes"]);
    let held = tree.placeholders();
    for ((name, text), before) in FORMS.iter().zip(&before) {
        let now = tree.read(name);
        let expected =
            text.replace("@O", &held["OPENAI_API_KEY"]).replace("@G", &held["GITHUB_TOKEN"]).into_bytes();
        assert_eq!(String::from_utf8_lossy(&now), String::from_utf8_lossy(&expected), "{name}");
        assert_eq!(
            text.contains('@') && !text.contains("@github"),
            now != *before && !text.contains("https")
        );
    }
    tree.check_clean(&tree.read(".env.bytes"));
    assert_eq!(modes(), modes_before);
    assert_eq!(fs::metadata(tree.path(".env.none")).unwrap().ino(), inode, "it was not touched");

    // Once more: there is nothing left to take over.
    let again = tree.writ(&["init", "--yes"]);
    assert_eq!(again.code, FAILED, "{}", again.told());
    assert!(again.err().contains("writ.toml exists already"), "{}", again.told());

    tree.succeeds(&["restore", "--yes"]);
    for ((name, _), before) in FORMS.iter().zip(&before) {
        assert_eq!(tree.read(name), *before, "{name}");
    }
    assert!(tree.read(".env.bytes").ends_with(tree.openai.value().as_bytes()));
    assert_eq!(modes(), modes_before);
    let nothing = tree.succeeds(&["restore"]);
    assert!(nothing.err().contains("nothing to bring back"), "{}", nothing.told());
    tree.home.close().unwrap();
}

/// The point of it all: a program that reads `.env` reaches its service, and has no key.
#[test]
fn a_program_that_reads_the_file_works_unchanged() {
    let tree = Tree::new();
    let demanded = StandinConfig::default().demand("api.openai.com", tree.openai.value());
    let standin = Standin::start(demanded).unwrap();
    let target = Target::standin("openai", "openai", &standin).credential("openai");
    let config = Config::new().credential("openai", &["OPENAI_API_KEY"]).target(&target).role_for_all(ROLE);
    tree.home.configure(&config).unwrap();
    tree.write(".env", "OPENAI_API_KEY=@O\n");
    let said = tree.succeeds(&["init", "--yes"]);
    assert!(said.err().contains("openai is sealed"), "{}", said.told());
    tree.check_clean(&tree.read(".env"));
    let program = r#"unset OPENAI_API_KEY; . ./.env
        curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo"#;
    let ran = tree.home.run(ROLE, &["sh", "-c", program]).unwrap();
    assert_eq!((ran.code, ran.out().as_str()), (Some(0), "200"), "{}", ran.told());

    // A second work tree with the same key: it is known, and only leaves the file.
    let versions = || tree.home.json(&["credential", "list"]).unwrap()[0]["version"].clone();
    assert_eq!(versions(), 1);
    tree.write("other/.env", "KEY=@O\n");
    tree.succeeds(&["init", "--yes"]);
    tree.check_clean(&tree.read("other/.env"));
    assert_eq!(versions(), 1);

    // Another key under the same name is nobody's to replace without being asked.
    let other = Canary::new(Shape::OpenAi);
    fs::write(tree.path(".env.other"), format!("OPENAI_API_KEY={}\n", other.value())).unwrap();
    let said = tree.succeeds(&["init", "--yes"]);
    assert!(said.err().contains("another key than openai's"), "{}", said.told());
    assert!(other.windows(&tree.read(".env.other")) > 0);
    assert_eq!(versions(), 1);
    tree.home.close().unwrap();
}

#[test]
fn what_was_changed_since_is_brought_back_by_force_only_and_saved_first() {
    let tree = Tree::new();
    let before = tree.write(".env", "OPENAI_API_KEY=@O\nGONE=1\nPORT=1\n");
    tree.succeeds(&["init", "--yes"]);
    let written = String::from_utf8(tree.read(".env")).unwrap();
    let changed = written.replace("GONE=1\nPORT=1", "PORT=2\nADDED=hunter2hunter2");
    fs::write(tree.path(".env"), &changed).unwrap();
    let refused = tree.writ(&["restore", "--yes"]);
    assert_eq!(refused.code, FAILED, "{}", refused.told());
    for name in ["new: ADDED", "gone: GONE", "other values: PORT", "--force"] {
        assert!(refused.err().contains(name), "not {name}: {}", refused.told());
    }
    assert!(!refused.err().contains("hunter2"), "names only: {}", refused.told());
    assert_eq!(tree.read(".env"), changed.as_bytes());

    tree.succeeds(&["restore", "--yes", "--force", ".env"]);
    assert_eq!(tree.read(".env"), before);
    assert_eq!(tree.read(".env.writ-saved"), changed.as_bytes());
    assert!(tree.succeeds(&["restore"]).err().contains("nothing to bring back"));
    tree.home.close().unwrap();
}

#[test]
fn a_file_that_is_gone_or_was_brought_back_by_hand() {
    let tree = Tree::new();
    let before = tree.write(".env", "OPENAI_API_KEY=@O\n");
    tree.succeeds(&["init", "--yes"]);
    fs::remove_file(tree.path(".env")).unwrap();
    let refused = tree.writ(&["restore", "--yes"]);
    assert!(refused.code == FAILED && refused.err().contains(".env is gone"), "{}", refused.told());
    tree.succeeds(&["restore", "--yes", "--force"]);
    assert_eq!(tree.read(".env"), before);

    tree.succeeds(&["init", "--yes"]);
    fs::write(tree.path(".env"), &before).unwrap();
    let same = tree.succeeds(&["restore", "--yes"]);
    assert!(same.out().contains("as it was already"), "{}", same.told());
    let unknown = tree.writ(&["restore", "--yes", "README"]);
    assert!(unknown.code == FAILED && unknown.err().contains("was not rewritten"), "{}", unknown.told());
    tree.home.close().unwrap();
}

/// Keys that were added later have an original of their own, and both ways back are open.
#[test]
fn a_file_that_was_rewritten_twice_comes_back_in_two_steps() {
    let tree = Tree::new();
    tree.write(".env", "OPENAI_API_KEY=@O\n");
    tree.succeeds(&["init", "--yes"]);
    let text = fs::read_to_string(tree.home.writ_home().join("writ.toml")).unwrap();
    let github = "[[credential]]\nname = \"github\"\nenv = [\"GITHUB_TOKEN\"]\n\n[[target]]\nname = \"github\"\npreset = \"github\"\ncredential = \"github\"\n\n[[role]]";
    fs::write(tree.home.writ_home().join("writ.toml"), text.replacen("[[role]]", github, 1)).unwrap();
    let first = String::from_utf8(tree.read(".env")).unwrap();
    let second = tree.write(".env", &format!("{first}GITHUB_TOKEN=@G\n"));
    let said = tree.succeeds(&["init", "--yes"]);
    tree.check_clean(&tree.read(".env"));
    assert!(said.err().contains("github is sealed"), "{}", said.told());
    tree.succeeds(&["restore", "--yes"]);
    assert_eq!(tree.read(".env"), second);
    fs::write(tree.path(".env"), &first).unwrap();
    tree.succeeds(&["restore", "--yes"]);
    assert!(tree.openai.windows(&tree.read(".env")) > 0);
    tree.home.close().unwrap();
}

#[test]
fn what_is_no_plain_file_of_one_name_is_left_alone_with_a_sentence() {
    let tree = Tree::new();
    let key = tree.write("kept/secrets", "OPENAI_API_KEY=@O\n");
    std::os::unix::fs::symlink("kept/secrets", tree.path(".env")).unwrap();
    fs::write(tree.path(".env.linked"), &key).unwrap();
    fs::hard_link(tree.path(".env.linked"), tree.path("kept/second")).unwrap();
    fs::write(tree.path(".env.large"), [key.as_slice(), &vec![b'\n'; 300 * 1024]].concat()).unwrap();
    let ran = tree.succeeds(&["init", "--yes"]);
    for sentence in [".env: it is a symbolic link", ".env.linked: it has 2 names", ".env.large: it is larger"]
    {
        assert!(ran.out().contains(sentence), "not {sentence}: {}", ran.told());
    }
    assert!(fs::symlink_metadata(tree.path(".env")).unwrap().is_symlink());
    assert_eq!(tree.read("kept/secrets"), key);
    assert_eq!(fs::metadata(tree.path(".env.linked")).unwrap().nlink(), 2);
    tree.home.close().unwrap();
}

#[test]
fn without_a_terminal_and_without_yes_nothing_happens() {
    let tree = Tree::new();
    let before = tree.write(".env", "OPENAI_API_KEY=@O\n");
    let refused = tree.writ(&["init"]);
    assert!(refused.code == FAILED && refused.err().contains("writ init --yes"), "{}", refused.told());
    assert_eq!(tree.read(".env"), before);
    assert_eq!(tree.home.daemon(), None);
    tree.succeeds(&["init", "--yes"]);
    let written = tree.read(".env");
    let refused = tree.writ(&["restore"]);
    assert!(refused.code == FAILED && refused.err().contains("writ restore --yes"), "{}", refused.told());
    assert_eq!(tree.read(".env"), written);
    tree.home.close().unwrap();
}

/// Each key has a question of its own, and no is no.
#[test]
fn at_a_terminal_each_key_is_asked_for() {
    let tree = Tree::new();
    let before = tree.write(".env", "GITHUB_TOKEN=@G\nOPENAI_API_KEY=@O\n");
    let start = |args: &[&str]| {
        let mut command = tree.home.command(WRIT.as_ref());
        command.args(args);
        Pty::spawn(command).unwrap()
    };
    let mut person = start(&["init"]);
    person.wait_for("Seal GITHUB_TOKEN (github_pat_…").unwrap();
    person.wait_for(".env:1) as credential github, and put its placeholder there? [y/N] ").unwrap();
    person.press("n\n").unwrap();
    person.wait_for("Seal OPENAI_API_KEY (sk-proj-…").unwrap();
    person.wait_for("[y/N] ").unwrap();
    person.press("y\n").unwrap();
    person.wait_for(".env holds placeholders now: OPENAI_API_KEY").unwrap();
    person.wait_for("writ run -- CMD").unwrap();
    tree.check_clean(person.transcript().as_bytes());
    assert!(person.end().unwrap().success());
    let now = tree.read(".env");
    assert_eq!(tree.openai.windows(&now), 0);
    assert!(tree.github.windows(&now) > 0, "it was not to be taken");

    let mut person = start(&["restore"]);
    person.wait_for("Bring .env back, keys and all? [y/N] ").unwrap();
    person.press("\n").unwrap();
    person.wait_for(".env keeps its placeholders").unwrap();
    assert!(person.end().unwrap().success());
    assert_eq!(tree.read(".env"), now);
    let mut person = start(&["restore", ".env"]);
    person.wait_for("[y/N] ").unwrap();
    person.press("y\n").unwrap();
    person.wait_for(".env is as it was").unwrap();
    assert!(person.end().unwrap().success());
    assert_eq!(tree.read(".env"), before);
    tree.home.close().unwrap();
}

/// A program that runs below `confined` can reach the control socket, and must not bring the keys back for itself.
#[test]
fn a_program_below_confined_does_not_bring_keys_back() {
    let tree = Tree::new();
    tree.write(".env", "OPENAI_API_KEY=@O\n");
    tree.succeeds(&["init", "--yes"]);
    let written = tree.read(".env");
    let config = tree.home.writ_home().join("writ.toml");
    let text = fs::read_to_string(&config).unwrap();
    let accepts = "accept_below_confined = true";
    fs::write(&config, text.replace("accept_below_confined = false", accepts)).unwrap();
    let ran = tree.writ(&["run", "--no-confine", "--", WRIT, "restore"]);
    assert!(ran.err().contains("there is no terminal"), "the socket is in reach: {}", ran.told());
    let ran = tree.writ(&["run", "--no-confine", "--", WRIT, "restore", "--yes"]);
    assert!(ran.code == FAILED && ran.err().contains("runs below confined"), "{}", ran.told());
    assert_eq!(tree.read(".env"), written);
    tree.succeeds(&["restore", "--yes"]);
    assert!(tree.openai.windows(&tree.read(".env")) > 0, "and afterwards the person does");
    tree.home.close().unwrap();
}

/// SIGKILL behind each line that init says: every file is the original or its rewriting, and comes back byte for byte.
#[test]
fn a_kill_at_any_time_loses_nothing() {
    for line in 0.. {
        let tree = Tree::new();
        let before: Vec<_> = FORMS[..4].iter().map(|(name, text)| tree.write(name, text)).collect();
        let mut command = tree.home.command(WRIT.as_ref());
        let mut child = command.args(["init", "--yes"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ended = lines.by_ref().take(line).count() < line;
        child.kill().unwrap();
        child.wait().unwrap();
        let after: Vec<_> = FORMS[..4].iter().map(|(name, _)| tree.read(name)).collect();
        for (before, after) in before.iter().zip(&after) {
            let clean = tree.openai.windows(after) + tree.github.windows(after) == 0;
            assert!(clean || before == after, "half rewritten after line {line}");
        }
        if tree.home.writ_home().join("writ.toml").exists() {
            tree.succeeds(&["restore", "--yes"]);
        }
        let restored: Vec<_> = FORMS[..4].iter().map(|(name, _)| tree.read(name)).collect();
        assert_eq!(restored, before, "after line {line}");
        tree.home.close().unwrap();
        if ended {
            assert!(line > 5, "init said {line} lines only");
            return;
        }
    }
}

/// Keys that earlier runs left are named, masked, and untouched.
#[test]
fn leftovers_and_logins_are_named() {
    let tree = Tree::new();
    let home = tree.path("../home");
    let transcript = home.join(".claude/projects/-work/1.jsonl");
    fs::create_dir_all(transcript.parent().unwrap()).unwrap();
    let text = format!("{{\"stdout\":\"OPENAI_API_KEY={}\\n\"}}\n", tree.openai.value());
    fs::write(&transcript, &text).unwrap();
    fs::write(home.join(".netrc"), "machine x password y").unwrap();
    let ran = tree.succeeds(&["init", "--yes"]);
    let tail = &tree.openai.value()[160..];
    for word in ["1.jsonl: sk-proj-…", tail, ".netrc", "rotate"] {
        assert!(ran.out().contains(word), "not {word}: {}", ran.told());
    }
    assert_eq!(fs::read_to_string(&transcript).unwrap(), text);
    tree.home.close().unwrap();
}
