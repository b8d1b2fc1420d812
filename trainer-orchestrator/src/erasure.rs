//! Pairs of erased persons: nobody can open them any more, and they stay in the lake until compaction leaves them out.

use std::collections::{BTreeSet, HashSet};

use events::{KeyId, PreferencePair};
use service::keys::{KeyLookup, KeyStore};

use crate::error::OrchestratorError;

/// Those of `keys` that were destroyed.
pub(crate) async fn erased(store: &KeyStore, keys: BTreeSet<KeyId>) -> Result<HashSet<KeyId>, OrchestratorError> {
    let mut erased = HashSet::new();
    for key in keys {
        if matches!(store.get(key).await?, KeyLookup::Erased) {
            erased.insert(key);
        }
    }
    Ok(erased)
}

/// Leaves out what can not be opened: counted in, it would make a data set smaller than it says.
pub(crate) async fn leave_out(store: &KeyStore, pairs: &mut Vec<PreferencePair>) -> Result<(), OrchestratorError> {
    let key_of = |pair: &PreferencePair| pair.sealed.as_ref().map(|sealed| sealed.key_id);
    let erased = erased(store, pairs.iter().filter_map(key_of).collect()).await?;
    pairs.retain(|pair| key_of(pair).is_none_or(|key| !erased.contains(&key)));
    Ok(())
}
