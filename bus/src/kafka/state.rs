//! The state of a partition on the disk of this machine: a copy of its changelog, in SQLite.
//!
//! It is written after the transaction of the bus, together with the position of the changelog up to which it holds
//! everything. So it may lag behind what is committed, and never runs ahead: opened again, it reads the changelog from
//! that position on. Two handles may have it open (an owner that was stopped wakes up); whoever writes says which
//! position it found, and writes nothing when it is another one by then.
//!
//! Any doubt begins it anew, from the beginning of the changelog: another identity, a position that the changelog does
//! not reach, or a copy so old that the changelog may have forgotten what is gone.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use service::clock::real_now;

use super::changelog::{Mark, Progress, SLOT};
use crate::error::BusError;
use crate::worker::tables;

/// Compaction forgets that something is gone a day after it was written (`delete.retention.ms`); a copy that was not
/// written for half of that is not trusted.
pub(super) const TRUSTED: Duration = Duration::from_secs(43_200);

const META: &str = "
CREATE TABLE IF NOT EXISTS copy (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    identity TEXT NOT NULL,
    next INTEGER NOT NULL,
    progress TEXT,
    mark TEXT,
    written_at INTEGER NOT NULL
);
";

/// Up to where a copy goes, and what stood there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Copied {
    /// The next position of the changelog.
    pub(super) next: u64,
    pub(super) progress: Option<Progress>,
    pub(super) mark: Option<Mark>,
}

/// The copy.
pub(super) struct State {
    pub(super) connection: Connection,
    identity: String,
}

impl State {
    /// Opens the copy of a partition; `identity`: of which changelog it is.
    pub(super) fn open(path: &Path, identity: &str) -> Result<Self, BusError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(path, &error.to_string()))?;
        }
        let opened = Self::open_once(path);
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
                // What it held is in the changelog.
                std::fs::remove_file(path).map_err(|error| failed(path, &error.to_string()))?;
                Self::open_once(path).map_err(storage)?
            }
            Err(error) => return Err(storage(error)),
        };
        Ok(Self { connection, identity: identity.to_owned() })
    }

    fn open_once(path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // What a power cut takes away is read from the changelog again.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let there: i64 =
            connection.query_row("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'state'", [], |row| row.get(0))?;
        if there == 0 {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {}{META} COMMIT;", tables::TABLES))?;
        }
        Ok(connection)
    }

    /// Up to where the copy goes; begun anew when it is not to be trusted.
    pub(super) fn copied(&self, changelog_end: u64) -> Result<Copied, BusError> {
        let found = self
            .connection
            .query_row("SELECT identity, next, progress, mark, written_at FROM copy WHERE id = 0", [], |row| {
                let identity: String = row.get(0)?;
                let next = row.get::<_, i64>(1)?.cast_unsigned();
                let (progress, mark): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
                Ok((identity, next, progress, mark, row.get::<_, i64>(4)?))
            })
            .optional()
            .map_err(storage)?;
        if let Some((identity, next, progress, mark, written_at)) = found {
            let age = real_now().as_micros().saturating_sub(written_at);
            let trusted = (0..i64::try_from(TRUSTED.as_micros()).unwrap_or(i64::MAX)).contains(&age);
            let (progress, mark) = (read(progress.as_deref()), read(mark.as_deref()));
            if let (true, Ok(progress), Ok(mark)) = (identity == self.identity && trusted, progress, mark)
                && next <= changelog_end
            {
                return Ok(Copied { next, progress, mark });
            }
            tracing::info!(changelog = %self.identity, "the copy of a step's state is not to be trusted: built anew");
        }
        self.begin_anew()?;
        Ok(Copied::default())
    }

    fn begin_anew(&self) -> Result<(), BusError> {
        let connection = &self.connection;
        let transaction = connection.unchecked_transaction().map_err(storage)?;
        for table in ["state", "timers", "poisoned_keys", "control", "copy"] {
            transaction.execute(&format!("DELETE FROM {table}"), []).map_err(storage)?;
        }
        transaction
            .execute(
                "INSERT INTO copy (id, identity, next, written_at) VALUES (0, ?1, 0, ?2)",
                params![self.identity, real_now().as_micros()],
            )
            .map_err(storage)?;
        transaction.commit().map_err(storage)
    }

    /// Writes what follows `from`; false: somebody else has gone on from there, and nothing is written.
    pub(super) fn write(
        &self,
        from: u64,
        to: &Copied,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<bool, BusError> {
        let text = |error: serde_json::Error| BusError::Storage(error.to_string());
        let progress = to.progress.as_ref().map(serde_json::to_string).transpose().map_err(text)?;
        let mark = to.mark.as_ref().map(serde_json::to_string).transpose().map_err(text)?;
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let transaction = rusqlite::Transaction::new_unchecked(&self.connection, behavior).map_err(storage)?;
        let written = transaction
            .execute(
                "UPDATE copy SET next = ?1, progress = ?2, mark = ?3, written_at = ?4
                 WHERE id = 0 AND next = ?5 AND identity = ?6",
                params![
                    to.next.cast_signed(),
                    progress,
                    mark,
                    real_now().as_micros(),
                    from.cast_signed(),
                    self.identity
                ],
            )
            .map_err(storage)?;
        if written != 1 {
            return Ok(false);
        }
        change(&transaction).map_err(storage)?;
        transaction.commit().map_err(storage)?;
        Ok(true)
    }

    /// How many timers there are, when the next is due, and how many keys are poisoned.
    pub(super) fn counts(&self) -> Result<(u64, Option<i64>, u64), BusError> {
        let count = |row: &rusqlite::Row<'_>, place: usize| row.get::<_, i64>(place).map(i64::cast_unsigned);
        self.connection
            .query_row(
                "SELECT (SELECT COUNT(*) FROM timers WHERE slot = ?1), (SELECT MIN(due) FROM timers WHERE slot = ?1),
                 (SELECT COUNT(*) FROM poisoned_keys WHERE slot = ?1)",
                [SLOT],
                |row| Ok((count(row, 0)?, row.get(1)?, count(row, 2)?)),
            )
            .map_err(storage)
    }
}

fn read<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, serde_json::Error> {
    text.map(serde_json::from_str).transpose()
}

fn failed(path: &Path, error: &str) -> BusError {
    BusError::Storage(format!("the copy of a step's state {} can not be used: {error}", path.display()))
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
    fn a_copy_goes_on_from_where_it_is_and_a_doubtful_one_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step").join("0.sqlite");
        let put = |connection: &Connection| {
            connection.execute("INSERT INTO state VALUES (0, zeroblob(16), 'n', x'01')", []).map(drop)
        };
        let state = State::open(&path, "one").unwrap();
        assert_eq!(state.copied(10).unwrap(), Copied::default());
        let progress = Some(Progress { position: 3, ..Progress::default() });
        let to = Copied { next: 7, progress, mark: None };
        assert!(state.write(0, &to, put).unwrap());
        assert!(!state.write(0, &to, put).unwrap(), "somebody has gone on");
        let again = State::open(&path, "one").unwrap();
        assert_eq!(again.copied(10).unwrap(), to);
        assert_eq!(again.copied(6).unwrap(), Copied::default(), "the changelog is another one");
        assert!(state.write(0, &to, put).unwrap());
        let other = State::open(&path, "another").unwrap();
        assert_eq!(other.copied(10).unwrap(), Copied::default());
        let left: i64 = other.connection.query_row("SELECT COUNT(*) FROM state", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
        assert!(!state.write(7, &to, put).unwrap(), "it is not ours any more");
    }

    #[test]
    fn a_file_that_is_none_of_sqlite_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.sqlite");
        std::fs::write(&path, vec![b'x'; 9_000]).unwrap();
        assert_eq!(State::open(&path, "one").unwrap().copied(10).unwrap(), Copied::default());
    }
}
