//! The database schema: opening a database, bringing it to the current version, and where its two kinds differ.
//!
//! One folder of SQL serves SQLite (embedded) and PostgreSQL (production); statements use `$n` placeholders and the
//! column types `TEXT`, `BIGINT`, `DOUBLE PRECISION`, `BYTEA` and `SMALLINT` only.
//!
//! Several processes may start on one database at once. On PostgreSQL the migrator holds an advisory lock, and each
//! migration is a transaction. SQLite has no such lock, so all migrations run inside one `BEGIN IMMEDIATE` transaction:
//! exactly one process is the writer, the others wait for it and then find nothing left to do. A crash in the middle
//! rolls everything back.
//!
//! Two releases run on one database while it is upgraded. Whoever migrates writes down the oldest schema version whose
//! release may go on; an older one refuses to start on it ([`MigrationsError::Newer`]). What that one can not read is
//! not written meanwhile: [`oldest_schema`] says whether there may still be one.
//!
//! Nothing may depend on how a database sorts text beyond digits and hexadecimal: that is the server's collation.

mod connect;
mod error;
mod look;
mod migrate;
mod retry;
mod rights;
mod text;
mod transaction;

pub use connect::{Backend, backend, connect, connect_to_read, sqlite_url, without_credentials};
pub use error::MigrationsError;
pub use look::{ServerFacts, clock_difference, look, sqlite_version};
pub use migrate::{Step, check, close_to_releases_before, migrate, migrate_and_grant, oldest_schema, schema_version};
pub use retry::{Retries, Trouble, commit, is_conflict, retried, retried_if, trouble};
pub use rights::{Roles, TABLE_RIGHTS, grants, missing_rights};
pub use text::storable;
pub use transaction::{begin_read, begin_write};
