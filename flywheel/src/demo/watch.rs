//! Counts behind the doors, for the screen. Looks only; nothing waits for it.

use std::time::Duration;

use events::topics;
use labeler::ledger;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use crate::platform::Platform;

/// How often the counts are read.
const INTERVAL: Duration = Duration::from_millis(500);

/// A task that keeps the bars current.
pub(crate) struct Watch {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(platform: &Platform, progress: Progress) -> Self {
        let stop = CancellationToken::new();
        let (pool, bus, tenant, token) =
            (platform.pool.clone(), platform.bus.clone(), platform.tenant.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while token.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                // A count that can not be read now is read at the next look.
                let scrubbed = ledger::totals(&pool, &tenant).await.map_or(0, |totals| totals.clean);
                let pairs = bus.topic_status(topics::PREFERENCE_PAIRS).await.map_or(0, |status| status.records);
                progress.stages(u64::try_from(scrubbed).unwrap_or(0), pairs);
            }
        });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // It holds nothing that could be lost.
        let _ended = self.task.await;
    }
}
