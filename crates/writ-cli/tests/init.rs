//! The first minutes: keys leave the environment, an existing configuration is left alone, a broken one is explained.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use writ_testkit::{Canary, Home, Shape};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// Of the status `writ failed`.
const FAILED: Option<i32> = Some(125);

/// The variables of the known services, and what their keys look like.
const KEYS: [(&str, Shape); 5] = [
    ("OPENAI_API_KEY", Shape::OpenAi),
    ("ANTHROPIC_API_KEY", Shape::Anthropic),
    ("GEMINI_API_KEY", Shape::Gemini),
    ("GITHUB_TOKEN", Shape::GitHub),
    ("GITLAB_TOKEN", Shape::GitLab),
];

/// A person's shell, with keys in it.
struct Shell {
    home: Home,
    keys: Vec<(&'static str, Canary)>,
}

impl Shell {
    fn new() -> Self {
        let keys = KEYS.map(|(name, shape)| (name, Canary::new(shape))).into();
        Self { home: Home::new(WRIT).unwrap(), keys }
    }

    fn with_keys(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.envs(self.keys.iter().map(|(name, key)| (name, key.value())));
        self.check(command.output().unwrap())
    }

    fn without_keys(&self, args: &[&str]) -> Output {
        self.check(self.command(args).output().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command(Path::new(WRIT));
        command.args(args);
        command
    }

    /// Nothing that a command says has a key in it.
    fn check(&self, out: Output) -> Output {
        for (name, key) in &self.keys {
            for said in [&out.stdout, &out.stderr] {
                assert_eq!(key.windows(said), 0, "{name}: {}", String::from_utf8_lossy(said));
            }
        }
        out
    }

    fn config(&self) -> std::path::PathBuf {
        self.home.writ_home().join("writ.toml")
    }
}

fn err(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The value of `name` in what `env` printed.
fn value<'a>(env: &'a str, name: &str) -> Option<&'a str> {
    env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn keys_become_placeholders() {
    let shell = Shell::new();
    let out = shell.with_keys(&["init", "--yes"]);
    assert!(out.status.success(), "{}", err(&out));
    let mode = fs::metadata(shell.config()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600, "a configuration is its owner's");

    // In the shell that still has the keys, and in the next one that does not.
    let both =
        [shell.with_keys(&["run", "--", "env"]), shell.without_keys(&["run", "--", "sh", "-c", "env"])];
    for out in &both {
        assert!(out.status.success(), "{}", err(out));
        let env = String::from_utf8_lossy(&out.stdout);
        for (name, key) in &shell.keys {
            let placeholder = value(&env, name).unwrap_or_else(|| panic!("{name} is not set: {env}"));
            assert!(placeholder.contains("writ"), "{name} = {placeholder}");
            assert_eq!(key.windows(placeholder.as_bytes()), 0, "{name}");
        }
    }
    let env = both.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let placeholders = |env: &str| KEYS.map(|(name, _)| value(env, name).map(ToOwned::to_owned));
    assert_eq!(placeholders(&env[0]), placeholders(&env[1]), "the same in every run");

    let listed = shell.home.json(&["credential", "list"]).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), KEYS.len(), "{listed}");
    let text = fs::read_to_string(shell.config()).unwrap();
    assert!(shell.keys.iter().all(|(_, key)| key.windows(text.as_bytes()) == 0));
    shell.home.close().unwrap();
}

#[test]
fn an_existing_configuration_is_not_touched() {
    let shell = Shell::new();
    // Not even one that writ could not read.
    for text in ["", "# mine\nversion = 1\n", "not toml at all"] {
        fs::write(shell.config(), text).unwrap();
        let out = shell.with_keys(&["init", "--yes"]);
        assert_eq!(out.status.code(), FAILED, "{}", err(&out));
        assert!(err(&out).contains("writ.toml exists already"), "{}", err(&out));
        assert!(err(&out).contains("next: edit it"), "{}", err(&out));
        assert_eq!(fs::read_to_string(shell.config()).unwrap(), text);
    }
    assert_eq!(shell.home.daemon(), None, "nothing was started for it");
    assert!(!shell.home.writ_home().join("state/writ.db").exists(), "nothing was stored");
}

/// A configuration, where it is wrong, and a word of why.
const BROKEN: [(&str, &str, &str); 6] = [
    ("version = 1\n[[role]]\nname = \n", "writ.toml:3:8: ", "quoted"),
    ("version = 1\negres = \"listed\"\n", "writ.toml:2:1: ", "`egress`"),
    ("version = 2\n", "writ.toml:1:11: ", "version 1"),
    ("version = 1\n[seal]\nkind = \"key\"\n", "writ.toml:3:8: ", "key-file"),
    (
        "version = 1\n[[target]]\nname = \"x\"\npreset = \"openai\"\ncredential = \"x\"\n",
        "writ.toml:5:14: ",
        "\"x\"",
    ),
    ("version = 1\n[[role]]\nname = \"dev\"\nttl = \"15 parsecs\"\n", "writ.toml:4:7: ", "lifetime"),
];

#[test]
fn a_broken_configuration_is_explained_where_it_is_broken() {
    let shell = Shell::new();
    let check = |text: &str, place: &str, word: &str| {
        fs::write(shell.config(), text).unwrap();
        let out = shell.with_keys(&["run", "--", "echo", "started"]);
        assert_eq!((out.status.code(), out.stdout.as_slice()), (FAILED, &b""[..]), "{text}: {}", err(&out));
        let said = err(&out);
        assert!(said.contains(place) && said.contains(word), "{text}: not {place} and {word}: {said}");
        assert!(said.contains("next: mend the configuration"), "{text}: {said}");
        let diagnosed = shell.without_keys(&["doctor"]);
        assert_eq!(diagnosed.status.code(), Some(1), "{text}");
        assert!(String::from_utf8_lossy(&diagnosed.stdout).contains(place), "{text}");
    };
    for (text, place, word) in BROKEN {
        check(text, place, word);
        assert_eq!(shell.home.daemon(), None, "{text}");
    }
    // A daemon that runs already reads it again, and says the same.
    fs::remove_file(shell.config()).unwrap();
    let out = shell.with_keys(&["init", "--yes"]);
    assert!(out.status.success(), "{}", err(&out));
    let good = fs::read_to_string(shell.config()).unwrap();
    let pid = shell.home.daemon();
    for (text, place, word) in BROKEN {
        check(text, place, word);
    }
    fs::write(shell.config(), good).unwrap();
    let out = shell.with_keys(&["run", "--", "true"]);
    assert!(out.status.success(), "{}", err(&out));
    assert!(pid.is_some() && shell.home.daemon() == pid, "by the same daemon");
    shell.home.close().unwrap();
}
