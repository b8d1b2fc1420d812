//! Freshness: the age of the oldest label that passed every filter and is in no data set of a version that serves.
//!
//! A label waits when the next data set is sure to take it. What rules, consents or filters refuse, now, waits for
//! nothing, and what a data set had no room for waits no more: such a pair would be the oldest for ever, as if the wheel
//! stood still.

use std::collections::{BTreeSet, HashSet};

use events::{PairReason, PreferencePair, Timestamp};
use model_registry::lineage::SnapshotFilters;
use parking_lot::Mutex;

use crate::data_set::candidates::{refusal, says_what_was_wanted};
use crate::data_set::sources::Sources;
use crate::data_set::stored;
use crate::erasure::erased;
use crate::error::OrchestratorError;

/// Label time of the oldest pair that a data set made by `filters` would take and that no version which may be served
/// now has seen, itself or through its anchors; none when there is none. A version that was rolled back serves nobody.
///
/// # Errors
/// A database or lake that fails.
pub async fn oldest_unserved(
    sources: &Sources,
    filters: &SnapshotFilters,
) -> Result<Option<Timestamp>, OrchestratorError> {
    let served = model_registry::served_snapshots(&sources.pool, &filters.tenant, &filters.model)
        .await
        .map_err(|error| OrchestratorError::Registry(error.to_string()))?;
    let decided = stored::decided(&sources.pool, &served).await?;
    let allowed = sources.allow_list(&sources.rules().await?).await?;
    let sharing = sources.sharing().await?;
    let waits = |pair: &PreferencePair| {
        is_awaited(pair)
            && decided.passed_over_until.is_none_or(|until| pair.labeled_at > until)
            && refusal(pair, filters, &allowed, &sharing).is_none()
    };
    // Who was erased is known only when their pairs were met: then they are left out of another reading.
    let mut gone = HashSet::new();
    loop {
        let met = Mutex::new(BTreeSet::new());
        let is_wanted = |pair: &PreferencePair| {
            let Some(sealed) = pair.sealed.as_ref().filter(|_| waits(pair)) else { return false };
            met.lock().insert(sealed.key_id);
            !gone.contains(&sealed.key_id)
        };
        let oldest = sources.lake.oldest_label_outside(&filters.tenant, &decided.pairs, is_wanted).await;
        let oldest = oldest.map_err(|error| OrchestratorError::Lake(error.to_string()))?;
        let found = erased(&sources.keys, met.into_inner()).await?;
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
