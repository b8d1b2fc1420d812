//! Random schedules over Apache Kafka (`../model_tests.rs`): the same as over the local log, and fewer of them.
//!
//! Two handles are as two machines. Owners work on either in turn, and find there the copy of the state that an earlier
//! one has left, or none. In the end a third machine builds the state from the changelog alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, TopicPartitionList};
use rusqlite::Connection;
use service::clock::SimulatedClock;
use service::lease::LeaseStore;
use test_databases::TestDatabase;
use test_servers::{servers_wanted, unique_prefix};
use tokio::runtime::Runtime;

use super::changelog::{PROGRESS, Progress};
use super::client::{number, offset};
use super::slot::{Lease, RunTopics, SlotLog, transactions_of};
use super::status::step_group;
use super::topics::{changelog_of, create_changelog};
use super::{Inner, KafkaBus, KafkaConfig, KafkaSteps};
use crate::interface::Bus;
use crate::model_tests::{self, Owners, PARTITIONS, Workers, ends_as_the_model_says, schedule};
use crate::step::{StepHandler, StepSpec};
use crate::worker::log::PartitionLog as _;
use crate::worker::{Computed, PartitionWorker, StepShared};

/// The seed of a schedule that is to be done again.
const SEED: &str = "BUS_MODEL_SEED";
/// So many schedules, and more until so much time has passed.
const LEAST_SCHEDULES: usize = 2;
const LONG_ENOUGH: Duration = Duration::from_secs(20);

const STEP: &str = "step";
const MACHINES: [&str; 2] = ["one", "two"];
pub(super) const RECORD_BYTES: usize = 100_000;
pub(super) const BOUND: Duration = Duration::from_secs(60);

pub(super) struct Kafka {
    runtime: Arc<Runtime>,
    database: TestDatabase,
    pub(super) config: KafkaConfig,
    pub(super) clock: SimulatedClock,
    pub(super) handles: [KafkaBus; 2],
    epoch: i64,
}

impl Kafka {
    pub(super) fn new(runtime: &Arc<Runtime>, clock: &SimulatedClock) -> Self {
        let (server, database) = runtime.block_on(async { (test_servers::kafka().await, TestDatabase::fresh().await) });
        let config = KafkaConfig {
            prefix: unique_prefix(),
            bootstrap_servers: server.bootstrap,
            replication: 1,
            single_broker: true,
            record_bytes: RECORD_BYTES,
            ..KafkaConfig::default()
        };
        let handles = MACHINES.map(|machine| open(runtime, &database, &config, clock, machine));
        let inner = &handles[0].inner;
        runtime.block_on(async {
            handles[0].create_topics(&model_tests::topics()).await.unwrap();
            let changelog = changelog_of(STEP);
            create_changelog(&inner.admin, &inner.context, &inner.config, &changelog, PARTITIONS, RECORD_BYTES)
                .await
                .unwrap();
            inner.appears(&changelog, PARTITIONS).await.unwrap();
        });
        Self { runtime: Arc::clone(runtime), database, config, clock: clock.clone(), handles, epoch: 0 }
    }

    /// Where the owner of now works.
    fn machine(&self) -> usize {
        usize::from(self.epoch % 2 == 0)
    }
}

/// A machine that runs the step.
fn open(
    runtime: &Runtime,
    database: &TestDatabase,
    config: &KafkaConfig,
    clock: &SimulatedClock,
    machine: &str,
) -> KafkaBus {
    let leases = LeaseStore::new(database.pool.clone());
    let steps = KafkaSteps { leases, state_dir: database.directory.path().join(machine) };
    let bus = runtime.block_on(KafkaBus::open(config.clone(), clock.shared(), Some(steps))).unwrap();
    bus.inner.inputs.lock().insert(STEP.to_owned(), "in".to_owned());
    bus
}

/// A partition under an owner whose lease lasts.
fn slot(inner: &Arc<Inner>, partition: u32, epoch: i64) -> SlotLog {
    let until = Instant::now() + Duration::from_secs(3_600);
    leased(inner, partition, epoch, &Lease::new(until.into()))
}

/// A partition under an owner.
pub(super) fn leased(inner: &Arc<Inner>, partition: u32, epoch: i64, lease: &Lease) -> SlotLog {
    let stored = |name: &str| inner.config.stored_name(name);
    let topics = RunTopics {
        step: STEP.to_owned(),
        input: Arc::from("in"),
        outputs: vec![(stored("out"), PARTITIONS)],
        dead_letters: (stored("dead"), PARTITIONS),
        changelog: stored(&changelog_of(STEP)),
    };
    SlotLog::new(Arc::clone(inner), Arc::new(topics), partition, epoch, Arc::clone(lease)).unwrap()
}

impl Owners for Kafka {
    type Log = SlotLog;

    /// A broker shows the end of a transaction a moment later.
    const SHOWN_WITHIN: Duration = Duration::from_secs(20);

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn bus(&self) -> &dyn Bus {
        &self.handles[0]
    }

    fn claim(&mut self, spec: &StepSpec, handler: Arc<dyn StepHandler>) -> Workers<SlotLog> {
        self.epoch += 1;
        let inner = &self.handles[self.machine()].inner;
        let shared = Arc::new(StepShared::new(spec.clone(), handler, self.clock.shared(), RECORD_BYTES));
        let own = |partition| {
            let log = slot(inner, partition, self.epoch);
            (partition, PartitionWorker::new(log, Arc::clone(&shared)))
        };
        (0..PARTITIONS).map(own).collect()
    }

    fn fence(&self, worker: &mut PartitionWorker<SlotLog>) {
        // With its first word to the brokers it ends what the one before it may do.
        worker.with_log(|log| log.load().map(drop)).unwrap();
    }

    /// A transaction that nobody has ended, with what would be noticed if it were taken for committed.
    fn leave_within_commit(&self, partition: u32) {
        let stored = |name: &str| self.config.stored_name(name);
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.config.bootstrap_servers);
        let name = stored(&format!("{}{partition}", transactions_of(STEP)));
        let owner: BaseProducer = client.clone().set("transactional.id", name).create().unwrap();
        let asking: BaseConsumer = client.set("group.id", stored(&step_group(STEP))).create().unwrap();
        owner.init_transactions(BOUND).unwrap();
        owner.begin_transaction().unwrap();
        let (output, changelog, key) = (stored("out"), stored(&changelog_of(STEP)), [1_u8; 16]);
        let state = [&b"s"[..], &key[..], &b"sum"[..]].concat();
        let far = 1 << 40;
        let progress = serde_json::to_vec(&Progress { position: far, ..Progress::default() }).unwrap();
        let messages = [
            (&*output, &key[..], &b"never committed"[..]),
            (&*changelog, &state[..], &b"99"[..]),
            (&*changelog, PROGRESS, &progress[..]),
        ];
        for (topic, key, value) in messages {
            let message = BaseRecord::<[u8], [u8]>::to(topic).partition(number(partition)).key(key).payload(value);
            owner.send(message).unwrap();
        }
        owner.flush(BOUND).unwrap();
        let mut positions = TopicPartitionList::new();
        positions.add_partition_offset(&stored("in"), number(partition), offset(far)).unwrap();
        owner.send_offsets_to_transaction(&positions, &asking.group_metadata().unwrap(), BOUND).unwrap();
    }

    fn reopen(&mut self) {
        let machine = self.machine();
        self.handles[machine] = open(&self.runtime, &self.database, &self.config, &self.clock, MACHINES[machine]);
    }

    fn begin(&self, worker: &mut PartitionWorker<SlotLog>) -> Option<Computed> {
        if let Some(computed) = worker.begin().unwrap() {
            return Some(computed);
        }
        // What the brokers have has not always come yet; and where the end can not be told, time would not go on.
        let (position, begun) = (worker.position(), Instant::now());
        loop {
            match worker.with_log(|log| log.look_for_end(position)).unwrap() {
                Some(end) if end > position => return worker.begin().unwrap(),
                Some(_) => return None,
                None => assert!(begun.elapsed() < BOUND, "the end of a partition stays hidden"),
            }
        }
    }

    fn files(&mut self) -> Vec<Connection> {
        const MACHINE: &str = "three";
        self.epoch += 1;
        let machine = open(&self.runtime, &self.database, &self.config, &self.clock, MACHINE);
        let changelog = self.config.stored_name(&changelog_of(STEP));
        let copies = self.database.directory.path().join(MACHINE).join(changelog);
        let build = |partition| {
            drop(slot(&machine.inner, partition, self.epoch).load().unwrap());
            Connection::open(copies.join(format!("{partition}.sqlite"))).unwrap()
        };
        (0..PARTITIONS).map(build).collect()
    }
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

pub(super) fn runtime() -> Arc<Runtime> {
    Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

#[test]
fn random_schedules_end_as_the_model_says() {
    if !servers_wanted() {
        return;
    }
    let given: Option<u64> = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let runtime = runtime();
    // What is closed here may need it.
    let _entered = runtime.enter();
    let begun = Instant::now();
    for schedules in 1.. {
        let seed = given.unwrap_or_else(rand::random);
        println!("{SEED}={seed} does this schedule again");
        let planned = schedule(20..45).new_tree(&mut runner(seed)).unwrap().current();
        let clock = model_tests::clock();
        ends_as_the_model_says(Kafka::new(&runtime, &clock), clock, planned);
        if given.is_some() || (schedules >= LEAST_SCHEDULES && begun.elapsed() >= LONG_ENOUGH) {
            break;
        }
    }
}
