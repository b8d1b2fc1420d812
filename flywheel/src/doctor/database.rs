//! The database: a file of the data directory, or a PostgreSQL server.

use std::sync::Arc;

use migrations::MigrationsError;
use service::config::Secret;
use service::finding::Finding;
use sqlx::AnyPool;

use super::Patient;

const REACH: &str = "database.reach";
const SCHEMA: &str = "database.schema";
#[cfg(feature = "production")]
const RIGHTS: &str = "database.rights";

const ASK_SOMEBODY: &str = "correct `database.url`, or ask whoever runs the server";

/// Connects to the database; none: its file is not there yet. The error is a sentence.
pub(super) async fn connect(patient: &Patient) -> Result<Option<AnyPool>, String> {
    let settings = &patient.settings.database;
    let url = match &settings.url {
        Some(url) if settings.kind.is_server() => url.clone(),
        _ => {
            let file = patient.data.as_ref().map(crate::data_dir::DataDir::database).filter(|file| file.exists());
            let Some(file) = file else { return Ok(None) };
            // Without a mode it would be made.
            Secret::new(format!("{}?mode=rw", migrations::sqlite_url(&file)))
        }
    };
    let connecting = migrations::connect(url.expose_secret(), 1);
    match tokio::time::timeout(patient.patience, connecting).await {
        Ok(Ok(pool)) => Ok(Some(pool)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            let (url, seconds) = (migrations::without_credentials(url.expose_secret()), patient.patience.as_secs());
            Err(format!("database {url}: no answer within {seconds} s; check the address in `database.url`"))
        }
    }
}

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let pool = match connect(&patient).await {
        Ok(Some(pool)) => pool,
        Ok(None) => return vec![Finding::ok(REACH, "there is no database yet; the first start makes it")],
        Err(sentence) => return vec![Finding::told(REACH, &sentence, ASK_SOMEBODY)],
    };
    let is_server = patient.settings.database.kind.is_server();
    #[cfg(feature = "production")]
    let mut findings = if is_server { server(&patient, &pool).await } else { vec![file(&pool).await] };
    #[cfg(not(feature = "production"))]
    let mut findings = vec![file(&pool).await];
    let checked = migrations::check(&pool).await;
    #[cfg(feature = "production")]
    let are_tables_there = !matches!(checked, Err(MigrationsError::Pending { .. }));
    findings.push(schema(checked, is_server));
    #[cfg(feature = "production")]
    if is_server && are_tables_there {
        findings.push(rights(&pool).await);
    }
    findings
}

async fn file(pool: &AnyPool) -> Finding {
    match migrations::sqlite_version(pool).await {
        Ok(version) => Finding::ok(REACH, format!("the database can be read, by SQLite {version}")),
        Err(error) => {
            let advice = "give the file to the user of the services; if it is damaged, restore it from a backup";
            Finding::told(REACH, &error.to_string(), advice)
        }
    }
}

/// Whether this release may work there.
fn schema(checked: Result<(), MigrationsError>, is_server: bool) -> Finding {
    let version = migrations::schema_version();
    match checked {
        Ok(()) => Finding::ok(SCHEMA, format!("the database is at schema version {version}, as this release needs it")),
        Err(MigrationsError::Pending { count, .. }) if is_server => {
            let says = format!("the database lacks {count} of the {version} migrations of this release");
            Finding::failed(SCHEMA, says, "run `flywheel migrate`, as the role that owns the tables")
        }
        Err(MigrationsError::Pending { count, .. }) => {
            let says = format!("the database lacks {count} of the {version} migrations of this release");
            Finding::ok(SCHEMA, format!("{says}; the next start brings it there"))
        }
        Err(MigrationsError::Newer { applied, oldest, known }) => {
            let says = format!(
                "a newer release migrated the database to schema version {applied}, on which only releases that know \
                 version {oldest} may work, and this one knows {known}"
            );
            Finding::failed(SCHEMA, says, "use the newer release, or restore a backup from before")
        }
        Err(error @ MigrationsError::Changed { .. }) => {
            Finding::told(SCHEMA, &error.to_string(), "use the release that made the database")
        }
        Err(error) if is_denied(&error) => {
            let says = "the role may not see which migrations were applied";
            let advice = "run `flywheel migrate --grant-to` with that role, as the role that owns the tables";
            Finding::failed(SCHEMA, says, advice)
        }
        Err(error) => Finding::told(SCHEMA, &error.to_string(), "look whether the database is well"),
    }
}

/// Whether PostgreSQL says that a right is missing.
fn is_denied(error: &MigrationsError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(sqlx::Error::Database(error)) = error.downcast_ref::<sqlx::Error>() {
            return error.code().as_deref() == Some("42501");
        }
        cause = error.source();
    }
    false
}

/// The oldest PostgreSQL that has what we use, and the one that is tested.
#[cfg(feature = "production")]
const OLDEST_MAJOR: i64 = 15;

/// Processes that a platform has at least: one of each service.
#[cfg(feature = "production")]
const PROCESSES: i64 = 6;

/// What a server says of itself, and whether a platform can live there.
#[cfg(feature = "production")]
async fn server(patient: &Patient, pool: &AnyPool) -> Vec<Finding> {
    let facts = match migrations::look(pool).await {
        Ok(facts) => facts,
        Err(error) => return vec![Finding::told(REACH, &error.to_string(), ASK_SOMEBODY)],
    };
    let (major, minor) = (facts.version / 10_000, facts.version % 10_000);
    let says = format!("PostgreSQL {major}.{minor} lets role `{}` into database `{}`", facts.role, facts.database);
    let mut findings = vec![if facts.is_read_only {
        let advice = "name the server that takes writes in `database.url`";
        Finding::failed(REACH, format!("{says}, and takes no writes: it is a standby, or set so"), advice)
    } else if major < OLDEST_MAJOR {
        let advice = format!("use PostgreSQL {OLDEST_MAJOR} or later, which is what is tested");
        Finding::warning(REACH, says, advice)
    } else {
        Finding::ok(REACH, says)
    }];
    findings.push(protection(patient, facts.tls.as_deref()));
    let each = i64::from(patient.settings.database.max_connections);
    let needed = each.saturating_mul(PROCESSES);
    let says = format!(
        "the server gives this role {} connections, which is enough for {} processes with `database.max_connections` = \
         {each} ({} clients are connected now)",
        facts.most_connections,
        facts.most_connections / each.max(1),
        facts.connections
    );
    findings.push(if facts.most_connections >= needed {
        Finding::ok("database.connections", says)
    } else {
        let advice = format!(
            "raise the server's max_connections, or lower `database.max_connections`: one process of each service needs \
             {needed}"
        );
        Finding::warning("database.connections", says, advice)
    });
    findings
}

#[cfg(feature = "production")]
fn protection(patient: &Patient, tls: Option<&str>) -> Finding {
    use sqlx::postgres::PgConnectOptions;
    const CHECK: &str = "database.tls";
    let url = patient.settings.database.url.as_ref().map(Secret::expose_secret).unwrap_or_default();
    let host = url.parse::<PgConnectOptions>().map(|options| options.get_host().to_owned()).unwrap_or_default();
    let is_here = host.starts_with("127.") || host.starts_with('/') || ["localhost", "::1", "[::1]"].contains(&&*host);
    match tls {
        Some(version) if url.contains("sslmode=verify-") || is_here => {
            Finding::ok(CHECK, format!("the connection is within {version}"))
        }
        Some(version) => {
            let says = format!("the connection is within {version}, and the server's certificate is not looked at");
            let advice = "add `?sslmode=verify-full&sslrootcert=FILE` to `database.url`";
            Finding::warning(CHECK, says, advice)
        }
        None if is_here => Finding::ok(CHECK, "the connection is in clear, and does not leave this machine"),
        None => {
            let advice = "add `?sslmode=verify-full&sslrootcert=FILE` to `database.url`, unless nobody else is in that \
                          network";
            Finding::warning(CHECK, "the connection is in clear", advice)
        }
    }
}

/// Whether the role may do what services do.
#[cfg(feature = "production")]
async fn rights(pool: &AnyPool) -> Finding {
    match migrations::missing_rights(pool).await {
        Ok(missing) if missing.is_empty() => Finding::ok(
            RIGHTS,
            format!("the role may do what services do with {} tables", migrations::TABLE_RIGHTS.len()),
        ),
        Ok(missing) => {
            let list: Vec<String> =
                missing.iter().map(|(table, rights)| format!("{} on {table}", rights.join(", "))).collect();
            let advice = "run `flywheel migrate --grant-to` with that role, as the role that owns the tables, or what \
                          `flywheel doctor --print-acls=postgresql` prints, as the owner of the database";
            Finding::failed(RIGHTS, format!("the role lacks {}", list.join("; ")), advice)
        }
        Err(error) => Finding::told(RIGHTS, &error.to_string(), ASK_SOMEBODY),
    }
}
