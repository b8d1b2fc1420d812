//! The local log beside the same bytes in plain SQLite transactions, without topics, positions, fences or timers.

use std::sync::Arc;
use std::time::Instant;

use bus::Bus;
use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{Load, publish, step};
use rusqlite::Connection;
use service::clock::RealClock;

use crate::measurement::{Better, Measurement};

/// Acknowledged records/s that a laptop must reach.
const PUBLISH_TARGET: f64 = 20_000.0;
/// Records/s through a stateful step that a laptop must reach.
const STEP_TARGET: f64 = 5_000.0;

fn open_plain(path: &std::path::Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE records (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL); \
         CREATE TABLE state (key BLOB NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (key, name)) WITHOUT ROWID;",
    )?;
    Ok(connection)
}

fn plain_publish(connection: &mut Connection, load: &Load) -> anyhow::Result<f64> {
    let value = vec![0x5a_u8; load.record_bytes];
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records (key, value) VALUES (?1, ?2)")?;
            for _ in 0..load.batch_records {
                insert.execute((number.to_be_bytes(), &value))?;
                number += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(number as f64 / started.elapsed().as_secs_f64())
}

fn plain_step(connection: &mut Connection, load: &Load) -> anyhow::Result<f64> {
    let value = vec![0x5a_u8; load.record_bytes];
    let (large, small) = (vec![1_u8; load.large_state_bytes], vec![1_u8; load.small_state_bytes]);
    let started = Instant::now();
    let mut number = 0_u64;
    while number < load.records {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records (key, value) VALUES (?1, ?2)")?;
            let mut put = transaction.prepare_cached(
                "INSERT INTO state (key, name, value) VALUES (?1, ?2, ?3) ON CONFLICT (key, name) DO UPDATE SET value = excluded.value",
            )?;
            for _ in 0..load.batch_records {
                let key = (number / load.records_per_key.max(1)).to_be_bytes();
                put.execute((key, "document", &large))?;
                put.execute((key, "summary", &small))?;
                insert.execute((key, &value))?;
                number += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(number as f64 / started.elapsed().as_secs_f64())
}

/// Both rates.
pub(crate) fn measure() -> anyhow::Result<Vec<Measurement>> {
    let directory = tempfile::tempdir()?;
    let load = Load::default();
    let mut plain = open_plain(&directory.path().join("plain.sqlite"))?;
    let plain_published = plain_publish(&mut plain, &load)?;
    let plain_stepped = plain_step(&mut plain, &load)?;
    drop(plain);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let (published, stepped) = runtime.block_on(async {
        let log = LocalLog::open(&directory.path().join("bus.sqlite"), RealClock::shared(), LocalLogConfig::default())?;
        let bus: Arc<dyn Bus> = Arc::new(log);
        let published = publish(&bus, "measured", &load).await?.per_second();
        let stepped = step(&bus, "measured", &load).await?.per_second();
        anyhow::Ok((published, stepped))
    })?;
    Ok(vec![
        Measurement::new(
            "bus: published, acknowledged",
            published,
            "records/s",
            "1 KiB, batches of 500, fsynced; baseline: plain SQLite",
        )
        .beside(plain_published)
        .aiming_at(PUBLISH_TARGET, Better::More),
        Measurement::new(
            "bus: through a stateful step",
            stepped,
            "records/s",
            "1 KiB, 6 a key, 8 KiB + 200 B of state, one timer; baseline: plain SQLite without timers",
        )
        .beside(plain_stepped)
        .aiming_at(STEP_TARGET, Better::More),
    ])
}
