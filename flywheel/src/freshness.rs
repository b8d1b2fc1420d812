//! How long the oldest label waits that the next data set would take and nobody is served by.

use std::time::Duration;

use events::Timestamp;
use model_registry::lineage::SnapshotFilters;
use trainer_orchestrator::data_set::sources::Sources;
use trainer_orchestrator::freshness::oldest_unserved;

use crate::failure::Failure;
use crate::foundation::Foundation;

/// What it is found out from.
pub(crate) struct Freshness {
    sources: Sources,
    filters: SnapshotFilters,
}

impl Freshness {
    pub(crate) fn new(foundation: &Foundation) -> Result<Self, Failure> {
        let settings = &foundation.settings;
        let lake = foundation.lake.clone();
        Ok(Self {
            sources: Sources::new(&foundation.pool, settings.tenant.clone(), lake, foundation.keys.clone()),
            filters: settings.filters().map_err(Failure::refuse)?,
        })
    }

    /// Zero when no label waits.
    pub(crate) async fn age(&self, now: Timestamp) -> Result<Duration, Failure> {
        let oldest = oldest_unserved(&self.sources, &self.filters).await?;
        Ok(oldest.map_or(Duration::ZERO, |oldest| now.since(oldest)))
    }
}
