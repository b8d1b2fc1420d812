//! Sinks on the local log: effects and positions in one transaction, exactly once over restarts.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use artifacts::{ArtifactStore, LocalArtifacts};
use bus::{
    Affected, Bus, CommittedRecord, Input, Outcome, Position, Prepared, Record, RecordKey, StepContext, StepHandler,
    StepSpec,
};
use bytes::Bytes;
use events::avro;
use events::topics::{
    DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW,
};
use events::{
    CleanEvent, Decision, EventKind, ModelVersion, OpportunityOutcome, PreferencePair, QuarantinedEvent, RawEvent,
    TenantId, Timestamp,
};
use labeler::LabelPolicy;
use labeler::config::{LakeConfig, SinkConfig};
use labeler::lake::{LakeReader, LakeWriter};
use labeler::ledger::{self, Ledger, LedgerTotals};
use labeler::policy_record::{CONTROL_KIND, SUBJECT, VersionedPolicy, canonical, tell};
use labeler::sink::{BatchLimits, Sink, SinkError, run_sink, run_sink_in_turn, stored_positions};
use labeler::tally::{MeasureFilter, Tally, measures};
use service::clock::{RealClock, SharedClock, SimulatedClock};
use sqlx::{Any, AnyPool, Transaction};
use tokio_util::sync::CancellationToken;

use crate::kit::{self, Editor, START, World, label, telling};
use crate::rig::{BOUND, create_topics, open_log};

test_databases::on_both_databases! {
    the_lake_holds_every_pair_once_over_restarts,
    of_two_sinks_of_one_name_one_is_overtaken,
    a_sink_works_in_one_process_and_another_follows_when_that_is_gone,
    a_sink_is_told_what_was_committed_and_not_what_was_rolled_back,
    an_object_without_a_row_is_garbage_and_no_pair_is_lost_or_doubled,
    the_tally_counts_once_and_measures_by_person,
    the_ledger_accounts_for_every_event,
    folded_hours_count_as_before,
    the_ledger_folds_old_hours_by_itself_and_knows_repetitions_of_what_it_folded,
    the_log_is_told_a_label_policy_once,
    details_are_told_from_the_first_start_on_at_which_every_release_reads_them,
    what_no_database_stores_as_text_holds_up_no_sink,
}

pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) log: Arc<dyn Bus>,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
}

pub(crate) async fn bench() -> Bench {
    bench_at(RealClock::shared()).await
}

async fn bench_at(clock: SharedClock) -> Bench {
    let world = World::new().await;
    let log = open_log(&world, clock);
    create_topics(&*log).await;
    let artifacts: Arc<dyn ArtifactStore> =
        Arc::new(LocalArtifacts::open(world.directory.path().join("artifacts")).unwrap());
    Bench { world, log, artifacts }
}

impl Bench {
    pub(crate) async fn publish(&self, topic: &str, records: Vec<(u8, Vec<u8>)>) {
        let records = records
            .into_iter()
            .map(|(key, value)| Record { key: RecordKey([key; 16]), value: Bytes::from(value) })
            .collect();
        assert!(self.log.publish(topic, records).await.iter().all(Result::is_ok));
    }

    /// Runs a sink until it has stored the end of its topics, then stops it.
    pub(crate) async fn follow(&self, sink: Box<dyn Sink>) {
        let (name, topics) = (sink.name().to_owned(), sink.topics());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_sink(Arc::clone(&self.log), self.world.pool.clone(), sink, stop.clone()));
        let bound = tokio::time::Instant::now() + Duration::from_secs(30);
        for topic in topics {
            let end = self.log.end_positions(&topic).await.unwrap();
            loop {
                let stored = stored_positions(&self.world.pool, &name, &topic).await.unwrap();
                let reached = end.iter().all(|(partition, position)| {
                    position == Position::START || stored.get(partition).is_some_and(|stored| stored >= position)
                });
                if reached {
                    break;
                }
                assert!(tokio::time::Instant::now() < bound, "{name}: {topic} at {stored:?} of {end:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    pub(crate) fn lake(&self) -> Box<dyn Sink> {
        Box::new(LakeWriter::new(Arc::clone(&self.artifacts), LakeConfig { part_age_ms: 20, ..LakeConfig::default() }))
    }
}

/// Pairs and outcomes of some persons that accept what they are shown.
pub(crate) async fn labeled(world: &World, persons: u8) -> (Vec<PreferencePair>, Vec<OpportunityOutcome>) {
    let (mut pairs, mut outcomes) = (Vec::new(), Vec::new());
    for seed in 1..=persons {
        let person = world.person(&format!("person {seed}")).await;
        let mut editor = Editor::new(&person, seed);
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900);
        if seed % 3 == 0 {
            editor.dismissed(&served, 0).wait(500).types("get_name", 0, "load_name");
        } else {
            editor.accepted(&served, 0, None);
        }
        editor.looks(&served, opened);
        let (more_pairs, more_outcomes) = label(world, &editor).await;
        pairs.extend(more_pairs);
        outcomes.extend(more_outcomes);
    }
    (pairs, outcomes)
}

async fn the_lake_holds_every_pair_once_over_restarts() {
    let bench = bench().await;
    let (pairs, _) = labeled(&bench.world, 12).await;
    let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
    for (round, chunk) in pairs.chunks(5).enumerate() {
        let records =
            chunk.iter().enumerate().map(|(index, pair)| (index as u8 + round as u8, avro::encode(pair).unwrap()));
        bench.publish(PREFERENCE_PAIRS, records.collect()).await;
        bench.follow(bench.lake()).await;
    }
    let parts = reader.parts(&TenantId::default()).await.unwrap();
    assert!(parts.len() >= 3);
    let mut read = Vec::new();
    for part in &parts {
        let in_part = reader.read(part).await.unwrap();
        assert_eq!(in_part.len() as u64, part.pairs);
        assert_eq!(in_part.iter().map(|pair| pair.labeled_at).min(), Some(part.min_labeled_at));
        read.extend(in_part);
    }
    read.sort_by_key(|pair| pair.pair_id);
    let mut expected = pairs.clone();
    expected.sort_by_key(|pair| pair.pair_id);
    assert_eq!(read, expected);
    let text = labeler::lake::open_text(&read[0], &bench.world.keys).await.unwrap();
    assert!(text.chosen.is_some());
    let extent = reader.extent(&TenantId::default()).await.unwrap();
    assert_eq!((extent.pairs, extent.parts), (pairs.len() as u64, parts.len() as u64));

    let mut served = HashSet::new();
    let oldest = reader.oldest_label_outside(&TenantId::default(), &served, |_| true).await.unwrap();
    assert_eq!(oldest, pairs.iter().map(|pair| pair.labeled_at).min());
    served.extend(pairs.iter().map(|pair| pair.pair_id));
    assert_eq!(reader.oldest_label_outside(&TenantId::default(), &served, |_| true).await.unwrap(), None);
    assert!(reader.parts(&"other".parse().unwrap()).await.unwrap().is_empty());
}

async fn of_two_sinks_of_one_name_one_is_overtaken() {
    let bench = bench().await;
    let (pairs, _) = labeled(&bench.world, 6).await;
    for (index, pair) in pairs.iter().enumerate() {
        bench.publish(PREFERENCE_PAIRS, vec![(index as u8, avro::encode(pair).unwrap())]).await;
    }
    tokio::join!(bench.follow(bench.lake()), bench.follow(bench.lake()), bench.follow(bench.lake()));
    let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
    assert_eq!(reader.extent(&TenantId::default()).await.unwrap().pairs, pairs.len() as u64);
}

/// Fails its first transactions after having written.
struct Failing {
    inner: Box<dyn Sink>,
    failures: u32,
}

#[async_trait::async_trait]
impl Sink for Failing {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn topics(&self) -> Vec<String> {
        self.inner.topics()
    }

    fn limits(&self) -> labeler::sink::BatchLimits {
        self.inner.limits()
    }

    async fn store(&mut self, pool: &sqlx::AnyPool, records: &[bus::CommittedRecord]) -> Result<(), SinkError> {
        self.inner.store(pool, records).await
    }

    async fn write(
        &mut self,
        transaction: &mut sqlx::Transaction<'static, sqlx::Any>,
        records: &[bus::CommittedRecord],
    ) -> Result<(), SinkError> {
        self.inner.write(transaction, records).await?;
        if self.failures > 0 {
            self.failures -= 1;
            return Err(SinkError::Database(sqlx::Error::PoolTimedOut));
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.inner.committed();
    }
}

/// Counts its transactions, and those of them that were committed.
struct Transactions {
    written: Arc<AtomicUsize>,
    committed: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Sink for Transactions {
    fn name(&self) -> &'static str {
        "transactions"
    }

    fn topics(&self) -> Vec<String> {
        vec![PREFERENCE_PAIRS.to_owned()]
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { records: 2, bytes: 1 << 20, age: Duration::from_millis(10) }
    }

    async fn write(
        &mut self,
        _transaction: &mut Transaction<'static, Any>,
        _records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn committed(&mut self) {
        self.committed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn a_sink_is_told_what_was_committed_and_not_what_was_rolled_back() {
    let bench = bench().await;
    bench.publish(PREFERENCE_PAIRS, (1..=6).map(|key| (key, vec![key])).collect()).await;
    let (written, committed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let inner = Transactions { written: Arc::clone(&written), committed: Arc::clone(&committed) };
    bench.follow(Box::new(Failing { inner: Box::new(inner), failures: 3 })).await;
    let (written, committed) = (written.load(Ordering::Relaxed), committed.load(Ordering::Relaxed));
    assert!(committed >= 3, "{committed}");
    assert_eq!(written, committed + 3);
}

/// Counts what it is given.
struct Counting(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl Sink for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn topics(&self) -> Vec<String> {
        vec![PREFERENCE_PAIRS.to_owned()]
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { records: 10, bytes: 1 << 20, age: Duration::from_millis(10) }
    }

    async fn write(
        &mut self,
        _transaction: &mut Transaction<'static, Any>,
        records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        self.0.fetch_add(records.len(), Ordering::Relaxed);
        Ok(())
    }
}

async fn a_sink_works_in_one_process_and_another_follows_when_that_is_gone() {
    let bench = bench().await;
    let counts = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let counted = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<usize>>();
    let start = |place: usize, stop: &CancellationToken| {
        let (log, pool, stop) = (Arc::clone(&bench.log), bench.world.pool.clone(), stop.clone());
        let sink = Box::new(Counting(Arc::clone(&counts[place])));
        tokio::spawn(async move { run_sink_in_turn(log, pool, sink, &format!("process {place}"), stop).await })
    };
    let bound = Duration::from_secs(60);
    let mut sent = 0;
    let mut follow = async |led: usize| {
        for _ in 0..3 {
            bench.publish(PREFERENCE_PAIRS, vec![(1, vec![1]), (2, vec![2])]).await;
            sent += 2;
            let begun = tokio::time::Instant::now();
            while counted().iter().sum::<usize>() < sent {
                assert!(begun.elapsed() < bound, "{:?} of {sent}", counted());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(counted().iter().sum::<usize>(), sent);
        assert!(counted()[led] >= 6 && counted()[led + 1..].iter().all(|count| *count == 0), "{:?}", counted());
    };
    let stop = CancellationToken::new();
    let first = start(0, &stop);
    follow(0).await;
    let (second_stop, third_stop) = (CancellationToken::new(), CancellationToken::new());
    let second = start(1, &second_stop);
    // Gone without a word: its lease runs out.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    follow(1).await;
    let third = start(2, &third_stop);
    follow(1).await;
    second_stop.cancel();
    second.await.unwrap().unwrap();
    follow(2).await;
    third_stop.cancel();
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_part_closes_on_bytes_or_on_age() {
    let bench = bench().await;
    let (pairs, _) = labeled(&bench.world, 7).await;
    let values: Vec<Vec<u8>> = pairs.iter().map(|pair| avro::encode(pair).unwrap()).collect();
    let limit = values[0].len() + values[1].len();
    bench.publish(PREFERENCE_PAIRS, values.iter().map(|value| (1, value.clone())).collect()).await;
    // By bytes: nothing is old enough before the end.
    let config = LakeConfig { part_bytes: limit, part_age_ms: 3_600_000, ..LakeConfig::default() };
    let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
    let stop = CancellationToken::new();
    let sink = Box::new(LakeWriter::new(Arc::clone(&bench.artifacts), config));
    let running = tokio::spawn(run_sink(Arc::clone(&bench.log), bench.world.pool.clone(), sink, stop.clone()));
    let bound = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let extent = reader.extent(&TenantId::default()).await.unwrap();
        if extent.pairs >= 5 {
            break;
        }
        assert!(tokio::time::Instant::now() < bound, "{extent:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What was read and fills no part is written when the sink ends.
    stop.cancel();
    running.await.unwrap().unwrap();
    let parts = reader.parts(&TenantId::default()).await.unwrap();
    assert!((3..=4).contains(&parts.len()), "{parts:?}");
    assert!(parts.iter().all(|part| (1..=3).contains(&part.pairs)), "{parts:?}");
    assert_eq!(parts.iter().map(|part| part.pairs).sum::<u64>(), 7);
    // Ranges of positions follow each other.
    assert!(parts.windows(2).all(|pair| pair[0].last_position < pair[1].first_position), "{parts:?}");
    // By age: one pair is no full part, and still lies in the lake soon.
    let (more, _) = labeled(&bench.world, 8).await;
    bench.publish(PREFERENCE_PAIRS, vec![(1, avro::encode(&more[7]).unwrap())]).await;
    let config = LakeConfig { part_age_ms: 30, ..LakeConfig::default() };
    bench.follow(Box::new(LakeWriter::new(Arc::clone(&bench.artifacts), config))).await;
    assert_eq!(reader.parts(&TenantId::default()).await.unwrap().last().unwrap().pairs, 1);
}

async fn an_object_without_a_row_is_garbage_and_no_pair_is_lost_or_doubled() {
    let bench = bench().await;
    let (pairs, _) = labeled(&bench.world, 6).await;
    let records = pairs.iter().enumerate().map(|(index, pair)| (index as u8, avro::encode(pair).unwrap()));
    bench.publish(PREFERENCE_PAIRS, records.collect()).await;
    bench.follow(Box::new(Failing { inner: bench.lake(), failures: 3 })).await;
    let reader = LakeReader::new(bench.world.pool.clone(), Arc::clone(&bench.artifacts));
    let mut read = Vec::new();
    for part in reader.parts(&TenantId::default()).await.unwrap() {
        read.extend(reader.read(&part).await.unwrap().into_iter().map(|pair| pair.pair_id));
    }
    read.sort();
    let mut expected: Vec<_> = pairs.iter().map(|pair| pair.pair_id).collect();
    expected.sort();
    assert_eq!(read, expected);
}

async fn the_tally_counts_once_and_measures_by_person() {
    let bench = bench().await;
    let (_, mut outcomes) = labeled(&bench.world, 9).await;
    for without_exposure in &mut outcomes[..2] {
        without_exposure.exposure_missing = true;
    }
    let records = outcomes.iter().enumerate().map(|(index, outcome)| (index as u8, avro::encode(outcome).unwrap()));
    bench.publish(SERVING_OUTCOMES, records.collect()).await;
    bench.follow(Box::new(Failing { inner: Box::new(Tally::new(SinkConfig::default())), failures: 2 })).await;
    let (tenant, model) = (TenantId::default(), "edit".parse().unwrap());
    let filter = MeasureFilter::default();
    let found = measures(&bench.world.pool, &tenant, &model, ModelVersion(1), &filter).await.unwrap();
    assert_eq!((found.opportunities, found.shown, found.persons, found.censored), (9, 9, 9, 0));
    assert_eq!(found.exposures_missing, 2);
    let other = measures(&bench.world.pool, &tenant, &model, ModelVersion(2), &filter).await.unwrap();
    assert_eq!((other.opportunities, other.exposures_missing), (0, 0));
    assert_eq!(found.shown_rate.unwrap().value, 1.0);
    let acceptance = found.acceptance.unwrap();
    assert!((acceptance.value - 6.0 / 9.0).abs() < 1e-12);
    assert!(acceptance.low < acceptance.value && acceptance.value < acceptance.high);
    assert!((found.utility.unwrap().value - (6.0 * 0.75 - 3.0 * 0.25) / 9.0).abs() < 1e-12);
    assert!((found.kept_chars_per_opportunity.unwrap().value - 60.0 / 9.0).abs() < 1e-12);
    let filter = MeasureFilter { exposed_before: Some(START), ..MeasureFilter::default() };
    let none = measures(&bench.world.pool, &tenant, &model, ModelVersion(1), &filter).await.unwrap();
    assert_eq!((none.opportunities, none.utility), (0, None));
    let filter =
        MeasureFilter { repository: Some(crate::kit::REPOSITORY.to_owned()), exposed_from: Some(START), ..filter };
    let filter = MeasureFilter { exposed_before: None, ..filter };
    let all = measures(&bench.world.pool, &tenant, &model, ModelVersion(1), &filter).await.unwrap();
    assert_eq!(all, found);
}

/// Twelve events as a door and an anonymizer would write them.
pub(crate) async fn events_of(world: &World) -> Vec<CleanEvent> {
    let person = world.person("someone").await;
    let mut editor = Editor::new(&person, 1);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    editor.shown(&served, 1).wait(900).dismissed(&served, 0);
    for _ in 0..9 {
        editor.wait(1_000).types("user", 0, "user");
    }
    editor.events.truncate(12);
    editor.events
}

pub(crate) fn raw(event: &CleanEvent, filtered_at_door: Option<&str>) -> Vec<u8> {
    let filtered_at_door = filtered_at_door.map(str::to_owned);
    avro::encode(&RawEvent { header: event.header.clone(), filtered_at_door, sealed: None }).unwrap()
}

fn quarantined(event: &CleanEvent, reason: &str) -> Vec<u8> {
    let event = QuarantinedEvent { header: event.header.clone(), reason: reason.to_owned(), sealed: None };
    avro::encode(&event).unwrap()
}

fn dead_letter(event: &CleanEvent, topic: &str) -> Vec<u8> {
    kit::dead_letter(&event.header, topic).encode().unwrap().to_vec()
}

pub(crate) async fn totals(pool: &AnyPool) -> LedgerTotals {
    ledger::totals(pool, &TenantId::default()).await.unwrap()
}

async fn the_ledger_accounts_for_every_event() {
    let bench = bench().await;
    let events = events_of(&bench.world).await;
    assert_eq!((events.len(), events[0].header.kind), (12, EventKind::Exposure));
    let mut entered: Vec<(u8, Vec<u8>)> = events
        .iter()
        .enumerate()
        .map(|(index, event)| (1, raw(event, (index == 11).then_some("consent_none"))))
        .collect();
    // Retries: the same id again.
    entered.push((1, raw(&events[1], None)));
    entered.push((1, raw(&events[11], Some("consent_none"))));
    bench.publish(TELEMETRY_RAW, entered).await;
    let clean: Vec<(u8, Vec<u8>)> = events[..6].iter().map(|event| (1, avro::encode(event).unwrap())).collect();
    bench.publish(TELEMETRY_CLEAN, clean).await;
    let filtered = CleanEvent::filtered(events[6].header.clone(), "late");
    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&filtered).unwrap())]).await;
    let again = quarantined(&events[1], "content_conflict");
    bench.publish(TELEMETRY_QUARANTINE, vec![(1, quarantined(&events[7], "rule_failed")), (1, again)]).await;
    let letters = vec![(1, dead_letter(&events[8], TELEMETRY_RAW)), (1, dead_letter(&events[2], TELEMETRY_CLEAN))];
    bench.publish(DEAD_LETTERS, letters).await;
    bench.follow(Box::new(Ledger::new(SinkConfig { batch_records: 5, ..SinkConfig::default() }))).await;
    let found = totals(&bench.world.pool).await;
    assert_eq!((found.admitted, found.filtered_at_door, found.exposed), (10, 1, 1));
    assert_eq!((found.clean, found.filtered, found.quarantined, found.dead_lettered), (6, 2, 1, 1));
    assert_eq!((found.pending, found.duplicates, found.anomalies), (2, 2, 0));
    assert!(found.holds(), "{found:?}");
    assert_eq!(found.reasons["filtered"]["late"], 1);
    assert_eq!(found.reasons["dead_lettered"]["panic"], 1);

    // A second disposition and one of an event that never entered must be seen.
    bench.publish(TELEMETRY_QUARANTINE, vec![(1, quarantined(&events[0], "rule_failed"))]).await;
    let mut stranger = events[9].clone();
    stranger.header.event_id = events::EventId::of_client_event(stranger.header.session_id, 999);
    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&stranger).unwrap())]).await;
    bench.follow(Box::new(Ledger::new(SinkConfig::default()))).await;
    let found = totals(&bench.world.pool).await;
    assert_eq!(found.anomalies, 2);
    assert!(!found.holds());
}

async fn folded_hours_count_as_before() {
    let bench = bench().await;
    let events = events_of(&bench.world).await;
    bench.publish(TELEMETRY_RAW, events.iter().map(|event| (1, raw(event, None))).collect()).await;
    bench.publish(TELEMETRY_CLEAN, events[1..].iter().map(|event| (1, avro::encode(event).unwrap())).collect()).await;
    bench.follow(Box::new(Ledger::new(SinkConfig::default()))).await;
    let later = START + Duration::from_secs(7200);
    assert_eq!(ledger::fold_hours(&bench.world.pool, later).await.unwrap(), 0, "something is pending in that hour");
    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&events[0]).unwrap())]).await;
    bench.follow(Box::new(Ledger::new(SinkConfig::default()))).await;
    let before = totals(&bench.world.pool).await;
    assert!(before.holds());
    assert_eq!(ledger::fold_hours(&bench.world.pool, later).await.unwrap(), 12);
    assert_eq!(totals(&bench.world.pool).await, before);
    let hours = ledger::hours(&bench.world.pool, &TenantId::default(), Some(START)).await.unwrap();
    assert_eq!(hours.keys().copied().collect::<Vec<_>>(), [events[1].header.received_at.hour()]);
}

async fn ledger_rows(pool: &AnyPool) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM ledger_events").fetch_one(pool).await.unwrap()
}

async fn the_ledger_folds_old_hours_by_itself_and_knows_repetitions_of_what_it_folded() {
    let bench = bench_at(SimulatedClock::new(START + Duration::from_secs(3 * 3600)).shared()).await;
    let events = events_of(&bench.world).await;
    bench.publish(TELEMETRY_RAW, events.iter().map(|event| (1, raw(event, None))).collect()).await;
    let clean: Vec<(u8, Vec<u8>)> = events[2..].iter().map(|event| (1, avro::encode(event).unwrap())).collect();
    bench.publish(TELEMETRY_CLEAN, clean).await;
    bench.publish(DEAD_LETTERS, vec![(1, dead_letter(&events[0], TELEMETRY_RAW))]).await;
    let never = || Box::new(Ledger::new(SinkConfig { fold_after_hours: 0, ..SinkConfig::default() }));
    let soon = || Box::new(Ledger::new(SinkConfig { fold_after_hours: 1, ..SinkConfig::default() }));
    // A letter of a later step says nothing to the ledger, but something came.
    let something = || bench.publish(DEAD_LETTERS, vec![(1, dead_letter(&events[3], TELEMETRY_CLEAN))]);
    bench.follow(never()).await;
    something().await;
    bench.follow(soon()).await;
    assert_eq!(ledger_rows(&bench.world.pool).await, 12, "something is pending in that hour");

    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&events[1]).unwrap())]).await;
    bench.follow(never()).await;
    let before = totals(&bench.world.pool).await;
    something().await;
    bench.follow(soon()).await;
    // What was dead-lettered may still be redriven.
    assert_eq!(ledger_rows(&bench.world.pool).await, 1);
    assert_eq!(totals(&bench.world.pool).await, before);
    assert_eq!((before.clean, before.dead_lettered, before.pending), (11, 1, 0));
    assert!(before.holds(), "{before:?}");

    // Both came again, and what was given up came through.
    bench.publish(TELEMETRY_RAW, vec![(1, raw(&events[5], None)), (1, raw(&events[0], None))]).await;
    let again = vec![(1, avro::encode(&events[5]).unwrap()), (1, avro::encode(&events[0]).unwrap())];
    bench.publish(TELEMETRY_CLEAN, again).await;
    bench.follow(soon()).await;
    let after = totals(&bench.world.pool).await;
    assert_eq!((after.exposed + after.admitted, after.clean, after.dead_lettered), (12, 12, 0));
    assert_eq!((after.duplicates, after.repeats, after.anomalies), (2, 1, 0));
    assert!(after.holds(), "{after:?}");
}

async fn the_log_is_told_a_label_policy_once() {
    let bench = bench().await;
    let (log, pool) = (&*bench.log, &bench.world.pool);
    let default = telling(LabelPolicy::default());
    let start = log.end_positions(TELEMETRY_CLEAN).await.unwrap();
    assert!(tell(log, pool, &default).await.unwrap());
    let told = log.end_positions(TELEMETRY_CLEAN).await.unwrap();
    assert_ne!(told, start);
    // Started again.
    assert!(!tell(log, pool, &default).await.unwrap());
    assert_eq!(log.end_positions(TELEMETRY_CLEAN).await.unwrap(), told);
    let other = telling(LabelPolicy { region_lines: 2, ..LabelPolicy::default() });
    for policy in [&other, &default] {
        assert!(tell(log, pool, policy).await.unwrap());
        assert!(!tell(log, pool, policy).await.unwrap());
    }
    let no_number = telling(LabelPolicy { typed_against_weight: f64::NAN, ..LabelPolicy::default() });
    assert!(tell(log, pool, &no_number).await.is_err());
}

async fn details_are_told_from_the_first_start_on_at_which_every_release_reads_them() {
    let bench = bench().await;
    let (log, pool) = (&*bench.log, &bench.world.pool);
    let configured = async || VersionedPolicy::configured(pool, LabelPolicy::default()).await.unwrap();
    assert!(configured().await.tells_details, "no other release has been on a platform that this one made");

    // As on a platform that the release before made.
    sqlx::query("UPDATE schema_compatibility SET oldest_schema = 4").execute(pool).await.unwrap();
    let before = configured().await;
    assert!(!canonical(&before).unwrap().contains("details"), "it waits at a field that it does not know");
    assert!(tell(log, pool, &before).await.unwrap());

    migrations::close_to_releases_before(pool).await.unwrap();
    let after = configured().await;
    assert_eq!(after, telling(LabelPolicy::default()));
    assert_eq!(after.version, before.version, "the same pairs have the same ids");
    assert!(tell(log, pool, &after).await.unwrap());
    assert!(!tell(log, pool, &configured().await).await.unwrap());
}

/// Says which label policy is in force where it reads.
struct Saying(tokio::sync::mpsc::UnboundedSender<Option<Bytes>>);

impl StepHandler for Saying {
    fn handle(&self, _input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        self.0.send(context.control(CONTROL_KIND, SUBJECT)).unwrap();
        Outcome::Ok
    }

    fn partition_time_of(&self, _record: &CommittedRecord, _prepared: &Prepared) -> Option<Timestamp> {
        None
    }
}

/// The database fails when the log was told already, and the setting is taken back before the next start.
#[tokio::test]
async fn a_policy_that_was_told_and_taken_back_is_not_in_force() {
    let bench = bench().await;
    let (log, pool) = (&*bench.log, &bench.world.pool);
    let default = telling(LabelPolicy::default());
    let other = telling(LabelPolicy { region_lines: 2, ..LabelPolicy::default() });
    assert!(tell(log, pool, &default).await.unwrap());
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON label_policy BEGIN SELECT RAISE(ABORT, 'refused'); END";
    sqlx::query(refuse).execute(pool).await.unwrap();
    assert!(tell(log, pool, &other).await.is_err());
    sqlx::query("DROP TRIGGER refuse").execute(pool).await.unwrap();
    assert!(tell(log, pool, &default).await.unwrap());
    assert!(!tell(log, pool, &default).await.unwrap());

    bench.publish(TELEMETRY_CLEAN, vec![(1, b"any record".to_vec())]).await;
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let spec = StepSpec::new("saying", TELEMETRY_CLEAN, Vec::<String>::new(), DEAD_LETTERS);
    let step = tokio::spawn({
        let (log, stop) = (Arc::clone(&bench.log), stop.clone());
        async move { log.step(spec, Arc::new(Saying(say)), stop).await }
    });
    let in_force = tokio::time::timeout(BOUND, said.recv()).await.unwrap().unwrap();
    assert_eq!(in_force, Some(Bytes::from(canonical(&default).unwrap())));
    stop.cancel();
    step.await.unwrap().unwrap();
}

/// PostgreSQL refuses the character NUL in text, and with it the whole transaction.
async fn what_no_database_stores_as_text_holds_up_no_sink() {
    let bench = bench().await;
    let (_, mut outcomes) = labeled(&bench.world, 2).await;
    outcomes[0].repository = "repo\0a".to_owned();
    let records = outcomes.iter().map(|outcome| (1, avro::encode(outcome).unwrap()));
    bench.publish(SERVING_OUTCOMES, records.collect()).await;
    bench.follow(Box::new(Tally::new(SinkConfig::default()))).await;
    let (tenant, model) = (TenantId::default(), "edit".parse().unwrap());
    let of = |repository: Option<&str>| MeasureFilter {
        repository: repository.map(str::to_owned),
        ..MeasureFilter::default()
    };
    let count = async |filter: MeasureFilter| {
        measures(&bench.world.pool, &tenant, &model, ModelVersion(1), &filter).await.unwrap().opportunities
    };
    assert_eq!(count(of(None)).await, 2);
    assert_eq!(count(of(Some("repo\0a"))).await, 1);

    let events = events_of(&bench.world).await;
    bench.publish(TELEMETRY_RAW, events.iter().map(|event| (1, raw(event, None))).collect()).await;
    bench.publish(TELEMETRY_QUARANTINE, vec![(1, quarantined(&events[0], "rule\0failed"))]).await;
    let mut letter = kit::dead_letter(&events[1].header, TELEMETRY_RAW);
    letter.reason = "pa\0nic".to_owned();
    letter.affected.push(Affected { event_id: "no\0id".to_owned(), received_at: START });
    bench.publish(DEAD_LETTERS, vec![(1, letter.encode().unwrap().to_vec())]).await;
    bench.follow(Box::new(Ledger::new(SinkConfig::default()))).await;
    let found = totals(&bench.world.pool).await;
    assert_eq!((found.quarantined, found.dead_lettered, found.pending), (1, 1, 10));
    assert_eq!(found.reasons["quarantined"]["rule\u{fffd}failed"], 1);
    assert_eq!(found.anomalies, 1, "an event that never entered is told, whatever its id");
}
