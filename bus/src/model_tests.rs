//! The property test of every log: random schedules end as the reference model says.
//!
//! A schedule publishes scripted records and control records, takes turns of partitions in any order, ends owners
//! between handling and commit and within the commit, replaces owners that go on working, closes and opens the log, lets
//! time pass, and gives and takes dependencies; some records end whoever handles them. Outputs, dead letters, state,
//! timers and times must then equal those of the same inputs in the model.
//!
//! Positions are each log's own: where the model has the number of an entry in its partition, a log may have left gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::Timestamp;
use proptest::prelude::*;
use rusqlite::Connection;
use service::clock::{Clock, SimulatedClock};
use tokio::runtime::Runtime;

use crate::REASON_KILLED_PROCESS;
use crate::control::RELEASE_KEY;
use crate::dead_letter::DeadLetter;
use crate::error::BusError;
use crate::interface::Bus;
use crate::partition::partition_for;
use crate::record::{CommittedRecord, Position, Positions, Record, RecordKey, Retention, TopicSpec};
use crate::step::{Failed, Input, Outcome, Prepared, Sealed, StepContext, StepHandler, StepLimits, StepSpec};
use crate::testing::ReferenceStep;
use crate::testing::scripted::{Action, Scripted, scripted};
use crate::worker::log::PartitionLog;
use crate::worker::{Computed, PartitionWorker, Turn};

pub(crate) const PARTITIONS: u32 = 2;
const KEYS: u8 = 4;
const START: i64 = 1_000_000;
const DEPENDENCIES: [&str; 2] = ["a", "b"];

/// After that many ends of its process in a row, one more would make a record poison, as it should.
const HARMLESS_ENDS: u32 = 2;

/// The owners of all partitions.
pub(crate) type Workers<L> = BTreeMap<u32, PartitionWorker<L>>;

/// A log, and those who own the partitions of a step on it one after the other.
pub(crate) trait Owners {
    /// A partition on it.
    type Log: PartitionLog;

    /// Until then whatever was committed can be read.
    const SHOWN_WITHIN: Duration;

    fn runtime(&self) -> &Runtime;

    fn bus(&self) -> &dyn Bus;

    /// A new owner takes all partitions.
    fn claim(&mut self, spec: &StepSpec, handler: Arc<dyn StepHandler>) -> Workers<Self::Log>;

    /// The new owner of a partition keeps the one before it from committing anything, at the latest now.
    fn fence(&self, _worker: &mut PartitionWorker<Self::Log>) {}

    /// What an owner of a partition leaves behind that ends within its commit. All owners are gone.
    fn leave_within_commit(&self, _partition: u32) {}

    /// Closes the log, and opens it.
    fn reopen(&mut self);

    /// Handles what comes next, up to the commit; none: there is nothing to do, in the log either.
    fn begin(&self, worker: &mut PartitionWorker<Self::Log>) -> Option<Computed> {
        worker.begin().unwrap()
    }

    /// The files with what was committed of state. Owners are at their end.
    fn files(&mut self) -> Vec<Connection>;
}

#[derive(Debug, Clone)]
enum Operation {
    Publish { key: u8, actions: Vec<Action> },
    Control { subject: u8, value: u8 },
    Release { key: u8 },
    Turn { partition: u32, turns: u8 },
    EndBeforeCommit { partition: u32 },
    EndWithinCommit { partition: u32 },
    Replace { partition: u32 },
    Reopen,
    Advance { seconds: u8 },
    Provide { dependency: usize, available: bool },
}

/// What happens, and within which limits.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    operations: Vec<Operation>,
    batch_records: usize,
    batch_timers: usize,
    state_cache_bytes: usize,
}

fn key(number: u8) -> RecordKey {
    RecordKey([number; 16])
}

/// The topics that a log must have.
pub(crate) fn topics() -> [TopicSpec; 3] {
    ["in", "out", "dead"].map(|name| TopicSpec::new(name, PARTITIONS, Retention::default()))
}

/// The clock that a log must have.
pub(crate) fn clock() -> SimulatedClock {
    SimulatedClock::new(Timestamp::from_seconds(START))
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
        2 => prop::sample::select(vec!["", "s", "x", "none"]).prop_map(|prefix| Action::Entries(prefix.to_owned())),
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
        1 => (0..PARTITIONS).prop_map(|partition| Operation::EndBeforeCommit { partition }),
        1 => (0..PARTITIONS).prop_map(|partition| Operation::EndWithinCommit { partition }),
        2 => (0..PARTITIONS).prop_map(|partition| Operation::Replace { partition }),
        1 => Just(Operation::Reopen),
        3 => (3..40_u8).prop_map(|seconds| Operation::Advance { seconds }),
        3 => (0..2_usize, any::<bool>())
            .prop_map(|(dependency, available)| Operation::Provide { dependency, available }),
    ]
}

/// Schedules of that many operations.
pub(crate) fn schedule(operations: Range<usize>) -> impl Strategy<Value = Schedule> {
    let operations = prop::collection::vec(operation(), operations);
    let cache = prop::sample::select(vec![0_usize, 3_000, 1 << 20]);
    (operations, 1..5_usize, 1..4_usize, cache).prop_map(
        |(operations, batch_records, batch_timers, state_cache_bytes)| Schedule {
            operations,
            batch_records,
            batch_timers,
            state_cache_bytes,
        },
    )
}

/// Does everything that a schedule says on a log and in the model, and compares.
pub(crate) fn ends_as_the_model_says<L: Owners>(log: L, clock: SimulatedClock, schedule: Schedule) {
    let Schedule { operations, batch_records, batch_timers, state_cache_bytes } = schedule;
    let limits = StepLimits {
        batch_records,
        batch_timers,
        state_cache_bytes,
        state_value_bytes: 8_000,
        // Time that was reached in memory only is lost with its owner, which the model knows nothing of.
        idle_commit_after: Duration::ZERO,
        ..StepLimits::default()
    };
    let mut system = System::new(log, clock, limits);
    for operation in operations {
        system.run(operation);
    }
    system.compare();
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

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        self.0.partition_time_of(record, prepared)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.0.dead_letter(failed)
    }
}

struct System<L: Owners> {
    workers: Workers<L::Log>,
    log: L,
    clock: SimulatedClock,
    handler: Arc<Scripted>,
    spec: StepSpec,
    /// By partition: how often a process ended there since nothing was suspect.
    ends: BTreeMap<u32, u32>,
    claims: u32,
    model: ReferenceStep,
    /// Partition and positions of records, in the log and in the model.
    published: Vec<(u32, Position, Position)>,
}

impl<L: Owners> System<L> {
    fn new(log: L, clock: SimulatedClock, limits: StepLimits) -> Self {
        let handler = Scripted::new("out");
        let spec = StepSpec { limits, ..StepSpec::new("step", "in", ["out"], "dead") };
        let model = ReferenceStep::new(spec.clone(), Arc::new(Survivor(Arc::clone(&handler))), PARTITIONS);
        let (workers, ends, claims, published) = (BTreeMap::new(), BTreeMap::new(), 0, Vec::new());
        let mut system = Self { workers, log, clock, handler, spec, ends, claims, model, published };
        system.claim();
        system
    }

    /// A new owner takes all partitions.
    fn claim(&mut self) {
        self.workers.clear();
        self.claims += 1;
        self.workers = self.log.claim(&self.spec, Arc::clone(&self.handler) as Arc<dyn StepHandler>);
        assert_eq!(self.workers.len(), PARTITIONS as usize);
    }

    fn turn(&mut self, partition: u32) -> Turn {
        let worker = self.workers.get_mut(&partition).unwrap();
        let computed = self.log.begin(worker);
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

    /// The owners end when one of them has handled something and not committed it.
    fn end(&mut self, partition: u32, is_within_commit: bool) {
        if !self.may_end(partition) {
            return;
        }
        let computed = self.log.begin(self.workers.get_mut(&partition).unwrap());
        self.handler.ended();
        if computed.is_some() {
            *self.ends.entry(partition).or_default() += 1;
        }
        drop(computed);
        if is_within_commit {
            self.workers.clear();
            self.log.leave_within_commit(partition);
        }
        self.claim();
    }

    /// An owner goes on after another one has taken its place.
    fn replace(&mut self, partition: u32) {
        if !self.may_end(partition) {
            return;
        }
        let mut worker = self.workers.remove(&partition).unwrap();
        let computed = self.log.begin(&mut worker);
        self.handler.ended();
        self.claim();
        self.log.fence(self.workers.get_mut(&partition).unwrap());
        if let Some(computed) = computed {
            *self.ends.entry(partition).or_default() += 1;
            if !worker.would_change_nothing(&computed) {
                let fenced = worker.commit(computed);
                assert!(matches!(fenced, Err(BusError::Fenced { .. })), "{fenced:?}");
            }
        }
    }

    fn publish_control(&mut self, kind: &str, subject: &str, value: Bytes) {
        let published = self.log.bus().publish_control("in", kind, subject, value.clone());
        self.log.runtime().block_on(published).unwrap();
        self.model.publish_control(kind, subject, value);
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Publish { key: number, actions } => {
                let record = scripted(key(number), &actions);
                let published = self.log.bus().publish("in", vec![record.clone()]);
                let published = self.log.runtime().block_on(published);
                let (partition, position) = published[0].clone().unwrap();
                let expected = self.model.publish(record);
                assert_eq!(partition, expected.partition);
                self.published.push((partition, position, expected.position));
            }
            Operation::Control { subject, value } => {
                let value = Bytes::from(vec![value; usize::from(value)]);
                self.publish_control("policy", &subject.to_string(), value);
            }
            Operation::Release { key: number } => {
                self.publish_control(RELEASE_KEY, &key(number).to_string(), Bytes::from_static(b"1"));
            }
            Operation::Turn { partition, turns } => {
                for _ in 0..turns {
                    self.turn(partition);
                }
            }
            Operation::EndBeforeCommit { partition } => self.end(partition, false),
            Operation::EndWithinCommit { partition } => self.end(partition, true),
            Operation::Replace { partition } => self.replace(partition),
            Operation::Reopen => {
                self.workers.clear();
                self.log.reopen();
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
        let bus = self.log.bus();
        self.log.runtime().block_on(async {
            let mut look = bus.look(topic, Positions::oldest()).await.unwrap();
            let end = bus.end_positions(topic).await.unwrap();
            let mut records = Vec::new();
            while !look.positions().reached(&end) {
                records.extend(look.next(100, Duration::from_secs(5)).await.unwrap());
            }
            records.into_iter().map(|record| Record { key: record.key, value: record.value }).collect()
        })
    }

    /// What a topic holds; when it is to hold `expected` records, as soon as they are shown.
    fn shown(&self, topic: &str, expected: usize) -> Vec<Record> {
        let begun = Instant::now();
        loop {
            let records = self.read(topic);
            if records.len() >= expected || begun.elapsed() >= L::SHOWN_WITHIN {
                return records;
            }
        }
    }

    /// Where the entries of every partition of the input stand, control records among them.
    fn places(&self) -> Vec<Vec<Position>> {
        let bus = self.log.bus();
        self.log.runtime().block_on(async {
            let end = bus.end_positions("in").await.unwrap();
            let mut history = bus.history("in", Positions::oldest(), end).await.unwrap();
            let mut places = vec![Vec::new(); PARTITIONS as usize];
            loop {
                let entries = history.next().await.unwrap();
                if entries.is_empty() {
                    return places;
                }
                for entry in entries {
                    places[entry.partition as usize].push(entry.position);
                }
            }
        })
    }

    fn compare(&mut self) {
        for dependency in DEPENDENCIES {
            self.handler.provide(dependency, true);
        }
        self.advance(100);
        self.compare_records();
        let lag = self.log.runtime().block_on(self.log.bus().step_lag("step")).unwrap();
        assert!(lag.settled_at(self.clock.now() - crate::IDLE_AFTER), "{lag:?}");
        for partition in &lag.partitions {
            assert_eq!(partition.partition_time, self.model.partition_time(partition.partition));
        }
        self.compare_state();
    }

    fn compare_records(&self) {
        let by_key = |records: Vec<Record>| {
            let mut sorted: BTreeMap<RecordKey, Vec<Bytes>> = BTreeMap::new();
            for record in records {
                sorted.entry(record.key).or_default().push(record.value);
            }
            sorted
        };
        let emitted = self.model.emitted("out");
        assert_eq!(by_key(self.shown("out", emitted.len())), by_key(emitted));

        // The position in the model is how many entries stand before it.
        let places = self.places();
        let counted = |partition: u32, position: Position| {
            let before = places[partition as usize].partition_point(|place| *place < position);
            Position::from_offset(before as u64)
        };
        for (partition, position, expected) in &self.published {
            assert_eq!(counted(*partition, *position), *expected, "{partition}@{position}");
        }
        let letters = |letters: Vec<DeadLetter>| {
            let mut sorted: BTreeMap<RecordKey, Vec<DeadLetter>> = BTreeMap::new();
            for letter in letters {
                sorted.entry(letter.key).or_default().push(letter);
            }
            sorted
        };
        let expected = self.model.dead_letters().to_vec();
        let written = self.shown("dead", expected.len());
        let written = written.iter().map(|record| {
            let letter = DeadLetter::decode(&record.value).unwrap();
            DeadLetter { position: counted(letter.partition, letter.position), ..letter }
        });
        assert_eq!(letters(written.collect()), letters(expected));
    }

    fn compare_state(&mut self) {
        let files = self.log.files();
        let keys: Vec<RecordKey> = (0..KEYS).map(key).collect();
        let expected: BTreeMap<([u8; 16], String), Vec<u8>> = keys
            .iter()
            .flat_map(|key| self.model.state(key).into_iter().map(|(name, value)| ((key.0, name), value.to_vec())))
            .collect();
        assert_eq!(stored::<Vec<u8>>(&files, "SELECT key, name, value FROM state"), expected);
        let expected: BTreeMap<([u8; 16], String), i64> = keys
            .iter()
            .flat_map(|key| self.model.timers(key).into_iter().map(|(name, due)| ((key.0, name), due.as_micros())))
            .collect();
        assert_eq!(stored::<i64>(&files, "SELECT key, name, due FROM timers"), expected);
        let poisoned: BTreeSet<[u8; 16]> =
            stored::<i64>(&files, "SELECT key, '', 0 FROM poisoned_keys").into_keys().map(|(key, _)| key).collect();
        let expected = keys.iter().filter(|key| self.model.is_poisoned(key)).map(|key| key.0).collect();
        assert_eq!(poisoned, expected);
    }
}

/// What files hold about keys, read past every cache.
fn stored<T: rusqlite::types::FromSql>(files: &[Connection], query: &str) -> BTreeMap<([u8; 16], String), T> {
    let mut found = BTreeMap::new();
    for file in files {
        let mut query = file.prepare(query).unwrap();
        let rows = query.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).unwrap();
        found.extend(rows.map(Result::unwrap));
    }
    found
}

#[test]
fn the_keys_of_the_property_test_use_all_partitions() {
    let used: BTreeSet<u32> = (0..KEYS).map(|number| partition_for(&key(number), PARTITIONS)).collect();
    assert_eq!(used.len(), PARTITIONS as usize);
}
