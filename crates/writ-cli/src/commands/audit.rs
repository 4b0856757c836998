//! `writ audit`: what happened, and proof that nothing was changed.
//!
//! `tail` and `query` read the files; only `verify` needs the daemon, for the public key and the last checkpoint that it keeps
//! outside of the log. Under `--json` every event is one line.

use std::{fs, process::ExitCode, thread, time::Duration};

use jiff::{SignedDuration, Timestamp};
use writ_api::control::{Answer, Ask, Status};
use writ_audit::{Anchor, Event, Events, Filter, Kind, ReadFault, Report, Tail, Verdict, Verifier, verify};
use writ_core::Ttl;

use crate::{
    args::{self, AuditFilter},
    client::Control,
    fault::Fault,
    output::Output,
    paths::Paths,
};

/// Between two looks of `tail --follow`: records reach the disk within 100 ms.
const LOOK: Duration = Duration::from_millis(200);

pub fn run(paths: &Paths, output: Output, command: args::Audit) -> Result<ExitCode, Fault> {
    match command {
        args::Audit::Tail { lines, follow } => tail(paths, output, lines, follow)?,
        args::Audit::Query(filter) => query(paths, output, &filter)?,
        args::Audit::Verify => return check(paths, output),
    }
    Ok(ExitCode::SUCCESS)
}

fn tail(paths: &Paths, output: Output, lines: usize, follow: bool) -> Result<(), Fault> {
    let mut tail = Tail::from_start(&paths.audit());
    let events = tail.poll().map_err(unreadable)?;
    events.iter().skip(events.len().saturating_sub(lines)).for_each(|event| print(output, event));
    if !follow {
        return Ok(());
    }
    loop {
        thread::sleep(LOOK);
        tail.poll().map_err(unreadable)?.iter().for_each(|event| print(output, event));
    }
}

fn query(paths: &Paths, output: Output, typed: &AuditFilter) -> Result<(), Fault> {
    let filter = resolve(typed)?;
    for event in Events::read(&paths.audit()).map_err(unreadable)? {
        let event = event.map_err(unreadable)?;
        if filter.matches(&event) {
            print(output, &event);
        }
    }
    Ok(())
}

fn unreadable(fault: ReadFault) -> Fault {
    match fault {
        ReadFault::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Fault::new("there is no audit log yet", "it begins with the first daemon: writ run -- CMD")
        }
        ReadFault::Io(error) => Fault::new(format!("the audit log: {error}"), "check the state directory"),
        damaged => Fault::new(damaged.to_string(), "writ audit verify"),
    }
}

fn resolve(typed: &AuditFilter) -> Result<Filter, Fault> {
    let text = |value: &Option<String>| value.clone();
    Ok(Filter {
        session: typed.session.map(|id| id.to_string()),
        lease: typed.lease.map(|id| id.to_string()),
        credential: typed.credential.as_ref().map(ToString::to_string),
        role: typed.role.as_ref().map(ToString::to_string),
        workload: text(&typed.workload),
        host: text(&typed.host),
        kind: None::<Kind>,
        result: typed.outcome.as_deref().map(verdict).transpose()?,
        since: typed.since.as_deref().map(instant).transpose()?,
        until: typed.until.as_deref().map(instant).transpose()?,
    })
}

fn verdict(text: &str) -> Result<Verdict, Fault> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Fault::new(format!("{text:?} is no outcome"), "name ok, refused, failed, cut or unknown")
    })
}

/// An instant, or how long ago.
///
/// # Errors
/// Where it is neither.
pub fn instant(text: &str) -> Result<Timestamp, Fault> {
    if let Ok(ttl) = text.parse::<Ttl>() {
        let ago = SignedDuration::try_from(ttl.duration()).unwrap_or(SignedDuration::MAX);
        return Ok(Timestamp::now().saturating_sub(ago).unwrap_or(Timestamp::MIN));
    }
    text.parse().map_err(|_| {
        Fault::new(format!("{text:?} is no instant"), "write 2026-11-21T10:00:00Z, or 90m for that long ago")
    })
}

fn print(output: Output, event: &Event) {
    if output.json {
        output.json_line(event);
    } else {
        output.line(&describe(event));
    }
}

/// One line for people: when, what, how it ended, who, on what.
fn describe(event: &Event) -> String {
    let (actor, resource, ending) = (&event.actor, &event.resource, &event.outcome);
    let mut words = vec![event.time.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string(), event.action.clone()];
    words.push(
        serde_json::to_value(ending.result)
            .ok()
            .and_then(|word| word.as_str().map(ToOwned::to_owned))
            .unwrap_or_default(),
    );
    words.extend(ending.reason.clone().map(|reason| format!("({reason})")));
    words.extend(ending.status.map(|status| status.to_string()));
    words.extend(resource.method.clone());
    let port = resource.port.filter(|port| *port != 443).map_or_else(String::new, |port| format!(":{port}"));
    words.extend(
        resource
            .host
            .as_ref()
            .map(|host| format!("{host}{port}{}", resource.path.as_deref().unwrap_or_default())),
    );
    words.extend(resource.credential.as_ref().map(|name| format!("credential={name}")));
    words.extend(actor.role.as_ref().map(|role| format!("role={role}")));
    words.extend(actor.requester.as_ref().map(|who| format!("by={who}")));
    words.extend(event.lease_id.as_ref().map(|id| format!("lease={id}")));
    words.extend(event.session_id.as_ref().map(|id| format!("session={id}")));
    words.extend(ending.scrubbed.filter(|hits| *hits > 0).map(|hits| format!("scrubbed={hits}")));
    words.extend(ending.duration_us.map(|micros| format!("{:.1}ms", micros as f64 / 1000.0)));
    words.join(" ")
}

fn check(paths: &Paths, output: Output) -> Result<ExitCode, Fault> {
    let (key, anchor) = match Control::connect(paths) {
        Ok(mut control) => match control.ask(&Ask::Status)? {
            Answer::Status(status) => trusted(&status)?,
            _ => return Err(Fault::new("the daemon answered another question", "writ stop")),
        },
        // A damaged log keeps the daemon from starting: then the key that it wrote down has to do.
        Err(fault) => (written_key(paths, output, fault)?, None),
    };
    let report = verify(&paths.audit(), &key, anchor.as_ref())
        .map_err(|error| Fault::new(format!("the audit log: {error}"), "check the state directory"))?;
    output.result(&report, || summary(&report));
    if report.is_sound() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Fault::new(
        "the audit log is not what was written",
        "keep a copy of it as it is, and compare it with a backup",
    )
    .exit(1))
}

fn written_key(paths: &Paths, output: Output, fault: Fault) -> Result<Verifier, Fault> {
    let path = paths.audit_key();
    let Ok(key) = fs::read_to_string(&path) else { return Err(fault) };
    output.say(&format!("the daemon does not start: {}", fault.what));
    output.say(&format!("verifying with the key in {}", path.display()));
    key.trim().parse().map_err(key_fault)
}

/// The key and the checkpoint that the daemon keeps in its store.
fn trusted(status: &Status) -> Result<(Verifier, Option<Anchor>), Fault> {
    let key = status
        .audit_key
        .as_deref()
        .ok_or_else(|| Fault::new("writ is locked, and its audit key with it", "writ unlock"))?;
    let key =
        key.parse().map_err(|error: writ_audit::KeyError| Fault::new(error.to_string(), "writ stop"))?;
    let anchor = status.audit_anchor.as_ref().and_then(|anchor| serde_json::from_value(anchor.clone()).ok());
    Ok((key, anchor))
}

fn key_fault(fault: writ_audit::KeyError) -> Fault {
    Fault::new(fault.to_string(), "writ stop, then try again")
}

fn summary(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.problems.iter().map(|problem| format!("problem: {problem}")).collect();
    for stream in &report.streams {
        let mut line = format!("{}: {} records in {} segments", stream.name, stream.records, stream.segments);
        for (count, what) in [
            (stream.gaps, "gaps after a crash"),
            (stream.unknown, "attempts without an outcome"),
            (stream.unsigned, "records not signed yet"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        lines.push(line);
    }
    let verdict = if report.is_sound() { "sound" } else { "NOT SOUND" };
    lines.insert(
        0,
        format!("{verdict}: {} checkpoints, {} streams", report.checkpoints, report.streams.len()),
    );
    lines.join("\n")
}
