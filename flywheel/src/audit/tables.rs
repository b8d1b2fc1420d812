//! The rows of the database, copied into the scratch in one transaction: one state of it, whatever is written meanwhile.
//! It is read before the log, so that the log holds everything that the rows say.

use std::collections::BTreeMap;

use bus::Positions;
use events::{Audience, TenantId, Timestamp, topics};
use futures::TryStreamExt as _;
use labeler::lake::compaction::retention::expired_until;
use labeler::ledger::{self, Statement};
use labeler::sink::stored_positions;
use labeler::{audience, lake, policy_record, tally};
use rusqlite::params;
use service::consent::{self, ConsentDecision};
use sqlx::{AnyConnection, Row};

use super::items::Items;
use super::scratch::Scratch;
use super::source::Source;
use super::stage::Stage;
use crate::{rules, sinks};

/// What was read besides rows.
pub(crate) struct Tables {
    pub(crate) statement: Statement,
    /// Up to where the lake has read pairs.
    pub(crate) lake: Positions,
    /// Up to which label pairs of a tenant may have left the lake because of their age.
    pub(crate) expired: BTreeMap<TenantId, Timestamp>,
    /// Up to where the tally has read outcomes.
    pub(crate) tally: Positions,
}

/// Which rows are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// Rows of the ledger, by hour.
    pub(crate) hour: i64,
    /// Rows of outcomes, by close.
    pub(crate) closed_at: i64,
}

impl Tables {
    pub(crate) async fn read(source: &Source, scratch: &Scratch, items: &Items, since: Since) -> anyhow::Result<Self> {
        let mut transaction = migrations::begin_read(&source.pool).await?;
        let statement = ledger::statement_within(&mut transaction, &source.settings.tenant).await?;
        let lake = stored_positions(&mut *transaction, lake::SINK, topics::PREFERENCE_PAIRS).await?;
        let tally = stored_positions(&mut *transaction, tally::SINK, topics::SERVING_OUTCOMES).await?;
        ledger_rows(&mut transaction, scratch, since.hour).await?;
        outcome_rows(&mut transaction, scratch, items, since.closed_at).await?;
        parts(&mut transaction, scratch).await?;
        let expired = expired_until(&mut transaction).await?;
        seeds(source, &mut transaction, scratch).await?;
        transaction.commit().await?;
        Ok(Self { statement, lake, expired, tally })
    }
}

async fn ledger_rows(connection: &mut AnyConnection, scratch: &Scratch, since: i64) -> anyhow::Result<()> {
    let mut rows = sqlx::query(
        "SELECT tenant, event_id, received_hour, entered, copies, disposition, reason, dispositions, repeats \
         FROM ledger_events WHERE received_hour >= $1",
    )
    .bind(since)
    .fetch(connection);
    let insert = "INSERT INTO ledger_rows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    while let Some(row) = rows.try_next().await? {
        let (text, number) = (|at| row.try_get::<Option<String>, _>(at), |at| row.try_get::<i64, _>(at));
        scratch.connection.prepare_cached(insert)?.execute(params![
            text(0)?,
            text(1)?,
            number(2)?,
            text(3)?,
            number(4)?,
            text(5)?,
            text(6)?,
            number(7)?,
            number(8)?
        ])?;
    }
    Ok(())
}

async fn outcome_rows(
    connection: &mut AnyConnection,
    scratch: &Scratch,
    items: &Items,
    since: i64,
) -> anyhow::Result<()> {
    let mut rows =
        sqlx::query("SELECT * FROM opportunity_outcomes WHERE closed_at >= $1").bind(since).fetch(connection);
    let insert = "INSERT INTO outcome_rows (id, digest, closed_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    while let Some(row) = rows.try_next().await? {
        let outcome = sinks::outcome(&row).map_err(crate::failure::Failure::into_error)?;
        let (id, digest) = items.closed(&outcome)?;
        let at = outcome.closed_at.as_micros();
        scratch.connection.prepare_cached(insert)?.execute(params![id.to_string(), digest, at])?;
    }
    Ok(())
}

async fn parts(connection: &mut AnyConnection, scratch: &Scratch) -> anyhow::Result<()> {
    let mut rows = sqlx::query(
        "SELECT part_id, tenant, topic, partition_index, first_position, last_position, digest, pairs, bytes, \
         min_labeled_at, max_labeled_at, day, audience, language, generation FROM lake_parts",
    )
    .fetch(connection);
    let insert = "INSERT INTO parts (part_id, tenant, topic, partition, first_position, last_position, digest, pairs, \
         bytes, min_labeled_at, max_labeled_at, day, audience, language, generation) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    while let Some(row) = rows.try_next().await? {
        let (text, number) = (|at| row.try_get::<String, _>(at), |at| row.try_get::<i64, _>(at));
        scratch.connection.prepare_cached(insert)?.execute(params![
            text(0)?,
            text(1)?,
            text(2)?,
            number(3)?,
            text(4)?,
            text(5)?,
            text(6)?,
            number(7)?,
            number(8)?,
            number(9)?,
            number(10)?,
            row.try_get::<Option<i64>, _>(11)?,
            row.try_get::<Option<String>, _>(12)?,
            row.try_get::<Option<String>, _>(13)?,
            number(14)?
        ])?;
    }
    Ok(())
}

/// What control records have said, as far as the database remembers: the last word about each subject.
async fn seeds(source: &Source, connection: &mut AnyConnection, scratch: &Scratch) -> anyhow::Result<()> {
    let decision = |tier: &str, decided_at: Timestamp| {
        let tier = events::ConsentTier::from_symbol(tier);
        serde_json::to_vec(&ConsentDecision { tier, decided_at })
    };
    let rows =
        sqlx::query("SELECT tenant, consent_ceiling, ceiling_decided_at FROM tenants WHERE ceiling_decided_at > 0")
            .fetch_all(&mut *connection)
            .await?;
    for row in rows {
        let decided_at = Timestamp::from_micros(row.try_get(2)?);
        let subject = consent::ceiling_subject(&row.try_get::<String, _>(0)?.parse()?);
        let value = decision(&row.try_get::<String, _>(1)?, decided_at)?;
        scratch.saw_seed(Stage::Anonymizer, (consent::CONTROL_KIND, &subject), &value, Some(decided_at))?;
    }
    let mut rows = sqlx::query("SELECT tenant, person, tier, decided_at FROM consents").fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        let decided_at = Timestamp::from_micros(row.try_get(3)?);
        let (tenant, person): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let subject = consent::control_subject(&tenant.parse()?, &person.parse()?);
        let value = decision(&row.try_get::<String, _>(2)?, decided_at)?;
        scratch.saw_seed(Stage::Anonymizer, (consent::CONTROL_KIND, &subject), &value, Some(decided_at))?;
    }
    drop(rows);
    let rows = sqlx::query("SELECT tenant, repository, audience, trainable, updated_at FROM audience_rules")
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let tenant = row.try_get::<String, _>(0)?.parse()?;
        let secret = source.keys.tenant_secret(&tenant).await?;
        let repository: String = row.try_get(1)?;
        let to: Audience = row.try_get::<String, _>(2)?.parse()?;
        // SMALLINT arrives as a wider integer from SQLite.
        let trainable = row.try_get::<i64, _>(3).or_else(|_| row.try_get::<i16, _>(3).map(i64::from))? == 1;
        let (subject, value) = rules::told(&secret, &tenant, &repository, &to, trainable);
        let updated_at = Timestamp::from_micros(row.try_get(4)?);
        scratch.saw_seed(Stage::Labeler, (audience::CONTROL_KIND, &subject), value.as_bytes(), Some(updated_at))?;
    }
    let rows = sqlx::query("SELECT subject, value FROM label_policy").fetch_all(&mut *connection).await?;
    for row in rows {
        let (subject, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let kind = policy_record::CONTROL_KIND;
        scratch.saw_seed(Stage::Labeler, (kind, &subject), value.as_bytes(), None)?;
    }
    Ok(())
}
