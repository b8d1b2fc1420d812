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

use bus::Bus;
use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{Load, publish, step};
use rusqlite::{Connection, Transaction, params};
use service::clock::RealClock;

use crate::measurement::{Better, Measurement};

/// Acknowledged records/s that a laptop must reach.
const PUBLISH_TARGET: f64 = 20_000.0;
/// Records/s through a stateful step that a laptop must reach.
const STEP_TARGET: f64 = 5_000.0;
/// Fsyncs that are timed.
const SYNCS: usize = 51;
/// The loads' own times: a key has a record every so often, and ends when it was quiet for so long (see
/// `bus::measure`).
const KEY_INTERVAL_US: i64 = 200_000_000;
const QUIET_US: i64 = 300_000_000;

fn open_plain(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE input (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE output (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE state (key BLOB NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (key, name)) \
         WITHOUT ROWID; \
         CREATE TABLE timers (key BLOB NOT NULL PRIMARY KEY, due INTEGER NOT NULL) WITHOUT ROWID; \
         CREATE INDEX timers_due ON timers (due); \
         CREATE TABLE position (next INTEGER NOT NULL); INSERT INTO position VALUES (1);",
    )?;
    Ok(connection)
}

/// The key of a record, in the order of `bus::measure`.
fn plain_key(number: u64, load: &Load) -> [u8; 16] {
    let block = number / (load.alternating_keys * load.records_per_key);
    let session = u128::from(block * load.alternating_keys + number % load.alternating_keys);
    (session + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
}

fn plain_publish(connection: &mut Connection, load: &Load) -> anyhow::Result<f64> {
    let mut value = vec![0x5a_u8; load.record_bytes];
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO input (key, value) VALUES (?1, ?2)")?;
            for _ in 0..load.batch_records {
                value[..8].copy_from_slice(&number.to_be_bytes());
                insert.execute(params![plain_key(number, load), &value])?;
                number += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(number as f64 / started.elapsed().as_secs_f64())
}

/// What `bus::measure::step` does, a batch in one transaction.
fn plain_batch(transaction: &Transaction<'_>, load: &Load) -> anyhow::Result<u64> {
    let position: i64 = transaction.query_row("SELECT next FROM position", [], |row| row.get(0))?;
    let mut read = transaction.prepare_cached("SELECT key, value FROM input WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
    let mut due_timers = transaction.prepare_cached("SELECT key FROM timers WHERE due <= ?1 ORDER BY due, key")?;
    let mut end_timer = transaction.prepare_cached("DELETE FROM timers WHERE key = ?1")?;
    let mut get = transaction.prepare_cached("SELECT value FROM state WHERE key = ?1 AND name = ?2")?;
    let mut end_state = transaction.prepare_cached("DELETE FROM state WHERE key = ?1 AND name = ?2")?;
    let mut put = transaction.prepare_cached(
        "INSERT INTO state (key, name, value) VALUES (?1, ?2, ?3) \
         ON CONFLICT (key, name) DO UPDATE SET value = excluded.value",
    )?;
    let mut set_timer = transaction.prepare_cached(
        "INSERT INTO timers (key, due) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET due = excluded.due",
    )?;
    let mut emit = transaction.prepare_cached("INSERT INTO output (key, value) VALUES (?1, ?2)")?;
    let mut rows = read.query(params![position, i64::try_from(load.batch_records)?])?;
    let mut handled = 0_u64;
    while let Some(row) = rows.next()? {
        let (key, value): ([u8; 16], Vec<u8>) = (row.get(0)?, row.get(1)?);
        let number = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let time = i64::try_from(number)? * KEY_INTERVAL_US / i64::try_from(load.alternating_keys)?;
        let due: Vec<[u8; 16]> = due_timers.query_map([time], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for key in due {
            for name in ["document", "summary"] {
                let _: Vec<u8> = get.query_row(params![key, name], |row| row.get(0))?;
                end_state.execute(params![key, name])?;
            }
            end_timer.execute([key])?;
        }
        for (name, bytes) in [("document", load.large_state_bytes), ("summary", load.small_state_bytes)] {
            let found: Result<Vec<u8>, _> = get.query_row(params![key, name], |row| row.get(0));
            let mut state = match found {
                Ok(state) => state,
                Err(rusqlite::Error::QueryReturnedNoRows) => vec![0; bytes],
                Err(error) => return Err(error.into()),
            };
            state[0] = state[0].wrapping_add(1);
            put.execute(params![key, name, state])?;
        }
        set_timer.execute(params![key, time + QUIET_US])?;
        emit.execute(params![key, value])?;
        handled += 1;
    }
    transaction.execute("UPDATE position SET next = ?1", [position + i64::try_from(handled)?])?;
    Ok(handled)
}

fn plain_step(connection: &mut Connection, load: &Load) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        let handled = plain_batch(&transaction, load)?;
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
    times.sort_by(f64::total_cmp);
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

/// Published and stepped records/s: ours, then the baseline's.
fn rates(folder: &Path, name: &str, load: &Load) -> anyhow::Result<[(f64, f64); 2]> {
    let mut plain = open_plain(&folder.join(format!("{name}-plain.sqlite")))?;
    let plain_published = plain_publish(&mut plain, load)?;
    let plain_stepped = plain_step(&mut plain, load)?;
    drop(plain);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let (published, stepped) = runtime.block_on(async {
        let path = folder.join(format!("{name}-bus.sqlite"));
        let log = LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default())?;
        let bus: Arc<dyn Bus> = Arc::new(log);
        let published = publish(&bus, name, load).await?.per_second();
        // In the order of the records' times, so that a key's timer is moved by its records and fires after the last.
        let input = format!("{name}-in-order");
        publish(&bus, &input, &Load { publishers: 1, ..load.clone() }).await?;
        let stepped = step(&bus, &input, load).await?.per_second();
        anyhow::Ok((published, stepped))
    })?;
    Ok([(published, plain_published), (stepped, plain_stepped)])
}

/// Both rates, the second also where no two records of a key meet in a transaction.
pub(crate) fn measure() -> anyhow::Result<Vec<Measurement>> {
    let place = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::Builder::new().prefix("benchmark-bus-").tempdir_in(place)?;
    let sync = sync_milliseconds(folder.path())?;
    let load = Load::default();
    let [published, stepped] = rates(folder.path(), "near", &load)?;
    // Two rounds of keys: the records of the second make the timers of the first fire.
    let apart = Load { alternating_keys: load.records / load.records_per_key / 2, ..load };
    let [_, stepped_apart] = rates(folder.path(), "apart", &apart)?;
    let by_hand =
        "1 KiB, 6 a key, 8 KiB + 200 B of state, one timer moved and fired, fsynced; baseline: the same by hand";
    Ok(vec![
        Measurement::new(
            "bus: published, acknowledged",
            published.0,
            "records/s",
            "1 KiB, batches of 500 of 4 publishers, fsynced; baseline: inserts of one writer in plain SQLite",
        )
        .beside(published.1)
        .aiming_at(PUBLISH_TARGET, Better::More),
        Measurement::new(
            "bus: through a stateful step",
            stepped.0,
            "records/s",
            format!("{by_hand}; 200 keys at a time"),
        )
        .beside(stepped.1)
        .aiming_at(STEP_TARGET, Better::More),
        Measurement::new(
            "bus: stateful step, a key's records far apart",
            stepped_apart.0,
            "records/s",
            format!("{by_hand}; 5,000 keys at a time"),
        )
        .beside(stepped_apart.1),
        Measurement::new("bus: one fsync of 4 KiB there, median", sync, "ms", "what durable costs on this disk"),
    ])
}
