//! Kafka over a connection that breaks, and with a broker that is killed.

use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use bus::kafka::{KafkaBus, KafkaConfig};
use bus::{Record, RecordKey};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use service::clock::SimulatedClock;
use test_servers::{KafkaBrokers, Stream, Toxic, full_wanted, own_servers_wanted, unique_prefix};

use crate::kafka::config;
use crate::overload;
use crate::suite::{self, eventually, key, publish, read_all, start};

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

/// The broker that leads the only partition of a topic, and those that have all of it.
fn leader_and_followers(bootstrap: &str, topic: &str) -> Result<(i32, Vec<i32>), String> {
    let mut client = rdkafka::ClientConfig::new();
    let client: BaseConsumer = client.set("bootstrap.servers", bootstrap).create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let partition = &metadata.topics()[0].partitions()[0];
    match partition.leader() {
        leader @ 1.. => Ok((leader, partition.isr().to_vec())),
        other => Err(format!("no leader: {other}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_lose_nothing_with_the_one_that_leads() {
    if !full_wanted() {
        return;
    }
    let mut brokers = KafkaBrokers::three().await;
    let (prefix, bootstrap) = (unique_prefix(), brokers.server().bootstrap);
    let topic = format!("{prefix}in");
    let replicated = |config| KafkaConfig { replication: 3, single_broker: false, ..config };
    let bus = open(&brokers, &prefix, replicated).await;
    suite::topics(&*bus, 1).await;
    let mut killed = Vec::new();
    for round in 0..2 {
        publish(&*bus, batch(2 * round * BATCH, key(1))).await;
        let (leader, _) = eventually("a leader", || async { leader_and_followers(&bootstrap, &topic) }).await;
        brokers.kill(leader);
        // Nobody waits until another one leads: that is the client's business.
        publish(&*bus, batch((2 * round + 1) * BATCH, key(1))).await;
        let (next, _) = eventually("another leader", || async {
            leader_and_followers(&bootstrap, &topic).and_then(|(next, all)| {
                if next == leader { Err(format!("{next} still leads")) } else { Ok((next, all)) }
            })
        })
        .await;
        assert_ne!(next, leader);
        brokers.start_again(leader).await;
        eventually("all three have everything", || async {
            leader_and_followers(&bootstrap, &topic)
                .and_then(|(_, all)| if all.len() == 3 { Ok(()) } else { Err(format!("only {all:?}")) })
        })
        .await;
        killed.push(leader);
    }
    has_all(&*bus, 4 * BATCH).await;
    assert_ne!(killed[0], killed[1], "the leader of the second round came later");
}
