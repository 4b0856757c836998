//! What a launch costs: all stages, with the view of an empty directory, against `fork` and `exec` of the same program.
//!
//! Research measured 1.9 to 2.6 ms against 0.3 to 0.4 for stages in C, and 3.7 to 4.0 for a Rust version of three re-executions.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure has nothing else to do")]

use std::process::{Command, ExitCode, Stdio};

use divan::Bencher;
use writ_run::{Wishes, probe, stage, view};

fn main() -> ExitCode {
    if let Some(code) = stage() {
        return code;
    }
    divan::main();
    ExitCode::SUCCESS
}

#[divan::bench(sample_count = 50, sample_size = 1)]
fn confined(bencher: Bencher) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let wishes = Wishes { directory: directory.path().into(), ..Wishes::default() };
    let facts = view::Facts::gather(view::Host::look().unwrap(), &wishes).unwrap();
    let planned = view::plan(&facts, &wishes).unwrap();
    bencher.with_inputs(|| planned.view.clone()).bench_values(|view| probe(view).unwrap());
}

#[divan::bench(sample_count = 50, sample_size = 1)]
fn plain() {
    let mut command = Command::new("/proc/self/exe");
    assert!(command.args(["__stage", "nothing"]).stdin(Stdio::null()).status().unwrap().success());
}
