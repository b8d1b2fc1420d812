//! The property test of steps that follow others: under random schedules of turns, replaced owners, reopened logs and
//! hours of downtime, the time at which the later step handles something never exceeds the time that it is about in the
//! step before; and when both have come to rest, both times are the clock's.

use std::collections::BTreeMap;
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
use crate::IDLE_AFTER;
use crate::interface::Bus;
use crate::record::{CommittedRecord, Positions, Record, RecordKey, Retention, TopicSpec};
use crate::step::{Input, Outcome, Prepared, StepContext, StepHandler, StepLimits, StepSpec};
use crate::testing::scripted::{Action, Scripted, scripted};
use crate::worker::log::Held;
use crate::worker::{PartitionWorker, Turn};

const PARTITIONS: u32 = 2;
const KEYS: u8 = 4;
const START: i64 = 1_000_000;
const STEPS: usize = 2;
/// Texts of the first step, with the time at which the second one handled them.
const NOTES: &str = "notes";

#[derive(Debug, Clone)]
enum Operation {
    Publish { key: u8, age: i64, timers: Vec<(u8, i64)> },
    Turn { step: usize, partition: u32, turns: u8 },
    Replace { step: usize },
    Reopen,
    Advance { seconds: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let timers = prop::collection::vec((0..3_u8, 0..2_000_i64), 0..3);
    let publish = (0..KEYS, 0..3_i64, timers);
    let seconds = prop_oneof![3 => 1..5_u64, 1 => 5..4_000_u64];
    prop_oneof![
        4 => publish.prop_map(|(key, age, timers)| Operation::Publish { key, age, timers }),
        10 => (0..STEPS, 0..PARTITIONS, 1..4_u8)
            .prop_map(|(step, partition, turns)| Operation::Turn { step, partition, turns }),
        1 => (0..STEPS).prop_map(|step| Operation::Replace { step }),
        1 => Just(Operation::Reopen),
        4 => seconds.prop_map(|seconds| Operation::Advance { seconds }),
    ]
}

/// Notes every record with the partition time at which it is handled; records bring no time of their own.
struct Notes;

impl StepHandler for Notes {
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        if let Input::Record { record, .. } = input {
            let text = String::from_utf8_lossy(&record.value);
            let value = Bytes::from(format!("{}|{text}", context.partition_time()));
            context.emit(NOTES, Record { key: record.key, value });
        }
        Outcome::Ok
    }

    fn partition_time_of(&self, _: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        None
    }
}

struct Wheel {
    runtime: Runtime,
    folder: tempfile::TempDir,
    clock: SimulatedClock,
    steps: [(StepSpec, Arc<dyn StepHandler>); STEPS],
    log: LocalLog,
    owners: [String; STEPS],
    workers: [BTreeMap<u32, PartitionWorker<SlotLog>>; STEPS],
}

fn open(folder: &tempfile::TempDir, clock: &SimulatedClock) -> LocalLog {
    LocalLog::open(&folder.path().join("log.sqlite"), clock.shared(), LocalLogConfig::default()).unwrap()
}

impl Wheel {
    fn new(idle_commit_after: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = SimulatedClock::new(Timestamp::from_seconds(START));
        let limits = StepLimits { batch_records: 2, batch_timers: 1, idle_commit_after, ..StepLimits::default() };
        let first = StepSpec { limits: limits.clone(), ..StepSpec::new("first", "in", ["out"], "dead") };
        let second = StepSpec { limits, ..StepSpec::new("second", "out", [NOTES], "dead").following("first") };
        let log = open(&folder, &clock);
        let topics = ["in", "out", NOTES, "dead"].map(|name| TopicSpec::new(name, PARTITIONS, Retention::default()));
        runtime.block_on(log.create_topics(&topics)).unwrap();
        let steps: [(StepSpec, Arc<dyn StepHandler>); STEPS] =
            [(first, Scripted::new("out")), (second, Arc::new(Notes))];
        let mut wheel =
            Self { runtime, folder, clock, steps, log, owners: Default::default(), workers: Default::default() };
        (0..STEPS).for_each(|step| wheel.claim(step));
        wheel
    }

    /// A new owner takes all partitions of a step; what the old one had reached in memory only is gone.
    fn claim(&mut self, step: usize) {
        for (_, worker) in std::mem::take(&mut self.workers[step]) {
            self.log.inner.live.lock().remove(&worker.log().slot());
        }
        let inner = &self.log.inner;
        let (spec, handler) = self.steps[step].clone();
        let (info, shared, topics) = self.runtime.block_on(share(inner, spec, handler)).unwrap();
        let old = std::mem::replace(&mut self.owners[step], topics.owner.clone());
        let release = inner.writer.write(0, move |transaction| Ok(release_all(transaction.connection, info.id, &old)?));
        self.runtime.block_on(release).unwrap();
        let claim = self.runtime.block_on(inner.claim(info.id, &self.owners[step])).unwrap();
        assert_eq!(claim.owned.len(), PARTITIONS as usize);
        for owned in claim.owned {
            let log = SlotLog::new(Arc::clone(inner), Arc::clone(&topics), owned).unwrap();
            let worker = PartitionWorker::new(log, Arc::clone(&shared));
            self.workers[step].insert(owned.partition, worker);
        }
    }

    fn turn(&mut self, step: usize, partition: u32) -> Turn {
        self.workers[step].get_mut(&partition).unwrap().turn().unwrap()
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Publish { key, age, timers } => {
                let now = self.clock.now().as_micros() / 1_000_000;
                let mut actions = vec![Action::At(now - age), Action::Add(1)];
                actions.extend(timers.into_iter().map(|(name, after)| Action::Timer(name.to_string(), after)));
                let record = scripted(RecordKey([key; 16]), &actions);
                self.runtime.block_on(self.log.publish("in", vec![record]))[0].as_ref().unwrap();
            }
            Operation::Turn { step, partition, turns } => {
                for _ in 0..turns {
                    self.turn(step, partition);
                }
            }
            Operation::Replace { step } => self.claim(step),
            Operation::Reopen => {
                self.workers = Default::default();
                self.log = open(&self.folder, &self.clock);
                (0..STEPS).for_each(|step| self.claim(step));
            }
            Operation::Advance { seconds } => {
                self.clock.advance(Duration::from_secs(seconds));
            }
        }
    }

    fn rest(&mut self) {
        for step in 0..STEPS {
            for partition in 0..PARTITIONS {
                let mut turns = 0;
                while self.turn(step, partition) == Turn::Progress {
                    turns += 1;
                    assert!(turns < 10_000, "step {step} goes on without end");
                }
            }
        }
    }

    /// Lets everything come to its end: past every timer, and past the time that it takes to see that nothing comes.
    fn finish(&mut self) {
        self.rest();
        for seconds in [10_000, 3, 3, 3] {
            self.clock.advance(Duration::from_secs(seconds));
            self.rest();
        }
    }

    fn texts(&self, topic: &str) -> Vec<String> {
        self.runtime.block_on(async {
            let mut tail = self.log.look(topic, Positions::oldest()).await.unwrap();
            let end = self.log.end_positions(topic).await.unwrap();
            let mut texts = Vec::new();
            while !tail.positions().reached(&end) {
                let records = tail.next(100, Duration::from_secs(5)).await.unwrap();
                texts.extend(records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()));
            }
            texts
        })
    }

    fn check(&self) {
        let mut emitted = self.texts("out");
        let notes = self.texts(NOTES);
        let mut noted = Vec::new();
        for note in &notes {
            let (handled_at, text) = note.split_once('|').unwrap();
            let words: Vec<&str> = text.split(' ').collect();
            // `sum N at TIME`, or `timer NAME due TIME at TIME sum N`.
            let about = words[3];
            assert!(handled_at <= about, "handled at {handled_at}: {text}");
            noted.push(text.to_owned());
        }
        emitted.sort();
        noted.sort();
        assert_eq!(noted, emitted, "each once");
        for step in ["first", "second"] {
            let lag = self.runtime.block_on(self.log.step_lag(step)).unwrap();
            assert!(lag.settled_at(self.clock.now() - IDLE_AFTER), "{step}: {lag:?}");
        }
    }
}

/// Who waits for a step of its own process learns soon what that one has reached, and may ask often; what another
/// process has reached is in the file now and then only.
#[test]
fn who_is_held_back_knows_where_the_holder_works() {
    let mut wheel = Wheel::new(Duration::ZERO);
    let at_rest = |wheel: &mut Wheel, step: usize| {
        for _ in 0..10 {
            if let Turn::Idle { held, .. } = wheel.turn(step, 0) {
                return held;
            }
        }
        panic!("step {step} does not come to rest")
    };
    assert_eq!(at_rest(&mut wheel, 1), None, "not idle yet");
    wheel.clock.advance(Duration::from_secs(10));
    assert_eq!(at_rest(&mut wheel, 1), Some(Held::Elsewhere), "the first step has not begun");
    assert_eq!(at_rest(&mut wheel, 0), None, "it follows none");
    assert_eq!(at_rest(&mut wheel, 1), Some(Held::Here));
    wheel.clock.advance(Duration::from_secs(10));
    at_rest(&mut wheel, 0);
    assert_eq!(at_rest(&mut wheel, 1), None, "the first step has concluded all that the clock allows");
    wheel.clock.advance(Duration::from_secs(10));
    wheel.claim(0);
    assert_eq!(at_rest(&mut wheel, 1), Some(Held::Elsewhere), "its owner is gone");
}

fn proptest_config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32);
    ProptestConfig { cases, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn a_step_that_follows_never_runs_ahead(
        operations in prop::collection::vec(operation(), 1..90),
        // Some owners write their idle time down at once, others not before they are gone.
        commit_at_once in any::<bool>(),
    ) {
        let mut wheel = Wheel::new(if commit_at_once { Duration::ZERO } else { Duration::from_secs(100_000) });
        for operation in operations {
            wheel.run(operation);
        }
        wheel.finish();
        wheel.check();
    }
}
