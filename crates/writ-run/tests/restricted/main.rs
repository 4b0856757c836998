//! The level `restricted` under attack, as root and as an ordinary account, and where namespaces are refused.
//!
//! ```text
//!   main ─► for each case and account: this binary again       a launcher's children and limits belong to the whole process
//!                │
//!                └─► start() ─► attacks.py, works.py, and real programs
//! ```
//!
//! Each attack runs twice: confined it is refused, and unconfined the same script obtains what it is after; otherwise it proves
//! nothing. The accounts are the caller's and, where that is root, `nobody` as well (setpriv, of util-linux). Nothing is skipped:
//! a machine without Landlock fails.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test program: clippy knows only those of the harness"
)]

mod attacks;
mod host;
mod programs;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        ["case", name] => {
            let case = all().into_iter().find(|(known, _)| known == name);
            (case.unwrap().1)();
            ExitCode::SUCCESS
        }
        _ => run_all(arguments.iter().find(|argument| !argument.starts_with('-')).copied()),
    }
}

fn all() -> Vec<Case> {
    [attacks::CASES, programs::CASES].concat()
}

fn run_all(filter: Option<&str>) -> ExitCode {
    let directory = tempfile::Builder::new().prefix("writ-restricted-").tempdir().unwrap();
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
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["case", name]).env_remove("TMPDIR").stdin(Stdio::null()).current_dir("/").output().unwrap()
}
