//! Consent, remembered for a bounded time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use events::{ConsentTier, PersonPseudonym, TenantId};
use parking_lot::Mutex;
use service::consent::{ConsentError, ConsentStore};

/// What persons agreed to, at most `staleness` old. The staleness is real time: it bounds how long a process may be
/// wrong about a decision that was made elsewhere. The anonymizer looks again when it scrubs.
pub(crate) struct ConsentCache {
    store: ConsentStore,
    staleness: Duration,
    capacity: usize,
    known: Mutex<HashMap<(TenantId, PersonPseudonym), (ConsentTier, Instant)>>,
}

impl ConsentCache {
    pub(crate) fn new(store: ConsentStore, staleness: Duration, capacity: usize) -> Self {
        Self { store, staleness, capacity: capacity.max(1), known: Mutex::new(HashMap::new()) }
    }

    /// The person's tier. An unknown symbol allows nothing.
    pub(crate) async fn tier(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<ConsentTier, ConsentError> {
        let owner = (tenant.clone(), person.clone());
        if let Some((tier, at)) = self.known.lock().get(&owner)
            && at.elapsed() < self.staleness
        {
            return Ok(*tier);
        }
        let tier = match self.store.effective(tenant, person).await? {
            ConsentTier::Unknown => ConsentTier::None,
            tier => tier,
        };
        let mut known = self.known.lock();
        if known.len() >= self.capacity {
            known.retain(|_, (_, at)| at.elapsed() < self.staleness);
            if known.len() >= self.capacity {
                known.clear();
            }
        }
        known.insert(owner, (tier, Instant::now()));
        Ok(tier)
    }
}
