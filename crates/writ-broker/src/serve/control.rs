//! `control.sock`: the operator's commands, one frame each way.
//!
//! `Hello` comes first and names the version. While the seal is closed only `Status`, `Unlock` and `Stop` are answered; all else
//! is refused as locked. Every command but those that only look at the daemon itself is on the disk, without its values, before
//! it is done; it gets one outcome.

use std::time::Duration;

use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};
use writ_api::{
    VERSION,
    control::{Answer, Ask, SessionRow, Status},
    frame::{self, FrameFault},
    seal::Place,
};
use writ_audit::Outcome;
use writ_core::{CredentialName, LeaseEnd, LeaseId, Refusal, RefusalKind, Sealed, SessionId};
use writ_sys::PeerCredentials;

use super::{Beginning, proof, rate::Bucket, rows};
use crate::{
    broker::Broker,
    credentials::{self, Rotated},
    door,
    door::Unlocked,
    elsewhere, fault,
    leases::{self, Which},
    originals, reconcile,
    records::{self, Command},
    seen,
    sessions::{self, End},
    store::{LeaseFilter, LeaseRecord},
    tasks, trust,
};

/// The longest wait for `Hello`.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// The longest silence between two commands.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// The longest that an answer may take to be read.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The most rows in one answer, so that it fits into a frame.
const ROWS_MAX: usize = 500;

/// Serves one operator's connection.
pub(super) async fn serve(broker: &Broker, mut stream: UnixStream, peer: &PeerCredentials, begun: Beginning) {
    if let Err(fault) = converse(broker, &mut stream, peer, begun).await {
        match fault {
            FrameFault::Closed => {}
            fault => tracing::debug!(%fault, "an operator's connection broke"),
        }
    }
}

async fn converse(
    broker: &Broker,
    stream: &mut UnixStream,
    peer: &PeerCredentials,
    begun: Beginning,
) -> Result<(), FrameFault> {
    let first = receive(stream, HELLO_MAX).await?;
    drop(begun);
    if let Err(refusal) = greet(&first) {
        return send(stream, &Answer::Refused(refusal)).await;
    }
    send(stream, &Answer::Hello { version: VERSION, recipient: broker.recipient.key().clone() }).await?;
    let mut bucket = Bucket::new(broker.clock.boottime());
    let mut stopping = broker.stopping.subscribe();
    let mut proved = false;
    loop {
        let ask = tokio::select! {
            ask = receive(stream, SILENCE_MAX) => ask?,
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        sleep(bucket.take(broker.clock.boottime())).await;
        let stop = ask == Ask::Stop;
        let proves = matches!(ask, Ask::Prove { .. });
        let answer = answer(broker, peer.uid, proved, ask).await.unwrap_or_else(Answer::Refused);
        proved |= proves && answer == Answer::Done;
        let stopped = stop && answer == Answer::Done;
        let sent = send(stream, &answer).await;
        if stopped {
            broker.stopping.send_replace(true);
        }
        sent?;
    }
}

fn greet(first: &Ask) -> Result<(), Refusal> {
    match first {
        Ask::Hello { version } if *version == VERSION => Ok(()),
        Ask::Hello { version } => Err(Refusal::new(
            RefusalKind::Invalid,
            format!("this daemon speaks version {VERSION} of the wire, the caller version {version}"),
            "stop it with the writ that started it, then try again",
        )),
        _ => Err(invalid("the first message must be hello")),
    }
}

/// Answers one command.
async fn answer(broker: &Broker, uid: u32, proved: bool, ask: Ask) -> Result<Answer, Refusal> {
    match ask {
        Ask::Hello { .. } => Err(invalid("hello was said already")),
        Ask::Status => status(broker).await.map(Answer::Status),
        Ask::Unlock { passphrase } => unlock(broker, uid, &passphrase).await,
        // Without a log there is nothing that could have been handed out.
        Ask::Stop if broker.open_door().is_none() => stop(broker).await,
        end @ (Ask::Stop | Ask::SessionRevoke { .. } | Ask::LeaseRevoke { .. }) => {
            let open = broker.unlocked()?;
            match recorded(broker, open, uid, proved, end.clone()).await {
                // An end hands nothing out. What was revoked must be dead, and a daemon whose log failed has to be ended
                // before it can be mended.
                Err(refusal) if refusal.kind == RefusalKind::AuditUnavailable => {
                    tracing::error!(uid, ask = ?end, "done without a record, since the audit log takes none");
                    perform(broker, open, uid, end).await
                }
                answered => answered,
            }
        }
        ask => {
            let open = broker.unlocked()?;
            // What is wrong with the file is told to whoever opens a session; operators can still list and revoke.
            let _ = broker.rules.newest();
            recorded(broker, open, uid, proved, ask).await
        }
    }
}

/// Records the command, does it, and records its outcome.
async fn recorded(
    broker: &Broker,
    open: &Unlocked,
    uid: u32,
    proved: bool,
    ask: Ask,
) -> Result<Answer, Refusal> {
    let mut named = (None, None);
    let action = match &ask {
        Ask::CredentialSet { .. } => "credential set",
        Ask::CredentialList => "credential list",
        Ask::CredentialRemove { .. } => "credential remove",
        Ask::CredentialCompare { .. } => "credential compare",
        Ask::PlaceholderShow { .. } => "placeholder show",
        Ask::OriginalKeep { .. } => "original keep",
        Ask::OriginalList => "original list",
        Ask::OriginalOpen { .. } => "original open",
        Ask::OriginalForget { .. } => "original forget",
        Ask::SessionList { .. } => "session list",
        Ask::SessionShow { .. } => "session show",
        Ask::SessionRevoke { .. } => "session revoke",
        Ask::LeaseList { .. } => "lease list",
        Ask::LeaseShow { .. } => "lease show",
        Ask::LeaseRevoke { .. } => "lease revoke",
        Ask::LeaseRenew { .. } => "lease renew",
        Ask::LeaseSurvey => "lease survey",
        Ask::LeaseReconcile { .. } => "lease reconcile",
        Ask::CredentialRotate { .. } => "credential rotate",
        Ask::Prove { .. } => "prove",
        Ask::TrustShow { .. } => "trust show",
        Ask::TrustGrant { .. } => "trust grant",
        Ask::Seen { .. } => "seen",
        Ask::Stop => "stop",
        Ask::Hello { .. } | Ask::Status | Ask::Unlock { .. } => "other",
    };
    let credential = match &ask {
        Ask::CredentialSet { name, .. }
        | Ask::CredentialRemove { name }
        | Ask::CredentialCompare { name, .. }
        | Ask::CredentialRotate { name }
        | Ask::PlaceholderShow { name } => Some(name.clone()),
        Ask::SessionShow { session } | Ask::SessionRevoke { session } => {
            named.0 = Some(session.to_string());
            None
        }
        Ask::LeaseShow { lease } | Ask::LeaseRevoke { lease } | Ask::LeaseRenew { lease } => {
            named.1 = Some(lease.to_string());
            None
        }
        _ => None,
    };
    let command = Command {
        action,
        uid,
        credential: credential.as_ref().map(writ_core::CredentialName::as_str),
        session: named.0.as_deref(),
        lease: named.1.as_deref(),
    };
    let entry = records::command(broker, open, command).await?;
    let answer = match proof::check(broker, proved, &ask) {
        Ok(()) => perform(broker, open, uid, ask).await,
        Err(refusal) => Err(refusal),
    };
    match &answer {
        Ok(_) => entry.close(&Outcome::ok()),
        Err(refusal) => entry.close(&records::refused(refusal.kind)),
    }
    answer
}

async fn perform(broker: &Broker, open: &Unlocked, uid: u32, ask: Ask) -> Result<Answer, Refusal> {
    match ask {
        Ask::CredentialSet { name, value } => {
            let (version, leases_revoked) = credentials::set(broker, open, &name, value).await?;
            Ok(Answer::CredentialSet { version, leases_revoked })
        }
        Ask::CredentialList => Ok(Answer::Credentials { credentials: credentials::list(broker).await? }),
        Ask::CredentialRemove { name } => credentials::remove(broker, &name).await.map(|_| Answer::Done),
        Ask::CredentialCompare { name, value } => {
            Ok(Answer::Compared { same: originals::compare(broker, open, &name, &value).await? })
        }
        Ask::PlaceholderShow { name } => {
            let rules = broker.rules.newest()?;
            let credential = rules.credential(&name)?;
            let placeholder = open.vault.placeholder(&credential.name, &credential.shape);
            Ok(Answer::Placeholder { placeholder })
        }
        Ask::OriginalKeep { name, original_sha256, content } => {
            originals::keep(broker, open, name, &original_sha256, &content).await.map(|()| Answer::Done)
        }
        Ask::OriginalList => Ok(Answer::Originals { originals: originals::list(broker).await? }),
        Ask::OriginalOpen { name, recipient } => {
            Ok(Answer::Original { content: originals::open(broker, open, &name, &recipient).await? })
        }
        Ask::OriginalForget { name } => originals::forget(broker, name).await.map(|()| Answer::Done),
        Ask::SessionList { ended } => {
            let sessions = broker.store.sessions(ended).await.map_err(fault::store)?;
            let rows = sessions.into_iter().take(ROWS_MAX).map(|record| rows::session(broker, record));
            Ok(Answer::Sessions { sessions: rows.collect() })
        }
        Ask::SessionShow { session } => {
            Ok(Answer::Sessions { sessions: vec![show_session(broker, session).await?] })
        }
        Ask::SessionRevoke { session } => {
            let found = broker.store.session(session).await.map_err(fault::store)?;
            let found = found.ok_or_else(|| not_found("session", &session.to_string()))?;
            sessions::end(broker, session, End::Revoked).await.map_err(fault::store)?;
            elsewhere::revoke_session(broker, &found).await?;
            Ok(Answer::Done)
        }
        Ask::LeaseList { .. }
        | Ask::LeaseShow { .. }
        | Ask::LeaseRevoke { .. }
        | Ask::LeaseRenew { .. }
        | Ask::LeaseSurvey
        | Ask::LeaseReconcile { .. } => perform_on_leases(broker, open, uid, ask).await,
        Ask::CredentialRotate { name } => match credentials::rotate(broker, open, &name).await {
            Ok(Rotated::To { version, leases_ended }) => Ok(Answer::Rotated { version, leases_ended }),
            Ok(Rotated::Dropped | Rotated::Nothing) => Err(dropped(&name)),
            Err(fault) => Err(fault.refuse(&name)),
        },
        Ask::Prove { passphrase } => proof::prove(broker, &passphrase).await.map(|()| Answer::Done),
        Ask::TrustShow { directory } => trust::show(broker, open, &directory).await.map(Answer::Trust),
        Ask::TrustGrant { path, sha256 } => {
            trust::grant(broker, open, &path, &sha256).await.map(|()| Answer::Done)
        }
        Ask::Seen { since } => {
            seen::seen(broker, open, since).await.map(|(hosts, more)| Answer::Seen { hosts, more })
        }
        Ask::Stop => stop(broker).await,
        Ask::Hello { .. } | Ask::Status | Ask::Unlock { .. } => {
            Err(invalid("this command is answered elsewhere"))
        }
    }
}

async fn perform_on_leases(broker: &Broker, open: &Unlocked, uid: u32, ask: Ask) -> Result<Answer, Refusal> {
    match ask {
        Ask::LeaseList { ended } => {
            let filter = LeaseFilter { ended, ..LeaseFilter::default() };
            let leases = broker.store.leases(filter).await.map_err(fault::store)?;
            Ok(Answer::Leases { leases: leases.into_iter().take(ROWS_MAX).map(rows::lease).collect() })
        }
        Ask::LeaseShow { lease } => {
            Ok(Answer::Leases { leases: vec![rows::lease(find_lease(broker, lease).await?)] })
        }
        Ask::LeaseRevoke { lease } => {
            let lease = find_lease(broker, lease).await?;
            leases::end_known(broker, &lease, LeaseEnd::Revoked).await.map_err(fault::store)?;
            Ok(Answer::Done)
        }
        Ask::LeaseRenew { lease } => {
            find_lease(broker, lease).await?;
            leases::renew(broker, open, lease).await?;
            Ok(Answer::Leases { leases: vec![rows::lease(find_lease(broker, lease).await?)] })
        }
        Ask::LeaseSurvey => Ok(Answer::Survey(reconcile::survey(broker, open).await?.view())),
        Ask::LeaseReconcile { repair } => {
            Ok(Answer::Reconciled { repairs: reconcile::repair(broker, open, uid, &repair).await? })
        }
        _ => Err(invalid("this command is answered elsewhere")),
    }
}

fn dropped(name: &CredentialName) -> Refusal {
    Refusal::new(
        RefusalKind::Invalid,
        format!("the value of {name} that was set is in force, and the change that was pending is given up"),
        format!("rotate it anew: `writ credential rotate {name}`"),
    )
}

async fn show_session(broker: &Broker, session: SessionId) -> Result<SessionRow, Refusal> {
    let record = broker.store.session(session).await.map_err(fault::store)?;
    record
        .map(|record| rows::session(broker, record))
        .ok_or_else(|| not_found("session", &session.to_string()))
}

async fn find_lease(broker: &Broker, lease: LeaseId) -> Result<LeaseRecord, Refusal> {
    let record = broker.store.lease(lease).await.map_err(fault::store)?;
    record.ok_or_else(|| not_found("lease", &lease.to_string()))
}

async fn status(broker: &Broker) -> Result<Status, Refusal> {
    let open = broker.open_door();
    Ok(Status {
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        started_at: broker.started_at,
        locked: open.is_none(),
        seal: broker.installation.seal_kind().to_owned(),
        sessions: broker.sessions.count(),
        leases: broker.leases.count(Which::All),
        audit_key: open.map(Unlocked::audit_key),
        audit_anchor: tasks::anchor::remembered(broker).await.map_err(fault::store)?,
        config: broker.rules.path().display().to_string(),
        below_confined: broker.sessions.below_confined(),
        proof: proof::needed(broker),
        quarantined: broker.quarantines.all().into_iter().filter_map(rows::quarantined).collect(),
    })
}

async fn unlock(broker: &Broker, uid: u32, passphrase: &Sealed) -> Result<Answer, Refusal> {
    let place = Place::Control { purpose: "unlock".to_owned() };
    let passphrase = broker.recipient.open(passphrase, &place).map_err(|_| {
        Refusal::new(RefusalKind::Invalid, "the passphrase was not sealed to this daemon", "try again")
    })?;
    if broker.open_door().is_none() {
        if let Err(fault) = broker.installation.unlock(passphrase).await {
            sleep(proof::WRONG_PAUSE).await;
            return Err(proof::unopened(&fault, "run `writ unlock` again"));
        }
        door::open(broker).await.map_err(|fault| fault::internal(&fault))?;
    }
    let open = broker.unlocked()?;
    let command = Command { action: "unlock", uid, ..Command::default() };
    records::command(broker, open, command).await?.close(&Outcome::ok());
    Ok(Answer::Done)
}

async fn stop(broker: &Broker) -> Result<Answer, Refusal> {
    broker.drain().await;
    Ok(Answer::Done)
}

fn not_found(what: &str, id: &str) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no {what} {id}"), format!("see `writ {what} list`"))
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, why, "use the `writ` that belongs to this daemon")
}

async fn receive(stream: &mut UnixStream, longest: Duration) -> Result<Ask, FrameFault> {
    match timeout(longest, frame::receive(stream)).await {
        Ok(received) => received,
        Err(_) => Err(FrameFault::Closed),
    }
}

async fn send(stream: &mut UnixStream, answer: &Answer) -> Result<(), FrameFault> {
    match timeout(ANSWER_MAX, frame::send(stream, answer)).await {
        Ok(sent) => sent,
        Err(_) => Err(FrameFault::Closed),
    }
}
