//! Applying and checking migrations.

use std::collections::BTreeMap;

use include_dir::{Dir, include_dir};
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, Executor as _, SqlSafeStr as _};

use crate::{Backend, MigrationsError, backend, rights};

/// `NUMBER_description.sql`. Read here and not by sqlx's macro, whose crate builds a second SQLite for the compiler.
static SQL: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sql");

fn migrations() -> impl Iterator<Item = Migration> {
    SQL.files().filter_map(|file| {
        let (number, description) = file.path().file_stem()?.to_str()?.split_once('_')?;
        let sql = file.contents_utf8()?.into_sql_str();
        Some(Migration::new(
            number.parse().ok()?,
            description.replace('_', " ").into(),
            MigrationType::Simple,
            sql,
            false,
        ))
    })
}

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(migrations().collect());
    // Two releases run on one database: the older one meets migrations that it does not know.
    migrator.set_ignore_missing(true);
    migrator
}

/// Where the migrator keeps its books.
const APPLIED: &str = "_sqlx_migrations";

/// The migration that makes the table of [`OLDEST_COMPATIBLE`].
const COMPATIBILITY: i64 = 5;
/// A lock of another run, or of a statement in the way, is waited for this long. A run whose machine vanished gives its
/// lock up as soon as the server notices, and that is made soon.
const BOUNDED_WAITS: &str = "SET lock_timeout = '2min'; SET tcp_keepalives_idle = 30; \
                             SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;";

/// The oldest schema version whose release may go on working while, and after, this release has migrated the database:
/// that of the release before, whose columns and meanings this one keeps. Whoever changes a meaning raises it.
const OLDEST_COMPATIBLE: i64 = 4;

/// What whoever migrated wrote down.
const OLDEST: &str = "SELECT oldest_schema FROM schema_compatibility WHERE id = 1";

/// A migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// What it is about.
    pub description: String,
}

/// The schema version of this release: the number of its newest migration.
#[must_use]
pub fn schema_version() -> i64 {
    newest(&migrator())
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Brings the database to the version of this binary, and returns what that took. Safe when several processes start at
/// once: one does the work, the others wait for it and find nothing left to do.
///
/// # Errors
/// A statement of a migration that fails (nothing of it stays), an applied migration that was changed afterwards, or a
/// database that a newer release closed to this one.
pub async fn migrate(pool: &AnyPool) -> Result<Vec<Step>, MigrationsError> {
    bring(pool, None).await
}

/// The same on a PostgreSQL server, and the role that services log in as gets what [`crate::grants`] says, in the same
/// run: what a migration has just made is nobody's but its owner's. May be done again; rights that the role has stay.
///
/// # Errors
/// As [`migrate`]; a SQLite file; a role that the server does not know, before anything is changed; rights that whoever
/// migrates may not give, after everything else was done.
pub async fn migrate_and_grant(pool: &AnyPool, services: &str) -> Result<Vec<Step>, MigrationsError> {
    if backend(pool) == Backend::Sqlite {
        return Err(MigrationsError::NoRoles);
    }
    bring(pool, Some(services)).await
}

async fn bring(pool: &AnyPool, services: Option<&str>) -> Result<Vec<Step>, MigrationsError> {
    let mut connection = pool.acquire().await?;
    match backend(pool) {
        Backend::Sqlite => {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            let result = match run(&mut transaction, services).await {
                Ok(steps) => transaction.commit().await.map(|()| steps).map_err(MigrationsError::from),
                Err(error) => {
                    // On a full disk SQLite has rolled back by itself; what is told is why.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            };
            if result.is_err() {
                connection.close().await?;
            }
            result
        }
        Backend::Postgres => {
            // Not the pool's any more: the advisory lock is the session's, and goes with it however this ends.
            let mut connection = connection.detach();
            let result = match connection.execute(sqlx::raw_sql(BOUNDED_WAITS)).await {
                Ok(_) => run(&mut connection, services).await,
                Err(error) => Err(error.into()),
            };
            let closed = connection.close().await;
            let steps = result?;
            closed?;
            Ok(steps)
        }
    }
}

/// Migrates under the advisory lock of PostgreSQL, each migration in a transaction of its own; on SQLite, which has no
/// such lock, in the caller's transaction.
async fn run(connection: &mut AnyConnection, services: Option<&str>) -> Result<Vec<Step>, MigrationsError> {
    if let Some(services) = services {
        rights::must_exist(services, connection).await?;
    }
    let migrator = migrator();
    // The migrator takes the lock a second time. Advisory locks count, so what is read here is still so when it begins.
    connection.lock().await?;
    connection.ensure_migrations_table(APPLIED).await?;
    let before = applied(connection).await?;
    refuse_newer(connection, &migrator, &before).await?;
    // Before anything changes that an older release would misread; a fresh database gets the table only now.
    if before.contains_key(&COMPATIBILITY) {
        raise_bar(connection, OLDEST_COMPATIBLE).await?;
    }
    migrator.run_direct(None, connection, false).await?;
    // No other release has ever worked on what was made from nothing, and so none has to read what this one writes.
    let oldest = if before.is_empty() { newest(&migrator) } else { OLDEST_COMPATIBLE };
    raise_bar(connection, oldest).await?;
    // Under the lock, too.
    if let Some(services) = services {
        rights::give(services, connection).await?;
    }
    connection.unlock().await?;
    let steps = migrator.iter().filter(|migration| !before.contains_key(&migration.version));
    Ok(steps
        .map(|migration| Step { version: migration.version, description: migration.description.to_string() })
        .collect())
}

/// Closes a database at the schema of this release to all releases before it, for good: from now on this one may write
/// what they can not read. Those that still run become unready.
///
/// # Errors
/// A database that this release may not work on, as [`check`] says, or that can not be changed.
pub async fn close_to_releases_before(pool: &AnyPool) -> Result<(), MigrationsError> {
    check(pool).await?;
    let mut connection = pool.acquire().await?;
    raise_bar(&mut connection, schema_version()).await?;
    Ok(())
}

/// Writes down which releases may go on working; never lowers what a newer one wrote.
async fn raise_bar(connection: &mut AnyConnection, oldest: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE schema_compatibility SET oldest_schema = $1 WHERE id = 1 AND oldest_schema < $1")
        .bind(oldest)
        .execute(connection)
        .await?;
    Ok(())
}

/// The oldest schema version whose release may use the database: what that one can not read must not be written yet.
/// This release's own where no other one has ever been.
///
/// # Errors
/// A database that can not be asked.
pub async fn oldest_schema(pool: &AnyPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(OLDEST).fetch_one(pool).await
}

/// Checksums by version.
async fn applied(connection: &mut AnyConnection) -> Result<BTreeMap<i64, Vec<u8>>, MigrationsError> {
    match connection.list_applied_migrations(APPLIED).await {
        Ok(applied) => Ok(applied.into_iter().map(|row| (row.version, row.checksum.to_vec())).collect()),
        Err(error) if table_is_missing(&error) => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// A newer release may have been here; whether this one may still work is what that one wrote down.
async fn refuse_newer(
    connection: &mut AnyConnection,
    migrator: &Migrator,
    applied: &BTreeMap<i64, Vec<u8>>,
) -> Result<(), MigrationsError> {
    let known = newest(migrator);
    let newest_applied = applied.keys().next_back().copied().unwrap_or(0);
    if newest_applied <= known {
        return Ok(());
    }
    let oldest: i64 = sqlx::query_scalar(OLDEST).fetch_one(connection).await?;
    if known < oldest {
        return Err(MigrationsError::Newer { applied: newest_applied, oldest, known });
    }
    Ok(())
}

/// Whether this binary may work on the database, without changing anything: all its migrations are there, and none of a
/// newer release that closed it.
///
/// # Errors
/// Missing migrations, changed ones, newer ones that this release can not work with, or a database that cannot be read.
pub async fn check(pool: &AnyPool) -> Result<(), MigrationsError> {
    let migrator = migrator();
    let mut connection = pool.acquire().await?;
    let applied = applied(&mut connection).await.map_err(|error| match error {
        MigrationsError::Migrate(source) if is_denied(&source) => MigrationsError::Unseen { source },
        error => error,
    })?;
    refuse_newer(&mut connection, &migrator, &applied).await?;
    let mut pending = Vec::new();
    for migration in migrator.iter() {
        match applied.get(&migration.version) {
            None => pending.push(migration.version),
            Some(checksum) if checksum.as_slice() != &*migration.checksum => {
                return Err(MigrationsError::Changed { version: migration.version });
            }
            Some(_) => {}
        }
    }
    match pending.first() {
        None => Ok(()),
        Some(&first) => Err(MigrationsError::Pending { first, count: pending.len() }),
    }
}

fn is_denied(error: &sqlx::migrate::MigrateError) -> bool {
    let sqlx::migrate::MigrateError::Execute(sqlx::Error::Database(error)) = error else {
        return false;
    };
    error.code().as_deref() == Some("42501")
}

fn table_is_missing(error: &sqlx::migrate::MigrateError) -> bool {
    let sqlx::migrate::MigrateError::Execute(sqlx::Error::Database(error)) = error else {
        return false;
    };
    // SQLite has no code of its own for it.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_migration_and_numbers_have_no_gap() {
        let migrator = migrator();
        let numbers: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
        assert_eq!(numbers.len(), SQL.files().count(), "a name does not read NUMBER_description.sql");
        assert_eq!(numbers, (1..=i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
    }
}
