//! What sessions tried to reach: the audit log, summed up by host and port, with the lines that would allow what was refused.
//!
//! The log is read from its beginning, a segment at a time; what is kept is bounded, whatever an agent asks for.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use writ_api::control::SeenRow;
use writ_audit::{Event, Events, Kind, ReadFault, Verdict};
use writ_core::{Authority, Refusal, RefusalKind, Timestamp};

use crate::{broker::Broker, config::Resolved, door::Unlocked, fault};

/// The most hosts and ports that are told apart. Those that come later are counted as one number.
const HOSTS_MAX: usize = 1000;
/// The most roles of one host that are named.
const ROLES_MAX: usize = 16;
/// The most rows in one answer, so that it fits into a frame.
const ROWS_MAX: usize = 500;

/// The rows, the most recent first, and how many were left out.
///
/// # Errors
/// [`RefusalKind::Internal`] when the log cannot be read.
pub(crate) async fn seen(
    broker: &Broker,
    open: &Unlocked,
    since: Option<Timestamp>,
) -> Result<(Vec<SeenRow>, usize), Refusal> {
    // What other writers have not written yet reaches the disk within 100 ms.
    let _ = open.log.flush().await;
    let directory = broker.audit.clone();
    let read = move || summed(&directory, since);
    let summary = tokio::task::spawn_blocking(read).await.map_err(|fault| fault::internal(&fault))?;
    let mut summary = summary
        .map_err(|fault| Refusal::new(RefusalKind::Internal, fault.to_string(), "run `writ audit verify`"))?;
    let rules = broker.rules.newest().ok();
    summary.rows.sort_by_key(|row| std::cmp::Reverse(row.seen.last));
    let more = summary.more.saturating_add(summary.rows.len().saturating_sub(ROWS_MAX));
    summary.rows.truncate(ROWS_MAX);
    let told = |row: Row| {
        let lines = rules.as_ref().map(|rules| lines(&rules.resolved, &row)).unwrap_or_default();
        SeenRow { lines, ..row.seen }
    };
    Ok((summary.rows.into_iter().map(told).collect(), more))
}

/// What is known of one host and port.
struct Row {
    seen: SeenRow,
    /// Method of the last refusal, and its path, as far as they are on record.
    request: (Option<String>, Option<String>),
    /// The address that the name led to, when that was refused.
    address: Option<String>,
}

#[derive(Default)]
struct Summary {
    rows: Vec<Row>,
    index: HashMap<(String, Option<u16>), usize>,
    /// Hosts and ports beyond [`HOSTS_MAX`], counted for each event.
    more: usize,
}

fn summed(directory: &Path, since: Option<Timestamp>) -> Result<Summary, ReadFault> {
    let mut summary = Summary::default();
    for event in Events::read(directory)? {
        let event = event?;
        let at = Timestamp::from_millis(event.time.as_millisecond());
        if since.is_none_or(|since| at >= since) {
            summary.add(&event, at);
        }
    }
    Ok(summary)
}

/// What became of one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Refused,
    Tunnelled,
    Used,
}

impl Became {
    /// `None` for what is no attempt to reach something. An acquisition that was refused is not one of its own: the data plane records
    /// the request that needed it.
    fn of(event: &Event) -> Option<Self> {
        match (event.kind, event.outcome.result) {
            (Kind::Refused, _) | (Kind::Use, Verdict::Refused) => Some(Self::Refused),
            (Kind::Use, _) if event.action.ends_with(TUNNEL) => Some(Self::Tunnelled),
            (Kind::Use, _) => Some(Self::Used),
            _ => None,
        }
    }
}

/// How the action ends of a use whose bytes passed untouched.
const TUNNEL: &str = "tunnel";

impl Summary {
    fn add(&mut self, event: &Event, at: Timestamp) {
        let (Some(became), Some(host)) = (Became::of(event), &event.resource.host) else { return };
        let key = (host.clone(), event.resource.port);
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None if self.rows.len() >= HOSTS_MAX => {
                self.more = self.more.saturating_add(1);
                return;
            }
            None => {
                self.rows.push(Row::new(host, event.resource.port, at));
                self.index.insert(key, self.rows.len().saturating_sub(1));
                self.rows.len().saturating_sub(1)
            }
        };
        if let Some(row) = self.rows.get_mut(index) {
            row.add(event, became, at);
        }
    }
}

impl Row {
    fn new(host: &str, port: Option<u16>, at: Timestamp) -> Self {
        let seen = SeenRow {
            host: host.to_owned(),
            port,
            refused: 0,
            tunnelled: 0,
            used: 0,
            first: at,
            last: at,
            roles: Vec::new(),
            reason: None,
            lines: Vec::new(),
        };
        Self { seen, request: (None, None), address: None }
    }

    fn add(&mut self, event: &Event, became: Became, at: Timestamp) {
        let seen = &mut self.seen;
        seen.first = seen.first.min(at);
        seen.last = seen.last.max(at);
        let count = match became {
            Became::Refused => &mut seen.refused,
            Became::Tunnelled => &mut seen.tunnelled,
            Became::Used => &mut seen.used,
        };
        *count = count.saturating_add(1);
        if let Some(role) = &event.actor.role
            && seen.roles.len() < ROLES_MAX
            && !seen.roles.contains(role)
        {
            seen.roles.push(role.clone());
        }
        if became == Became::Refused {
            seen.reason.clone_from(&event.outcome.reason);
            self.request = (event.resource.method.clone(), event.resource.path.clone());
            self.address.clone_from(&event.resource.dialled);
        }
    }
}

/// The lines of `writ.toml` that would allow what was refused last. None where no line would, or where the log holds only hashes.
fn lines(resolved: &Resolved, row: &Row) -> Vec<String> {
    let seen = &row.seen;
    let Some(reason) = seen.reason.as_deref().filter(|_| seen.refused > 0) else { return Vec::new() };
    let port = seen.port.unwrap_or(443);
    if matches!(seen.host.as_str(), "localhost" | "127.0.0.1" | "::1") {
        return vec![format!("local = [{port}]")];
    }
    let Ok(authority) = format!("{}:{port}", seen.host).parse::<Authority>() else { return Vec::new() };
    let target = resolved.targets().find(|target| target.authority == authority);
    let name = target.map_or_else(|| seen.host.replace('.', "-"), |target| target.name.to_string());
    match (reason, target) {
        ("unlisted-host", None) => {
            let mut lines = vec![
                "[[target]]".to_owned(),
                format!("name = \"{name}\""),
                format!("host = \"{authority}\""),
            ];
            lines.extend(grants(&name, seen, None));
            lines
        }
        ("unlisted-host" | "denied", Some(_)) => grants(&name, seen, None),
        ("out-of-scope", Some(_)) => grants(&name, seen, Some(&row.request)),
        ("forbidden-address", Some(_)) => vec![network(&name, row.address.as_deref())],
        _ => Vec::new(),
    }
}

/// A grant for each role that tried, bounded by what is on record of the request.
fn grants(target: &str, seen: &SeenRow, request: Option<&(Option<String>, Option<String>)>) -> Vec<String> {
    let plain = |text: &&String| !text.contains("h:") && !text.contains(['"', '\\']);
    let bound = |key: &str, text: Option<&String>| {
        text.filter(plain).map(|text| format!(", {key} = [\"{text}\"]")).unwrap_or_default()
    };
    let (method, path) = request.map_or((None, None), |(method, path)| (method.as_ref(), path.as_ref()));
    let bounds = bound("methods", method) + &bound("paths", path);
    let roles: BTreeSet<&String> = seen.roles.iter().collect();
    let line =
        |role: &String| format!("{{ target = \"{target}\"{bounds} }}  # into the grants of the role {role}");
    roles.into_iter().map(line).collect()
}

/// The line for the address that was refused, or for the network that is not on record.
fn network(target: &str, address: Option<&str>) -> String {
    let ip = address.and_then(|at| at.parse::<std::net::SocketAddr>().ok()).map(|at| at.ip());
    match ip {
        Some(ip) => {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            format!("allow_private = [\"{ip}/{bits}\"]  # into the target {target}")
        }
        None => format!("allow_private = [\"…\"]  # the network that it leads to, into the target {target}"),
    }
}
