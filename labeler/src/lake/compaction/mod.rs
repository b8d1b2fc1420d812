//! Compaction: few large parts of many small ones, parts of one day, audience and language of those that hold several,
//! and no pair of an erased person in what was written again.
//!
//! **What may not happen.** No pair is lost or doubled, for no reader and at no moment; nothing that is listed becomes
//! unreadable under whoever reads it; no data set changes.
//!
//! 1. The parts of a job are read and verified. One that cannot be used, or that a newer release wrote, is left alone.
//! 2. What was read is encoded anew, and its objects are stored. Until a row names them they are garbage, and written down
//!    as such before they are stored, as are those of the sink; the same job done again makes the same bytes, which is the
//!    same object.
//! 3. In one transaction, behind the fence of the lease, the old rows go and the new ones come. Every old row must be
//!    the one that was listed, or nothing happens. A reader lists all rows in one statement and so sees each pair once.
//!    Whoever led before and wakes up now is refused by the fence.
//! 4. The old objects are written down in that transaction and removed [`CompactionConfig::keep_replaced_hours`] later:
//!    whoever listed them before goes on reading them until then, and lists again should they be gone. An object is
//!    claimed first, in a transaction that makes sure that no row names it, then removed, and forgotten afterwards. Whoever
//!    is about to store the same bytes writes them down anew, before the claim, or is refused until they are forgotten. A row
//!    that comes so late that its object was claimed is refused, too: it is stored again.
//!
//! A process may end, or an activation be dropped, at each of these points; the next one goes on from the rows. A data
//! set is named by its pairs and their content, which are copied as they are; that they lie elsewhere changes no digest.
//! Pairs are left out in one case: their text is sealed under a data key that was destroyed. Nobody could read them any
//! more, so no data set that is made now would have held them. Whole parts go when they are past retention
//! ([`retention`]), also where nothing is compacted.
//!
//! [`CompactionConfig::keep_replaced_hours`]: crate::config::CompactionConfig::keep_replaced_hours

mod choice;
pub mod retention;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::ArtifactStore;
use async_trait::async_trait;
use events::{KeyId, Sha256Digest, Timestamp};
use metrics::counter;
use parking_lot::Mutex;
use service::clock::{SharedClock, real_now};
use service::keys::KeyStore;
use service::lease::{Fence, LeaseHandle, LeaseStore, keep};
use service::reconciler::{Next, ReconcileError, Reconciler, Schedule, drive};
use sqlx::{Any, AnyPool, Transaction};
use tokio_util::sync::CancellationToken;

use self::choice::{Job, Reason, choose};
use self::retention::Expired;
use super::error::LakeError;
use super::group::grouped;
use super::part::{PartError, PartMetadata, PlacedPair, SealedText};
use super::reader::{LakeReader, tell};
use super::rows::{self, LakePart};
use super::writer::{EncodedPart, PartContent, store_objects};
use crate::config::LakeConfig;

/// The lease under which one process compacts, and lets go what is past retention.
pub const LEASE_NAME: &str = "lake/compaction";
/// The lease of processes that do not compact: whichever of them holds it lets go what is past retention, and keeps
/// nobody from compacting.
const RETENTION_LEASE_NAME: &str = "lake/retention";
/// How long a process that vanished keeps the others from it. Real time.
const LEASE: Duration = Duration::from_secs(15);
/// How long a part that could not be written again is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(3600);

/// What an activation has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Parts that were taken out of the lake.
    pub parts_replaced: u64,
    /// Parts that came instead.
    pub parts_made: u64,
    /// Parts of which it was made sure that nothing in them is sealed under a destroyed key.
    pub parts_cleared: u64,
    /// Pairs that were left out because their key was destroyed.
    pub pairs_erased: u64,
    /// Objects that were removed.
    pub objects_removed: u64,
}

/// Compacts the lake.
#[derive(Debug)]
pub struct Compactor {
    pool: AnyPool,
    artifacts: Arc<dyn ArtifactStore>,
    keys: KeyStore,
    reader: LakeReader,
    /// The platform's: labels are as old as it says.
    clock: SharedClock,
    config: LakeConfig,
    /// Parts that cannot be written again, and since when that is known.
    left_alone: Mutex<BTreeMap<String, Instant>>,
}

impl Compactor {
    /// A compactor of the lake that `pool` names and `artifacts` holds, whose labels are of `clock`.
    #[must_use]
    pub fn new(
        pool: AnyPool,
        artifacts: Arc<dyn ArtifactStore>,
        keys: KeyStore,
        clock: SharedClock,
        config: LakeConfig,
    ) -> Self {
        let reader = LakeReader::new(pool.clone(), Arc::clone(&artifacts));
        Self { pool, artifacts, keys, reader, clock, config, left_alone: Mutex::new(BTreeMap::new()) }
    }

    /// Does what is to be done now: removes objects whose time is over and, if compaction is enabled, writes parts again.
    /// What that makes possible is done by the next call. Idempotent; may be dropped at any point. `now` is real time, by
    /// which objects are kept.
    ///
    /// # Errors
    /// A lease that was lost, or a store that fails. What was done until then stays.
    pub async fn compact(&self, fence: &Fence, now: Timestamp) -> Result<Compacted, LakeError> {
        let mut done = Compacted::default();
        self.remove_replaced(now, &mut done).await?;
        if !self.config.compaction.enabled {
            return Ok(done);
        }
        for tenant in rows::tenants(&self.pool).await? {
            // Read before the pairs are: what is erased meanwhile makes the count grow, and is found by the next look.
            let erased: HashSet<KeyId> = self.keys.erased_keys(&tenant).await?.into_iter().collect();
            let erasures = u64::try_from(erased.len()).unwrap_or(u64::MAX);
            let parts = rows::list(&self.pool, &tenant).await?;
            for job in choose(&parts, &self.config.compaction, erasures, &self.left_alone(), self.clock.now()) {
                let work = Work { fence, now, erased: &erased };
                self.rewrite(&work, job, &mut done).await?;
            }
        }
        Ok(done)
    }

    fn left_alone(&self) -> BTreeSet<String> {
        let mut left_alone = self.left_alone.lock();
        left_alone.retain(|_, since| since.elapsed() < LEFT_ALONE);
        left_alone.keys().cloned().collect()
    }

    async fn rewrite(&self, work: &Work<'_>, job: Job, done: &mut Compacted) -> Result<(), LakeError> {
        let reason = job.reason;
        let (parts, mut pairs) = self.read(job.parts).await?;
        let is_erased =
            |(_, pair): &PlacedPair| pair.sealed.as_ref().is_some_and(|sealed| work.erased.contains(&sealed.key_id));
        let before = pairs.len();
        pairs.retain(|pair| !is_erased(pair));
        let left_out = u64::try_from(before - pairs.len()).unwrap_or(u64::MAX);
        let erasures = u64::try_from(work.erased.len()).unwrap_or(u64::MAX);
        match reason {
            // Others than these could not be read.
            Reason::Merge if parts.len() < 2 => return Ok(()),
            Reason::Split | Reason::Erase if parts.is_empty() => return Ok(()),
            Reason::Erase if left_out == 0 => {
                migrations::retried(|| self.clear(work, &parts, erasures)).await?;
                done.parts_cleared += u64::try_from(parts.len()).unwrap_or(u64::MAX);
                return Ok(());
            }
            Reason::Merge | Reason::Split | Reason::Erase => {}
        }
        let encoded = self.encode(&parts, pairs, erasures).await?;
        let made = store_objects(&self.artifacts, &self.pool, encoded, work.now).await?;
        migrations::retried(|| self.replace(work, &parts, &made)).await?;
        let count = |parts: &[LakePart]| u64::try_from(parts.len()).unwrap_or(u64::MAX);
        done.parts_replaced += count(&parts);
        done.parts_made += count(&made);
        done.pairs_erased += left_out;
        counter!("flywheel_labeler_lake_rewrites_total", "reason" => reason.as_str()).increment(1);
        counter!("flywheel_labeler_lake_parts_replaced_total").increment(count(&parts));
        counter!("flywheel_labeler_lake_pairs_erased_total").increment(left_out);
        Ok(())
    }

    /// The parts that can be written again, with what is in them.
    async fn read(&self, listed: Vec<LakePart>) -> Result<(Vec<LakePart>, Vec<PlacedPair>), LakeError> {
        let (mut parts, mut pairs) = (Vec::new(), Vec::new());
        for part in listed {
            match self.reader.decode(&part, SealedText::Taken).await {
                Ok(decoded) if decoded.is_of_newer_release => {
                    tracing::debug!(part = part.part_id, "a newer release wrote this part and may write it again");
                    self.left_alone.lock().insert(part.part_id, Instant::now());
                }
                Ok(decoded) => {
                    pairs.extend(decoded.pairs);
                    parts.push(part);
                }
                Err(LakeError::BadPart(bad)) => {
                    tell(&bad);
                    self.left_alone.lock().insert(part.part_id, Instant::now());
                }
                // Its rows are listed again by the next look.
                Err(LakeError::Replaced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((parts, pairs))
    }

    async fn encode(
        &self,
        replaced: &[LakePart],
        pairs: Vec<PlacedPair>,
        erasures: u64,
    ) -> Result<Vec<EncodedPart>, LakeError> {
        let Some(first) = replaced.first() else { return Ok(Vec::new()) };
        let topic = first.topic.clone();
        let generation = replaced.iter().map(|part| part.generation).max().unwrap_or(0).saturating_add(1);
        let mut inputs: Vec<(String, Sha256Digest)> =
            replaced.iter().map(|part| (part.part_id.clone(), part.digest)).collect();
        inputs.sort();
        let (groups, limits) = (self.config.part_groups, self.config.row_groups());
        let encoding = move || -> Result<Vec<EncodedPart>, PartError> {
            let mut encoded = Vec::new();
            for (group, pairs) in grouped(pairs, groups) {
                let content = PartContent { topic: topic.clone(), group, generation, erasures, pairs };
                encoded.extend(EncodedPart::encode(&content, limits, |metadata| part_id(&inputs, metadata))?);
            }
            Ok(encoded)
        };
        Ok(tokio::task::spawn_blocking(encoding).await.unwrap_or(Err(PartError::GaveUp))?)
    }

    async fn replace(&self, work: &Work<'_>, old: &[LakePart], new: &[LakePart]) -> Result<(), LakeError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        work.fence.check(&mut transaction).await?;
        take_out(&mut transaction, old, work.now).await?;
        for part in new {
            rows::insert(&mut transaction, part).await?;
        }
        migrations::commit(transaction).await?;
        Ok(())
    }

    async fn clear(&self, work: &Work<'_>, parts: &[LakePart], erasures: u64) -> Result<(), LakeError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        work.fence.check(&mut transaction).await?;
        for part in parts {
            rows::mark(&mut transaction, part, erasures).await?;
        }
        migrations::commit(transaction).await?;
        Ok(())
    }

    async fn remove_replaced(&self, now: Timestamp, done: &mut Compacted) -> Result<(), LakeError> {
        let until = now - Duration::from_secs(self.config.compaction.keep_replaced_hours.saturating_mul(3600));
        loop {
            let objects = rows::replaced_before(&self.pool, until).await?;
            if objects.is_empty() {
                return Ok(());
            }
            for object in objects {
                if self.remove(&object, until).await? {
                    done.objects_removed += 1;
                    counter!("flywheel_labeler_lake_objects_removed_total").increment(1);
                }
            }
        }
    }

    /// Removes an object that was let go before `until`, unless a row names it. Whether there was one.
    async fn remove(&self, object: &Sha256Digest, until: Timestamp) -> Result<bool, LakeError> {
        if !migrations::retried(|| self.claim(object, until)).await? {
            return Ok(false);
        }
        let removed = self.artifacts.remove(object).await?;
        rows::forget(&self.pool, object).await?;
        Ok(removed)
    }

    async fn claim(&self, object: &Sha256Digest, until: Timestamp) -> Result<bool, LakeError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        let claimed = rows::claim(&mut transaction, object, until).await?;
        migrations::commit(transaction).await?;
        Ok(claimed)
    }
}

/// Takes parts out of the lake, all of them or, with the transaction, none. Their objects are removed later.
async fn take_out(
    transaction: &mut Transaction<'static, Any>,
    parts: &[LakePart],
    now: Timestamp,
) -> Result<(), LakeError> {
    for part in parts {
        if !rows::replace(transaction, part, now).await? {
            return Err(LakeError::Replaced { part_id: part.part_id.clone() });
        }
    }
    Ok(())
}

/// What all jobs of an activation for a tenant have in common.
struct Work<'a> {
    fence: &'a Fence,
    now: Timestamp,
    /// Keys that were destroyed.
    erased: &'a HashSet<KeyId>,
}

/// The id of a part that is made of others.
fn part_id(inputs: &[(String, Sha256Digest)], metadata: &PartMetadata) -> String {
    let place = (metadata.partition.to_be_bytes(), metadata.first_position.as_bytes());
    let mut parts: Vec<&[u8]> = vec![metadata.tenant.as_bytes(), metadata.topic.as_bytes(), &place.0[..], place.1];
    for (part_id, digest) in inputs {
        parts.extend([part_id.as_bytes(), &digest.as_bytes()[..]]);
    }
    Sha256Digest::of_parts("flywheel compacted lake part", &parts).to_string()
}

/// The compactor of a process, which works while the process leads.
struct Leading {
    compactor: Compactor,
    lease: LeaseHandle,
}

#[async_trait]
impl Reconciler for Leading {
    fn name(&self) -> &'static str {
        "lake-compaction"
    }

    async fn activate(&self) -> Result<Next, ReconcileError> {
        let Some(fence) = self.lease.fence() else { return Ok(Next::Period) };
        // First, so that nothing is written again that goes anyway. Should it fail, the rest is done all the same.
        let expired = self.expire(&fence).await;
        let done = self.compactor.compact(&fence, real_now()).await?;
        expired?;
        if done == Compacted::default() {
            return Ok(Next::Period);
        }
        tracing::debug!(?done, "the lake was compacted");
        Ok(Next::Now)
    }
}

impl Leading {
    async fn expire(&self, fence: &Fence) -> Result<(), LakeError> {
        let Some(before) = self.compactor.config.labels_kept_from(self.compactor.clock.now()) else { return Ok(()) };
        let expired = self.compactor.expire(fence, before, real_now()).await?;
        if expired != Expired::default() {
            tracing::info!(?expired, labeled_before = %before, "parts past retention have left the lake");
        }
        Ok(())
    }
}

/// Lets go what is past retention until `stop` and, if it is enabled, compacts, while this process leads. `holder` names
/// it among all that share the database.
pub fn run(compactor: Compactor, holder: &str, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
    let period = Duration::from_secs(compactor.config.compaction.interval_s.max(1));
    let leases = LeaseStore::new(compactor.pool.clone());
    let lease_name = if compactor.config.compaction.enabled { LEASE_NAME } else { RETENTION_LEASE_NAME };
    let (lease, keeping) = keep(leases, lease_name, holder, LEASE, stop.clone());
    let leading = Arc::new(Leading { compactor, lease: lease.clone() });
    let (handle, driving) = drive(leading, Schedule::every(period), Some(lease), stop);
    async move {
        tokio::join!(keeping, driving);
        // Until here: without it the driver would take its timer for all there is.
        drop(handle);
    }
}
