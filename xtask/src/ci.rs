//! The one test command: every check and every test, in order, timed.
//!
//! Each step's output goes to `target/ci/<step>.log`, and to standard output if the step fails; then the other steps
//! still run, so that one look shows all that is wrong. The last line is the summary.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{clients, prerequisites, say, tidy, walls};

type Step = (&'static str, fn(&Path) -> Result<(), String>);

/// What is run, in order.
const STEPS: &[Step] = &[
    ("prerequisites", prerequisites::task),
    ("fmt", |root| cargo(root, "fmt", &["fmt", "--all", "--check"])),
    ("tidy", tidy::task),
    ("walls", walls::task),
    ("clippy", |root| cargo(root, "clippy", CLIPPY)),
    ("clients", clients::task),
    ("test", |root| cargo(root, "test", &["test", "--locked", "--workspace", "--no-fail-fast"])),
    // Another build of the program, which can be made to die at named places.
    ("crash", |root| cargo(root, "crash", CRASH)),
    ("demo", demo),
];
/// Crates, licenses and sources (`deny.toml`): the one step that depends on the machine, since cargo-deny takes minutes to
/// install. The summary says when it was not run.
const DENY: Step =
    ("deny", |root| cargo(root, "deny", &["deny", "--locked", "check", "bans", "licenses", "sources"]));

const CLIPPY: &[&str] = &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
const CRASH: &[&str] = &[
    "test",
    "--locked",
    "-p",
    "writ-cli",
    "--features",
    "fault-points",
    "--test",
    "crash",
    "--",
    "--nocapture",
];
const LOGS: &str = "target/ci";

/// Runs every step, and fails with the names of those that failed.
pub(crate) fn task(root: &Path) -> Result<(), String> {
    let logs = root.join(LOGS);
    std::fs::create_dir_all(&logs).map_err(|error| format!("ci: {}: {error}", logs.display()))?;
    let started = Instant::now();
    let mut failed = Vec::new();
    let (deny, not_run) = match has_cargo_deny(root) {
        true => (Some(&DENY), ""),
        false => (None, "; deny NOT RUN, since cargo-deny is not installed"),
    };
    let steps: Vec<&Step> = STEPS.iter().chain(deny).collect();
    for (name, step) in &steps {
        say(&format!("ci: {name} …"));
        let since = Instant::now();
        let result = step(root);
        let seconds = since.elapsed().as_secs_f64();
        match result {
            Ok(()) => say(&format!("ci: {name} passed in {seconds:.1} s")),
            Err(message) => {
                say(&message);
                say(&format!("ci: {name} FAILED after {seconds:.1} s"));
                failed.push(*name);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let count = steps.len();
    let (passed, broken) = counts(root);
    say(&format!("{passed} passed, {broken} failed"));
    if failed.is_empty() {
        say(&format!("ci: all {count} steps passed in {seconds:.1} s{not_run}"));
        return Ok(());
    }
    Err(format!("ci: FAILED: {} (of {count} steps, {seconds:.1} s){not_run}", failed.join(", ")))
}

/// Runs cargo with its output in the step's log, and fails with that output.
fn cargo(root: &Path, step: &str, arguments: &[&str]) -> Result<(), String> {
    let path = root.join(LOGS).join(format!("{step}.log"));
    let at = |error: std::io::Error| format!("ci: {}: {error}", path.display());
    let log = File::create(&path).map_err(at)?;
    let copy = log.try_clone().map_err(at)?;
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root).stdin(Stdio::null()).stdout(log).stderr(copy);
    // Cargo told us about our own package; the packages that are built now must not take that for theirs.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let status = command.status().map_err(|error| format!("ci: cargo: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let output = std::fs::read(&path).map_err(at)?;
    Err(format!("{}\nci: cargo {}: {status}", String::from_utf8_lossy(&output), arguments.join(" ")))
}

fn has_cargo_deny(root: &Path) -> bool {
    let output = Command::new("cargo").args(["deny", "--version"]).current_dir(root).output();
    output.is_ok_and(|output| output.status.success())
}

/// The main job, from the release build, as the README shows it, with every client that the demo knows.
fn demo(root: &Path) -> Result<(), String> {
    cargo(root, "build", &["build", "--locked", "--release"])?;
    let log = root.join(LOGS).join("demo.log");
    let at = |error: std::io::Error| format!("ci: {}: {error}", log.display());
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(root.join("target/release/writ"));
    command
        .arg("demo")
        .env("PATH", format!("{}:{path}", root.join(clients::ENVIRONMENT).join("bin").display()));
    let ran = command.stdin(Stdio::null()).output().map_err(at)?;
    std::fs::write(&log, &ran.stdout).map_err(at)?;
    let said = String::from_utf8_lossy(&ran.stdout);
    if ran.status.success() && !said.contains("not installed") {
        return Ok(());
    }
    Err(format!("{said}{}\nci: writ demo: {}", String::from_utf8_lossy(&ran.stderr), ran.status))
}

/// The tests' own counts, added up: how many passed and how many failed.
fn counts(root: &Path) -> (usize, usize) {
    let log = std::fs::read_to_string(root.join(LOGS).join("test.log")).unwrap_or_default();
    let number = |line: &str, word: &str| {
        let before = line.split(word).next()?;
        before.trim_end().rsplit(' ').next()?.parse::<usize>().ok()
    };
    let results = log.lines().filter(|line| line.starts_with("test result: "));
    results.fold((0, 0), |(passed, failed), line| {
        (passed + number(line, " passed").unwrap_or(0), failed + number(line, " failed").unwrap_or(0))
    })
}
