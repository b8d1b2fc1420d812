//! The tally: one row per closed opportunity, and the measures of a version.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bus::CommittedRecord;
use events::topics::SERVING_OUTCOMES;
use events::{Arm, ModelName, ModelVersion, OpportunityOutcome, RolloutId, TenantId, Timestamp};
use metrics::counter;
use migrations::storable;
use serde::{Deserialize, Serialize};
use sqlx::{Any, AnyPool, Row, Transaction};

use crate::config::SinkConfig;
use crate::ledger::decode;
use crate::sink::{BatchLimits, Sink, SinkError};
use crate::statistics::{Cluster, Estimate, clustered_ratio};

/// Name of the tally's positions.
pub const SINK: &str = "tally";

const COLUMNS: usize = 27;
const ROWS: usize = 200;

/// The sink over `serving.outcomes.v1`.
#[derive(Debug)]
pub struct Tally {
    config: SinkConfig,
}

impl Tally {
    /// A tally with these batches.
    #[must_use]
    pub fn new(config: SinkConfig) -> Self {
        Self { config }
    }
}

#[async_trait]
impl Sink for Tally {
    fn name(&self) -> &str {
        SINK
    }

    fn topics(&self) -> Vec<String> {
        vec![SERVING_OUTCOMES.to_owned()]
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            records: self.config.batch_records,
            bytes: 16 << 20,
            age: Duration::from_millis(self.config.wait_ms),
        }
    }

    async fn write(
        &mut self,
        transaction: &mut Transaction<'static, Any>,
        records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        let mut outcomes = Vec::with_capacity(records.len());
        for record in records {
            outcomes.extend(decode::<OpportunityOutcome>(record)?);
        }
        for chunk in outcomes.chunks(ROWS) {
            let inserted = insert(transaction, chunk).await?;
            let repeated = u64::try_from(chunk.len()).unwrap_or(0).saturating_sub(inserted);
            if repeated > 0 {
                // An opportunity closes once; a second outcome would be a fault of the step.
                counter!("flywheel_labeler_outcomes_repeated_total").increment(repeated);
            }
        }
        Ok(())
    }
}

async fn insert(
    transaction: &mut Transaction<'static, Any>,
    outcomes: &[OpportunityOutcome],
) -> Result<u64, sqlx::Error> {
    let mut statement = String::from(
        "INSERT INTO opportunity_outcomes (tenant, opportunity_id, suggestion_id, person, model, model_version, \
         rollout_id, arm, block, decision, signal, utility, shown, accepted, kept_characters, censored, \
         exposure_missing, explored, repository, exposed_at, closed_at, language, pattern, first_action_ms, \
         standing_30_s_permille, standing_120_s_permille, standing_300_s_permille) VALUES ",
    );
    for row in 0..outcomes.len() {
        let places: Vec<String> = (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
        statement.push_str(if row == 0 { "(" } else { ", (" });
        statement.push_str(&places.join(", "));
        statement.push(')');
    }
    statement.push_str(" ON CONFLICT (tenant, opportunity_id) DO NOTHING");
    let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
    for outcome in outcomes {
        let detail = outcome.detail.as_ref();
        query = query
            .bind(outcome.tenant.to_string())
            .bind(outcome.opportunity_id.to_string())
            .bind(outcome.suggestion_id.map(|id| id.to_string()))
            .bind(outcome.person.to_string())
            .bind(outcome.model.to_string())
            .bind(outcome.model_version.0)
            .bind(outcome.rollout_id.map(|id| id.to_string()))
            .bind(outcome.arm.as_str())
            .bind(outcome.block)
            .bind(outcome.decision.as_str())
            .bind(outcome.signal.as_str())
            .bind(outcome.utility)
            .bind(i16::from(outcome.shown))
            .bind(i16::from(outcome.accepted))
            .bind(outcome.kept_characters)
            .bind(i16::from(outcome.censored))
            .bind(i16::from(outcome.exposure_missing))
            .bind(i16::from(outcome.explored))
            .bind(storable(&outcome.repository).into_owned())
            .bind(outcome.exposed_at.as_micros())
            .bind(outcome.closed_at.as_micros())
            .bind(detail.map(|detail| storable(&detail.language).into_owned()))
            .bind(detail.and_then(|detail| detail.pattern).map(|pattern| pattern.as_str().to_owned()))
            .bind(detail.and_then(|detail| detail.first_action_ms))
            .bind(detail.and_then(|detail| detail.standing_30_s_permille))
            .bind(detail.and_then(|detail| detail.standing_120_s_permille))
            .bind(detail.and_then(|detail| detail.standing_300_s_permille));
    }
    Ok(query.execute(&mut **transaction).await?.rows_affected())
}

/// Which opportunities of a version are measured; nothing set means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeasureFilter {
    /// Served from then on.
    pub exposed_from: Option<Timestamp>,
    /// Served before then.
    pub exposed_before: Option<Timestamp>,
    /// In this rollout.
    pub rollout_id: Option<RolloutId>,
    /// On this side of it.
    pub arm: Option<Arm>,
    /// In this repository, as the model sees it.
    pub repository: Option<String>,
}

/// The measures of a version. Rates are none when nothing was there to be measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Closed opportunities that count (censored ones are in no rate).
    pub opportunities: u64,
    /// Of them, shown.
    pub shown: u64,
    /// Opportunities that do not count because their session ended too early.
    pub censored: u64,
    /// Opportunities whose exposure was lost.
    pub exposures_missing: u64,
    /// Persons behind them.
    pub persons: u64,
    /// Shown / opportunities: the generation ratio.
    pub shown_rate: Option<Estimate>,
    /// (Accepted + partially edited) / shown.
    pub acceptance: Option<Estimate>,
    /// (Accepted + partially edited) / opportunities.
    #[serde(rename = "yield")]
    pub accepted_rate: Option<Estimate>,
    /// Characters of accepted text that stand / opportunities.
    pub kept_chars_per_opportunity: Option<Estimate>,
    /// Utility / opportunities: the primary measure.
    pub utility: Option<Estimate>,
}

/// Sums over the counted opportunities of one person.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PersonSums {
    /// Opportunities.
    pub opportunities: f64,
    /// Shown.
    pub shown: f64,
    /// Accepted or partially edited.
    pub accepted: f64,
    /// Characters kept.
    pub kept_characters: f64,
    /// Utility.
    pub utility: f64,
}

/// Sums per person for a version; persons come as pseudonyms and must not be shown or ranked.
///
/// # Errors
/// A database that fails.
pub async fn sums_by_person(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
    filter: &MeasureFilter,
) -> Result<BTreeMap<String, PersonSums>, sqlx::Error> {
    Ok(rows(pool, tenant, model, version, filter).await?.into_iter().map(|row| (row.person, row.sums)).collect())
}

struct PersonRow {
    person: String,
    sums: PersonSums,
    censored: i64,
    exposures_missing: i64,
}

async fn rows(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
    filter: &MeasureFilter,
) -> Result<Vec<PersonRow>, sqlx::Error> {
    let mut statement = String::from(
        "SELECT person, \
         CAST(SUM(1 - censored) AS BIGINT), CAST(SUM((1 - censored) * shown) AS BIGINT), \
         CAST(SUM((1 - censored) * accepted) AS BIGINT), CAST(SUM((1 - censored) * kept_characters) AS BIGINT), \
         CAST(SUM((1 - censored) * utility) AS DOUBLE PRECISION), CAST(SUM(censored) AS BIGINT), \
         CAST(SUM(exposure_missing) AS BIGINT) \
         FROM opportunity_outcomes WHERE tenant = $1 AND model = $2 AND model_version = $3",
    );
    let mut place = 3;
    let mut add = |condition: &str, wanted: bool| {
        if wanted {
            place += 1;
            statement.push_str(&format!(" AND {condition} ${place}"));
        }
    };
    add("exposed_at >=", filter.exposed_from.is_some());
    add("exposed_at <", filter.exposed_before.is_some());
    add("rollout_id =", filter.rollout_id.is_some());
    add("arm =", filter.arm.is_some());
    add("repository =", filter.repository.is_some());
    statement.push_str(" GROUP BY person");
    let mut query =
        sqlx::query(sqlx::AssertSqlSafe(statement)).bind(tenant.as_str()).bind(model.as_str()).bind(version.0);
    if let Some(from) = filter.exposed_from {
        query = query.bind(from.as_micros());
    }
    if let Some(before) = filter.exposed_before {
        query = query.bind(before.as_micros());
    }
    if let Some(rollout) = filter.rollout_id {
        query = query.bind(rollout.to_string());
    }
    if let Some(arm) = filter.arm {
        query = query.bind(arm.as_str());
    }
    if let Some(repository) = &filter.repository {
        query = query.bind(storable(repository).into_owned());
    }
    let rows = query.fetch_all(pool).await?;
    let mut persons = (rows.iter())
        .map(|row| {
            let number = |index: usize| row.try_get::<i64, _>(index);
            Ok(PersonRow {
                person: row.try_get(0)?,
                sums: PersonSums {
                    opportunities: real(number(1)?),
                    shown: real(number(2)?),
                    accepted: real(number(3)?),
                    kept_characters: real(number(4)?),
                    utility: row.try_get(5)?,
                },
                censored: number(6)?,
                exposures_missing: number(7)?,
            })
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    // Here and not by the database, whose order of texts is a setting: sums depend on their order.
    persons.sort_by(|left, right| left.person.cmp(&right.person));
    Ok(persons)
}

/// Counts stay far below 2^53, where this is exact.
pub(crate) fn real(number: i64) -> f64 {
    i32::try_from(number).map_or(number as f64, f64::from)
}

/// The measures of a version, with 95% intervals clustered by person.
///
/// # Errors
/// A database that fails.
pub async fn measures(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
    filter: &MeasureFilter,
) -> Result<Measures, sqlx::Error> {
    let rows = rows(pool, tenant, model, version, filter).await?;
    let ratio = |numerator: fn(&PersonSums) -> f64, denominator: fn(&PersonSums) -> f64| {
        let clusters: Vec<Cluster> = rows
            .iter()
            .map(|row| Cluster { numerator: numerator(&row.sums), denominator: denominator(&row.sums) })
            .collect();
        clustered_ratio(&clusters)
    };
    let total = |value: fn(&PersonRow) -> i64| u64::try_from(rows.iter().map(value).sum::<i64>()).unwrap_or(0);
    let sum = |value: fn(&PersonSums) -> f64| rows.iter().map(|row| value(&row.sums)).sum::<f64>().round() as u64;
    Ok(Measures {
        opportunities: sum(|sums| sums.opportunities),
        shown: sum(|sums| sums.shown),
        censored: total(|row| row.censored),
        exposures_missing: total(|row| row.exposures_missing),
        persons: u64::try_from(rows.iter().filter(|row| row.sums.opportunities > 0.0).count()).unwrap_or(0),
        shown_rate: ratio(|sums| sums.shown, |sums| sums.opportunities),
        acceptance: ratio(|sums| sums.accepted, |sums| sums.shown),
        accepted_rate: ratio(|sums| sums.accepted, |sums| sums.opportunities),
        kept_chars_per_opportunity: ratio(|sums| sums.kept_characters, |sums| sums.opportunities),
        utility: ratio(|sums| sums.utility, |sums| sums.opportunities),
    })
}

/// The versions of a model that have closed opportunities.
///
/// # Errors
/// A database that fails.
pub async fn measured_versions(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<ModelVersion>, sqlx::Error> {
    let versions: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT model_version FROM opportunity_outcomes WHERE tenant = $1 AND model = $2 \
         ORDER BY model_version",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .fetch_all(pool)
    .await?;
    Ok(versions.into_iter().map(ModelVersion).collect())
}
