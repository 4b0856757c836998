//! What a person sees when something is not as it should be: the first minute, without a daemon.
#![expect(clippy::unwrap_used, reason = "tests: a failure here is a failed test")]

use std::{path::Path, process::Command};

use expect_test::{Expect, expect};

/// Runs the binary in a fresh home, and compares status, stdout and stderr. The home's path reads `HOME`.
fn check(arguments: &[&str], expected: Expect) {
    let home = tempfile::tempdir().unwrap();
    expected.assert_eq(&transcript(home.path(), arguments));
}

fn transcript(home: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_writ"));
    command.args(arguments).env_clear().env("WRIT_HOME", home).env("PATH", "/usr/bin:/bin").env("HOME", home);
    let ran = command.output().unwrap();
    let text = format!(
        "status {}\n{}{}",
        ran.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    text.replace(&home.display().to_string(), "HOME")
}

#[test]
fn a_program_that_is_not_there() {
    check(
        &["run", "--", "writ-no-such-program"],
        expect![[r#"
            status 127
            writ: writ-no-such-program: it is not in PATH
                  next: check the name and PATH
        "#]],
    );
}

#[test]
fn a_file_that_cannot_be_executed() {
    check(
        &["run", "--", "/etc/passwd"],
        expect![[r#"
            status 126
            writ: /etc/passwd cannot be executed
                  next: name a program
        "#]],
    );
}

#[test]
fn a_level_that_is_not_asked_for_is_not_pretended() {
    check(
        &["run", "--no-confine", "--require", "confined", "--", "true"],
        expect![[r#"
            status 125
            writ: --no-confine asks for less than --require
                  next: leave one of them out
        "#]],
    );
}

#[test]
fn stop_without_a_daemon() {
    check(
        &["stop"],
        expect![[r#"
            status 0
            writ: no daemon is running
        "#]],
    );
}

#[test]
fn no_audit_log_yet() {
    check(
        &["audit", "tail"],
        expect![[r#"
            status 125
            writ: there is no audit log yet
                  next: it begins with the first daemon: writ run -- CMD
        "#]],
    );
}

#[test]
fn init_asks_or_is_told() {
    check(
        &["init"],
        expect![[r#"
            status 125
            writ: there is no terminal to ask on
                  next: writ init --yes takes every key over
        "#]],
    );
}

#[test]
fn errors_are_json_where_a_program_reads_them() {
    check(
        &["--json", "run", "--", "writ-no-such-program"],
        expect![[r#"
            status 127
            {"error":"writ-no-such-program: it is not in PATH","kind":null,"next":"check the name and PATH"}
        "#]],
    );
}

#[test]
fn a_usage_error_is_not_mistaken_for_the_program_s_status() {
    let home = tempfile::tempdir().unwrap();
    assert!(transcript(home.path(), &["run", "--ttl", "5x", "--", "true"]).starts_with("status 125"));
    assert!(transcript(home.path(), &["--help"]).starts_with("status 0"));
}
