//! Apache Kafka: owners of partitions that are stopped, killed or replaced, and state that is built anew.
//!
//! The other process is this test binary again, running [`child`] alone with what it needs in environment variables.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::kafka::{KafkaBus, KafkaSteps};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{
    Bus, BusError, CommittedRecord, Failed, Input, Outcome, Prepared, RecordKey, Sealed, StepContext, StepHandler,
    StepLimits, StepSpec,
};
use bytes::Bytes;
use events::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use service::clock::{Clock, SimulatedClock};
use service::lease::LeaseStore;
use test_servers::servers_wanted;
use tokio_util::sync::CancellationToken;

use crate::kafka::{Kafka, config};
use crate::kafka_faults::aborted;
use crate::losses::Book;
use crate::processes::{self, Process, say, say_when_fenced};
use crate::suite::{
    self, BOUND, Harness, Running, caught_up, dead_letters, eventually, key, key_in, publish, read_all, spec, start,
    texts, values_of,
};

/// Bootstrap, prefix, database, directory and handler, one a line.
const NEEDS: &str = "BUS_TEST_KAFKA";

/// The handlers of the other process.
pub(crate) const SLOW: &str = "slow";
const DEADLY: &str = "deadly";

/// How long what a stopped process had sent already may take to arrive.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Handles slowly, so that a signal meets it in the middle of a batch.
pub(crate) struct Slow(pub(crate) Arc<Scripted>);

impl StepHandler for Slow {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        self.0.prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        std::thread::sleep(Duration::from_millis(2));
        self.0.handle(input, context)
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        self.0.partition_time_of(record, prepared)
    }
}

/// Ends the process at records and timers that say so.
struct Deadly(Arc<Scripted>);

impl StepHandler for Deadly {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        self.0.prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        let is_deadly_timer = matches!(&input, Input::Timer { name: "deadly", .. });
        let outcome = self.0.handle(input, context);
        if is_deadly_timer || self.0.ended() {
            say("dies");
            std::process::abort();
        }
        outcome
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        self.0.partition_time_of(record, prepared)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.0.dead_letter(failed)
    }
}

/// Small batches, so that there are many commits to be met.
pub(crate) fn small() -> StepSpec {
    StepSpec { limits: StepLimits { batch_records: 7, ..StepLimits::default() }, ..spec() }
}

#[test]
fn child() {
    let Ok(needs) = std::env::var(NEEDS) else { return };
    let needs: Vec<&str> = needs.lines().collect();
    let [bootstrap, prefix, database, directory, handler] = needs[..] else { panic!("{needs:?}") };
    tracing_subscriber::fmt().with_env_filter("bus=debug,warn").with_writer(std::io::stderr).init();
    let scripted = Scripted::new("out");
    let handler: Arc<dyn StepHandler> = match handler {
        SLOW => Arc::new(Slow(scripted)),
        DEADLY => Arc::new(Deadly(scripted)),
        other => panic!("{other}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(say_when_fenced());
        let pool = test_databases::pool(database).await;
        let clock = SimulatedClock::new(start());
        let steps = KafkaSteps { leases: LeaseStore::new(pool), state_dir: PathBuf::from(directory) };
        let bus = KafkaBus::open(config(bootstrap, prefix), clock.shared(), Some(steps)).await.unwrap();
        say("ready");
        bus.step(small(), handler, CancellationToken::new()).await.unwrap();
    });
}

/// A process that runs the step with one of the handlers, once it is ready.
pub(crate) fn owner(kafka: &Kafka, directory: &Path, handler: &str) -> Process {
    let directory = directory.display().to_string();
    let needs = [&*kafka.server.bootstrap, &*kafka.prefix, kafka.place.database.url(), &*directory, handler];
    let process = Process::of("kafka_owners::child", &[(NEEDS, OsStr::new(&needs.join("\n")))]);
    assert_eq!(process.line().as_deref(), Some("ready"));
    process
}

pub(crate) const RECORDS: usize = 600;

pub(crate) async fn published() -> Kafka {
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    suite::topics(&*bus, 2).await;
    for _ in 0..RECORDS / 100 {
        publish(&*bus, (0..100).map(|number| scripted(key(number % 10), &[Action::Add(1)])).collect()).await;
    }
    kafka
}

/// Every sum of every key stands there once, and in order; and `total` records in all.
pub(crate) async fn each_once(bus: &dyn Bus, total: usize) {
    sums_once(bus, RECORDS / 10, total).await;
}

/// The same where ten keys have `sums` each.
pub(crate) async fn sums_once(bus: &dyn Bus, sums: usize, total: usize) {
    let out = read_all(bus, "out").await;
    for number in 0..10 {
        let of_key = out.iter().filter(|record| record.key == key(number));
        let found: Vec<String> = of_key.map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect();
        let expected = (1..=sums).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z"));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
    assert_eq!(out.len(), total);
}

pub(crate) async fn gets_on(bus: &dyn Bus, behind: usize) {
    eventually("the step gets on", || async {
        match bus.step_lag("step").await {
            Ok(lag) if lag.records_behind() < behind as u64 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_killed_again_and_again_does_everything_once() {
    if !servers_wanted() {
        return;
    }
    let kafka = published().await;
    let bus = kafka.bus();
    for round in 1..=3 {
        let directory = kafka.place.database.directory.path().join(if round == 2 { "two" } else { "one" });
        let process = owner(&kafka, &directory, SLOW);
        gets_on(&*bus, RECORDS - round * 100).await;
        drop(process);
    }
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    each_once(&*bus, RECORDS).await;
    assert!(read_all(&*bus, "dead").await.is_empty());
}

/// Looks whether a transaction is open on the output: what is committed ends before what is written then.
struct Transactions {
    written: BaseConsumer,
    committed: BaseConsumer,
    output: String,
}

impl Transactions {
    fn of(kafka: &Kafka) -> Self {
        let client = |isolation: &str| -> BaseConsumer {
            let mut client = rdkafka::ClientConfig::new();
            client.set("bootstrap.servers", &kafka.server.bootstrap).set("group.id", format!("{}look", kafka.prefix));
            client.set("isolation.level", isolation).create().unwrap()
        };
        let output = format!("{}out", kafka.prefix);
        Self { written: client("read_uncommitted"), committed: client("read_committed"), output }
    }

    fn is_one_open(&self) -> bool {
        let end = |client: &BaseConsumer, partition| client.fetch_watermarks(&self.output, partition, BOUND).unwrap().1;
        // In this order one that ends between the two looks is none.
        (0..2).any(|partition| end(&self.written, partition) > end(&self.committed, partition))
    }

    /// Whether one is open that nothing ends by itself.
    async fn stays_one_open(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < ON_ITS_WAY {
            if !self.is_one_open() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// Stops the process again and again until a stop meets it within a transaction. Answers how many records it published
/// meanwhile, so that there is always something to be stopped in.
async fn stop_in_a_transaction(kafka: &Kafka, process: &Process) -> usize {
    const MOST_STOPS: usize = 200;
    let (bus, transactions) = (kafka.bus(), Transactions::of(kafka));
    for stop in 0..MOST_STOPS {
        process.signal("STOP");
        if transactions.stays_one_open().await {
            return stop * 10;
        }
        process.signal("CONT");
        publish(&*bus, (0..10).map(|number| scripted(key(200 + number), &[Action::Add(1)])).collect()).await;
        // Somewhere within the next transactions.
        tokio::time::sleep(Duration::from_millis(3 * stop as u64 % 17)).await;
    }
    panic!("{MOST_STOPS} stops met no open transaction");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_stopped_in_a_transaction_is_replaced_and_fenced() {
    if !servers_wanted() {
        return;
    }
    let kafka = published().await;
    let bus = kafka.bus();
    let process = owner(&kafka, &kafka.place.database.directory.path().join("one"), SLOW);
    gets_on(&*bus, RECORDS - 50).await;
    let total = RECORDS + stop_in_a_transaction(&kafka, &process).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    each_once(&*bus, total).await;
    assert!(aborted(&kafka) > 0, "the transaction of the stopped owner was ended, and not committed");

    // It wakes up in the middle of that transaction, and is told that it is not the owner any more.
    process.signal("CONT");
    assert_eq!(process.line().as_deref(), Some("fenced"));
    each_once(&*bus, total).await;
    running.stop().await;
    // Then it takes the partitions again, now that nobody else does, and goes on where the other one stopped.
    publish(&*bus, (0..10).map(|number| scripted(key(200 + number), &[Action::Add(1)])).collect()).await;
    caught_up(&*bus).await;
    each_once(&*bus, total + 10).await;
    assert!(read_all(&*bus, "dead").await.is_empty());
    drop(process);
}

/// Three processes end with an input, each on another disk than the one before; the fourth has to give it up.
async fn ends_three_times(kafka: &Kafka) {
    let directory = |number: usize| kafka.place.database.directory.path().join(["one", "two"][number % 2]);
    for number in 0..3 {
        let mut process = owner(kafka, &directory(number), DEADLY);
        assert_eq!(process.line().as_deref(), Some("dies"));
        process.ended();
    }
    let process = owner(kafka, &directory(3), DEADLY);
    caught_up(&*kafka.bus()).await;
    drop(process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_ends_the_process_three_times_is_given_up() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    suite::topics(&*bus, 1).await;
    let deadly = scripted(key(1), &[Action::Add(1), Action::Deadly]);
    processes::publish_around(&*bus, &deadly).await;
    ends_three_times(&kafka).await;
    processes::only_it_was_given_up(&*bus, deadly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_ends_the_process_three_times_poisons_its_key() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    suite::topics(&*bus, 1).await;
    processes::publish_deadly_timer(&*bus).await;
    ends_three_times(&kafka).await;
    processes::its_key_is_poisoned(&*bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_built_anew_from_the_changelog_alone() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let (bus, clock) = (kafka.bus(), kafka.clock());
    suite::topics(&*bus, 1).await;
    let handler = Scripted::new("out");
    let at = Action::At(clock.now().as_micros() / 1_000_000);
    let sets = [at, Action::Add(1), Action::Put("kept".into(), 9), Action::Timer("close".into(), 60)];
    publish(&*bus, vec![scripted(key(1), &sets), scripted(key(2), &[Action::Add(5)])]).await;
    let poisoned = scripted(key(3), &[Action::Undecodable]);
    publish(&*bus, vec![scripted(key(3), &[Action::Add(1)]), poisoned]).await;
    bus.publish_control("in", "policy", "p", bytes::Bytes::from_static(b"\x07")).await.unwrap();
    let running = Running::start(&bus, &handler);
    caught_up(&*bus).await;
    running.stop().await;
    // Another machine: nothing is on its disk.
    let another = kafka.another();
    let asks = scripted(key(1), &[Action::Names, Action::Add(1), Action::Control("p".into())]);
    publish(&*bus, vec![asks, scripted(key(3), &[Action::Add(1)])]).await;
    let running = Running::start(&another, &handler);
    caught_up(&*another).await;
    let found = texts(&*bus).await;
    let last: Vec<&str> = found[found.len() - 3..].iter().map(String::as_str).collect();
    assert_eq!(last[0], "names kept,sum");
    assert!(last[1].starts_with("sum 2 ") && last[2] == "control p 07", "{last:?}");
    let letters = dead_letters(&*bus).await;
    assert_eq!(letters.last().unwrap().reason, bus::REASON_KEY_POISONED);
    assert_eq!(another.step_lag("step").await.unwrap().pending_timers(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_state_is_built_anew_is_shown() {
    if !servers_wanted() {
        return;
    }
    let metrics = service::metrics::install().unwrap();
    let kafka = Kafka::new().await;
    let (bus, another) = (kafka.bus(), kafka.another());
    suite::topics(&*bus, 1).await;
    publish(&*bus, (0..50).map(|number| scripted(key(number), &[Action::Add(1)])).collect()).await;
    // Other tests of this process have steps of another name.
    let shown = || StepSpec { name: "shown".to_owned(), ..spec() };
    let running = Running::start_spec(&bus, shown(), Scripted::new("out"));
    eventually("the step catches up", || async {
        match bus.step_lag("shown").await {
            Ok(lag) if lag.records_behind() == 0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    running.stop().await;
    let gauge = |name: &str| metrics.counter(name, &[("step", "shown"), ("partition", "0")]);
    assert_eq!(gauge("flywheel_bus_restore_records"), 0, "whoever begins anew has nothing to build");
    let running = Running::start_spec(&another, shown(), Scripted::new("out"));
    let all = eventually("all is built", || async {
        let (all, done) = (gauge("flywheel_bus_restore_records"), gauge("flywheel_bus_restore_records_done"));
        if all > 0 && done == all { Ok(all) } else { Err((all, done)) }
    })
    .await;
    assert!(all >= 50, "a value for each key: {all}");
    assert_eq!(gauge("flywheel_bus_restore_at_most_seconds"), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_that_were_deleted_stop_the_step_with_the_reason() {
    if !servers_wanted() {
        return;
    }
    let kafka = published().await;
    let bus = kafka.bus();
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", &kafka.server.bootstrap);
    let admin: AdminClient<_> = client.create().unwrap();
    let group = format!("{}step.step", kafka.prefix);
    eventually("the group is deleted", || async {
        let deleted = admin.delete_groups(&[&group], &AdminOptions::new()).await.unwrap();
        deleted.into_iter().next().unwrap().map_err(|(_, code)| code)
    })
    .await;
    let stopped = bus.step(spec(), Scripted::new("out"), CancellationToken::new()).await;
    let Err(BusError::Invalid(sentence)) = stopped else { panic!("{stopped:?}") };
    assert!(sentence.contains("the group's position is none") && sentence.contains("changelog"), "{sentence}");

    // The changelog has them. Told so, the step takes them from there, and nothing is lost or done twice.
    for partition in 0..2 {
        let book = Book::new(true);
        let loss = bus.skip_lost("step", partition, &book).await.unwrap();
        assert!(loss.is_position_forgotten && loss.positions() == 0, "{loss:?}");
    }
    publish(&*bus, vec![scripted(key(11), &[Action::Add(1)])]).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    each_once(&*bus, RECORDS + 1).await;
}

/// What came of a key, once there is so much of it. The clock goes on meanwhile.
async fn came_of(bus: &dyn Bus, clock: &SimulatedClock, key: RecordKey, count: usize) -> Vec<Bytes> {
    eventually("the clock brings it about", || async {
        clock.advance(Duration::from_secs(20));
        let found = values_of(&read_all(bus, "out").await, key);
        if found.len() == count { Ok(found) } else { Err(found) }
    })
    .await
}

/// Somebody's open transaction on the input hides what lies behind it, and time does not pass it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_waits_for_what_an_open_transaction_hides() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let (bus, clock) = (kafka.bus(), kafka.clock());
    suite::topics(&*bus, 2).await;
    let (hidden, free) = (key_in(0, 2), key_in(1, 2));
    let second = clock.now().as_micros() / 1_000_000;
    let waits_from = |second| [Action::At(second), Action::Add(1), Action::Timer("close".into(), 60)];
    publish(&*bus, vec![scripted(hidden, &waits_from(second))]).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", &kafka.server.bootstrap);
    client.set("transactional.id", format!("{}foreign", kafka.prefix));
    let foreign: BaseProducer = client.create().unwrap();
    foreign.init_transactions(BOUND).unwrap();
    foreign.begin_transaction().unwrap();
    let input = format!("{}in", kafka.prefix);
    foreign.send(BaseRecord::<[u8], [u8]>::to(&input).partition(0).key(&[9; 16]).payload(b"add 1")).unwrap();
    foreign.flush(BOUND).unwrap();
    publish(&*bus, vec![scripted(hidden, &[Action::At(second + 10), Action::Add(1)])]).await;
    clock.advance(Duration::from_secs(120));
    // In the other partition timers fire meanwhile, one after the other.
    for fired in 1..=3 {
        let second = clock.now().as_micros() / 1_000_000;
        publish(&*bus, vec![scripted(free, &waits_from(second))]).await;
        came_of(&*bus, &clock, free, 2 * fired).await;
    }
    let found = values_of(&read_all(&*bus, "out").await, hidden);
    assert_eq!(found.len(), 1, "the timer must not fire before the record behind the transaction");
    foreign.abort_transaction(BOUND).unwrap();
    let found = came_of(&*bus, &clock, hidden, 3).await;
    assert!(found[1].starts_with(b"sum 2 ") && found[2].starts_with(b"timer close "), "{found:?}");
    running.stop().await;
}

/// An owner that is killed leaves its transaction open for as long as its time-out is. Its successor ends it, and asks
/// for nothing before that that waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_an_owner_left_open_holds_up_nobody() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let (bus, another) = (kafka.bus(), kafka.another());
    suite::topics(&*bus, 1).await;
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    // As an owner would have left it, but for longer than this test waits.
    let group = format!("{}step.step", kafka.prefix);
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", &kafka.server.bootstrap);
    let left: BaseProducer = client
        .clone()
        .set("transactional.id", format!("{group}.0"))
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    let asking: BaseConsumer = client.set("group.id", &group).create().unwrap();
    let mut positions = TopicPartitionList::new();
    positions.add_partition_offset(&format!("{}in", kafka.prefix), 0, Offset::Offset(0)).unwrap();
    left.init_transactions(BOUND).unwrap();
    left.begin_transaction().unwrap();
    left.send_offsets_to_transaction(&positions, &asking.group_metadata().unwrap(), BOUND).unwrap();
    assert_eq!(bus.step_lag("step").await.unwrap().records_behind(), 0, "what is committed can be had");
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    let running = Running::start(&another, &Scripted::new("out"));
    caught_up(&*another).await;
    running.stop().await;
    assert_eq!(texts(&*bus).await.len(), 2);
    assert!(left.commit_transaction(BOUND).is_err(), "the owner of before can commit nothing");
}
