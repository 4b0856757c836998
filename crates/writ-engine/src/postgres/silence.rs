//! Silencing logins: nobody logs in as them any more, and no session of theirs is left, whatever an agent does against it.
//!
//! ```text
//!   member of them ─► sessions ended ─► NOLOGIN ──┐ again, where a session was quicker
//!        ▲──────────────────────────────────────┘
//!   ─► under the locks: what was made meanwhile ─► sessions ended, until none is left, also of those that are only starting
//! ```
//!
//! An agent can stand in the way: by an `ALTER ROLE` of its own that it does not commit, which holds its row; by the advisory lock
//! that making and removing its role take; by a session that has logged in and says nothing yet (`post_auth_delay`, which any client may
//! set). So sessions are ended before anything waits for them, and again when something waited in vain; who holds a lock that is
//! writ's is ended; and a backend that goes on starting for longer than any does is ended, whosever it is.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_postgres::Client;

use super::{
    batch::{Batch, Fault, Outcome, Rows, answer, rows, together},
    mint::locks,
    quote::literal,
    revoke::{Doomed, Each, One, said},
    session::{Live, Trouble},
};

/// How often it is tried against an agent that is in the way.
const TRIES: usize = 5;
/// How long a login may take from its acceptance to its first appearance: a thousand times what it takes.
const STARTING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sessions may take to end after they were told to: a backend looks for it every time it does anything.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause between two looks; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Takes their logins, and ends their sessions. Who is in trouble is blamed, and has lost its sessions nevertheless.
pub(super) async fn silence(live: &Live, doomed: &mut Doomed) -> Result<(), Trouble> {
    let client = &live.client;
    find(client, doomed).await?;
    insist(live, doomed, doomed.existing()).await?;
    for attempt in 1..=TRIES {
        end_holders(client, doomed).await?;
        let done = together(client, &Bar { doomed, live }, doomed.left()).await;
        let failed = done.as_ref().is_ok_and(|done| done.iter().any(|(_, outcome)| outcome.is_err()));
        if !failed || attempt == TRIES {
            doomed.keep(done)?;
            break;
        }
        said_or_lost(done)?;
        tell_to_end(client, doomed).await?;
    }
    end_sessions(client, doomed).await
}

/// Looks up their numbers.
async fn find(client: &Client, doomed: &mut Doomed) -> Result<(), Trouble> {
    let all = doomed.left();
    if all.is_empty() {
        return Ok(());
    }
    let sql = format!("SELECT rolname, oid FROM pg_roles WHERE rolname IN ({})", doomed.names(&all));
    for row in rows(said(answer(client.simple_query(&sql)).await)?) {
        let [Some(name), Some(oid)] = row.as_slice() else { continue };
        let one = doomed.by_name(name).and_then(|entry| doomed.0.get_mut(entry));
        if let (Some(one), Ok(oid)) = (one, oid.parse()) {
            (one.exists, one.oid) = (true, Some(oid));
        }
    }
    Ok(())
}

/// No login for these, without a lock that an agent could hold: what holds their rows is a session of theirs.
async fn insist(live: &Live, doomed: &Doomed, mut entries: Vec<usize>) -> Result<(), Trouble> {
    let client = &live.client;
    let join = |one: &One| format!("SELECT 1{}", membership(live, &one.ident()));
    let bar = |one: &One| format!("ALTER ROLE {} NOLOGIN PASSWORD NULL VALID UNTIL 'epoch'", one.ident());
    for _ in 0..TRIES {
        if entries.is_empty() {
            return Ok(());
        }
        if !live.superuser {
            said_or_lost(together(client, &Each { doomed, statement: &join }, entries.clone()).await)?;
        }
        tell_to_end(client, doomed).await?;
        let done = together(client, &Each { doomed, statement: &bar }, entries).await;
        let failed = said_or_lost(done)?.into_iter().filter(|(_, outcome)| outcome.is_err());
        entries = failed.map(|(entry, _)| entry).collect();
    }
    // The next step says what is wrong.
    Ok(())
}

fn said_or_lost(
    done: Result<Vec<(usize, Outcome)>, super::batch::Lost>,
) -> Result<Vec<(usize, Outcome)>, Trouble> {
    done.map_err(|lost| lost.trouble)
}

/// Tells their sessions to end, each as far as the administrator may, and does not wait.
async fn tell_to_end(client: &Client, doomed: &Doomed) -> Result<(), Trouble> {
    for entry in doomed.with_number() {
        if let Err(Fault::Lost(trouble)) = terminate(client, doomed, &[entry]).await {
            return Err(trouble);
        }
    }
    Ok(())
}

/// Ends whoever else holds the locks under which these roles are made and removed: nobody but the administrator has a use for them.
async fn end_holders(client: &Client, doomed: &Doomed) -> Result<(), Trouble> {
    let entries = doomed.left();
    let keys = entries.iter().filter_map(|entry| doomed.0.get(*entry)).map(|one| one.role.lock().to_string());
    let keys = keys.collect::<Vec<_>>().join(",");
    let sql = format!(
        "SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_roles me \
         ON me.rolname = current_user WHERE l.locktype = 'advisory' AND l.objsubid = 1 \
         AND ((l.classid::int8 << 32) | l.objid::int8) = ANY('{{{keys}}}'::int8[]) AND a.usesysid <> me.oid"
    );
    end_all(client, &pids(client, &sql).await?).await
}

/// Ends backends that have been accepted and do not appear: they may be of a login that was taken since. One that starts as others do
/// has appeared long before.
async fn end_starting(client: &Client) -> Result<(), Trouble> {
    let sql = "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass \
               AND l.pid <> pg_backend_pid() AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid)";
    let mut starting = pids(client, sql).await?;
    let until = Instant::now() + STARTING_TIMEOUT;
    let mut pause = PAUSE;
    while !starting.is_empty() && Instant::now() < until {
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let now = pids(client, sql).await?;
        starting.retain(|pid| now.contains(pid));
    }
    end_all(client, &starting).await?;
    let until = Instant::now() + SESSIONS_TIMEOUT;
    while !starting.is_empty() && Instant::now() < until {
        let now = pids(client, sql).await?;
        starting.retain(|pid| now.contains(pid));
        sleep(pause).await;
    }
    Ok(())
}

async fn pids(client: &Client, sql: &str) -> Result<BTreeSet<i32>, Trouble> {
    let found = rows(said(answer(client.simple_query(sql)).await)?);
    Ok(found.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect())
}

/// Ends these backends. What the administrator may not end is of a role that is none of writ's.
async fn end_all(client: &Client, pids: &BTreeSet<i32>) -> Result<(), Trouble> {
    for pid in pids {
        let sql = format!("SELECT pg_terminate_backend({pid})");
        if let Err(Fault::Lost(trouble)) = answer(client.simple_query(&sql)).await {
            return Err(trouble);
        }
    }
    Ok(())
}

/// Nobody logs in any more, and the administrator may act for the role: also for one that was made meanwhile.
struct Bar<'a> {
    doomed: &'a Doomed,
    live: &'a Live,
}

impl Batch for Bar<'_> {
    /// The locks first: what is being made meanwhile is there, or will never be, when they are ours.
    fn prelude(&self, entries: &[usize]) -> String {
        let roles = entries.iter().filter_map(|entry| self.doomed.0.get(*entry)).map(|one| &one.role);
        let names = self.doomed.names(entries);
        format!("{}; SELECT rolname, oid FROM pg_roles WHERE rolname IN ({names})", locks(roles))
    }

    fn statement(&self, entry: usize, found: &Rows) -> Result<Option<String>, Trouble> {
        let Some(one) = self.doomed.0.get(entry) else { return Ok(None) };
        let oid = found.iter().find_map(|row| match row.as_slice() {
            [Some(name), Some(oid)] if name == one.role.as_str() => Some(oid),
            _ => None,
        });
        let Some(oid) = oid else { return Ok(None) };
        let role = one.ident();
        Ok(Some(format!(
            "ALTER ROLE {role} NOLOGIN PASSWORD NULL VALID UNTIL 'epoch'{}; SELECT {}",
            membership(self.live, &role),
            literal(oid)
        )))
    }
}

/// Ends every session of theirs, by the role's number: its name is that of nobody after `DROP ROLE`, and another's after
/// `SET ROLE`. A number that another role bears by now is left alone.
pub(super) async fn end_sessions(client: &Client, doomed: &mut Doomed) -> Result<(), Trouble> {
    end_starting(client).await?;
    let until = Instant::now() + SESSIONS_TIMEOUT;
    let mut pause = PAUSE;
    loop {
        let entries = doomed.with_number();
        if entries.is_empty() {
            return Ok(());
        }
        let found = match terminate(client, doomed, &entries).await {
            Ok(found) => found,
            Err(Fault::Lost(trouble)) => return Err(trouble),
            Err(Fault::Said(_)) => one_by_one(client, doomed, &entries).await?,
        };
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            let oids: Vec<u32> = found.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect();
            for entry in doomed.entries(|one| one.oid.is_some_and(|oid| oids.contains(&oid))) {
                let detail = "a session of it was told to end and does not".to_owned();
                doomed.blame(entry, Trouble::Refused(detail));
            }
            return Ok(());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Tells the sessions of these to end; each that was still there, by its role's number.
async fn terminate(client: &Client, doomed: &Doomed, entries: &[usize]) -> Result<Rows, Fault> {
    let (names, oids) = (doomed.names(entries), doomed.oids(entries));
    let sql = format!(
        "SELECT a.usesysid, pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usesysid IN ({oids}) \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.usesysid AND r.rolname NOT IN ({names}))"
    );
    answer(client.simple_query(&sql)).await.map(rows)
}

/// One of them cannot be told to: which?
async fn one_by_one(client: &Client, doomed: &mut Doomed, entries: &[usize]) -> Result<Rows, Trouble> {
    let mut found = Rows::new();
    for entry in entries {
        match terminate(client, doomed, &[*entry]).await {
            Ok(more) => found.extend(more),
            Err(Fault::Lost(trouble)) => return Err(trouble),
            Err(Fault::Said(Trouble::Refused(detail))) => {
                let how = "GRANT pg_signal_backend to the administrator's role";
                doomed.blame(
                    *entry,
                    Trouble::Refused(format!("its sessions cannot be ended: {detail}; {how}")),
                );
            }
            Err(Fault::Said(trouble)) => doomed.blame(*entry, trouble),
        }
    }
    Ok(found)
}

/// Lets the administrator act for `role`, which a superuser may anyway.
pub(super) fn membership(live: &Live, role: &str) -> String {
    match (live.superuser, live.options) {
        (true, _) => String::new(),
        (false, false) => format!("; GRANT {role} TO CURRENT_USER"),
        (false, true) => format!("; GRANT {role} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE"),
    }
}
