//! Launches of real programs, as root and as an plain account.
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
    os::unix::fs::{PermissionsExt, chown},
    process::{Command, ExitCode, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

/// `nobody`, on every Linux that we know.
const NOBODY: u32 = 65534;
/// Cases that run at the same time. They mostly wait for each other's processes.
const PARALLEL: usize = 4;

/// When a case that hangs is ended, in seconds.
const CASE_MAX: &str = "120";

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
    let root = rustix::process::geteuid().is_root();
    let accounts: Vec<Account> = [false, true][..if root { 2 } else { 1 }].iter().map(Account::new).collect();
    let chosen = all().into_iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)));
    let jobs: Vec<(Case, &Account)> =
        chosen.flat_map(|case| accounts.iter().map(move |account| (case, account))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(((name, _), account)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = account.run(name);
                    let good = output.status.success();
                    println!("test {name} ({}) ... {}", account.name(), if good { "ok" } else { "FAILED" });
                    if !good {
                        failed.lock().unwrap().push((name, account.name(), output));
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

/// Somebody with a home, and with work that is this binary.
struct Account {
    directory: TempDir,
    nobody: bool,
}

impl Account {
    fn new(nobody: &bool) -> Self {
        let directory = tempfile::Builder::new().prefix("writ-launch-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "work"] {
            let place = directory.path().join(name);
            fs::create_dir(&place).unwrap();
            if *nobody {
                chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        fs::copy(std::env::current_exe().unwrap(), directory.path().join("work/program")).unwrap();
        Self { directory, nobody: *nobody }
    }

    fn name(&self) -> &'static str {
        if self.nobody { "nobody" } else { "caller" }
    }

    fn run(&self, case: &str) -> Output {
        let program = self.directory.path().join("work/program");
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", CASE_MAX, "setpriv"]);
        if self.nobody {
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"]);
        }
        command.arg(program).args(["case", case]).stdin(Stdio::null());
        command.env("HOME", self.directory.path().join("home"));
        command.current_dir(self.directory.path().join("work")).output().unwrap()
    }
}
