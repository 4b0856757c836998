//! `writ doctor`: what would keep writ from working here, and at what level it works.
//!
//! Every check is one function that looks and changes nothing, but for one: where there is a store, the daemon is started, since
//! only a start tells whether seal, store and log can be opened. Status 1 when one fails; a warning does not.

mod keys;
mod layers;
mod level;

use std::{process::ExitCode, time::SystemTime};

use serde::Serialize;
use writ_api::control::{Answer, Ask};
use writ_broker::{
    config::{Config, ConfigFault},
    store::{Place, PostgresStore},
};

use crate::{client::Control, fault::Fault, output::Output, paths::Paths};
pub use level::confined;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Finding {
    Good,
    Warning,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    finding: Finding,
    what: String,
    next: Option<String>,
}

impl Check {
    fn good(what: impl Into<String>) -> Self {
        Self { finding: Finding::Good, what: what.into(), next: None }
    }

    fn warning(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { finding: Finding::Warning, what: what.into(), next: Some(next.into()) }
    }

    fn bad(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { finding: Finding::Bad, what: what.into(), next: Some(next.into()) }
    }
}

pub fn run(paths: &Paths, output: Output) -> Result<ExitCode, Fault> {
    let mut checks = vec![directories(paths), file_system(paths), configuration(paths)];
    checks.extend(store(paths));
    checks.extend(daemon(paths));
    checks.push(certificates());
    checks.extend(keys::environment());
    checks.extend(keys::work_tree());
    checks.extend(keys::left_behind());
    checks.extend(layers::check(&paths.layers(), SystemTime::now()));
    checks.extend(level::check(paths));
    output.result(&checks, || checks.iter().map(line).collect::<Vec<_>>().join("\n"));
    let bad = checks.iter().any(|check| check.finding == Finding::Bad);
    Ok(ExitCode::from(u8::from(bad)))
}

fn line(check: &Check) -> String {
    let mark = match check.finding {
        Finding::Good => "✓",
        Finding::Warning => "!",
        Finding::Bad => "✗",
    };
    let next = check.next.as_ref().map_or_else(String::new, |next| format!("\n    next: {next}"));
    format!("{mark} {}{next}", check.what)
}

fn directories(paths: &Paths) -> Check {
    match paths.prepare() {
        Ok(()) => Check::good(format!(
            "state in {}, sockets in {}, for you alone",
            paths.state.display(),
            paths.run.display()
        )),
        Err(fault) => Check::bad(fault.what, fault.next),
    }
}

fn file_system(paths: &Paths) -> Check {
    match writ_sys::is_network_filesystem(&paths.state) {
        Ok(None) => Check::good("the state directory is on a local disk"),
        Ok(Some(name)) => Check::bad(
            format!(
                "the state directory is on a network file system ({name}), where locks and durability do not hold"
            ),
            "set XDG_STATE_HOME or WRIT_HOME to a local disk",
        ),
        Err(error) => Check::bad(format!("{}: {error}", paths.state.display()), "check the directory"),
    }
}

fn configuration(paths: &Paths) -> Check {
    match Config::load(&paths.config) {
        Ok(config) => Check::good(format!(
            "{}: {} credentials, {} targets, {} roles, {} registration entries",
            paths.config.display(),
            config.credentials().count(),
            config.targets().count(),
            config.roles().count(),
            config.workloads.len(),
        )),
        Err(ConfigFault::Missing(path)) => {
            Check::bad(format!("{} does not exist", path.display()), "writ init")
        }
        Err(fault) => Check::bad(fault.to_string(), "mend it there"),
    }
}

fn configured_store(paths: &Paths) -> Option<Place> {
    Config::load(&paths.config).ok()?.store
}

/// Whether a store that is a server can be reached, as the daemon would.
fn store(paths: &Paths) -> Option<Check> {
    let place = configured_store(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = runtime.map(|runtime| runtime.block_on(PostgresStore::probe(&place)));
    Some(match found {
        Ok(Ok(server)) => Check::good(format!("the store is at {}: {server}", place.shown())),
        Ok(Err(fault)) => Check::bad(fault.to_string(), "mend [store] in the configuration, or the server"),
        Err(error) => Check::bad(error.to_string(), "try again"),
    })
}

fn daemon(paths: &Paths) -> Vec<Check> {
    let control = match Control::running(paths) {
        Some(control) => control,
        None if paths.store().exists() || configured_store(paths).is_some() => Control::connect(paths),
        None => return vec![Check::good("no daemon is running; the first command that needs one starts it")],
    };
    let status = match control.and_then(|mut control| control.ask(&Ask::Status)) {
        Ok(Answer::Status(status)) => status,
        Ok(_) => return vec![Check::bad("the daemon answers another question", "writ stop")],
        Err(fault) => return vec![Check::bad(fault.what, fault.next)],
    };
    let mut checks = vec![Check::good(format!(
        "the daemon runs (pid {}), {} sessions, {} leases, seal {}",
        status.pid, status.sessions, status.leases, status.seal
    ))];
    if status.locked {
        checks.push(Check::warning("it is locked", "writ unlock"));
    }
    for stuck in &status.quarantined {
        let what = format!(
            "the role {} gets no more leases on {}: {} earlier ones cannot be revoked",
            stuck.role, stuck.credential, stuck.leases
        );
        checks.push(Check::warning(what, "writ lease list, then bring back what the credential belongs to"));
    }
    if status.config != paths.config.display().to_string() {
        let what = format!("it uses another configuration, {}", status.config);
        checks.push(Check::warning(what, "writ stop, then run the command with --config again"));
    }
    checks
}

fn certificates() -> Check {
    match crate::run::system_bundle() {
        Some(path) => Check::good(format!("the system's certificates are in {path}")),
        None => Check::warning(
            "no bundle of the system's certificates was found",
            "install the package ca-certificates",
        ),
    }
}
