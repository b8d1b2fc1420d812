//! The tables of keyed state, timers, poisoned keys and control of the partitions of steps, in SQLite: the local log
//! has them in its own file, by slot; the copies of changelogs have one file a partition.

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::log::Outline;
use super::pending::Pending;
use crate::control::{Control, ControlTable};
use crate::record::RecordKey;

/// The tables.
pub(crate) const TABLES: &str = "
CREATE TABLE state (
    slot INTEGER NOT NULL,
    key BLOB NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (slot, key, name)
) WITHOUT ROWID;
CREATE TABLE timers (
    slot INTEGER NOT NULL,
    key BLOB NOT NULL,
    name TEXT NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (slot, key, name)
) WITHOUT ROWID;
CREATE INDEX timers_due ON timers (slot, due, key, name);
CREATE TABLE poisoned_keys (
    slot INTEGER NOT NULL,
    key BLOB NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (slot, key)
) WITHOUT ROWID;
CREATE TABLE control (
    slot INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (slot, kind, subject)
) WITHOUT ROWID;
";

/// The keys that are poisoned.
pub(crate) fn poisoned_keys(connection: &Connection, slot: i64) -> rusqlite::Result<HashSet<RecordKey>> {
    let mut query = connection.prepare_cached("SELECT key FROM poisoned_keys WHERE slot = ?1")?;
    query.query_map([slot], |row| row.get(0).map(RecordKey))?.collect()
}

/// What control records said last.
pub(crate) fn control_table(connection: &Connection, slot: i64) -> rusqlite::Result<ControlTable> {
    let mut table = ControlTable::default();
    let mut query = connection.prepare_cached("SELECT kind, subject, value FROM control WHERE slot = ?1")?;
    let mut rows = query.query([slot])?;
    while let Some(row) = rows.next()? {
        let value = Bytes::from(row.get::<_, Vec<u8>>(2)?);
        table.apply(Control { kind: row.get(0)?, subject: row.get(1)?, value });
    }
    Ok(table)
}

/// The state of a key under a name.
pub(crate) fn state(
    connection: &Connection,
    slot: i64,
    key: &RecordKey,
    name: &str,
) -> rusqlite::Result<Option<Bytes>> {
    let mut query = connection.prepare_cached("SELECT value FROM state WHERE slot = ?1 AND key = ?2 AND name = ?3")?;
    let mut rows = query.query(params![slot, key.0, name])?;
    rows.next()?.map(|row| row.get::<_, Vec<u8>>(0).map(Bytes::from)).transpose()
}

/// The state of a key under names that start with `prefix`, in order of names.
pub(crate) fn states(
    connection: &Connection,
    slot: i64,
    key: &RecordKey,
    prefix: &str,
) -> rusqlite::Result<Vec<(String, Bytes)>> {
    let mut query = connection
        .prepare_cached("SELECT name, value FROM state WHERE slot = ?1 AND key = ?2 AND name >= ?3 ORDER BY name")?;
    let mut rows = query.query(params![slot, key.0, prefix])?;
    let mut states = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if !name.starts_with(prefix) {
            break;
        }
        states.push((name, Bytes::from(row.get::<_, Vec<u8>>(1)?)));
    }
    Ok(states)
}

/// An outline leaves out larger values, and does not go through more names.
const OUTLINED_BYTES: i64 = 1 << 10;
const OUTLINED_NAMES: usize = 1 << 10;

/// All names of a key's state, in order, each with its value unless that is large; none when there are very many.
pub(crate) fn outline(connection: &Connection, slot: i64, key: &RecordKey) -> rusqlite::Result<Option<Outline>> {
    let mut query = connection.prepare_cached(
        "SELECT name, CASE WHEN length(value) <= ?3 THEN value END FROM state WHERE slot = ?1 AND key = ?2
         ORDER BY name",
    )?;
    let mut rows = query.query(params![slot, key.0, OUTLINED_BYTES])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        if names.len() == OUTLINED_NAMES {
            return Ok(None);
        }
        names.push((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?.map(Bytes::from)));
    }
    Ok(Some(names))
}

/// The names of a key's state, in order.
pub(crate) fn state_names(connection: &Connection, slot: i64, key: &RecordKey) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare_cached("SELECT name FROM state WHERE slot = ?1 AND key = ?2 ORDER BY name")?;
    query.query_map(params![slot, key.0], |row| row.get(0))?.collect()
}

/// The names of a key's timers, in order.
#[cfg(feature = "production")]
pub(crate) fn timer_names(connection: &Connection, slot: i64, key: &RecordKey) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare_cached("SELECT name FROM timers WHERE slot = ?1 AND key = ?2 ORDER BY name")?;
    query.query_map(params![slot, key.0], |row| row.get(0))?.collect()
}

/// Writes what a transaction changes of keys and of the control table.
pub(crate) fn write_changes(connection: &Connection, slot: i64, pending: &Pending) -> rusqlite::Result<()> {
    write_keys(connection, slot, pending)?;
    for (key, reason) in &pending.poisoned {
        match reason {
            Some(reason) => connection
                .prepare_cached(
                    "INSERT INTO poisoned_keys (slot, key, reason) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET reason = excluded.reason",
                )?
                .execute(params![slot, key.0, reason])?,
            None => connection
                .prepare_cached("DELETE FROM poisoned_keys WHERE slot = ?1 AND key = ?2")?
                .execute(params![slot, key.0])?,
        };
    }
    for control in &pending.control {
        let Control { kind, subject, value } = control;
        if value.is_empty() {
            connection
                .prepare_cached("DELETE FROM control WHERE slot = ?1 AND kind = ?2 AND subject = ?3")?
                .execute(params![slot, kind, subject])?;
        } else {
            connection
                .prepare_cached(
                    "INSERT INTO control (slot, kind, subject, value) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                )?
                .execute(params![slot, kind, subject, value.as_ref()])?;
        }
    }
    Ok(())
}

/// State and timers of keys. Their statements are looked up once, not for every value.
fn write_keys(connection: &Connection, slot: i64, pending: &Pending) -> rusqlite::Result<()> {
    if pending.keys.is_empty() {
        return Ok(());
    }
    let mut put = connection.prepare_cached(
        "INSERT INTO state (slot, key, name, value) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM state WHERE slot = ?1 AND key = ?2 AND name = ?3")?;
    let mut set = connection.prepare_cached(
        "INSERT INTO timers (slot, key, name, due) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET due = excluded.due",
    )?;
    let mut cancel = connection.prepare_cached("DELETE FROM timers WHERE slot = ?1 AND key = ?2 AND name = ?3")?;
    for (key, changes) in &pending.keys {
        if changes.wiped {
            connection
                .prepare_cached("DELETE FROM state WHERE slot = ?1 AND key = ?2")?
                .execute(params![slot, key.0])?;
            connection
                .prepare_cached("DELETE FROM timers WHERE slot = ?1 AND key = ?2")?
                .execute(params![slot, key.0])?;
        }
        for (name, value) in &changes.values {
            match value {
                Some(value) => put.execute(params![slot, key.0, name, value.as_ref()])?,
                None => delete.execute(params![slot, key.0, name])?,
            };
        }
        for (name, due) in &changes.timers {
            match due {
                Some(due) => set.execute(params![slot, key.0, name, due.as_micros()])?,
                None => cancel.execute(params![slot, key.0, name])?,
            };
        }
    }
    Ok(())
}
