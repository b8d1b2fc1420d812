//! The baselines: what rdkafka does without us, as well as we know how to use it.
//!
//! The settings of clients are those of `bus/src/kafka/config.rs`; the records, their keys, headers and partitions are
//! the same. A raw loop keeps no lease, no attempt marks and no copy of state on disk, and a record that it can not
//! handle would stop it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bus::measure::{Load, record};
use bus::{Record, RecordKey, partition_for};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use service::clock::real_now;

use super::raw_state::States;
use crate::series::Series;

/// Nothing here waits longer for anything.
const LIMIT: Duration = Duration::from_secs(120);
/// Records of a transaction for each partition that a loop has: as many as a step's may have at most.
pub(super) const BATCH_RECORDS: usize = 2_048;

/// How partitions are dealt to loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loops {
    /// One consumer and one producer for all.
    One,
    /// A consumer and a producer, on a thread, for each.
    OneEach,
}

/// A loop that consumes and produces in transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawLoop<'a> {
    pub(crate) bootstrap: &'a str,
    /// Of its group and its transactions.
    pub(crate) name: &'a str,
    pub(crate) input: &'a str,
    pub(crate) output: &'a str,
    /// Where the state goes, if it keeps any.
    pub(crate) changelog: Option<&'a str>,
    pub(crate) load: &'a Load,
    pub(crate) loops: Loops,
}

/// What a loop came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looped {
    /// From the first record to the last commit.
    pub(crate) records_per_second: f64,
    /// Milliseconds of every transaction, from its first message to its commit.
    pub(crate) commits: Series,
}

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
}

/// Counts what the brokers have acknowledged.
#[derive(Debug, Clone, Default)]
struct Deliveries(Arc<Counts>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.0.delivered } else { &self.0.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

type OurProducer = ThreadedProducer<Deliveries>;

fn producer(bootstrap: &str, deliveries: &Deliveries, more: &[(&str, &str)]) -> anyhow::Result<OurProducer> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("message.max.bytes", (64 << 20).to_string())
        .set("queue.buffering.max.kbytes", (64 << 10).to_string())
        .set("queue.buffering.max.messages", "1000000")
        .set("message.timeout.ms", "60000");
    for (key, value) in more {
        client.set(*key, *value);
    }
    Ok(client.create_with_context(deliveries.clone())?)
}

/// `ends`: whether it tells when it has read a partition to its end.
fn consumer(bootstrap: &str, group: &str, partitions: usize, ends: bool) -> anyhow::Result<BaseConsumer> {
    let fetched = ((4 << 20) / partitions.max(1)).max(1 << 20);
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", ends.to_string())
        .set("fetch.message.max.bytes", fetched.to_string())
        .set("isolation.level", "read_committed");
    Ok(client.create()?)
}

/// What a message is for: only records say when they were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Record,
    Change,
}

/// Hands a message to the client, waiting for room.
fn send(
    producer: &OurProducer,
    kind: Kind,
    (topic, partition): (&str, u32),
    key: &[u8],
    value: Option<&[u8]>,
) -> anyhow::Result<()> {
    let mut message = BaseRecord::to(topic).partition(i32::try_from(partition)?).key(key);
    if let Some(value) = value {
        message = message.payload(value);
    }
    if kind == Kind::Record {
        let at = real_now().as_micros().to_be_bytes();
        let header = Header { key: "at", value: Some(&at) };
        message = message.headers(OwnedHeaders::new_with_capacity(1).insert(header));
    }
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                message = again;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Waits until everything that was sent is acknowledged.
fn settle(producer: &OurProducer, deliveries: &Deliveries) -> anyhow::Result<()> {
    let begun = Instant::now();
    while producer.in_flight_count() > 0 {
        ensure!(begun.elapsed() < LIMIT, "the broker does not acknowledge");
        std::thread::sleep(Duration::from_micros(200));
    }
    ensure!(deliveries.0.failed.load(Ordering::Relaxed) == 0, "the broker refused messages");
    Ok(())
}

/// Publishes a load as fast as the client takes it. Answers acknowledged records/s.
pub(crate) fn publish(bootstrap: &str, topic: &str, load: &Load) -> anyhow::Result<f64> {
    let deliveries = Deliveries::default();
    let producer = producer(bootstrap, &deliveries, &[("linger.ms", "2")])?;
    let one = |number: u64| {
        let Record { key, value } = record(number, load);
        let place = (topic, partition_for(&key, load.partitions));
        send(&producer, Kind::Record, place, &key.0, Some(&value))
    };
    // Connections and numbers of the producer, which ours has by now as well.
    one(0)?;
    settle(&producer, &deliveries)?;
    let started = Instant::now();
    for number in 0..load.records {
        one(number)?;
    }
    settle(&producer, &deliveries)?;
    let seconds = started.elapsed().as_secs_f64();
    let delivered = deliveries.0.delivered.load(Ordering::Relaxed);
    ensure!(delivered == load.records + 1, "{delivered} of {} records were acknowledged", load.records);
    Ok(load.records as f64 / seconds)
}

/// What one loop did.
struct Worked {
    first: Instant,
    last: Instant,
    commits: Series,
}

/// Runs loops over everything that the input holds.
pub(crate) fn run(raw: &RawLoop<'_>) -> anyhow::Result<Looped> {
    let all: Vec<u32> = (0..raw.load.partitions).collect();
    let dealt: Vec<&[u32]> = match raw.loops {
        Loops::One => vec![&all],
        Loops::OneEach => all.chunks(1).collect(),
    };
    let worked: Vec<anyhow::Result<Worked>> = std::thread::scope(|scope| {
        let threads: Vec<_> = dealt.into_iter().map(|partitions| scope.spawn(|| work(raw, partitions))).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|worked| worked.unwrap_or_else(|_| bail!("a thread of the baseline panicked"))).collect()
    });
    let worked = worked.into_iter().collect::<anyhow::Result<Vec<Worked>>>()?;
    let first = worked.iter().map(|worked| worked.first).min().context("there is no partition")?;
    let last = worked.iter().map(|worked| worked.last).max().context("there is no partition")?;
    let mut looped = Looped {
        records_per_second: raw.load.records as f64 / last.duration_since(first).as_secs_f64(),
        ..Looped::default()
    };
    for worked in worked {
        looped.commits.extend(worked.commits.into_values());
    }
    Ok(looped)
}

/// One loop over its partitions.
fn work(raw: &RawLoop<'_>, partitions: &[u32]) -> anyhow::Result<Worked> {
    let name = format!("{}.{}", raw.name, partitions.first().copied().unwrap_or_default());
    let consumer = consumer(raw.bootstrap, &name, partitions.len(), false)?;
    let deliveries = Deliveries::default();
    let transactional = [("linger.ms", "0"), ("retry.backoff.ms", "2"), ("transactional.id", name.as_str())];
    let producer = producer(raw.bootstrap, &deliveries, &transactional)?;
    producer.init_transactions(LIMIT)?;
    let (mut assigned, mut expected) = (TopicPartitionList::new(), 0);
    for partition in partitions {
        let partition = i32::try_from(*partition)?;
        assigned.add_partition_offset(raw.input, partition, Offset::Beginning)?;
        expected += usize::try_from(consumer.fetch_watermarks(raw.input, partition, LIMIT)?.1)?;
    }
    consumer.assign(&assigned)?;
    drop(assigned);
    let most = BATCH_RECORDS * partitions.len();
    let mut states = States::new(raw.load, partitions);
    let (mut handled, mut first, mut commits, begun) = (0, None, Series::default(), Instant::now());
    while handled < expected {
        ensure!(begun.elapsed() < LIMIT * 5, "the baseline does not come to its end");
        let batch = take(&consumer, most)?;
        if batch.is_empty() {
            continue;
        }
        first.get_or_insert_with(Instant::now);
        let started = Instant::now();
        producer.begin_transaction()?;
        // Before the messages, as a step does that has just committed (`bus/src/kafka/slot.rs`): the client waits less for
        // the end of the transaction before.
        add_positions(&producer, &consumer, raw.input, &batch)?;
        for message in &batch {
            let partition = u32::try_from(message.partition())?;
            let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
            let key = RecordKey(key.try_into().context("a key of the load")?);
            let place = (raw.output, partition_for(&key, raw.load.partitions));
            send(&producer, Kind::Record, place, &key.0, Some(value))?;
            if raw.changelog.is_some() {
                states.handle(partition, key, value)?;
            }
        }
        if let Some(changelog) = raw.changelog {
            states.write(|partition, key, value| send(&producer, Kind::Change, (changelog, partition), key, value))?;
        }
        settle(&producer, &deliveries)?;
        producer.commit_transaction(LIMIT)?;
        commits.push(started.elapsed().as_secs_f64() * 1000.0);
        handled += batch.len();
    }
    Ok(Worked { first: first.context("the input is empty")?, last: Instant::now(), commits })
}

/// What has come, up to `most` messages; waits for the first one only.
fn take(consumer: &BaseConsumer, most: usize) -> anyhow::Result<Vec<BorrowedMessage<'_>>> {
    let mut batch = Vec::new();
    let mut wait = Duration::from_millis(50);
    while batch.len() < most {
        match consumer.poll(wait) {
            Some(message) => batch.push(message?),
            None => break,
        }
        wait = Duration::ZERO;
    }
    Ok(batch)
}

fn add_positions(
    producer: &OurProducer,
    consumer: &BaseConsumer,
    input: &str,
    batch: &[BorrowedMessage<'_>],
) -> anyhow::Result<()> {
    let mut next = BTreeMap::new();
    for message in batch {
        next.insert(message.partition(), message.offset() + 1);
    }
    let mut offsets = TopicPartitionList::new();
    for (partition, offset) in next {
        offsets.add_partition_offset(input, partition, Offset::Offset(offset))?;
    }
    let group = consumer.group_metadata().context("the consumer has a group")?;
    producer.send_offsets_to_transaction(&offsets, &group, LIMIT)?;
    Ok(())
}

/// Reads everything that a topic holds and keeps nothing. Answers seconds.
pub(crate) fn read(bootstrap: &str, topic: &str, partitions: u32) -> anyhow::Result<f64> {
    let consumer = consumer(bootstrap, "benchmark-read", partitions as usize, true)?;
    let mut assigned = TopicPartitionList::new();
    for partition in 0..partitions {
        assigned.add_partition_offset(topic, i32::try_from(partition)?, Offset::Beginning)?;
    }
    let started = Instant::now();
    consumer.assign(&assigned)?;
    drop(assigned);
    let mut ended = BTreeSet::new();
    while ended.len() < partitions as usize {
        ensure!(started.elapsed() < LIMIT * 5, "the topic {topic} does not end");
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(_)) | None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(started.elapsed().as_secs_f64())
}
