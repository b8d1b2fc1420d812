//! What the services do with the tables. On a PostgreSQL server they log in as a role that may do this and nothing more,
//! while `flywheel migrate` logs in as the role that owns the tables.
//!
//! A test compares this list with the schema and with the statements of all rooms.

use std::fmt::Write as _;

use sqlx::{AnyConnection, AnyPool, Executor as _};

use crate::MigrationsError;

const READ: &[&str] = &["SELECT"];
const ADD: &[&str] = &["SELECT", "INSERT"];
const CHANGE: &[&str] = &["SELECT", "INSERT", "UPDATE"];
const PASS_ON: &[&str] = &["SELECT", "INSERT", "DELETE"];
const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Tables, and what services do with their rows, in PostgreSQL's words. What nobody changes afterwards (the audit log,
/// data sets, the evidence of rollouts) no service may change.
pub const TABLE_RIGHTS: [(&str, &[&str]); 31] = [
    ("_sqlx_migrations", READ),
    ("api_keys", CHANGE),
    ("audience_rules", ALL),
    ("audit_log", ADD),
    ("consents", CHANGE),
    ("label_policy", ALL),
    ("lake_expired", CHANGE),
    ("lake_parts", ALL),
    ("lake_replaced", ALL),
    ("leases", CHANGE),
    ("ledger_events", ALL),
    ("ledger_hours", CHANGE),
    ("lost_ranges", CHANGE),
    ("model_aliases", CHANGE),
    ("model_versions", CHANGE),
    ("models", CHANGE),
    ("opportunity_outcomes", ADD),
    ("outbox", PASS_ON),
    ("person_keys", CHANGE),
    ("rollout_tallies", ADD),
    ("rollouts", CHANGE),
    ("schema_compatibility", READ),
    ("settings", CHANGE),
    ("sink_positions", CHANGE),
    ("snapshot_compositions", ADD),
    ("snapshot_left_out", ADD),
    ("snapshot_pairs", ADD),
    ("snapshot_parts", ADD),
    ("snapshots", ADD),
    ("tenants", CHANGE),
    ("training_runs", CHANGE),
];

/// Who logs in for what.
#[derive(Debug, Clone, Copy)]
pub struct Roles<'a> {
    /// The services.
    pub services: &'a str,
    /// `flywheel migrate`.
    pub migrating: &'a str,
}

/// The statements that give both roles what they need in a database, for whoever owns it.
#[must_use]
pub fn grants(database: &str, roles: Roles<'_>) -> String {
    let (services, migrating) = (quoted(roles.services), quoted(roles.migrating));
    format!(
        "GRANT CONNECT ON DATABASE {} TO {services}, {migrating};\n\
         GRANT USAGE, CREATE ON SCHEMA public TO {migrating};\n{}",
        quoted(database),
        inside(&services)
    )
}

/// What the services need inside of the database, for their role as SQL takes it.
fn inside(services: &str) -> String {
    let mut text = format!("GRANT USAGE ON SCHEMA public TO {services};\n");
    for (table, rights) in TABLE_RIGHTS {
        // Writing to a text can not fail.
        let _written = writeln!(text, "GRANT {} ON public.{} TO {services};", rights.join(", "), quoted(table));
    }
    text
}

/// A name as SQL takes it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The rights that the role of this pool lacks, each with its table. For PostgreSQL; tables that are not there yet are
/// left out.
///
/// # Errors
/// A database that can not be asked.
pub async fn missing_rights(pool: &AnyPool) -> Result<Vec<(&'static str, Vec<&'static str>)>, MigrationsError> {
    let mut connection = pool.acquire().await?;
    let role: String = sqlx::query_scalar("SELECT CAST(current_user AS TEXT)").fetch_one(&mut *connection).await?;
    lacked_by(&role, &mut connection).await
}

async fn lacked_by(
    role: &str,
    connection: &mut AnyConnection,
) -> Result<Vec<(&'static str, Vec<&'static str>)>, MigrationsError> {
    let mut missing = Vec::new();
    for (table, rights) in TABLE_RIGHTS {
        let mut lacks = Vec::new();
        for right in rights {
            // No answer for a table that is not there.
            let has: Option<String> = sqlx::query_scalar(
                "SELECT CAST(has_table_privilege(CAST($1 AS name), CAST(to_regclass($2) AS oid), $3) AS TEXT) \
                 WHERE to_regclass($2) IS NOT NULL",
            )
            .bind(role.to_owned())
            .bind(quoted(table))
            .bind(*right)
            .fetch_optional(&mut *connection)
            .await?;
            if has.as_deref() == Some("false") {
                lacks.push(*right);
            }
        }
        if !lacks.is_empty() {
            missing.push((table, lacks));
        }
    }
    Ok(missing)
}

/// Whether the server knows the role that services log in as.
pub(crate) async fn must_exist(services: &str, connection: &mut AnyConnection) -> Result<(), MigrationsError> {
    let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pg_roles WHERE CAST(rolname AS TEXT) = $1")
        .bind(services.to_owned())
        .fetch_one(connection)
        .await?;
    if found == 0 {
        return Err(MigrationsError::UnknownRole { role: services.to_owned() });
    }
    Ok(())
}

/// Gives the services' role what [`grants`] says, as far as whoever migrates may, and then looks whether it has all of
/// it. Rights that it has stay.
///
/// To be called by one run at a time: the server refuses two that give rights to the same table at once.
pub(crate) async fn give(services: &str, connection: &mut AnyConnection) -> Result<(), MigrationsError> {
    let role = || services.to_owned();
    let database: String =
        sqlx::query_scalar("SELECT CAST(current_database() AS TEXT)").fetch_one(&mut *connection).await?;
    let to = quoted(services);
    // The first two are of things that whoever migrates need not own. The server then gives nothing, without an error.
    // All of it is one message, and therefore one transaction.
    let statements = format!("GRANT CONNECT ON DATABASE {} TO {to};\n{}", quoted(&database), inside(&to));
    let given = connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await;
    given.map_err(|source| MigrationsError::GrantRefused { role: role(), source })?;
    let (connects, uses): (String, String) = sqlx::query_as(
        "SELECT CAST(has_database_privilege(CAST($1 AS name), current_database(), 'CONNECT') AS TEXT), \
         CAST(has_schema_privilege(CAST($1 AS name), 'public', 'USAGE') AS TEXT)",
    )
    .bind(role())
    .fetch_one(&mut *connection)
    .await?;
    let around = [(connects, "CONNECT on the database"), (uses, "USAGE on schema public")];
    let around = around.into_iter().filter(|(has, _)| has != "true").map(|(_, right)| right.to_owned());
    let tables = lacked_by(services, connection).await?;
    let tables = tables.into_iter().map(|(table, rights)| format!("{} on {table}", rights.join(", ")));
    let lacks: Vec<String> = around.chain(tables).collect();
    if !lacks.is_empty() {
        return Err(MigrationsError::NotGranted { role: role(), lacks: lacks.join("; ") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        let roles = Roles { services: "a\"b", migrating: "migrates" };
        let text = grants("my db", roles);
        assert!(text.starts_with("GRANT CONNECT ON DATABASE \"my db\" TO \"a\"\"b\", \"migrates\";\n"), "{text}");
        assert!(text.contains("GRANT SELECT, INSERT ON public.\"audit_log\" TO \"a\"\"b\";\n"), "{text}");
        assert!(text.contains("\nGRANT USAGE ON SCHEMA public TO \"a\"\"b\";\n"), "{text}");
    }
}
