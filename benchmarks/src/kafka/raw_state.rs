//! What a raw loop keeps of every key, in memory: so that it writes the bytes that a step writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Context as _;
use bus::RecordKey;
use bus::measure::{Load, QUIET, first_state, micros_of, noise};

/// About what a step says of its progress in each transaction.
const PROGRESS_BYTES: usize = 150;

/// State and timer of a key.
struct Kept {
    values: [Vec<u8>; 2],
    due: i64,
}

/// One partition.
#[derive(Default)]
struct Partition {
    keys: HashMap<RecordKey, Kept>,
    timers: BTreeSet<(i64, RecordKey)>,
    /// Since the last transaction.
    changed: BTreeSet<RecordKey>,
    time: i64,
}

/// All partitions of a loop.
pub(crate) struct States<'a> {
    load: &'a Load,
    partitions: BTreeMap<u32, Partition>,
}

impl<'a> States<'a> {
    pub(crate) fn new(load: &'a Load, partitions: &[u32]) -> Self {
        Self { load, partitions: partitions.iter().map(|number| (*number, Partition::default())).collect() }
    }

    /// What `bus::measure` does with a record: timers that are due before it, then its key's values and timer.
    pub(crate) fn handle(&mut self, partition: u32, key: RecordKey, value: &[u8]) -> anyhow::Result<()> {
        let load = self.load;
        let partition = self.partitions.get_mut(&partition).context("a partition of this loop")?;
        partition.time = partition.time.max(micros_of(value, load).unwrap_or_default());
        while let Some((due, ended)) = partition.timers.first().copied().filter(|(due, _)| *due <= partition.time) {
            partition.timers.remove(&(due, ended));
            partition.keys.remove(&ended);
            partition.changed.insert(ended);
        }
        let due = partition.time + i64::try_from(QUIET.as_micros())?;
        let kept = partition.keys.entry(key).or_insert_with(|| Kept { values: first_state(&key, load), due });
        for value in &mut kept.values {
            if let Some(first) = value.first_mut() {
                *first = first.wrapping_add(1);
            }
        }
        partition.timers.remove(&(kept.due, key));
        kept.due = due;
        partition.timers.insert((due, key));
        partition.changed.insert(key);
        Ok(())
    }

    /// Says what has changed since the last time, as messages of a changelog: partition, key, value.
    pub(crate) fn write(
        &mut self,
        mut send: impl FnMut(u32, &[u8], Option<&[u8]>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for (number, partition) in &mut self.partitions {
            let changed = std::mem::take(&mut partition.changed);
            if changed.is_empty() {
                continue;
            }
            for key in changed {
                let kept = partition.keys.get(&key);
                let values = kept.map(|kept| &kept.values);
                let due = kept.map(|kept| kept.due.to_be_bytes());
                let messages = [
                    (b's', "document", values.map(|values| values[0].as_slice())),
                    (b's', "summary", values.map(|values| values[1].as_slice())),
                    (b't', "close", due.as_ref().map(<[u8; 8]>::as_slice)),
                ];
                for (kind, name, value) in messages {
                    send(*number, &[&[kind], key.0.as_slice(), name.as_bytes()].concat(), value)?;
                }
            }
            send(*number, b"p", Some(&noise(partition.time.cast_unsigned(), PROGRESS_BYTES)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bus::measure::record;

    use super::*;

    #[test]
    fn a_key_is_written_once_a_transaction_and_ended_by_its_timer() {
        let load = Load { alternating_keys: 2, records_per_key: 3, record_bytes: 64, ..Load::default() };
        let mut states = States::new(&load, &[0]);
        let mut write = |numbers: std::ops::Range<u64>| {
            for number in numbers {
                let record = record(number, &load);
                states.handle(0, record.key, &record.value).unwrap();
            }
            let (mut values, mut gone) = (0, 0);
            states
                .write(|_, _, value| {
                    if value.is_some() {
                        values += 1
                    } else {
                        gone += 1
                    }
                    Ok(())
                })
                .unwrap();
            (values, gone)
        };
        // Two keys with three messages each, and the progress.
        assert_eq!(write(0..6), (7, 0));
        // 100 s a record: the first two keys were quiet for 300 s when the tenth record comes.
        assert_eq!(write(6..10), (7, 6));
    }
}
