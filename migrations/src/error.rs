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
    /// Nobody answers at the address.
    #[error("database {url}: not reachable ({source}); check the address in `database.url`, and that the server runs")]
    Unreachable {
        /// The URL without its credentials.
        url: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The address takes connections and says nothing.
    #[error("database {url}: no answer within {seconds} s; check the address in `database.url`")]
    NoAnswer {
        /// The URL without its credentials.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server does not know the user or the password.
    #[error("database {url}: the server refuses the user or the password of `database.url` ({source})")]
    LoginRefused {
        /// The URL without its credentials.
        url: String,
        /// What it says.
        source: sqlx::Error,
    },
    /// The server has no such database.
    #[error("database {url}: the server has no database of that name; create it, then run `flywheel migrate`")]
    Absent {
        /// The URL without its credentials.
        url: String,
        /// What it says.
        source: sqlx::Error,
    },
    /// There is no connection that the URL's TLS settings would trust.
    #[error("database {url}: no connection as `sslmode` and `sslrootcert` of `database.url` ask for it ({source})")]
    Tls {
        /// The URL without its credentials.
        url: String,
        /// Why.
        source: sqlx::Error,
    },
    /// A word behind the `?` of the URL that nobody would heed.
    #[error("database {url}: a parameter of `database.url` is none of {known}")]
    UnknownParameter {
        /// The URL without its credentials.
        url: String,
        /// Those that there are.
        known: String,
    },
    /// The database can not hold every text.
    #[error("database {url}: its encoding is {encoding}; create it with the encoding UTF8")]
    Encoding {
        /// The URL without its credentials.
        url: String,
        /// What it has.
        encoding: String,
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
    /// A newer release migrated the database, in a way that this one can not work with.
    #[error(
        "a newer release migrated the database to schema version {applied}, on which only releases that know version \
         {oldest} may work; this one knows {known}: start the newer release, or restore a backup from before"
    )]
    Newer {
        /// Version of the newest migration in the database.
        applied: i64,
        /// Oldest version with which a release may still work.
        oldest: i64,
        /// Version of the newest migration in this binary.
        known: i64,
    },
    /// An applied migration differs from the one in this binary.
    #[error(
        "migration {version} in the database is not the one in this binary: one of the two was changed after release"
    )]
    Changed {
        /// Its version.
        version: i64,
    },
    /// Whoever looks may not see which migrations were applied.
    #[error(
        "the role of `database.url` may not see which migrations were applied ({source}): give it the rights of the \
         services with `flywheel migrate --grant-to`, as the role that owns the tables"
    )]
    Unseen {
        /// What the server says.
        source: sqlx::migrate::MigrateError,
    },
    /// Rights for a role were asked for where there are none.
    #[error("`flywheel migrate --grant-to` is for a PostgreSQL server; a SQLite file knows no roles")]
    NoRoles,
    /// The server does not know the role that is to be given rights.
    #[error("the server has no role {role}: create it, then run `flywheel migrate --grant-to` again")]
    UnknownRole {
        /// Its name.
        role: String,
    },
    /// A grant failed.
    #[error(
        "the database is at the schema of this release, but what the services need can not be given to the role {role} \
         ({source}): run `flywheel migrate --grant-to` as the role that owns the tables"
    )]
    GrantRefused {
        /// Who was to be given it.
        role: String,
        /// What the server says.
        source: sqlx::Error,
    },
    /// What whoever migrates may not give.
    #[error(
        "the database is at the schema of this release, but the role {role} lacks {lacks}: let the owner of the \
         database run what `flywheel doctor --print-acls=postgresql` prints"
    )]
    NotGranted {
        /// Who lacks it.
        role: String,
        /// Rights, each with what it is a right to.
        lacks: String,
    },
    /// A statement failed.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}
