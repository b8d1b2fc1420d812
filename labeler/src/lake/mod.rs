//! The pair lake: Parquet parts in the artifact store, found by rows.
//!
//! A part holds the pairs of one tenant in one range of positions of one partition. The object is stored first; the row
//! that names it and the positions that the sink goes on from are written in one transaction. A crash in between leaves
//! an object that no row names, and the next attempt stores the same range again.

mod part;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore};
use async_trait::async_trait;
use bus::CommittedRecord;
use events::topics::PREFERENCE_PAIRS;
use events::{PairId, PairText, PreferencePair, Sha256Digest, TenantId, Timestamp};
use metrics::{counter, histogram};
use service::keys::{KeyLookup, KeyStore, KeyStoreError};
use sqlx::{Any, AnyPool, Row, Transaction};

pub use part::{FORMAT, METADATA_KEY, PartError, PartMetadata, PlacedPair, SCHEMA, read_part, write_part};

use crate::config::LakeConfig;
use crate::ledger::decode;
use crate::sink::{BatchLimits, Sink, SinkError};

/// Name of the lake's positions.
pub const SINK: &str = "lake";

/// The lake cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// A part cannot be written or read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The object is not there, damaged, or the store failed.
    #[error("lake: {0}")]
    Artifacts(#[from] ArtifactError),
    /// The database failed.
    #[error("lake: {0}")]
    Database(#[from] sqlx::Error),
    /// A row holds something that it may not.
    #[error("lake: {0}")]
    Row(#[from] events::InvalidId),
    /// The object says something else about itself than its row does.
    #[error("lake: part {part_id} is not what its row says")]
    Mismatch {
        /// The part.
        part_id: String,
    },
    /// The key store failed.
    #[error("lake: {0}")]
    Keys(#[from] KeyStoreError),
}

/// The text of a pair cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTextError {
    /// Its person was erased: leave the pair out.
    #[error("the person's key was erased")]
    Erased,
    /// There is no such key.
    #[error("there is no data key {0}")]
    NoKey(String),
    /// The pair carries no text.
    #[error("the pair carries no text")]
    NoText,
    /// It does not open, or is not what its digest says.
    #[error("the pair's text does not open or is not what its digest says")]
    Damaged,
    /// The key store failed.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
}

/// One part, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakePart {
    /// Name of the part: derived from tenant, topic, partition and first position.
    pub part_id: String,
    /// Owner of the data.
    pub tenant: TenantId,
    /// The topic that it was read from.
    pub topic: String,
    /// The partition of that topic.
    pub partition: u32,
    /// Position of its first pair.
    pub first_position: String,
    /// Position of its last pair.
    pub last_position: String,
    /// Name of the object.
    pub digest: Sha256Digest,
    /// Number of pairs.
    pub pairs: u64,
    /// Size of the object.
    pub bytes: u64,
    /// Oldest label.
    pub min_labeled_at: Timestamp,
    /// Newest label.
    pub max_labeled_at: Timestamp,
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

fn part_id(tenant: &TenantId, topic: &str, partition: u32, first_position: &str) -> String {
    let parts = [tenant.as_str().as_bytes(), topic.as_bytes(), &partition.to_be_bytes(), first_position.as_bytes()];
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

    async fn store(&mut self, records: &[CommittedRecord]) -> Result<(), SinkError> {
        self.stored.clear();
        let mut groups: BTreeMap<(u32, TenantId), Vec<PlacedPair>> = BTreeMap::new();
        for record in records {
            let Some(pair) = decode::<PreferencePair>(record)? else { continue };
            let group = groups.entry((record.partition, pair.tenant.clone())).or_default();
            group.push((record.position.to_string(), pair));
        }
        let topic = records.first().map(|record| record.topic.to_string()).unwrap_or_default();
        for ((partition, tenant), pairs) in groups {
            let Some(((first, _), (last, _))) = pairs.first().zip(pairs.last()) else { continue };
            let labeled = pairs.iter().map(|(_, pair)| pair.labeled_at);
            let Some((min_labeled_at, max_labeled_at)) = labeled.clone().min().zip(labeled.max()) else { continue };
            let count = u64::try_from(pairs.len()).unwrap_or(u64::MAX);
            let metadata = PartMetadata {
                format: FORMAT,
                tenant: tenant.to_string(),
                topic: topic.clone(),
                partition,
                first_position: first.clone(),
                last_position: last.clone(),
                pairs: count,
            };
            let bytes = write_part(&metadata, &pairs).map_err(LakeError::from)?;
            let object = self.artifacts.put(bytes).await?;
            self.stored.push(LakePart {
                part_id: part_id(&tenant, &topic, partition, &metadata.first_position),
                tenant,
                topic: topic.clone(),
                partition,
                first_position: metadata.first_position,
                last_position: metadata.last_position,
                digest: object.digest,
                pairs: count,
                bytes: object.bytes,
                min_labeled_at,
                max_labeled_at,
            });
        }
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut Transaction<'static, Any>,
        _records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        for part in &self.stored {
            sqlx::query(
                "INSERT INTO lake_parts (part_id, tenant, topic, partition_index, first_position, last_position, \
                 digest, pairs, bytes, min_labeled_at, max_labeled_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .bind(&part.part_id)
            .bind(part.tenant.as_str())
            .bind(&part.topic)
            .bind(i64::from(part.partition))
            .bind(&part.first_position)
            .bind(&part.last_position)
            .bind(part.digest.to_string())
            .bind(i64::try_from(part.pairs).unwrap_or(i64::MAX))
            .bind(i64::try_from(part.bytes).unwrap_or(i64::MAX))
            .bind(part.min_labeled_at.as_micros())
            .bind(part.max_labeled_at.as_micros())
            .execute(&mut **transaction)
            .await?;
            counter!("flywheel_labeler_lake_parts_total").increment(1);
            counter!("flywheel_labeler_lake_pairs_total").increment(part.pairs);
            histogram!("flywheel_labeler_lake_part_bytes")
                .record(f64::from(u32::try_from(part.bytes).unwrap_or(u32::MAX)));
        }
        Ok(())
    }
}

/// Reads the lake.
#[derive(Debug, Clone)]
pub struct LakeReader {
    pool: AnyPool,
    artifacts: Arc<dyn ArtifactStore>,
}

impl LakeReader {
    /// A reader of the parts that `pool` names and `artifacts` holds.
    #[must_use]
    pub fn new(pool: AnyPool, artifacts: Arc<dyn ArtifactStore>) -> Self {
        Self { pool, artifacts }
    }

    /// The parts of a tenant, ordered by partition and position.
    ///
    /// # Errors
    /// A database that fails or holds something that it may not.
    pub async fn parts(&self, tenant: &TenantId) -> Result<Vec<LakePart>, LakeError> {
        let rows = sqlx::query(
            "SELECT part_id, topic, partition_index, first_position, last_position, digest, pairs, bytes, \
             min_labeled_at, max_labeled_at FROM lake_parts WHERE tenant = $1 \
             ORDER BY topic, partition_index, first_position",
        )
        .bind(tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        rows.iter()
            .map(|row| {
                Ok(LakePart {
                    part_id: row.try_get(0)?,
                    tenant: tenant.clone(),
                    topic: row.try_get(1)?,
                    partition: u32::try_from(row.try_get::<i64, _>(2)?).unwrap_or(u32::MAX),
                    first_position: row.try_get(3)?,
                    last_position: row.try_get(4)?,
                    digest: row.try_get::<String, _>(5)?.parse()?,
                    pairs: number(row.try_get(6)?),
                    bytes: number(row.try_get(7)?),
                    min_labeled_at: Timestamp::from_micros(row.try_get(8)?),
                    max_labeled_at: Timestamp::from_micros(row.try_get(9)?),
                })
            })
            .collect()
    }

    /// The pairs of a part, still sealed. The artifact store verifies the digest; what the part says about itself is
    /// compared with its row.
    ///
    /// # Errors
    /// An object that is missing, damaged, or not what its row says.
    pub async fn read(&self, part: &LakePart) -> Result<Vec<PreferencePair>, LakeError> {
        Ok(self.read_placed(part).await?.into_iter().map(|(_, pair)| pair).collect())
    }

    /// [`LakeReader::read`], with the position of each pair in its topic.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn read_placed(&self, part: &LakePart) -> Result<Vec<PlacedPair>, LakeError> {
        let bytes = self.artifacts.get(&part.digest).await?;
        let size = bytes.len();
        let (metadata, pairs) = read_part(bytes)?;
        let labeled = || pairs.iter().map(|(_, pair)| pair.labeled_at);
        let is_the_part = metadata.tenant == part.tenant.as_str()
            && metadata.topic == part.topic
            && metadata.partition == part.partition
            && metadata.first_position == part.first_position
            && metadata.last_position == part.last_position
            && u64::try_from(size).is_ok_and(|size| size == part.bytes)
            && labeled().min() == Some(part.min_labeled_at)
            && labeled().max() == Some(part.max_labeled_at)
            && u64::try_from(pairs.len()).is_ok_and(|pairs| pairs == part.pairs)
            && pairs.iter().all(|(_, pair)| pair.tenant == part.tenant);
        if !is_the_part {
            return Err(LakeError::Mismatch { part_id: part.part_id.clone() });
        }
        Ok(pairs)
    }

    /// How many pairs a tenant has, and when the newest was labeled.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn extent(&self, tenant: &TenantId) -> Result<LakeExtent, LakeError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(pairs), 0) AS BIGINT), CAST(COUNT(*) AS BIGINT), MIN(min_labeled_at), \
             MAX(max_labeled_at) FROM lake_parts WHERE tenant = $1",
        )
        .bind(tenant.as_str())
        .fetch_one(&self.pool)
        .await?;
        let time = |index: usize| row.try_get::<Option<i64>, _>(index).map(|micros| micros.map(Timestamp::from_micros));
        Ok(LakeExtent {
            pairs: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
            parts: u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0),
            oldest_label: time(2)?,
            newest_label: time(3)?,
        })
    }

    /// Freshness: when the oldest label was made that `is_wanted` (passed every filter) and is in no data set of a
    /// version that serves (`served`). None when every wanted label is in one. Reads as few parts as needed.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn oldest_label_outside(
        &self,
        tenant: &TenantId,
        served: &HashSet<PairId>,
        is_wanted: impl Fn(&PreferencePair) -> bool + Send + Sync,
    ) -> Result<Option<Timestamp>, LakeError> {
        let mut parts = self.parts(tenant).await?;
        parts.sort_by_key(|part| part.min_labeled_at);
        let mut oldest: Option<Timestamp> = None;
        for part in parts {
            if oldest.is_some_and(|oldest| oldest <= part.min_labeled_at) {
                break;
            }
            let outside = self
                .read(&part)
                .await?
                .into_iter()
                .filter(|pair| !served.contains(&pair.pair_id) && is_wanted(pair))
                .map(|pair| pair.labeled_at)
                .min();
            oldest = match (oldest, outside) {
                (Some(known), Some(found)) => Some(known.min(found)),
                (known, found) => known.or(found),
            };
        }
        Ok(oldest)
    }
}

/// How much lies in the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LakeExtent {
    /// Pairs.
    pub pairs: u64,
    /// Parts.
    pub parts: u64,
    /// Oldest label.
    pub oldest_label: Option<Timestamp>,
    /// Newest label.
    pub newest_label: Option<Timestamp>,
}

/// The text of a pair, opened with its person's key and compared with its digest.
///
/// # Errors
/// An erased person (leave the pair out), a damaged text, or a key store that fails.
pub async fn open_text(pair: &PreferencePair, keys: &KeyStore) -> Result<PairText, OpenTextError> {
    let sealed = pair.sealed.as_ref().ok_or(OpenTextError::NoText)?;
    let key = match keys.get(sealed.key_id).await? {
        KeyLookup::Found(key) => key,
        KeyLookup::Erased => return Err(OpenTextError::Erased),
        KeyLookup::Missing => return Err(OpenTextError::NoKey(sealed.key_id.to_string())),
    };
    let plaintext = key.open(pair.event_id, PREFERENCE_PAIRS, sealed).map_err(|_| OpenTextError::Damaged)?;
    let secret = keys.tenant_secret(&pair.tenant).await?;
    if content_digest(&secret, &plaintext) != pair.content_digest {
        return Err(OpenTextError::Damaged);
    }
    serde_json::from_slice(&plaintext).map_err(|_| OpenTextError::Damaged)
}

/// Digest of a pair's text in clear, keyed by the tenant.
#[must_use]
pub fn content_digest(secret: &events::TenantSecret, text: &[u8]) -> Sha256Digest {
    let key = secret.derive("preference pair content");
    Sha256Digest::from_bytes(events::sealing::keyed_digest(&key, &[text]))
}
