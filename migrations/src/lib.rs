//! The database schema: opening a database, bringing it to the current version, and where its two kinds differ.
//!
//! One folder of SQL serves SQLite (embedded) and PostgreSQL (production); statements use `$n` placeholders and the
//! column types `TEXT`, `BIGINT`, `DOUBLE PRECISION`, `BYTEA` and `SMALLINT` only.
//!
//! Several processes may start on one database at once. On PostgreSQL the migrator holds an advisory lock. SQLite has
//! none, so all migrations run inside one `BEGIN IMMEDIATE` transaction: exactly one process is the writer, the others
//! wait for it and then find nothing left to do. A crash in the middle rolls everything back.

mod connect;
mod error;
mod migrate;
mod transaction;

pub use connect::{Backend, backend, connect, sqlite_url};
pub use error::MigrationsError;
pub use migrate::{check, migrate};
pub use transaction::{begin_read, begin_write, is_conflict};
