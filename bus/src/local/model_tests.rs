//! The property test: random schedules over the local log end as the reference model says.
//!
//! A schedule publishes scripted records and control records, takes turns of partitions in any order, ends owners
//! between handling and commit, replaces owners that go on working, closes and opens the log, lets time pass, and gives
//! and takes dependencies; some records end whoever handles them. Outputs, dead letters, state, timers and times must
//! then equal those of the same inputs in the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::Timestamp;
use proptest::prelude::*;
use service::clock::{Clock, SimulatedClock};
use tokio::runtime::Runtime;

use super::ownership::release_all;
use super::runner::share;
use super::slot::SlotLog;
use super::{LocalLog, LocalLogConfig};
use crate::REASON_KILLED_PROCESS;
use crate::control::RELEASE_KEY;
use crate::dead_letter::DeadLetter;
use crate::error::BusError;
use crate::interface::Bus;
use crate::partition::partition_for;
use crate::record::{CommittedRecord, Positions, Record, RecordKey, Retention, TopicSpec};
use crate::step::{Failed, Input, Outcome, Prepared, Sealed, StepContext, StepHandler, StepLimits, StepSpec};
use crate::testing::ReferenceStep;
use crate::testing::scripted::{Action, Scripted, scripted};
use crate::worker::{PartitionWorker, Turn};

const PARTITIONS: u32 = 2;
const KEYS: u8 = 4;
const START: i64 = 1_000_000;
const DEPENDENCIES: [&str; 2] = ["a", "b"];

/// After that many ends of its process in a row, one more would make a record poison, as it should.
const HARMLESS_ENDS: u32 = 2;

#[derive(Debug, Clone)]
enum Operation {
    Publish { key: u8, actions: Vec<Action> },
    Control { subject: u8, value: u8 },
    Release { key: u8 },
    Turn { partition: u32, turns: u8 },
    EndBeforeCommit { partition: u32 },
    Replace { partition: u32 },
    Reopen,
    Advance { seconds: u8 },
    Provide { dependency: usize, available: bool },
}

fn key(number: u8) -> RecordKey {
    RecordKey([number; 16])
}

fn action() -> impl Strategy<Value = Action> {
    let name = prop::sample::select(vec!["x", "y", "z"]).prop_map(str::to_owned);
    let timer = prop::sample::select(vec!["settle", "close", "again-2", "need-a", "bad", "panic"]);
    let dependency = prop::sample::select(DEPENDENCIES.to_vec()).prop_map(str::to_owned);
    prop_oneof![
        8 => (1..9_i64).prop_map(Action::Add),
        2 => (name.clone(), 0..2_000_usize).prop_map(|(name, bytes)| Action::Put(name, bytes)),
        1 => Just(Action::Put("large".into(), 9_000)),
        2 => name.prop_map(Action::Delete),
        1 => Just(Action::Names),
        6 => (timer.clone(), -2..30_i64).prop_map(|(name, seconds)| Action::Timer(name.to_owned(), seconds)),
        1 => timer.prop_map(|name| Action::Cancel(name.to_owned())),
        2 => (0..3_u8).prop_map(|subject| Action::Control(subject.to_string())),
        1 => Just(Action::Poison),
        1 => Just(Action::Panic),
        2 => Just(Action::Undecodable),
        1 => Just(Action::EmitElsewhere),
        1 => dependency.clone().prop_map(Action::Need),
        1 => dependency.prop_map(Action::PrepareNeeds),
        1 => Just(Action::PreparePoison),
        1 => Just(Action::PreparePanic),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let actions = (prop::option::weighted(0.8, 0..60_i64), prop::collection::vec(action(), 1..4)).prop_map(
        |(at, mut actions)| {
            if let Some(at) = at {
                actions.insert(0, Action::At(START + at));
            }
            actions
        },
    );
    // Without a time of its own: when a record is given up, nobody has survived reading its time.
    let deadly = prop::collection::vec((1..9_i64).prop_map(Action::Add), 0..2).prop_map(|mut actions| {
        actions.push(Action::Deadly);
        actions
    });
    let actions = prop_oneof![15 => actions, 1 => deadly];
    prop_oneof![
        10 => (0..KEYS, actions).prop_map(|(key, actions)| Operation::Publish { key, actions }),
        1 => (0..3_u8, 0..3_u8).prop_map(|(subject, value)| Operation::Control { subject, value }),
        3 => (0..KEYS).prop_map(|key| Operation::Release { key }),
        8 => (0..PARTITIONS, 1..4_u8).prop_map(|(partition, turns)| Operation::Turn { partition, turns }),
        2 => (0..PARTITIONS).prop_map(|partition| Operation::EndBeforeCommit { partition }),
        2 => (0..PARTITIONS).prop_map(|partition| Operation::Replace { partition }),
        1 => Just(Operation::Reopen),
        3 => (3..40_u8).prop_map(|seconds| Operation::Advance { seconds }),
        3 => (0..2_usize, any::<bool>())
            .prop_map(|(dependency, available)| Operation::Provide { dependency, available }),
    ]
}

/// The handler as the model sees it: what ends the process is poison.
struct Survivor(Arc<Scripted>);

impl StepHandler for Survivor {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        self.0.prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        let outcome = self.0.handle(input, context);
        if self.0.ended() { Outcome::Poison(REASON_KILLED_PROCESS.into()) } else { outcome }
    }

    fn partition_time_of(&self, record: &CommittedRecord) -> Option<Timestamp> {
        self.0.partition_time_of(record)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.0.dead_letter(failed)
    }
}

struct System {
    runtime: Runtime,
    folder: tempfile::TempDir,
    clock: SimulatedClock,
    handler: Arc<Scripted>,
    spec: StepSpec,
    log: LocalLog,
    step: i64,
    owner: String,
    workers: BTreeMap<u32, PartitionWorker<SlotLog>>,
    /// By partition: how often a process ended there since nothing was suspect.
    ends: BTreeMap<u32, u32>,
    claims: u32,
    model: ReferenceStep,
}

impl System {
    fn new(limits: StepLimits) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = SimulatedClock::new(Timestamp::from_seconds(START));
        let handler = Scripted::new("out");
        let spec = StepSpec { limits, ..StepSpec::new("step", "in", ["out"], "dead") };
        let log = open(&folder, &clock);
        let topics = ["in", "out", "dead"].map(|name| TopicSpec::new(name, PARTITIONS, Retention::default()));
        runtime.block_on(log.create_topics(&topics)).unwrap();
        let model = ReferenceStep::new(spec.clone(), Arc::new(Survivor(Arc::clone(&handler))), PARTITIONS);
        let (step, owner, workers, ends, claims) = (0, String::new(), BTreeMap::new(), BTreeMap::new(), 0);
        let mut system = Self { runtime, folder, clock, handler, spec, log, step, owner, workers, ends, claims, model };
        system.claim();
        system
    }

    /// A new owner takes all partitions.
    fn claim(&mut self) {
        self.workers.clear();
        self.claims += 1;
        let inner = &self.log.inner;
        let handler = Arc::clone(&self.handler) as Arc<dyn StepHandler>;
        let (step, shared, topics) = self.runtime.block_on(share(inner, self.spec.clone(), handler)).unwrap();
        let old = std::mem::replace(&mut self.owner, topics.owner.clone());
        let release = inner.writer.write(0, move |transaction| {
            release_all(transaction.connection, step.id, &old)?;
            Ok(step.id)
        });
        self.step = self.runtime.block_on(release).unwrap();
        let claim = self.runtime.block_on(inner.claim(self.step, &self.owner)).unwrap();
        assert_eq!(claim.owned.len(), PARTITIONS as usize);
        for owned in claim.owned {
            let log = SlotLog::new(Arc::clone(inner), Arc::clone(&topics), owned).unwrap();
            let worker = PartitionWorker::new(log, Arc::clone(&shared));
            self.workers.insert(owned.partition, worker);
        }
    }

    fn turn(&mut self, partition: u32) -> Turn {
        let worker = self.workers.get_mut(&partition).unwrap();
        let computed = worker.begin().unwrap();
        if self.handler.ended() {
            *self.ends.entry(partition).or_default() += 1;
            self.claim();
            return Turn::Progress;
        }
        let turn = match computed {
            Some(computed) => worker.commit(computed).unwrap(),
            None => worker.idle_turn(),
        };
        if !worker.is_suspect() {
            self.ends.insert(partition, 0);
        }
        turn
    }

    /// Turns until there is nothing to do, or nothing to do without a dependency.
    fn drain(&mut self, partition: u32) -> Turn {
        for _ in 0..10_000 {
            match self.turn(partition) {
                Turn::Progress => {}
                turn => return turn,
            }
        }
        panic!("partition {partition} goes on without end");
    }

    /// Whether the process may end once more in that partition without making a record poison.
    fn may_end(&mut self, partition: u32) -> bool {
        if self.ends.get(&partition).is_some_and(|ends| *ends >= HARMLESS_ENDS) {
            self.drain(partition);
        }
        self.ends.get(&partition).is_none_or(|ends| *ends < HARMLESS_ENDS)
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Publish { key: number, actions } => {
                let record = scripted(key(number), &actions);
                let published = self.runtime.block_on(self.log.publish("in", vec![record.clone()]));
                let (partition, position) = published[0].clone().unwrap();
                let expected = self.model.publish(record);
                assert_eq!((partition, position), (expected.partition, expected.position));
            }
            Operation::Control { subject, value } => {
                let value = Bytes::from(vec![value; usize::from(value)]);
                let subject = subject.to_string();
                self.runtime.block_on(self.log.publish_control("in", "policy", &subject, value.clone())).unwrap();
                self.model.publish_control("policy", &subject, value);
            }
            Operation::Release { key: number } => {
                let (subject, value) = (key(number).to_string(), Bytes::from_static(b"1"));
                self.runtime.block_on(self.log.publish_control("in", RELEASE_KEY, &subject, value.clone())).unwrap();
                self.model.publish_control(RELEASE_KEY, &subject, value);
            }
            Operation::Turn { partition, turns } => {
                for _ in 0..turns {
                    self.turn(partition);
                }
            }
            Operation::EndBeforeCommit { partition } => {
                if self.may_end(partition) {
                    let computed = self.workers.get_mut(&partition).unwrap().begin().unwrap();
                    self.handler.ended();
                    if computed.is_some() {
                        *self.ends.entry(partition).or_default() += 1;
                    }
                    drop(computed);
                    self.claim();
                }
            }
            Operation::Replace { partition } => {
                if self.may_end(partition) {
                    let mut worker = self.workers.remove(&partition).unwrap();
                    let computed = worker.begin().unwrap();
                    self.handler.ended();
                    self.claim();
                    if let Some(computed) = computed {
                        *self.ends.entry(partition).or_default() += 1;
                        if !worker.would_change_nothing(&computed) {
                            let fenced = worker.commit(computed);
                            assert!(matches!(fenced, Err(BusError::Fenced { .. })), "{fenced:?}");
                        }
                    }
                }
            }
            Operation::Reopen => {
                self.workers.clear();
                self.log = open(&self.folder, &self.clock);
                self.claim();
            }
            Operation::Advance { seconds } => self.advance(u64::from(seconds)),
            Operation::Provide { dependency, available } => {
                // Both must have used what goes away.
                if !available {
                    self.catch_up();
                }
                self.handler.provide(DEPENDENCIES[dependency], available);
            }
        }
    }

    /// Both do what can be done.
    fn catch_up(&mut self) {
        // A record that ends its process ends the owners of all partitions; the new ones have seen none of them idle.
        let mut claims = None;
        while claims.replace(self.claims) != Some(self.claims) {
            for partition in 0..PARTITIONS {
                self.drain(partition);
            }
        }
        self.model.run();
    }

    /// Time passes when everything that can be done is done, so that both see the same partition times.
    fn advance(&mut self, seconds: u64) {
        self.catch_up();
        self.clock.advance(Duration::from_secs(seconds));
        for partition in 0..PARTITIONS {
            self.drain(partition);
        }
        self.model.advance_to(self.clock.now());
    }

    fn read(&self, topic: &str) -> Vec<Record> {
        self.runtime.block_on(async {
            let mut tail = self.log.tail(topic, "test", Positions::oldest()).await.unwrap();
            let end = self.log.end_positions(topic).await.unwrap();
            let mut records = Vec::new();
            while !tail.positions().reached(&end) {
                records.extend(tail.next(100, Duration::from_secs(5)).await.unwrap());
            }
            records.into_iter().map(|record| Record { key: record.key, value: record.value }).collect()
        })
    }

    /// What the file holds about keys, read past every cache.
    fn stored<T: rusqlite::types::FromSql + 'static>(&self, query: &'static str) -> BTreeMap<([u8; 16], String), T> {
        let read = self.log.inner.readers.with(|connection| {
            let mut query = connection.prepare(query)?;
            query.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?.collect()
        });
        read.unwrap()
    }

    fn compare(&mut self) {
        for dependency in DEPENDENCIES {
            self.handler.provide(dependency, true);
        }
        self.advance(100);
        let by_key = |records: Vec<Record>| {
            let mut sorted: BTreeMap<RecordKey, Vec<Bytes>> = BTreeMap::new();
            for record in records {
                sorted.entry(record.key).or_default().push(record.value);
            }
            sorted
        };
        assert_eq!(by_key(self.read("out")), by_key(self.model.emitted("out")));
        let letters = |letters: Vec<DeadLetter>| {
            let mut sorted: BTreeMap<RecordKey, Vec<DeadLetter>> = BTreeMap::new();
            for letter in letters {
                sorted.entry(letter.key).or_default().push(letter);
            }
            sorted
        };
        let written = self.read("dead").iter().map(|record| DeadLetter::decode(&record.value).unwrap()).collect();
        assert_eq!(letters(written), letters(self.model.dead_letters().to_vec()));
        let keys: Vec<RecordKey> = (0..KEYS).map(key).collect();
        let expected: BTreeMap<([u8; 16], String), Vec<u8>> = keys
            .iter()
            .flat_map(|key| self.model.state(key).into_iter().map(|(name, value)| ((key.0, name), value.to_vec())))
            .collect();
        assert_eq!(self.stored::<Vec<u8>>("SELECT key, name, value FROM state"), expected);
        let expected: BTreeMap<([u8; 16], String), i64> = keys
            .iter()
            .flat_map(|key| self.model.timers(key).into_iter().map(|(name, due)| ((key.0, name), due.as_micros())))
            .collect();
        assert_eq!(self.stored::<i64>("SELECT key, name, due FROM timers"), expected);
        let poisoned: BTreeSet<[u8; 16]> =
            self.stored::<i64>("SELECT key, '', 0 FROM poisoned_keys").into_keys().map(|(key, _)| key).collect();
        let expected = keys.iter().filter(|key| self.model.is_poisoned(key)).map(|key| key.0).collect();
        assert_eq!(poisoned, expected);
        let lag = self.runtime.block_on(self.log.step_lag("step")).unwrap();
        assert!(lag.settled_at(self.clock.now() - crate::IDLE_AFTER), "{lag:?}");
        for partition in &lag.partitions {
            assert_eq!(partition.partition_time, self.model.partition_time(partition.partition));
        }
    }
}

fn open(folder: &tempfile::TempDir, clock: &SimulatedClock) -> LocalLog {
    LocalLog::open(&folder.path().join("log.sqlite"), clock.shared(), LocalLogConfig::default()).unwrap()
}

/// Each case fsyncs some hundred times; `PROPTEST_CASES` asks for more of them.
fn proptest_config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32);
    ProptestConfig { cases, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn random_schedules_end_as_the_model_says(
        operations in prop::collection::vec(operation(), 1..110),
        batch_records in 1..5_usize,
        batch_timers in 1..4_usize,
        state_cache_bytes in prop::sample::select(vec![0_usize, 500, 1 << 20]),
    ) {
        let limits = StepLimits {
            batch_records,
            batch_timers,
            state_cache_bytes,
            state_value_bytes: 8_000,
            // Time that was reached in memory only is lost with its owner, which the model knows nothing of.
            idle_commit_after: Duration::ZERO,
            ..StepLimits::default()
        };
        let mut system = System::new(limits);
        for operation in operations {
            system.run(operation);
        }
        system.compare();
    }
}

#[test]
fn the_keys_of_the_property_test_use_all_partitions() {
    let used: BTreeSet<u32> = (0..KEYS).map(|number| partition_for(&key(number), PARTITIONS)).collect();
    assert_eq!(used.len(), PARTITIONS as usize);
}
