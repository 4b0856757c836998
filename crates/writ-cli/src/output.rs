//! The only place that prints.
//!
//! Results go to stdout, everything said about them to stderr. `--json` turns results into one JSON value, `--quiet` silences
//! what is not a result or an error.
#![expect(clippy::print_stderr, reason = "this is the output module")]

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::fault::Fault;

#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default().bold();

impl Output {
    /// A remark, on stderr.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            anstream::eprintln!("{DIM}writ:{DIM:#} {text}");
        }
    }

    /// A line of a result, on stdout. It is not printed under `--json`.
    pub fn line(&self, text: &str) {
        if !self.json {
            let _ = writeln!(anstream::stdout(), "{text}");
        }
    }

    /// One value of many, as a line of JSON on stdout.
    pub fn json_line(&self, value: &impl Serialize) {
        let text = serde_json::to_string(value).unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// A result: `human` where a person reads it, the value as JSON where a program does.
    pub fn result(&self, value: &impl Serialize, human: impl FnOnce() -> String) {
        if self.json {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{text}");
        } else {
            let text = human();
            let _ = writeln!(anstream::stdout(), "{}", text.trim_end());
        }
    }

    /// A question, on stderr, with the cursor behind it.
    pub fn prompt(&self, text: &str) {
        anstream::eprint!("{text} [y/N] ");
        let _ = std::io::stderr().flush();
    }

    /// A failure, on stderr.
    pub fn fault(&self, fault: &Fault) {
        if self.json {
            let kind = fault.kind.map(|kind| kind.slug());
            eprintln!("{}", serde_json::json!({ "error": fault.what, "kind": kind, "next": fault.next }));
        } else {
            anstream::eprintln!("{RED}writ:{RED:#} {}", fault.what);
            if !fault.next.is_empty() {
                anstream::eprintln!("      {BOLD}next:{BOLD:#} {}", fault.next);
            }
        }
    }
}

/// A table without lines, as wide as the terminal.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// What the daemon says to the command that started it: one line. Nothing listens to its stdout after that.
pub fn readiness(readiness: &crate::client::Readiness) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{}", serde_json::to_string(readiness).unwrap_or_default());
    let _ = stdout.flush();
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
