//! The changelog of a step: a compacted topic with a partition for each of the input, from which the state of a
//! partition can be built anew on any machine.
//!
//! | key | value |
//! |---|---|
//! | `p` | where the partition is: [`Progress`] |
//! | `m` | an attempt that was about to be made: [`Mark`] |
//! | `s`, record key, name | a value of keyed state |
//! | `t`, record key, name | when that timer is due, microseconds, eight bytes, big-endian |
//! | `x`, record key | why that key is poisoned |
//! | `c`, length of the kind (two bytes, big-endian), kind, subject | what a control record said |
//!
//! No value: it is gone. All but marks are written in the transaction of the step.

use events::Timestamp;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::record::RecordKey;
use crate::worker::log::Suspicion;
use crate::worker::pending::Pending;
use crate::worker::tables;

/// All rows of a file are of one partition.
pub(super) const SLOT: i64 = 0;

pub(super) const PROGRESS: &[u8] = b"p";
pub(super) const MARK: &[u8] = b"m";

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The next position of the input: the same that the transaction commits for the group.
    pub(super) position: u64,
    pub(super) time: Option<i64>,
    pub(super) paused: Option<String>,
    #[serde(default)]
    pub(super) suspicion: Marked,
    /// Of the owner.
    pub(super) epoch: i64,
    /// Drawn when the partition is handled for the first time, and never again: a copy of another one is not ours, even
    /// if topics of the same names were made anew.
    #[serde(default)]
    pub(super) incarnation: String,
}

/// An attempt that was about to be made. It says something only when it stands behind the progress at whose position it
/// was made, and no later owner made one: a stopped owner that wakes up may still write its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) position: u64,
    pub(super) time: Option<i64>,
    pub(super) suspicion: Marked,
    pub(super) epoch: i64,
}

/// A [`Suspicion`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Marked {
    attempts: u32,
    until: u64,
    input: Option<String>,
    input_attempts: u32,
}

impl From<&Suspicion> for Marked {
    fn from(suspicion: &Suspicion) -> Self {
        let Suspicion { attempts, until, input, input_attempts } = suspicion.clone();
        Self { attempts, until, input, input_attempts }
    }
}

impl From<Marked> for Suspicion {
    fn from(marked: Marked) -> Self {
        let Marked { attempts, until, input, input_attempts } = marked;
        Self { attempts, until, input, input_attempts }
    }
}

fn keyed(kind: u8, key: &RecordKey, name: &str) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

fn control_key(kind: &str, subject: &str) -> Vec<u8> {
    let mut bytes = vec![b'c'];
    // Names of control records are bounded far below 2^16.
    bytes.extend_from_slice(&u16::try_from(kind.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(subject.as_bytes());
    bytes
}

/// A message of the changelog: key, and value if there is one.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// What a transaction changes, in the order in which it must be applied. A key that goes as a whole is looked up in the
/// file, which holds what was committed before.
pub(super) fn changes(connection: &Connection, pending: &Pending) -> rusqlite::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (key, of_key) in &pending.keys {
        if of_key.wiped {
            let states = tables::state_names(connection, SLOT, key)?;
            changes.extend(states.iter().map(|name| (keyed(b's', key, name), None)));
            let timers = tables::timer_names(connection, SLOT, key)?;
            changes.extend(timers.iter().map(|name| (keyed(b't', key, name), None)));
        }
        for (name, value) in &of_key.values {
            changes.push((keyed(b's', key, name), value.as_ref().map(|value| value.to_vec())));
        }
        for (name, due) in &of_key.timers {
            let due = due.map(|due| due.as_micros().to_be_bytes().to_vec());
            changes.push((keyed(b't', key, name), due));
        }
    }
    for (key, reason) in &pending.poisoned {
        changes.push((keyed(b'x', key, ""), reason.as_ref().map(|reason| reason.as_bytes().to_vec())));
    }
    for control in &pending.control {
        let value = (!control.value.is_empty()).then(|| control.value.to_vec());
        changes.push((control_key(&control.kind, &control.subject), value));
    }
    Ok(changes)
}

/// Applies a message to the tables; false: its key is none of ours.
pub(super) fn apply(connection: &Connection, key: &[u8], value: Option<&[u8]>) -> rusqlite::Result<bool> {
    let Some((kind, rest)) = key.split_first() else { return Ok(false) };
    if *kind == b'c' {
        let Some((length, names)) = rest.split_first_chunk::<2>() else { return Ok(false) };
        let Some((name, subject)) = names.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return Ok(false);
        };
        let (Ok(name), Ok(subject)) = (std::str::from_utf8(name), std::str::from_utf8(subject)) else {
            return Ok(false);
        };
        let (replace, remove) = (
            "INSERT OR REPLACE INTO control (slot, kind, subject, value) VALUES (?1, ?2, ?3, ?4)",
            "DELETE FROM control WHERE slot = ?1 AND kind = ?2 AND subject = ?3",
        );
        match value {
            Some(value) => connection.prepare_cached(replace)?.execute(params![SLOT, name, subject, value])?,
            None => connection.prepare_cached(remove)?.execute(params![SLOT, name, subject])?,
        };
        return Ok(true);
    }
    let Some((key, name)) = rest.split_first_chunk::<16>() else { return Ok(false) };
    let Ok(name) = std::str::from_utf8(name) else { return Ok(false) };
    match (*kind, value) {
        (b's', Some(value)) => {
            let replace = "INSERT OR REPLACE INTO state (slot, key, name, value) VALUES (?1, ?2, ?3, ?4)";
            connection.prepare_cached(replace)?.execute(params![SLOT, key, name, value])?;
        }
        (b's', None) => {
            let remove = "DELETE FROM state WHERE slot = ?1 AND key = ?2 AND name = ?3";
            connection.prepare_cached(remove)?.execute(params![SLOT, key, name])?;
        }
        (b't', Some(value)) => {
            let Ok(due) = value.try_into().map(i64::from_be_bytes) else { return Ok(false) };
            let replace = "INSERT OR REPLACE INTO timers (slot, key, name, due) VALUES (?1, ?2, ?3, ?4)";
            connection.prepare_cached(replace)?.execute(params![SLOT, key, name, due])?;
        }
        (b't', None) => {
            let remove = "DELETE FROM timers WHERE slot = ?1 AND key = ?2 AND name = ?3";
            connection.prepare_cached(remove)?.execute(params![SLOT, key, name])?;
        }
        (b'x', Some(value)) => {
            let replace = "INSERT OR REPLACE INTO poisoned_keys (slot, key, reason) VALUES (?1, ?2, ?3)";
            connection.prepare_cached(replace)?.execute(params![SLOT, key, String::from_utf8_lossy(value)])?;
        }
        (b'x', None) => {
            let remove = "DELETE FROM poisoned_keys WHERE slot = ?1 AND key = ?2";
            connection.prepare_cached(remove)?.execute(params![SLOT, key])?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// What everybody may know of a partition: it stands beside the committed position of the group, so that whoever asks
/// for one has the other as of the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) time: Option<i64>,
    pub(super) paused: Option<String>,
    pub(super) timers: u64,
    pub(super) due: Option<i64>,
    pub(super) poisoned: u64,
    /// As in [`Progress`].
    #[serde(default)]
    pub(super) incarnation: String,
}

impl Told {
    /// Up to where everything is in the outputs: a timer that is due and has not fired holds that back.
    pub(super) fn concluded(&self) -> Option<Timestamp> {
        let time = self.time?;
        Some(Timestamp::from_micros(self.due.map_or(time, |due| time.min(due.saturating_sub(1)))))
    }
}

/// Where a message of the changelog belongs, for what is counted.
pub(super) enum Place<'a> {
    Timer { key: &'a [u8], name: &'a str },
    Poisoned { key: &'a [u8] },
}

/// The place of a key of the changelog; none: nothing that is counted.
pub(super) fn place_of(key: &[u8]) -> Option<Place<'_>> {
    let (kind, rest) = key.split_first()?;
    let (key, name) = rest.split_at_checked(16)?;
    match kind {
        b't' => Some(Place::Timer { key, name: std::str::from_utf8(name).ok()? }),
        b'x' => Some(Place::Poisoned { key }),
        _ => None,
    }
}
