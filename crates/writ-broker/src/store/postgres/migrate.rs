//! Schema versions: numbered SQL files in a schema of our own, under a lock that all daemons share.
//!
//! There is no way down: an older writ refuses a newer schema. Absent: a backup before an upgrade; the database has its own.

use tokio_postgres::Client;

use super::fault::plain;
use crate::store::StoreFault;

/// Each brings the schema from its index to the next number.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

/// One daemon changes the schema at a time: "writ" as a number.
const LOCK: &str = "SELECT pg_advisory_xact_lock(2003986804)";
/// The oldest server that has all that is used, by `server_version_num`.
const SERVER_MIN: i32 = 140_000;

/// Refuses what cannot be a store, then brings the schema up to date.
///
/// # Errors
/// [`StoreFault::Unsuitable`], [`StoreFault::Downgrade`] and others: the database is then as before.
pub(super) async fn migrate(client: &mut Client, migrations: &[&str]) -> Result<(), StoreFault> {
    check_suitable(client).await?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = client.transaction().await.map_err(|error| plain(&error))?;
    transaction.batch_execute(LOCK).await.map_err(|error| plain(&error))?;
    let found = version(&transaction).await?;
    if found > known {
        return Err(StoreFault::Downgrade { found, known });
    }
    if found < known {
        let set_up = "CREATE SCHEMA IF NOT EXISTS writ; CREATE TABLE IF NOT EXISTS writ.schema_version (version bigint NOT NULL)";
        transaction.batch_execute(set_up).await.map_err(|error| plain(&error))?;
        for sql in migrations.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.batch_execute(sql).await.map_err(|error| plain(&error))?;
        }
        let note =
            format!("DELETE FROM writ.schema_version; INSERT INTO writ.schema_version VALUES ({known})");
        transaction.batch_execute(&note).await.map_err(|error| plain(&error))?;
    }
    transaction.commit().await.map_err(|error| plain(&error))
}

/// Whether the database can be a store; what the server calls itself.
pub(super) async fn check_suitable(client: &Client) -> Result<String, StoreFault> {
    let sql = "SELECT current_setting('server_encoding'), current_setting('server_version_num')::int, pg_is_in_recovery(),
        current_setting('fsync'), 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1)";
    let row = client.query_one(sql, &[]).await.map_err(|error| plain(&error))?;
    let (encoding, version, standby, fsync): (String, i32, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if encoding != "UTF8" {
        let why = format!("its encoding is {encoding}: make one with ENCODING 'UTF8' TEMPLATE template0");
        return Err(StoreFault::Unsuitable(why));
    }
    if version < SERVER_MIN {
        let why =
            format!("its server is PostgreSQL {}: take {} or newer", version / 10_000, SERVER_MIN / 10_000);
        return Err(StoreFault::Unsuitable(why));
    }
    if standby {
        return Err(StoreFault::Unsuitable("its server is a standby: name the primary".to_owned()));
    }
    if fsync != "on" {
        tracing::warn!("the store's server has fsync = {fsync}: a power cut may lose what was acknowledged");
    }
    Ok(row.get(4))
}

/// 0 where there is no store yet.
async fn version(transaction: &tokio_postgres::Transaction<'_>) -> Result<i64, StoreFault> {
    let there = transaction.query_one("SELECT to_regclass('writ.schema_version') IS NOT NULL", &[]).await;
    if !there.map_err(|error| plain(&error))?.get::<_, bool>(0) {
        return Ok(0);
    }
    let found = transaction.query_opt("SELECT version FROM writ.schema_version", &[]).await;
    Ok(found.map_err(|error| plain(&error))?.map_or(0, |row| row.get(0)))
}
