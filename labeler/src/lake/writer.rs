//! The sink that writes parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore, Stored};
use async_trait::async_trait;
use bus::CommittedRecord;
use bytes::Bytes;
use events::topics::PREFERENCE_PAIRS;
use events::{PreferencePair, Sha256Digest, TenantId, Timestamp};
use metrics::{counter, histogram};
use service::clock::real_now;
use sqlx::{Any, AnyPool, Transaction};
use tokio::task::JoinSet;

use super::SINK;
use super::error::LakeError;
use super::group::{PartGroup, grouped};
use super::part::{PairPlace, PartError, PartMetadata, PlacedPair, RowGroupLimits, write_part};
use super::rows::{self, LakePart};
use crate::config::LakeConfig;
use crate::ledger::decode;
use crate::sink::{BatchLimits, Sink, SinkError};

/// How many objects are on their way to the store at once.
const PUTS: usize = 8;
/// Objects that no row names are not removed for that much longer than those that none names any more. Real time.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3600);

/// A part that is not stored yet.
#[derive(Debug)]
pub(crate) struct EncodedPart {
    part_id: String,
    tenant: TenantId,
    metadata: PartMetadata,
    min_labeled_at: Timestamp,
    max_labeled_at: Timestamp,
    erasures: u64,
    bytes: Bytes,
}

/// What a part is made of.
pub(crate) struct PartContent {
    pub(crate) topic: String,
    pub(crate) group: Option<PartGroup>,
    pub(crate) generation: u32,
    /// See [`LakePart::erasures`].
    pub(crate) erasures: u64,
    /// Of one tenant.
    pub(crate) pairs: Vec<PlacedPair>,
}

impl EncodedPart {
    /// None without pairs. `name` makes the id from the description.
    pub(crate) fn encode(
        content: &PartContent,
        limits: RowGroupLimits,
        name: impl FnOnce(&PartMetadata) -> String,
    ) -> Result<Option<Self>, PartError> {
        let PartContent { topic, group, generation, erasures, pairs } = content;
        let Some((_, pair)) = pairs.first() else { return Ok(None) };
        let Some(metadata) = PartMetadata::of(topic, group.clone(), *generation, pairs) else { return Ok(None) };
        let labeled = pairs.iter().map(|(_, pair)| pair.labeled_at);
        let bytes = write_part(&metadata, pairs, limits)?;
        Ok(Some(Self {
            part_id: name(&metadata),
            tenant: pair.tenant.clone(),
            min_labeled_at: labeled.clone().min().unwrap_or(pair.labeled_at),
            max_labeled_at: labeled.max().unwrap_or(pair.labeled_at),
            erasures: *erasures,
            metadata,
            bytes,
        }))
    }

    fn stored(self, object: Stored) -> LakePart {
        LakePart {
            part_id: self.part_id,
            tenant: self.tenant,
            topic: self.metadata.topic,
            partition: self.metadata.partition,
            first_position: self.metadata.first_position,
            last_position: self.metadata.last_position,
            digest: object.digest,
            pairs: self.metadata.pairs,
            bytes: object.bytes,
            min_labeled_at: self.min_labeled_at,
            max_labeled_at: self.max_labeled_at,
            group: self.metadata.group,
            generation: self.metadata.generation,
            erasures: self.erasures,
        }
    }
}

/// Stores the objects of parts, a few at a time. Their rows can be written once all of them are there.
///
/// Nobody lists the store. So that what is stored here does not stay for ever should no row come to name it, it is let go
/// before: the row keeps it, in its own transaction, or finds that it is gone. `now` is real time.
pub(crate) async fn store_objects(
    artifacts: &Arc<dyn ArtifactStore>,
    pool: &AnyPool,
    parts: Vec<EncodedPart>,
    now: Timestamp,
) -> Result<Vec<LakePart>, LakeError> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    migrations::retried(|| let_go(pool, &parts, now + WRITTEN_WITHIN)).await?;
    let mut waiting = parts.into_iter();
    let mut running: JoinSet<Result<LakePart, ArtifactError>> = JoinSet::new();
    let mut stored = Vec::new();
    loop {
        while running.len() < PUTS
            && let Some(part) = waiting.next()
        {
            let artifacts = Arc::clone(artifacts);
            running.spawn(async move {
                let object = artifacts.put(part.bytes.clone()).await?;
                Ok(part.stored(object))
            });
        }
        let Some(ended) = running.join_next().await else { return Ok(stored) };
        stored.push(ended.unwrap_or(Err(ArtifactError::Stopped))?);
    }
}

async fn let_go(pool: &AnyPool, parts: &[EncodedPart], at: Timestamp) -> Result<(), LakeError> {
    let mut transaction = migrations::begin_write(pool).await?;
    for part in parts {
        let object = Sha256Digest::of(&part.bytes);
        rows::let_go(&mut transaction, (part.part_id.as_str(), &part.tenant), &object, at).await?;
    }
    Ok(migrations::commit(transaction).await?)
}

/// The sink that writes parts.
#[derive(Debug)]
pub struct LakeWriter {
    artifacts: Arc<dyn ArtifactStore>,
    config: LakeConfig,
    /// Parts whose objects are stored and whose rows are not written yet.
    stored: Vec<LakePart>,
}

impl LakeWriter {
    /// A writer into `artifacts`.
    #[must_use]
    pub fn new(artifacts: Arc<dyn ArtifactStore>, config: LakeConfig) -> Self {
        Self { artifacts, config, stored: Vec::new() }
    }
}

fn part_id(metadata: &PartMetadata) -> String {
    let PartMetadata { tenant, topic, partition, first_position, .. } = metadata;
    let parts = [tenant.as_bytes(), topic.as_bytes(), &partition.to_be_bytes(), first_position.as_bytes()];
    Sha256Digest::of_parts("flywheel lake part", &parts).to_string()
}

#[async_trait]
impl Sink for LakeWriter {
    fn name(&self) -> &str {
        SINK
    }

    fn topics(&self) -> Vec<String> {
        vec![PREFERENCE_PAIRS.to_owned()]
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            records: self.config.part_records,
            bytes: self.config.part_bytes,
            age: Duration::from_millis(self.config.part_age_ms),
        }
    }

    async fn store(&mut self, pool: &AnyPool, records: &[CommittedRecord]) -> Result<(), SinkError> {
        self.stored.clear();
        // A part of the sink is of one partition: the range of positions that its row names is that of its pairs.
        let mut owners: BTreeMap<(u32, TenantId), Vec<PlacedPair>> = BTreeMap::new();
        for record in records {
            let Some(pair) = decode::<PreferencePair>(record)? else { continue };
            let place = PairPlace { partition: record.partition, position: record.position.to_string() };
            owners.entry((record.partition, pair.tenant.clone())).or_default().push((place, pair));
        }
        let topic = records.first().map(|record| record.topic.to_string()).unwrap_or_default();
        let mut encoded = Vec::new();
        for pairs in owners.into_values() {
            for (group, pairs) in grouped(pairs, self.config.part_groups) {
                let content = PartContent { topic: topic.clone(), group, generation: 0, erasures: 0, pairs };
                let part = EncodedPart::encode(&content, self.config.row_groups(), part_id).map_err(LakeError::from)?;
                encoded.extend(part);
            }
        }
        self.stored = store_objects(&self.artifacts, pool, encoded, real_now()).await?;
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut Transaction<'static, Any>,
        _records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        for part in &self.stored {
            rows::insert(transaction, part).await?;
        }
        Ok(())
    }

    fn committed(&mut self) {
        for part in self.stored.drain(..) {
            counter!("flywheel_labeler_lake_parts_total").increment(1);
            counter!("flywheel_labeler_lake_pairs_total").increment(part.pairs);
            histogram!("flywheel_labeler_lake_part_bytes")
                .record(f64::from(u32::try_from(part.bytes).unwrap_or(u32::MAX)));
        }
    }
}
