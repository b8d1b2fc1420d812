//! How far a step has concluded, for the step that follows it.
//!
//! A step that follows another one may take silence for silence only up to where the other has concluded: what is still
//! held there may be about a time that has long passed, because the platform was down, or because a dependency was. The
//! answer is read before the end of the input is looked at. So whatever had been emitted by the time that is answered
//! is in the input, and is handled first.

use events::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::Inner;
use crate::error::BusError;
use crate::worker::log::{Concluded, Held};

/// What this process knows about a partition it works on: for status, and for the steps that follow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LivePartition {
    pub(super) time: Option<Timestamp>,
    /// Up to where no record and no timer was left when the partition last came to rest.
    pub(super) concluded: Option<Timestamp>,
}

impl Inner {
    /// How far a step is. What it has committed counts for every process; the time at which it came to rest, which need
    /// not be committed at once, for this one. A timer that is due and has not fired holds the time back, because what
    /// it emits is still to come.
    pub(super) fn concluded(&self, step: &str, partition: u32) -> Result<Concluded, BusError> {
        let name = self.config.stored_name(step);
        let found = self.readers.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT slots.id, slots.partition_time, (SELECT MIN(due) FROM timers WHERE timers.slot = slots.id)
                     FROM slots JOIN steps ON steps.id = slots.step WHERE steps.name = ?1 AND slots.partition = ?2",
                )?
                .query_row(params![name, partition], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?))
                })
                .optional()
        })?;
        let Some((slot, time, due)) = found else { return Ok(Concluded::Everything) };
        let committed = time.map(|time| due.map_or(time, |due| time.min(due - 1))).map(Timestamp::from_micros);
        let live = self.live.lock().get(&slot).copied();
        let holder = if live.is_some() { Held::Here } else { Held::Elsewhere };
        Ok(Concluded::UpTo { time: committed.max(live.and_then(|live| live.concluded)), holder })
    }
}
