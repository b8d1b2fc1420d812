//! Apache Kafka: the suite, and what only it can do.

use std::sync::Arc;
use std::time::Duration;

use bus::kafka::{KafkaBus, KafkaConfig, KafkaSasl, KafkaSteps, SaslMechanism};
use bus::{Bus, BusError, Position, Positions, PublishError, Record, Retention, TopicSpec};
use bytes::Bytes;
use service::clock::SimulatedClock;
use service::config::Secret;
use service::lease::LeaseStore;
use test_databases::TestDatabase;
use test_servers::{KafkaServer, servers_wanted, unique_prefix};

use crate::losses;
use crate::suite::{self, BOUND, Harness, eventually, key, publish, read_all, start};

const RECORD_BYTES: usize = 100_000;

pub(crate) fn config(bootstrap: &str, prefix: &str) -> KafkaConfig {
    KafkaConfig {
        prefix: prefix.to_owned(),
        bootstrap_servers: bootstrap.to_owned(),
        replication: 1,
        single_broker: true,
        record_bytes: RECORD_BYTES,
        lease_ms: 2_000,
        ..KafkaConfig::default()
    }
}

/// What a handle needs besides the broker: the leases' database, and a place for copies of state.
pub(crate) struct Place {
    pub(crate) database: TestDatabase,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self { database: TestDatabase::fresh().await }
    }

    pub(crate) async fn open(
        &self,
        name: &str,
        config: KafkaConfig,
        clock: &SimulatedClock,
    ) -> Result<KafkaBus, BusError> {
        let leases = LeaseStore::new(self.database.pool.clone());
        let steps = KafkaSteps { leases, state_dir: self.database.directory.path().join(name) };
        KafkaBus::open(config, clock.shared(), Some(steps)).await
    }
}

/// Two handles of one broker: to each other they are as two processes.
pub(crate) struct Kafka {
    pub(crate) place: Place,
    pub(crate) prefix: String,
    pub(crate) server: KafkaServer,
    clock: SimulatedClock,
    first: Arc<dyn Bus>,
    second: Arc<dyn Bus>,
}

impl Kafka {
    pub(crate) async fn new() -> Self {
        let server = test_servers::kafka().await;
        let bootstrap = server.bootstrap.clone();
        Self::entering(server, |prefix| config(&bootstrap, prefix)).await
    }

    /// Enters in another way.
    pub(crate) async fn entering(server: KafkaServer, config: impl Fn(&str) -> KafkaConfig) -> Self {
        let (prefix, clock) = (unique_prefix(), SimulatedClock::new(start()));
        let place = Place::new().await;
        let first = Arc::new(place.open("first", config(&prefix), &clock).await.unwrap());
        let second = Arc::new(place.open("second", config(&prefix), &clock).await.unwrap());
        Self { place, prefix, server, clock, first, second }
    }
}

impl Harness for Kafka {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.first)
    }

    fn another(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.second)
    }

    fn clock(&self) -> SimulatedClock {
        self.clock.clone()
    }

    fn record_bytes(&self) -> usize {
        2 * RECORD_BYTES
    }
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if servers_wanted() {
                    suite::$name(Kafka::new().await).await;
                }
            }
        )*
    };
}

suite!(
    publishes_and_tails_in_order,
    a_tail_goes_on_where_its_owner_says,
    history_shows_control_records_between_two_positions,
    a_waiting_tail_is_woken,
    refuses_what_cannot_be,
    a_step_may_make_more_of_a_record_than_the_door_takes,
    a_step_keeps_to_its_input,
    a_step_handles_each_record_once_over_restarts,
    two_runs_share_the_partitions,
    timers_fire_when_the_clock_goes_on,
    poison_never_blocks,
    a_missing_dependency_pauses_its_partition_only,
    control_records_apply_where_they_stand,
    random_records_end_as_the_model_says,
    a_partition_is_idle_since_what_it_did_last,
    a_step_that_follows_waits_for_what_is_held,
    undecodable_state_poisons_its_key_only,
    state_of_many_names_is_all_there,
);

fn record(number: u8) -> Record {
    Record { key: key(number), value: Bytes::from(vec![number]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_record_is_in_every_partition_and_no_tail_sees_it() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    suite::topics(&*bus, 3).await;
    publish(&*bus, (0..9).map(record).collect()).await;
    let before = bus.end_positions("in").await.unwrap();
    for _ in 0..3 {
        bus.publish_control("in", "policy", "p", Bytes::from_static(b"1")).await.unwrap();
    }
    let end = eventually("the control records are committed", || async {
        let end = bus.end_positions("in").await.unwrap();
        // A record and the marker of its transaction, three times.
        let grown = (0..3).all(|partition| {
            end.get(partition).unwrap() >= (0..6).fold(before.get(partition).unwrap(), |at, _| at.next())
        });
        if grown { Ok(end) } else { Err(end) }
    })
    .await;
    // A tail passes over them to the end, markers included.
    let mut tail = bus.tail("in", "sink", before).await.unwrap();
    for _ in 0..50 {
        assert!(tail.next(10, Duration::from_millis(200)).await.unwrap().is_empty());
        if tail.positions() == end {
            break;
        }
    }
    assert_eq!(tail.positions(), end);
    publish(&*bus, vec![record(7)]).await;
    assert_eq!(tail.next(10, BOUND).await.unwrap()[0].value[0], 7);
    assert_eq!(read_all(&*bus, "in").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_keeps_wheels_apart_and_is_never_seen() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let prefix = format!("{}b.", kafka.prefix);
    let other = kafka.place.open("other", config(&kafka.server.bootstrap, &prefix), &kafka.clock).await.unwrap();
    for (number, bus) in (1_u32..).zip([kafka.bus(), Arc::new(other)]) {
        suite::topics(&*bus, number).await;
        publish(&*bus, vec![record(u8::try_from(number).unwrap())]).await;
        assert_eq!(bus.partitions("in").await, Ok(number));
        let read = read_all(&*bus, "in").await;
        assert_eq!((read.len(), &*read[0].topic), (1, "in"));
        let differs = bus.create_topics(&[TopicSpec::new("in", 9, Retention::default())]).await;
        assert_eq!(differs, Err(BusError::PartitionsDiffer { topic: "in".into(), expected: 9, actual: number }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_registered_readers_have_not_read_is_known() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    let day = Retention::age(Duration::from_secs(86_400));
    bus.create_topics(&[TopicSpec::new("in", 2, day).read_by("sink")]).await.unwrap();
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, None, "there is nothing to read");
    publish(&*bus, vec![record(1)]).await;
    kafka.clock.advance(Duration::from_secs(5));
    publish(&*bus, vec![record(2), record(3)]).await;
    let status = bus.topic_status("in").await.unwrap();
    assert_eq!((status.records, status.oldest_unread, status.retention), (3, Some(start()), day));
    let mut tail = bus.tail("in", "sink", Positions::oldest()).await.unwrap();
    let mut read = 0;
    while read < 3 {
        read += tail.next(10, BOUND).await.unwrap().len();
    }
    tail.commit(&tail.positions()).await.unwrap();
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, None);
    // Settings that change are brought up to date, and the number of partitions is not.
    let two_days = Retention { age: Some(Duration::from_secs(172_800)), partition_bytes: Some(1 << 30) };
    bus.create_topics(&[TopicSpec::new("in", 2, two_days)]).await.unwrap();
    assert_eq!(bus.topic_status("in").await.unwrap().retention, two_days);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_position_retention_deleted_is_told_the_range() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    let short = Retention { age: None, partition_bytes: Some(1) };
    bus.create_topics(&[TopicSpec::new("in", 1, short)]).await.unwrap();
    let end = bus.end_positions("in").await.unwrap().get(0).unwrap();
    let ahead = bus.tail("in", "ahead", [(0, end.next())].into_iter().collect()).await;
    assert!(matches!(ahead.err(), Some(BusError::PositionAhead { partition: 0, .. })));
    kafka.delete_before("in", publish_ten(&*bus).await).await;
    let late = || [(0, Position::START)].into_iter().collect();
    let gone = bus.tail("in", "late", late()).await;
    let Some(BusError::PositionGone { topic, position, oldest, .. }) = gone.err() else { panic!("not told") };
    assert_eq!((topic.as_str(), position), ("in", Position::START));
    assert!(oldest > Position::START);
    // Whoever only looks passes over what is gone.
    publish(&*bus, vec![record(7)]).await;
    let mut look = bus.look("in", late()).await.unwrap();
    assert_eq!(look.next(10, BOUND).await.unwrap()[0].value[0], 7);
}

/// Publishes ten records and answers the position after them.
async fn publish_ten(bus: &dyn Bus) -> Position {
    let results = bus.publish("in", (0..10).map(record).collect()).await;
    results.last().unwrap().as_ref().unwrap().1.next()
}

impl Kafka {
    /// Deletes records as retention does.
    async fn delete_before(&self, topic: &str, position: Position) {
        use rdkafka::admin::{AdminClient, AdminOptions};
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", &self.server.bootstrap);
        let admin: AdminClient<_> = client.create().unwrap();
        let mut offsets = rdkafka::TopicPartitionList::new();
        let offset = rdkafka::Offset::Offset(position.to_string().parse().unwrap());
        offsets.add_partition_offset(&format!("{}{topic}", self.prefix), 0, offset).unwrap();
        admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_goes_on_behind_what_was_deleted_when_it_is_told() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let delete = |position| kafka.delete_before("in", position);
    losses::a_step_goes_on_behind_what_was_deleted_when_it_is_told(&kafka, delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_at_the_oldest_position_behind_what_was_deleted() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let delete = |position| kafka.delete_before("in", position);
    losses::a_reader_goes_on_at_the_oldest_position_behind_what_was_deleted(&kafka, delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_as_such() {
    if !servers_wanted() {
        return;
    }
    let server = test_servers::kafka().await;
    let Some((user, password, address)) = server.guarded else { return };
    let clock = SimulatedClock::new(start());
    let with = |password: &str| {
        let mechanism = Some(SaslMechanism::ScramSha512);
        let password = Some(Secret::new(password));
        let sasl = KafkaSasl { mechanism, username: user.clone(), password, ..KafkaSasl::default() };
        KafkaConfig { sasl, request_timeout_ms: 5_000, ..config(&address, &unique_prefix()) }
    };
    let place = Place::new().await;
    let bus = place.open("one", with(&password), &clock).await.unwrap();
    suite::topics(&bus, 1).await;
    publish(&bus, vec![record(1)]).await;
    let refused = place.open("another", with("another"), &clock).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("does not let user") && !refused.contains("another"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_not_there_are_named_in_time() {
    if !servers_wanted() {
        return;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = KafkaConfig { request_timeout_ms: 1_000, ..config(&free.to_string(), "") };
    let begun = std::time::Instant::now();
    let refused = Place::new().await.open("one", config, &SimulatedClock::new(start())).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("Kafka brokers do not answer"), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_too_many_bytes_is_refused_whole() {
    if !servers_wanted() {
        return;
    }
    let server = test_servers::kafka().await;
    let config = KafkaConfig { batch_bytes: RECORD_BYTES, ..config(&server.bootstrap, &unique_prefix()) };
    let place = Place::new().await;
    let bus = place.open("one", config, &SimulatedClock::new(start())).await.unwrap();
    suite::topics(&bus, 1).await;
    let large = || Record { key: key(1), value: Bytes::from(vec![1; 60_000]) };
    let refused = Err(PublishError::BatchTooLarge { bytes: 120_000, limit: RECORD_BYTES });
    assert_eq!(bus.publish("in", vec![large(), large()]).await, vec![refused.clone(), refused]);
    assert!(bus.publish("in", vec![large()]).await[0].is_ok());
}
