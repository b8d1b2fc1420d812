//! Freshness: the age of the oldest label that passed every filter and is in no data set of a version that serves.

use std::collections::{BTreeSet, HashSet};

use events::{ModelName, PairReason, PreferencePair, TenantId, Timestamp};
use labeler::lake::LakeReader;
use parking_lot::Mutex;
use service::keys::KeyStore;
use sqlx::AnyPool;

use crate::data_set::candidates::says_what_was_wanted;
use crate::erasure::erased;
use crate::error::OrchestratorError;

/// Label time of the oldest usable pair that no version which may be served now has seen, itself or through its
/// anchors; none when there is none. A version that was rolled back serves nobody.
///
/// # Errors
/// A database or lake that fails.
pub async fn oldest_unserved(
    pool: &AnyPool,
    lake: &LakeReader,
    keys: &KeyStore,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<Timestamp>, OrchestratorError> {
    let served = model_registry::served_pairs(pool, tenant, model)
        .await
        .map_err(|error| OrchestratorError::Registry(error.to_string()))?;
    // Who was erased is known only when their pairs were met: then they are left out of another reading.
    let mut gone = HashSet::new();
    loop {
        let met = Mutex::new(BTreeSet::new());
        let is_wanted = |pair: &PreferencePair| {
            let awaited = pair.model == *model && is_awaited(pair);
            let Some(sealed) = pair.sealed.as_ref().filter(|_| awaited) else { return false };
            met.lock().insert(sealed.key_id);
            !gone.contains(&sealed.key_id)
        };
        let oldest = lake.oldest_label_outside(tenant, &served, is_wanted).await;
        let oldest = oldest.map_err(|error| OrchestratorError::Lake(error.to_string()))?;
        let found = erased(keys, met.into_inner()).await?;
        if found == gone {
            return Ok(oldest);
        }
        gone = found;
    }
}

/// Whether a data set is sure to take a pair. Silence that was chosen is taken only as far as silence was rejected, and
/// what does not say what was wanted not while the newest are held out: one such pair that is left out must not look
/// like a wheel that stands still.
fn is_awaited(pair: &PreferencePair) -> bool {
    pair.weight > 0.0 && pair.reason != PairReason::Dismissed && says_what_was_wanted(pair)
}
