//! A log read back, and the same raw log sent once more through a fresh anonymizer and labeler that nobody disturbs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, CommittedRecord, DeadLetter, Positions, Record, Retention, TopicSpec};
use bytes::Bytes;
use events::avro::{self, AvroRecord};
use events::{
    CleanEvent, ConsentTier, EventId, EventKind, OpportunityId, OpportunityOutcome, PairId, PreferencePair,
    QuarantinedEvent, RawEvent, Sha256Digest, TenantId, Timestamp, topics,
};
use service::clock::{RealClock, SimulatedClock};
use service::consent;
use service::keys::KeyStore;
use service::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::harness::until;

const PARTITIONS: u32 = 4;

/// Opens a log that no process has open.
pub(crate) fn open(data: &Path) -> Arc<dyn Bus> {
    Arc::new(LocalLog::open(&data.join("bus.sqlite"), RealClock::shared(), LocalLogConfig::default()).unwrap())
}

/// Every record of a topic.
pub(crate) async fn records(bus: &dyn Bus, topic: &str) -> Vec<CommittedRecord> {
    let end = bus.end_positions(topic).await.unwrap();
    let mut tail = bus.tail(topic, "test", Positions::default()).await.unwrap();
    let mut records = Vec::new();
    while !tail.positions().reached(&end) {
        records.extend(tail.next(1000, Duration::from_millis(50)).await.unwrap());
    }
    drop(tail);
    bus.forget_reader(topic, "test").await.unwrap();
    records
}

/// Every value of a topic.
pub(crate) async fn values<T: AvroRecord>(bus: &dyn Bus, topic: &str) -> Vec<T> {
    records(bus, topic).await.iter().map(|record| avro::decode(&record.value).unwrap()).collect()
}

/// What became of the events of a log, counted from the topics and not from the ledger.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) admitted: BTreeSet<EventId>,
    pub(crate) filtered_at_door: BTreeSet<EventId>,
    pub(crate) exposed: BTreeSet<EventId>,
    /// Dispositions of each id.
    pub(crate) decided: BTreeMap<EventId, Vec<String>>,
}

/// Counts a log.
pub(crate) async fn accounts(bus: &dyn Bus) -> Accounts {
    let mut accounts = Accounts::default();
    for event in values::<RawEvent>(bus, topics::TELEMETRY_RAW).await {
        let id = event.header.event_id;
        match (event.filtered_at_door, event.header.kind) {
            (Some(_), _) => accounts.filtered_at_door.insert(id),
            (None, EventKind::Exposure) => accounts.exposed.insert(id),
            (None, _) => accounts.admitted.insert(id),
        };
    }
    for event in values::<CleanEvent>(bus, topics::TELEMETRY_CLEAN).await {
        accounts.decided.entry(event.header.event_id).or_default().push(event.disposition.as_str().to_owned());
    }
    for event in values::<QuarantinedEvent>(bus, topics::TELEMETRY_QUARANTINE).await {
        accounts.decided.entry(event.header.event_id).or_default().push("quarantined".to_owned());
    }
    for record in records(bus, topics::DEAD_LETTERS).await {
        for affected in DeadLetter::decode(&record.value).unwrap().affected {
            let id = affected.event_id.parse().unwrap();
            accounts.decided.entry(id).or_default().push("dead_lettered".to_owned());
        }
    }
    accounts
}

/// Pairs of a log, by id, with the digest of their text; none may be there twice.
pub(crate) async fn pairs(bus: &dyn Bus) -> BTreeMap<PairId, Sha256Digest> {
    let mut pairs = BTreeMap::new();
    for pair in values::<PreferencePair>(bus, topics::PREFERENCE_PAIRS).await {
        let known = pairs.insert(pair.pair_id, pair.content_digest);
        assert!(known.is_none(), "pair {} is in the log twice", pair.pair_id);
    }
    pairs
}

/// Outcomes of a log, by opportunity; none may be there twice. Counted in the topic: the table cannot hold a second
/// one.
pub(crate) async fn outcomes(bus: &dyn Bus) -> BTreeMap<OpportunityId, OpportunityOutcome> {
    let mut outcomes = BTreeMap::new();
    for outcome in values::<OpportunityOutcome>(bus, topics::SERVING_OUTCOMES).await {
        let id = outcome.opportunity_id;
        let known = outcomes.insert(id, outcome);
        assert!(known.is_none(), "opportunity {id} is closed twice in the log");
    }
    outcomes
}

/// What the log says of opportunities, for a failing test: the events of each as they left the anonymizer.
pub(crate) async fn stories(bus: &dyn Bus, wanted: &BTreeSet<OpportunityId>) -> BTreeMap<OpportunityId, Vec<String>> {
    let mut stories: BTreeMap<_, Vec<_>> = wanted.iter().map(|id| (*id, Vec::new())).collect();
    for record in records(bus, topics::TELEMETRY_CLEAN).await {
        let event = avro::decode::<CleanEvent>(&record.value).unwrap();
        let header = &event.header;
        let Some(story) = header.opportunity_id.and_then(|id| stories.get_mut(&id)) else { continue };
        let issued_at = header.receipt.as_ref().map(|receipt| receipt.issued_at);
        story.push(format!(
            "{} {}: {:?}, receipt {:?} of {issued_at:?}, received at {}, appended at {}",
            header.sequence,
            header.kind.as_str(),
            event.disposition,
            header.receipt_state,
            header.received_at,
            record.appended_at,
        ));
    }
    stories
}

/// What the labeler makes of a log.
pub(crate) struct Concluded {
    pub(crate) pairs: BTreeMap<PairId, Sha256Digest>,
    pub(crate) outcomes: BTreeMap<OpportunityId, OpportunityOutcome>,
}

/// Sends the raw records of `bus` through a fresh anonymizer and labeler; everybody in it agreed to `code` and every
/// repository may be trained on, from the beginning.
pub(crate) async fn without_faults(
    bus: &dyn Bus,
    keys: &KeyStore,
    persons: &[String],
    anonymizer: anonymizer::AnonymizerConfig,
    labeler: labeler::LabelerConfig,
) -> Concluded {
    let tenant = TenantId::default();
    let raw = records(bus, topics::TELEMETRY_RAW).await;
    let times = raw.iter().map(|record| avro::decode::<RawEvent>(&record.value).unwrap().header.received_at);
    let (first, last) = (times.clone().min().unwrap(), times.max().unwrap());
    // Before the first record, so that time is told by records alone until all of them are read.
    let clock = SimulatedClock::new(first);
    let directory = tempfile::tempdir().unwrap();
    let log = LocalLog::open(&directory.path().join("bus.sqlite"), clock.shared(), LocalLogConfig::default()).unwrap();
    let replayed: Arc<dyn Bus> = Arc::new(log);
    let names = [
        topics::TELEMETRY_RAW,
        topics::TELEMETRY_CLEAN,
        topics::TELEMETRY_QUARANTINE,
        topics::DEAD_LETTERS,
        topics::PREFERENCE_PAIRS,
        topics::SERVING_OUTCOMES,
    ];
    let year = Retention::age(Duration::from_secs(365 * 86_400));
    let specs: Vec<TopicSpec> = names.iter().map(|name| TopicSpec::new(*name, PARTITIONS, year)).collect();
    replayed.create_topics(&specs).await.unwrap();
    let secret = keys.tenant_secret(&tenant).await.unwrap();
    let person_subject = |person: &String| consent::control_subject(&tenant, &secret.person_pseudonym(person));
    for subject in std::iter::once(consent::ceiling_subject(&tenant)).chain(persons.iter().map(person_subject)) {
        let decision = consent::ConsentDecision { tier: ConsentTier::Code, decided_at: Timestamp::EPOCH };
        let value = Bytes::from(serde_json::to_vec(&decision).unwrap());
        replayed.publish_control(topics::TELEMETRY_RAW, consent::CONTROL_KIND, &subject, value).await.unwrap();
    }
    let everyone = "everyone".parse().unwrap();
    labeler::audience::publish_rule(replayed.as_ref(), &tenant, "*", Some(&everyone)).await.unwrap();
    let copies = raw.into_iter().map(|record| Record { key: record.key, value: record.value }).collect();
    for published in replayed.publish(topics::TELEMETRY_RAW, copies).await {
        published.unwrap();
    }
    let stop = CancellationToken::new();
    let deps = anonymizer::AnonymizerDeps { bus: Arc::clone(&replayed), keys: keys.clone() };
    let anonymizing =
        tokio::spawn(anonymizer::run(anonymizer, deps, Readiness::new().gate("anonymizer"), stop.clone()));
    let loaded = Arc::new(labeler::keys::LoadedKeys::new(keys.clone()));
    let handler = labeler::step::handler(loaded, labeler.policy, labeler.limits);
    let labeling = tokio::spawn({
        let (bus, stop) = (Arc::clone(&replayed), stop.clone());
        async move { bus.step(labeler::step::spec(), handler, stop).await }
    });
    // The records first, at the time of their own.
    for step in [anonymizer::STEP, labeler::step::STEP] {
        until("the records to be read again", || async {
            let lag = replayed.step_lag(step).await.ok()?;
            (lag.records_behind() == 0).then_some(())
        })
        .await;
    }
    clock.set(last);
    // Then all the time that anything may wait, twice: the labeler waits from what the anonymizer let go last.
    for _ in 0..3 {
        clock.advance(Duration::from_secs(3 * 3600));
        for step in [anonymizer::STEP, labeler::step::STEP] {
            until("a step to conclude", || async {
                let reached = service::clock::Clock::now(&clock) - bus::IDLE_AFTER;
                let lag = replayed.step_lag(step).await.ok()?;
                if lag.settled_at(reached) {
                    return Some(());
                }
                if lag.records_behind() == 0 {
                    clock.advance(bus::IDLE_AFTER);
                }
                None
            })
            .await;
        }
    }
    stop.cancel();
    anonymizing.await.unwrap().unwrap();
    labeling.await.unwrap().unwrap();
    Concluded { pairs: pairs(replayed.as_ref()).await, outcomes: outcomes(replayed.as_ref()).await }
}
