//! Who is at the other end, and what it may be: everything that is found out before anything is done.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::task::spawn_blocking;
use writ_api::run::Open;
use writ_core::{Attestation, Door, Evidence, Level, Refusal, RefusalKind, Secret, SessionId, UnixEvidence};

use super::{Doors, SESSIONS_MAX, prompt, resume};
use crate::{
    broker::Broker,
    config::{ResolvedRole, ResolvedTarget, SealKind},
    deadline::Deadline,
    door::Unlocked,
    fault, registration,
    registration::Registration,
    rules::Rules,
    store::SessionRecord,
    trust::{self, Wishes},
};

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
pub(super) struct Prepared {
    pub rules: Arc<Rules>,
    pub record: SessionRecord,
    pub deadline: Deadline,
    pub doors: Doors,
    /// What the session may reach: its role's, without those that a trusted repository does not ask for.
    pub targets: Vec<Arc<ResolvedTarget>>,
    /// What was kept of the session that it goes on with.
    pub kept: Option<Secret>,
    /// Lines for the person who watches the run.
    pub said: Vec<String>,
}

/// Who it is and what it may be. Nothing is done yet.
///
/// # Errors
/// A refusal with the first thing that is wrong.
pub(super) async fn prepare(
    broker: &Broker,
    open: &Unlocked,
    peer: &Peer,
    ask: &Open,
    doors: &[(Door, OwnedFd)],
) -> Result<Prepared, Refusal> {
    room(broker)?;
    let doors = Doors::open(ask.level, ask.password_sha256.as_deref(), doors)?;
    if doors.network().is_some_and(|network| broker.sessions.has_network(network)) {
        let detail = "another session has this network namespace";
        return Err(Refusal::new(RefusalKind::Invalid, detail, "start a new run"));
    }
    let rules = broker.rules.newest()?;
    let directory = directory(peer)?;
    let wishes = trust::wishes(broker, open, &directory).await?;
    let entry = identify(&rules, peer, ask, &wishes).await?;
    let role = rules.role(&entry.role)?;
    wall(&rules, ask.level)?;
    let requester = user_name(peer.uid);
    let now = broker.clock.now();
    let mut expires_at = now.saturating_add(ask.ttl.map_or(role.ttl_max, |asked| asked.min(role.ttl_max)));
    if let Some(old) = ask.resumed_from {
        let who = resume::Resuming { workload: &entry.spiffe_id, requester: &requester, level: ask.level };
        expires_at = expires_at.min(resume::until(broker, old, &who).await?);
    }
    let kept = resume::kept(open, ask)?;
    let record = SessionRecord {
        session: SessionId::new(now, &broker.random_bytes()?),
        boot: broker.boot,
        workload: entry.spiffe_id.clone(),
        role: entry.role.clone(),
        requester,
        program: ask.script.as_ref().unwrap_or(&ask.program).display().to_string(),
        directory: directory.display().to_string(),
        pid: peer.pid,
        level: ask.level,
        prompt_sha256: hashed(&directory, role)?,
        resumed_from: ask.resumed_from,
        opened_at: now,
        expires_at,
        ended_at: None,
        end: None,
    };
    let deadline = Deadline::new(broker.clock.as_ref(), expires_at);
    let (targets, said) = narrowed(&rules, role, wishes);
    Ok(Prepared { rules, record, deadline, doors, targets, kept, said })
}

/// Whether another session may open.
fn room(broker: &Broker) -> Result<(), Refusal> {
    if broker.is_stopping() {
        return Err(fault::stopping());
    }
    if broker.sessions.count() >= SESSIONS_MAX {
        let next = "end one: `writ session list`";
        return Err(Refusal::new(RefusalKind::Limit, "too many sessions are open", next));
    }
    Ok(())
}

/// The registration entry of whoever opens the session. A role that is asked for chooses among those that fit.
async fn identify(rules: &Rules, peer: &Peer, ask: &Open, wishes: &Wishes) -> Result<Registration, Refusal> {
    let evidence = Evidence::Unix(UnixEvidence {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
        program: ask.program.clone(),
        script: ask.script.clone(),
    });
    let workloads = &rules.resolved.workloads;
    let attestation = attest(evidence, registration::questions(workloads)).await?;
    let wished = wishes.repository.as_ref().and_then(|repository| repository.role.as_ref());
    registration::register(workloads, &attestation, ask.role.as_ref().or(wished)).cloned()
}

/// The role's targets that a trusted repository asks for, and what it asks for in vain.
fn narrowed(rules: &Rules, role: &ResolvedRole, wishes: Wishes) -> (Vec<Arc<ResolvedTarget>>, Vec<String>) {
    let mut targets = rules.resolved.targets_of(&role.name);
    let mut said: Vec<String> = wishes.said.into_iter().collect();
    if let Some(repository) = wishes.repository {
        targets.retain(|target| repository.keeps(target));
        let missing = repository.missing(&rules.resolved, Some(&role.name));
        said.extend(
            missing.into_iter().map(|missing| format!("this repository asks in vain for the {missing}")),
        );
    }
    (targets, said)
}

fn hashed(directory: &Path, role: &ResolvedRole) -> Result<Option<String>, Refusal> {
    let Some(file) = &role.prompt_file else { return Ok(None) };
    prompt::sha256(directory, file).map_err(|fault| unreadable(file, &fault))
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

/// The name of a user of this machine, or the number where only a directory service knows it.
pub(super) fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(names).unwrap_or_else(|| format!("uid {uid}"))
}
