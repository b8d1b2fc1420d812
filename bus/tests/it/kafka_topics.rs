//! Apache Kafka: topics that are there already, and are not as they should be.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::kafka::KafkaConfig;
use bus::{Bus, BusError, Retention, StepHandler, StepSpec, TopicSpec};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use test_servers::servers_wanted;

use crate::kafka::{Kafka, config};
use crate::suite::{Harness, Running, caught_up, eventually, spec};
use bus::testing::scripted::Scripted;
use std::sync::Arc;

/// Topics as somebody else would make and see them.
struct Somebody {
    admin: AdminClient<DefaultClientContext>,
    prefix: String,
}

impl Somebody {
    fn of(kafka: &Kafka) -> Self {
        let admin = ClientConfig::new().set("bootstrap.servers", &kafka.server.bootstrap).create().unwrap();
        Self { admin, prefix: kafka.prefix.clone() }
    }

    async fn creates(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let name = format!("{}{name}", self.prefix);
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        for created in self.admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
            created.unwrap();
        }
    }

    async fn sees(&self, name: &str) -> BTreeMap<String, String> {
        let name = format!("{}{name}", self.prefix);
        let resource = ResourceSpecifier::Topic(&name);
        let mut described = self.admin.describe_configs([&resource], &AdminOptions::new()).await.unwrap();
        let entries = described.remove(0).unwrap().entries;
        entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
    }
}

fn day() -> Retention {
    Retention::age(Duration::from_secs(86_400))
}

/// The sentence with which a topic is refused, without what is another in every run.
fn sentence(kafka: &Kafka, refused: Result<(), BusError>) -> String {
    refused.unwrap_err().to_string().replace(&kafka.prefix, "PREFIX.")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_topics_that_are_there_are_mended() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let somebody = Somebody::of(&kafka);
    let wrong = [
        ("retention.ms", "1000"),
        ("max.message.bytes", "1000"),
        ("unclean.leader.election.enable", "true"),
        // Not ours, and so it stays.
        ("flush.messages", "7"),
    ];
    somebody.creates("in", 2, &wrong).await;
    somebody.creates("step.changelog.v1", 2, &[("cleanup.policy", "compact"), ("delete.retention.ms", "5")]).await;
    let bus = kafka.bus();
    bus.create_topics(&[TopicSpec::new("in", 2, day()).read_by_step("step")]).await.unwrap();
    // The broker that is asked learns of it from the controller, a moment later.
    let lasting = |seen: &BTreeMap<String, String>, name: &str| {
        seen.get(name).and_then(|value| value.parse::<u64>().ok()).is_some_and(|value| value >= 86_400_000)
    };
    let seen = eventually("the topic's settings are mended", || async {
        let seen = somebody.sees("in").await;
        if lasting(&seen, "retention.ms") { Ok(seen) } else { Err(seen) }
    })
    .await;
    let is = |name: &str, value: &str| assert_eq!(seen[name], value, "{name}");
    is("retention.ms", "86400000");
    is("flush.messages", "7");
    is("cleanup.policy", "delete");
    assert!(seen["max.message.bytes"].parse::<usize>().unwrap() > 2 * 100_000, "{seen:?}");
    let changelog = eventually("the changelog's settings are mended", || async {
        let seen = somebody.sees("step.changelog.v1").await;
        if lasting(&seen, "delete.retention.ms") { Ok(seen) } else { Err(seen) }
    })
    .await;
    assert_eq!(changelog["cleanup.policy"], "compact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_cannot_be_mended_are_refused_and_nothing_is_changed() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let somebody = Somebody::of(&kafka);
    let bus = kafka.bus();
    somebody.creates("short", 2, &[("retention.ms", "1000")]).await;
    somebody.creates("compacted", 2, &[("cleanup.policy", "compact,delete")]).await;
    somebody.creates("step.changelog.v1", 3, &[("cleanup.policy", "compact")]).await;
    somebody.creates("other.changelog.v1", 2, &[("cleanup.policy", "delete")]).await;

    let together = [TopicSpec::new("short", 2, day()), TopicSpec::new("compacted", 2, day())];
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&together).await), @"Kafka topic PREFIX.compacted is compacted, and would lose every record of a key but the last: set its cleanup.policy to delete");
    let read_by = |step: &str| [TopicSpec::new("short", 2, day()).read_by_step(step)];
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&read_by("step")).await), @"Kafka topic PREFIX.step.changelog.v1 has 3 partitions, and the topic whose state it holds has 2: the state of a key would not be found; give that topic 3 partitions again, or begin anew with another `bus.prefix`");
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&read_by("other")).await), @"Kafka topic PREFIX.other.changelog.v1 has cleanup.policy = delete, and would lose state by its age: set it to compact, and if records are lost already, begin anew with another `bus.prefix`");
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&[TopicSpec::new("short", 3, day())]).await), @"topic short has 2 partitions, configured are 3: keys would move; set `bus.partitions` = 2, or begin anew with another `bus.prefix`");
    assert_eq!(somebody.sees("short").await["retention.ms"], "1000", "what is refused has changed nothing");

    // Whoever runs a step without having created its input is told the same.
    bus.create_topics(&[TopicSpec::new("out", 2, day()), TopicSpec::new("dead", 2, day())]).await.unwrap();
    let step = StepSpec::new("step", "short", ["out"], "dead");
    let handler: Arc<dyn StepHandler> = Scripted::new("out");
    let refused = bus.step(step, handler, tokio_util::sync::CancellationToken::new()).await;
    assert_eq!(sentence(&kafka, refused), sentence(&kafka, bus.create_topics(&read_by("step")).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_copies_are_refused() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let spec = |name: &str| [TopicSpec::new(name, 2, day())];
    kafka.bus().create_topics(&spec("in")).await.unwrap();
    let three = KafkaConfig { replication: 3, ..config(&kafka.server.bootstrap, &kafka.prefix) };
    let bus = kafka.place.open("three", three, &kafka.clock()).await.unwrap();
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&spec("in")).await), @"Kafka topic PREFIX.in has partitions with only 1 of the 3 copies that `bus.kafka.replication` asks for: reassign its partitions to more brokers, or set `bus.kafka.replication` = 1 with `bus.kafka.single_broker` = true");
    insta::assert_snapshot!(sentence(&kafka, bus.create_topics(&spec("new")).await), @"Kafka topic PREFIX.new can not have 3 copies, as `bus.kafka.replication` says: there are fewer brokers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_topic_takes_what_the_one_before_can_make() {
    if !servers_wanted() {
        return;
    }
    let kafka = Kafka::new().await;
    let bus = kafka.bus();
    let names = [events::topics::TELEMETRY_RAW, "in", "out", "dead"];
    bus.create_topics(&names.map(|name| TopicSpec::new(name, 2, day()))).await.unwrap();
    let running = Running::start_spec(&bus, spec(), Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    let somebody = Somebody::of(&kafka);
    let mut limits = vec![config("", "").record_bytes];
    for name in [events::topics::TELEMETRY_RAW, "in", "step.changelog.v1", "dead"] {
        limits.push(somebody.sees(name).await["max.message.bytes"].parse().unwrap());
    }
    assert!(limits.is_sorted_by(|less, more| less < more), "{limits:?}");
    // And the largest of each is really taken.
    for (name, bytes) in [(events::topics::TELEMETRY_RAW, 100_000), ("in", 200_000), ("dead", 8 << 20)] {
        let record = |bytes: usize| bus::Record { key: crate::suite::key(1), value: vec![1; bytes].into() };
        let results = bus.publish(name, vec![record(bytes), record(bytes + 1)]).await;
        assert!(results[0].is_ok(), "{name}: {results:?}");
        assert!(matches!(results[1], Err(bus::PublishError::RecordTooLarge { .. })), "{name}: {results:?}");
    }
}
