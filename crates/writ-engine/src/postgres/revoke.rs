//! Removing logins, until there is nothing left of them, and seeing that it is so.
//!
//! ```text
//!   silenced: no login, no session ([`silence`]) ─► prepared transactions undone ─► DROP OWNED where anything is owned
//!   ─► DROP ROLE ─► looked again: no role, no session
//! ```
//!
//! `DROP ROLE` alone would leave open sessions with what they became by `SET ROLE`, for as long as they like. Every step may be
//! repeated, after a crash at any of them, and for a login that was never made. What an agent did *as its template role* after
//! `SET ROLE` (tables it made, transactions it prepared) is the template's, and stays.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;
use tokio_postgres::Client;
use writ_core::Secret;

use super::{
    batch::{Batch, Fault, Rows, answer, rows, together},
    config::Owned,
    quote::{ident, literal},
    receipt::RoleName,
    session::{Live, Session, Trouble, elsewhere},
    silence::{self, membership},
};

/// One entry of the queue.
pub(super) struct Death {
    pub(super) role: RoleName,
    /// Its number, where the receipt has it.
    pub(super) oid: Option<u32>,
    pub(super) password: Option<Arc<Secret>>,
    pub(super) reply: oneshot::Sender<Result<(), Trouble>>,
}

/// Removes what is waiting.
pub(super) async fn run(session: &mut Session, mut deaths: Vec<Death>, owned: &Owned) {
    for death in &mut deaths {
        session.offer(death.password.take());
    }
    let mut doomed = Doomed::of(&deaths);
    // Once more where a connection turns out to be gone, and not where there is none to be had.
    let mut again = session.is_open();
    let lost = loop {
        match remove(session, &mut doomed, owned).await {
            Ok(()) => break None,
            // Everything may be repeated.
            Err(Trouble::Unreachable(_)) if again => {
                session.abandon();
                again = false;
            }
            Err(trouble) => {
                session.abandon();
                break Some(trouble);
            }
        }
    };
    for (death, one) in deaths.into_iter().zip(doomed.0) {
        let outcome = match (one.trouble, &lost) {
            (Some(trouble), _) => Err(trouble),
            (None, Some(lost)) => Err(lost.clone()),
            (None, None) => Ok(()),
        };
        // Nobody may be there to hear it.
        let _ = death.reply.send(outcome);
    }
}

async fn remove(session: &mut Session, doomed: &mut Doomed, owned: &Owned) -> Result<(), Trouble> {
    silence::silence(session.live().await?, doomed).await?;
    undo_prepared(session, doomed).await?;
    drop_owned(session, doomed, owned).await?;
    let live = session.live().await?;
    let drop = |one: &One| format!("DROP ROLE IF EXISTS {}", one.ident());
    doomed.keep(together(&live.client, &Each { doomed, statement: &drop }, doomed.existing()).await)?;
    verify(&live.client, doomed).await
}

/// A login on its way out.
pub(super) struct One {
    pub(super) role: RoleName,
    pub(super) oid: Option<u32>,
    /// It was there when its login was taken.
    pub(super) exists: bool,
    pub(super) trouble: Option<Trouble>,
}

impl One {
    pub(super) fn ident(&self) -> String {
        ident(self.role.as_str())
    }
}

/// All of a batch, known by their index; who is in trouble is left out of the next step.
pub(super) struct Doomed(pub(super) Vec<One>);

impl Doomed {
    fn of(deaths: &[Death]) -> Self {
        let one =
            |death: &Death| One { role: death.role.clone(), oid: death.oid, exists: false, trouble: None };
        Self(deaths.iter().map(one).collect())
    }

    pub(super) fn entries(&self, wanted: impl Fn(&One) -> bool) -> Vec<usize> {
        let all = self.0.iter().enumerate();
        all.filter(|(_, one)| one.trouble.is_none() && wanted(one)).map(|(entry, _)| entry).collect()
    }

    pub(super) fn left(&self) -> Vec<usize> {
        self.entries(|_| true)
    }

    /// Those whose sessions can be told, in trouble or not.
    pub(super) fn with_number(&self) -> Vec<usize> {
        let all = self.0.iter().enumerate();
        all.filter(|(_, one)| one.oid.is_some()).map(|(entry, _)| entry).collect()
    }

    pub(super) fn existing(&self) -> Vec<usize> {
        self.entries(|one| one.exists)
    }

    pub(super) fn names(&self, entries: &[usize]) -> String {
        let ones = entries.iter().filter_map(|entry| self.0.get(*entry));
        ones.map(|one| literal(one.role.as_str())).collect::<Vec<_>>().join(",")
    }

    pub(super) fn oids(&self, entries: &[usize]) -> String {
        let ones = entries.iter().filter_map(|entry| self.0.get(*entry)?.oid);
        ones.map(|oid| oid.to_string()).collect::<Vec<_>>().join(",")
    }

    pub(super) fn blame(&mut self, entry: usize, trouble: Trouble) {
        if let Some(one) = self.0.get_mut(entry) {
            one.trouble.get_or_insert(trouble);
        }
    }

    pub(super) fn by_name(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|one| one.role.as_str() == name)
    }

    /// Takes the outcomes of a step: a role's number where it said one, and who failed.
    pub(super) fn keep(
        &mut self,
        done: Result<Vec<(usize, super::batch::Outcome)>, super::batch::Lost>,
    ) -> Result<(), Trouble> {
        for (entry, outcome) in done.map_err(|lost| lost.trouble)? {
            match outcome {
                Err(trouble) => self.blame(entry, trouble),
                Ok(Some(oid)) => {
                    if let (Some(one), Ok(oid)) = (self.0.get_mut(entry), oid.parse()) {
                        (one.exists, one.oid) = (true, Some(oid));
                    }
                }
                Ok(None) => {}
            }
        }
        Ok(())
    }
}

/// The same statement for each.
pub(super) struct Each<'a> {
    pub(super) doomed: &'a Doomed,
    pub(super) statement: &'a (dyn Fn(&One) -> String + Sync),
}

impl Batch for Each<'_> {
    fn statement(&self, entry: usize, _: &Rows) -> Result<Option<String>, Trouble> {
        Ok(self.doomed.0.get(entry).map(self.statement))
    }
}

/// Undoes what they prepared and never finished: it would hold its locks, and could be committed, without them.
async fn undo_prepared(session: &mut Session, doomed: &mut Doomed) -> Result<(), Trouble> {
    let existing = doomed.existing();
    if existing.is_empty() {
        return Ok(());
    }
    let names = doomed.names(&existing);
    let sql = format!(
        "SELECT database, owner, gid FROM pg_prepared_xacts WHERE owner IN ({names}) ORDER BY database"
    );
    let live = session.live().await?;
    for row in rows(said(answer(live.client.simple_query(&sql)).await)?) {
        let [Some(database), Some(owner), Some(gid)] = row.as_slice() else { continue };
        let Some(entry) = doomed.by_name(owner) else { continue };
        // Only its owner may, or a superuser; and only in its database, outside of a transaction.
        let statements =
            [format!("SET ROLE {}", ident(owner)), format!("ROLLBACK PREPARED {}", literal(gid))];
        let undone = async {
            let there = elsewhere(session, database).await?;
            for statement in &statements {
                said(answer(there.client.batch_execute(statement)).await)?;
            }
            Ok(())
        };
        if let Err(trouble) = undone.await {
            doomed.blame(entry, in_database(database, trouble));
        }
    }
    Ok(())
}

/// Drops what they own and hold, in every database where the server knows of anything.
async fn drop_owned(session: &mut Session, doomed: &mut Doomed, owned: &Owned) -> Result<(), Trouble> {
    let existing = doomed.existing();
    let oids = doomed.oids(&existing);
    if oids.is_empty() {
        return Ok(());
    }
    // What is of the whole server, such as a right on a database, is dropped from any of them.
    let sql = format!(
        "SELECT DISTINCT COALESCE(b.datname, current_database()), r.rolname FROM pg_shdepend d \
         JOIN pg_roles r ON r.oid = d.refobjid LEFT JOIN pg_database b ON b.oid = d.dbid \
         WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid IN ({oids}) ORDER BY 1"
    );
    let here = session.endpoint().database.clone();
    let live = session.live().await?;
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for row in rows(said(answer(live.client.simple_query(&sql)).await)?) {
        let [Some(database), Some(name)] = row.as_slice() else { continue };
        places.entry(database.clone()).or_default().extend(doomed.by_name(name));
    }
    for (database, entries) in places {
        if database == here {
            let live = session.live().await?;
            empty(live, doomed, owned, &database, entries).await?;
            continue;
        }
        let emptied = match elsewhere(session, &database).await {
            Ok(there) => empty(&there, doomed, owned, &database, entries.clone()).await,
            Err(trouble) => Err(trouble),
        };
        // One database that cannot be entered keeps only those who have something there.
        if let Err(trouble) = emptied {
            for entry in entries {
                doomed.blame(entry, in_database(&database, trouble.clone()));
            }
        }
    }
    Ok(())
}

async fn empty(
    live: &Live,
    doomed: &mut Doomed,
    owned: &Owned,
    database: &str,
    entries: Vec<usize>,
) -> Result<(), Trouble> {
    let client = &live.client;
    let plain = |one: &One| format!("DROP OWNED BY {}", one.ident());
    let reassign = |one: &One| match owned {
        Owned::Drop => format!("{}; {}", estate(live, one), hand_over(one, &ident(&one.role.estate()))),
        Owned::Reassign(role) => hand_over(one, &ident(role)),
    };
    let first: &(dyn Fn(&One) -> String + Sync) = match owned {
        Owned::Drop => &plain,
        Owned::Reassign(_) => &reassign,
    };
    let done = together(client, &Each { doomed, statement: first }, entries).await;
    let (mut dependent, mut troubled) = (Vec::new(), Vec::new());
    for (entry, outcome) in done.map_err(|lost| lost.trouble)? {
        match outcome {
            // Others built upon what it made: theirs is not dropped, and its own goes to nobody who may anything.
            Err(Trouble::Dependent(_)) => dependent.push(entry),
            Err(trouble) => troubled.push((entry, trouble)),
            Ok(_) => {}
        }
    }
    let done = together(client, &Each { doomed, statement: &reassign }, dependent).await;
    for (entry, outcome) in done.map_err(|lost| lost.trouble)? {
        troubled.extend(outcome.err().map(|trouble| (entry, trouble)));
    }
    for (entry, trouble) in troubled {
        doomed.blame(entry, in_database(database, trouble));
    }
    Ok(())
}

/// Makes the role that inherits what others built upon. It has no right but its ownership, so that what a login left behind,
/// such as a function that runs as its owner, gains nothing by it.
fn estate(live: &Live, one: &One) -> String {
    let role = ident(&one.role.estate());
    let made = format!(
        "DO $$ BEGIN CREATE ROLE {role} NOLOGIN NOINHERIT; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    format!("{made}{}", membership(live, &role))
}

/// Gives what `one` owns to `heir`, whose code it is from then on: it runs as the heir, who may no more than the login did, and not
/// as whoever happens to call it or to fire a trigger, which may be a superuser.
fn hand_over(one: &One, heir: &str) -> String {
    let (role, name) = (one.ident(), literal(one.role.as_str()));
    format!(
        "DO $$ DECLARE f text; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_roles r \
         ON r.oid = p.proowner WHERE p.prokind IN ('f', 'p') AND NOT p.prosecdef AND r.rolname = {name} \
         LOOP EXECUTE 'ALTER ROUTINE ' || f || ' SECURITY DEFINER'; END LOOP; END $$; \
         REASSIGN OWNED BY {role} TO {heir}; DROP OWNED BY {role}"
    )
}

/// Looks again: a login that was being checked while it was barred has shown itself by now.
async fn verify(client: &Client, doomed: &mut Doomed) -> Result<(), Trouble> {
    silence::end_sessions(client, doomed).await?;
    let left = doomed.left();
    if left.is_empty() {
        return Ok(());
    }
    let names = doomed.names(&left);
    let sql = format!("SELECT rolname FROM pg_roles WHERE rolname IN ({names})");
    for row in rows(said(answer(client.simple_query(&sql)).await)?) {
        let entry = row.first().and_then(Option::as_ref).and_then(|name| doomed.by_name(name));
        if let Some(entry) = entry {
            doomed.blame(entry, Trouble::Refused("the role is still there".to_owned()));
        }
    }
    Ok(())
}

pub(super) fn said<T>(answered: Result<T, Fault>) -> Result<T, Trouble> {
    answered.map_err(|fault| match fault {
        Fault::Lost(trouble) | Fault::Said(trouble) => trouble,
    })
}

fn in_database(database: &str, trouble: Trouble) -> Trouble {
    let detail = |detail: String| format!("in the database {database:?}: {detail}");
    match trouble {
        Trouble::Unreachable(why) => Trouble::Refused(detail(why)),
        Trouble::Refused(why) => Trouble::Refused(detail(why)),
        Trouble::Dependent(why) => Trouble::Dependent(detail(why)),
        trouble => trouble,
    }
}
