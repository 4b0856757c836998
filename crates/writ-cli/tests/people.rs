//! What a person asks of writ about runs: what programs tried, what a repository wants, what is wrong here.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use writ_testkit::{Canary, Config, Home, ROLE, Ran, Shape, Standin, StandinConfig, Target};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
/// Of the status `writ failed`.
const FAILED: Option<i32> = Some(125);

struct Person {
    home: Home,
    _standin: Standin,
}

impl Person {
    fn new() -> Self {
        let key = Canary::new(Shape::OpenAi);
        let standin = Standin::start(StandinConfig::default().demand("api.openai.com", key.value())).unwrap();
        let home = Home::new(WRIT).unwrap();
        let target = Target::standin("openai", "openai", &standin).credential("openai");
        let config = Config::new().credential("openai", &["OPENAI_API_KEY"]).target(&target);
        let other = ["{ target = \"openai\", methods = [\"GET\"] }".to_owned()];
        home.configure(&config.role_for_all(ROLE).role("narrow", "5m", &other)).unwrap();
        home.set_credential("openai", &key).unwrap();
        fs::create_dir(home.work().join(".git")).unwrap();
        Self { home, _standin: standin }
    }

    fn writ(&self, args: &[&str]) -> Ran {
        self.home.writ(args, b"").unwrap()
    }

    fn file(&self) -> PathBuf {
        self.home.work().join("writ.toml")
    }

    /// What a command says, with the places of this test as `HOME`.
    fn check(&self, args: &[&str], expected: Expect) {
        let ran = self.writ(args);
        let said = format!("status {}\n{}{}", ran.code.unwrap_or(-1), ran.out(), ran.err());
        let home = fs::canonicalize(self.home.work()).unwrap();
        expected.assert_eq(&said.replace(home.parent().unwrap().to_str().unwrap(), "HOME"));
    }
}

#[test]
fn a_repository_asks_and_a_person_trusts_exactly_that() {
    let person = Person::new();
    person.check(
        &["trust"],
        expect![[r#"
        status 125
        writ: there is no writ.toml of a repository at HOME/work
              next: run it inside of the repository
    "#]],
    );
    fs::write(person.file(), "version = 1\nrole = \"narrow\"\n").unwrap();
    person.check(
        &["trust", "--show"],
        expect![[r#"
        status 0
        HOME/work/writ.toml is not trusted: it has no effect

        It asks for:
          role narrow
    "#]],
    );
    // Nobody to ask is no yes.
    person.check(
        &["trust"],
        expect![[r#"
        status 125
        HOME/work/writ.toml is not trusted: it has no effect

        It asks for:
          role narrow
        writ: there is no terminal to ask on
              next: read what it asks for, then: writ trust --yes
    "#]],
    );
    assert_eq!(role_of_a_run(&person), None, "an untrusted file has no effect");
    person.check(
        &["trust", "--yes", "--quiet"],
        expect![[r#"
        status 0
        HOME/work/writ.toml is not trusted: it has no effect

        It asks for:
          role narrow
    "#]],
    );
    assert_eq!(role_of_a_run(&person).as_deref(), Some("narrow"));
    fs::write(person.file(), "version = 1\nrole = \"wide\"\n").unwrap();
    person.check(
        &["trust", "--show"],
        expect![[r#"
        status 0
        HOME/work/writ.toml was trusted, and has changed: it has no effect

        It asks for:
          role wide

        Compared with what you trusted:
          - role narrow
          + role wide

        In vain, since your own configuration does not have it:
          role wide: your configuration has none of that name; add a [[role]]
    "#]],
    );
    assert_eq!(role_of_a_run(&person), None, "a changed file has none again");
    person.home.close().unwrap();
}

/// The role that a run gets that names none: of two that fit, only a repository that is trusted can choose.
fn role_of_a_run(person: &Person) -> Option<String> {
    let ran = person.writ(&["run", "--no-confine", "--", "true"]);
    let said = ran.err();
    if ran.code != Some(0) {
        assert!(said.contains("two [[workload]] entries"), "{}", ran.told());
        return None;
    }
    let role = said.split_once("with role ").and_then(|(_, rest)| rest.split_whitespace().next());
    role.map(ToOwned::to_owned)
}

#[test]
fn what_programs_tried_is_seen_with_the_lines_that_would_allow_it() {
    let person = Person::new();
    person.check(
        &["seen"],
        expect![[r#"
            status 0
            writ: no program tried a host yet
        "#]],
    );
    let program = r#"
        curl -sS -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo
        curl -sS -o /dev/null https://crates.example/; curl -sS -o /dev/null https://crates.example/; true"#;
    let ran = person.home.run(ROLE, &["sh", "-c", program]).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    let seen = person.home.json(&["seen"]).unwrap();
    let row = |host: &str| seen.as_array().unwrap().iter().find(|row| row["host"] == host).unwrap().clone();
    assert_eq!(row("api.openai.com")["used"], 1);
    let refused = row("crates.example");
    assert_eq!((&refused["refused"], &refused["used"]), (&2.into(), &0.into()));
    let lines: Vec<&str> =
        refused["lines"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
    assert!(lines.contains(&"host = \"crates.example\""), "{lines:?}");
    let table = person.writ(&["seen", "--refused"]).out();
    assert!(
        !table.contains("api.openai.com") && table.contains("# writ.toml, for crates.example"),
        "{table}"
    );
    assert!(table.contains("unlisted-host"), "{table}");
    let none = person.writ(&["seen", "--since", "2099-01-01T00:00:00Z"]);
    assert!(none.err().contains("no program tried"), "{}", none.told());
    let nonsense = person.writ(&["seen", "--since", "yesterday"]);
    assert_eq!(nonsense.code, FAILED, "{}", nonsense.told());
    person.home.close().unwrap();
}

/// Keys in reach are named by doctor, never shown; the level is told with what would raise it.
#[test]
fn doctor_names_keys_in_reach_and_the_level() {
    let person = Person::new();
    let key = Canary::new(Shape::Anthropic);
    let doctor = || {
        let ran = person.writ(&["doctor"]);
        assert_eq!(key.windows(&ran.both()), 0, "{}", ran.told());
        assert_eq!(ran.code, Some(0), "a warning is no failure: {}", ran.told());
        ran.out()
    };
    let before = doctor();
    assert!(!before.contains("real keys"), "{before}");
    assert!(before.contains("programs run at the level "), "{before}");
    fs::write(person.home.work().join(".env.local"), format!("X='{}'\n", key.value())).unwrap();
    let history = person.home.work().join("../home/.zsh_history");
    fs::write(&history, format!(": 1:0;export ANTHROPIC_API_KEY={}\n", key.value())).unwrap();
    let after = doctor();
    for words in [".env.local (X)", "next: writ init", ".zsh_history (sk-ant-api03-…", "rotate"] {
        assert!(after.contains(words), "not {words}: {after}");
    }
    person.home.close().unwrap();
}
