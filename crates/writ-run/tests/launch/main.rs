//! Launches of real programs, as root and as an ordinary account.
//!
//! ```text
//!   main ─► for each case and account: this binary again        a process of its own, since a launcher's streams, signals
//!                    │                                           and session belong to the whole process
//!                    └─► Prepared, Running ─► this binary again, as the agent (`agent.rs`)
//! ```
//!
//! The accounts are the caller's and, where that is root, `nobody` as well (setpriv, of util-linux). Nothing is ever skipped:
//! a machine without namespaces fails.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy does not see that a program with a harness of its own is a test"
)]

mod agent;
mod cases;
mod death;
mod lab;
mod walls;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, ExitCode, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// `nobody`, on every Linux that we know.
const NOBODY: &str = "65534";
/// Cases that run at the same time. They mostly wait for each other's processes.
const PARALLEL: usize = 4;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    if let Some(code) = writ_run::stage() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["agent", name, rest @ ..] => agent::run(name, rest),
        ["hold"] => death::hold(),
        ["case", name] => {
            let case = all().into_iter().find(|(known, _)| known == name);
            (case.unwrap().1)();
            ExitCode::SUCCESS
        }
        _ => run_all(arguments.iter().find(|argument| !argument.starts_with('-')).copied()),
    }
}

fn all() -> Vec<Case> {
    [cases::CASES, walls::CASES, death::CASES].concat()
}

fn run_all(filter: Option<&str>) -> ExitCode {
    let directory = tempfile::Builder::new().prefix("writ-launch-").tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let accounts: &[bool] = if rustix::process::geteuid().is_root() { &[false, true] } else { &[false] };
    let chosen = all().into_iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)));
    let jobs: Vec<(Case, bool)> =
        chosen.flat_map(|case| accounts.iter().map(move |&nobody| (case, nobody))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(((name, _), nobody)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = run_one(&program, name, *nobody);
                    let account = if *nobody { "nobody" } else { "caller" };
                    let good = output.status.success();
                    println!("test {name} ({account}) ... {}", if good { "ok" } else { "FAILED" });
                    if !good {
                        failed.lock().unwrap().push((name, account, output));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    for (name, account, output) in &failed {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("\n---- {name} ({account}): {}\n{out}{err}", output.status);
    }
    println!("\ntest result: {} run, {} failed\n", jobs.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(program: &Path, name: &str, nobody: bool) -> Output {
    let mut command = if nobody {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["case", name]).stdin(Stdio::null()).current_dir("/").output().unwrap()
}
