//! PostgreSQL, as the distribution has it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::server::{Plan, Running, directory, on_free_port};
use crate::unique_name;

pub(crate) const VARIABLE: &str = "TEST_SERVERS_POSTGRESQL";
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

/// A fresh database.
pub(crate) fn database() -> Result<String, String> {
    let server = url()?;
    let name = unique_name('_');
    // Not from the default template, which a connection of somebody else would block.
    let statement = format!("CREATE DATABASE {name} TEMPLATE template0");
    let psql = binary("psql").unwrap_or_else(|_| PathBuf::from("psql"));
    let made = Command::new(&psql)
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &server, "-c", &statement])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} can not be run: {error}; {INSTALL}", psql.display()))?;
    if made.status.success() {
        Ok(with_database(&server, &name))
    } else {
        let said = String::from_utf8_lossy(&made.stderr);
        Err(format!("no database can be made on the server of {VARIABLE} or ours: {}", said.trim()))
    }
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
    on_free_port(start_on)
}

fn start_on(port: u16) -> Result<(Running, String), String> {
    let (initdb, postgres, pg_isready) = (binary("initdb")?, binary("postgres")?, binary("pg_isready")?);
    let directory = directory("PostgreSQL")?;
    let data = directory.join("data");
    let made = make(&initdb, &data);
    if let Err(sentence) = made {
        let _gone = std::fs::remove_dir_all(&directory);
        return Err(sentence);
    }
    let port = port.to_string();
    let mut command = as_server_user(&postgres);
    command.extend(["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.clone()]);
    for setting in SETTINGS {
        command.extend(["-c".to_owned(), setting.to_owned()]);
    }
    // Its fastest way to end that takes all its children along.
    let plan = Plan { name: "PostgreSQL", directory, command, environment: Vec::new(), signal: "QUIT" };
    let running = Running::start(plan, || {
        let asked = Command::new(&pg_isready).args(["-q", "-h", "127.0.0.1", "-p", &port, "-t", "1"]).status();
        asked.is_ok_and(|status| status.success())
    })?;
    Ok((running, format!("postgres://postgres@127.0.0.1:{port}/postgres")))
}

/// Makes the files of a server that trusts whoever reaches its loopback port.
fn make(initdb: &Path, data: &Path) -> Result<(), String> {
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
    let command = as_server_user(initdb);
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let made = Command::new(program)
        .args(arguments)
        .arg("-D")
        .arg(data)
        .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"])
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if made.status.success() {
        Ok(())
    } else {
        Err(format!("PostgreSQL's initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim()))
    }
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

fn is_root() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|said| said.stdout.trim_ascii() == b"0")
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
