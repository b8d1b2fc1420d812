//! Apache Kafka with rights: what is taken from a bus that runs is missed and told, and it goes on when it is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bus::kafka::{KafkaConfig, KafkaSasl, KafkaUse, Resource, Right, SaslMechanism, rights};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, BusError, Record, Retention, TopicSpec};
use bytes::Bytes;
use events::topics::TELEMETRY_RAW;
use service::config::Secret;
use service::readiness::Readiness;
use test_servers::{KafkaRight, kafka_allow, kafka_forbid, servers_wanted};
use tokio_util::sync::CancellationToken;

use crate::kafka::{Kafka, config};
use crate::suite::{Harness, Running, caught_up, eventually, key, publish, spec, texts, topics};

fn one(user: &str, resource: Resource, name: &str, is_prefix: bool, operation: &str) -> KafkaRight {
    let resource = match resource {
        Resource::Topic => "topic",
        Resource::Group => "group",
        Resource::TransactionalId => "transactional-id",
    };
    KafkaRight {
        principal: format!("User:{user}"),
        resource: resource.to_owned(),
        name: name.to_owned(),
        is_prefix,
        operation: operation.to_owned(),
    }
}

fn each(user: &str, right: &Right) -> Vec<KafkaRight> {
    let one = |operation: &str| one(user, right.resource, &right.name, right.is_prefix, operation);
    right.operations.iter().map(|operation| one(operation.name())).collect()
}

/// A bus of a user who has the rights that are printed and no others, and the same one of somebody who may do everything.
struct Guarded {
    kafka: Kafka,
    user: String,
    everybody: Arc<dyn Bus>,
}

impl Guarded {
    async fn start() -> Option<Self> {
        let server = test_servers::kafka().await;
        let (user, password, address) = server.guarded.clone()?;
        let entering = |prefix: &str| {
            let (mechanism, password) = (Some(SaslMechanism::ScramSha512), Some(Secret::new(password.as_str())));
            let sasl = KafkaSasl { mechanism, username: user.clone(), password, ..KafkaSasl::default() };
            KafkaConfig { sasl, request_timeout_ms: 5_000, ..config(&address, prefix) }
        };
        let kafka = Kafka::entering(server, entering).await;
        let unguarded = config(&kafka.server.bootstrap, &kafka.prefix);
        let everybody = kafka.place.open("everybody", unguarded.clone(), &kafka.clock()).await.unwrap();
        topics(&everybody, 1).await;
        let raw = TopicSpec::new(TELEMETRY_RAW, 1, Retention::default());
        everybody.create_topics(std::slice::from_ref(&raw)).await.unwrap();
        let of = |name: &str| TopicSpec::new(name, 1, Retention::default());
        let usage = KafkaUse {
            topics: vec![of("in").read_by_step("step"), of("out"), of("dead"), raw],
            steps: vec![spec()],
            published: vec![TELEMETRY_RAW.to_owned()],
        };
        let mut given: Vec<KafkaRight> =
            rights(&unguarded, &usage).iter().flat_map(|right| each(&user, right)).collect();
        // Something is said about everything under the prefix: what is not allowed there is forbidden.
        for resource in [Resource::Topic, Resource::Group, Resource::TransactionalId] {
            given.push(one("nobody", resource, &kafka.prefix, true, "Describe"));
        }
        kafka_allow(&kafka.server.bootstrap, given).await;
        Some(Self { kafka, user, everybody: Arc::new(everybody) })
    }

    fn right(&self, resource: Resource, name: &str, is_prefix: bool, operation: &str) -> KafkaRight {
        one(&self.user, resource, &format!("{}{name}", self.kafka.prefix), is_prefix, operation)
    }

    async fn take(&self, right: &KafkaRight) {
        kafka_forbid(&self.kafka.server.bootstrap, vec![right.clone()]).await;
    }

    async fn give(&self, right: &KafkaRight) {
        kafka_allow(&self.kafka.server.bootstrap, vec![right.clone()]).await;
    }

    /// Without what is another in each run.
    fn redacted(&self, sentence: &str) -> String {
        sentence.replace(&self.kafka.prefix, "PREFIX.").replace(&self.user, "USER")
    }
}

async fn gone(readiness: &Readiness) {
    eventually("readiness goes", || async {
        let waiting = readiness.waiting_for();
        if waiting == ["log"] { Ok(()) } else { Err(waiting) }
    })
    .await;
}

async fn back(bus: &dyn Bus, readiness: &Readiness) {
    eventually("readiness comes back", || async { if readiness.is_ready() { Ok(()) } else { Err(bus.check().await) } })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_rights_are_taken_says_so_and_goes_on_when_they_are_given_back() {
    if !servers_wanted() {
        return;
    }
    let Some(guarded) = Guarded::start().await else { return };
    let (bus, everybody) = (guarded.kafka.bus(), Arc::clone(&guarded.everybody));
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let watching = tokio::spawn(bus::watch::watch(Arc::clone(&bus), readiness.clone(), stop.clone()));
    let published = AtomicUsize::new(0);
    let publish_one = || async {
        publish(&*everybody, vec![scripted(key(1), &[Action::Add(1)])]).await;
        published.fetch_add(1, Ordering::SeqCst);
    };
    publish_one().await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*everybody).await;
    assert!(readiness.is_ready(), "{:?}", bus.check().await);

    let mut told = Vec::new();
    for taken in [
        guarded.right(Resource::Topic, "out", false, "Write"),
        guarded.right(Resource::Topic, "in", false, "Read"),
        guarded.right(Resource::Group, "step.step", false, "Read"),
        guarded.right(Resource::TransactionalId, "step.step.", true, "Write"),
    ] {
        guarded.take(&taken).await;
        // Taking takes a moment to reach the broker, and a step that has nothing to do misses nothing.
        let refused = eventually("what is taken is missed", || async {
            publish_one().await;
            match bus.check().await {
                Err(BusError::NotAdmitted(sentence)) => Ok(sentence),
                other => Err(other),
            }
        })
        .await;
        told.push(guarded.redacted(&refused));
        gone(&readiness).await;
        // It stays so for as long as the right is away.
        let still = bus.check().await;
        assert!(matches!(still, Err(BusError::NotAdmitted(_))), "{still:?}");
        guarded.give(&taken).await;
        caught_up(&*everybody).await;
        back(&*bus, &readiness).await;
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    user `USER` lacks Write on topic PREFIX.out; allow it, as `flywheel doctor --print-acls=kafka` prints it
    user `USER` lacks Read on topic PREFIX.in; allow it, as `flywheel doctor --print-acls=kafka` prints it
    user `USER` lacks Read on group PREFIX.step.step; allow it, as `flywheel doctor --print-acls=kafka` prints it
    user `USER` lacks Write on transactional id PREFIX.step.step.0; allow it, as `flywheel doctor --print-acls=kafka` prints it
    ");
    running.stop().await;
    assert_eq!(texts(&*everybody).await.len(), published.into_inner(), "nothing is lost, and nothing is there twice");
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_publishes_is_told_what_right_is_lacking_and_goes_on_when_it_is_there() {
    if !servers_wanted() {
        return;
    }
    let Some(guarded) = Guarded::start().await else { return };
    let bus = guarded.kafka.bus();
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let watching = tokio::spawn(bus::watch::watch(Arc::clone(&bus), readiness.clone(), stop.clone()));
    let record = || Record { key: key(1), value: Bytes::from_static(b"x") };
    assert!(bus.publish(TELEMETRY_RAW, vec![record()]).await[0].is_ok());
    let taken = guarded.right(Resource::Topic, TELEMETRY_RAW, false, "Write");
    guarded.take(&taken).await;
    let refused = eventually("it is refused", || async {
        match bus.publish(TELEMETRY_RAW, vec![record()]).await.remove(0) {
            Err(refused) => Ok(guarded.redacted(&refused.to_string())),
            Ok(published) => Err(published),
        }
    })
    .await;
    insta::assert_snapshot!(refused, @"the log's storage failed: Kafka did not acknowledge a record of telemetry.raw.v1: user `USER` lacks Write on topic PREFIX.telemetry.raw.v1; allow it, as `flywheel doctor --print-acls=kafka` prints it");
    gone(&readiness).await;
    // Nobody publishes meanwhile: it is asked for.
    guarded.give(&taken).await;
    back(&*bus, &readiness).await;
    assert!(bus.publish(TELEMETRY_RAW, vec![record()]).await[0].is_ok());
    stop.cancel();
    watching.await.unwrap();
}
