//! Letting a partition of a step go on behind what retention deleted before it was read.
//!
//! The partition is leased, and its transactions are begun, as a run of the step does: whoever owned it before can commit
//! nothing any more. Where to go on is committed in one transaction with the changelog, as everything else is.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use service::lease::{Fence, LeaseError};

use super::slot::{Lease, RunTopics, SlotLog};
use super::step::lease_name;
use super::{Inner, topics};
use crate::error::BusError;
use crate::interface::{Loss, LossBook};

/// The lease is renewed that often within its time.
const RENEWALS_PER_LEASE: u32 = 4;

pub(super) async fn skip_lost(
    inner: &Arc<Inner>,
    step: &str,
    partition: u32,
    book: &dyn LossBook,
) -> Result<Loss, BusError> {
    let unknown = || BusError::UnknownStep(step.to_owned());
    let (asking, name) = (Arc::clone(inner), step.to_owned());
    let input = Arc::clone(inner).blocking(move || asking.input_of_step(&name)).await?.ok_or_else(unknown)?;
    let partitions = inner.partitions(&input).await?;
    if partition >= partitions {
        return Err(BusError::Invalid(format!("{input} has partitions 0 to {}", partitions.saturating_sub(1))));
    }
    let changelog = topics::changelog_of(step);
    let actual = inner.ask_partitions(&changelog).await?.ok_or_else(unknown)?;
    if actual != partitions {
        return Err(BusError::PartitionsDiffer { topic: changelog, expected: partitions, actual });
    }
    let topics = RunTopics {
        step: step.to_owned(),
        input: Arc::from(input.as_str()),
        // Nothing is sent to either.
        outputs: Vec::new(),
        dead_letters: (String::new(), 0),
        changelog: inner.config.stored_name(&changelog),
    };
    let leases = inner.steps()?.leases.clone();
    let holder = hex::encode(rand::random::<[u8; 16]>());
    let until = Instant::now() + inner.lease();
    let lease = lease_name(&topics.changelog, "partition", partition);
    let fence = leases.acquire(&lease, &holder, inner.lease()).await.map_err(database)?;
    let fence = fence.ok_or_else(|| BusError::Owned { step: step.to_owned(), partition })?;
    let held = Held { inner, fence: Mutex::new(fence), until: Lease::new(until.into()) };
    let skipped = held.while_renewing(skip(inner, topics, partition, &held, book)).await;
    let fence = held.fence.lock().clone();
    if let Err(error) = leases.release(&fence).await {
        tracing::warn!(lease, %error, "a lease could not be given back; it will run out");
    }
    skipped
}

async fn skip(
    inner: &Arc<Inner>,
    topics: RunTopics,
    partition: u32,
    held: &Held<'_>,
    book: &dyn LossBook,
) -> Result<Loss, BusError> {
    let (shared, topics, until) = (Arc::clone(inner), Arc::new(topics), Arc::clone(&held.until));
    let epoch = held.fence.lock().epoch();
    let found = move || {
        let mut log = SlotLog::new(shared, topics, partition, epoch, until)?;
        let loss = log.loss()?;
        Ok((log, loss))
    };
    let (mut log, loss) = Arc::clone(inner).blocking(found).await?;
    let agreed = if loss.is_nothing() { Ok(false) } else { book.book(&loss).await };
    // It waits for the brokers, and closes a file.
    let ended = move || {
        if agreed? {
            log.go_on(&loss)?;
        }
        Ok(loss)
    };
    Arc::clone(inner).blocking(ended).await
}

/// The lease of the partition.
struct Held<'a> {
    inner: &'a Arc<Inner>,
    fence: Mutex<Fence>,
    until: Lease,
}

impl Held<'_> {
    /// Does the work and renews the lease meanwhile: building state may take long. Where that fails the transactions of
    /// the partition tell who owns it.
    async fn while_renewing<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(self.inner.lease() / RENEWALS_PER_LEASE) => {}
            }
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "cannot renew a partition");
            }
        }
    }

    async fn renew(&self) -> Result<(), BusError> {
        let until = Instant::now() + self.inner.lease();
        let fence = self.fence.lock().clone();
        let renewed = self.inner.steps()?.leases.renew(&fence, self.inner.lease()).await.map_err(database)?;
        *self.fence.lock() = renewed;
        *self.until.lock() = until;
        Ok(())
    }
}

fn database(error: LeaseError) -> BusError {
    BusError::Storage(format!("the leases of partitions: {error}"))
}
