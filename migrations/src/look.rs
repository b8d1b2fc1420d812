//! What a database says of itself, for whoever looks whether a platform can live on it.

use std::time::{Duration, Instant, SystemTime};

use sqlx::{AnyPool, Row};

use crate::MigrationsError;

/// What a PostgreSQL server says of itself and of this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version as a number: 150004 is 15.4.
    pub version: i64,
    /// As whom we are logged in.
    pub role: String,
    /// The database.
    pub database: String,
    /// Whether that role may do everything, whatever was granted.
    pub is_superuser: bool,
    /// Whether nothing can be written: a standby, or a database that is set so.
    pub is_read_only: bool,
    /// The version of TLS that this connection speaks; none: it is in clear.
    pub tls: Option<String>,
    /// Connections that this role may have in this database at once, those that are kept for others taken off.
    pub most_connections: i64,
    /// Clients that are connected to the server now.
    pub connections: i64,
}

/// Asks a PostgreSQL server about itself.
///
/// # Errors
/// A database that can not be asked.
pub async fn look(pool: &AnyPool) -> Result<ServerFacts, MigrationsError> {
    let row = sqlx::query(
        "SELECT CAST(current_setting('server_version_num') AS BIGINT), CAST(current_user AS TEXT), \
         CAST(current_database() AS TEXT), \
         CAST((SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS TEXT), \
         CAST(pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS TEXT), \
         (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl)",
    )
    .fetch_one(pool)
    .await?;
    let limits = sqlx::query(
        "SELECT CAST(current_setting('max_connections') AS BIGINT) \
         - CAST(current_setting('superuser_reserved_connections') AS BIGINT) \
         - CAST(COALESCE(current_setting('reserved_connections', true), '0') AS BIGINT), \
         CAST((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS BIGINT), \
         CAST((SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS BIGINT), \
         CAST((SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS BIGINT)",
    )
    .fetch_one(pool)
    .await?;
    let (server, role, database): (i64, i64, i64) = (limits.try_get(0)?, limits.try_get(1)?, limits.try_get(2)?);
    // Where there is no limit it is said as -1.
    let limited = |limit: i64| if limit < 0 { i64::MAX } else { limit };
    let is = |index: usize| row.try_get::<String, _>(index).map(|text| text == "true");
    Ok(ServerFacts {
        version: row.try_get(0)?,
        role: row.try_get(1)?,
        database: row.try_get(2)?,
        is_superuser: is(3)?,
        is_read_only: is(4)?,
        tls: row.try_get(5)?,
        most_connections: server.min(limited(role)).min(limited(database)),
        connections: limits.try_get(3)?,
    })
}

/// The version of the SQLite library behind a pool.
///
/// # Errors
/// A database that can not be asked.
pub async fn sqlite_version(pool: &AnyPool) -> Result<String, MigrationsError> {
    Ok(sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await?)
}

/// How much later a PostgreSQL server's clock is than ours, in microseconds; and how long it took to ask, half of which
/// the answer may be wrong by. Of three answers the one that was fastest.
///
/// # Errors
/// A database that can not be asked.
pub async fn clock_difference(pool: &AnyPool) -> Result<(i64, Duration), MigrationsError> {
    let mut best: Option<(i64, Duration)> = None;
    for _ in 0..3 {
        let (begun, before) = (Instant::now(), SystemTime::now());
        let theirs: i64 = sqlx::query_scalar("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)")
            .fetch_one(pool)
            .await?;
        let took = begun.elapsed();
        let ours = (before + took / 2).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let difference = theirs - i64::try_from(ours.as_micros()).unwrap_or(i64::MAX);
        if best.is_none_or(|(_, fastest)| took < fastest) {
            best = Some((difference, took));
        }
    }
    Ok(best.unwrap_or_default())
}
