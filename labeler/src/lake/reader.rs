//! Reading the lake: the rows say which parts there are, the objects what is in them.
//!
//! A part that cannot be used harms no other. Whoever reads to know (a status, how fresh the data is) goes on with the
//! others; whoever builds on all of them asks [`LakeRead::whole`], which refuses with the first bad part's name. Both
//! are counted. Compaction may replace a part after it was listed; its object stays for a long while, and should it be
//! gone, the reader lists again instead of taking the part for lost.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use artifacts::{ArtifactError, ArtifactStore};
use events::{Audience, PairId, PreferencePair, Sha256Digest, TenantId, Timestamp};
use metrics::counter;
use parking_lot::Mutex;
use sqlx::{AnyPool, Row};

use super::error::{BadPart, LakeError, PartFault};
use super::group::PartGroup;
use super::part::{DecodedPart, PartError, PlacedPair, SealedText, decode_part};
use super::remembered::Remembered;
use super::rows::{self, LakePart};

/// How often a reading begins again because parts were replaced meanwhile.
const ATTEMPTS: usize = 5;

/// Which pairs somebody wants. Parts that hold none of them are not read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairFilter {
    /// Labeled then or later.
    pub labeled_from: Option<Timestamp>,
    /// Labeled before then.
    pub labeled_before: Option<Timestamp>,
    /// Of this audience.
    pub audience: Option<Audience>,
    /// Of this language.
    pub language: Option<String>,
}

impl PairFilter {
    /// Whether it wants a pair.
    #[must_use]
    pub fn wants(&self, pair: &PreferencePair) -> bool {
        self.labeled_from.is_none_or(|from| pair.labeled_at >= from)
            && self.labeled_before.is_none_or(|before| pair.labeled_at < before)
            && self.audience.as_ref().is_none_or(|audience| pair.audience == *audience)
            && self.language.as_ref().is_none_or(|language| pair.language == *language)
    }

    /// Whether a part may hold a pair that it wants.
    #[must_use]
    pub fn may_hold(&self, part: &LakePart) -> bool {
        let fits = |group: &PartGroup| {
            self.audience.as_ref().is_none_or(|audience| group.audience == *audience)
                && self.language.as_ref().is_none_or(|language| group.language == *migrations::storable(language))
        };
        self.labeled_from.is_none_or(|from| part.max_labeled_at >= from)
            && self.labeled_before.is_none_or(|before| part.min_labeled_at < before)
            && part.group.as_ref().is_none_or(fits)
    }
}

/// What was read of a lake.
#[derive(Debug, Default)]
pub struct LakeRead {
    /// The pairs of the parts that could be used, without their texts.
    pub pairs: Vec<PreferencePair>,
    /// Those parts.
    pub parts: Vec<LakePart>,
    /// The others.
    pub bad: Vec<BadPart>,
}

impl LakeRead {
    /// Pairs and parts, if nothing is missing.
    ///
    /// # Errors
    /// A part could not be used.
    pub fn whole(self) -> Result<(Vec<PreferencePair>, Vec<LakePart>), LakeError> {
        nothing_missing(self.bad)?;
        Ok((self.pairs, self.parts))
    }
}

fn nothing_missing(bad: Vec<BadPart>) -> Result<(), LakeError> {
    let (parts, pairs) = (bad.len(), bad.iter().map(|part| part.pairs).sum::<u64>());
    match bad.into_iter().next() {
        Some(first) => Err(LakeError::Incomplete { parts, pairs, first: Box::new(first) }),
        None => Ok(()),
    }
}

/// The sealed texts of some pairs, read part by part: never more of them in memory than one part holds.
#[derive(Debug)]
pub struct SealedTexts {
    reader: LakeReader,
    tenant: TenantId,
    filter: PairFilter,
    /// Pairs that were not met yet, with their content.
    wanted: HashMap<PairId, Sha256Digest>,
    /// Parts that were listed and not read yet.
    parts: Option<VecDeque<LakePart>>,
    listed: usize,
    bad: Vec<BadPart>,
}

impl SealedTexts {
    /// Pairs with their texts: those of the next part that holds any. None: nothing is missing any more, or there is no
    /// other part. Parts that cannot be used are passed over and counted; [`SealedTexts::whole`] names them.
    ///
    /// # Errors
    /// A store that fails, or parts that are replaced faster than they are read.
    pub async fn next(&mut self) -> Result<Option<Vec<PreferencePair>>, LakeError> {
        while !self.wanted.is_empty() {
            let Some(parts) = &mut self.parts else {
                self.list().await?;
                continue;
            };
            let Some(part) = parts.pop_front() else { break };
            match self.reader.read(&part).await {
                Ok(mut pairs) => {
                    pairs.retain(|pair| self.meets(pair));
                    if !pairs.is_empty() {
                        return Ok(Some(pairs));
                    }
                }
                // What was met before is not wanted any more.
                Err(LakeError::Replaced { .. }) if self.listed < ATTEMPTS => self.parts = None,
                Err(LakeError::BadPart(bad)) => {
                    tell(&bad);
                    self.bad.push(bad);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn list(&mut self) -> Result<(), LakeError> {
        let parts = self.reader.parts(&self.tenant).await?;
        self.parts = Some(parts.into_iter().filter(|part| self.filter.may_hold(part)).collect());
        self.listed += 1;
        self.bad.clear();
        Ok(())
    }

    fn meets(&mut self, pair: &PreferencePair) -> bool {
        let meets = self.wanted.get(&pair.pair_id) == Some(&pair.content_digest);
        if meets {
            self.wanted.remove(&pair.pair_id);
        }
        meets
    }

    /// How many of the pairs were not met.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wanted.len()
    }

    /// Whether every part could be used, so that what is missing is not in the lake.
    ///
    /// # Errors
    /// A part could not be used.
    pub fn whole(self) -> Result<(), LakeError> {
        nothing_missing(self.bad)
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

/// Reads the lake.
#[derive(Debug, Clone)]
pub struct LakeReader {
    pool: AnyPool,
    artifacts: Arc<dyn ArtifactStore>,
    remembered: Option<Arc<Mutex<Remembered>>>,
}

impl LakeReader {
    /// A reader of the parts that `pool` names and `artifacts` holds.
    #[must_use]
    pub fn new(pool: AnyPool, artifacts: Arc<dyn ArtifactStore>) -> Self {
        Self { pool, artifacts, remembered: None }
    }

    /// The same, for one tenant that is looked at again and again: it keeps what parts say about as many as `pairs`
    /// pairs, without their texts, and reads a part again only when there was no room for it. Clones share what is kept,
    /// and one that remembers already goes on sharing it.
    #[must_use]
    pub fn remembering(self, pairs: usize) -> Self {
        let remembered = self.remembered.unwrap_or_else(|| Arc::new(Mutex::new(Remembered::new(pairs))));
        Self { remembered: Some(remembered), ..self }
    }

    /// The parts of a tenant, ordered by partition and position. Each pair lies in exactly one of them, whatever is
    /// compacted meanwhile.
    ///
    /// # Errors
    /// A database that fails or holds something that it may not.
    pub async fn parts(&self, tenant: &TenantId) -> Result<Vec<LakePart>, LakeError> {
        rows::list(&self.pool, tenant).await
    }

    /// All parts, of which alone something is remembered from now on.
    async fn parts_of_a_look(&self, tenant: &TenantId) -> Result<Vec<LakePart>, LakeError> {
        let parts = self.parts(tenant).await?;
        if let Some(remembered) = &self.remembered {
            remembered.lock().forget_others(&parts);
        }
        Ok(parts)
    }

    /// The pairs of a part, still sealed. The artifact store verifies the digest; what the part says about itself is
    /// compared with its row.
    ///
    /// # Errors
    /// [`LakeError::BadPart`] for a part that cannot be used, [`LakeError::Replaced`] for one that was replaced and
    /// whose object is gone, or a store that fails.
    pub async fn read(&self, part: &LakePart) -> Result<Vec<PreferencePair>, LakeError> {
        Ok(self.read_placed(part).await?.into_iter().map(|(_, pair)| pair).collect())
    }

    /// [`LakeReader::read`], with the place of each pair in its topic.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn read_placed(&self, part: &LakePart) -> Result<Vec<PlacedPair>, LakeError> {
        Ok(self.decode(part, SealedText::Taken).await?.pairs)
    }

    /// [`LakeReader::read`] without text: `ciphertext` is empty, `key_id` says under whose key it lies.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn facts(&self, part: &LakePart) -> Result<Vec<PreferencePair>, LakeError> {
        Ok(Arc::unwrap_or_clone(self.shared_facts(part).await?))
    }

    async fn shared_facts(&self, part: &LakePart) -> Result<Arc<Vec<PreferencePair>>, LakeError> {
        if let Some(known) = self.remembered.as_ref().and_then(|remembered| remembered.lock().get(part)) {
            return Ok(known);
        }
        let decoded = self.decode(part, SealedText::LeftOut).await?;
        let pairs = Arc::new(decoded.pairs.into_iter().map(|(_, pair)| pair).collect());
        if let Some(remembered) = &self.remembered {
            remembered.lock().keep(part, &pairs);
        }
        Ok(pairs)
    }

    pub(crate) async fn decode(&self, part: &LakePart, text: SealedText) -> Result<DecodedPart, LakeError> {
        let bad =
            |fault: PartFault| LakeError::BadPart(BadPart { part_id: part.part_id.clone(), pairs: part.pairs, fault });
        let bytes = match self.artifacts.get(&part.digest).await {
            Ok(bytes) => bytes,
            Err(ArtifactError::NotFound { .. }) => {
                // Rows are replaced first, and objects removed afterwards.
                return Err(if rows::is_there(&self.pool, part).await? {
                    bad(PartFault::ObjectMissing)
                } else {
                    LakeError::Replaced { part_id: part.part_id.clone() }
                });
            }
            Err(error @ ArtifactError::Corrupt { .. }) => return Err(bad(PartFault::ObjectCorrupt(error))),
            // That the store does not answer says nothing about the part.
            Err(error) => return Err(error.into()),
        };
        let size = bytes.len();
        // A library that meets what it never expected may panic: that is the end of one reading.
        let decoded = tokio::task::spawn_blocking(move || decode_part(bytes, text)).await;
        let decoded = decoded.unwrap_or(Err(PartError::GaveUp)).map_err(|error| bad(error.into()))?;
        if u64::try_from(size).is_ok_and(|size| size == part.bytes) && is_the_part(&decoded, part) {
            Ok(decoded)
        } else {
            Err(bad(PartFault::NotWhatItsRowSays))
        }
    }

    /// Everything of a tenant that `filter` wants, each pair once and without its text, as [`LakeReader::facts`] has it:
    /// a lake of text is larger than memory. [`LakeReader::sealed_texts`] reads the texts of some. Parts that cannot be
    /// used are counted, named in the log and in what comes back.
    ///
    /// # Errors
    /// A store that fails, or parts that are replaced faster than they are read.
    pub async fn read_all(&self, tenant: &TenantId, filter: &PairFilter) -> Result<LakeRead, LakeError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.try_read_all(tenant, filter).await {
                Err(LakeError::Replaced { .. }) if attempts < ATTEMPTS => {}
                read => return read,
            }
        }
    }

    async fn try_read_all(&self, tenant: &TenantId, filter: &PairFilter) -> Result<LakeRead, LakeError> {
        let mut read = LakeRead::default();
        for part in self.parts_of_a_look(tenant).await? {
            if !filter.may_hold(&part) {
                continue;
            }
            match self.shared_facts(&part).await {
                Ok(pairs) => {
                    read.pairs.extend(pairs.iter().filter(|pair| filter.wants(pair)).cloned());
                    read.parts.push(part);
                }
                Err(LakeError::BadPart(bad)) => {
                    tell(&bad);
                    read.bad.push(bad);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// The texts of those pairs of a tenant, `wanted` by id and content, that lie in parts which `filter` admits.
    #[must_use]
    pub fn sealed_texts(
        &self,
        tenant: &TenantId,
        filter: PairFilter,
        wanted: HashMap<PairId, Sha256Digest>,
    ) -> SealedTexts {
        let (reader, tenant) = (self.clone(), tenant.clone());
        SealedTexts { reader, tenant, filter, wanted, parts: None, listed: 0, bad: Vec::new() }
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
    /// version that serves (`served`). None when every wanted label is in one. Reads as few parts as needed; those that
    /// cannot be used are passed over and counted, since the age of the others is worth knowing all the more.
    ///
    /// # Errors
    /// A store that fails, or parts that are replaced faster than they are read.
    pub async fn oldest_label_outside(
        &self,
        tenant: &TenantId,
        served: &HashSet<PairId>,
        is_wanted: impl Fn(&PreferencePair) -> bool + Send + Sync,
    ) -> Result<Option<Timestamp>, LakeError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.try_oldest_label_outside(tenant, served, &is_wanted).await {
                Err(LakeError::Replaced { .. }) if attempts < ATTEMPTS => {}
                oldest => return oldest,
            }
        }
    }

    async fn try_oldest_label_outside(
        &self,
        tenant: &TenantId,
        served: &HashSet<PairId>,
        is_wanted: &(impl Fn(&PreferencePair) -> bool + Send + Sync),
    ) -> Result<Option<Timestamp>, LakeError> {
        let mut parts = self.parts_of_a_look(tenant).await?;
        parts.sort_by_key(|part| part.min_labeled_at);
        let mut oldest: Option<Timestamp> = None;
        for part in parts {
            if oldest.is_some_and(|oldest| oldest <= part.min_labeled_at) {
                break;
            }
            let pairs = match self.shared_facts(&part).await {
                Ok(pairs) => pairs,
                Err(LakeError::BadPart(bad)) => {
                    tell(&bad);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let outside = pairs
                .iter()
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

/// Counts a part that cannot be used, and names it.
pub(crate) fn tell(bad: &BadPart) {
    counter!("flywheel_labeler_lake_bad_parts_total", "reason" => bad.fault.as_str()).increment(1);
    tracing::error!(part = bad.part_id, pairs = bad.pairs, fault = %bad.fault, "a part of the lake cannot be used");
}

/// Whether a part says about itself what its row does.
fn is_the_part(decoded: &DecodedPart, part: &LakePart) -> bool {
    let DecodedPart { metadata, pairs, .. } = decoded;
    let labeled = || pairs.iter().map(|(_, pair)| pair.labeled_at);
    let first = pairs.iter().map(|(place, _)| place).min();
    let last = pairs.iter().map(|(place, _)| place).max();
    let belongs = |pair: &PreferencePair| {
        pair.tenant == part.tenant && part.group.as_ref().is_none_or(|group| *group == PartGroup::of(pair))
    };
    metadata.tenant == part.tenant.as_str()
        && metadata.topic == part.topic
        && metadata.partition == part.partition
        && metadata.first_position == part.first_position
        && metadata.last_position == part.last_position
        && metadata.group == part.group
        && metadata.generation == part.generation
        && first.is_some_and(|place| place.partition == part.partition && place.position == part.first_position)
        && last.is_some_and(|place| place.position == part.last_position)
        && labeled().min() == Some(part.min_labeled_at)
        && labeled().max() == Some(part.max_labeled_at)
        && u64::try_from(pairs.len()).is_ok_and(|pairs| pairs == part.pairs)
        && pairs.iter().all(|(_, pair)| belongs(pair))
}
