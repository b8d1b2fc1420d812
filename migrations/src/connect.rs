//! Opening a pool.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection, Executor};

use crate::MigrationsError;

/// How long a statement waits for SQLite's single writer before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `connect` waits for a connection, and a query for a free one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often switching to write-ahead logging is tried: SQLite does not wait for the lock that it needs.
const WAL_ATTEMPTS: u32 = 200;
const WAL_PAUSE: Duration = Duration::from_millis(25);

/// Which database a pool talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A file of this machine.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
}

/// The URL of a SQLite file, with the characters escaped that mean something in a URL.
#[must_use]
pub fn sqlite_url(path: &Path) -> String {
    let mut url = String::from("sqlite://");
    for character in path.to_string_lossy().chars() {
        match character {
            '%' | '?' | '#' | ' ' | '"' | '<' | '>' | '`' | '{' | '}' | '\\' | '^' | '|' => {
                url.push_str(&format!("%{:02X}", u32::from(character)));
            }
            _ => url.push(character),
        }
    }
    url
}

/// The kind of database behind a pool.
#[must_use]
pub fn backend(pool: &AnyPool) -> Backend {
    match pool.connect_options().database_url.scheme() {
        "postgres" | "postgresql" => Backend::Postgres,
        _ => Backend::Sqlite,
    }
}

/// Opens a pool of at most `max_connections`. A SQLite file and its directory are created when absent; it is set to
/// write-ahead logging with full synchronisation, waits for its writer and enforces foreign keys.
///
/// # Errors
/// An unknown or unsupported URL, or a database that cannot be opened. No message contains credentials.
pub async fn connect(url: &str, max_connections: u32) -> Result<AnyPool, MigrationsError> {
    connect_for(Access::Write, url, max_connections).await
}

/// Opens a pool on a database that is there, to read it: the database refuses whatever would change it.
///
/// # Errors
/// As [`connect`], and a SQLite file that is absent.
pub async fn connect_to_read(url: &str, max_connections: u32) -> Result<AnyPool, MigrationsError> {
    connect_for(Access::Read, url, max_connections).await
}

/// What a pool may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
}

async fn connect_for(access: Access, url: &str, max_connections: u32) -> Result<AnyPool, MigrationsError> {
    static DRIVERS: Once = Once::new();
    // Once per process; a second call would be an error, and every crate that connects comes through here.
    DRIVERS.call_once(sqlx::any::install_default_drivers);

    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => connect_sqlite(access, url, max_connections).await,
        Some("postgres" | "postgresql") => connect_postgres(access, url, max_connections).await,
        _ => Err(MigrationsError::UnknownDatabase { url: without_credentials(url) }),
    }
}

async fn connect_sqlite(access: Access, url: &str, max_connections: u32) -> Result<AnyPool, MigrationsError> {
    let shown = without_credentials(url);
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    let mut full_url = url.to_owned();
    if access == Access::Read {
        full_url.push_str(if url.contains('?') { "&mode=ro" } else { "?mode=ro" });
    } else if !in_memory {
        if let Some(directory) = file_of(url).parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)
                .map_err(|source| MigrationsError::Directory { url: shown.clone(), source })?;
        }
        if !url.contains("mode=") {
            full_url.push_str(if url.contains('?') { "&mode=rwc" } else { "?mode=rwc" });
        }
    }
    let failed = |source| MigrationsError::Connect { url: shown.clone(), source };
    if !in_memory {
        // A single connection first: it fails at once on a file that is no database, where a pool would try again.
        let mut connection = AnyConnection::connect(&full_url).await.map_err(failed)?;
        configure(&mut connection).await.map_err(failed)?;
        if access == Access::Write {
            write_ahead_logging(&mut connection).await.map_err(failed)?;
        }
        connection.close().await.map_err(failed)?;
    }
    AnyPoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(configure(connection)))
        .after_release(|connection, _| Box::pin(is_at_rest(connection)))
        .connect(&full_url)
        .await
        .map_err(failed)
}

async fn configure(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let statements = format!(
        "PRAGMA busy_timeout = {}; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;",
        BUSY_TIMEOUT.as_millis()
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await?;
    Ok(())
}

/// Whether no transaction is left. SQLite itself rolls back when its disk is full or fails, the ROLLBACK that follows
/// is then an error, and the connection would count a transaction that is not there and refuse to begin another one.
async fn is_at_rest(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    // Behind whatever is still on its way, such as the ROLLBACK of a transaction that was dropped.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

async fn write_ahead_logging(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let mut attempt = 0;
    loop {
        let result: Result<String, sqlx::Error> =
            sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        attempt += 1;
        match result {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) if attempt >= WAL_ATTEMPTS => {
                return Err(sqlx::Error::Protocol(format!("the file system keeps SQLite in journal mode {mode}")));
            }
            Err(error) if attempt >= WAL_ATTEMPTS || !crate::is_conflict(&error) => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(WAL_PAUSE).await,
        }
    }
}

/// How long the first connection to a server may take, and how long a query waits for a free one. Shorter than for a
/// file: whoever asks while the server is away should hear it.
#[cfg(feature = "production")]
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a URL may say behind its `?`. The client only warns of other words, with their values, and goes on: a mistyped
/// `sslmode` would connect without what it asks for.
#[cfg(feature = "production")]
const PARAMETERS: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "host"];

#[cfg(feature = "production")]
async fn connect_postgres(access: Access, url: &str, max_connections: u32) -> Result<AnyPool, MigrationsError> {
    let parameters = url.split_once('?').map_or("", |(_, text)| text);
    let is_known = |pair: &str| PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    if !parameters.split('&').filter(|pair| !pair.is_empty()).all(is_known) {
        return Err(MigrationsError::UnknownParameter { url: without_credentials(url), known: PARAMETERS.join(", ") });
    }
    // A single connection first: a pool would try again and again at an address where nobody listens, and in the end
    // not say why.
    let first = async {
        let mut connection = AnyConnection::connect(url).await?;
        let encoding: String =
            sqlx::query_scalar("SELECT current_setting('server_encoding')").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(encoding)
    };
    let encoding = match tokio::time::timeout(SERVER_TIMEOUT, first).await {
        Ok(Ok(encoding)) => encoding,
        Ok(Err(source)) => return Err(refusal(url, source)),
        Err(_) => {
            return Err(MigrationsError::NoAnswer { url: without_credentials(url), seconds: SERVER_TIMEOUT.as_secs() });
        }
    };
    if encoding != "UTF8" {
        return Err(MigrationsError::Encoding { url: without_credentials(url), encoding });
    }
    AnyPoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(SERVER_TIMEOUT)
        .after_connect(move |connection, _| Box::pin(configure_session(access, connection)))
        .after_release(|connection, _| Box::pin(answers(connection)))
        .connect(url)
        .await
        .map_err(|source| refusal(url, source))
}

/// What single statements rely on, whatever the server's defaults are: they see what is committed. And a process that
/// stands still in the middle of a transaction must not hold its rows, a lease among them, for ever.
#[cfg(feature = "production")]
async fn configure_session(access: Access, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let statements = "SET default_transaction_isolation = 'read committed'; \
                      SET idle_in_transaction_session_timeout = '60s'; SET tcp_keepalives_idle = 30; \
                      SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;";
    connection.execute(sqlx::raw_sql(statements)).await?;
    if access == Access::Read {
        connection.execute("SET default_transaction_read_only = on").await?;
    }
    Ok(())
}

/// Whether the server still answers on this connection. One whose server vanished without a word would otherwise keep
/// its place in the pool until the system gives it up, which takes a quarter of an hour.
#[cfg(feature = "production")]
async fn answers(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(SERVER_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Sorts what a first connection can meet by who can mend it.
#[cfg(feature = "production")]
fn refusal(full_url: &str, source: sqlx::Error) -> MigrationsError {
    use std::io::ErrorKind;
    let url = without_credentials(full_url);
    let names_files = ["sslrootcert=", "sslcert=", "sslkey="].iter().any(|key| full_url.contains(key));
    let (code, io) = match &source {
        sqlx::Error::Database(error) => (error.code().map(|code| code.into_owned()), None),
        sqlx::Error::Io(error) => (None, Some(error.kind())),
        _ => (None, None),
    };
    match (code.as_deref(), io) {
        (Some("28P01" | "28000"), _) => MigrationsError::LoginRefused { url, source },
        (Some("3D000"), _) => MigrationsError::Absent { url, source },
        // So a certificate that is not trusted ends the handshake.
        (_, Some(ErrorKind::InvalidData)) => MigrationsError::Tls { url, source },
        (_, Some(ErrorKind::NotFound | ErrorKind::PermissionDenied)) if names_files => {
            MigrationsError::Tls { url, source }
        }
        (_, Some(_)) => MigrationsError::Unreachable { url, source },
        _ if matches!(source, sqlx::Error::Tls(_)) => MigrationsError::Tls { url, source },
        _ => MigrationsError::Connect { url, source },
    }
}

#[cfg(not(feature = "production"))]
async fn connect_postgres(_access: Access, url: &str, _max: u32) -> Result<AnyPool, MigrationsError> {
    Err(MigrationsError::FeatureMissing { url: without_credentials(url), feature: "production" })
}

fn file_of(url: &str) -> PathBuf {
    let path = url.trim_start_matches("sqlite://").trim_start_matches("sqlite:");
    let path = path.split('?').next().unwrap_or_default();
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(value) => {
                decoded.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&decoded).into_owned())
}

/// The URL as it may be shown: without user, password and parameters.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.split('?').next().unwrap_or_default().to_owned();
    };
    let base = rest.split(['?', '#']).next().unwrap_or_default();
    // An `@` behind them: they may belong to the password.
    if rest.get(base.len()..).is_some_and(|tail| tail.contains('@')) {
        return format!("{scheme}://...");
    }
    // A password may contain `@` and `/`; everything up to the last `@` goes.
    let host = base.rsplit_once('@').map_or(base, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_are_never_shown() {
        assert_eq!(without_credentials("postgres://me:p@ss/word@db:5432/fly?password=x"), "postgres://db:5432/fly");
        assert_eq!(without_credentials("postgres://me:hunter?2@db/fly"), "postgres://...");
        assert_eq!(without_credentials("postgres://me:a@b?c@db/fly"), "postgres://...");
        assert_eq!(without_credentials("sqlite:///tmp/a.db?mode=rwc"), "sqlite:///tmp/a.db");
        assert_eq!(without_credentials("nonsense"), "nonsense");
    }

    proptest! {
        #[test]
        fn a_path_survives_its_url(path in "/[a-zA-Z0-9 %?#{}äß._-]{1,30}") {
            prop_assert_eq!(file_of(&sqlite_url(Path::new(&path))), PathBuf::from(path));
        }
    }
}
