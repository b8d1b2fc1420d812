//! Apache Kafka: what meets a step in the middle of its transactions, and a changelog that has forgotten.
//!
//! Beside the suite of all logs: transactions that a kill leaves open, runs that come and go, compaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, RecordKey, StepHandler};
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use service::clock::Clock;
use test_servers::{servers_wanted, unique_prefix};

use crate::kafka::Kafka;
use crate::kafka_owners::{RECORDS, SLOW, Slow, each_once, gets_on, owner, published, small};
use crate::suite::{self, BOUND, Harness, Running, caught_up, eventually, key, key_in, publish, texts, values_of};

fn client(kafka: &Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.server.bootstrap);
    client
}

/// Keys of all messages of a partition that can be read now: of committed transactions, or of all that ever were.
fn keys(kafka: &Kafka, topic: &str, partition: i32, isolation: &str) -> Vec<Vec<u8>> {
    stored_keys(&kafka.server.bootstrap, &format!("{}{topic}", kafka.prefix), partition, isolation)
}

/// The same of a topic by the name that the brokers know.
pub(crate) fn stored_keys(bootstrap: &str, topic: &str, partition: i32, isolation: &str) -> Vec<Vec<u8>> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("{}look", unique_prefix()))
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    reader.assign(&from).unwrap();
    drop(from);
    let (begun, mut keys) = (Instant::now(), Vec::new());
    loop {
        match reader.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => keys.push(message.key().unwrap_or_default().to_vec()),
            Some(Err(KafkaError::PartitionEOF(_))) => return keys,
            other => assert!(begun.elapsed() < BOUND, "{topic}/{partition} can not be read: {other:?}"),
        }
    }
}

/// How many messages of the output were written in transactions that nobody committed.
pub(crate) fn aborted(kafka: &Kafka) -> usize {
    let count = |isolation| (0..2).map(|partition| keys(kafka, "out", partition, isolation).len()).sum::<usize>();
    count("read_uncommitted").saturating_sub(count("read_committed"))
}

/// What came of a key, once there is so much of it.
async fn handled_of(bus: &dyn Bus, key: RecordKey, count: usize) -> Vec<Bytes> {
    eventually("the records of a key are handled", || async {
        let found = values_of(&suite::read_all(bus, "out").await, key);
        if found.len() == count { Ok(found) } else { Err(found) }
    })
    .await
}

/// Kills go on until one of them has met an open transaction: its records stand in the log and are never seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_inside_a_transaction_leaves_nothing_of_it() {
    // A transaction is open for a millisecond or two after its messages were written.
    const MOST_KILLS: usize = 60;
    if !servers_wanted() {
        return;
    }
    let kafka = published().await;
    let bus = kafka.bus();
    let directory = kafka.place.database.directory.path().join("one");
    let (mut met, mut total) = (0, RECORDS);
    for kill in 0..MOST_KILLS {
        let behind = bus.step_lag("step").await.map_or(RECORDS as u64, |lag| lag.records_behind());
        let process = owner(&kafka, &directory, SLOW);
        gets_on(&*bus, usize::try_from(behind).unwrap().saturating_sub(7).max(1)).await;
        // Somewhere within the next transactions.
        tokio::time::sleep(Duration::from_millis(3 * kill as u64 % 17)).await;
        drop(process);
        met = aborted(&kafka);
        if met > 0 {
            break;
        }
        // There must always be something to be killed in.
        publish(&*bus, (0..10).map(|number| scripted(key(200 + number), &[Action::Add(1)])).collect()).await;
        total += 10;
    }
    assert!(met > 0, "{MOST_KILLS} kills met no open transaction");
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    each_once(&*bus, total).await;
    assert!(suite::read_all(&*bus, "dead").await.is_empty());
}

/// Each transaction writes its progress once, and the first of all writes nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_worked_off_in_batches_that_grow() {
    const BACKLOG: usize = 6_000;
    const FIRST_BATCH: usize = 512;
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    suite::topics(&*bus, 1).await;
    for _ in 0..BACKLOG / 500 {
        publish(&*bus, (0..500).map(|_| scripted(key(1), &[Action::Add(1)])).collect()).await;
    }
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    let emitted = texts(&*bus).await;
    assert_eq!(emitted.len(), BACKLOG);
    let written = keys(&kafka, "step.changelog.v1", 0, "read_committed");
    let batches = written.iter().filter(|key| key.as_slice() == b"p").count() - 1;
    assert!(batches < BACKLOG.div_ceil(FIRST_BATCH), "{batches} batches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_come_and_go_take_over_in_the_middle() {
    if !servers_wanted() {
        return;
    }
    let kafka = published().await;
    let slow = || Arc::new(Slow(Scripted::new("out"))) as Arc<dyn StepHandler>;
    let (bus, another) = (kafka.bus(), kafka.another());
    let staying = Running::start_spec(&bus, small(), slow());
    let mut behind = RECORDS;
    for round in 0..4 {
        behind -= 60;
        gets_on(&*bus, behind).await;
        let coming = Running::start_spec(&another, small(), slow());
        behind -= 60;
        gets_on(&*bus, behind).await;
        // One goes politely, the next one in the middle of what it does.
        if round % 2 == 0 { coming.stop().await } else { coming.abort().await }
    }
    caught_up(&*bus).await;
    staying.stop().await;
    each_once(&*bus, RECORDS).await;
}

/// Makes a changelog forget soon what was overwritten.
async fn compact_soon(kafka: &Kafka, admin: &AdminClient<DefaultClientContext>) {
    let name = format!("{}step.changelog.v1", kafka.prefix);
    let config = AlterConfig::new(ResourceSpecifier::Topic(&name))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "500")
        .set("min.cleanable.dirty.ratio", "0.01")
        .set("min.compaction.lag.ms", "0")
        .set("max.compaction.lag.ms", "1000")
        .set("delete.retention.ms", "100");
    let altered = admin.alter_configs([&config], &AdminOptions::new()).await.unwrap();
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_changelog_holds_the_whole_state() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let (bus, clock) = (kafka.bus(), kafka.clock());
    suite::topics(&*bus, 1).await;
    let at = Action::At(clock.now().as_micros() / 1_000_000);
    let kept = [at, Action::Put("kept".into(), 900), Action::Timer("close".into(), 60)];
    publish(&*bus, (0..5).map(|number| scripted(key(number), &kept)).collect()).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    compact_soon(&kafka, &client(&kafka).create().unwrap()).await;
    // The same few keys again and again; and what happens now and then rolls a segment over.
    let overwritten = |keys: &[Vec<u8>]| keys.iter().filter(|key| key.ends_with(b"sum")).count();
    let (mut written, begun) = (0, Instant::now());
    loop {
        publish(&*bus, (0..5).map(|number| scripted(key(number), &[Action::Add(1)])).collect()).await;
        caught_up(&*bus).await;
        written += 1;
        let left = overwritten(&keys(&kafka, "step.changelog.v1", 0, "read_committed"));
        if written >= 20 && left < written * 5 / 2 {
            break;
        }
        assert!(begun.elapsed() < 2 * BOUND, "nothing was compacted: {left} of {}", written * 5);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    running.abort().await;
    // Another machine, with nothing on its disk.
    let another = kafka.another();
    let asks = [Action::Names, Action::Add(1)];
    publish(&*bus, (0..5).map(|number| scripted(key(number), &asks)).collect()).await;
    let running = Running::start(&another, &Scripted::new("out"));
    caught_up(&*another).await;
    let found = texts(&*bus).await;
    let last = &found[found.len() - 10..];
    for answers in last.chunks(2) {
        assert_eq!(answers[0], "names kept,sum");
        assert!(answers[1].starts_with(&format!("sum {} ", written + 1)), "{answers:?}");
    }
    assert_eq!(another.step_lag("step").await.unwrap().pending_timers(), 5);
    running.stop().await;
}

/// Somebody's transaction is open on the input while the state is built anew: it hides records, and no state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_on_the_input_hides_no_state() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let (bus, another) = (kafka.bus(), kafka.another());
    suite::topics(&*bus, 2).await;
    let (hidden, free) = (key_in(0, 2), key_in(1, 2));
    publish(&*bus, vec![scripted(hidden, &[Action::Add(5)])]).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    let foreign: BaseProducer =
        client(&kafka).set("transactional.id", format!("{}foreign", kafka.prefix)).create().unwrap();
    foreign.init_transactions(BOUND).unwrap();
    foreign.begin_transaction().unwrap();
    for topic in ["in", "step.changelog.v1"] {
        let topic = format!("{}{topic}", kafka.prefix);
        let key: &[u8] = if topic.ends_with("in") { &[9; 16] } else { b"?" };
        foreign.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).key(key).payload(b"add 1")).unwrap();
    }
    foreign.flush(BOUND).unwrap();
    publish(&*bus, vec![scripted(hidden, &[Action::Add(1)])]).await;
    // On another machine: nothing can be decided before the transaction is, and then the state is there.
    let running = Running::start(&another, &Scripted::new("out"));
    // The other partition goes on meanwhile.
    for handled in 1..=5 {
        publish(&*bus, vec![scripted(free, &[Action::Add(1)])]).await;
        handled_of(&*bus, free, handled).await;
    }
    let found = values_of(&suite::read_all(&*bus, "out").await, hidden);
    assert_eq!(found.len(), 1, "what stands behind an open transaction is not there yet");
    foreign.abort_transaction(BOUND).unwrap();
    let found = handled_of(&*bus, hidden, 2).await;
    assert!(found[1].starts_with(b"sum 6 "), "{found:?}");
    running.stop().await;
}
