//! What can go wrong before there is a usable database. Messages never contain a password.

/// A database that cannot be opened, migrated or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationsError {
    /// The URL needs a part that this binary was built without.
    #[error(
        "database {url}: PostgreSQL is not in this build; build with the cargo feature `{feature}`, or use a sqlite: \
         URL"
    )]
    FeatureMissing {
        /// The URL without its credentials.
        url: String,
        /// Cargo feature that adds it.
        feature: &'static str,
    },
    /// The URL is of no database that we know.
    #[error("database {url}: unknown kind of database; expected sqlite:///path/to/file or postgres://host/name")]
    UnknownDatabase {
        /// The URL without its credentials.
        url: String,
    },
    /// The directory for a database file cannot be made.
    #[error("database {url}: cannot create its directory: {source}")]
    Directory {
        /// The URL without its credentials.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be reached or opened.
    #[error("database {url}: cannot be opened: {source}")]
    Connect {
        /// The URL without its credentials.
        url: String,
        /// Why.
        source: sqlx::Error,
    },
    /// A migration failed, or one that was applied is not the one in this binary.
    #[error("database migration failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Migrations are missing.
    #[error("the database lacks {} migration(s), first {first}: run `flywheel migrate`", count)]
    Pending {
        /// Version of the first one missing.
        first: i64,
        /// How many are missing.
        count: usize,
    },
    /// An applied migration differs from the one in this binary.
    #[error(
        "migration {version} in the database is not the one in this binary: one of the two was changed after release"
    )]
    Changed {
        /// Its version.
        version: i64,
    },
    /// A statement failed.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}
