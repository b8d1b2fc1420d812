//! Read connections, and the queries that several parts use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};

use super::schema::{Access, open_reader, position_of, record_id, storage};
use crate::error::BusError;
use crate::record::{Position, RecordKey};
use crate::worker::log::{ReadRange, StoredRecord};

/// No read transaction is open for longer; SQLite is interrupted.
const LONGEST_READ: Duration = Duration::from_secs(1);

/// A read of records ends after this with what it has: large values make few instructions, and few looks at the time.
const LONG_READ: Duration = Duration::from_millis(250);

/// How many instructions of SQLite's virtual machine pass between two looks at the time.
const INSTRUCTIONS_BETWEEN_LOOKS: i32 = 10_000;

/// Idle connections that are kept.
const KEPT_CONNECTIONS: usize = 16;

struct ReadConnection {
    connection: Connection,
    /// Milliseconds since `Readers::epoch` at which the read that runs now is interrupted.
    deadline: Arc<AtomicU64>,
}

/// A pool of read connections, opened as needed.
pub(super) struct Readers {
    path: PathBuf,
    access: Access,
    epoch: Instant,
    idle: Mutex<Vec<ReadConnection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, access: Access) -> Self {
        Self { path, access, epoch: Instant::now(), idle: Mutex::new(Vec::new()) }
    }

    /// Reads. Every statement is its own snapshot, unless `read` opens a transaction.
    pub(super) fn with<R>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, BusError> {
        let idle = self.idle.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => self.open()?,
        };
        let deadline = self.epoch.elapsed() + LONGEST_READ;
        reader.deadline.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let result = read(&reader.connection);
        let usable = reader.connection.is_autocommit();
        let mut idle = self.idle.lock();
        if usable && idle.len() < KEPT_CONNECTIONS {
            idle.push(reader);
        }
        result.map_err(storage)
    }

    fn open(&self) -> Result<ReadConnection, BusError> {
        let connection = open_reader(&self.path, self.access)?;
        let deadline = Arc::new(AtomicU64::new(u64::MAX));
        let (watched, epoch) = (Arc::clone(&deadline), self.epoch);
        let expired = move || epoch.elapsed().as_millis() > u128::from(watched.load(Ordering::Relaxed));
        connection.progress_handler(INSTRUCTIONS_BETWEEN_LOOKS, Some(expired)).map_err(storage)?;
        Ok(ReadConnection { connection, deadline })
    }
}

/// The next records of a partition: at least one when there is one, whatever its size. A read that takes too long is
/// tried again with fewer records.
pub(super) fn read_records(
    readers: &Readers,
    partition_id: i64,
    range: ReadRange,
) -> Result<Vec<StoredRecord>, BusError> {
    let mut range = range;
    loop {
        let mut interrupted = false;
        let result = readers.with(|connection| match read_once(connection, partition_id, range) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) && range.records > 1 => {
                interrupted = true;
                Ok(Vec::new())
            }
            other => other,
        });
        if !interrupted {
            return result;
        }
        range.records /= 2;
    }
}

fn read_once(connection: &Connection, partition_id: i64, range: ReadRange) -> rusqlite::Result<Vec<StoredRecord>> {
    let mut query = connection.prepare_cached(
        "SELECT id, control, appended_at, key, value FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?;
    let from = record_id(partition_id, range.from);
    let until = record_id(partition_id + 1, 0);
    let limit = i64::try_from(range.records).unwrap_or(i64::MAX);
    let mut rows = query.query([from, until, limit])?;
    let mut records = Vec::new();
    let mut bytes = 0;
    let started = Instant::now();
    while let Some(row) = rows.next()? {
        let value: Vec<u8> = row.get(4)?;
        bytes += value.len();
        if !records.is_empty() && (bytes > range.bytes || started.elapsed() > LONG_READ) {
            break;
        }
        records.push(StoredRecord {
            position: position_of(row.get(0)?),
            control: row.get(1)?,
            appended_at: Timestamp::from_micros(row.get(2)?),
            key: RecordKey(row.get(3)?),
            value: Bytes::from(value),
        });
    }
    Ok(records)
}

/// Oldest position that is left, and the position after the last record.
pub(super) fn partition_bounds(connection: &Connection, partition_id: i64) -> rusqlite::Result<(Position, Position)> {
    let mut query = connection.prepare_cached("SELECT oldest, next FROM partitions WHERE id = ?1")?;
    query.query_row([partition_id], |row| {
        let position = |offset: i64| Position::from_offset(offset.cast_unsigned());
        Ok((position(row.get(0)?), position(row.get(1)?)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::LocalLogConfig;
    use super::super::schema::open_writer;
    use super::*;

    #[test]
    fn a_read_without_end_is_interrupted_and_its_connection_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.sqlite");
        let _writer = open_writer(&path, &LocalLogConfig::default()).unwrap();
        let readers = Readers::new(path, Access::Write);
        let started = Instant::now();
        let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n";
        let read = readers.with(|connection| connection.query_row(endless, [], |row| row.get::<_, i64>(0)));
        assert!(matches!(read, Err(BusError::Storage(_))), "{read:?}");
        assert!(started.elapsed() >= LONGEST_READ && started.elapsed() < 10 * LONGEST_READ, "{:?}", started.elapsed());
        assert_eq!(readers.with(|connection| connection.query_row("SELECT 7", [], |row| row.get(0))), Ok(7));
        assert_eq!(readers.idle.lock().len(), 1);
    }
}
