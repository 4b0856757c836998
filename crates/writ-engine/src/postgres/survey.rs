//! What bears this installation's mark at a server, whether a lease is known for it or not.

use tokio_postgres::{Client, types::Type};

use super::{receipt::RoleName, session::Trouble};

/// Every role of this installation, those that may not log in any more included. Roles that others named alike are left out.
pub(super) async fn roles(client: &Client, mark: &str) -> Result<Vec<(RoleName, u32)>, Trouble> {
    // An underscore stands for any letter in LIKE, unless it is escaped.
    let pattern = format!("{}%", RoleName::prefix(mark).replace('_', "\\_"));
    let sql = "SELECT rolname::text, oid FROM pg_roles WHERE rolname LIKE $1 ORDER BY rolname";
    let mut found = Vec::new();
    for row in client.query_typed(sql, &[(&pattern, Type::TEXT)]).await? {
        if let Ok(role) = RoleName::try_from(row.try_get::<_, String>(0)?) {
            found.push((role, row.try_get(1)?));
        }
    }
    Ok(found)
}
