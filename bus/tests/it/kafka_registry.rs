//! Apache Kafka with a registry of schemas beside it: a real one (Apicurio), in full runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::kafka::{KafkaBus, KafkaConfig, KafkaUse};
use bus::{
    Bus, BusError, CommittedRecord, Input, Outcome, Positions, Prepared, Record, Retention, StepContext, StepHandler,
    StepSpec, TopicSpec,
};
use bytes::Bytes;
use events::avro::{self, AvroError, AvroRecord as _};
use events::topics::{DEAD_LETTERS, FLYWHEEL_EVENTS};
use events::{FlywheelEvent, TenantId, Timestamp};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use service::clock::SimulatedClock;
use service::finding::Verdict;
use test_servers::{SchemaRegistry, full_wanted, kafka, schema_registry, unique_prefix};

use crate::kafka::{Kafka, Place, config};
use crate::suite::{BOUND, Harness, Running, caught_up, eventually, key, read_all, start};

fn with(registry: &SchemaRegistry, bootstrap: &str, prefix: &str) -> KafkaConfig {
    let mut config = config(bootstrap, prefix);
    config.schema_registry.url = Some(registry.url.clone());
    config.request_timeout_ms = 2_000;
    config
}

async fn entering(registry: &SchemaRegistry) -> Kafka {
    let server = kafka().await;
    let bootstrap = server.bootstrap.clone();
    Kafka::entering(server, |prefix| with(registry, &bootstrap, prefix)).await
}

fn event(number: u8) -> Bytes {
    let event = FlywheelEvent {
        event_id: "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap(),
        tenant: TenantId::default(),
        at: start(),
        kind: "run_succeeded".to_owned(),
        subject: format!("e{number}"),
        detail: "{}".to_owned(),
    };
    avro::encode(&event).unwrap().into()
}

fn record(value: Bytes) -> Record {
    Record { key: key(1), value }
}

/// The values of a topic as they stand at the broker, in its only partition.
fn values(kafka: &Kafka, topic: &str, count: usize) -> Vec<Vec<u8>> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.server.bootstrap).set("group.id", "somebody");
    client.set("isolation.level", "read_committed");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut assigned = TopicPartitionList::new();
    assigned.add_partition_offset(&format!("{}{topic}", kafka.prefix), 0, Offset::Beginning).unwrap();
    consumer.assign(&assigned).unwrap();
    drop(assigned);
    let (mut values, begun) = (Vec::new(), Instant::now());
    while values.len() < count {
        assert!(begun.elapsed() < BOUND, "{} of {count}", values.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            values.push(message.unwrap().payload().unwrap().to_vec());
        }
    }
    values
}

/// Registers a schema as somebody else does, and answers its number.
async fn register(registry: &SchemaRegistry, subject: &str, schema: &str) -> u32 {
    let body = serde_json::json!({ "schema": schema }).to_string();
    let answer = curl(&["-X", "POST", "-d", &body, &format!("{}/subjects/{subject}/versions", registry.url)]).await;
    u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

async fn curl(arguments: &[&str]) -> serde_json::Value {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "--max-time", "30", "-H", "content-type: application/vnd.schemaregistry.v1+json"]);
    let output = command.args(arguments).output().await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Passes on the names of events; other bytes are poison, and schemas that it does not know are waited for.
struct Names;

impl StepHandler for Names {
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        let Input::Record { record, .. } = input else { return Outcome::Ok };
        match avro::decode::<FlywheelEvent>(&record.value) {
            Ok(event) => {
                context.emit("out", Record { key: record.key, value: event.subject.into() });
                Outcome::Ok
            }
            Err(AvroError::UnknownFingerprint(schema)) => Outcome::Unavailable(avro::schema_dependency(&schema)),
            Err(_) => Outcome::Poison("unreadable".to_owned()),
        }
    }

    fn partition_time_of(&self, _: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        None
    }
}

async fn topics(bus: &dyn Bus) {
    let names = [FLYWHEEL_EVENTS, "out", DEAD_LETTERS];
    bus.create_topics(&names.map(|name| TopicSpec::new(name, 1, Retention::default()))).await.unwrap();
}

async fn names(bus: &dyn Bus) -> Vec<Bytes> {
    read_all(bus, "out").await.into_iter().map(|record| record.value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_readers_find_the_schema_of_every_value_and_ours_notice_nothing() {
    if !full_wanted() {
        return;
    }
    let registry = schema_registry().await;
    let kafka = entering(&registry).await;
    let bus = kafka.bus();
    topics(&*bus).await;
    // One from before there was a registry.
    let before = config(&kafka.server.bootstrap, &kafka.prefix);
    let before = kafka.place.open("before", before, &kafka.clock()).await.unwrap();
    assert!(before.publish(FLYWHEEL_EVENTS, vec![record(event(0))]).await[0].is_ok());
    for number in 1..4 {
        assert!(bus.publish(FLYWHEEL_EVENTS, vec![record(event(number))]).await[0].is_ok());
    }
    assert!(bus.publish(FLYWHEEL_EVENTS, vec![record(Bytes::from_static(b"no event"))]).await[0].is_ok());
    bus.publish_control(FLYWHEEL_EVENTS, "policy", "p", Bytes::from_static(b"1")).await.unwrap();

    let stored = values(&kafka, FLYWHEEL_EVENTS, 4);
    assert_eq!(stored[0], event(0));
    assert_eq!(stored[1][0], 0);
    let number = u32::from_be_bytes(stored[1][1..5].try_into().unwrap());
    assert_eq!(stored[1][5..], event(1)[10..]);
    let found = curl(&[&format!("{}/schemas/ids/{number}", registry.url)]).await;
    assert_eq!(found["schema"].as_str().unwrap(), FlywheelEvent::schemas()[0].json());
    let subjects = curl(&[&format!("{}/subjects", registry.url)]).await;
    let subject = format!("{}{FLYWHEEL_EVENTS}-value", kafka.prefix);
    assert!(subjects.as_array().unwrap().iter().any(|name| name == subject.as_str()), "{subjects}");

    let spec = StepSpec::new("step", FLYWHEEL_EVENTS, ["out"], DEAD_LETTERS);
    let running = Running::start_spec(&bus, spec, Arc::new(Names));
    caught_up(&*bus).await;
    running.stop().await;
    assert_eq!(names(&*bus).await, ["e0", "e1", "e2", "e3"]);
    // What a step writes has the wire format too.
    let letters = read_all(&*bus, DEAD_LETTERS).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(bus::DeadLetter::decode(&letters[0].value).unwrap().reason, "unreadable");
    assert_eq!(values(&kafka, DEAD_LETTERS, 1)[0][0], 0);
    // A second start finds its schemas, and so does one that may not register any; a look finds them, too.
    let mut only_looks = with(&registry, &kafka.server.bootstrap, &kafka.prefix);
    only_looks.schema_registry.register = false;
    kafka.place.open("only-looks", only_looks.clone(), &kafka.clock()).await.unwrap();
    let found = async |config: &KafkaConfig| {
        let findings = bus::kafka::look(config, &KafkaUse::default(), Duration::from_secs(10)).await;
        let found = findings.into_iter().find(|found| found.check == "kafka.schemas").unwrap();
        (found.verdict, found.says.replace(&registry.url, "URL").replace("elsewhere.", ""))
    };
    let all = "the schema registry URL lets us in, and knows all our subjects".to_owned();
    assert_eq!(found(&only_looks).await, (Verdict::Ok, all));
    only_looks.prefix = "elsewhere.".to_owned();
    let lacks = "the schema registry URL does not know 7 of our subjects: telemetry.raw.v1-value, \
                 telemetry.clean.v1-value, telemetry.quarantine.v1-value, telemetry.dead-letters.v1-value, 3 more";
    assert_eq!(found(&only_looks).await, (Verdict::Failed, lacks.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_stops_only_who_needs_it() {
    if !full_wanted() {
        return;
    }
    let registry = schema_registry().await;
    let kafka = entering(&registry).await;
    let bus = kafka.bus();
    topics(&*bus).await;
    // A schema of a later release, which our readers have not met.
    let mut later: serde_json::Value = serde_json::from_str(FlywheelEvent::schemas()[0].json()).unwrap();
    later["fields"].as_array_mut().unwrap().push(serde_json::json!({ "name": "later", "type": "long" }));
    let number = register(&registry, "somebody-value", &later.to_string()).await;
    let spec = StepSpec::new("step", FLYWHEEL_EVENTS, ["out"], DEAD_LETTERS);
    let running = Running::start_spec(&bus, spec, Arc::new(Names));
    assert!(bus.publish(FLYWHEEL_EVENTS, vec![record(event(1))]).await[0].is_ok());
    caught_up(&*bus).await;

    registry.pause();
    // Numbers that were seen go on.
    assert!(bus.publish(FLYWHEEL_EVENTS, vec![record(event(2))]).await[0].is_ok());
    caught_up(&*bus).await;
    let refused = with(&registry, &kafka.server.bootstrap, &kafka.prefix);
    let begun = Instant::now();
    let refused = kafka.place.open("refused", refused, &kafka.clock()).await.map(drop).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    insta::assert_snapshot!(refused.to_string().replace(&registry.url, "URL"), @"the schema registry URL can not be used: no answer within 2000 ms");

    // One that was not waits, whoever reads it.
    let mut tail = bus.tail(FLYWHEEL_EVENTS, "sink", Positions::oldest()).await.unwrap();
    let mut value = vec![0];
    value.extend(number.to_be_bytes());
    value.extend(b"datum");
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &kafka.server.bootstrap).create().unwrap();
    let topic = format!("{}{FLYWHEEL_EVENTS}", kafka.prefix);
    let key_of_one = key(1);
    let message = FutureRecord::to(&topic).key(&key_of_one.0).payload(&value);
    producer.send(message, BOUND).await.unwrap();
    assert!(bus.publish(FLYWHEEL_EVENTS, vec![record(event(3))]).await[0].is_ok());
    let mut read = Vec::new();
    let begun = Instant::now();
    let waits = loop {
        match tail.next(10, Duration::from_secs(5)).await {
            Ok(records) => read.extend(records),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < BOUND, "it does not wait: {read:?}");
    };
    assert!(matches!(&waits, BusError::SchemaUnavailable { schema, .. } if *schema == number), "{waits}");
    assert_eq!(read.len(), 2);
    assert!(tail.next(10, Duration::from_secs(5)).await.is_err(), "it does not pass over it");

    registry.resume();
    while read.len() < 4 {
        assert!(begun.elapsed() < 2 * BOUND, "it does not go on: {read:?}");
        if let Ok(records) = tail.next(10, Duration::from_secs(5)).await {
            read.extend(records);
        }
    }
    assert_eq!(read[3].value, event(3));
    assert!(matches!(avro::decode::<FlywheelEvent>(&read[2].value), Err(AvroError::UnknownFingerprint(_))));
    // The step knows the fingerprint now, and waits for the release that knows the schema.
    eventually("the step waits", || async {
        let lag = bus.step_lag("step").await.unwrap();
        let waits_for: Vec<String> = lag.paused().map(|(_, dependency)| dependency.to_owned()).collect();
        if waits_for.iter().any(|dependency| dependency.starts_with("schema:")) { Ok(()) } else { Err(waits_for) }
    })
    .await;
    assert_eq!(names(&*bus).await, ["e1", "e2"]);
    assert!(read_all(&*bus, DEAD_LETTERS).await.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_does_not_have_or_take_our_schemas_is_told() {
    if !full_wanted() {
        return;
    }
    let registry = schema_registry().await;
    let (server, place, clock) = (kafka().await, Place::new().await, SimulatedClock::new(start()));
    let prefix = unique_prefix();
    // Whoever only looks is let in, and leaves the registry as it is.
    let looking = with(&registry, &server.bootstrap, &prefix);
    drop(KafkaBus::open_to_look(looking, clock.shared(), None).await.unwrap());
    let subjects = curl(&[&format!("{}/subjects", registry.url)]).await;
    assert!(subjects.is_array() && !subjects.to_string().contains(&prefix), "{subjects}");
    let refusal = async |change: &dyn Fn(&mut KafkaConfig)| {
        let mut config = with(&registry, &server.bootstrap, &prefix);
        change(&mut config);
        let refused = place.open("refused", config, &clock).await.map(drop).unwrap_err().to_string();
        let wrong = registry.url.replace("ccompat", "nowhere");
        refused.replace(&prefix, "PREFIX.").replace(&registry.url, "URL").replace(&wrong, "WRONG")
    };
    insta::assert_snapshot!(refusal(&|config| config.schema_registry.register = false).await, @"the schema registry URL does not know the schema of PREFIX.telemetry.raw.v1-value (No artifact with ID 'PREFIX.telemetry.raw.v1-value' in group 'null' was found.): register it, or set `bus.kafka.schema_registry.register` = true");
    insta::assert_snapshot!(refusal(&|config| {
        let url = config.schema_registry.url.as_ref().unwrap().replace("ccompat", "nowhere");
        config.schema_registry.url = Some(url);
    }).await, @"the schema registry WRONG takes no schemas there: check the path in `bus.kafka.schema_registry.url`");
}
