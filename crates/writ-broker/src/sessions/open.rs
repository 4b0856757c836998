//! The opening of a session: who is at the other end, what may it be, and what does it get.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};
use writ_api::run::{Open, Opened, Variable};
use writ_audit::{Attempt, Kind, Outcome};
use writ_core::{
    Attestation, Door, Evidence, Level, PRESETS, PlaceholderEntry, Principal, Refusal, RefusalKind,
    RoutePlan, SessionId, SessionPlan, SessionReady, UnixEvidence,
};

use super::{Attached, End, Facts, LINES_MAX, SESSIONS_MAX, Session, end, prompt};
use crate::{
    broker::Broker,
    config::{ResolvedCredential, SealKind},
    deadline::Deadline,
    door::Unlocked,
    fault, records, registration,
    rules::Rules,
    store::{Change, SessionRecord},
};

/// The longest that the data plane may take to serve a listener.
const SERVE_MAX: Duration = Duration::from_secs(10);
/// SHA-256, hexadecimal.
const SHA256_HEX: usize = 64;

/// The peer of a socket, as the kernel names it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
    /// Its process, held so that the number cannot come to mean another.
    pub process: OwnedFd,
}

/// What was found out before anything was done.
struct Prepared {
    rules: Arc<Rules>,
    record: SessionRecord,
    deadline: Deadline,
}

/// Opens a session for `peer`, which is reached through `doors`.
///
/// # Errors
/// A refusal, whose reason is recorded.
pub(crate) async fn open(
    broker: &Broker,
    peer: &Peer,
    ask: &Open,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<(Opened, Attached), Refusal> {
    let door = broker.unlocked()?;
    let prepared = prepare(broker, peer, ask).await;
    let facts = Arc::new(facts(peer, prepared.as_ref().ok()));
    let entry = door
        .log
        .open_durable(&Attempt {
            action: Some("open"),
            ..records::attempt(Kind::Session, broker, Some(&facts))
        })
        .await
        .map_err(|full| fault::log(&full))?;
    let opened = match prepared {
        Ok(prepared) => establish(broker, door, ask, prepared, facts, doors).await,
        Err(refusal) => Err(refusal),
    };
    match &opened {
        Ok(_) => entry.close(&Outcome::ok()),
        Err(refusal) => entry.close(&records::refused(refusal.kind)),
    }
    opened
}

/// Who it is and what it may be. Nothing is done yet.
async fn prepare(broker: &Broker, peer: &Peer, ask: &Open) -> Result<Prepared, Refusal> {
    if broker.is_stopping() {
        return Err(fault::stopping());
    }
    if broker.sessions.count() >= SESSIONS_MAX {
        return Err(Refusal::new(
            RefusalKind::Limit,
            "too many sessions are open",
            "end one: `writ session list`",
        ));
    }
    let hashed = ask.password_sha256.as_deref();
    if hashed
        .is_none_or(|hashed| hashed.len() != SHA256_HEX || !hashed.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            "the password's hash is malformed",
            "use this writ's own `run`",
        ));
    }
    let rules = broker.rules.newest()?;
    let evidence = Evidence::Unix(UnixEvidence {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
        program: ask.program.clone(),
        script: ask.script.clone(),
    });
    let questions = registration::questions(&rules.resolved.workloads);
    let attestation = attest(evidence, questions).await?;
    let entry = registration::register(&rules.resolved.workloads, &attestation, ask.role.as_ref())?;
    let role = rules.role(&entry.role)?;
    wall(&rules, ask.level)?;
    let directory = directory(peer)?;
    let prompt_sha256 = match &role.prompt_file {
        Some(file) => prompt::sha256(&directory, file).map_err(|fault| unreadable(file, &fault))?,
        None => None,
    };
    let now = broker.clock.now();
    let ttl = ask.ttl.map_or(role.ttl_max, |asked| asked.min(role.ttl_max));
    let expires_at = now.saturating_add(ttl);
    let record = SessionRecord {
        session: SessionId::new(now, &broker.random_bytes()?),
        boot: broker.boot,
        workload: entry.spiffe_id.clone(),
        role: entry.role.clone(),
        requester: user_name(peer.uid),
        program: ask.script.as_ref().unwrap_or(&ask.program).display().to_string(),
        directory: directory.display().to_string(),
        pid: peer.pid,
        level: ask.level,
        prompt_sha256,
        resumed_from: ask.resumed_from,
        opened_at: now,
        expires_at,
        ended_at: None,
        end: None,
    };
    Ok(Prepared { rules, record, deadline: Deadline::new(broker.clock.as_ref(), expires_at) })
}

/// What the evidence proves. Off the runtime's workers: a program may have to be hashed.
async fn attest(evidence: Evidence, questions: BTreeSet<String>) -> Result<Attestation, Refusal> {
    let refuse = |why: String| {
        Refusal::new(RefusalKind::UnknownWorkload, why, "run a program that exists and can be read")
    };
    let Some(attestor) = writ_attest::attestor(evidence.kind()) else {
        return Err(refuse(format!("nobody judges evidence of kind {}", evidence.kind())));
    };
    match spawn_blocking(move || attestor.attest(&evidence, &questions)).await {
        Ok(attested) => attested.map_err(|fault| refuse(fault.to_string())),
        Err(fault) => Err(fault::internal(&fault)),
    }
}

/// Makes it durable, has it served, and hands it over.
async fn establish(
    broker: &Broker,
    door: &Unlocked,
    ask: &Open,
    prepared: Prepared,
    facts: Arc<Facts>,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<(Opened, Attached), Refusal> {
    let Prepared { rules, record, deadline } = prepared;
    let session = record.session;
    let plan = plan(door, &rules, &record, ask.password_sha256.as_deref());
    let routes = plan.routes.clone();
    broker.store.apply(vec![Change::OpenSession(record.clone())]).await.map_err(fault::store)?;
    let ready = match serve(broker, plan, doors).await {
        Ok(ready) => ready,
        Err(refusal) => {
            let change = Change::EndSession {
                session,
                at: broker.clock.now(),
                end: End::Unserved.as_str().to_owned(),
            };
            if let Err(fault) = broker.store.apply(vec![change]).await {
                tracing::error!(%fault, "a session that was not served could not be ended in the store");
            }
            return Err(refusal);
        }
    };
    let (lines, receiver) = mpsc::channel(LINES_MAX);
    let over = watch::Sender::new(None);
    let attached = Attached { session, lines: receiver, over: over.subscribe() };
    let opened = opened(door, ask, &rules, &record, &routes, ready.clone());
    let alive = Session {
        principal: Principal { workload: record.workload, session, role: record.role },
        level: record.level,
        prompt_sha256: record.prompt_sha256,
        deadline,
        recipient: ready.recipient,
        facts,
        routes: routes.into_iter().map(|route| (route.target.clone(), route)).collect(),
        lines,
        over,
    };
    broker.sessions.alive().insert(session, Arc::new(alive));
    // Whoever stops the broker ends the sessions that it sees; one that comes after is ended here.
    if broker.is_stopping() {
        let _ = end(broker, session, End::Stopped).await;
        return Err(fault::stopping());
    }
    Ok((opened, attached))
}

async fn serve(
    broker: &Broker,
    plan: SessionPlan,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<SessionReady, Refusal> {
    let unserved = |why: String| Refusal::new(RefusalKind::BrokerUnavailable, why, "try again");
    let served = timeout(SERVE_MAX, async {
        match broker.data_plane().await {
            Some(data_plane) => {
                data_plane.open(plan, doors).await.map_err(|fault| unserved(fault.to_string()))
            }
            None => Err(fault::stopping()),
        }
    });
    served.await.unwrap_or_else(|_| Err(unserved("the proxy did not serve the session in time".to_owned())))
}

fn plan(
    door: &Unlocked,
    rules: &Rules,
    record: &SessionRecord,
    password_sha256: Option<&str>,
) -> SessionPlan {
    let placeholder = |credential: &ResolvedCredential| PlaceholderEntry {
        credential: credential.name.clone(),
        placeholder: door.vault.placeholder(&credential.name, &credential.shape),
    };
    SessionPlan {
        session: record.session,
        workload: record.workload.clone(),
        role: record.role.clone(),
        requester: record.requester.clone(),
        level: record.level,
        expires_at: record.expires_at,
        password_sha256: password_sha256.map(str::to_ascii_lowercase),
        egress: rules.resolved.egress,
        local: Vec::new(),
        routes: rules.resolved.targets_of(&record.role).iter().map(|target| target.route()).collect(),
        placeholders: rules.resolved.credentials().map(placeholder).collect(),
        quiet_hosts: rules.resolved.quiet_hosts_of(&record.role),
    }
}

fn opened(
    door: &Unlocked,
    ask: &Open,
    rules: &Rules,
    record: &SessionRecord,
    routes: &[RoutePlan],
    ready: SessionReady,
) -> Opened {
    let mut variables: Vec<Variable> = Vec::new();
    for credential in rules.resolved.credentials_of(&record.role) {
        let placeholder = door.vault.placeholder(&credential.name, &credential.shape);
        for name in &credential.env {
            if variables.iter().all(|known| known.name != *name) {
                let (name, credential) = (name.clone(), credential.name.clone());
                variables.push(Variable { name, placeholder: placeholder.clone(), credential });
            }
        }
    }
    let managed = |name: &str| variables.iter().any(|variable| variable.name == name);
    let known: BTreeSet<&str> = PRESETS.iter().flat_map(|preset| preset.env).copied().collect();
    let withhold = ask
        .variables
        .iter()
        .filter(|name| known.contains(name.as_str()) && !managed(name))
        .cloned()
        .collect();
    Opened {
        session: record.session,
        workload: record.workload.clone(),
        role: record.role.clone(),
        expires_at: record.expires_at,
        ca_pem: ready.ca_pem,
        variables,
        withhold,
        hosts: routes.iter().map(|route| route.authority.to_string()).collect(),
        named: ready.named,
        local: Vec::new(),
        caches: rules.resolved.run.caches.clone(),
        presets: Vec::new(),
    }
}

/// Below `confined` the agent can read a plain key file, so the configuration must accept that by name.
fn wall(rules: &Rules, level: Level) -> Result<(), Refusal> {
    let seal = &rules.resolved.seal;
    if level >= Level::Confined || seal.kind != SealKind::KeyFile || seal.accept_below_confined {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::Denied,
        "the agent would not be confined and could read the key file of the seal",
        "use a passphrase (`kind = \"passphrase\"` under [seal]), or accept it: `accept_below_confined = true`",
    ))
}

/// The launcher's working directory, and proof that the number still meant its process.
fn directory(peer: &Peer) -> Result<PathBuf, Refusal> {
    let gone = || Refusal::new(RefusalKind::Invalid, "the launcher is gone", "start a new run");
    let directory = std::fs::read_link(Path::new("/proc").join(peer.pid.to_string()).join("cwd"));
    let directory = directory.map_err(|_| gone())?;
    let mut exited = [PollFd::new(&peer.process, PollFlags::IN)];
    match poll(&mut exited, Some(&Timespec::default())) {
        Ok(0) => Ok(directory),
        _ => Err(gone()),
    }
}

fn unreadable(file: &Path, fault: &std::io::Error) -> Refusal {
    Refusal::new(
        RefusalKind::Invalid,
        format!("the role's prompt file {} cannot be hashed: {fault}", file.display()),
        "mend or remove the file, or `prompt_file` in writ.toml",
    )
}

fn facts(peer: &Peer, prepared: Option<&Prepared>) -> Facts {
    let record = prepared.map(|prepared| &prepared.record);
    Facts {
        workload: record.map(|record| record.workload.to_string()),
        role: record.map(|record| record.role.to_string()),
        session: record.map(|record| record.session.to_string()),
        requester: record.map_or_else(|| user_name(peer.uid), |record| record.requester.clone()),
    }
}

/// The name of a user of this machine, or the number where only a directory service knows it.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(names).unwrap_or_else(|| format!("uid {uid}"))
}
