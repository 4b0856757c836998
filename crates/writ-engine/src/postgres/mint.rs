//! Making logins, and letting them live longer.
//!
//! Making is idempotent by name: where the role exists already, because an answer was lost, it gets the new password. It never
//! gets back what a revocation took: a role that may not log in stays so.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use writ_core::Secret;

use super::{
    batch::{Batch, Rows, together},
    desk::{Pending, Waiting},
    quote::{ident, literal},
    receipt::RoleName,
    session::{Session, Trouble},
    vetting::vet,
};

/// How much longer than its lease a login may be used if nobody revokes it: the two clocks do not agree to the second, and
/// the revocation is to come first.
const GRACE: Duration = Duration::from_secs(60);

/// What is to be done with one role.
#[derive(Clone)]
pub(super) enum Change {
    Make {
        verifier: String,
        comment: String,
        application: String,
        limit: u32,
        member_of: Arc<[String]>,
        privileged: bool,
    },
    Extend,
}

/// One entry of the queue.
pub(super) struct Birth {
    pub(super) role: RoleName,
    pub(super) change: Change,
    /// When its lease ends.
    pub(super) until: Instant,
    pub(super) password: Option<Arc<Secret>>,
    /// Lets a revocation know that this is still to come.
    pub(super) _waiting: Waiting,
    /// The role's number.
    pub(super) reply: oneshot::Sender<Result<Option<u32>, Trouble>>,
}

/// Does what is waiting, in one transaction.
pub(super) async fn run(session: &mut Session, mut births: Vec<Birth>, pending: &Pending) {
    // Whoever went away takes nothing, and their receipt says what to look for.
    births.retain(|birth| !birth.reply.is_closed());
    for birth in &mut births {
        session.offer(birth.password.take());
    }
    // Once more where a connection turns out to be gone, and not where there is none to be had.
    let mut again = session.is_open();
    let mut births: Vec<Option<Birth>> = births.into_iter().map(Some).collect();
    loop {
        match attempt(session, &births, pending).await {
            Ok(outcomes) => {
                for (entry, outcome) in outcomes {
                    let oid = outcome.map(|oid| oid.and_then(|oid| oid.parse().ok()));
                    reply(births.get_mut(entry).and_then(Option::take), oid);
                }
                return;
            }
            Err((Trouble::Unreachable(_), false)) if again => {
                session.abandon();
                again = false;
            }
            Err((trouble, perhaps)) => {
                session.abandon();
                let trouble = match trouble {
                    Trouble::Unreachable(detail) if perhaps => {
                        Trouble::Unreachable(format!("the answer to the commit was lost: {detail}"))
                    }
                    trouble => trouble,
                };
                births.into_iter().for_each(|birth| reply(birth, Err(trouble.clone())));
                return;
            }
        }
    }
}

fn reply(birth: Option<Birth>, outcome: Result<Option<u32>, Trouble>) {
    if let Some(birth) = birth {
        // Nobody may be there to hear it.
        let _ = birth.reply.send(outcome);
    }
}

async fn attempt(
    session: &mut Session,
    births: &[Option<Birth>],
    pending: &Pending,
) -> Result<Vec<(usize, Result<Option<String>, Trouble>)>, (Trouble, bool)> {
    let live = session.live().await.map_err(|trouble| (trouble, false))?;
    let (mut outcomes, mut entries) = (Vec::new(), Vec::new());
    for (entry, birth) in births.iter().enumerate() {
        let Some(Birth { change: Change::Make { member_of, privileged, .. }, .. }) = birth else {
            entries.push(entry);
            continue;
        };
        if !live.vetted.holds(member_of, *privileged, Instant::now()) {
            match vet(&live.client, member_of, *privileged).await {
                Ok(()) => live.vetted.keep(member_of, *privileged, Instant::now()),
                Err(lost @ Trouble::Unreachable(_)) => return Err((lost, false)),
                Err(trouble) => {
                    outcomes.push((entry, Err(trouble)));
                    continue;
                }
            }
        }
        entries.push(entry);
    }
    let nursery = Nursery { births, pending };
    let done = together(&live.client, &nursery, entries).await;
    outcomes.extend(done.map_err(|lost| (lost.trouble, lost.perhaps))?);
    Ok(outcomes)
}

struct Nursery<'a> {
    births: &'a [Option<Birth>],
    pending: &'a Pending,
}

impl Nursery<'_> {
    fn birth(&self, entry: usize) -> Result<&Birth, Trouble> {
        let none = || Trouble::Refused("the entry is gone".to_owned());
        self.births.get(entry).and_then(Option::as_ref).ok_or_else(none)
    }
}

impl Batch for Nursery<'_> {
    fn prelude(&self, entries: &[usize]) -> String {
        let births: Vec<&Birth> = entries.iter().filter_map(|entry| self.birth(*entry).ok()).collect();
        let names = births.iter().map(|birth| literal(birth.role.as_str())).collect::<Vec<_>>().join(",");
        let now = Instant::now();
        let lives =
            births.iter().map(|birth| (birth.until.saturating_duration_since(now) + GRACE).as_secs_f64());
        let lives = lives.map(|life| format!("{life:.3}")).collect::<Vec<_>>().join(",");
        format!(
            "{}; SELECT t.name, (clock_timestamp() + make_interval(secs => t.life))::text, r.oid, r.rolcanlogin \
             FROM unnest(ARRAY[{names}]::name[], '{{{lives}}}'::float8[]) AS t(name, life) \
             LEFT JOIN pg_roles r ON r.rolname = t.name",
            locks(births.iter().map(|birth| &birth.role))
        )
    }

    fn statement(&self, entry: usize, found: &Rows) -> Result<Option<String>, Trouble> {
        let birth = self.birth(entry)?;
        if birth.until <= Instant::now() {
            return Err(Trouble::Refused("its lease ended before it was made".to_owned()));
        }
        let name = birth.role.as_str();
        let row = found.iter().find_map(|row| match row.as_slice() {
            [Some(found), Some(until), oid, login] if found == name => Some((until, oid, login)),
            _ => None,
        });
        let (until, oid, login) =
            row.ok_or(Trouble::Refused("the server did not tell its time".to_owned()))?;
        let (role, until, may_log_in) = (ident(name), literal(until), login.as_deref() == Some("t"));
        match (&birth.change, oid.is_some()) {
            (_, true) if !may_log_in => Err(Trouble::Refused(format!("{name} is being removed"))),
            (Change::Extend, false) => Err(Trouble::Refused(format!("{name} does not exist"))),
            (Change::Extend, true) => Ok(Some(format!("ALTER ROLE {role} VALID UNTIL {until}"))),
            (Change::Make { verifier, limit, .. }, true) => Ok(Some(format!(
                "ALTER ROLE {role} CONNECTION LIMIT {limit} PASSWORD {} VALID UNTIL {until}; {}",
                literal(verifier),
                number(name),
            ))),
            (Change::Make { verifier, limit, member_of, comment, application, .. }, false) => {
                let templates = member_of.iter().map(|role| ident(role)).collect::<Vec<_>>().join(", ");
                Ok(Some(format!(
                    "CREATE ROLE {role} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION \
                     NOBYPASSRLS CONNECTION LIMIT {limit} PASSWORD {} VALID UNTIL {until} IN ROLE {templates}; \
                     COMMENT ON ROLE {role} IS {}; ALTER ROLE {role} SET application_name = {}; {}",
                    literal(verifier),
                    literal(comment),
                    literal(application),
                    number(name),
                )))
            }
        }
    }

    fn last_look(&self, entry: usize) -> Result<(), Trouble> {
        if self.pending.is_cancelled(&self.birth(entry)?.role) {
            return Err(Trouble::Refused("it was revoked before it was made".to_owned()));
        }
        Ok(())
    }
}

fn number(name: &str) -> String {
    format!("SELECT oid FROM pg_roles WHERE rolname = {}", literal(name))
}

/// Takes the locks under which these roles are made and removed, in one order for all, so that the two wait for each other.
pub(super) fn locks<'a>(roles: impl Iterator<Item = &'a RoleName>) -> String {
    let mut keys: Vec<i64> = roles.map(RoleName::lock).collect();
    keys.sort_unstable();
    let keys = keys.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    format!("SELECT pg_advisory_xact_lock(k) FROM unnest('{{{keys}}}'::int8[]) k")
}
