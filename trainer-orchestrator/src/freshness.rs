//! Freshness: the age of the oldest label that passed every filter and is in no data set of a version that serves.

use std::collections::HashSet;

use events::{ModelName, PairId, TenantId, Timestamp};
use labeler::lake::LakeReader;
use sqlx::{AnyPool, Row};

use crate::error::OrchestratorError;

/// Label time of the oldest pair of weight above zero that no served version has seen; none when there is none.
///
/// # Errors
/// A database or lake that fails.
pub async fn oldest_unserved(
    pool: &AnyPool,
    lake: &LakeReader,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<Timestamp>, OrchestratorError> {
    let rows = sqlx::query(
        "SELECT DISTINCT p.pair_id AS pair_id FROM snapshot_pairs p \
         JOIN snapshots s ON s.snapshot_digest = p.snapshot_digest \
         JOIN training_runs r ON r.snapshot_digest = p.snapshot_digest \
         WHERE s.tenant = $1 AND s.model = $2 AND r.rollout_id IS NOT NULL",
    )
    .bind(tenant.as_str().to_owned())
    .bind(model.as_str().to_owned())
    .fetch_all(pool)
    .await?;
    let mut served = HashSet::with_capacity(rows.len());
    for row in &rows {
        served.insert(row.try_get::<String, _>("pair_id")?.parse::<PairId>()?);
    }
    lake.oldest_label_outside(tenant, &served, |pair| pair.weight > 0.0 && pair.model == *model)
        .await
        .map_err(|error| OrchestratorError::Lake(error.to_string()))
}
