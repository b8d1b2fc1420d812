//! Where candidates come from: the lake, the rules and consents of now, and the keys that open text.
//!
//! A look reads what new parts of the lake say about their pairs, and remembers the rest. It reads the texts of those alone
//! that may be in the data set and are not known. Text is opened a few pairs at a time, taken for what it says, and dropped.
//! What was taken is kept for the next look, by pair and content, because what a pair says never changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anonymizer::shape::Shape;
use events::{Audience, PairId, PairText, PersonPseudonym, PreferencePair, Sha256Digest, TenantId};
use labeler::lake::{LakeRead, LakeReader, OpenTextError, PairFilter, SealedTexts, open_text};
use model_registry::lineage::{FIRST_FORMULA, FORMULA, SnapshotFilters};
use parking_lot::Mutex;
use service::consent::ConsentStore;
use service::keys::KeyStore;
use service::repositories::{RepositoryRule, RepositoryStore};
use sqlx::AnyPool;

use super::candidates::choose;
use super::composition::{Census, Reason};
use super::lesson::Lesson;
use super::manifest::SnapshotPlan;
use super::policy::DataSetPolicy;
use super::watch::Watch;
use super::{Candidate, build};
use crate::allow_list::AllowList;
use crate::erasure;
use crate::error::OrchestratorError;
use crate::reconcile::lake_error;
use crate::store::PartRead;

/// Texts that are open at a time.
const OPEN_TEXTS: usize = 256;

/// Pairs of which a look remembers what parts of the lake say, some 700 bytes each. Without it, each look would read every
/// object of the lake.
pub const REMEMBERED_PAIRS: usize = 300_000;

/// Releases whose schema is older read data sets of the first formula alone.
const SCHEMA_OF_FORMULA: i64 = 8;

/// Everything that a data set of a tenant is made of.
#[derive(Debug)]
pub struct Sources {
    pub(crate) pool: AnyPool,
    tenant: TenantId,
    pub(crate) lake: LakeReader,
    pub(crate) keys: KeyStore,
    rules: RepositoryStore,
    consents: ConsentStore,
    known: Known,
    watch: Box<dyn Watch>,
}

impl Sources {
    /// The sources of `tenant`. What `lake` remembers already is used and shared.
    #[must_use]
    pub fn new(pool: &AnyPool, tenant: TenantId, lake: LakeReader, keys: KeyStore) -> Self {
        Self {
            pool: pool.clone(),
            tenant,
            lake: lake.remembering(REMEMBERED_PAIRS),
            keys,
            rules: RepositoryStore::new(pool.clone()),
            consents: ConsentStore::new(pool.clone()),
            known: Known::default(),
            watch: Box::new(()),
        }
    }

    /// Tells `watch` how far [`Self::plan`] is.
    #[must_use]
    pub fn watched_by(self, watch: impl Watch + 'static) -> Self {
        Self { watch: Box::new(watch), ..self }
    }

    /// The rules of now.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn rules(&self) -> Result<Vec<RepositoryRule>, OrchestratorError> {
        Ok(self.rules.list(&self.tenant).await?)
    }

    /// `rules` by the names that pairs have for repositories.
    pub(crate) async fn allow_list(&self, rules: &[RepositoryRule]) -> Result<AllowList, OrchestratorError> {
        let shape = Shape::new(&self.keys.tenant_secret(&self.tenant).await?);
        Ok(AllowList::new(rules, &shape))
    }

    /// Who agrees now that code is used.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn sharing(&self) -> Result<BTreeSet<PersonPseudonym>, OrchestratorError> {
        Ok(self.consents.sharing_code(&self.tenant).await?)
    }

    /// The formula that every release that may use the database can read: the first one until an upgrade is done.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn formula(&self) -> Result<u32, OrchestratorError> {
        let oldest = migrations::oldest_schema(&self.pool).await?;
        Ok(if oldest < SCHEMA_OF_FORMULA { FIRST_FORMULA } else { FORMULA })
    }

    /// Texts of the tenant's lake: of the pairs `wanted`, by id and content, which are for `audience`.
    pub(crate) fn sealed_texts(&self, audience: &Audience, wanted: HashMap<PairId, Sha256Digest>) -> SealedTexts {
        let filter = PairFilter { audience: Some(audience.clone()), ..PairFilter::default() };
        self.lake.sealed_texts(&self.tenant, filter, wanted)
    }

    /// All pairs of the lake without their texts, with the parts that they lie in. A data set of less than everything would
    /// not be the one that its filters name: a part that cannot be used lets none be made.
    async fn pairs(&self) -> Result<(Vec<PreferencePair>, Vec<PartRead>), OrchestratorError> {
        let read = self.lake.read_all(&self.tenant, &PairFilter::default()).await;
        let (pairs, parts) = read.and_then(LakeRead::whole).map_err(|error| lake_error(&error))?;
        let read = parts.into_iter().map(|part| PartRead {
            digest: part.digest,
            partition: i64::from(part.partition),
            first_position: part.first_position,
            last_position: part.last_position,
        });
        Ok((pairs, read.collect()))
    }

    /// The data set of what lies in the lake, with the parts that it was read from, as rules and consents of now allow.
    ///
    /// # Errors
    /// A source that fails, or a data set that can not be: see [`build`].
    pub async fn plan(
        &self,
        filters: SnapshotFilters,
        policy: &DataSetPolicy,
        rules: &[RepositoryRule],
        sharing: &BTreeSet<PersonPseudonym>,
    ) -> Result<(SnapshotPlan, Vec<PartRead>), OrchestratorError> {
        let allowed = self.allow_list(rules).await?;
        self.watch.begin("reading the lake", None);
        let (mut pairs, parts) = self.pairs().await?;
        let (read, last_labeled_at) = (pairs.len(), pairs.iter().map(|pair| pair.labeled_at).max());
        erasure::leave_out(&self.keys, &mut pairs).await?;
        let erased = read - pairs.len();
        let (pairs, mut before) = choose(&filters, policy, &allowed, sharing, pairs);
        let candidates = self.open(pairs, &mut before).await?;
        if erased > 0 {
            *before.entry(Reason::Erased).or_default() += erased;
        }
        self.watch.begin("choosing pairs", None);
        let policy = policy.clone();
        let mut plan = off_the_runtime(move || build(filters, &policy, &candidates, &before)).await??;
        plan.composition.last_labeled_at = last_labeled_at;
        Ok((plan, parts))
    }

    /// Opens what is not known yet; only that is read once more, with its text. What can not be opened is left out, and
    /// counted.
    async fn open(
        &self,
        pairs: Vec<PreferencePair>,
        left_out: &mut Census,
    ) -> Result<Vec<Candidate>, OrchestratorError> {
        let mut candidates = Vec::with_capacity(pairs.len());
        let mut unknown = Unknown::default();
        for pair in pairs {
            match self.known.of(&pair) {
                Some(lesson) => candidates.push(Candidate { pair, lesson }),
                None => unknown.add(&pair),
            }
        }
        self.read(unknown, &mut candidates, left_out).await?;
        self.known.keep_only(&candidates);
        Ok(candidates)
    }

    /// Reads and opens the texts of pairs, part by part.
    async fn read(
        &self,
        unknown: Unknown,
        candidates: &mut Vec<Candidate>,
        left_out: &mut Census,
    ) -> Result<(), OrchestratorError> {
        self.watch.begin("opening pairs", Some(unknown.wanted.len() as u64));
        let mut texts = self.lake.sealed_texts(&self.tenant, unknown.filter, unknown.wanted);
        while let Some(sealed) = texts.next().await.map_err(|error| lake_error(&error))? {
            let mut waiting: Vec<(PreferencePair, PairText)> = Vec::with_capacity(sealed.len().min(OPEN_TEXTS));
            for mut pair in sealed {
                self.watch.advance(1);
                match open_text(&pair, &self.keys).await {
                    Ok(text) => {
                        // A candidate is kept for long, and nobody asks for its text again.
                        if let Some(sealed) = &mut pair.sealed {
                            sealed.ciphertext = Vec::new();
                        }
                        waiting.push((pair, text));
                    }
                    Err(OpenTextError::Keys(error)) => return Err(error.into()),
                    Err(OpenTextError::Erased) => *left_out.entry(Reason::Erased).or_default() += 1,
                    Err(error) => {
                        tracing::warn!(pair = %pair.pair_id, reason = %error, "a pair is left out of data sets");
                        *left_out.entry(Reason::Unreadable).or_default() += 1;
                    }
                }
                if waiting.len() == OPEN_TEXTS {
                    candidates.extend(self.lessons(std::mem::take(&mut waiting)).await?);
                }
            }
            candidates.extend(self.lessons(waiting).await?);
        }
        let missing = texts.missing();
        if missing > 0 {
            // They were there a moment ago: without a part that cannot be used, they have left the lake since.
            texts.whole().map_err(|error| lake_error(&error))?;
            *left_out.entry(Reason::Erased).or_default() += missing;
        }
        Ok(())
    }

    async fn lessons(&self, opened: Vec<(PreferencePair, PairText)>) -> Result<Vec<Candidate>, OrchestratorError> {
        let lesson = |(pair, text): (PreferencePair, PairText)| Candidate { lesson: Arc::new(Lesson::of(&text)), pair };
        let made: Vec<Candidate> = off_the_runtime(move || opened.into_iter().map(lesson).collect()).await?;
        self.known.add(&made);
        Ok(made)
    }
}

/// Pairs whose texts were not read yet, and which parts may hold them: after the first look, the newest ones.
#[derive(Default)]
struct Unknown {
    wanted: HashMap<PairId, Sha256Digest>,
    filter: PairFilter,
}

impl Unknown {
    fn add(&mut self, pair: &PreferencePair) {
        let behind = pair.labeled_at + Duration::from_micros(1);
        let PairFilter { labeled_from, labeled_before, .. } = &mut self.filter;
        *labeled_from = Some(labeled_from.map_or(pair.labeled_at, |from| from.min(pair.labeled_at)));
        *labeled_before = Some(labeled_before.map_or(behind, |before| before.max(behind)));
        self.wanted.insert(pair.pair_id, pair.content_digest);
    }
}

/// What was taken from texts. It grows as they are read, so that a look that fails on the way, or is given up, costs the
/// next one nothing.
#[derive(Debug, Default)]
struct Known(Mutex<HashMap<PairId, (Sha256Digest, Arc<Lesson>)>>);

impl Known {
    /// The lesson of a pair, if it was taken from the content that the pair has.
    fn of(&self, pair: &PreferencePair) -> Option<Arc<Lesson>> {
        let known = self.0.lock();
        let (content, lesson) = known.get(&pair.pair_id)?;
        (*content == pair.content_digest).then(|| Arc::clone(lesson))
    }

    fn add(&self, candidates: &[Candidate]) {
        self.0.lock().extend(candidates.iter().map(Self::entry));
    }

    /// Forgets what is no candidate any more.
    fn keep_only(&self, candidates: &[Candidate]) {
        *self.0.lock() = candidates.iter().map(Self::entry).collect();
    }

    fn entry(candidate: &Candidate) -> (PairId, (Sha256Digest, Arc<Lesson>)) {
        (candidate.pair.pair_id, (candidate.pair.content_digest, Arc::clone(&candidate.lesson)))
    }
}

/// Parsing and sorting take long enough to keep others waiting.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OrchestratorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| OrchestratorError::Job(format!("a data set could not be made: {error}")))
}

#[cfg(test)]
mod tests {
    use events::{PairReason, Timestamp};

    use super::super::tests::candidate;
    use super::*;

    #[test]
    fn what_was_taken_from_a_text_is_known_until_its_pair_is_no_candidate() {
        let [one, other] = [1, 2].map(|number| candidate(number, PairReason::AcceptedKept));
        let known = Known::default();
        assert_eq!(known.of(&one.pair), None);
        // As when the next texts do not open: nobody says which candidates there are.
        known.add(std::slice::from_ref(&one));
        known.add(std::slice::from_ref(&other));
        assert!(Arc::ptr_eq(&known.of(&one.pair).unwrap(), &one.lesson));
        let edited = PreferencePair { content_digest: Sha256Digest::of(b"another text"), ..one.pair.clone() };
        assert_eq!(known.of(&edited), None);
        known.keep_only(std::slice::from_ref(&other));
        assert_eq!((known.of(&one.pair), known.of(&other.pair)), (None, Some(Arc::clone(&other.lesson))));
    }

    #[test]
    fn what_is_unknown_is_looked_for_among_its_own_labels_the_newest_included() {
        let pairs = [2, 1, 3].map(|number| candidate(number, PairReason::AcceptedKept).pair);
        let labeled = |micros: i64| PreferencePair { labeled_at: Timestamp::from_micros(micros), ..pairs[0].clone() };
        let mut unknown = Unknown::default();
        for (pair, micros) in pairs.iter().zip([20, 10, 30]) {
            unknown.add(&PreferencePair { labeled_at: Timestamp::from_micros(micros), ..pair.clone() });
        }
        let all: HashMap<_, _> = pairs.iter().map(|pair| (pair.pair_id, pair.content_digest)).collect();
        assert_eq!(unknown.wanted, all);
        let wanted = [9, 10, 20, 30, 31].map(|micros| unknown.filter.wants(&labeled(micros)));
        assert_eq!(wanted, [false, true, true, true, false]);
    }
}
