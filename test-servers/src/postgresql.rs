//! PostgreSQL, as the distribution has it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::own::Ready;
use crate::server::{Plan, Running, directory, is_root, on_free_port, token};
use crate::unique_name;

pub(crate) const VARIABLE: &str = "TEST_SERVERS_POSTGRESQL";
/// A file to which every process of a run adds the databases that it makes on a server that stays: the run drops them.
pub(crate) const MADE: &str = "TEST_SERVERS_DATABASES_MADE";
const BINARIES: &str = "TEST_SERVERS_POSTGRESQL_BIN";
const INSTALL: &str = "install it (Debian: `apt-get install postgresql`), name its programs' directory in \
                       TEST_SERVERS_POSTGRESQL_BIN or a running server in TEST_SERVERS_POSTGRESQL, or run \
                       `./test --embedded`";
/// Whom the server runs as when we are root, which it refuses to be.
const USER: &str = "postgres";
/// Nothing needs to survive, and many tests keep connections of their own.
const SETTINGS: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "max_connections=300",
    "timezone=UTC",
    "log_timezone=UTC",
];
/// How long a server may take to answer one question.
const LIMIT: Duration = Duration::from_secs(60);

/// A fresh database.
pub(crate) fn database() -> Result<String, String> {
    let server = url()?;
    let name = unique_name('_');
    if let Some(made) = std::env::var_os(MADE) {
        let added = std::fs::OpenOptions::new().append(true).open(&made);
        added
            .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
            .map_err(|error| format!("{} can not be written to: {error}", PathBuf::from(&made).display()))?;
    }
    // Not from the default template, which a connection of somebody else would block.
    execute(&server, format!("CREATE DATABASE {name} TEMPLATE template0"))
        .map_err(|said| format!("no database can be made on the server of {VARIABLE} or ours: {said}"))?;
    Ok(with_database(&server, &name))
}

/// Drops what a run has made on a server that stays.
pub(crate) fn drop_databases(server: &str, made: &Path) -> Result<(), String> {
    let names = std::fs::read_to_string(made).map_err(|error| format!("{}: {error}", made.display()))?;
    for name in names.lines() {
        execute(server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .map_err(|said| format!("the database {name} is left on the server of {VARIABLE}: {said}"))?;
    }
    Ok(())
}

fn execute(server: &str, statement: String) -> Result<(), String> {
    on_connection(server, LIMIT, async |connection| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
        Ok(())
    })
}

/// Whether the server is the one that was given this name.
fn is_called(server: &str, name: &str) -> bool {
    let asked = on_connection(server, Duration::from_secs(5), async |connection| {
        sqlx::query_scalar::<_, String>("SHOW cluster_name").fetch_one(connection).await
    });
    asked.is_ok_and(|found| found == name)
}

/// Does something on a connection of its own. Blocks.
fn on_connection<T>(
    server: &str,
    limit: Duration,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let working = async {
            let mut connection = PgConnection::connect(server).await?;
            let done = work(&mut connection).await?;
            connection.close().await?;
            Ok::<T, sqlx::Error>(done)
        };
        match tokio::time::timeout(limit, working).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it does not answer within {} s", limit.as_secs())),
        }
    })
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let parameters = rest.split_once('?').map(|(_, parameters)| format!("?{parameters}")).unwrap_or_default();
    format!("{scheme}://{authority}/{name}{parameters}")
}

/// The server of this process: the one of the environment, or one of its own.
fn url() -> Result<String, String> {
    static SERVER: OnceLock<Result<(Running, String), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(url) if !url.is_empty() => Ok(url),
        _ => SERVER.get_or_init(start).as_ref().map(|(_, url)| url.clone()).map_err(Clone::clone),
    }
}

/// Starts a server of our own.
pub(crate) fn start() -> Result<(Running, String), String> {
    on_free_port(|port| start_on(port, &[]))
}

/// Starts a server whose commits outlive its being killed. Returns the URL of a fresh database, too, and what tells
/// whether it has come again.
pub(crate) fn start_to_be_killed() -> Result<(Running, String, Ready), String> {
    let (running, server) = on_free_port(|port| start_on(port, &["synchronous_commit=on"]))?;
    let name = unique_name('_');
    execute(&server, format!("CREATE DATABASE {name} TEMPLATE template0"))?;
    let (url, token) = (with_database(&server, &name), token(running.directory()));
    Ok((running, url, Box::new(move |_| is_called(&server, &token))))
}

/// Starts a server with settings that go before ours.
fn start_on(port: u16, more: &[&str]) -> Result<(Running, String), String> {
    let (initdb, postgres) = (binary("initdb")?, binary("postgres")?);
    let directory = directory("PostgreSQL")?;
    let data = directory.join("data");
    if let Err(sentence) = make_place(&data) {
        let _gone = std::fs::remove_dir_all(&directory);
        return Err(sentence);
    }
    let mut prepare = as_server_user(&initdb);
    prepare.extend(["-D".to_owned(), data.display().to_string()]);
    // It trusts whoever reaches its loopback port.
    let made = ["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"];
    prepare.extend(made.map(str::to_owned));
    let mut command = as_server_user(&postgres);
    command.extend(["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.to_string()]);
    let name = token(&directory);
    for setting in SETTINGS.into_iter().chain([format!("cluster_name={name}").as_str()]).chain(more.iter().copied()) {
        command.extend(["-c".to_owned(), setting.to_owned()]);
    }
    // Its fastest way to end that takes all its children along.
    let plan = Plan { name: "PostgreSQL", directory, prepare, command, environment: Vec::new(), signal: "QUIT" };
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let running = Running::start(plan, || is_called(&url, &name))?;
    Ok((running, url))
}

/// Makes the directory that the server's user fills.
fn make_place(data: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("PostgreSQL's data directory can not be made: {error}");
    std::fs::create_dir(data).map_err(failed)?;
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    if is_root() {
        let owner = format!("{USER}:");
        let changed = Command::new("chown").arg(&owner).arg(data).output().map_err(failed)?;
        if !changed.status.success() {
            return Err(format!(
                "PostgreSQL does not run as root, and there is no user {USER} to run it as; make one, or run the tests \
                 as somebody else"
            ));
        }
    }
    Ok(())
}

/// The command that runs a program as a user who is not root. `setpriv` becomes the program, so that a signal for one
/// is one for the other.
fn as_server_user(program: &Path) -> Vec<String> {
    let mut command = Vec::new();
    if is_root() {
        command.extend(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"].map(str::to_owned));
    }
    command.push(program.display().to_string());
    command
}

/// Whether a server of our own can be started.
pub(crate) fn is_installed() -> bool {
    ["initdb", "postgres"].iter().all(|name| binary(name).is_ok())
}

/// A program of PostgreSQL: where the environment says, where distributions keep it, or on the path.
fn binary(name: &str) -> Result<PathBuf, String> {
    let given = std::env::var_os(BINARIES).filter(|given| !given.is_empty()).map(PathBuf::from);
    let places = match given {
        Some(directory) => vec![directory],
        None => usual_places(),
    };
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("the tests need PostgreSQL, and its `{name}` is not found; {INSTALL}"))
}

fn usual_places() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions.into_iter().rev().map(|(_, place)| place).chain(std::env::split_paths(&path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_a_url_changes() {
        for (url, expected) in [
            ("postgres://postgres@127.0.0.1:5432/postgres", "postgres://postgres@127.0.0.1:5432/new"),
            ("postgresql://a:b@host", "postgresql://a:b@host/new"),
            ("postgres://a@host/old?sslmode=disable", "postgres://a@host/new?sslmode=disable"),
            ("postgres://a@host?sslmode=disable", "postgres://a@host/new?sslmode=disable"),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }

    #[test]
    fn names_of_databases_are_new_and_need_no_quotes() {
        let (one, other) = (unique_name('_'), unique_name('_'));
        assert_ne!(one, other);
        assert!(
            one.len() < 63
                && one.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        );
    }
}
