//! Transactions that read before they write.

use sqlx::{Any, AnyPool, Transaction};

use crate::{Backend, backend};

/// Begins a transaction for read-modify-write. SQLite becomes the writer at once (a plain `BEGIN` would fail on its
/// first write when another writer came between); PostgreSQL runs it serializable, and the caller does the
/// whole transaction again when it meets another one: see [`crate::retried`], and [`crate::commit`] for its end.
///
/// # Errors
/// No connection, or a writer that holds SQLite for longer than the busy time-out.
pub async fn begin_write(pool: &AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
    match backend(pool) {
        Backend::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await,
        Backend::Postgres => begin_whole(pool, "BEGIN ISOLATION LEVEL SERIALIZABLE").await,
    }
}

/// Begins a transaction in which every read sees the same state of the database.
///
/// # Errors
/// No connection.
pub async fn begin_read(pool: &AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
    match backend(pool) {
        Backend::Sqlite => pool.begin_with("BEGIN").await,
        Backend::Postgres => begin_whole(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await,
    }
}

/// Begins to the end, even when whoever asked goes away meanwhile: sqlx counts a transaction of PostgreSQL only once it
/// has begun, so a connection that was given back in between would go on inside of one that nobody ends.
async fn begin_whole(pool: &AnyPool, begin: &'static str) -> Result<Transaction<'static, Any>, sqlx::Error> {
    let pool = pool.clone();
    tokio::spawn(async move { pool.begin_with(begin).await }).await.map_err(|_| sqlx::Error::WorkerCrashed)?
}
