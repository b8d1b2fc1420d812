//! The same pairs, byte for byte, over all orders of sessions, batchings and restarts within lateness.

use std::sync::Arc;
use std::time::Duration;

use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, CommittedRecord, Input, Outcome, Positions, Prepared, Retention, StepContext, StepHandler, TopicSpec};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN};
use events::{CleanEvent, Decision, EventKind, Origin, Timestamp};
use labeler::LabelPolicy;
use labeler::config::SessionLimits;
use labeler::keys::LoadedKeys;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use service::clock::SimulatedClock;
use tokio_util::sync::CancellationToken;

use crate::kit::{Editor, Person, START, World, accepted_and_kept, record_of, sorted_values, telling};

/// What a developer does about one answer.
#[derive(Debug, Clone)]
pub(crate) struct Habit {
    pub(crate) decision: u8,
    pub(crate) reaction: u8,
    pub(crate) typed: String,
    pub(crate) wait_ms: i64,
    pub(crate) looks: usize,
    pub(crate) ends: bool,
}

pub(crate) fn habit() -> impl Strategy<Value = Habit> {
    (0..4_u8, 0..9_u8, "[a-c]{1,6}", 100..15_000_i64, 0..4_usize, prop::bool::weighted(0.2)).prop_map(
        |(decision, reaction, typed, wait_ms, looks, ends)| Habit { decision, reaction, typed, wait_ms, looks, ends },
    )
}

/// A bit of everything: four turns in each of some sessions.
pub(crate) fn habits(sessions: u8) -> Vec<Vec<Habit>> {
    let turn = |session: u8, turn: u8| Habit {
        decision: (session + turn) % 4,
        reaction: (session * 4 + turn * 3) % 9,
        typed: "abc".to_owned(),
        wait_ms: 700 + i64::from(turn) * 900,
        looks: 3,
        ends: turn == 3,
    };
    (0..sessions).map(|session| (0..4).map(|number| turn(session, number)).collect()).collect()
}

pub(crate) fn work(person: &Person, seed: u8, start_ms: i64, habits: &[Habit]) -> Vec<CleanEvent> {
    let mut editor = Editor::new(person, seed);
    editor.now_ms += start_ms;
    for habit in habits {
        let Some(name) = ["get_name", "user", "send", "other"].into_iter().find(|name| editor.document.contains(name))
        else {
            break;
        };
        let (decision, actions) = match habit.decision {
            0 => (Decision::Silent, vec![]),
            1 => (Decision::Withheld, vec![editor.action(name, 0, "owner")]),
            _ => (Decision::Shown, vec![editor.action(name, 0, "fetch_name")]),
        };
        let served = editor.ask(decision, actions);
        let opened = editor.now_ms;
        editor.wait(200);
        if decision == Decision::Shown {
            editor.shown(&served, 1).wait(habit.wait_ms);
            match habit.reaction {
                0 | 1 => {
                    editor.accepted(&served, 0, None);
                }
                2 => {
                    editor.accepted(&served, 0, Some("fetch".len()));
                }
                3 | 4 => {
                    editor.dismissed(&served, 0);
                }
                5 => {
                    editor.hidden(&served, habit.wait_ms);
                }
                _ => {}
            }
        }
        editor.wait(habit.wait_ms / 2);
        let target = ["fetch_name", name].into_iter().find(|target| editor.document.contains(target));
        match (habit.reaction % 4, target) {
            (0, Some(target)) => {
                editor.types(target, 0, &habit.typed);
            }
            (1, Some(target)) => {
                editor.replace(target, 0, &habit.typed, Origin::Paste);
            }
            (2, Some(target)) => {
                editor.replace(target, 0, "get_name", Origin::Undo);
            }
            _ => {}
        }
        for delay in [30, 120, 300].into_iter().take(habit.looks) {
            editor.now_ms = editor.now_ms.max(opened + i64::from(delay) * 1000);
            editor.look(&served, delay);
        }
        editor.wait(habit.wait_ms);
        if habit.ends {
            editor.end();
            break;
        }
    }
    editor.events
}

/// A schedule within lateness: every event is delayed on its way, client events of a session stay in their order, and
/// an exposure stays before the first signal about it.
fn delayed(sessions: &[Vec<CleanEvent>], delays: &[u64]) -> Vec<CleanEvent> {
    let mut scheduled: Vec<(Timestamp, usize, CleanEvent)> = Vec::new();
    for (session, events) in sessions.iter().enumerate() {
        let mut latest = Timestamp::EPOCH;
        let mut ready: Vec<(Timestamp, CleanEvent)> = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let delay = Duration::from_millis(delays[(index * 7 + session * 3) % delays.len()]);
            let mut at = event.header.received_at + delay;
            if event.header.kind != EventKind::Exposure {
                latest = latest.max(at);
                at = latest;
                if let Some(opportunity) = event.header.opportunity_id {
                    for (time, exposure) in &mut ready {
                        let held_back = exposure.header.kind == EventKind::Exposure
                            && exposure.header.opportunity_id == Some(opportunity);
                        if held_back {
                            *time = (*time).min(at);
                        }
                    }
                }
            }
            ready.push((at, event.clone()));
        }
        ready.sort_by_key(|(at, event)| (*at, event.header.kind != EventKind::Exposure, event.header.sequence));
        scheduled.extend(ready.into_iter().map(|(at, event)| (at, session, event)));
    }
    scheduled.sort_by_key(|(at, session, _)| (*at, *session));
    scheduled.into_iter().map(|(_, _, event)| event).collect()
}

pub(crate) struct Crew {
    pub(crate) world: World,
    pub(crate) persons: Vec<Person>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

pub(crate) fn crew() -> Crew {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, persons) = runtime.block_on(async {
        let world = World::new().await;
        let mut persons = Vec::new();
        for name in ["ada", "bob", "cleo"] {
            persons.push(world.person(name).await);
        }
        (world, persons)
    });
    Crew { world, persons, runtime }
}

type Emitted = std::collections::BTreeMap<String, Vec<Vec<u8>>>;

/// The labeler, begun anew for every input: it remembers nothing but its state.
struct Forgetful(Arc<LoadedKeys>);

impl Forgetful {
    fn anew(&self) -> Arc<dyn StepHandler> {
        labeler::step::handler(Arc::clone(&self.0), telling(LabelPolicy::default()), SessionLimits::default())
    }
}

#[async_trait::async_trait]
impl StepHandler for Forgetful {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        self.anew().prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        self.anew().handle(input, context)
    }

    fn partition_time_of(&self, record: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        self.anew().partition_time_of(record, &Prepared::Nothing)
    }

    async fn make_available(&self, dependencies: &[String]) {
        let handler = self.anew();
        handler.make_available(dependencies).await;
    }
}

impl Crew {
    fn label(&self, events: &[CleanEvent], partitions: u32, run_after: usize) -> Emitted {
        let handler = self.world.handler(telling(LabelPolicy::default()));
        self.label_with(handler, events, partitions, run_after)
    }

    /// What comes of the events in their order by a labeler that remembers nothing.
    fn label_slowly(&self, events: &[CleanEvent]) -> Emitted {
        let keys = Arc::new(LoadedKeys::new(self.world.keys.clone()));
        self.label_with(Arc::new(Forgetful(keys)), events, 1, usize::MAX)
    }

    fn label_with(
        &self,
        handler: Arc<dyn StepHandler>,
        events: &[CleanEvent],
        partitions: u32,
        run_after: usize,
    ) -> Emitted {
        self.runtime.block_on(async {
            let mut labeling = World::step_of(partitions, handler);
            for (index, event) in events.iter().enumerate() {
                labeling.publish(event, &self.world.secret);
                if index % run_after == 0 {
                    labeling.run().await;
                }
            }
            labeling.finish().await;
            sorted_values(&labeling.step)
        })
    }
}

pub(crate) fn sessions(crew: &Crew, habits: &[Vec<Habit>]) -> Vec<Vec<CleanEvent>> {
    habits
        .iter()
        .enumerate()
        .map(|(index, habits)| {
            let seed = u8::try_from(index + 1).unwrap();
            work(&crew.persons[index % crew.persons.len()], seed, i64::from(seed) * 4_000, habits)
        })
        .collect()
}

#[test]
fn the_same_pairs_over_all_orders_and_batchings() {
    let crew = crew();
    let strategy = (
        prop::collection::vec(prop::collection::vec(habit(), 1..5), 1..5),
        prop::collection::vec(0..800_000_u64, 1..16),
        1..5_u32,
        1..40_usize,
    );
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |(habits, delays, partitions, run_after)| {
        let sessions = sessions(&crew, &habits);
        let in_order = delayed(&sessions, &[0]);
        let expected = crew.label_slowly(&in_order);
        let closed = expected.get(SERVING_OUTCOMES).map_or(0, Vec::len);
        let asked = in_order.iter().filter(|event| event.header.kind == EventKind::Exposure).count();
        prop_assert_eq!(closed, asked, "one outcome for each opportunity");
        let other = crew.label(&delayed(&sessions, &delays), partitions, run_after);
        prop_assert_eq!(other, expected);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn what_was_read_before_an_erasure_counts_no_more() {
    let Crew { world, persons, runtime } = crew();
    let person = &persons[0];
    let events = accepted_and_kept(person, 1);
    let (last_look, before) = events.split_last().unwrap();
    // What is kept of the opportunity is read at the looks, and again at the last one.
    let ended = |is_erased: bool| {
        runtime.block_on(async {
            let mut labeling = world.step(1);
            for event in before {
                labeling.publish(event, &world.secret);
            }
            labeling.run().await;
            if is_erased {
                world.keys.cache().mark_erased(person.key.id());
            }
            labeling.publish(last_look, &world.secret);
            labeling.finish().await;
            let outcomes = labeling.outcomes();
            assert_eq!(outcomes.len(), 1);
            (outcomes[0].kept_characters > 0, labeling.pairs().len())
        })
    };
    assert_eq!(ended(false), (true, 1));
    assert_eq!(ended(true), (false, 0));
}

/// The local log with small batches, stopped and started again and again, against the reference model.
#[test]
fn the_same_pairs_over_restarts_on_the_local_log() {
    let crew = crew();
    let sessions = sessions(&crew, &habits(4));
    let events = delayed(&sessions, &[0, 400, 90_000]);
    let expected = crew.label_slowly(&events);
    assert!(expected[PREFERENCE_PAIRS].len() >= 4, "{}", expected[PREFERENCE_PAIRS].len());
    let emitted = crew.runtime.block_on(async {
        let clock = SimulatedClock::new(START);
        let path = crew.world.directory.path().join("log.sqlite");
        let topics = [TELEMETRY_CLEAN, PREFERENCE_PAIRS, SERVING_OUTCOMES, DEAD_LETTERS]
            .map(|topic| TopicSpec::new(topic, 2, Retention::default()));
        let mut chunks = events.chunks(events.len().div_ceil(5));
        for _ in 0..6 {
            let log: Arc<dyn Bus> = Arc::new(LocalLog::open(&path, clock.shared(), LocalLogConfig::default()).unwrap());
            log.create_topics(&topics).await.unwrap();
            if service::clock::Clock::now(&clock) == START {
                let audience = "repository:a".parse().unwrap();
                let tenant = events::TenantId::default();
                labeler::audience::publish_rule(&*log, &tenant, crate::kit::REPOSITORY, Some(&audience)).await.unwrap();
            }
            let chunk = chunks.next().unwrap_or_default();
            let records = chunk.iter().map(|event| record_of(event, &crew.world.secret)).collect();
            assert!(log.publish(TELEMETRY_CLEAN, records).await.iter().all(Result::is_ok));
            let mut spec = labeler::step::spec();
            spec.limits.batch_records = 7;
            let stop = CancellationToken::new();
            let step = tokio::spawn({
                let (log, handler, stop) =
                    (Arc::clone(&log), crew.world.handler(telling(LabelPolicy::default())), stop.clone());
                async move { log.step(spec, handler, stop).await }
            });
            let is_last = chunk.is_empty();
            clock.advance(if is_last { Duration::from_secs(40 * 3600) } else { Duration::from_millis(1) });
            // The last round ends when the timers have fired; the others are cut off in the middle of their work.
            let bound = tokio::time::Instant::now() + Duration::from_secs(60);
            loop {
                let lag = log.step_lag(labeler::step::STEP).await;
                let done = lag.as_ref().is_ok_and(|lag| {
                    if is_last {
                        lag.records_behind() == 0 && lag.pending_timers() == 0
                    } else {
                        lag.records_behind() < 12
                    }
                });
                if done {
                    break;
                }
                assert!(tokio::time::Instant::now() < bound, "{lag:?}");
                if is_last {
                    // A partition is idle once the clock went on after it was read to its end.
                    clock.advance(Duration::from_secs(10));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.cancel();
            step.await.unwrap().unwrap();
        }
        let log = LocalLog::open(&path, clock.shared(), LocalLogConfig::default()).unwrap();
        let mut emitted = Emitted::new();
        for topic in [PREFERENCE_PAIRS, SERVING_OUTCOMES] {
            let mut tail = log.tail(topic, "test", Positions::oldest()).await.unwrap();
            let mut values = Vec::new();
            loop {
                let records = tail.next(1000, Duration::from_millis(50)).await.unwrap();
                if records.is_empty() {
                    break;
                }
                values.extend(records.into_iter().map(|record| record.value.to_vec()));
            }
            values.sort();
            emitted.insert(topic.to_owned(), values);
        }
        emitted
    });
    assert_eq!(emitted, expected);
}
