//! The tables of the log's file, and how connections to it are opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::LocalLogConfig;
use crate::error::BusError;
use crate::worker::tables;

/// Written to `user_version`; another number is another, incompatible format.
const FORMAT: i64 = 1;

/// Records of all partitions lie in one table; a row id is the partition's id and the position in it.
const POSITION_BITS: u32 = 40;

/// Memory for pages of a read connection: enough for the inner pages of the trees; the system caches the rest.
const READER_CACHE_BYTES: usize = 2 << 20;

const TABLES: &str = "
CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    retention_age_us INTEGER,
    retention_partition_bytes INTEGER
);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL REFERENCES topics (id),
    partition INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    next INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (topic, partition)
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    control INTEGER NOT NULL,
    appended_at INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL
);
CREATE TABLE readers (
    topic INTEGER NOT NULL REFERENCES topics (id),
    name TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (topic, name, partition)
) WITHOUT ROWID;
CREATE TABLE steps (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    topic INTEGER NOT NULL REFERENCES topics (id)
);
-- Position, time and ownership of a step in a partition. `suspect` columns: see ../worker.rs.
CREATE TABLE slots (
    id INTEGER PRIMARY KEY,
    step INTEGER NOT NULL REFERENCES steps (id),
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    partition_time INTEGER,
    paused TEXT,
    owner TEXT,
    epoch INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    suspect_attempts INTEGER NOT NULL DEFAULT 0,
    suspect_until INTEGER NOT NULL DEFAULT 0,
    suspect_input TEXT,
    suspect_input_attempts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (step, partition)
);
CREATE TABLE members (
    step INTEGER NOT NULL REFERENCES steps (id),
    owner TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    PRIMARY KEY (step, owner)
) WITHOUT ROWID;
";

/// The row id of a record.
pub(super) const fn record_id(partition_id: i64, position: u64) -> i64 {
    (partition_id << POSITION_BITS) | (position as i64)
}

/// The position in a row id.
pub(super) const fn position_of(record_id: i64) -> u64 {
    (record_id & ((1 << POSITION_BITS) - 1)) as u64
}

/// Opens the writer's connection, creating the file and the tables when absent.
pub(super) fn open_writer(path: &Path, config: &LocalLogConfig) -> Result<Connection, BusError> {
    let connection = Connection::open(path).map_err(storage)?;
    connection.busy_handler(Some(wait_for_lock)).map_err(storage)?;
    connection.pragma_update(None, "page_size", 8192).map_err(storage)?;
    enter_wal(&connection)?;
    configure(&connection, config.page_cache_bytes)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(storage)?;
    connection.pragma_update(None, "wal_autocheckpoint", config.checkpoint_pages).map_err(storage)?;
    connection.pragma_update(None, "journal_size_limit", 64_i64 << 20).map_err(storage)?;
    create_tables(&connection)?;
    if let Some(bytes) = config.file_bytes {
        let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(storage)?;
        let page = page.cast_unsigned();
        connection
            .pragma_update(None, "max_page_count", i64::try_from((bytes / page.max(1)).max(1)).unwrap_or(i64::MAX))
            .map_err(storage)?;
    }
    Ok(connection)
}

/// What a handle of the log may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Write,
    /// Nothing that changes the file, the folding of the write-ahead log included.
    Read,
}

/// Opens a log that is there, in place of the writer's connection: whatever would write is refused.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, BusError> {
    let connection = open_reader(path, Access::Read)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(storage)?;
    if found == FORMAT { Ok(connection) } else { Err(BusError::FormatDiffers { found, expected: FORMAT }) }
}

/// Opens a reader's connection.
pub(super) fn open_reader(path: &Path, access: Access) -> Result<Connection, BusError> {
    let how = match access {
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = how | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(storage)?;
    connection.busy_handler(Some(wait_for_lock)).map_err(storage)?;
    configure(&connection, READER_CACHE_BYTES)?;
    connection.pragma_update(None, "query_only", true).map_err(storage)?;
    Ok(connection)
}

fn configure(connection: &Connection, cache_bytes: usize) -> Result<(), BusError> {
    connection.set_prepared_statement_cache_capacity(64);
    let cache_kibibytes = i64::try_from(cache_bytes / 1024).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -cache_kibibytes).map_err(storage)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(storage)
}

/// Two processes that open a new file at once both want to turn it into WAL mode, which ignores the busy handler.
fn enter_wal(connection: &Connection) -> Result<(), BusError> {
    let mut attempt = 0;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => return Err(BusError::Storage(format!("the file system does not allow WAL mode, only {mode}"))),
            Err(error) if is_busy(&error) && wait_for_lock(attempt) => attempt += 1,
            Err(error) => return Err(storage(error)),
        }
    }
}

fn create_tables(connection: &Connection) -> Result<(), BusError> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(storage)?;
    let created = create_tables_within(connection).and_then(|()| connection.execute_batch("COMMIT").map_err(storage));
    if created.is_err() {
        // On a full disk SQLite has rolled back by itself; what is told is why.
        let _ = connection.execute_batch("ROLLBACK");
    }
    created
}

fn create_tables_within(connection: &Connection) -> Result<(), BusError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(storage)?;
    let tables: i64 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(storage)?;
    match (found, tables) {
        (FORMAT, _) => Ok(()),
        (0, 0) => {
            connection.execute_batch(TABLES).map_err(storage)?;
            connection.execute_batch(tables::TABLES).map_err(storage)?;
            connection.pragma_update(None, "user_version", FORMAT).map_err(storage)
        }
        _ => Err(BusError::FormatDiffers { found, expected: FORMAT }),
    }
}

/// The format of a file that is a log of this release.
pub(super) fn check_format(connection: &Connection) -> Result<i64, BusError> {
    match connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(storage)? {
        FORMAT => Ok(FORMAT),
        found => Err(BusError::FormatDiffers { found, expected: FORMAT }),
    }
}

/// Waits for another process's transaction in short, growing steps, for about ten seconds in all. Transactions are
/// milliseconds long; only a process that was stopped in the middle of one makes anybody wait for longer.
fn wait_for_lock(attempt: i32) -> bool {
    const LONGEST: u64 = 5_000;
    let micros = (100_u64 << attempt.clamp(0, 6)).min(LONGEST);
    std::thread::sleep(Duration::from_micros(micros));
    attempt < 2_000
}

/// Whether another process holds the lock of the file.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

/// SQLite's own messages name tables and columns, never values.
pub(super) fn storage(error: rusqlite::Error) -> BusError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
        BusError::StorageFull
    } else {
        BusError::Storage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_id_holds_partition_and_position() {
        assert_eq!(position_of(record_id(7, 123_456_789)), 123_456_789);
        assert!(record_id(7, u64::from(u32::MAX)) < record_id(8, 0));
    }

    /// A commit is fsynced before it is acknowledged: WAL alone would survive a killed process, and not a power cut.
    #[test]
    fn the_writer_synchronises_every_commit() {
        let folder = tempfile::tempdir().unwrap();
        let writer = open_writer(&folder.path().join("log.sqlite"), &LocalLogConfig::default()).unwrap();
        let mode: String = writer.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        let synchronous: i64 = writer.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_log_that_finds_no_room_says_so_and_is_made_when_there_is_room() {
        let connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "max_page_count", 2).unwrap();
        assert_eq!(create_tables(&connection), Err(BusError::StorageFull));
        connection.pragma_update(None, "max_page_count", 1_000).unwrap();
        assert_eq!(create_tables(&connection), Ok(()));
    }

    #[test]
    fn refuses_another_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.sqlite");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE something (a); PRAGMA user_version = 9;").unwrap();
        drop(other);
        let opened = open_writer(&path, &LocalLogConfig::default());
        assert_eq!(opened.err(), Some(BusError::FormatDiffers { found: 9, expected: FORMAT }));
    }
}
