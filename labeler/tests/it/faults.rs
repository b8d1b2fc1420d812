//! Guarantee 4 under faults: services are dropped in the middle of their work and started again, events are repeated,
//! forged, late and broken, the database is locked now and then, and at every cut the ledger's equation holds and says
//! what the log says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use bus::testing::ReferenceStep;
use bus::{CommittedRecord, DeadLetter, Failed, Input, Outcome, Positions, Prepared, Sealed, StepContext, StepHandler};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use events::{CleanEvent, EventId, EventKind, Origin, PreferencePair, QuarantinedEvent, RawEvent, TenantId, avro};
use labeler::LabelPolicy;
use labeler::ledger::{self, LedgerTotals, Statement};
use service::clock::Clock as _;

use crate::kit::{self, Editor, dead_letter, telling};
use crate::orders::{Crew, crew, habits};
use crate::rig::Rig;
use crate::wheel::{Wheel, raw_sessions};

/// What the log itself says up to a cut, event by event.
async fn recount(rig: &Rig, cut: &BTreeMap<String, Positions>) -> LedgerTotals {
    let mut entered: BTreeMap<EventId, (&str, i64)> = BTreeMap::new();
    let mut ends: BTreeMap<EventId, (u8, String)> = BTreeMap::new();
    for topic in [TELEMETRY_RAW, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, DEAD_LETTERS] {
        for record in rig.records(topic).await {
            if cut[topic].get(record.partition).is_none_or(|next| record.position >= next) {
                continue;
            }
            // What decides more goes before what decides less: a stub, a reused id and a dead letter give way.
            let mut end = |id: EventId, rank: u8, what: &str| {
                let known = ends.entry(id).or_insert_with(|| (rank, what.to_owned()));
                if rank < known.0 {
                    *known = (rank, what.to_owned());
                }
            };
            match topic {
                TELEMETRY_RAW => {
                    // A record that is none is no event.
                    let Ok(event) = avro::decode::<RawEvent>(&record.value) else { continue };
                    let how = match (&event.filtered_at_door, event.header.kind) {
                        (Some(_), _) => "filtered_at_door",
                        (None, EventKind::Exposure) => "exposed",
                        (None, _) => "admitted",
                    };
                    let id = event.header.event_id;
                    entered.entry(id).or_insert((how, 0)).1 += 1;
                    if event.filtered_at_door.is_some() {
                        end(id, 1, "filtered");
                    }
                }
                TELEMETRY_CLEAN => {
                    let event = avro::decode::<CleanEvent>(&record.value).unwrap();
                    end(event.header.event_id, 0, event.disposition.as_str());
                }
                TELEMETRY_QUARANTINE => {
                    let event = avro::decode::<QuarantinedEvent>(&record.value).unwrap();
                    let rank = u8::from(event.reason.ends_with("_conflict"));
                    end(event.header.event_id, rank, "quarantined");
                }
                _ => {
                    for affected in DeadLetter::decode(&record.value).unwrap().affected {
                        end(affected.event_id.parse().unwrap(), 1, "dead_lettered");
                    }
                }
            }
        }
    }
    let mut totals = LedgerTotals::default();
    for (id, (how, copies)) in entered {
        totals.duplicates += copies - 1;
        *match how {
            "filtered_at_door" => &mut totals.filtered_at_door,
            "exposed" => &mut totals.exposed,
            _ => &mut totals.admitted,
        } += 1;
        *match ends.remove(&id).as_ref().map(|(_, what)| what.as_str()) {
            None => &mut totals.pending,
            Some("clean") => &mut totals.clean,
            Some("filtered") => &mut totals.filtered,
            Some("quarantined") => &mut totals.quarantined,
            Some("dead_lettered") => &mut totals.dead_lettered,
            Some("erased") => &mut totals.erased,
            Some(other) => panic!("{other}"),
        } += 1;
    }
    assert!(ends.is_empty(), "ended without having entered: {ends:?}");
    totals
}

async fn holds_at_the_cut(rig: &Rig) -> Statement {
    let statement = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap();
    assert!(statement.totals.holds(), "{statement:?}");
    let totals = LedgerTotals { reasons: BTreeMap::new(), ..statement.totals.clone() };
    assert_eq!(totals, recount(rig, &statement.cut).await);
    statement
}

/// Ordinary sessions, then everything that can be wrong with an event.
fn events(crew: &Crew) -> Vec<RawEvent> {
    let mut events = raw_sessions(crew, &habits(5));
    events.sort_by_key(|event| event.header.received_at);
    let client: Vec<RawEvent> =
        events.iter().filter(|event| event.header.kind == EventKind::DocumentEdited).cloned().collect();
    let moved = |event: &RawEvent, session: u8, sequence: i64| {
        let mut event = event.clone();
        event.header.session_id = kit::session(session);
        event.header.sequence = sequence;
        event.header.event_id = EventId::of_client_event(event.header.session_id, sequence.unsigned_abs());
        event
    };
    let mut odd = Vec::new();
    // Retries, of events and of exposures; other content and another person under a used id.
    odd.extend(events.iter().step_by(7).cloned());
    for event in client.iter().step_by(5) {
        let mut other = event.clone();
        other.header.content_digest = "f".repeat(32);
        odd.push(other);
    }
    let mut foreign = client[0].clone();
    foreign.header.person = crew.world.secret.person_pseudonym("a stranger");
    odd.push(foreign);
    // A session of stubs between events, one of them repeated as a whole event; a seal that does not open; a number
    // that is none; a gap that nobody fills.
    for sequence in 1..=4 {
        let mut stub = moved(&client[1], 80, sequence);
        (stub.header.kind, stub.sealed) = (EventKind::Unknown, None);
        stub.filtered_at_door = Some("consent_none".to_owned());
        odd.push(stub);
    }
    let mut whole = moved(&client[1], 80, 2);
    whole.sealed = None;
    odd.push(whole);
    odd.push(moved(&client[2], 81, 1));
    odd.push(moved(&client[2], 81, 0));
    odd.push(moved(&client[2], 81, 5));
    let step = events.len() / odd.len().max(1) + 1;
    for (index, event) in odd.into_iter().enumerate() {
        events.insert(((index + 1) * (step + 1)).min(events.len()), event);
    }
    events
}

#[test]
fn the_equation_holds_at_every_cut_and_pairs_are_those_of_a_faultless_replay() {
    let crew = crew();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rig = Rig::over(crew.world.clone(), AnonymizerConfig::default()).await;
        let events = events(&crew);
        let rounds = 7;
        for (round, chunk) in events.chunks(events.len().div_ceil(rounds)).enumerate() {
            rig.reopen();
            let running = rig.start();
            // Somebody else holds the database for a while.
            let lock =
                if round % 2 == 1 { Some(migrations::begin_write(&rig.world.pool).await.unwrap()) } else { None };
            for part in chunk.chunks(5) {
                rig.publish(part).await;
                rig.clock.advance(Duration::from_millis(700));
                if lock.is_none() {
                    holds_at_the_cut(&rig).await;
                }
            }
            if round == 2 {
                let mut cut_off = avro::encode(&chunk[0]).unwrap();
                cut_off.push(0);
                rig.publish_bytes(vec![(&chunk[0], cut_off)]).await;
            }
            rig.clock.advance(Duration::from_secs(15));
            if let Some(lock) = lock {
                lock.rollback().await.unwrap();
            }
            if round % 3 == 0 {
                rig.settle(Duration::ZERO).await;
            }
            running.kill().await;
            holds_at_the_cut(&rig).await;
        }
        rig.reopen();
        let running = rig.start();
        rig.settle(Duration::from_secs(3 * 3600)).await;
        rig.sunk().await;
        running.stop().await;
        let Statement { totals, .. } = holds_at_the_cut(&rig).await;
        assert_eq!(totals.pending, 0, "{totals:?}");
        assert!(totals.duplicates > 10 && totals.filtered_at_door == 4, "{totals:?}");
        assert_eq!(totals.reasons["quarantined"].keys().collect::<Vec<_>>(), ["bad_sequence", "seal_broken"]);
        assert_eq!(totals.entered(), i64::try_from(ids(&events).len()).unwrap());

        // No pair twice, none missing.
        let pairs: Vec<PreferencePair> = rig.decoded(PREFERENCE_PAIRS).await;
        let mut wheel = Wheel::new(&crew.world, 2);
        for record in rig.records(TELEMETRY_RAW).await {
            let at = record.appended_at;
            wheel.publish(bus::Record { key: record.key, value: record.value });
            wheel.read(at).await;
        }
        for hours in 1..60 {
            wheel.read(rig.clock.now() + Duration::from_secs(hours * 600)).await;
        }
        let content = |pairs: &[PreferencePair]| -> Vec<_> {
            let mut pairs: Vec<_> = pairs.iter().map(|pair| (pair.pair_id, pair.content_digest)).collect();
            pairs.sort();
            pairs
        };
        assert!(pairs.len() >= 5);
        assert_eq!(content(&pairs), content(&wheel.pairs()));
        let lake = labeler::lake::LakeReader::new(rig.world.pool.clone(), std::sync::Arc::clone(&rig.artifacts));
        let mut read = Vec::new();
        for part in lake.parts(&TenantId::default()).await.unwrap() {
            read.extend(lake.read(&part).await.unwrap());
        }
        assert_eq!(content(&read), content(&pairs));
    });
}

fn ids(events: &[RawEvent]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.header.event_id).collect()
}

/// What somebody types in one session.
async fn two_edits(rig: &Rig) -> [RawEvent; 2] {
    let person = rig.world.person("someone").await;
    let mut editor = Editor::new(&person, 1);
    for name in ["user", "other"] {
        editor.wait(1_000).replace(name, 0, "owner", Origin::Typed);
    }
    [0, 1].map(|index| person.raw(&editor.events[index], |text| text))
}

/// A client that sends again after days what it has no answer for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_after_days_is_a_duplicate_and_no_second_end() {
    let rig = Rig::new(AnonymizerConfig::default()).await;
    let events = two_edits(&rig).await;
    let running = rig.start();
    rig.publish(&events[..1]).await;
    rig.settle(Duration::from_secs(60)).await;
    rig.settle(Duration::from_secs(62 * 3600)).await;
    // The first was received then, the second never.
    rig.publish(&events).await;
    rig.settle(Duration::from_secs(60)).await;
    rig.sunk().await;
    running.stop().await;
    let Statement { totals, .. } = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap();
    assert!(totals.holds(), "{totals:?}");
    assert_eq!((totals.admitted, totals.clean, totals.filtered, totals.duplicates), (2, 1, 1, 1));
    assert_eq!(totals.reasons["filtered"]["session_forgotten"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redriven_dead_letter_ends_as_what_it_became() {
    let rig = Rig::new(AnonymizerConfig::default()).await;
    let [event, _] = two_edits(&rig).await;
    rig.publish(std::slice::from_ref(&event)).await;
    // As if a step had given it up once.
    let letter = dead_letter(&event.header, TELEMETRY_RAW);
    let record = bus::Record { key: letter.key, value: letter.encode().unwrap() };
    assert!(rig.log.publish(DEAD_LETTERS, vec![record.clone(), record]).await.iter().all(Result::is_ok));
    let stop = tokio_util::sync::CancellationToken::new();
    let sink = Box::new(ledger::Ledger::new(labeler::config::SinkConfig::default()));
    let sinking = labeler::sink::run_sink(std::sync::Arc::clone(&rig.log), rig.world.pool.clone(), sink, stop.clone());
    let sinking = tokio::spawn(sinking);
    rig.ledger_sunk().await;
    let found = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap().totals;
    assert_eq!((found.dead_lettered, found.clean, found.anomalies), (1, 0, 0));
    stop.cancel();
    sinking.await.unwrap().unwrap();

    // `flywheel dead-letters redrive` publishes it again.
    rig.publish(std::slice::from_ref(&event)).await;
    let running = rig.start();
    rig.settle(Duration::from_secs(60)).await;
    rig.sunk().await;
    running.stop().await;
    let found = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap().totals;
    assert_eq!((found.admitted, found.dead_lettered, found.clean, found.duplicates), (1, 0, 1, 1));
    assert!(found.holds());
}

/// The labeler on a day on which it refuses every record.
struct Refusing(std::sync::Arc<dyn StepHandler>);

#[async_trait::async_trait]
impl StepHandler for Refusing {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        records.iter().map(|_| Prepared::Poison("refused".to_owned())).collect()
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        self.0.handle(input, context)
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<events::Timestamp> {
        self.0.partition_time_of(record, prepared)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.0.dead_letter(failed)
    }

    async fn make_available(&self, dependencies: &[String]) {
        self.0.make_available(dependencies).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redriven_letter_of_the_labeler_is_a_repeat_and_no_second_end() {
    let rig = Rig::new(AnonymizerConfig::default()).await;
    let events = two_edits(&rig).await;
    rig.publish(&events).await;
    let running = rig.start();
    rig.settle(Duration::from_secs(60)).await;
    rig.sunk().await;

    // The letters as the labeler writes them.
    let handler = std::sync::Arc::new(Refusing(rig.world.handler(telling(LabelPolicy::default()))));
    let mut step = ReferenceStep::new(labeler::step::spec(), handler, 2);
    for record in rig.records(TELEMETRY_CLEAN).await {
        step.publish(bus::Record { key: record.key, value: record.value });
    }
    assert!(step.run().is_empty());
    let letters = step.dead_letters().to_vec();
    assert_eq!(letters.len(), 2);
    let values = letters.iter().map(|letter| bus::Record { key: letter.key, value: letter.encode().unwrap() });
    assert!(rig.log.publish(DEAD_LETTERS, values.collect()).await.iter().all(Result::is_ok));
    // `flywheel dead-letters redrive all` publishes them again: the first in a batch of its own, the second twice at
    // once.
    let mut redriven: Vec<bus::Record> = letters.iter().filter_map(DeadLetter::redrive).collect();
    assert_eq!(redriven.len(), 2);
    redriven.push(redriven[1].clone());
    let (first, rest) = redriven.split_at(1);
    for records in [first, rest] {
        assert!(rig.log.publish(TELEMETRY_CLEAN, records.to_vec()).await.iter().all(Result::is_ok));
        rig.settle(Duration::from_secs(60)).await;
        rig.sunk().await;
    }
    running.stop().await;
    let Statement { totals, .. } = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap();
    assert_eq!((totals.admitted, totals.clean, totals.dead_lettered), (2, 2, 0));
    assert_eq!((totals.repeats, totals.duplicates, totals.anomalies), (3, 0, 0));
    assert!(totals.holds(), "{totals:?}");
}
