//! How far the sinks are behind, and what the tally holds.

use std::time::Duration;

use bus::{Bus, Position, Positions};
use events::{Arm, Decision, OpportunityOutcome, Signal, TenantId, Timestamp, topics};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

use crate::failure::Failure;

/// Name of the short-lived reader that looks.
const READER: &str = "sinks look";
/// Most records that are counted for one sink and topic; more is shown as this many.
const MOST: usize = 10_000;

const SOURCES: [(&str, &str); 6] = [
    (labeler::lake::SINK, topics::PREFERENCE_PAIRS),
    (labeler::ledger::SINK, topics::TELEMETRY_RAW),
    (labeler::ledger::SINK, topics::TELEMETRY_CLEAN),
    (labeler::ledger::SINK, topics::TELEMETRY_QUARANTINE),
    (labeler::ledger::SINK, topics::DEAD_LETTERS),
    (labeler::tally::SINK, topics::SERVING_OUTCOMES),
];

/// Records that some sink has not written yet. Looks at records, not at positions: control records behind the last
/// record move the end of a topic, and no sink waits for them.
pub(crate) async fn behind(bus: &dyn Bus, pool: &AnyPool) -> Result<u64, Failure> {
    let mut behind = 0;
    for (sink, topic) in SOURCES {
        let rows =
            sqlx::query("SELECT partition_index, next_position FROM sink_positions WHERE sink = $1 AND topic = $2")
                .bind(sink.to_owned())
                .bind(topic.to_owned())
                .fetch_all(pool)
                .await?;
        let mut from = Positions::default();
        for row in rows {
            let position: Position = row.try_get::<String, _>(1)?.parse()?;
            from.set(u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0), position);
        }
        let mut tail = bus.tail(topic, READER, from).await?;
        let mut counted = 0;
        while counted < MOST {
            let records = tail.next(MOST - counted, Duration::ZERO).await?;
            if records.is_empty() {
                break;
            }
            counted += records.len();
        }
        drop(tail);
        bus.forget_reader(topic, READER).await?;
        behind += u64::try_from(counted).unwrap_or(u64::MAX);
    }
    Ok(behind)
}

/// Every closed opportunity of a tenant, by its id.
pub(crate) async fn outcomes(pool: &AnyPool, tenant: &TenantId) -> Result<Vec<OpportunityOutcome>, Failure> {
    let rows = sqlx::query("SELECT * FROM opportunity_outcomes WHERE tenant = $1 ORDER BY opportunity_id")
        .bind(tenant.as_str().to_owned())
        .fetch_all(pool)
        .await?;
    rows.iter().map(outcome).collect()
}

fn outcome(row: &AnyRow) -> Result<OpportunityOutcome, Failure> {
    let text = |name: &str| row.try_get::<String, _>(name);
    // SMALLINT arrives as a wider integer from SQLite.
    let truth = |name: &str| -> Result<bool, sqlx::Error> {
        row.try_get::<i64, _>(name).or_else(|_| row.try_get::<i16, _>(name).map(i64::from)).map(|value| value == 1)
    };
    let optional = |name: &str| row.try_get::<Option<String>, _>(name);
    Ok(OpportunityOutcome {
        opportunity_id: text("opportunity_id")?.parse()?,
        suggestion_id: optional("suggestion_id")?.map(|id| id.parse()).transpose()?,
        tenant: text("tenant")?.parse()?,
        person: text("person")?.parse()?,
        model: text("model")?.parse()?,
        model_version: events::ModelVersion(row.try_get("model_version")?),
        rollout_id: optional("rollout_id")?.map(|id| id.parse()).transpose()?,
        arm: Arm::from_symbol(&text("arm")?),
        block: row.try_get("block")?,
        decision: Decision::from_symbol(&text("decision")?),
        signal: Signal::from_symbol(&text("signal")?),
        utility: row.try_get("utility")?,
        shown: truth("shown")?,
        accepted: truth("accepted")?,
        kept_characters: row.try_get("kept_characters")?,
        censored: truth("censored")?,
        exposure_missing: truth("exposure_missing")?,
        explored: truth("explored")?,
        repository: text("repository")?,
        exposed_at: Timestamp::from_micros(row.try_get("exposed_at")?),
        closed_at: Timestamp::from_micros(row.try_get("closed_at")?),
    })
}
