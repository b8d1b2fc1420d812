//! From the door's records to pairs, with the anonymizer in front: what comes out does not depend on how events travel.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use anonymizer::shape::Shape;
use bus::testing::ReferenceStep;
use bus::{Record, RecordKey, StepHandler};
use bytes::Bytes;
use events::topics::{TELEMETRY_CLEAN, TELEMETRY_QUARANTINE};
use events::{ConsentTier, EventKind, RawEvent, TenantId, Timestamp, avro};
use labeler::audience::{CONTROL_KIND, subject};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use service::consent::{self, ConsentDecision};

use crate::kit::{Labeling, REPOSITORY, START, World};
use crate::orders::{Crew, Habit, crew, habit, sessions};

/// The anonymizer's step in front of the labeler's.
pub(crate) struct Wheel<'a> {
    world: &'a World,
    anonymizer: ReferenceStep,
    handler: Arc<dyn StepHandler>,
    labeling: Labeling,
}

impl<'a> Wheel<'a> {
    pub(crate) fn new(world: &'a World, partitions: u32) -> Self {
        let handler = anonymizer::step::handler(AnonymizerConfig::default(), world.keys.clone()).unwrap();
        let mut anonymizer = ReferenceStep::new(anonymizer::step_spec(), Arc::clone(&handler), partitions);
        let decision = ConsentDecision { tier: ConsentTier::Code, decided_at: START };
        let decision = serde_json::to_vec(&decision).unwrap().into();
        anonymizer.publish_control(consent::CONTROL_KIND, &consent::ceiling_subject(&TenantId::default()), decision);
        let mut labeling = world.step(partitions);
        // The log knows repositories as models see them.
        let repository = Shape::new(&world.secret).repository(REPOSITORY);
        let rule = Bytes::from_static(b"repository:a");
        labeling.step.publish_control(CONTROL_KIND, &subject(&TenantId::default(), &repository), rule);
        Self { world, anonymizer, handler, labeling }
    }

    /// The events arrive by `now`, and everything is read to its end.
    pub(crate) async fn arrive(&mut self, now: Timestamp, events: &[RawEvent]) {
        for event in events {
            let key = RecordKey(self.world.secret.record_key(event.header.session_id));
            self.publish(Record { key, value: Bytes::from(avro::encode(event).unwrap()) });
        }
        self.read(now).await;
    }

    /// A record of the raw topic.
    pub(crate) fn publish(&mut self, record: Record) {
        self.anonymizer.publish(record);
    }

    /// Everything is read to its end at `now`.
    pub(crate) async fn read(&mut self, now: Timestamp) {
        loop {
            let paused = self.anonymizer.advance_to(now);
            if paused.is_empty() {
                break;
            }
            for paused in paused {
                self.handler.make_available(&paused.dependencies).await;
            }
        }
        for record in self.anonymizer.take_emitted(TELEMETRY_CLEAN) {
            self.labeling.step.publish(record);
        }
        self.labeling.advance(now).await;
    }

    /// The pairs so far.
    pub(crate) fn pairs(&self) -> Vec<events::PreferencePair> {
        self.labeling.pairs()
    }

    /// Everything that the wheel concluded, without the times at which it did.
    fn concluded(&self) -> BTreeSet<String> {
        assert!(self.anonymizer.emitted(TELEMETRY_QUARANTINE).is_empty());
        assert!(self.anonymizer.dead_letters().is_empty() && self.labeling.step.dead_letters().is_empty());
        let pairs = self.labeling.pairs();
        let ids: BTreeSet<_> = pairs.iter().map(|pair| pair.pair_id).collect();
        assert_eq!(ids.len(), pairs.len(), "a pair is emitted once");
        let pairs = pairs.iter().map(|pair| {
            let (id, digest) = (pair.pair_id, pair.content_digest);
            format!("{id} {} {} {:?} {digest} {}", pair.reason, pair.weight, pair.divergence, pair.altered)
        });
        let outcomes = self.labeling.outcomes();
        let outcomes = outcomes.iter().map(|outcome| {
            let (id, signal, utility) = (outcome.opportunity_id, outcome.signal, outcome.utility);
            format!("{id} {signal} {utility} {} {}", outcome.kept_characters, outcome.exposure_missing)
        });
        pairs.chain(outcomes).collect()
    }
}

fn run(crew: &Crew, mut arrivals: Vec<(Timestamp, RawEvent)>, partitions: u32, together: usize) -> BTreeSet<String> {
    arrivals.sort_by_key(|(at, _)| *at);
    crew.runtime.block_on(async {
        let mut wheel = Wheel::new(&crew.world, partitions);
        for chunk in arrivals.chunks(together) {
            let events: Vec<RawEvent> = chunk.iter().map(|(_, event)| event.clone()).collect();
            // A batch is read when its last event has arrived.
            wheel.arrive(chunk[chunk.len() - 1].0, &events).await;
        }
        for minutes in (1..32).map(|step| step * 5).chain([600, 6000, 60_000]) {
            let last = arrivals.last().map_or(START, |(at, _)| *at);
            wheel.arrive(last + Duration::from_secs(minutes * 60), &[]).await;
        }
        wheel.concluded()
    })
}

pub(crate) fn raw_sessions(crew: &Crew, habits: &[Vec<Habit>]) -> Vec<RawEvent> {
    sessions(crew, habits)
        .iter()
        .enumerate()
        .flat_map(|(index, events)| {
            let person = &crew.persons[index % crew.persons.len()];
            events.iter().map(|event| person.raw(event, |text| text)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_same_pairs_over_all_orders_repetitions_and_batchings_within_lateness() {
    let crew = crew();
    let strategy = (
        prop::collection::vec(prop::collection::vec(habit(), 1..4), 1..4),
        prop::collection::vec(0..840_000_u64, 1..16),
        prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        1..4_u32,
        1..12_usize,
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |(habits, delays, repeated, partitions, together, restamped)| {
        let events = raw_sessions(&crew, &habits);
        let in_order = events.iter().map(|event| (event.header.received_at, event.clone())).collect();
        let expected = run(&crew, in_order, 1, 1);
        let asked = events.iter().filter(|event| event.header.kind == EventKind::Exposure).count();
        prop_assert!(expected.len() >= asked);
        let mut travelled: Vec<(Timestamp, RawEvent)> = Vec::new();
        let repeats = repeated.iter().map(|index| index.get(&events));
        for (index, event) in events.iter().chain(repeats).enumerate() {
            let at = event.header.received_at + Duration::from_millis(delays[(index * 7) % delays.len()]);
            let mut event = event.clone();
            // The door stamps what arrives late; what waited behind the door (a spool) carries its own time.
            if restamped && event.header.kind != EventKind::Exposure {
                event.header.received_at = at;
            }
            travelled.push((at, event));
        }
        let found = run(&crew, travelled, partitions, together);
        prop_assert_eq!(found, expected);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
