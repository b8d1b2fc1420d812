//! The local log beside the same work written by hand in plain SQLite: no ownership, fences, attempt marks or dead
//! letters.
//!
//! Both sides acknowledge after an fsync (WAL, `synchronous=FULL`), in transactions of 500 records, in one folder of
//! the build's own file system: a temporary folder in memory would make fsync free. What an fsync costs there is
//! reported too.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{Load, QUIET, Work, first_state, micros_of, publish, record, step};
use bus::{Bus, RecordKey};
use rusqlite::{Connection, Transaction, params};
use service::clock::RealClock;

use crate::measurement::{Better, Measurement, median};

/// Acknowledged records/s that a laptop must reach.
const PUBLISH_TARGET: f64 = 20_000.0;
/// Records/s through a stateful step that a laptop must reach.
const STEP_TARGET: f64 = 5_000.0;
/// Fsyncs that are timed.
const SYNCS: usize = 51;

/// A rate of ours, and that of plain SQLite: records/s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    pub(crate) ours: f64,
    pub(crate) plain: f64,
}

/// What is measured of one load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    published: Beside,
    passed: Beside,
    stepped: Beside,
}

#[cfg(feature = "production")]
impl Rates {
    /// Published, through a pass-through step, through a stateful step.
    pub(crate) const fn all(&self) -> [Beside; 3] {
        [self.published, self.passed, self.stepped]
    }
}

fn open_plain(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE input (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE output (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE passed (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE state (key BLOB NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (key, name)) \
         WITHOUT ROWID; \
         CREATE TABLE timers (key BLOB NOT NULL PRIMARY KEY, due INTEGER NOT NULL) WITHOUT ROWID; \
         CREATE INDEX timers_due ON timers (due); \
         CREATE TABLE positions (work TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID; \
         INSERT INTO positions VALUES ('output', 1), ('passed', 1);",
    )?;
    Ok(connection)
}

fn plain_publish(connection: &mut Connection, load: &Load) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO input (key, value) VALUES (?1, ?2)")?;
            for _ in 0..load.batch_records {
                let record = record(number, load);
                insert.execute(params![record.key.0, &*record.value])?;
                number += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(number as f64 / started.elapsed().as_secs_f64())
}

/// What a step does with a record and its key's state, by hand.
struct PlainState<'a> {
    load: &'a Load,
    due: rusqlite::CachedStatement<'a>,
    end_timer: rusqlite::CachedStatement<'a>,
    get: rusqlite::CachedStatement<'a>,
    end: rusqlite::CachedStatement<'a>,
    put: rusqlite::CachedStatement<'a>,
    set_timer: rusqlite::CachedStatement<'a>,
}

impl<'a> PlainState<'a> {
    fn new(transaction: &'a Transaction<'_>, load: &'a Load) -> anyhow::Result<Self> {
        Ok(Self {
            load,
            due: transaction.prepare_cached("SELECT key FROM timers WHERE due <= ?1 ORDER BY due, key")?,
            end_timer: transaction.prepare_cached("DELETE FROM timers WHERE key = ?1")?,
            get: transaction.prepare_cached("SELECT value FROM state WHERE key = ?1 AND name = ?2")?,
            end: transaction.prepare_cached("DELETE FROM state WHERE key = ?1 AND name = ?2")?,
            put: transaction.prepare_cached(
                "INSERT INTO state (key, name, value) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (key, name) DO UPDATE SET value = excluded.value",
            )?,
            set_timer: transaction.prepare_cached(
                "INSERT INTO timers (key, due) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET due = excluded.due",
            )?,
        })
    }

    fn handle(&mut self, key: [u8; 16], value: &[u8]) -> anyhow::Result<()> {
        let time = micros_of(value, self.load).unwrap_or_default();
        let due: Vec<[u8; 16]> = self.due.query_map([time], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for key in due {
            for name in ["document", "summary"] {
                let _: Vec<u8> = self.get.query_row(params![key, name], |row| row.get(0))?;
                self.end.execute(params![key, name])?;
            }
            self.end_timer.execute([key])?;
        }
        for (place, name) in ["document", "summary"].into_iter().enumerate() {
            let found: Result<Vec<u8>, _> = self.get.query_row(params![key, name], |row| row.get(0));
            let mut state = match found {
                Ok(state) => state,
                Err(rusqlite::Error::QueryReturnedNoRows) => {
                    first_state(&RecordKey(key), self.load).into_iter().nth(place).unwrap_or_default()
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(first) = state.first_mut() {
                *first = first.wrapping_add(1);
            }
            self.put.execute(params![key, name, state])?;
        }
        self.set_timer.execute(params![key, time + i64::try_from(QUIET.as_micros())?])?;
        Ok(())
    }
}

/// What `bus::measure::step` does, a batch in one transaction.
fn plain_batch(transaction: &Transaction<'_>, work: Work, load: &Load) -> anyhow::Result<u64> {
    let table = if work == Work::Stateful { "output" } else { "passed" };
    let position: i64 =
        transaction.query_row("SELECT next FROM positions WHERE work = ?1", [table], |row| row.get(0))?;
    let mut read = transaction.prepare_cached("SELECT key, value FROM input WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
    let mut emit = transaction.prepare_cached(&format!("INSERT INTO {table} (key, value) VALUES (?1, ?2)"))?;
    let mut state = PlainState::new(transaction, load)?;
    let mut rows = read.query(params![position, i64::try_from(load.batch_records)?])?;
    let mut handled = 0_u64;
    while let Some(row) = rows.next()? {
        let (key, value): ([u8; 16], Vec<u8>) = (row.get(0)?, row.get(1)?);
        if work == Work::Stateful {
            state.handle(key, &value)?;
        }
        emit.execute(params![key, value])?;
        handled += 1;
    }
    let next = position + i64::try_from(handled)?;
    transaction.execute("UPDATE positions SET next = ?1 WHERE work = ?2", params![next, table])?;
    Ok(handled)
}

fn plain_step(connection: &mut Connection, work: Work, load: &Load) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        let handled = plain_batch(&transaction, work, load)?;
        transaction.commit()?;
        anyhow::ensure!(handled > 0, "the baseline lost records");
        number += handled;
    }
    Ok(number as f64 / started.elapsed().as_secs_f64())
}

/// Median time of appending 4 KiB to a file and synchronising it, in milliseconds.
fn sync_milliseconds(folder: &Path) -> anyhow::Result<f64> {
    let mut file = std::fs::File::create(folder.join("synced"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}

/// A folder on the build's own file system: a temporary folder in memory would make fsync free.
pub(crate) fn folder() -> anyhow::Result<tempfile::TempDir> {
    let place = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    Ok(tempfile::Builder::new().prefix("benchmark-bus-").tempdir_in(place)?)
}

/// Measures a load: the baseline, then ours. `name` is in the names of files and steps, which are new.
pub(crate) fn rates(folder: &Path, name: &str, load: &Load) -> anyhow::Result<Rates> {
    let mut plain = open_plain(&folder.join(format!("{name}-plain.sqlite")))?;
    let plain_published = plain_publish(&mut plain, load)?;
    let plain_passed = plain_step(&mut plain, Work::PassThrough, load)?;
    let plain_stepped = plain_step(&mut plain, Work::Stateful, load)?;
    drop(plain);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(async {
        let path = folder.join(format!("{name}-bus.sqlite"));
        let log = LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default())?;
        let bus: Arc<dyn Bus> = Arc::new(log);
        let published = publish(&bus, name, load).await?.per_second();
        // In the order of the records' times, so that a key's timer is moved by its records and fires after the last.
        let input = format!("{name}-in-order");
        publish(&bus, &input, &Load { publishers: 1, ..load.clone() }).await?;
        let passed = step(&bus, &input, &format!("{name}-passed"), Work::PassThrough, load).await?.per_second();
        let stepped = step(&bus, &input, &format!("{name}-stateful"), Work::Stateful, load).await?.per_second();
        Ok(Rates {
            published: Beside { ours: published, plain: plain_published },
            passed: Beside { ours: passed, plain: plain_passed },
            stepped: Beside { ours: stepped, plain: plain_stepped },
        })
    })
}

/// The rates, that of the stateful step also where no two records of a key meet in a transaction.
pub(crate) fn measure() -> anyhow::Result<Vec<Measurement>> {
    let folder = folder()?;
    let sync = sync_milliseconds(folder.path())?;
    let load = Load::default();
    let Rates { published, passed, stepped } = rates(folder.path(), "near", &load)?;
    // Two rounds of keys: the records of the second make the timers of the first fire.
    let apart = Load { alternating_keys: load.records / load.records_per_key / 2, ..load };
    let stepped_apart = rates(folder.path(), "apart", &apart)?.stepped;
    let by_hand =
        "1 KiB, 6 a key, 8 KiB + 200 B of state, one timer moved and fired, fsynced; baseline: the same by hand";
    Ok(vec![
        Measurement::new(
            "bus: published, acknowledged",
            published.ours,
            "records/s",
            "1 KiB, batches of 500 of 4 publishers, fsynced; baseline: inserts of one writer in plain SQLite",
        )
        .beside(published.plain)
        .aiming_at(PUBLISH_TARGET, Better::More),
        Measurement::new(
            "bus: through a pass-through step",
            passed.ours,
            "records/s",
            "1 KiB, fsynced; baseline: the same by hand",
        )
        .beside(passed.plain),
        Measurement::new(
            "bus: through a stateful step",
            stepped.ours,
            "records/s",
            format!("{by_hand}; 200 keys at a time"),
        )
        .beside(stepped.plain)
        .aiming_at(STEP_TARGET, Better::More),
        Measurement::new(
            "bus: stateful step, a key's records far apart",
            stepped_apart.ours,
            "records/s",
            format!("{by_hand}; 5,000 keys at a time"),
        )
        .beside(stepped_apart.plain),
        Measurement::new("bus: one fsync of 4 KiB there, median", sync, "ms", "what durable costs on this disk"),
    ])
}
