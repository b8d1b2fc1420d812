//! What the services do with the tables. On a PostgreSQL server they log in as a role that may do this and nothing more,
//! while `flywheel migrate` logs in as the role that owns the tables.
//!
//! A test compares this list with the schema and with the statements of all rooms.

use std::fmt::Write as _;

use sqlx::AnyPool;

use crate::MigrationsError;

const READ: &[&str] = &["SELECT"];
const ADD: &[&str] = &["SELECT", "INSERT"];
const CHANGE: &[&str] = &["SELECT", "INSERT", "UPDATE"];
const PASS_ON: &[&str] = &["SELECT", "INSERT", "DELETE"];
const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Tables, and what services do with their rows, in PostgreSQL's words. What nobody changes afterwards (the audit log,
/// data sets, the evidence of rollouts) no service may change.
pub const TABLE_RIGHTS: [(&str, &[&str]); 27] = [
    ("_sqlx_migrations", READ),
    ("api_keys", CHANGE),
    ("audience_rules", ALL),
    ("audit_log", ADD),
    ("consents", CHANGE),
    ("label_policy", ALL),
    ("lake_parts", ADD),
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
    let mut text = format!(
        "GRANT CONNECT ON DATABASE {} TO {services}, {migrating};\n\
         GRANT USAGE, CREATE ON SCHEMA public TO {migrating};\n\
         GRANT USAGE ON SCHEMA public TO {services};\n",
        quoted(database)
    );
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
    let mut missing = Vec::new();
    for (table, rights) in TABLE_RIGHTS {
        let mut lacks = Vec::new();
        for right in rights {
            // No answer for a table that is not there.
            let has: Option<String> = sqlx::query_scalar(
                "SELECT CAST(has_table_privilege(to_regclass($1), $2) AS TEXT) WHERE to_regclass($1) IS NOT NULL",
            )
            .bind(quoted(table))
            .bind(*right)
            .fetch_optional(pool)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        let roles = Roles { services: "a\"b", migrating: "migrates" };
        let text = grants("my db", roles);
        assert!(text.starts_with("GRANT CONNECT ON DATABASE \"my db\" TO \"a\"\"b\", \"migrates\";\n"), "{text}");
        assert!(text.contains("GRANT SELECT, INSERT ON public.\"audit_log\" TO \"a\"\"b\";\n"), "{text}");
    }
}
