//! Whether a template role binds: a login that is its member must not be able to free itself of its end.
//!
//! A member may become (`SET ROLE`) any role that it is a member of, near or far. One of those that may create roles could
//! take back its `VALID UNTIL`, or make another login that nobody revokes; a superuser or a role that reads and writes the
//! server's files could do anything; one with `ADMIN OPTION` could hand a role to a login that stays; and one that ends or blocks
//! others' sessions could do that to writ's own. Checked once per connection and configuration, and again after [`VETTED_FOR`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio_postgres::{Client, types::Type};

use super::session::Trouble;

/// How long a verdict holds.
const VETTED_FOR: Duration = Duration::from_secs(60);
/// Configurations whose verdicts are kept.
const VETTED_MAX: usize = 256;

const REACHABLE: &str = "
    WITH RECURSIVE reachable(oid) AS (
        SELECT oid FROM pg_roles WHERE rolname = ANY($1)
        UNION SELECT m.roleid FROM pg_auth_members m JOIN reachable r ON m.member = r.oid
    )
    SELECT r.rolname::text,
        CASE WHEN r.rolsuper THEN 'is a superuser'
             WHEN r.rolcreaterole THEN 'may create and alter roles, its own end among them'
             WHEN r.rolreplication THEN 'may copy the whole server by replication'
             WHEN r.rolbypassrls THEN 'is not bound by row security'
             WHEN r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')
                 THEN 'reaches beyond the database, to the server''s files or programs'
             WHEN r.rolname IN ('pg_signal_backend', 'pg_maintain', 'pg_create_subscription')
                 THEN 'reaches what others do: their sessions, all tables, or another server'
             WHEN EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.admin_option)
                 THEN 'may grant a role on, to a login that is not writ''s'
        END
    FROM pg_roles r JOIN reachable USING (oid)";

/// Verdicts of one connection.
#[derive(Default)]
pub(super) struct Vetted(HashMap<(Vec<String>, bool), Instant>);

impl Vetted {
    pub(super) fn holds(&self, templates: &[String], privileged: bool, now: Instant) -> bool {
        let known = self.0.get(&(templates.to_vec(), privileged));
        known.is_some_and(|since| now.saturating_duration_since(*since) < VETTED_FOR)
    }

    pub(super) fn keep(&mut self, templates: &[String], privileged: bool, now: Instant) {
        if self.0.len() >= VETTED_MAX {
            self.0.clear();
        }
        self.0.insert((templates.to_vec(), privileged), now);
    }
}

/// Looks at the templates and at everything that their members reach.
pub(super) async fn vet(client: &Client, templates: &[String], privileged: bool) -> Result<(), Trouble> {
    let templates_list: Vec<&str> = templates.iter().map(String::as_str).collect();
    let rows = client.query_typed(REACHABLE, &[(&templates_list, Type::TEXT_ARRAY)]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.push((row.try_get::<_, String>(0)?, row.try_get::<_, Option<String>>(1)?));
    }
    if let Some(missing) = templates.iter().find(|name| !found.iter().any(|(role, _)| role == *name)) {
        return Err(Trouble::Config(format!(
            "`member_of` names {missing:?}, which is no role of the server"
        )));
    }
    match found.into_iter().find_map(|(role, why)| why.map(|why| (role, why))) {
        Some((role, why)) if !privileged => Err(Trouble::Config(format!(
            "`member_of` leads to the role {role:?}, which {why}: a login could outlive its lease; \
             name another role, or accept it with `allow_privileged = true`"
        ))),
        _ => Ok(()),
    }
}
