//! Kafka over a connection that breaks, and with a broker that is killed.

use std::sync::Arc;
use std::time::Duration;

use bus::kafka::{KafkaBus, KafkaConfig};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, Record, RecordKey};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::{Metadata, MetadataPartition, MetadataTopic};
use service::clock::SimulatedClock;
use test_servers::{KafkaBrokers, Stream, Toxic, full_wanted, own_servers_wanted, unique_prefix};

use crate::kafka::{Place, config};
use crate::kafka_faults::stored_keys;
use crate::kafka_owners::{Slow, gets_on, small, sums_once};
use crate::overload;
use crate::suite::{self, Running, caught_up, eventually, key, publish, read_all, start};

const BATCH: u32 = 50;

/// Records of one key, so of one order, with numbers that go on.
fn batch(first: u32, key: RecordKey) -> Vec<Record> {
    (first..first + BATCH).map(|number| Record { key, value: Bytes::from(number.to_be_bytes().to_vec()) }).collect()
}

/// Every number once, and in order.
async fn has_all(bus: &dyn Bus, numbers: u32) {
    let found: Vec<Vec<u8>> = read_all(bus, "in").await.into_iter().map(|record| record.value.to_vec()).collect();
    assert_eq!(found, (0..numbers).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

async fn open(brokers: &KafkaBrokers, prefix: &str, with: impl FnOnce(KafkaConfig) -> KafkaConfig) -> Arc<dyn Bus> {
    let config = with(config(&brokers.server().bootstrap, prefix));
    Arc::new(KafkaBus::open(config, SimulatedClock::new(start()).shared(), None).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_over_a_connection_that_breaks_is_there_once_and_in_order() {
    if !own_servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let (brokers, proxy) = KafkaBrokers::behind(&toxiproxy).await;
    let bus = open(&brokers, &unique_prefix(), |config| config).await;
    suite::topics(&*bus, 1).await;
    publish(&*bus, batch(0, key(1))).await;
    let breaks: [fn(&test_servers::Proxy); 4] = [
        |proxy| proxy.cut(),
        |proxy| proxy.spoil(Stream::ToServer, Toxic::BlackHole),
        // The broker has the records, and its answer is lost.
        |proxy| proxy.spoil(Stream::ToClient, Toxic::BlackHole),
        |proxy| proxy.spoil(Stream::ToClient, Toxic::Reset(Duration::ZERO)),
    ];
    for (round, breaks) in (1..).zip(breaks) {
        breaks(&proxy);
        let publishing = {
            let bus = Arc::clone(&bus);
            async move { publish(&*bus, batch(round * BATCH, key(1))).await }
        };
        let mut publishing = tokio::spawn(publishing);
        let early = tokio::time::timeout(Duration::from_secs(1), &mut publishing).await;
        assert!(early.is_err(), "it was acknowledged while nothing came through");
        proxy.heal();
        proxy.mend();
        publishing.await.unwrap();
    }
    has_all(&*bus, 5 * BATCH).await;
}

/// A broker that nobody reaches takes nothing, and the client holds no more than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_no_room_for_is_refused_in_order() {
    if !own_servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let (brokers, proxy) = KafkaBrokers::behind(&toxiproxy).await;
    let narrow = |config| KafkaConfig {
        batch_bytes: overload::ROOM,
        in_flight_bytes: overload::ROOM,
        publish_wait_ms: overload::PUBLISH_WAIT_MS,
        ..config
    };
    let bus = open(&brokers, &unique_prefix(), narrow).await;
    let stop_up = || proxy.spoil(Stream::ToServer, Toxic::BlackHole);
    overload::what_there_is_no_room_for_is_refused_in_order(&bus, stop_up, || proxy.heal()).await;
}

/// A topic as the brokers describe it.
fn described(bootstrap: &str, topic: &str) -> Result<Metadata, String> {
    let mut client = rdkafka::ClientConfig::new();
    let client: BaseConsumer = client.set("bootstrap.servers", bootstrap).create().unwrap();
    client.fetch_metadata(Some(topic), Duration::from_secs(10)).map_err(|error| error.to_string())
}

/// The broker that leads a partition.
fn leader(bootstrap: &str, topic: &str, partition: i32) -> Result<i32, String> {
    let metadata = described(bootstrap, topic)?;
    let mut partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    match partitions.find(|described| described.id() == partition).map(MetadataPartition::leader) {
        Some(leads @ 1..) => Ok(leads),
        other => Err(format!("{topic}/{partition} has no leader: {other:?}")),
    }
}

/// Whether every partition of a topic has all three copies.
fn has_three_copies(bootstrap: &str, topic: &str) -> Result<(), String> {
    let metadata = described(bootstrap, topic)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    let copies: Vec<usize> = partitions.map(|partition| partition.isr().len()).collect();
    let are_all = !copies.is_empty() && copies.iter().all(|copies| *copies == 3);
    if are_all { Ok(()) } else { Err(format!("{topic}: {copies:?}")) }
}

fn replicated(config: KafkaConfig) -> KafkaConfig {
    KafkaConfig { replication: 3, single_broker: false, ..config }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_lose_nothing_with_one_that_is_killed() {
    if !full_wanted() {
        return;
    }
    let mut brokers = KafkaBrokers::three().await;
    publishing_goes_on(&mut brokers).await;
    a_step_goes_on(&mut brokers).await;
}

async fn publishing_goes_on(brokers: &mut KafkaBrokers) {
    let (prefix, bootstrap) = (unique_prefix(), brokers.server().bootstrap);
    let topic = format!("{prefix}in");
    let bus = open(brokers, &prefix, replicated).await;
    suite::topics(&*bus, 1).await;
    let mut killed = Vec::new();
    for round in 0..2 {
        publish(&*bus, batch(2 * round * BATCH, key(1))).await;
        let leads = eventually("a leader", || async { leader(&bootstrap, &topic, 0) }).await;
        brokers.kill(leads);
        // Nobody waits until another one leads: that is the client's business.
        publish(&*bus, batch((2 * round + 1) * BATCH, key(1))).await;
        eventually("another leader", || async {
            let next = leader(&bootstrap, &topic, 0)?;
            if next == leads { Err(format!("{next} still leads")) } else { Ok(()) }
        })
        .await;
        brokers.start_again(leads).await;
        eventually("all three have everything", || async { has_three_copies(&bootstrap, &topic) }).await;
        killed.push(leads);
    }
    has_all(&*bus, 4 * BATCH).await;
    assert_ne!(killed[0], killed[1], "the leader of the second round came later");
}

/// The partition of a topic of the brokers' own in which something is written under a name. Whoever leads it coordinates
/// what has the name.
fn partition_about(bootstrap: &str, topic: &str, name: &str) -> Result<i32, String> {
    let metadata = described(bootstrap, topic)?;
    let is_about = |key: &Vec<u8>| key.windows(name.len()).any(|text| text == name.as_bytes());
    let mut numbers = metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id);
    numbers
        .find(|partition| stored_keys(bootstrap, topic, *partition, "read_uncommitted").iter().any(is_about))
        .ok_or_else(|| format!("{topic} says nothing of {name}"))
}

async fn publish_sums(bus: &dyn Bus, hundreds: usize) {
    for _ in 0..hundreds {
        publish(bus, (0..100).map(|number| scripted(key(number % 10), &[Action::Add(1)])).collect()).await;
    }
}

/// While a step works, the broker is killed that leads a partition of its input, then the one that keeps its positions,
/// then the one that decides its transactions.
async fn a_step_goes_on(brokers: &mut KafkaBrokers) {
    const POSITIONS: &str = "__consumer_offsets";
    const TRANSACTIONS: &str = "__transaction_state";
    let (prefix, bootstrap) = (unique_prefix(), brokers.server().bootstrap);
    let (place, clock) = (Place::new().await, SimulatedClock::new(start()));
    let config = replicated(config(&bootstrap, &prefix));
    let bus: Arc<dyn Bus> = Arc::new(place.open("one", config, &clock).await.unwrap());
    suite::topics(&*bus, 2).await;
    let running = Running::start_spec(&bus, small(), Arc::new(Slow(Scripted::new("out"))));
    let [input, output, changelog] = ["in", "out", "step.changelog.v1"].map(|topic| format!("{prefix}{topic}"));
    let group = format!("{prefix}step.step");
    let transactions = format!("{group}.0");
    let killed = [(&*input, None), (POSITIONS, Some(&*group)), (TRANSACTIONS, Some(&*transactions))];
    for (round, (topic, about)) in (1..).zip(killed) {
        let partition = match about {
            Some(name) => eventually("the partition", || async { partition_about(&bootstrap, topic, name) }).await,
            None => 0,
        };
        let leads = eventually("a leader", || async { leader(&bootstrap, topic, partition) }).await;
        publish_sums(&*bus, 4).await;
        // It is in the middle of them.
        gets_on(&*bus, 390).await;
        brokers.kill(leads);
        publish_sums(&*bus, 1).await;
        // With one of three away everything goes on.
        caught_up(&*bus).await;
        // Every broker shows the end of a transaction in its own time.
        eventually("everything can be read", || async {
            // Some partition may be without a leader for a while.
            bus.end_positions("out").await.map_err(|error| error.to_string())?;
            let found = read_all(&*bus, "out").await.len();
            if found >= round * 500 { Ok(()) } else { Err(format!("{found} records")) }
        })
        .await;
        sums_once(&*bus, round * 50, round * 500).await;
        brokers.start_again(leads).await;
        for topic in [&*input, &*output, &*changelog, POSITIONS, TRANSACTIONS] {
            eventually("all three have everything", || async { has_three_copies(&bootstrap, topic) }).await;
        }
    }
    running.stop().await;
    assert!(read_all(&*bus, "dead").await.is_empty());
}
