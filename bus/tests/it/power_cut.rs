//! The local log on a disk that loses, when the power is cut, what was not synced.
//!
//! The process whose power is cut is this test binary again, running [`child`] alone: SQLite works there on a file system
//! that knows what the disk has for certain (`vfs.rs`, `disk.rs`). At the change of a file whose turn it is, that process
//! writes down what the disk would be found with, and ends; whoever comes next opens that.

mod disk;
mod vfs;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::local::{LocalLog, LocalLogConfig};
use bus::testing::scripted::Scripted;
use bus::{Bus, Positions, Record, StepLimits, StepSpec};
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use service::clock::SimulatedClock;

use self::disk::{Cut, Unsynced};
use crate::processes::{Process, say};
use crate::suite::{BOUND, Running, caught_up, dead_letters, key, read_all, spec, start, topics};

/// The log, where to write what is found, the number of the change, the seed of what becomes of what was not synced or
/// nothing, and what kind of disk it is, one a line.
const NEEDS: &str = "BUS_TEST_POWER_CUT";

/// Disks: one that syncs what it is told to, and one that only says so.
const HONEST: &str = "honest";
const LYING: &str = "lying";

const PARTITIONS: u32 = 2;
const KEYS: u8 = 5;
const CALL_RECORDS: u8 = 10;
/// The signal of a process that ends itself.
const ABORTED: i32 = 6;

fn open(log: &Path) -> Arc<dyn Bus> {
    // The write-ahead log is folded back often. Whoever had the partitions is known to be gone, whatever its lease says.
    let config = LocalLogConfig { checkpoint_pages: 40, lease_ms: 3_600_000, ..LocalLogConfig::default() };
    Arc::new(LocalLog::open(log, SimulatedClock::new(start()).shared(), config).unwrap())
}

/// Small batches: many commits, and few inputs that are taken one by one after a process ended within them.
fn run_step(bus: &Arc<dyn Bus>) -> Running {
    let limits = StepLimits { batch_records: 20, ..StepLimits::default() };
    Running::start_spec(bus, StepSpec { limits, ..spec() }, Scripted::new("out"))
}

/// A process that publishes and runs a step until its power is cut. As a test of its own it does nothing.
#[test]
fn child() {
    let Ok(needs) = std::env::var(NEEDS) else { return };
    let needs: Vec<&str> = needs.lines().collect();
    let [log, found, change, seed, kind] = needs[..] else { panic!("{needs:?}") };
    let (log, found) = (Path::new(log), PathBuf::from(found));
    let directory = log.parent().unwrap().to_owned();
    let unsynced = seed.parse::<u64>().map_or(Unsynced::Lost, Unsynced::Chance);
    vfs::disk().cut_at(Cut { change: change.parse().unwrap(), directory, found, unsynced });
    vfs::register(true);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = open(log);
        topics(&*bus, PARTITIONS).await;
        if kind == LYING {
            vfs::disk().lie();
        }
        tokio::spawn(say_what_is_seen(Arc::clone(&bus)));
        let _running = run_step(&bus);
        publish_for_ever(&*bus).await;
    });
}

/// Records that the step adds up by key, and that say who published them in which call.
async fn publish_for_ever(bus: &dyn Bus) {
    let process = std::process::id();
    for call in 0_u64.. {
        let record = |number: u8| {
            let value = Bytes::from(format!("add 1\nof {process} {call} {number}"));
            Record { key: key(number % KEYS), value }
        };
        let results = bus.publish("in", (0..CALL_RECORDS).map(record).collect()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        say(&format!("acknowledged {process} {call}"));
    }
}

/// What anybody has seen of a step must stay: who read it may have acted on it.
async fn say_what_is_seen(bus: Arc<dyn Bus>) {
    let mut look = bus.look("out", Positions::oldest()).await.unwrap();
    loop {
        for record in look.next(100, BOUND).await.unwrap() {
            let text = String::from_utf8_lossy(&record.value);
            say(&format!("seen {}@{}={text}", record.partition, record.position));
        }
    }
}

/// What a process had said before its power was cut.
#[derive(Debug, Default)]
struct Said {
    /// Calls.
    acknowledged: Vec<String>,
    /// Texts of the output by their places.
    seen: BTreeMap<String, String>,
}

/// Lets a process work on a log until the cut, and answers where the log is as it was found then.
fn work_until_cut(said: &mut Said, log: &Path, change: u64, seed: Option<u64>, kind: &str) -> PathBuf {
    let found = log.parent().unwrap().join("found");
    let seed = seed.map_or_else(|| "nothing".to_owned(), |seed| seed.to_string());
    let needs = [&*log.to_string_lossy(), &*found.to_string_lossy(), &*change.to_string(), &*seed, kind].join("\n");
    let mut process = Process::of("power_cut::child", &[(NEEDS, OsStr::new(&needs))]);
    while let Some(line) = process.line() {
        let (what, rest) = line.split_once(' ').unwrap();
        match (what, rest.split_once('=')) {
            ("acknowledged", _) => said.acknowledged.push(rest.to_owned()),
            ("seen", Some((place, text))) => {
                let before = said.seen.insert(place.to_owned(), text.to_owned());
                assert!(before.is_none_or(|before| before == text), "{line}: it was another one before");
            }
            _ => panic!("{line}"),
        }
    }
    let ended = process.ended();
    assert_eq!(ended.signal(), Some(ABORTED), "the power of the process was not cut: {ended}");
    found.join("log.sqlite")
}

/// Everything that was said is so, every call is there whole or not at all, and the step did everything once.
async fn holds(said: &Said, log: &Path) {
    let bus = open(log);
    topics(&*bus, PARTITIONS).await;
    let running = run_step(&bus);
    caught_up(&*bus).await;
    running.stop().await;

    let input = read_all(&*bus, "in").await;
    let (mut calls, mut ids) = (BTreeMap::<String, u8>::new(), BTreeSet::new());
    for record in &input {
        let text = std::str::from_utf8(&record.value).unwrap();
        let id = text.strip_prefix("add 1\nof ").unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        *calls.entry(id.rsplit_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    assert!(calls.values().all(|records| *records == CALL_RECORDS), "{calls:?}");
    let lost: Vec<&String> = said.acknowledged.iter().filter(|call| !calls.contains_key(*call)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    let output = read_all(&*bus, "out").await;
    let mut texts = BTreeMap::new();
    for record in &output {
        let text = String::from_utf8(record.value.to_vec()).unwrap();
        texts.insert(format!("{}@{}", record.partition, record.position), text);
    }
    for (place, text) in &said.seen {
        assert_eq!(texts.get(place), Some(text), "{place} was seen");
    }
    for number in 0..KEYS {
        let records = input.iter().filter(|record| record.key == key(number)).count();
        let sums: Vec<Bytes> =
            output.iter().filter(|record| record.key == key(number)).map(|record| record.value.clone()).collect();
        let expected: Vec<String> =
            (1..=records).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z")).collect();
        assert_eq!(sums, expected);
    }
    assert_eq!(output.len(), input.len());
    assert!(dead_letters(&*bus).await.is_empty());
}

/// Two cuts one after the other: an input that a third one met would count as the one that ends the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_cut() {
    let mut acknowledged = 0;
    for seed in 1..=8_u64 {
        let folder = tempfile::tempdir().unwrap();
        let mut said = Said::default();
        let mut log = folder.path().join("log.sqlite");
        // The file itself is being made, or it has long been at work; every other disk has lost all that it could.
        let first = if seed <= 3 { seed * 13 } else { seed * 997 };
        for (number, change) in [first, seed * 611 + 40].into_iter().enumerate() {
            let chance = (seed % 2 == 0).then_some(seed * 2 + number as u64);
            log = work_until_cut(&mut said, &log, change, chance, HONEST);
        }
        println!("seed {seed}: {} calls acknowledged, {} records seen", said.acknowledged.len(), said.seen.len());
        holds(&said, &log).await;
        acknowledged += said.acknowledged.len();
    }
    assert!(acknowledged > 100, "the power was always cut too early: {acknowledged}");
}

/// What this proves rests on syncs: without them everything since is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_only_says_it_has_synced_loses_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Said::default();
    let log = work_until_cut(&mut said, &folder.path().join("log.sqlite"), 6_000, None, LYING);
    assert!(said.acknowledged.len() > 10 && !said.seen.is_empty(), "{said:?}");
    let bus = open(&log);
    assert_eq!(bus.partitions("in").await, Ok(PARTITIONS), "what was synced before is there");
    for topic in ["in", "out"] {
        assert!(read_all(&*bus, topic).await.is_empty());
    }
}

/// The disk itself: which of two rows is there after a cut, by how SQLite was told to sync the second one.
#[test]
fn a_cut_takes_what_sqlite_has_not_synced() {
    vfs::register(false);
    let cases = [
        ("WAL", "OFF", 1),
        ("WAL", "NORMAL", 1),
        ("WAL", "FULL", 2),
        // The journal was removed and its directory was not synced: it is there again, and takes the commit back.
        ("DELETE", "FULL", 1),
        ("DELETE", "EXTRA", 2),
    ];
    for (journal, synchronous, rows) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.sqlite");
        let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), vfs::NAME).unwrap();
        connection.pragma_update(None, "journal_mode", journal).unwrap();
        connection.pragma_update(None, "synchronous", "EXTRA").unwrap();
        connection.execute_batch("CREATE TABLE rows (number INTEGER); INSERT INTO rows VALUES (1)").unwrap();
        connection.pragma_update(None, "synchronous", synchronous).unwrap();
        connection.execute("INSERT INTO rows VALUES (2)", []).unwrap();
        let count = |connection: &Connection| -> i64 {
            connection.query_row("SELECT COUNT(*) FROM rows", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count(&connection), 2);
        let found = folder.path().join("found");
        vfs::disk().write_found(folder.path(), &found, Unsynced::Lost);
        let after = Connection::open(found.join("rows.sqlite")).unwrap();
        assert_eq!(count(&after), rows, "{journal}, {synchronous}");
        assert_eq!(after.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }
}
