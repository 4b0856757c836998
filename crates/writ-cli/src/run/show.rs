//! `--dry-run`: what would be done, in words.

use std::ffi::OsString;

use serde_json::json;
use writ_core::Level;
use writ_run::{ProcessPlan, StepFault, Terminal};

use super::launch::{self, Launch, Rung};

/// Prints the plan. The session that it was made for ends right after.
pub fn show(launch: &Launch<'_>, level: Level, rung: &dyn Rung, fallen: &[(Level, StepFault)]) {
    let (opened, process) = (&rung.session().opened, rung.process());
    let (set, removed) = variables(process, std::env::vars_os().map(|(name, _)| name));
    let shown = json!({
        "level": level,
        "fallen": fallen.iter().map(|(level, fault)| json!({ "level": level, "fault": fault })).collect::<Vec<_>>(),
        "workload": opened.workload,
        "role": opened.role,
        "hosts": opened.hosts,
        "program": process.path.display().to_string(),
        "directory": process.directory.display().to_string(),
        "terminal": terminal(process.terminal),
        "reaches": rung.reaches(),
        "sees": rung.sees(),
        "variables": { "set": set, "removed": removed },
    });
    launch.output.result(&shown, || {
        let mut text = format!(
            "level      {}\nprogram    {}\ndirectory  {}\nworkload   {}\nrole       {}\nterminal   {}\n",
            launch::name(level),
            process.path.display(),
            process.directory.display(),
            opened.workload,
            opened.role,
            terminal(process.terminal),
        );
        if !fallen.is_empty() {
            text.push_str(&format!("because    {}\n", launch::reasons(fallen)));
        }
        let lists = [
            ("targets", &opened.hosts),
            ("reaches", &rung.reaches()),
            ("sees", &rung.sees()),
            ("variables that are set", &set),
            ("variables that are removed", &removed),
        ];
        for (title, lines) in lists {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
        text
    });
}

/// The names of the variables that the program gets instead of or besides the caller's, with their values, and of those that it does not get.
fn variables(process: &ProcessPlan, inherited: impl Iterator<Item = OsString>) -> (Vec<String>, Vec<String>) {
    let is_same = |name: &OsString, value: &OsString| std::env::var_os(name).as_ref() == Some(value);
    let planned =
        process.environment.iter().map(|(name, value)| (name.os().to_owned(), value.os().to_owned()));
    let planned: Vec<(OsString, OsString)> = planned.collect();
    let set = planned.iter().filter(|(name, value)| !is_same(name, value));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
    let removed = inherited.filter(|name| planned.iter().all(|(one, _)| one != name));
    (set, removed.map(|name| name.display().to_string()).collect())
}

fn terminal(terminal: Terminal) -> &'static str {
    match terminal {
        Terminal::OwnGroup => "a process group of its own",
        Terminal::CallersGroup => "the caller's process group",
    }
}
