//! A log read back, for what a platform itself can not know: whether everything is in it that its doors promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, CommittedRecord, DeadLetter, Positions};
use events::avro::{self, AvroRecord};
use events::{
    CleanEvent, EventId, EventKind, OpportunityId, OpportunityOutcome, PairId, PreferencePair, QuarantinedEvent,
    RawEvent, Sha256Digest, TenantId, topics,
};
use service::clock::RealClock;
use sqlx::{AnyPool, Row};

use crate::load::Promised;

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

/// What the table of outcomes holds.
async fn closed_opportunities(pool: &AnyPool) -> BTreeSet<OpportunityId> {
    let rows = sqlx::query("SELECT opportunity_id FROM opportunity_outcomes").fetch_all(pool).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0).parse().unwrap()).collect()
}

/// Everything that the doors promised is in the log of a platform that has concluded everything, once: each event with
/// exactly one end, and each opportunity about which a signal was acknowledged closed.
pub(crate) async fn promises_are_kept(bus: &dyn Bus, pool: &AnyPool, promised: &Promised) {
    let accounts = accounts(bus).await;
    let entered: BTreeSet<_> =
        accounts.admitted.iter().chain(&accounts.filtered_at_door).chain(&accounts.exposed).copied().collect();
    assert_eq!(
        entered.len(),
        accounts.admitted.len() + accounts.filtered_at_door.len() + accounts.exposed.len(),
        "an event entered in two ways"
    );
    let lost: Vec<_> = promised.events.difference(&accounts.admitted).collect();
    assert!(lost.is_empty(), "acknowledged and not in the log: {lost:?}");
    let undecided: Vec<_> = entered.iter().filter(|id| !accounts.decided.contains_key(id)).collect();
    assert!(undecided.is_empty(), "without a disposition: {undecided:?}");
    let twice: Vec<_> = accounts.decided.iter().filter(|(_, dispositions)| dispositions.len() != 1).collect();
    assert!(twice.is_empty(), "not exactly one disposition: {twice:?}");
    assert!(accounts.decided.keys().all(|id| entered.contains(id)), "decided and never entered");

    // The ledger says the same.
    let totals = labeler::ledger::totals(pool, &TenantId::default()).await.unwrap();
    assert!(totals.holds(), "{totals:?}");
    let count = |number: usize| i64::try_from(number).unwrap();
    assert_eq!(
        (totals.admitted, totals.exposed, totals.filtered_at_door, totals.pending, totals.anomalies),
        (count(accounts.admitted.len()), count(accounts.exposed.len()), count(accounts.filtered_at_door.len()), 0, 0)
    );

    // Every decision that was delivered and reported is closed, once.
    let closed: BTreeSet<OpportunityId> = outcomes(bus).await.keys().copied().collect();
    assert_eq!(closed_opportunities(pool).await, closed, "the table holds what the log holds");
    let open: BTreeSet<OpportunityId> = promised.signalled.difference(&closed).copied().collect();
    let stories = stories(bus, &open).await;
    assert!(open.is_empty(), "signals were acknowledged, and never closed: {stories:#?}");
}
