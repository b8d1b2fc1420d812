//! What every implementation of the bus must do. Each function is one test, given a fresh bus.

mod reading;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::testing::ReferenceStep;
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{
    Bus, BusError, CommittedRecord, DeadLetter, Input, Outcome, Positions, Prepared, PublishError, Record, RecordKey,
    Retention, StepContext, StepHandler, StepLag, StepSpec, TopicSpec, partition_for,
};
use bytes::Bytes;
use events::Timestamp;
use service::clock::{Clock, SimulatedClock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::reading::{
    a_tail_goes_on_where_its_owner_says, a_waiting_tail_is_woken, history_shows_control_records_between_two_positions,
    publishes_and_tails_in_order, refuses_what_cannot_be,
};

/// How long a condition may take to come true.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// An implementation under test.
pub(crate) trait Harness: Send + Sync {
    /// The bus, as one process sees it.
    fn bus(&self) -> Arc<dyn Bus>;
    /// The same bus, as another process sees it.
    fn another(&self) -> Arc<dyn Bus>;
    /// The clock of both.
    fn clock(&self) -> SimulatedClock;
    /// Largest record of a topic that is none of the door's.
    fn record_bytes(&self) -> usize;
}

pub(crate) fn start() -> Timestamp {
    Timestamp::from_seconds(1_000_000)
}

/// Polls until `check` answers, and panics with what was seen last.
pub(crate) async fn eventually<T, S: std::fmt::Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        match check().await {
            Ok(result) => return result,
            Err(seen) if started.elapsed() > BOUND => panic!("{what}: not within {BOUND:?}; last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub(crate) async fn topics(bus: &dyn Bus, partitions: u32) {
    let topics = ["in", "out", "dead"].map(|name| TopicSpec::new(name, partitions, Retention::default()));
    bus.create_topics(&topics).await.unwrap();
}

pub(crate) fn key(number: u8) -> RecordKey {
    RecordKey([number; 16])
}

/// A key of that partition among `partitions`.
pub(crate) fn key_in(partition: u32, partitions: u32) -> RecordKey {
    (0..=u8::MAX).map(key).find(|key| partition_for(key, partitions) == partition).unwrap()
}

pub(crate) async fn publish(bus: &dyn Bus, records: Vec<Record>) {
    for result in bus.publish("in", records).await {
        result.unwrap();
    }
}

pub(crate) async fn read_all(bus: &dyn Bus, topic: &str) -> Vec<CommittedRecord> {
    let mut tail = bus.tail(topic, "read-all", Positions::oldest()).await.unwrap();
    let end = bus.end_positions(topic).await.unwrap();
    let mut records = Vec::new();
    while !tail.positions().reached(&end) {
        records.extend(tail.next(1000, BOUND).await.unwrap());
    }
    bus.forget_reader(topic, "read-all").await.unwrap();
    records
}

pub(crate) async fn texts(bus: &dyn Bus) -> Vec<String> {
    let records = read_all(bus, "out").await;
    records.iter().map(|record| String::from_utf8(record.value.to_vec()).unwrap()).collect()
}

pub(crate) async fn dead_letters(bus: &dyn Bus) -> Vec<DeadLetter> {
    read_all(bus, "dead").await.iter().map(|record| DeadLetter::decode(&record.value).unwrap()).collect()
}

pub(crate) fn spec() -> StepSpec {
    StepSpec::new("step", "in", ["out"], "dead")
}

/// A step that runs until it is stopped.
pub(crate) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

impl Running {
    pub(crate) fn start(bus: &Arc<dyn Bus>, handler: &Arc<Scripted>) -> Self {
        Self::start_spec(bus, spec(), Arc::clone(handler) as Arc<dyn StepHandler>)
    }

    pub(crate) fn start_spec(bus: &Arc<dyn Bus>, spec: StepSpec, handler: Arc<dyn StepHandler>) -> Self {
        let (bus, shutdown) = (Arc::clone(bus), CancellationToken::new());
        let token = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { bus.step(spec, handler, token).await }) }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it in the middle, as a panic of its task would.
    pub(crate) async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Waits until the step has handled everything that is in the log now.
pub(crate) async fn caught_up(bus: &dyn Bus) -> StepLag {
    eventually("the step catches up", || async {
        match bus.step_lag("step").await {
            Ok(lag) if lag.records_behind() == 0 && lag.paused().next().is_none() => Ok(lag),
            other => Err(other),
        }
    })
    .await
}

/// Waits until nothing more will happen at the clock's time.
pub(crate) async fn settled(bus: &dyn Bus, clock: &SimulatedClock) {
    let time = clock.now() - bus::IDLE_AFTER;
    eventually("the step settles", || async {
        match bus.step_lag("step").await {
            Ok(lag) if lag.settled_at(time) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Emits every record twice in one.
struct Doubling;

impl StepHandler for Doubling {
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        if let Input::Record { record, .. } = input {
            let value = Bytes::from([&record.value[..], &record.value[..]].concat());
            context.emit("out", Record { key: record.key, value });
        }
        Outcome::Ok
    }

    fn partition_time_of(&self, _: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        None
    }
}

pub(crate) async fn a_step_may_make_more_of_a_record_than_the_door_takes(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 1).await;
    let door = events::topics::TELEMETRY_RAW;
    bus.create_topics(&[TopicSpec::new(door, 1, Retention::default())]).await.unwrap();
    let limit = harness.record_bytes() / 2;
    let record = |bytes: usize| Record { key: key(1), value: Bytes::from(vec![7; bytes]) };
    let results = bus.publish(door, vec![record(limit), record(limit + 1)]).await;
    assert!(results[0].is_ok());
    assert_eq!(results[1], Err(PublishError::RecordTooLarge { bytes: limit + 1, limit }));
    let step = StepSpec::new("step", door, ["out"], "dead");
    let running = Running::start_spec(&bus, step, Arc::new(Doubling));
    caught_up(&*bus).await;
    running.stop().await;
    let sizes: Vec<usize> = read_all(&*bus, "out").await.iter().map(|record| record.value.len()).collect();
    assert_eq!(sizes, [2 * limit]);
    assert_eq!(dead_letters(&*bus).await, []);
}

pub(crate) async fn a_step_keeps_to_its_input(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    let handler = Scripted::new("out");
    let step = |input: &str| StepSpec::new("step", input, ["out"], "dead");
    let running = Running::start_spec(&bus, step("in"), handler.clone());
    caught_up(&*bus).await;
    running.stop().await;
    let refused = bus.step(step("out"), handler, CancellationToken::new()).await;
    let (step, expected, actual) = ("step".into(), "out".into(), "in".into());
    assert_eq!(refused, Err(BusError::InputDiffers { step, expected, actual }));
}

pub(crate) async fn a_step_handles_each_record_once_over_restarts(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    let handler = Scripted::new("out");
    for round in 0..6 {
        let records = (0..60_u8).map(|number| scripted(key(number % 5), &[Action::Add(1)])).collect();
        publish(&*bus, records).await;
        let running = Running::start(&bus, &handler);
        if round % 2 == 0 {
            caught_up(&*bus).await;
            running.stop().await;
        } else {
            // Somewhere in the middle.
            eventually("the step begins", || async {
                match bus.step_lag("step").await {
                    Ok(lag) if lag.records_behind() < 60 => Ok(()),
                    other => Err(other),
                }
            })
            .await;
            running.abort().await;
        }
    }
    let running = Running::start(&bus, &handler);
    caught_up(&*bus).await;
    running.stop().await;
    let found: Vec<String> = texts(&*bus).await;
    let mut expected = Vec::new();
    for sum in 1..=72 {
        expected.extend(std::iter::repeat_n(format!("sum {sum} at 1970-01-01T00:00:00.000000Z"), 5));
    }
    let sorted = |texts: Vec<String>| {
        texts.into_iter().fold(BTreeMap::<String, u32>::new(), |mut counts, text| {
            *counts.entry(text).or_default() += 1;
            counts
        })
    };
    assert_eq!(sorted(found), sorted(expected));
}

pub(crate) async fn two_runs_share_the_partitions(harness: impl Harness) {
    let (bus, another) = (harness.bus(), harness.another());
    topics(&*bus, 4).await;
    let handler = Scripted::new("out");
    let first = Running::start(&bus, &handler);
    let second = Running::start(&another, &handler);
    for _ in 0..20 {
        publish(&*bus, (0..40).map(|number| scripted(key(number), &[Action::Add(1)])).collect()).await;
    }
    caught_up(&*bus).await;
    first.stop().await;
    publish(&*bus, (0..40).map(|number| scripted(key(number), &[Action::Add(1)])).collect()).await;
    caught_up(&*another).await;
    second.stop().await;
    let found = texts(&*bus).await;
    assert_eq!(found.len(), 21 * 40);
    for sum in 1..=21 {
        let text = format!("sum {sum} at 1970-01-01T00:00:00.000000Z");
        assert_eq!(found.iter().filter(|found| **found == text).count(), 40, "{text}");
    }
}

pub(crate) async fn timers_fire_when_the_clock_goes_on(harness: impl Harness) {
    let (bus, clock) = (harness.bus(), harness.clock());
    topics(&*bus, 2).await;
    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    // Every partition has an owner that has seen it idle.
    eventually("all partitions have a time", || async {
        clock.advance(Duration::from_secs(1));
        match bus.step_lag("step").await {
            Ok(lag) if lag.partitions.iter().all(|partition| partition.partition_time.is_some()) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let begin = clock.now();
    let at = Action::At(begin.as_micros() / 1_000_000);
    let timers = |name: &str, seconds| Action::Timer(name.into(), seconds);
    publish(
        &*bus,
        vec![scripted(key(1), &[at, Action::Add(2), timers("close", 300), timers("settle", 10), timers("never", 10)])],
    )
    .await;
    publish(&*bus, vec![scripted(key(1), &[Action::Cancel("never".into())])]).await;
    caught_up(&*bus).await;
    assert_eq!(bus.step_lag("step").await.unwrap().pending_timers(), 2);
    // The partition is idle only when it was read to its end for two seconds of the clock.
    clock.advance(Duration::from_secs(1));
    assert_eq!(texts(&*bus).await.len(), 1);
    clock.advance(Duration::from_secs(11));
    settled(&*bus, &clock).await;
    let settle = texts(&*bus).await[1].clone();
    let due = begin + Duration::from_secs(10);
    assert_eq!(settle, format!("timer settle due {due} at {due} sum 2"));
    running.stop().await;
    clock.advance(Duration::from_secs(600));
    let running = Running::start(&harness.another(), &handler);
    // Timers survive; a new owner must see the partition idle for two seconds first.
    caught_up(&*bus).await;
    let fired = eventually("the timer fires", || async {
        clock.advance(Duration::from_secs(1));
        let found = texts(&*bus).await;
        if found.len() == 3 { Ok(found) } else { Err(found) }
    })
    .await;
    assert!(fired[2].starts_with(&format!("timer close due {}", begin + Duration::from_secs(300))), "{fired:?}");
    assert_eq!(bus.step_lag("step").await.unwrap().pending_timers(), 0);
    running.stop().await;
}

pub(crate) async fn poison_never_blocks(harness: impl Harness) {
    let (bus, clock) = (harness.bus(), harness.clock());
    topics(&*bus, 1).await;
    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    let bad: Vec<Vec<Action>> = vec![
        vec![Action::Add(100), Action::Timer("t".into(), 1), Action::Poison],
        vec![Action::Add(100), Action::Panic],
        vec![Action::Add(100), Action::EmitElsewhere],
        vec![Action::Put("large".into(), 5 << 20)],
        vec![Action::PreparePoison],
        vec![Action::PreparePanic],
    ];
    for actions in &bad {
        publish(&*bus, vec![scripted(key(1), actions), scripted(key(1), &[Action::Add(1)])]).await;
    }
    caught_up(&*bus).await;
    let sums: Vec<String> = (1..=6).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z")).collect();
    assert_eq!(texts(&*bus).await, sums);
    let letters = dead_letters(&*bus).await;
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons, ["scripted", "panic", "undeclared_output", "limit_exceeded", "scripted_prepare", "panic"]);
    let published = read_all(&*bus, "in").await;
    for (letter, actions) in letters.iter().zip(&bad) {
        assert_eq!((letter.step.as_str(), letter.topic.as_str(), letter.partition), ("step", "in", 0));
        assert_eq!(letter.redrive(), Some(scripted(key(1), actions)));
        assert!(
            published
                .iter()
                .any(|record| record.position == letter.position && record.value == letter.payload.clone().unwrap())
        );
    }

    // A poisoned timer ends its key and no other.
    publish(&*bus, vec![scripted(key(1), &[Action::Timer("bad".into(), 0), Action::Put("held".into(), 3)])]).await;
    caught_up(&*bus).await;
    clock.advance(Duration::from_secs(30));
    settled(&*bus, &clock).await;
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)]), scripted(key(2), &[Action::Add(1)])]).await;
    caught_up(&*bus).await;
    let letters = dead_letters(&*bus).await[6..].to_vec();
    assert_eq!((letters[0].reason.as_str(), letters[0].key_poisoned), ("scripted_timer", true));
    assert_eq!(letters[0].timer_name.as_deref(), Some("bad"));
    let lost: Vec<&str> = letters[0].affected.iter().map(|affected| affected.event_id.as_str()).collect();
    assert_eq!(lost, ["held:3", "sum:1"]);
    assert_eq!((letters[1].reason.as_str(), letters[1].key), ("key_poisoned", key(1)));
    assert_eq!(letters.len(), 2);
    assert_eq!(bus.step_lag("step").await.unwrap().partitions[0].poisoned_keys, 1);

    // Released, it starts afresh.
    let subject = key(1).to_string();
    bus.publish_control("in", bus::control::RELEASE_KEY, &subject, Bytes::from_static(b"1")).await.unwrap();
    publish(&*bus, vec![scripted(key(1), &[Action::Names, Action::Add(5)])]).await;
    caught_up(&*bus).await;
    let found = texts(&*bus).await;
    assert_eq!(found[found.len() - 2], "names ");
    assert!(found[found.len() - 1].starts_with("sum 5 "));
    running.stop().await;
}

/// Whoever sees that everything is handled and lets the clock go on, by no more than it takes, sees the timers fire:
/// the partition counts as read to its end since what it did last, not since it looked again.
pub(crate) async fn a_partition_is_idle_since_what_it_did_last(harness: impl Harness) {
    let (bus, clock) = (harness.bus(), harness.clock());
    topics(&*bus, 1).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    for round in 1..=40 {
        let at = Action::At(clock.now().as_micros() / 1_000_000);
        publish(&*bus, vec![scripted(key(1), &[at, Action::Add(1), Action::Timer("settle".into(), 10)])]).await;
        caught_up(&*bus).await;
        clock.advance(Duration::from_secs(12));
        settled(&*bus, &clock).await;
        assert_eq!(texts(&*bus).await.len(), 2 * round);
    }
    running.stop().await;
}

/// A key may have more names than are read at once, and larger values.
pub(crate) async fn state_of_many_names_is_all_there(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 1).await;
    let name = |number: usize| format!("n{number:04}");
    let numbers: Vec<usize> = (0..1_100).collect();
    let put = |number: &usize| Action::Put(name(*number), if number.is_multiple_of(100) { 2_000 } else { 3 });
    let puts = numbers.chunks(100).map(|numbers| scripted(key(1), &numbers.iter().map(put).collect::<Vec<_>>()));
    let running = Running::start(&bus, &Scripted::new("out"));
    publish(&*bus, puts.collect()).await;
    caught_up(&*bus).await;
    running.stop().await;

    // A new owner finds them in the file, first with changes of its own over them.
    let running = Running::start(&bus, &Scripted::new("out"));
    let entries = Action::Entries("n010".into());
    let changes = [Action::Delete(name(101)), Action::Put(name(102), 5), Action::Put("n0100x".into(), 7)];
    let asks = [&changes[..], &[entries.clone(), Action::Names][..]].concat();
    publish(&*bus, vec![scripted(key(1), &asks)]).await;
    caught_up(&*bus).await;
    publish(&*bus, vec![scripted(key(1), &[entries])]).await;
    caught_up(&*bus).await;
    running.stop().await;
    let found = texts(&*bus).await;
    let expected = "entries n0100=2000,n0100x=7,n0102=5,n0103=3,n0104=3,n0105=3,n0106=3,n0107=3,n0108=3,n0109=3";
    assert_eq!((found[0].as_str(), found[2].as_str()), (expected, expected));
    assert_eq!(found[1].split(',').count(), 1_100);
    assert_eq!(dead_letters(&*bus).await, []);
}

/// Notes every record of `out` with the partition time at which it is handled.
struct Notes;

impl StepHandler for Notes {
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        if let Input::Record { record, .. } = input {
            let seconds = context.partition_time().as_micros() / 1_000_000;
            let text = format!("{} {}", seconds, String::from_utf8_lossy(&record.value));
            context.emit("notes", Record { key: record.key, value: Bytes::from(text) });
        }
        Outcome::Ok
    }

    fn partition_time_of(&self, _: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        None
    }
}

/// The platform was down for an hour, and what the first step still held about the time before comes out only now: to
/// the step that follows, no hour of silence has passed.
pub(crate) async fn a_step_that_follows_waits_for_what_is_held(harness: impl Harness) {
    let (bus, clock) = (harness.bus(), harness.clock());
    topics(&*bus, 1).await;
    bus.create_topics(&[TopicSpec::new("notes", 1, Retention::default())]).await.unwrap();
    let behind = || StepSpec::new("behind", "out", ["notes"], "dead").following("step");
    let begun = clock.now().as_micros() / 1_000_000;
    let held = Action::Timer("held".into(), 60);
    publish(&*bus, vec![scripted(key(1), &[Action::At(begun), Action::Add(1), held])]).await;
    let first = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    first.stop().await;

    clock.advance(Duration::from_secs(3600));
    // Of another process, and first.
    let another = harness.another();
    let second = Running::start_spec(&another, behind(), Arc::new(Notes));
    let time = || async {
        let lag = another.step_lag("behind").await.ok()?;
        (lag.records_behind() == 0).then(|| lag.partitions[0].partition_time)
    };
    eventually("the record is noted", || async { time().await.ok_or(()) }).await;
    clock.advance(Duration::from_secs(2));
    // By the clock an hour of silence has passed; the first time that silence makes time pass, it ends at what is held.
    let reached = eventually("silence makes time pass", || async { time().await.flatten().ok_or(()) }).await;
    assert!(reached <= Timestamp::from_seconds(begun + 60), "{reached:?}");
    let first = Running::start(&bus, &Scripted::new("out"));
    eventually("the held timer fires", || async {
        clock.advance(Duration::from_secs(2));
        match read_all(&*bus, "notes").await.len() {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let notes = read_all(&*bus, "notes").await;
    let notes: Vec<String> = notes.iter().map(|note| String::from_utf8_lossy(&note.value).into_owned()).collect();
    let (at, what) = notes[1].split_once(' ').unwrap();
    assert!(what.starts_with("timer held ") && at.parse::<i64>().unwrap() < begun + 60, "{notes:?}");
    // Nothing is held any more: the time of both goes on with the clock, however small its steps are.
    clock.advance(Duration::from_secs(3600));
    eventually("the time goes on", || async {
        clock.advance(Duration::from_secs(2));
        let reached = time().await.flatten();
        let now = clock.now();
        if reached.is_some_and(|reached| now.since(reached) <= Duration::from_secs(20)) { Ok(()) } else { Err(reached) }
    })
    .await;
    second.stop().await;
    // In one process not even what is not committed yet is waited for.
    let second = Running::start_spec(&bus, behind(), Arc::new(Notes));
    clock.advance(Duration::from_secs(5));
    eventually("both settle", || async {
        let until = clock.now() - bus::IDLE_AFTER;
        match (bus.step_lag("step").await, bus.step_lag("behind").await) {
            (Ok(one), Ok(other)) if one.settled_at(until) && other.settled_at(until) => Ok(()),
            (one, other) => {
                // A partition that was read to its end only after the clock went on is idle from now on.
                clock.advance(bus::IDLE_AFTER);
                Err(format!("{one:?} {other:?}"))
            }
        }
    })
    .await;
    second.stop().await;
    first.stop().await;
}

pub(crate) async fn undecodable_state_poisons_its_key_only(harness: impl Harness) {
    let (bus, clock) = (harness.bus(), harness.clock());
    topics(&*bus, 1).await;
    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    let timer = || Action::Timer("close".into(), 5);
    publish(
        &*bus,
        vec![
            scripted(key(1), &[Action::Add(1), timer()]),
            scripted(key(2), &[Action::Add(1), timer()]),
            scripted(key(1), &[Action::Add(1), Action::Undecodable]),
            scripted(key(1), &[Action::Add(1)]),
        ],
    )
    .await;
    caught_up(&*bus).await;
    clock.advance(Duration::from_secs(60));
    settled(&*bus, &clock).await;
    let letters = dead_letters(&*bus).await;
    let seen: Vec<(&str, RecordKey, bool)> =
        letters.iter().map(|letter| (letter.reason.as_str(), letter.key, letter.key_poisoned)).collect();
    assert_eq!(seen, [("undecodable_state", key(1), true), ("key_poisoned", key(1), false)]);
    // No conclusion is drawn from the poisoned key: its timer went with its state.
    let out = read_all(&*bus, "out").await;
    let fired: Vec<RecordKey> =
        out.iter().filter(|record| record.value.starts_with(b"timer")).map(|record| record.key).collect();
    assert_eq!(fired, [key(2)]);
    assert_eq!(bus.step_lag("step").await.unwrap().partitions[0].poisoned_keys, 1);

    // What cannot be read yet waits also when its key is poisoned: its dead letter could not account for it.
    publish(&*bus, vec![scripted(key(1), &[Action::PrepareNeeds("schema".into())])]).await;
    eventually("the partition waits for the schema", || async {
        let lag = bus.step_lag("step").await.unwrap();
        if lag.paused().eq([(0, "schema")]) { Ok(()) } else { Err(lag) }
    })
    .await;
    assert_eq!(dead_letters(&*bus).await.len(), 2);
    handler.provide("schema", true);
    caught_up(&*bus).await;
    assert_eq!(dead_letters(&*bus).await[2].reason, "key_poisoned");
    running.stop().await;
}

pub(crate) async fn a_missing_dependency_pauses_its_partition_only(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    let (waiting, free) = (key_in(0, 2), key_in(1, 2));
    // Of what a batch lacks, that of its first record is shown, which no alphabet puts first.
    let prepare_needs = ["zone", "key"].map(|name| Action::PrepareNeeds(name.into()));
    for needs in [Action::Need("store".into())].into_iter().chain(prepare_needs) {
        publish(&*bus, vec![scripted(waiting, &[Action::Add(1)]), scripted(waiting, &[Action::Add(1), needs])]).await;
    }
    for _ in 0..5 {
        publish(&*bus, vec![scripted(free, &[Action::Add(1)])]).await;
    }
    for (dependency, left) in [("store", 5), ("zone", 3), ("key", 1)] {
        let lag = eventually("partition 0 waits, partition 1 is done", || async {
            let lag = bus.step_lag("step").await;
            let waits = lag.as_ref().is_ok_and(|lag| {
                let [first, second] = &lag.partitions[..] else { return false };
                lag.paused().eq([(0, dependency)]) && first.records_behind == left && second.records_behind == 0
            });
            if waits { lag.map_err(Err) } else { Err(Ok(lag)) }
        })
        .await;
        assert_eq!(lag.partitions[1].paused, None);
        eventually("the handler is asked", || async {
            if handler.asked().iter().any(|asked| asked == dependency) { Ok(()) } else { Err(handler.asked()) }
        })
        .await;
        handler.provide(dependency, true);
    }
    caught_up(&*bus).await;
    running.stop().await;
    let out = read_all(&*bus, "out").await;
    assert_eq!((values_of(&out, waiting).len(), values_of(&out, free).len()), (6, 5));
}

pub(crate) fn values_of(records: &[CommittedRecord], key: RecordKey) -> Vec<Bytes> {
    records.iter().filter(|record| record.key == key).map(|record| record.value.clone()).collect()
}

pub(crate) async fn control_records_apply_where_they_stand(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    let asks = |number: u8| scripted(key(number), &[Action::Control("p".into())]);
    let both = [key_in(0, 2), key_in(1, 2)];
    let ask = || both.map(|key| asks(key.0[0])).to_vec();
    publish(&*bus, ask()).await;
    bus.publish_control("in", "policy", "p", Bytes::from_static(b"\x01")).await.unwrap();
    publish(&*bus, ask()).await;
    bus.publish_control("in", "policy", "p", Bytes::from_static(b"\x02")).await.unwrap();
    bus.publish_control("in", "policy", "q", Bytes::from_static(b"\x07")).await.unwrap();
    publish(&*bus, ask()).await;
    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    caught_up(&*bus).await;
    running.stop().await;
    bus.publish_control("in", "policy", "p", Bytes::new()).await.unwrap();
    publish(&*bus, ask()).await;
    let running = Running::start(&harness.another(), &handler);
    caught_up(&*bus).await;
    running.stop().await;
    for key in both {
        let said = values_of(&read_all(&*bus, "out").await, key);
        assert_eq!(said, ["control p ", "control p 01", "control p 02", "control p "]);
    }
    // Tails pass over them.
    assert_eq!(read_all(&*bus, "in").await.len(), 8);
}

pub(crate) async fn random_records_end_as_the_model_says(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 4).await;
    let handler = Scripted::providing("out");
    let mut model = ReferenceStep::new(spec(), Scripted::providing("out"), 4);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let second = start().as_micros() / 1_000_000;
    let mut running = None;
    for round in 0..40_i64 {
        let records: Vec<Record> = (0..25)
            .map(|_| {
                let at = Action::At(second + round * 3 + i64::try_from(random(3)).unwrap());
                let mut actions = vec![at, Action::Add(1)];
                match random(12) {
                    0 => actions.push(Action::Timer("close".into(), i64::try_from(random(30)).unwrap())),
                    1 => actions.push(Action::Timer("again-3".into(), 1)),
                    2 => actions.push(Action::Poison),
                    3 => actions.push(Action::Put(format!("n{}", random(3)), usize::try_from(random(4000)).unwrap())),
                    4 => actions.push(Action::Names),
                    5 if random(6) == 0 => actions.push(Action::Undecodable),
                    _ => {}
                }
                scripted(key(u8::try_from(random(12)).unwrap()), &actions)
            })
            .collect();
        for record in &records {
            model.publish(record.clone());
        }
        publish(&*bus, records).await;
        if round % 10 == 0 {
            if let Some(running) = running.take() {
                Running::abort(running).await;
            }
            let side = if round % 20 == 0 { harness.bus() } else { harness.another() };
            running = Some(Running::start(&side, &handler));
        }
    }
    caught_up(&*bus).await;
    running.unwrap().stop().await;
    model.run();
    let by_key = |records: Vec<(RecordKey, Bytes)>| {
        let mut sorted: BTreeMap<RecordKey, Vec<Bytes>> = BTreeMap::new();
        for (key, value) in records {
            sorted.entry(key).or_default().push(value);
        }
        sorted
    };
    let found = read_all(&*bus, "out").await.into_iter().map(|record| (record.key, record.value)).collect();
    let expected = model.emitted("out").into_iter().map(|record| (record.key, record.value)).collect();
    assert_eq!(by_key(found), by_key(expected));
    let mut letters = dead_letters(&*bus).await;
    let mut expected = model.dead_letters().to_vec();
    let place = |letter: &DeadLetter| (letter.partition, letter.position, letter.kind as u8, letter.due_at);
    letters.sort_by_key(place);
    expected.sort_by_key(place);
    assert_eq!(letters, expected);
}
