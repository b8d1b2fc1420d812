//! The lake: parts by day, audience and language, compaction under faults, erasures, and parts that cannot be used.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore, LocalArtifacts, Stored};
use async_trait::async_trait;
use bytes::Bytes;
use events::topics::PREFERENCE_PAIRS;
use events::{PairId, PreferencePair, Sealed, Sha256Digest, TenantId, Timestamp, avro};
use labeler::LabelerConfig;
use labeler::config::{CompactionConfig, LakeConfig};
use labeler::lake::compaction::retention::{Expired, expired_until};
use labeler::lake::compaction::{self, Compacted, Compactor, LEASE_NAME};
use labeler::lake::{
    FORMAT, LakeError, LakePart, LakeReader, LakeWriter, PairFilter, PairPlace, PartFault, PartGroup, PartMetadata,
    PlacedPair, SealedTexts, write_part,
};
use labeler::sink::{Sink, SinkError};
use service::clock::{SimulatedClock, real_now};
use service::lease::{Fence, LeaseStore};
use service::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::kit::{START, World};
use crate::rig::BOUND;
use crate::sinks::{Bench, bench, labeled};

test_databases::on_both_databases! {
    a_part_holds_pairs_of_one_day_audience_and_language,
    many_small_parts_become_few_and_no_pair_moves_under_a_reader,
    who_looks_again_reads_only_the_parts_that_are_new,
    texts_are_read_of_those_who_are_asked_for_whatever_is_compacted_meanwhile,
    whatever_fails_and_whenever_each_pair_lies_in_one_part,
    what_a_killed_writer_stored_goes_and_what_a_running_one_stores_stays,
    a_former_leader_changes_nothing,
    pairs_of_an_erased_person_go,
    what_is_past_retention_leaves_the_lake_and_is_written_down,
    what_is_past_retention_by_the_clock_of_the_platform_goes_by_itself,
    what_is_past_retention_goes_also_where_nothing_is_compacted,
    what_cannot_be_let_go_keeps_nothing_from_being_compacted,
    a_part_that_cannot_be_used_is_named_and_harms_no_other,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Audiences and languages of [`varied`], together.
const KINDS: usize = 4;

/// Pairs of two audiences and two languages, each in as many days.
async fn varied(world: &World, days: usize) -> Vec<PreferencePair> {
    let (pairs, _) = labeled(world, 5).await;
    let numbered = (0..days * 20).map(|number| {
        let mut pair = pairs[number % pairs.len()].clone();
        pair.action_index = i32::try_from(number).unwrap();
        pair.language = ["rust", "python"][number % 2].to_owned();
        pair.audience = ["everyone", "payments"][number / 2 % 2].parse().unwrap();
        pair.labeled_at = START + DAY * u32::try_from(number / 20).unwrap();
        renamed(pair)
    });
    sorted(numbered.collect())
}

/// A pair of the same opportunity, with an id of its own.
fn another(mut pair: PreferencePair) -> PreferencePair {
    pair.action_index += 1_000;
    renamed(pair)
}

fn renamed(mut pair: PreferencePair) -> PreferencePair {
    let (reason, policy) = (pair.reason.as_str(), pair.label_policy_version);
    let (opportunity, suggestion) = (pair.opportunity_id, pair.suggestion_id);
    pair.pair_id = PairId::derive(&pair.tenant, opportunity, suggestion, pair.action_index, reason, policy);
    pair
}

fn sorted(mut pairs: Vec<PreferencePair>) -> Vec<PreferencePair> {
    pairs.sort_by_key(|pair| pair.pair_id);
    pairs
}

/// What the lake says of pairs when nobody asks for their texts.
fn without_texts(pairs: &[PreferencePair]) -> Vec<PreferencePair> {
    let emptied = |pair: PreferencePair| {
        let sealed = pair.sealed.map(|sealed| Sealed { ciphertext: Vec::new(), ..sealed });
        PreferencePair { sealed, ..pair }
    };
    pairs.iter().cloned().map(emptied).collect()
}

fn config() -> LakeConfig {
    LakeConfig {
        part_age_ms: 20,
        row_group_pairs: 7,
        compaction: CompactionConfig { parts: 2, keep_replaced_hours: 24, ..CompactionConfig::default() },
        ..LakeConfig::default()
    }
}

/// A lake whose pairs came a few at a time.
struct Lake {
    bench: Bench,
    pairs: Vec<PreferencePair>,
    reader: LakeReader,
}

impl Lake {
    async fn filled(days: usize) -> Self {
        let bench = bench().await;
        let pairs = varied(&bench.world, days).await;
        let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
        let lake = Self { bench, pairs, reader };
        lake.fill(&lake.pairs, 10).await;
        lake
    }

    /// Publishes pairs and lets the sink write them, `count` at a time.
    async fn fill(&self, pairs: &[PreferencePair], count: usize) {
        for (round, chunk) in pairs.chunks(count).enumerate() {
            let numbered = chunk.iter().enumerate();
            let records = numbered.map(|(index, pair)| ((round + index) as u8, avro::encode(pair).unwrap())).collect();
            self.bench.publish(PREFERENCE_PAIRS, records).await;
            self.bench.follow(Box::new(LakeWriter::new(Arc::clone(&self.bench.artifacts), config()))).await;
        }
    }

    async fn parts(&self) -> Vec<LakePart> {
        self.reader.parts(&TenantId::default()).await.unwrap()
    }

    /// Each pair is in exactly one part, as it was published, and each part is what its row says.
    async fn holds(&self, expected: &[PreferencePair]) {
        let read = self.reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
        let (facts, parts) = read.whole().unwrap();
        assert_eq!(sorted(facts), without_texts(expected));
        let mut pairs = Vec::new();
        for part in &parts {
            pairs.extend(self.reader.read(part).await.unwrap());
        }
        assert_eq!(sorted(pairs), expected);
    }

    /// Reads the texts of pairs, by id and content.
    fn texts_of(&self, wanted: &[PreferencePair]) -> SealedTexts {
        let wanted = wanted.iter().map(|pair| (pair.pair_id, pair.content_digest)).collect();
        self.reader.sealed_texts(&TenantId::default(), PairFilter::default(), wanted)
    }

    fn compactor(&self, artifacts: &Arc<dyn ArtifactStore>) -> Compactor {
        let world = &self.bench.world;
        let clock = SimulatedClock::new(START).shared();
        Compactor::new(world.pool.clone(), Arc::clone(artifacts), world.keys.clone(), clock, config())
    }

    async fn lead(&self) -> Fence {
        let leases = LeaseStore::new(self.bench.world.pool.clone());
        leases.acquire(LEASE_NAME, "test", Duration::from_secs(600)).await.unwrap().unwrap()
    }

    /// Compacts until there is nothing to do, and says what that was.
    async fn compact(&self, now: Timestamp) -> Compacted {
        let (compactor, fence) = (self.compactor(&self.bench.artifacts), self.lead().await);
        let mut all = Compacted::default();
        loop {
            let done = compactor.compact(&fence, now).await.unwrap();
            if done == Compacted::default() {
                return all;
            }
            all.parts_replaced += done.parts_replaced;
            all.parts_made += done.parts_made;
            all.parts_cleared += done.parts_cleared;
            all.pairs_erased += done.pairs_erased;
            all.objects_removed += done.objects_removed;
        }
    }
}

async fn a_part_holds_pairs_of_one_day_audience_and_language() {
    let lake = Lake::filled(2).await;
    let (parts, mut groups) = (lake.parts().await, BTreeSet::new());
    for part in &parts {
        let group = part.group.clone().unwrap();
        assert_eq!(group.day, part.min_labeled_at.as_micros().div_euclid(DAY.as_micros() as i64));
        let pairs = lake.reader.read(part).await.unwrap();
        assert!(pairs.iter().all(|pair| PartGroup::of(pair) == group), "{part:?}");
        groups.insert(group);
    }
    assert_eq!(groups.len(), 2 * KINDS);
    lake.holds(&lake.pairs).await;

    // Whoever wants some of them reads the parts that may hold them, and no others.
    let filter = PairFilter {
        labeled_from: Some(START + DAY),
        audience: Some("payments".parse().unwrap()),
        language: Some("rust".to_owned()),
        ..PairFilter::default()
    };
    let read = lake.reader.read_all(&TenantId::default(), &filter).await.unwrap();
    let wanted: Vec<PreferencePair> = lake.pairs.iter().filter(|pair| filter.wants(pair)).cloned().collect();
    assert!(wanted.len() == 5 && read.parts.len() <= parts.len() / 4, "{} of {}", read.parts.len(), parts.len());
    assert_eq!(sorted(read.pairs), without_texts(&wanted));
}

#[tokio::test]
async fn many_groups_at_once_are_few_objects_and_lie_apart_once_they_are_compacted() {
    let bench = bench().await;
    let mut pairs = varied(&bench.world, 1).await;
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.language = format!("language {}\0", number % 15);
    }
    let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
    let lake = Lake { bench, pairs, reader };
    let records = lake.pairs.iter().map(|pair| (1, avro::encode(pair).unwrap())).collect();
    lake.bench.publish(PREFERENCE_PAIRS, records).await;
    let few = LakeConfig { part_groups: 3, ..config() };
    lake.bench.follow(Box::new(LakeWriter::new(Arc::clone(&lake.bench.artifacts), few))).await;
    let parts = lake.parts().await;
    assert!(parts.iter().any(|part| part.group.is_none()), "{parts:?}");
    lake.holds(&lake.pairs).await;
    // Another day begins, so theirs is over.
    let mut next = varied(&lake.bench.world, 2).await;
    next.retain(|pair| pair.labeled_at > START);
    lake.fill(&next, 100).await;
    lake.compact(real_now()).await;
    assert!(lake.parts().await.iter().all(|part| part.group.is_some()));
    lake.holds(&sorted([lake.pairs.clone(), next].concat())).await;
}

async fn many_small_parts_become_few_and_no_pair_moves_under_a_reader() {
    let lake = Lake::filled(3).await;
    let (before, now) = (lake.parts().await, real_now());
    let done = lake.compact(now).await;
    assert!(done.parts_replaced >= before.len() as u64 && done.pairs_erased == 0, "{done:?} of {}", before.len());
    let parts = lake.parts().await;
    assert_eq!(parts.len(), 3 * KINDS, "one part of each day, audience and language");
    assert!(parts.len() < before.len() && parts.iter().all(|part| part.generation > 0));
    lake.holds(&lake.pairs).await;
    // Whoever has listed the parts before reads on.
    let mut read = Vec::new();
    for part in &before {
        read.extend(lake.reader.read(part).await.unwrap());
    }
    assert_eq!(sorted(read), lake.pairs);
    assert_eq!(lake.compact(now + Duration::from_secs(23 * 3600)).await, Compacted::default());

    // A day later their objects go, and a reader with an old list is told to list again.
    let removed = lake.compact(now + Duration::from_secs(25 * 3600)).await.objects_removed;
    assert_eq!(removed, done.parts_replaced);
    let replaced = before.iter().find(|part| !parts.contains(part)).unwrap();
    assert!(matches!(lake.reader.read(replaced).await, Err(LakeError::Replaced { .. })));
    lake.holds(&lake.pairs).await;
    // What comes later joins what is there.
    let mut more = varied(&lake.bench.world, 4).await;
    more.retain(|pair| !lake.pairs.contains(pair));
    lake.fill(&more, 10).await;
    lake.compact(now).await;
    assert_eq!(lake.parts().await.len(), 4 * KINDS);
    lake.holds(&sorted([lake.pairs.clone(), more].concat())).await;
}

async fn who_looks_again_reads_only_the_parts_that_are_new() {
    let lake = Lake::filled(2).await;
    let left = AtomicI64::new(i64::MAX);
    let store = Arc::new(Failing { inner: Arc::clone(&lake.bench.artifacts), left, behind: false });
    let objects: Arc<dyn ArtifactStore> = store.clone();
    let looking = |pairs| LakeReader::new(lake.bench.world.pool.clone(), Arc::clone(&objects)).remembering(pairs);
    // What a look finds, and how many objects it reads.
    let look = async |reader: &LakeReader| {
        let before = store.left.load(Ordering::SeqCst);
        let read = reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
        (sorted(read.pairs), before - store.left.load(Ordering::SeqCst))
    };
    let (reader, parts) = (looking(usize::MAX), lake.parts().await.len() as i64);
    let mut expected = without_texts(&lake.pairs);
    assert_eq!(look(&reader).await, (expected.clone(), parts));
    assert_eq!(look(&reader).await, (expected.clone(), 0));
    let more: Vec<PreferencePair> = lake.pairs.iter().take(10).cloned().map(another).collect();
    lake.fill(&more, 10).await;
    expected = sorted([expected, without_texts(&more)].concat());
    assert_eq!(look(&reader).await, (expected.clone(), lake.parts().await.len() as i64 - parts));
    // The age of the oldest label is looked at as everything is. There is room for each pair once.
    let aging = looking(expected.len());
    let age = async || {
        let before = store.left.load(Ordering::SeqCst);
        let oldest = aging.oldest_label_outside(&TenantId::default(), &Default::default(), |_| false).await.unwrap();
        assert_eq!(oldest, None);
        before - store.left.load(Ordering::SeqCst)
    };
    assert_eq!((age().await, age().await), (lake.parts().await.len() as i64, 0));
    assert_eq!(look(&aging.clone().remembering(0)).await, (expected.clone(), 0), "others share it");
    // What was made of others is new; a row that says something else than it did is read again, and refused.
    lake.compact(real_now()).await;
    let parts = lake.parts().await;
    assert_eq!(look(&reader).await, (expected.clone(), parts.len() as i64));
    assert_eq!((age().await, age().await), (parts.len() as i64, 0), "what is replaced leaves its room to others");
    sqlx::query("UPDATE lake_parts SET pairs = pairs + 1 WHERE part_id = $1")
        .bind(&parts[0].part_id)
        .execute(&lake.bench.world.pool)
        .await
        .unwrap();
    let read = reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
    assert_eq!(read.bad.len(), 1);
    sqlx::query("UPDATE lake_parts SET pairs = pairs - 1 WHERE part_id = $1")
        .bind(&parts[0].part_id)
        .execute(&lake.bench.world.pool)
        .await
        .unwrap();
    // There is room for one part, and no more.
    let forgetful = looking(parts[0].pairs as usize);
    for objects in [parts.len() as i64, parts.len() as i64 - 1] {
        assert_eq!(look(&forgetful).await, (expected.clone(), objects));
    }
    // What is gone makes room: there was room for everything, and now for some of it.
    let room = expected.len();
    let bounded = looking(room);
    for objects in [parts.len() as i64, 0] {
        assert_eq!(look(&bounded).await, (expected.clone(), objects));
    }
    let more: Vec<PreferencePair> = lake.pairs.iter().cloned().map(another).map(another).collect();
    lake.fill(&more, more.len()).await;
    lake.compact(real_now()).await;
    expected = sorted([expected, without_texts(&more)].concat());
    let (before, parts) = (parts, lake.parts().await);
    assert!(before.iter().all(|part| !parts.contains(part)), "all are written again");
    let mut held = 0;
    let unfit = parts.iter().filter(|part| {
        let fits = held + part.pairs as usize <= room;
        held += if fits { part.pairs as usize } else { 0 };
        !fits
    });
    let unfit = unfit.count();
    assert!(unfit > 0 && unfit < parts.len());
    for objects in [parts.len(), unfit] {
        assert_eq!(look(&bounded).await, (expected.clone(), objects as i64));
    }
}

async fn texts_are_read_of_those_who_are_asked_for_whatever_is_compacted_meanwhile() {
    let lake = Lake::filled(3).await;
    let wanted: Vec<PreferencePair> = lake.pairs.iter().step_by(3).cloned().collect();
    let (mut texts, now) = (lake.texts_of(&wanted), real_now());
    let mut read = texts.next().await.unwrap().unwrap();
    assert!(read.len() < wanted.len(), "one part holds them all");
    // What was listed is replaced, and its objects are removed.
    lake.compact(now).await;
    assert!(lake.compact(now + Duration::from_secs(25 * 3600)).await.objects_removed > 0);
    while let Some(more) = texts.next().await.unwrap() {
        read.extend(more);
    }
    assert_eq!((sorted(read), texts.missing()), (wanted.clone(), 0));

    // The same pairs with another content are not there, and no part is to blame.
    let other = |pair: &PreferencePair| PreferencePair { content_digest: Sha256Digest::of(b"other"), ..pair.clone() };
    let mut texts = lake.texts_of(&wanted.iter().map(other).collect::<Vec<_>>());
    assert!(texts.next().await.unwrap().is_none());
    assert_eq!(texts.missing(), wanted.len());
    texts.whole().unwrap();
    // Of a lake with a part that cannot be used the rest is read, and it is told that something is missing.
    lake.bench.artifacts.remove(&lake.parts().await[0].digest).await.unwrap();
    let (mut texts, mut read) = (lake.texts_of(&lake.pairs), 0);
    while let Some(more) = texts.next().await.unwrap() {
        read += more.len();
    }
    assert_eq!(read + texts.missing(), lake.pairs.len());
    assert!(read > 0 && matches!(texts.whole(), Err(LakeError::Incomplete { parts: 1, .. })));
}

/// A store that fails from some operation on: before it, or behind its effect.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn ArtifactStore>,
    left: AtomicI64,
    behind: bool,
}

impl Failing {
    fn is_over(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) <= 0
    }
}

#[async_trait]
impl ArtifactStore for Failing {
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        let is_over = self.is_over();
        let stored = if is_over && !self.behind { None } else { Some(self.inner.put(bytes).await?) };
        stored.filter(|_| !is_over).ok_or(ArtifactError::Stopped)
    }

    async fn put_file(&self, path: &Path) -> Result<Stored, ArtifactError> {
        self.inner.put_file(path).await
    }

    async fn get(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError> {
        if self.is_over() { Err(ArtifactError::Stopped) } else { self.inner.get(digest).await }
    }

    async fn get_to_file(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError> {
        self.inner.get_to_file(digest, path).await
    }

    async fn exists(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        self.inner.exists(digest).await
    }

    async fn remove(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        let is_over = self.is_over();
        let removed = if is_over && !self.behind { false } else { self.inner.remove(digest).await? };
        if is_over { Err(ArtifactError::Stopped) } else { Ok(removed) }
    }
}

async fn whatever_fails_and_whenever_each_pair_lies_in_one_part() {
    let lake = Lake::filled(2).await;
    let fence = lake.lead().await;
    // The store fails at each of its operations in turn, removals included.
    let mut now = real_now();
    for operations in 0.. {
        let mut is_done = true;
        for behind in [false, true] {
            let left = AtomicI64::new(operations);
            let failing: Arc<dyn ArtifactStore> =
                Arc::new(Failing { inner: Arc::clone(&lake.bench.artifacts), left, behind });
            match lake.compactor(&failing).compact(&fence, now).await {
                Ok(done) => is_done &= done == Compacted::default(),
                Err(LakeError::Artifacts(ArtifactError::Stopped)) => is_done = false,
                Err(error) => panic!("{error}"),
            }
            lake.holds(&lake.pairs).await;
            now = now + Duration::from_secs(13 * 3600);
        }
        if is_done {
            break;
        }
    }
    assert_eq!(lake.parts().await.len(), 2 * KINDS);
    let waiting: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM lake_replaced").fetch_one(&lake.bench.world.pool).await.unwrap();
    assert_eq!(waiting, 0, "every object that was replaced is removed");

    // The process is gone in the middle, each time a little later.
    let lake = Lake::filled(2).await;
    let fence = lake.lead().await;
    for micros in (0..).step_by(500) {
        let compactor = lake.compactor(&lake.bench.artifacts);
        let limit = Duration::from_micros(micros);
        let ended = tokio::time::timeout(limit, compactor.compact(&fence, real_now())).await;
        lake.holds(&lake.pairs).await;
        match ended {
            Ok(Ok(done)) if done == Compacted::default() => break,
            // The commit of the one before came only after this one had listed the parts.
            Ok(Err(error)) => assert!(matches!(error, LakeError::Replaced { .. }), "{error}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    assert_eq!(lake.parts().await.len(), 2 * KINDS);
}

async fn what_a_killed_writer_stored_goes_and_what_a_running_one_stores_stays() {
    let lake = Lake::filled(1).await;
    let (pool, artifacts) = (&lake.bench.world.pool, &lake.bench.artifacts);
    let let_go = async || {
        let digests: Vec<String> =
            sqlx::query_scalar("SELECT digest FROM lake_replaced").fetch_all(pool).await.unwrap();
        digests.iter().map(|digest| digest.parse().unwrap()).collect::<Vec<Sha256Digest>>()
    };
    let count_there = async |objects: &[Sha256Digest]| {
        let mut there = 0;
        for object in objects {
            there += usize::from(artifacts.exists(object).await.unwrap());
        }
        there
    };
    assert_eq!(let_go().await, [], "rows name all that was stored");
    let end = lake.bench.log.end_positions(PREFERENCE_PAIRS).await.unwrap();
    let more = lake.pairs.iter().take(5).cloned().map(another).zip(0..);
    let published: Vec<_> = more.map(|(pair, key)| (key, avro::encode(&pair).unwrap())).collect();
    let count = published.len();
    lake.bench.publish(PREFERENCE_PAIRS, published).await;
    let mut tail = lake.bench.log.tail(PREFERENCE_PAIRS, "test", end).await.unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(tail.next(count, Duration::from_secs(1)).await.unwrap());
    }
    let mut writer = LakeWriter::new(Arc::clone(artifacts), config());

    // It is killed before it writes the rows; later the same batch makes the same objects.
    let stored_at = real_now();
    writer.store(pool, &records).await.unwrap();
    let orphans = let_go().await;
    assert!(!orphans.is_empty());
    let kept_for = Duration::from_secs(25 * 3600);
    let (compactor, fence) = (lake.compactor(artifacts), lake.lead().await);
    let sweep = async |now: Timestamp| compactor.compact(&fence, now).await.unwrap().objects_removed;
    sweep(stored_at + kept_for - Duration::from_secs(60)).await;
    assert_eq!(count_there(&orphans).await, orphans.len());
    let removed = sweep(real_now() + kept_for).await;
    assert!(removed >= orphans.len() as u64, "{removed}");
    assert_eq!(count_there(&orphans).await, 0);
    lake.holds(&lake.pairs).await;

    // One that is slow beyond all measure, and is swept up behind, does not write rows without objects.
    writer.store(pool, &records).await.unwrap();
    assert_eq!(count_there(&orphans).await, orphans.len());
    sweep(real_now() + kept_for).await;
    let mut transaction = migrations::begin_write(pool).await.unwrap();
    let refused = writer.write(&mut transaction, &records).await.unwrap_err();
    assert!(matches!(refused, SinkError::Lake(LakeError::ObjectGone { .. })), "{refused}");
    transaction.rollback().await.unwrap();
    lake.holds(&lake.pairs).await;

    // The store fails while it removes; nobody counts on the object until it is done.
    writer.store(pool, &records).await.unwrap();
    let failing: Arc<dyn ArtifactStore> =
        Arc::new(Failing { inner: Arc::clone(artifacts), left: AtomicI64::new(0), behind: false });
    assert!(lake.compactor(&failing).compact(&fence, real_now() + kept_for).await.is_err());
    let refused = writer.store(pool, &records).await.unwrap_err();
    assert!(matches!(refused, SinkError::Lake(LakeError::ObjectGone { .. })), "{refused}");
    sweep(real_now() + kept_for).await;
    writer.store(pool, &records).await.unwrap();
    let mut transaction = migrations::begin_write(pool).await.unwrap();
    writer.write(&mut transaction, &records).await.unwrap();
    migrations::commit(transaction).await.unwrap();
    sweep(real_now() + kept_for).await;
    assert_eq!(count_there(&orphans).await, orphans.len());
}

async fn a_former_leader_changes_nothing() {
    let lake = Lake::filled(2).await;
    let former = lake.lead().await;
    let leader = lake.lead().await;
    let before = lake.parts().await;
    let refused = lake.compactor(&lake.bench.artifacts).compact(&former, real_now()).await;
    assert!(matches!(refused, Err(LakeError::Lease(_))), "{refused:?}");
    assert_eq!(lake.parts().await, before);
    // One whose rows were taken from under it begins again with what is there.
    let (one, other) = (lake.compactor(&lake.bench.artifacts), lake.compactor(&lake.bench.artifacts));
    let (one, other) = tokio::join!(one.compact(&leader, real_now()), other.compact(&leader, real_now()));
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    lake.holds(&lake.pairs).await;
    lake.compact(real_now()).await;
    assert_eq!(lake.parts().await.len(), 2 * KINDS);
    lake.holds(&lake.pairs).await;
}

async fn pairs_of_an_erased_person_go() {
    let lake = Lake::filled(2).await;
    lake.compact(real_now()).await;
    let world = &lake.bench.world;
    let person = world.person("person 2").await.pseudonym;
    let (gone, rest): (Vec<_>, Vec<_>) = lake.pairs.iter().cloned().partition(|pair| pair.person == person);
    assert!(!gone.is_empty() && !rest.is_empty());
    let mut transaction = migrations::begin_write(&world.pool).await.unwrap();
    world.keys.erase(&mut transaction, &TenantId::default(), &person, START).await.unwrap();
    transaction.commit().await.unwrap();
    // The keys in memory know nothing of it yet: it is the database that is asked.
    let done = lake.compact(real_now()).await;
    assert_eq!(done.pairs_erased, gone.len() as u64, "{done:?}");
    lake.holds(&rest).await;
    assert!(lake.parts().await.iter().all(|part| part.erasures == 1));
    assert_eq!(lake.compact(real_now()).await, Compacted::default());
    // Pairs of the same person that are still on their way go when they are merged.
    lake.fill(&gone, 1_000).await;
    let mut next = varied(world, 3).await;
    next.retain(|pair| pair.labeled_at >= START + DAY * 2 && pair.person != person);
    lake.fill(&next, 1_000).await;
    lake.compact(real_now()).await;
    lake.holds(&sorted([rest, next].concat())).await;
}

impl Lake {
    /// Up to which label pairs are gone because of their age, as an audit is told.
    async fn expired_until(&self) -> Option<Timestamp> {
        let mut connection = self.bench.world.pool.acquire().await.unwrap();
        expired_until(&mut connection).await.unwrap().get(&TenantId::default()).copied()
    }
}

async fn what_is_past_retention_leaves_the_lake_and_is_written_down() {
    let lake = Lake::filled(3).await;
    let (former, leader, now) = (lake.lead().await, lake.lead().await, real_now());
    let compactor = lake.compactor(&lake.bench.artifacts);
    let (before, cut) = (lake.parts().await, START + DAY);
    let refused = compactor.expire(&former, cut, now).await;
    assert!(matches!(refused, Err(LakeError::Lease(_))), "{refused:?}");
    assert_eq!((lake.parts().await, lake.expired_until().await), (before.clone(), None));

    // What cannot be read goes as well.
    let (old, _): (Vec<LakePart>, Vec<LakePart>) = before.into_iter().partition(|part| part.max_labeled_at < cut);
    lake.bench.artifacts.remove(&old[0].digest).await.unwrap();
    let (gone, kept): (Vec<_>, Vec<_>) = lake.pairs.iter().cloned().partition(|pair| pair.labeled_at < cut);
    let done = compactor.expire(&leader, cut, now).await.unwrap();
    assert_eq!(done, Expired { parts: old.len() as u64, pairs: gone.len() as u64 });
    lake.holds(&kept).await;
    assert_eq!(lake.expired_until().await, gone.iter().map(|pair| pair.labeled_at).max());
    assert_eq!(compactor.expire(&leader, cut, now).await.unwrap(), Expired::default());
    // Whoever has listed a part before reads on for a while, and is told then.
    lake.reader.read(&old[1]).await.unwrap();
    lake.compact(now + Duration::from_secs(25 * 3600)).await;
    assert!(matches!(lake.reader.read(&old[1]).await, Err(LakeError::Replaced { .. })));
    lake.holds(&kept).await;

    // The process is gone in the middle, each time a little later: what is not there was written down.
    let leader = lake.lead().await;
    for micros in (0..).step_by(200) {
        let (limit, cut) = (Duration::from_micros(micros), START + DAY * 2);
        let ended = tokio::time::timeout(limit, compactor.expire(&leader, cut, now)).await;
        let read = lake.reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
        let (held, _) = read.whole().unwrap();
        let is_held = |pair: &PreferencePair| held.iter().any(|held| held.pair_id == pair.pair_id);
        let until = lake.expired_until().await.unwrap();
        assert!(kept.iter().all(|pair| pair.labeled_at <= until || is_held(pair)), "{until}");
        match ended {
            Ok(Ok(done)) if done == Expired::default() => break,
            // The commit of the one before came only after this one had listed the parts.
            Ok(Err(error)) => assert!(matches!(error, LakeError::Replaced { .. }), "{error}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    let kept: Vec<_> = kept.into_iter().filter(|pair| pair.labeled_at >= START + DAY * 2).collect();
    lake.holds(&kept).await;

    // What is past retention when it comes goes as well, and nothing newer that has gone is forgotten over it.
    let late: Vec<PreferencePair> = gone.into_iter().map(another).collect();
    lake.fill(&late, late.len()).await;
    let done = compactor.expire(&leader, START + DAY * 2, now).await.unwrap();
    assert_eq!(done.pairs, late.len() as u64);
    assert_eq!(lake.expired_until().await, Some(START + DAY));
    lake.holds(&kept).await;
}

async fn what_is_past_retention_by_the_clock_of_the_platform_goes_by_itself() {
    let lake = Lake::filled(2).await;
    let compaction = CompactionConfig { interval_s: 1, ..config().compaction };
    let kept_for = LakeConfig { keep_days: 30, compaction, ..config() };
    let world = &lake.bench.world;
    let artifacts = Arc::clone(&lake.bench.artifacts);
    let (clock, stop) = (SimulatedClock::new(START + DAY), CancellationToken::new());
    let compactor = Compactor::new(world.pool.clone(), artifacts, world.keys.clone(), clock.shared(), kept_for);
    let running = tokio::spawn(compaction::run(compactor, "test", stop.clone()));
    lake.comes_to(2 * KINDS).await;
    lake.holds(&lake.pairs).await;
    // The newer day is now exactly as old as pairs may become, and stays.
    clock.set(START + DAY * 31);
    lake.comes_to(KINDS).await;
    let (newest, _): (Vec<_>, Vec<_>) = lake.pairs.iter().cloned().partition(|pair| pair.labeled_at == START + DAY);
    lake.holds(&newest).await;
    stop.cancel();
    running.await.unwrap();
}

async fn what_is_past_retention_goes_also_where_nothing_is_compacted() {
    let lake = Lake::filled(2).await;
    let bench = &lake.bench;
    let compaction =
        CompactionConfig { enabled: false, interval_s: 1, keep_replaced_hours: 0, ..CompactionConfig::default() };
    let settings =
        LabelerConfig { lake: LakeConfig { keep_days: 30, compaction, ..config() }, ..LabelerConfig::default() };
    let deps = labeler::Deps {
        bus: Arc::clone(&bench.log),
        pool: bench.world.pool.clone(),
        keys: bench.world.keys.clone(),
        artifacts: Arc::clone(&bench.artifacts),
        clock: SimulatedClock::new(START + DAY * 31).shared(),
        holder: "test".to_owned(),
    };
    let (gone, kept): (Vec<LakePart>, Vec<LakePart>) =
        lake.parts().await.into_iter().partition(|part| part.max_labeled_at < START + DAY);
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let running = tokio::spawn(labeler::run(settings, deps, readiness.gate("labeler"), stop.clone()));
    lake.comes_to(kept.len()).await;
    // Their objects go, too.
    let bound = tokio::time::Instant::now() + BOUND;
    for part in &gone {
        while bench.artifacts.exists(&part.digest).await.unwrap() {
            assert!(tokio::time::Instant::now() < bound, "{part:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(!gone.is_empty() && kept.len() > KINDS);
    assert_eq!(lake.parts().await, kept, "nothing is written again");
    tokio::time::timeout(BOUND, readiness.ready()).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

async fn what_cannot_be_let_go_keeps_nothing_from_being_compacted() {
    let lake = Lake::filled(2).await;
    let compaction = CompactionConfig { interval_s: 1, ..config().compaction };
    let kept_for = LakeConfig { keep_days: 30, compaction, ..config() };
    let (world, artifacts) = (&lake.bench.world, Arc::clone(&lake.bench.artifacts));
    let rename = async |from: &str, to: &str| {
        let statement = sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    };
    rename("lake_expired", "elsewhere").await;
    let (clock, stop) = (SimulatedClock::new(START + DAY * 31), CancellationToken::new());
    let compactor = Compactor::new(world.pool.clone(), artifacts, world.keys.clone(), clock.shared(), kept_for);
    let running = tokio::spawn(compaction::run(compactor, "test", stop.clone()));
    lake.comes_to(2 * KINDS).await;
    lake.holds(&lake.pairs).await;
    rename("elsewhere", "lake_expired").await;
    lake.comes_to(KINDS).await;
    stop.cancel();
    running.await.unwrap();
}

impl Lake {
    /// Waits until there are so many parts.
    async fn comes_to(&self, parts: usize) {
        let bound = tokio::time::Instant::now() + BOUND;
        loop {
            let found = self.parts().await.len();
            if found == parts {
                return;
            }
            assert!(tokio::time::Instant::now() < bound, "{found} parts");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets a part be made of other bytes than it was, as its row says.
    async fn exchange(&self, part: &LakePart, bytes: Bytes) {
        let object = self.bench.artifacts.put(bytes).await.unwrap();
        sqlx::query("UPDATE lake_parts SET digest = $1, bytes = $2 WHERE part_id = $3")
            .bind(object.digest.to_string())
            .bind(object.bytes as i64)
            .bind(&part.part_id)
            .execute(&self.bench.world.pool)
            .await
            .unwrap();
    }
}

async fn a_part_that_cannot_be_used_is_named_and_harms_no_other() {
    let lake = Lake::filled(2).await;
    lake.compact(real_now()).await;
    let parts = lake.parts().await;
    let bytes = lake.bench.artifacts.get(&parts[0].digest).await.unwrap();
    // Cut off before it was stored; cut off afterwards; gone; of another format; another part.
    lake.exchange(&parts[0], bytes.slice(..bytes.len() - 9)).await;
    let objects = LocalArtifacts::open_to_read(lake.bench.world.directory.path().join("artifacts")).unwrap();
    let path = objects.path_of(&parts[1].digest);
    std::fs::write(&path, &std::fs::read(&path).unwrap()[..100]).unwrap();
    lake.bench.artifacts.remove(&parts[2].digest).await.unwrap();
    let placed: Vec<PlacedPair> = lake.reader.read_placed(&parts[3]).await.unwrap();
    let metadata = PartMetadata::of(PREFERENCE_PAIRS, parts[3].group.clone(), parts[3].generation, &placed).unwrap();
    let newer = PartMetadata { format: FORMAT + 1, ..metadata };
    lake.exchange(&parts[3], write_part(&newer, &placed, config().row_groups()).unwrap()).await;
    let (place, pair) = placed[0].clone();
    let shifted = [(PairPlace { position: format!("{:020}", 999_999), ..place }, pair)];
    let other = PartMetadata::of(PREFERENCE_PAIRS, parts[4].group.clone(), parts[4].generation, &shifted).unwrap();
    lake.exchange(&parts[4], write_part(&other, &shifted, config().row_groups()).unwrap()).await;

    let read = lake.reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
    let faults: Vec<(&str, &str)> = read.bad.iter().map(|bad| (bad.part_id.as_str(), bad.fault.as_str())).collect();
    let expected = ["unreadable", "object_corrupt", "object_missing", "other_format", "not_what_its_row_says"];
    let expected: Vec<(&str, &str)> = parts.iter().map(|part| part.part_id.as_str()).zip(expected).collect();
    assert_eq!(faults, expected);
    assert!(matches!(read.bad[3].fault, PartFault::OtherFormat { found } if found == FORMAT + 1));
    // The others are read, and whoever needs everything is refused.
    assert_eq!(read.parts, parts[5..]);
    let count = |parts: &[LakePart]| parts.iter().map(|part| part.pairs).sum::<u64>();
    assert_eq!(read.pairs.len() as u64, count(&parts[5..]));
    let refused = read.whole().unwrap_err();
    assert!(matches!(&refused, LakeError::Incomplete { parts: 5, pairs, .. } if *pairs == count(&parts[..5])));
    assert!(refused.to_string().contains(&parts[0].part_id), "{refused}");
    let oldest = lake.reader.oldest_label_outside(&TenantId::default(), &Default::default(), |_| true).await.unwrap();
    assert!(oldest.is_some());

    // Compaction merges what it can and leaves the bad ones where they are, for whoever restores their objects.
    let more: Vec<PreferencePair> = lake.pairs.iter().cloned().map(another).collect();
    lake.fill(&more, 10).await;
    lake.compact(real_now()).await;
    let after = lake.parts().await;
    let ids: BTreeSet<&str> = after.iter().map(|part| part.part_id.as_str()).collect();
    assert!(parts[..5].iter().all(|part| ids.contains(part.part_id.as_str())));
    assert_eq!(after.len(), 2 * KINDS + 5);
    let read = lake.reader.read_all(&TenantId::default(), &PairFilter::default()).await.unwrap();
    assert_eq!((read.bad.len(), read.pairs.len() as u64), (5, count(&parts[5..]) + more.len() as u64));
}
