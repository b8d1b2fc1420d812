//! Transactions that read before they write.

use sqlx::{Any, AnyPool, Transaction};

use crate::{Backend, backend};

/// Begins a transaction for read-modify-write. SQLite becomes the writer at once (a plain `BEGIN` would fail on its
/// first write when another writer came between); PostgreSQL runs it serializable, and the caller retries the whole
/// transaction when [`is_conflict`] says so.
///
/// # Errors
/// No connection, or a writer that holds SQLite for longer than the busy time-out.
pub async fn begin_write(pool: &AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
    match backend(pool) {
        Backend::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await,
        Backend::Postgres => pool.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await,
    }
}

/// Begins a transaction in which every read sees the same state of the database.
///
/// # Errors
/// No connection.
pub async fn begin_read(pool: &AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
    match backend(pool) {
        Backend::Sqlite => pool.begin_with("BEGIN").await,
        Backend::Postgres => pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await,
    }
}

/// Whether the same transaction may succeed when tried again: a serialization failure or deadlock on PostgreSQL, a
/// busy or locked database on SQLite.
#[must_use]
pub fn is_conflict(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    match error.code().as_deref() {
        Some("40001" | "40P01") => true,
        // SQLite's extended codes: the low byte is the primary code, 5 = SQLITE_BUSY, 6 = SQLITE_LOCKED. An SQLSTATE
        // has five characters, an extended code of SQLite at most four.
        Some(code) if code.len() < 5 => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)),
        _ => false,
    }
}
