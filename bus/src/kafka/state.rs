//! The state of a partition on the disk of this machine: a copy of its changelog, in SQLite.
//!
//! It is written after the transaction of the bus, together with the position of the changelog up to which it holds
//! everything. So it may lag behind what is committed, and never runs ahead: opened again, it reads the changelog from
//! that position on. Two handles may have it open (an owner that was stopped wakes up); whoever writes says which
//! position it found, and writes nothing when it is another one by then.
//!
//! Whoever takes a partition over claims the copy before it asks anything, and begins it anew only while it has that
//! claim: what was asked before says nothing of a copy on which another one works by now. And whoever commits looks first
//! whether it still has it: else it may have read what another one was about to build.
//!
//! Any doubt begins it anew, from the beginning of the changelog: another identity, another incarnation of the partition,
//! a position that the changelog does not reach, a copy so old that the changelog may have forgotten what is gone, or a
//! file that SQLite can not read.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use service::clock::real_now;

use super::changelog::{self, Change, Mark, Place, Progress, SLOT};
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

/// What is told of timers and poisoned keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) timers: u64,
    pub(super) poisoned: u64,
    /// When the next timer is due, microseconds.
    pub(super) due: Option<i64>,
}

/// The copy.
pub(super) struct State {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: String,
    /// The file can not be read.
    is_broken: Cell<bool>,
    /// What we have claimed the file with; none: it was not claimed.
    claim: Option<i32>,
}

impl State {
    /// Opens the copy of a partition; `identity`: of which changelog it is.
    pub(super) fn open(path: &Path, identity: &str) -> Result<Self, BusError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(path, &error.to_string()))?;
        }
        let connection = match Self::open_once(path) {
            Ok(connection) => connection,
            Err(error) if is_broken(&error) => {
                remove(path)?;
                Self::open_once(path).map_err(storage)?
            }
            Err(error) => return Err(storage(error)),
        };
        let (path, identity) = (path.to_owned(), identity.to_owned());
        Ok(Self { connection, path, identity, is_broken: Cell::new(false), claim: None })
    }

    /// A file that can not be read is replaced: what it held is in the changelog.
    pub(super) fn mend(&mut self) -> Result<(), BusError> {
        if self.is_broken.get() {
            tracing::warn!(changelog = %self.identity, "the copy of a step's state can not be read: built anew");
            remove(&self.path)?;
            *self = Self::open(&self.path, &self.identity)?;
        }
        Ok(())
    }

    /// Takes the copy from whoever has claimed it before.
    pub(super) fn claim(&mut self) -> Result<(), BusError> {
        let claim: i32 = rand::random();
        self.connection.pragma_update(None, "user_version", claim).map_err(|error| self.failed(error))?;
        self.claim = Some(claim);
        Ok(())
    }

    /// Whether nobody has claimed the copy since we did.
    pub(super) fn is_ours(&self) -> Result<bool, BusError> {
        let Some(claim) = self.claim else { return Ok(true) };
        let found = self
            .connection
            .prepare_cached("PRAGMA user_version")
            .and_then(|mut asked| asked.query_row([], |row| row.get::<_, i32>(0)));
        found.map(|found| found == claim).map_err(|error| self.failed(error))
    }

    /// An error of the file, which is remembered when it is broken.
    pub(super) fn failed(&self, error: rusqlite::Error) -> BusError {
        if is_broken(&error) {
            self.is_broken.set(true);
        }
        storage(error)
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

    /// Up to where the copy goes; begun anew when it is not to be trusted. `incarnation`: of the partition; none: it was
    /// never handled.
    pub(super) fn copied(&self, changelog_end: u64, incarnation: Option<&str>) -> Result<Copied, BusError> {
        let found = self
            .connection
            .query_row("SELECT identity, next, progress, mark, written_at FROM copy WHERE id = 0", [], |row| {
                let identity: String = row.get(0)?;
                let next = row.get::<_, i64>(1)?.cast_unsigned();
                let (progress, mark): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
                Ok((identity, next, progress, mark, row.get::<_, i64>(4)?))
            })
            .optional()
            .map_err(|error| self.failed(error))?;
        if let Some((identity, next, progress, mark, written_at)) = found {
            let age = real_now().as_micros().saturating_sub(written_at);
            let trusted = (0..i64::try_from(TRUSTED.as_micros()).unwrap_or(i64::MAX)).contains(&age);
            let (progress, mark) = (read(progress.as_deref()), read(mark.as_deref()));
            if let (true, Ok(progress), Ok(mark)) = (identity == self.identity && trusted, progress, mark)
                && next <= changelog_end
                && progress.as_ref().map(|progress: &Progress| progress.incarnation.as_str()) == incarnation
            {
                return Ok(Copied { next, progress, mark });
            }
            tracing::info!(changelog = %self.identity, "the copy of a step's state is not to be trusted: built anew");
        }
        self.begin_anew()?;
        Ok(Copied::default())
    }

    fn begin_anew(&self) -> Result<(), BusError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, behavior).map_err(|error| self.failed(error))?;
        if !self.is_ours()? {
            return Err(BusError::Storage(format!("the copy of {} was taken over by another owner", self.identity)));
        }
        for table in ["state", "timers", "poisoned_keys", "control", "copy"] {
            transaction.execute(&format!("DELETE FROM {table}"), []).map_err(|error| self.failed(error))?;
        }
        transaction
            .execute(
                "INSERT INTO copy (id, identity, next, written_at) VALUES (0, ?1, 0, ?2)",
                params![self.identity, real_now().as_micros()],
            )
            .map_err(|error| self.failed(error))?;
        transaction.commit().map_err(|error| self.failed(error))
    }

    /// Writes what follows `from`; false: somebody else has gone on from there, and nothing is written. `whole`: the copy
    /// then holds what the changelog does, and is as young as that.
    pub(super) fn write(
        &self,
        from: u64,
        to: &Copied,
        whole: bool,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<bool, BusError> {
        let text = |error: serde_json::Error| BusError::Storage(error.to_string());
        let progress = to.progress.as_ref().map(serde_json::to_string).transpose().map_err(text)?;
        let mark = to.mark.as_ref().map(serde_json::to_string).transpose().map_err(text)?;
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, behavior).map_err(|error| self.failed(error))?;
        let update = "UPDATE copy SET next = ?1, progress = ?2, mark = ?3, written_at = COALESCE(?4, written_at)
             WHERE id = 0 AND next = ?5 AND identity = ?6";
        let written = transaction
            .prepare_cached(update)
            .and_then(|mut update| {
                update.execute(params![
                    to.next.cast_signed(),
                    progress,
                    mark,
                    whole.then(|| real_now().as_micros()),
                    from.cast_signed(),
                    self.identity
                ])
            })
            .map_err(|error| self.failed(error))?;
        if written != 1 {
            return Ok(false);
        }
        change(&transaction).map_err(|error| self.failed(error))?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(true)
    }

    /// What is told of what was committed. Looks at every timer: once a load.
    pub(super) fn counts(&self) -> Result<Counts, BusError> {
        let count = |row: &rusqlite::Row<'_>, place: usize| row.get::<_, i64>(place).map(i64::cast_unsigned);
        self.connection
            .query_row(
                "SELECT (SELECT COUNT(*) FROM timers WHERE slot = ?1), (SELECT MIN(due) FROM timers WHERE slot = ?1),
                 (SELECT COUNT(*) FROM poisoned_keys WHERE slot = ?1)",
                [SLOT],
                |row| Ok(Counts { timers: count(row, 0)?, due: row.get(1)?, poisoned: count(row, 2)? }),
            )
            .map_err(|error| self.failed(error))
    }

    /// The same after changes that are not written yet.
    pub(super) fn counts_after(&self, before: Counts, changes: &[Change]) -> Result<Counts, BusError> {
        self.counted_after(before, changes).map_err(|error| self.failed(error))
    }

    fn counted_after(&self, before: Counts, changes: &[Change]) -> rusqlite::Result<Counts> {
        let mut timers: BTreeMap<(&[u8], &str), Option<i64>> = BTreeMap::new();
        let mut poisoned: BTreeMap<&[u8], bool> = BTreeMap::new();
        for (key, value) in changes {
            match changelog::place_of(key) {
                Some(Place::Timer { key, name }) => {
                    let due = value.as_deref().and_then(|value| value.try_into().ok()).map(i64::from_be_bytes);
                    timers.insert((key, name), due);
                }
                Some(Place::Poisoned { key }) => {
                    poisoned.insert(key, value.is_some());
                }
                None => {}
            }
        }
        let mut after = before;
        let mut timer =
            self.connection.prepare_cached("SELECT COUNT(*) FROM timers WHERE slot = ?1 AND key = ?2 AND name = ?3")?;
        for ((key, name), due) in &timers {
            let was: u64 = timer.query_row(params![SLOT, key, name], |row| row.get::<_, i64>(0))?.cast_unsigned();
            after.timers = (after.timers + u64::from(due.is_some())).saturating_sub(was);
        }
        let mut poison =
            self.connection.prepare_cached("SELECT COUNT(*) FROM poisoned_keys WHERE slot = ?1 AND key = ?2")?;
        for (key, is_poisoned) in &poisoned {
            let was: u64 = poison.query_row(params![SLOT, key], |row| row.get::<_, i64>(0))?.cast_unsigned();
            after.poisoned = (after.poisoned + u64::from(*is_poisoned)).saturating_sub(was);
        }
        // The first that stays as it is, and the first of those that change.
        let mut ordered = self
            .connection
            .prepare_cached("SELECT due, key, name FROM timers WHERE slot = ?1 ORDER BY due, key, name")?;
        let mut rows = ordered.query([SLOT])?;
        after.due = timers.values().copied().flatten().min();
        while let Some(row) = rows.next()? {
            let (key, name) = (row.get_ref(1)?.as_blob()?, row.get_ref(2)?.as_str()?);
            if !timers.contains_key(&(key, name)) {
                let due = row.get(0)?;
                after.due = Some(after.due.map_or(due, |first| first.min(due)));
                break;
            }
        }
        Ok(after)
    }
}

fn read<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, serde_json::Error> {
    text.map(serde_json::from_str).transpose()
}

/// Whether SQLite can not read the file.
fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Removes a copy and what SQLite keeps beside it.
fn remove(path: &Path) -> Result<(), BusError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(path, &error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
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
        assert_eq!(state.copied(10, None).unwrap(), Copied::default());
        let progress = Some(Progress { position: 3, incarnation: "first".to_owned(), ..Progress::default() });
        let to = Copied { next: 7, progress, mark: None };
        assert!(state.write(0, &to, true, put).unwrap());
        assert!(!state.write(0, &to, true, put).unwrap(), "somebody has gone on");
        let again = State::open(&path, "one").unwrap();
        assert_eq!(again.copied(10, Some("first")).unwrap(), to);
        assert_eq!(again.copied(10, Some("second")).unwrap(), Copied::default(), "the partition is another one");
        assert!(state.write(0, &to, true, put).unwrap());
        assert_eq!(again.copied(6, Some("first")).unwrap(), Copied::default(), "the changelog is another one");
        assert!(state.write(0, &to, true, put).unwrap());
        let other = State::open(&path, "another").unwrap();
        assert_eq!(other.copied(10, Some("first")).unwrap(), Copied::default());
        let left: i64 = other.connection.query_row("SELECT COUNT(*) FROM state", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
        assert!(!state.write(7, &to, true, put).unwrap(), "it is not ours any more");
    }

    #[test]
    fn an_owner_that_was_stopped_does_not_begin_anew_what_another_one_works_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.sqlite");
        let mut stopped = State::open(&path, "one").unwrap();
        stopped.claim().unwrap();
        assert!(stopped.is_ours().unwrap());
        // It has asked where the changelog ends, and for the position: there is none, and nothing before 5.
        let mut next = State::open(&path, "one").unwrap();
        next.claim().unwrap();
        assert_eq!(next.copied(5, None).unwrap(), Copied::default());
        let progress = Some(Progress { position: 3, incarnation: "first".to_owned(), ..Progress::default() });
        let to = Copied { next: 9, progress, mark: None };
        assert!(next.write(0, &to, true, |_| Ok(())).unwrap());
        let begun = stopped.copied(5, None);
        assert!(begun.is_err_and(|error| error.may_pass()));
        assert!(!stopped.is_ours().unwrap() && next.is_ours().unwrap());
        assert_eq!(next.copied(9, Some("first")).unwrap(), to);
        // Whoever claims it anew may.
        stopped.claim().unwrap();
        assert!(!next.is_ours().unwrap());
        assert_eq!(stopped.copied(9, Some("second")).unwrap(), Copied::default());
    }

    #[test]
    fn a_file_that_is_none_of_sqlite_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.sqlite");
        std::fs::write(&path, vec![b'x'; 9_000]).unwrap();
        assert_eq!(State::open(&path, "one").unwrap().copied(10, None).unwrap(), Copied::default());
    }

    #[test]
    fn a_file_that_breaks_while_it_is_used_is_built_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.sqlite");
        let mut state = State::open(&path, "one").unwrap();
        let many = |connection: &Connection| {
            (0..200_i64).try_for_each(|number| {
                let value = vec![7_u8; 900];
                connection
                    .execute("INSERT INTO state VALUES (0, zeroblob(16), ?1, ?2)", params![number.to_string(), value])
                    .map(drop)
            })
        };
        assert!(state.copied(10, None).is_ok());
        assert!(state.write(0, &Copied { next: 7, ..Copied::default() }, true, many).unwrap());
        state.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        state.connection.execute_batch("PRAGMA shrink_memory").unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xee; usize::try_from(length).unwrap() - 4096], 4096)
            .unwrap();
        let counted = state.counts();
        let read = tables::states(&state.connection, SLOT, &crate::record::RecordKey([0; 16]), "");
        let failed = read.map_err(|error| state.failed(error));
        assert!(counted.is_err() || failed.is_err(), "SQLite reads on");
        state.mend().unwrap();
        assert_eq!(state.copied(10, None).unwrap(), Copied::default());
        assert!(state.write(0, &Copied { next: 7, ..Copied::default() }, true, many).unwrap());
    }

    #[test]
    fn what_is_told_follows_changes_that_are_not_written_yet() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("0.sqlite"), "one").unwrap();
        state.copied(10, None).unwrap();
        let timer = |key: u8, name: &str, due: Option<i64>| {
            let mut place = vec![b't'];
            place.extend_from_slice(&[key; 16]);
            place.extend_from_slice(name.as_bytes());
            (place, due.map(|due| due.to_be_bytes().to_vec()))
        };
        let poison = |key: u8, reason: Option<&str>| {
            let mut place = vec![b'x'];
            place.extend_from_slice(&[key; 16]);
            (place, reason.map(|reason| reason.as_bytes().to_vec()))
        };
        let rounds = [
            vec![timer(1, "a", Some(50)), timer(1, "b", Some(40)), timer(2, "a", Some(60)), poison(3, Some("bad"))],
            vec![timer(1, "b", None), timer(2, "a", Some(10)), poison(3, Some("worse")), poison(4, Some("bad"))],
            vec![timer(2, "a", None), timer(2, "a", Some(90)), timer(9, "z", None), poison(3, None), poison(7, None)],
            vec![timer(1, "a", None), timer(2, "a", None)],
        ];
        let (mut counts, mut next) = (state.counts().unwrap(), 0);
        assert_eq!(counts, Counts::default());
        for changes in rounds {
            let told = state.counts_after(counts, &changes).unwrap();
            let to = Copied { next: next + 1, ..Copied::default() };
            let apply = |connection: &Connection| {
                let each = |(key, value): &Change| changelog::apply(connection, key, value.as_deref()).map(drop);
                changes.iter().try_for_each(each)
            };
            assert!(state.write(next, &to, true, apply).unwrap());
            counts = state.counts().unwrap();
            assert_eq!(told, counts);
            next += 1;
        }
        assert_eq!(counts, Counts { timers: 0, poisoned: 1, due: None });
    }
}
