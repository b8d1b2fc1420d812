//! The rows of one partition of a step: loading them, marking attempts, and the transaction that changes them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use events::Timestamp;
use rusqlite::{Connection, params};

use super::pending::Pending;
use super::timers::TimerWindow;
use super::topics::TopicInfo;
use super::worker::StepShared;
use super::writer::{Refusal, WriteTransaction};
use crate::control::{Control, ControlTable};
use crate::error::BusError;
use crate::partition::partition_for;
use crate::record::{Record, RecordKey};

/// What the file says about a partition of a step; between commits, with what is pending applied.
pub(super) struct Loaded {
    pub(super) position: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) committed_time: Option<Timestamp>,
    pub(super) paused: bool,
    pub(super) poisoned: HashSet<RecordKey>,
    pub(super) control: ControlTable,
    pub(super) timers: TimerWindow,
}

/// What an earlier owner left behind when it ended within a batch.
#[derive(Debug, Default, Clone)]
pub(super) struct Suspicion {
    pub(super) attempts: u32,
    pub(super) until: u64,
    pub(super) input: Option<String>,
    pub(super) input_attempts: u32,
}

impl Suspicion {
    /// How often the process ended with this input.
    pub(super) fn attempts_of(&self, input: &str) -> u32 {
        if self.input.as_deref() == Some(input) { self.input_attempts } else { self.attempts }
    }
}

/// Says, before an attempt, that it is made.
pub(super) struct AttemptMark {
    pub(super) shared: Arc<StepShared>,
    pub(super) slot: i64,
    pub(super) epoch: i64,
    pub(super) partition: u32,
    pub(super) time: Option<Timestamp>,
    pub(super) suspicion: Suspicion,
}

impl AttemptMark {
    pub(super) fn apply(&self, transaction: &mut WriteTransaction<'_>) -> Result<(), Refusal> {
        let Self { shared, slot, epoch, partition, time, suspicion } = self;
        let mut update = transaction.connection.prepare_cached(
            "UPDATE slots SET suspect_attempts = ?4, suspect_until = ?5, suspect_input = ?6,
             suspect_input_attempts = ?7, partition_time = ?8 WHERE id = ?1 AND owner = ?2 AND epoch = ?3",
        )?;
        let updated = update.execute(params![
            slot,
            shared.owner,
            epoch,
            suspicion.attempts,
            suspicion.until.cast_signed(),
            suspicion.input,
            suspicion.input_attempts,
            time.map(Timestamp::as_micros),
        ])?;
        if updated == 1 { Ok(()) } else { Err(fenced(shared, *partition)) }
    }
}

fn fenced(shared: &StepShared, partition: u32) -> Refusal {
    Refusal::Job(BusError::Fenced { step: shared.spec.name.clone(), partition })
}

/// Loads a slot.
pub(super) fn load_slot(connection: &Connection, slot: i64) -> rusqlite::Result<(Loaded, Suspicion)> {
    let mut query = connection.prepare_cached(
        "SELECT position, partition_time, paused, suspect_attempts, suspect_until, suspect_input, suspect_input_attempts
         FROM slots WHERE id = ?1",
    )?;
    let (mut loaded, suspicion) = query.query_row([slot], |row| {
        let time = row.get::<_, Option<i64>>(1)?.map(Timestamp::from_micros);
        let loaded = Loaded {
            position: row.get::<_, i64>(0)?.cast_unsigned(),
            time,
            committed_time: time,
            paused: row.get::<_, Option<String>>(2)?.is_some(),
            poisoned: HashSet::new(),
            control: ControlTable::default(),
            timers: TimerWindow::load(connection, slot)?,
        };
        let suspicion = Suspicion {
            attempts: row.get(3)?,
            until: row.get::<_, i64>(4)?.cast_unsigned(),
            input: row.get(5)?,
            input_attempts: row.get(6)?,
        };
        Ok((loaded, suspicion))
    })?;
    let mut query = connection.prepare_cached("SELECT key FROM poisoned_keys WHERE slot = ?1")?;
    for key in query.query_map([slot], |row| row.get(0))? {
        loaded.poisoned.insert(RecordKey(key?));
    }
    let mut query = connection.prepare_cached("SELECT kind, subject, value FROM control WHERE slot = ?1")?;
    let mut rows = query.query([slot])?;
    while let Some(row) = rows.next()? {
        let value = Bytes::from(row.get::<_, Vec<u8>>(2)?);
        loaded.control.apply(Control { kind: row.get(0)?, subject: row.get(1)?, value });
    }
    Ok((loaded, suspicion))
}

/// The transaction of a step.
pub(super) struct StepWrite {
    pub(super) shared: Arc<StepShared>,
    pub(super) slot: i64,
    pub(super) epoch: i64,
    pub(super) partition: u32,
    pub(super) position: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) paused: Option<String>,
    pub(super) suspicion: Suspicion,
    pub(super) pending: Arc<Pending>,
}

impl StepWrite {
    pub(super) fn apply(&self, transaction: &mut WriteTransaction<'_>) -> Result<(), Refusal> {
        let Self { shared, slot, suspicion, .. } = self;
        let connection = transaction.connection;
        // The fence comes first: whoever lost the partition changes nothing.
        let mut update = connection.prepare_cached(
            "UPDATE slots SET position = ?4, partition_time = ?5, paused = ?6, suspect_attempts = ?7,
             suspect_until = ?8, suspect_input = ?9, suspect_input_attempts = ?10
             WHERE id = ?1 AND owner = ?2 AND epoch = ?3",
        )?;
        let updated = update.execute(params![
            slot,
            shared.owner,
            self.epoch,
            self.position.cast_signed(),
            self.time.map(Timestamp::as_micros),
            self.paused,
            suspicion.attempts,
            suspicion.until.cast_signed(),
            suspicion.input,
            suspicion.input_attempts,
        ])?;
        if updated != 1 {
            return Err(fenced(shared, self.partition));
        }
        self.write_keys(connection)?;
        for (output, record) in &self.pending.emitted {
            if let Some(topic) = shared.outputs.get(*output) {
                append(transaction, topic, record)?;
            }
        }
        for record in &self.pending.dead_letters {
            append(transaction, &shared.dead_letters, record)?;
        }
        Ok(())
    }

    fn write_keys(&self, connection: &Connection) -> rusqlite::Result<()> {
        let slot = self.slot;
        for (key, changes) in &self.pending.keys {
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
                    Some(value) => connection
                        .prepare_cached(
                            "INSERT INTO state (slot, key, name, value) VALUES (?1, ?2, ?3, ?4)
                             ON CONFLICT DO UPDATE SET value = excluded.value",
                        )?
                        .execute(params![slot, key.0, name, value.as_ref()])?,
                    None => connection
                        .prepare_cached("DELETE FROM state WHERE slot = ?1 AND key = ?2 AND name = ?3")?
                        .execute(params![slot, key.0, name])?,
                };
            }
            for (name, due) in &changes.timers {
                match due {
                    Some(due) => connection
                        .prepare_cached(
                            "INSERT INTO timers (slot, key, name, due) VALUES (?1, ?2, ?3, ?4)
                             ON CONFLICT DO UPDATE SET due = excluded.due",
                        )?
                        .execute(params![slot, key.0, name, due.as_micros()])?,
                    None => connection
                        .prepare_cached("DELETE FROM timers WHERE slot = ?1 AND key = ?2 AND name = ?3")?
                        .execute(params![slot, key.0, name])?,
                };
            }
        }
        for (key, reason) in &self.pending.poisoned {
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
        for control in &self.pending.control {
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
}

fn append(transaction: &mut WriteTransaction<'_>, topic: &TopicInfo, record: &Record) -> rusqlite::Result<()> {
    let partition = partition_for(&record.key, topic.partitions());
    match topic.partition_ids.get(partition as usize) {
        Some(id) => transaction.append(*id, false, &record.key, &record.value).map(drop),
        None => Ok(()),
    }
}
