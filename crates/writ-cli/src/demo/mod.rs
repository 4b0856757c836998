//! `writ demo`: the main job on the embedded default, with nothing to set up and nothing left behind.
//!
//! ```text
//!   a service that wants a real key ─► seal that key ─► programs under `writ run` ─► what each of them saw
//!     ─► revoke the lease in the middle of a run ─► verify the audit log ─► stop everything
//! ```
//!
//! Everything is done by this binary's own commands in a home of the demo's own, as a person would do it.

pub mod client;
mod home;
mod injected;
mod upstream;

use std::{
    path::Path,
    process::{ExitCode, Stdio},
};

use serde_json::Value;

use crate::{fault::Fault, output::Output};
use home::{Conversation, Home, canary};
use upstream::{Sink, Upstream};

/// The name under which the demo's service is reached. It is the real vendor's, so that the tutorial's client needs no change;
/// the demo's configuration leads it to the service on loopback.
const HOST: &str = "api.openai.com";
const CHAT: &str = r#"{"model":"demo-1","messages":[{"role":"user","content":"hello"}]}"#;
/// The longest detail of a line.
const DETAIL_MAX: usize = 150;
/// The tutorial's client.
const PYTHON: &str = "import os, openai\n\
    client = openai.OpenAI(api_key=os.environ['OPENAI_API_KEY'])\n\
    print(client.chat.completions.create(model='demo-1', messages=[{'role': 'user', 'content': 'hello'}]).choices[0].message.content)";

/// Programs were shown, but this machine cannot confine them: the main claim was skipped.
const EXIT_NOT_CONFINED: u8 = 3;

/// Runs the demo. Status 1 when something did not come out as it should, [`EXIT_NOT_CONFINED`] when the machine cannot confine.
pub fn run(output: Output) -> Result<ExitCode, Fault> {
    let key = canary()?;
    let started = |error: std::io::Error| Fault::new(format!("the demo's service: {error}"), "");
    let service = Upstream::start(HOST, &key).map_err(started)?;
    let sink = Sink::start(injected::LISTED).map_err(started)?;
    let home = Home::create(HOST, &service, &sink)?;
    let hidden = injected::hide(&home, &key)?;
    let mut report = Report { output, key: key.clone(), failed: 0 };
    output.line("writ demo: programs make their calls, and the key is not in them.\n");
    output.line(&format!(
        "A service plays https://{HOST} on {} and answers 401 without the real key.",
        service.address
    ));
    home.writ(&["credential", "set", "openai"], &key)?;
    report.check("the key is sealed; the demo's programs never get it", true, "");

    own_client(&home, &mut report)?;
    curl(&home, &mut report)?;
    tutorial(&home, &mut report)?;
    output.line("\nAn agent that a prompt injection has turned");
    let level = home.level()?;
    if level.confined {
        injected::run(&home, &hidden, &sink, HOST, &mut report)?;
    } else {
        output.line(
            "  – skipped: this machine does not let programs be confined, so there is no claim to show",
        );
    }

    output.line("\nThe record");
    let verified = home.writ(&["audit", "verify"], "")?;
    report.check("audit verify", verified.ok, verified.text.trim());
    home.writ(&["stop"], "")?;
    output.line(&format!("\n{}", level.text));
    output.line("Everything that was started has been stopped.");
    Ok(match (report.failed, level.confined) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(EXIT_NOT_CONFINED),
        _ => ExitCode::FAILURE,
    })
}

fn own_client(home: &Home, report: &mut Report) -> Result<(), Fault> {
    report.output.line("\nA small HTTPS client, with no writ in it");
    let mut client = home.converse(&[client::STAGE, HOST])?;
    let call = client.ask(&format!("POST /v1/chat/completions {CHAT}"))?;
    report.status("its call works", &call, 200);
    let environment = client.ask("ENV")?;
    let placeholder = environment
        .as_array()
        .into_iter()
        .flatten()
        .find(|pair| pair.get(0).is_some_and(|name| name == "OPENAI_API_KEY"));
    let placeholder = placeholder
        .and_then(|pair| pair.get(1))
        .and_then(Value::as_str)
        .unwrap_or("")
        .chars()
        .take(18)
        .collect::<String>();
    report.clean("no key in its environment", &environment, &format!("OPENAI_API_KEY={placeholder}…"));
    let echo = client.ask("GET /v1/echo")?;
    report.status("it asks the service to echo its headers", &echo, 200);
    let echoed: Value = serde_json::from_str(&body(&echo)).unwrap_or_default();
    let lines =
        echoed.get("headers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let seen = lines.filter(|line| line.starts_with("authorization")).collect::<String>();
    report.clean("the echo comes back scrubbed", &echo, &seen);
    let outside = client.ask("GET /v1/files")?;
    report.status("a call outside its role is refused", &outside, 403);
    revocation(home, report, &mut client)?;
    client.close();
    Ok(())
}

/// Revokes the lease while the program runs: the next use must fail.
fn revocation(home: &Home, report: &mut Report, client: &mut Conversation) -> Result<(), Fault> {
    let leases = home.writ(&["lease", "list", "--json"], "")?;
    let leases: Value = serde_json::from_str(&leases.text).unwrap_or_default();
    let lease = leases.get(0).and_then(|lease| lease.get("lease")).and_then(Value::as_str).unwrap_or("none");
    let revoked = home.writ(&["lease", "revoke", lease], "")?;
    report.check(&format!("writ lease revoke {lease}, while it runs"), revoked.ok, "");
    let after = client.ask(&format!("POST /v1/chat/completions {CHAT}"))?;
    report.status("its next call is refused", &after, 403);
    Ok(())
}

fn curl(home: &Home, report: &mut Report) -> Result<(), Fault> {
    let script = format!(
        "curl -sS https://{HOST}/v1/chat/completions -H \"Authorization: Bearer $OPENAI_API_KEY\" -d '{CHAT}'"
    );
    other(
        home,
        report,
        "curl",
        &["sh", "-c", &script],
        has(&["curl", "--version"]),
        "Hello from the upstream.",
    )
}

fn tutorial(home: &Home, report: &mut Report) -> Result<(), Fault> {
    let there = has(&["python3", "-c", "import openai"]);
    other(
        home,
        report,
        "The tutorial's openai.OpenAI(api_key=os.environ[\"OPENAI_API_KEY\"])",
        &["python3", "-c", PYTHON],
        there,
        "Hello from the upstream.",
    )
}

fn other(
    home: &Home,
    report: &mut Report,
    title: &str,
    command: &[&str],
    there: bool,
    wanted: &str,
) -> Result<(), Fault> {
    report.output.line(&format!("\n{title}"));
    if !there {
        report.output.line(&format!(
            "  – not installed here; where it is, this shows it:\n    writ run -- {}",
            shown(command)
        ));
        return Ok(());
    }
    let ran = home.writ(&[&["run", "--fresh", "--"], command].concat(), "")?;
    let held = ran.ok && ran.text.contains(wanted);
    report.check("its call works", held, if held { wanted } else { ran.text.trim() });
    Ok(())
}

fn shown(command: &[&str]) -> String {
    let quoted = command.iter().map(|word| {
        if word.contains([' ', '\n', '\'']) {
            format!("'{}'", word.replace('\'', "'\\''"))
        } else {
            (*word).to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn has(command: &[&str]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    let ran = std::process::Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}

fn body(answer: &Value) -> String {
    answer.get("body").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What came out, line by line.
struct Report {
    output: Output,
    key: String,
    failed: usize,
}

impl Report {
    fn line(&self, text: &str) {
        self.output.line(text);
    }

    fn check(&mut self, what: &str, held: bool, detail: &str) {
        let mark = if held { "✓" } else { "✗" };
        let detail: String = detail.lines().next().unwrap_or_default().chars().take(DETAIL_MAX).collect();
        self.output.line(&format!("  {mark} {what}{}{detail}", if detail.is_empty() { "" } else { ": " }));
        self.failed += usize::from(!held);
    }

    fn status(&mut self, what: &str, answer: &Value, wanted: u16) {
        let status = answer.get("status").and_then(Value::as_u64);
        let problem: Value = serde_json::from_str(&body(answer)).unwrap_or_default();
        let reason =
            problem.get("detail").or_else(|| answer.get("error")).and_then(Value::as_str).unwrap_or_default();
        let shown = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        self.check(what, status == Some(u64::from(wanted)), format!("{shown} {reason}").trim());
    }

    fn clean(&mut self, what: &str, text: &Value, detail: &str) {
        let held = !text.to_string().contains(&self.key);
        self.check(what, held, detail);
    }
}

/// Whether a directory is below another: what the demo removes is its own.
fn below(path: &Path, parent: &Path) -> bool {
    path.starts_with(parent) && path != parent
}
