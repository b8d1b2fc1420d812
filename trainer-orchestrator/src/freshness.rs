//! Freshness: the age of the oldest label that passed every filter and is in no data set of a version that serves.

use events::{ModelName, PairReason, PreferencePair, TenantId, Timestamp};
use labeler::lake::LakeReader;
use sqlx::AnyPool;

use crate::error::OrchestratorError;

/// Label time of the oldest usable pair that no version which may be served now has seen, itself or through its anchors;
/// none when there is none. A version that was rolled back serves nobody.
///
/// # Errors
/// A database or lake that fails.
pub async fn oldest_unserved(
    pool: &AnyPool,
    lake: &LakeReader,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<Timestamp>, OrchestratorError> {
    let served = model_registry::served_pairs(pool, tenant, model)
        .await
        .map_err(|error| OrchestratorError::Registry(error.to_string()))?;
    lake.oldest_label_outside(tenant, &served, |pair| pair.model == *model && is_awaited(pair))
        .await
        .map_err(|error| OrchestratorError::Lake(error.to_string()))
}

/// Whether a data set is sure to take a pair. Silence that was chosen is taken only as far as silence was rejected, so one
/// such pair that is left out must not look like a wheel that stands still.
fn is_awaited(pair: &PreferencePair) -> bool {
    pair.weight > 0.0 && pair.sealed.is_some() && pair.reason != PairReason::Dismissed
}
