//! Counts behind the doors, for the screen. Looks only; nothing waits for it.

use std::time::Duration;

use labeler::ledger;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::stage::Ground;

/// How often the counts are read.
const INTERVAL: Duration = Duration::from_millis(500);

/// A task that keeps the bars current.
pub(crate) struct Watch {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(ground: &Ground<'_>, progress: Progress) -> Self {
        let stop = CancellationToken::new();
        let foundation = ground.foundation;
        let (pool, tenant) = (foundation.pool.clone(), foundation.settings.tenant.clone());
        let (lake, token) = (ground.lake.clone(), stop.clone());
        let task = tokio::spawn(async move {
            // What others did on the same platform before is none of the story's.
            let mut before = None;
            while token.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                // A count that can not be read now is read at the next look.
                let Ok(totals) = ledger::totals(&pool, &tenant).await else { continue };
                let Ok(extent) = lake.extent(&tenant).await else { continue };
                let scrubbed = u64::try_from(totals.clean).unwrap_or(0);
                let (earlier, paired) = *before.get_or_insert((scrubbed, extent.pairs));
                progress.stages(scrubbed.saturating_sub(earlier), extent.pairs.saturating_sub(paired));
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
