//! Applying and checking migrations.

use std::collections::BTreeMap;

use include_dir::{Dir, include_dir};
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{AnyPool, Connection, SqlSafeStr as _};

use crate::{Backend, MigrationsError, backend};

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

/// Brings the database to the version of this binary. Safe when several processes start at once.
///
/// # Errors
/// A statement of a migration that fails (nothing of it stays), or an applied migration that was changed afterwards.
pub async fn migrate(pool: &AnyPool) -> Result<(), MigrationsError> {
    let migrator = migrator();
    let mut connection = pool.acquire().await?;
    let result = match backend(pool) {
        Backend::Sqlite => {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            match migrator.run_direct(None, &mut *transaction, false).await {
                Ok(()) => transaction.commit().await.map_err(MigrationsError::from),
                Err(error) => {
                    // On a full disk SQLite has rolled back by itself; what is told is why.
                    let _ = transaction.rollback().await;
                    Err(error.into())
                }
            }
        }
        Backend::Postgres => migrator.run_direct(None, &mut *connection, false).await.map_err(MigrationsError::from),
    };
    if result.is_err() {
        // A failed run leaves the advisory lock with the connection: it must not go back to the pool.
        connection.close().await?;
    }
    result
}

/// Whether the database is at the version of this binary, without changing anything.
///
/// # Errors
/// Missing migrations, changed ones, or a database that cannot be read.
pub async fn check(pool: &AnyPool) -> Result<(), MigrationsError> {
    let migrator = migrator();
    let mut connection = pool.acquire().await?;
    let applied = match connection.list_applied_migrations("_sqlx_migrations").await {
        Ok(applied) => applied,
        Err(error) if table_is_missing(&error) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let applied: BTreeMap<i64, _> = applied.into_iter().map(|row| (row.version, row.checksum)).collect();
    let mut pending = Vec::new();
    for migration in migrator.iter() {
        match applied.get(&migration.version) {
            None => pending.push(migration.version),
            Some(checksum) if *checksum != migration.checksum => {
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
