//! The local log: the suite, and what only it can do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{self, Load, Work};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, BusError, HistoryEntry, Position, Positions, PublishError, Record, Retention, TopicSpec};
use bytes::Bytes;
use service::clock::SimulatedClock;
use tokio_util::sync::CancellationToken;

use crate::suite::{self, BOUND, Harness, Running, caught_up, eventually, key, publish, read_all, start};
use crate::{losses, overload};

const RECORD_BYTES: usize = 100_000;

pub(crate) fn config() -> LocalLogConfig {
    LocalLogConfig {
        record_bytes: RECORD_BYTES,
        lease_ms: 2_000,
        retention_interval_ms: 10,
        ..LocalLogConfig::default()
    }
}

/// Two handles of one file: to each other they are as two processes.
struct Local {
    folder: tempfile::TempDir,
    clock: SimulatedClock,
    first: Arc<dyn Bus>,
    second: Arc<dyn Bus>,
}

impl Local {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: LocalLogConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = SimulatedClock::new(start());
        let open = || LocalLog::open(&folder.path().join("log.sqlite"), clock.shared(), config.clone()).unwrap();
        let (first, second) = (Arc::new(open()), Arc::new(open()));
        Self { folder, clock, first, second }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log.sqlite")
    }

    /// Deletes all records of the only partition of `in` before a position. Retention waits for steps and readers, so
    /// somebody else has to do it.
    async fn delete_before(&self, position: Position) {
        let file = rusqlite::Connection::open(self.path()).unwrap();
        file.busy_timeout(suite::BOUND).unwrap();
        let position: i64 = position.to_string().parse().unwrap();
        let input = "SELECT partitions.id FROM partitions JOIN topics ON topics.id = partitions.topic \
                     WHERE topics.name = 'in'";
        let id: i64 = file.query_row(input, [], |row| row.get(0)).unwrap();
        let first: i64 =
            file.query_row("SELECT MIN(id) FROM records WHERE id >= ?1 << 40", [id], |row| row.get(0)).unwrap();
        let oldest = "SELECT oldest FROM partitions WHERE id = ?1";
        let oldest: i64 = file.query_row(oldest, [id], |row| row.get(0)).unwrap();
        let kept = first + position - oldest;
        file.execute("DELETE FROM records WHERE id >= ?1 AND id < ?2", [first, kept]).unwrap();
        file.execute("UPDATE partitions SET oldest = ?2 WHERE id = ?1", [id, position]).unwrap();
    }
}

impl Harness for Local {
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
                suite::$name(Local::new()).await;
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

/// A process that was stopped, or looks seldom, does not know of records that others appended; time must not pass them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_waits_for_records_that_this_process_has_not_noticed() {
    let unaware = LocalLogConfig { watch_interval_ms: 3_600_000, ..config() };
    let local = Local::with(unaware);
    let (bus, another) = (local.bus(), local.another());
    suite::topics(&*bus, 1).await;
    let second = start().as_micros() / 1_000_000;
    let close = Action::Timer("close".into(), 60);
    publish(&*bus, vec![scripted(key(1), &[Action::At(second), Action::Add(1), close])]).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    publish(&*another, vec![scripted(key(1), &[Action::At(second + 10), Action::Add(1)])]).await;
    local.clock.advance(Duration::from_secs(120));
    caught_up(&*bus).await;
    local.clock.advance(Duration::from_secs(2));
    suite::settled(&*bus, &local.clock).await;
    running.stop().await;
    let found = suite::texts(&*bus).await;
    assert!(found[1].starts_with("sum 2 ") && found[2].starts_with("timer close "), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_keeps_wheels_apart_and_is_never_seen() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SimulatedClock::new(start());
    let open = |prefix: &str| {
        let config = LocalLogConfig { prefix: prefix.to_owned(), ..config() };
        LocalLog::open(&folder.path().join("log.sqlite"), clock.shared(), config)
    };
    assert!(matches!(open("no space").err(), Some(BusError::Invalid(_))));
    let wheels: [Arc<dyn Bus>; 3] = ["", "a.", "b."].map(|prefix| Arc::new(open(prefix).unwrap()) as Arc<dyn Bus>);
    for (number, bus) in (1_u32..).zip(&wheels) {
        suite::topics(&**bus, number).await;
        let actions = [Action::Add(i64::from(number))];
        publish(&**bus, vec![scripted(key(1), &actions), scripted(key(1), &[Action::Poison])]).await;
        let running = Running::start(bus, &Scripted::new("out"));
        assert_eq!(caught_up(&**bus).await.input, "in");
        running.stop().await;
    }
    for (number, bus) in (1_u32..).zip(&wheels) {
        assert_eq!(bus.partitions("in").await, Ok(number));
        assert_eq!(suite::texts(&**bus).await, [format!("sum {number} at 1970-01-01T00:00:00.000000Z")]);
        assert!(read_all(&**bus, "in").await.iter().all(|record| &*record.topic == "in"));
        let letters = suite::dead_letters(&**bus).await;
        assert_eq!((letters.len(), letters[0].step.as_str(), letters[0].topic.as_str()), (1, "step", "in"));
        let differs = bus.create_topics(&[TopicSpec::new("in", 9, Retention::default())]).await;
        assert_eq!(differs, Err(BusError::PartitionsDiffer { topic: "in".into(), expected: 9, actual: number }));
    }
    assert_eq!(wheels[0].partitions("a.in").await, Ok(2), "the prefix is all that keeps them apart");
}

fn record(number: u8, bytes: usize) -> Record {
    Record { key: key(number), value: Bytes::from(vec![number; bytes]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_waits_for_the_slowest_reader() {
    let local = Local::new();
    let bus = local.bus();
    suite::topics(&*bus, 1).await;
    let day = Retention::age(Duration::from_secs(86_400));
    bus.create_topics(&[TopicSpec::new("in", 1, day)]).await.unwrap();
    let mut tail = bus.tail("in", "sink", Positions::oldest()).await.unwrap();
    let running = Running::start(&bus, &Scripted::new("out"));
    publish(&*bus, (0..10).map(|_| scripted(key(1), &[Action::Add(1)])).collect()).await;
    caught_up(&*bus).await;
    local.clock.advance(Duration::from_secs(90_000));
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    caught_up(&*bus).await;
    let status = bus.topic_status("in").await.unwrap();
    assert_eq!((status.records, status.oldest_unread, status.retention), (11, Some(start()), day));

    // The sink reads six: then six may go, and no more.
    let mut owned = Positions::oldest();
    for record in tail.next(6, Duration::from_secs(60)).await.unwrap() {
        owned.advance_past(&record);
    }
    tail.commit(&owned).await.unwrap();
    eventually("six are gone", || async {
        let status = bus.topic_status("in").await.unwrap();
        if status.records == 5 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(tail.next(100, Duration::from_secs(60)).await.unwrap().len(), 5);
    bus.forget_reader("in", "sink").await.unwrap();
    eventually("all but the young one are gone", || async {
        let status = bus.topic_status("in").await.unwrap();
        if status.records == 1 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, None);
    running.stop().await;

    // A reader whose position is gone is told so.
    let gone = bus.tail("in", "late", [(0, Position::START)].into_iter().collect()).await;
    assert!(matches!(gone.err(), Some(BusError::PositionGone { partition: 0, position: Position::START, .. })));
    let end = bus.end_positions("in").await.unwrap().get(0).unwrap();
    let ahead = bus.tail("in", "ahead", [(0, end.next())].into_iter().collect()).await;
    assert!(matches!(ahead.err(), Some(BusError::PositionAhead { .. })));
    let from: Positions = [(0, Position::START)].into_iter().collect();
    let mut history = bus.history("in", from, bus.end_positions("in").await.unwrap()).await.unwrap();
    assert!(matches!(history.next().await, Err(BusError::PositionGone { position: Position::START, .. })));
    assert!(bus.oldest_positions("in").await.unwrap().get(0) > Some(Position::START));
}

/// What an audit does: a log that others write is read without a trace, and copied into one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_copied_by_one_who_may_only_read_it() {
    let local = Local::new();
    let bus = local.bus();
    suite::topics(&*bus, 2).await;
    publish(&*bus, (0..20).map(|number| record(number, 5)).collect()).await;
    bus.publish_control("in", "consent", "ada", Bytes::from_static(b"x")).await.unwrap();
    publish(&*bus, (20..40).map(|number| record(number, 5)).collect()).await;

    let path = local.path();
    let files = || std::fs::read_dir(path.parent().unwrap().join("log.sqlite-owners")).unwrap().count();
    let before = files();
    let reading = LocalLog::open_to_read(&path, local.clock.shared(), LocalLogConfig::default()).unwrap();
    assert_eq!(files(), before, "a reader leaves no mark");
    let refused = reading.publish("in", vec![record(1, 1)]).await;
    assert!(matches!(refused[0], Err(PublishError::Storage(_))), "{refused:?}");
    let refused = reading.step(suite::spec(), Scripted::new("out"), CancellationToken::new()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(
        LocalLog::open_to_read(&path.with_extension("absent"), local.clock.shared(), LocalLogConfig::default())
            .is_err()
    );

    let other = Local::new();
    let copy = LocalLog::open(&other.path(), other.clock.shared(), LocalLogConfig::default()).unwrap();
    suite::topics(&copy, 2).await;
    other.clock.advance(Duration::from_secs(60));
    let end = reading.end_positions("in").await.unwrap();
    let mut history = reading.history("in", Positions::oldest(), end).await.unwrap();
    loop {
        let entries = history.next().await.unwrap();
        if entries.is_empty() {
            break;
        }
        copy.append_entries("in", entries).await.unwrap();
    }
    let (ours, theirs) = (read_all(&copy, "in").await, read_all(&*bus, "in").await);
    assert_eq!(ours, theirs);
    assert_eq!(copy.topic_status("in").await.unwrap().records, bus.topic_status("in").await.unwrap().records);
    let nowhere = HistoryEntry {
        partition: 2,
        position: Position::START,
        is_control: false,
        appended_at: start(),
        key: key(1),
        value: Bytes::new(),
    };
    assert!(copy.append_entries("in", vec![nowhere]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_waits_for_those_who_have_not_come_yet() {
    let local = Local::new();
    let bus = local.bus();
    suite::topics(&*bus, 1).await;
    let day = Retention::age(Duration::from_secs(86_400));
    let known = || [TopicSpec::new("in", 1, day).read_by_step("step").read_by("sink"), TopicSpec::new("out", 1, day)];
    bus.create_topics(&known()).await.unwrap();
    publish(&*bus, (0..10).map(|_| scripted(key(1), &[Action::Add(1)])).collect()).await;
    bus.publish("out", vec![record(1, 10)]).await[0].as_ref().unwrap();
    local.clock.advance(Duration::from_secs(90_000));
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    let held = |records: u64| {
        let bus = Arc::clone(&bus);
        async move {
            let status = bus.topic_status("in").await.unwrap();
            if status.records == records { Ok(()) } else { Err(status) }
        }
    };
    // The topic that nobody is to read is swept after the other one.
    eventually("retention runs", || async {
        let status = bus.topic_status("out").await.unwrap();
        if status.records == 0 { Ok(()) } else { Err(status) }
    })
    .await;
    let status = bus.topic_status("in").await.unwrap();
    assert_eq!((status.records, status.oldest_unread), (11, Some(start())), "nobody has read, and nothing is gone");

    // Both come, and read everything from the first record on.
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, Some(start()), "the sink has not read");
    let mut tail = bus.tail("in", "sink", Positions::oldest()).await.unwrap();
    assert_eq!(tail.next(100, Duration::from_secs(60)).await.unwrap().len(), 11);
    tail.commit(&tail.positions()).await.unwrap();
    eventually("what is old is gone", || held(1)).await;

    // Saying it again, as every start does, moves nobody back.
    bus.create_topics(&known()).await.unwrap();
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, None);
    running.stop().await;
    let differs = bus.create_topics(&[TopicSpec::new("out", 1, day).read_by_step("step")]).await;
    let expected = BusError::InputDiffers { step: "step".into(), expected: "out".into(), actual: "in".into() };
    assert_eq!(differs, Err(expected));
    let two = ["in", "out"].map(|name| TopicSpec::new(name, 1, day).read_by_step("another"));
    assert!(matches!(bus.create_topics(&two).await, Err(BusError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_looks_holds_nothing_back() {
    let local = Local::new();
    let bus = local.bus();
    let day = Retention::age(Duration::from_secs(86_400));
    bus.create_topics(&[TopicSpec::new("in", 1, day)]).await.unwrap();
    publish(&*bus, (0..3).map(|number| record(number, 10)).collect()).await;
    let mut look = bus.look("in", Positions::oldest()).await.unwrap();
    assert_eq!(look.next(1, Duration::from_secs(60)).await.unwrap().len(), 1);
    look.commit(&look.positions()).await.unwrap();
    assert_eq!(bus.topic_status("in").await.unwrap().oldest_unread, None, "nobody is registered");
    local.clock.advance(Duration::from_secs(90_000));
    eventually("all are gone", || async {
        let status = bus.topic_status("in").await.unwrap();
        if status.records == 0 { Ok(()) } else { Err(status) }
    })
    .await;
    assert!(look.next(10, Duration::ZERO).await.unwrap().is_empty(), "what is gone is passed over");
    publish(&*bus, vec![record(7, 10)]).await;
    assert_eq!(look.next(10, Duration::from_secs(60)).await.unwrap()[0].value[0], 7);
    let mut another = bus.look("in", [(0, Position::START)].into_iter().collect()).await.unwrap();
    assert_eq!(another.next(10, Duration::from_secs(60)).await.unwrap()[0].value[0], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_bytes_keeps_the_youngest() {
    let local = Local::new();
    let bus = local.bus();
    let retention = Retention { age: None, partition_bytes: Some(5_000) };
    bus.create_topics(&[TopicSpec::new("in", 1, retention)]).await.unwrap();
    publish(&*bus, (0..20).map(|number| record(number, 1_000)).collect()).await;
    eventually("five are left", || async {
        let status = bus.topic_status("in").await.unwrap();
        if (status.records, status.bytes) == (5, 5_000) { Ok(()) } else { Err(status) }
    })
    .await;
    let left: Vec<u8> = read_all(&*bus, "in").await.iter().map(|record| record.value[0]).collect();
    assert_eq!(left, [15, 16, 17, 18, 19]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_keeps_what_was_acknowledged() {
    let local = Local::with(LocalLogConfig { file_bytes: Some(2 << 20), ..config() });
    let bus = local.bus();
    suite::topics(&*bus, 1).await;
    bus.create_topics(&[TopicSpec::new("in", 1, Retention { age: None, partition_bytes: Some(0) })]).await.unwrap();
    let mut tail = bus.tail("in", "sink", Positions::oldest()).await.unwrap();
    let mut acknowledged = 0;
    let refused = loop {
        let results = bus.publish("in", vec![record(1, 50_000), record(2, 50_000)]).await;
        match &results[..] {
            [Ok(_), Ok(_)] => acknowledged += 2,
            [Err(first), Err(second)] => break (first.clone(), second.clone()),
            other => panic!("{other:?}"),
        }
        assert!(acknowledged < 100);
    };
    assert_eq!(refused, (PublishError::StorageFull, PublishError::StorageFull));
    assert!(acknowledged >= 20, "{acknowledged}");
    let mut owned = Positions::oldest();
    let mut read = 0;
    while read < acknowledged {
        for record in tail.next(10, Duration::from_secs(60)).await.unwrap() {
            owned.advance_past(&record);
            read += 1;
        }
    }
    assert!(tail.next(10, Duration::ZERO).await.unwrap().is_empty());
    // What was read may go, and then there is room again.
    tail.commit(&owned).await.unwrap();
    eventually("there is room again", || async {
        let mut results = bus.publish("in", vec![record(3, 50_000)]).await;
        results.remove(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_measured_load_goes_through_whole() {
    let local = Local::new();
    let load = Load { records: 1_200, batch_records: 100, alternating_keys: 20, publishers: 1, ..Load::default() };
    assert_eq!(measure::publish(&local.bus(), "load", &load).await.unwrap().records, 1_200);
    for (name, work) in [("stateful", Work::Stateful), ("passing", Work::PassThrough)] {
        assert_eq!(measure::step(&local.bus(), "load", name, work, &load).await.unwrap().records, 1_200);
    }
    let lag = local.bus().step_lag("stateful").await.unwrap();
    let keys = load.records / load.records_per_key;
    assert!(lag.pending_timers() <= 3 * load.alternating_keys && keys > 6 * load.alternating_keys, "{lag:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_publish_call_hold() {
    let local = Local::with(LocalLogConfig { batch_bytes: 150_000, ..config() });
    let bus = local.bus();
    suite::topics(&*bus, 1).await;
    let results = bus.publish("in", vec![record(1, 90_000), record(2, 90_000)]).await;
    let error = PublishError::BatchTooLarge { bytes: 180_000, limit: 150_000 };
    assert_eq!(results, vec![Err(error.clone()), Err(error)]);
    let invalid = LocalLogConfig { record_bytes: 0, ..config() };
    let opened = LocalLog::open(&local.path(), local.clock.shared(), invalid);
    assert!(matches!(opened.err(), Some(BusError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_no_room_for_is_refused_in_order() {
    let local = Local::with(LocalLogConfig {
        batch_bytes: overload::ROOM,
        in_flight_bytes: overload::ROOM,
        publish_wait_ms: overload::PUBLISH_WAIT_MS,
        ..config()
    });
    // While somebody else writes nobody can.
    let other = rusqlite::Connection::open(local.path()).unwrap();
    other.busy_timeout(BOUND).unwrap();
    let stop_up = || other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let let_go = || other.execute_batch("ROLLBACK").unwrap();
    overload::what_there_is_no_room_for_is_refused_in_order(&local.bus(), stop_up, let_go).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_publishers_of_two_handles_lose_nothing() {
    let local = Local::new();
    suite::topics(&*local.bus(), 2).await;
    let publishers: Vec<_> = (0..8_u8)
        .map(|publisher| {
            let bus = if publisher % 2 == 0 { local.bus() } else { local.another() };
            tokio::spawn(async move {
                for round in 0..20_u8 {
                    let records = (0..10).map(|number| Record {
                        key: key(publisher),
                        value: Bytes::from(vec![publisher, round, number]),
                    });
                    publish(&*bus, records.collect()).await;
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let read = read_all(&*local.bus(), "in").await;
    assert_eq!(read.len(), 8 * 20 * 10);
    for publisher in 0..8_u8 {
        let of_one: Vec<_> =
            read.iter().filter(|record| record.key == key(publisher)).map(|record| record.value.to_vec()).collect();
        assert!(of_one.is_sorted(), "order of one publisher");
    }
    // Positions are dense within a partition: no two writers took the same one, and none is missing.
    for partition in 0..2 {
        let positions: Vec<Position> =
            read.iter().filter(|record| record.partition == partition).map(|record| record.position).collect();
        assert!(positions.windows(2).all(|pair| pair[0].next() == pair[1]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_log_opens_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.sqlite");
    let clock = SimulatedClock::new(start());
    for round in 1..=3 {
        let bus: Arc<dyn Bus> = Arc::new(LocalLog::open(&path, clock.shared(), config()).unwrap());
        suite::topics(&*bus, 2).await;
        publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
        let running = Running::start(&bus, &Scripted::new("out"));
        caught_up(&*bus).await;
        running.stop().await;
        assert_eq!(suite::texts(&*bus).await.len(), round);
    }
    let missing = LocalLog::open(&folder.path().join("no/such/folder/log.sqlite"), clock.shared(), config());
    assert!(matches!(missing.err(), Some(BusError::Storage(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_goes_on_behind_what_was_deleted_when_it_is_told() {
    let local = Local::new();
    let delete = |position| local.delete_before(position);
    losses::a_step_goes_on_behind_what_was_deleted_when_it_is_told(&local, delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_at_the_oldest_position_behind_what_was_deleted() {
    let local = Local::new();
    let delete = |position| local.delete_before(position);
    losses::a_reader_goes_on_at_the_oldest_position_behind_what_was_deleted(&local, delete).await;
}
