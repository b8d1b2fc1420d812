//! What a transaction of a step will write, and the handler's view on the way there.
//!
//! Two layers lie over the file: what earlier inputs of the same transaction changed ([`Pending`]), and what the
//! current input changed ([`RecordContext`]). The upper one is merged into the lower one when the handler says `Ok`,
//! and vanishes otherwise; the lower one is written when the transaction commits, and vanishes otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use events::Timestamp;

use super::cache::{Answer, StateCache};
use super::log::PartitionLog;
use super::timers::TimerWindow;
use crate::control::{Control, ControlTable};
use crate::error::BusError;
use crate::record::{Record, RecordKey};
use crate::step::{StepContext, StepSpec};
use crate::{REASON_LIMIT_EXCEEDED, REASON_UNDECLARED_OUTPUT};

/// Changes of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyChanges {
    /// Everything that the file holds of the key goes first.
    pub(crate) wiped: bool,
    pub(crate) values: BTreeMap<String, Option<Bytes>>,
    pub(crate) timers: BTreeMap<String, Option<Timestamp>>,
}

/// Everything that one transaction writes besides position and time.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) keys: BTreeMap<RecordKey, KeyChanges>,
    /// Index of the output in the step's declaration, and the record.
    pub(crate) emitted: Vec<(usize, Record)>,
    pub(crate) dead_letters: Vec<Record>,
    /// Reason: poisoned now; none: released now.
    pub(crate) poisoned: BTreeMap<RecordKey, Option<String>>,
    pub(crate) control: Vec<Control>,
    /// About the bytes of all this.
    pub(crate) bytes: usize,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.emitted.is_empty()
            && self.dead_letters.is_empty()
            && self.poisoned.is_empty()
            && self.control.is_empty()
    }

    /// State, timers and all of a key go.
    pub(crate) fn wipe(&mut self, key: RecordKey) {
        self.keys.insert(key, KeyChanges { wiped: true, ..KeyChanges::default() });
    }

    fn value(&self, key: &RecordKey, name: &str) -> Option<Option<Bytes>> {
        let changes = self.keys.get(key)?;
        changes.values.get(name).cloned().or(changes.wiped.then_some(None))
    }

    fn merge(&mut self, key: RecordKey, changes: KeyChanges) {
        self.bytes += changes.values.values().flatten().map(Bytes::len).sum::<usize>();
        self.bytes += 64 * (changes.values.len() + changes.timers.len());
        let mine = self.keys.entry(key).or_default();
        mine.values.extend(changes.values);
        mine.timers.extend(changes.timers);
    }
}

/// The entries whose names start with `prefix`, in order.
fn under<'a, V>(values: &'a BTreeMap<String, V>, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a V)> {
    let from = values.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(name, _)| name.starts_with(prefix))
}

/// Committed keyed state: the cache over the log.
pub(crate) struct CommittedState<'a> {
    pub(crate) log: &'a dyn PartitionLog,
    pub(crate) cache: &'a mut StateCache,
}

impl CommittedState<'_> {
    /// Has the cache know the key, where there is room for it.
    fn look_up(&mut self, key: &RecordKey) -> Result<(), BusError> {
        if !self.cache.uses(key) {
            self.cache.learn(*key, self.log.outline(key)?);
        }
        Ok(())
    }

    fn get(&mut self, key: &RecordKey, name: &str) -> Result<Option<Bytes>, BusError> {
        self.look_up(key)?;
        if let Answer::Known(value) = self.cache.get(key, name) {
            return Ok(value);
        }
        let value = self.log.state(key, name)?;
        if let Some(value) = &value {
            self.cache.fill(key, name, value);
        }
        Ok(value)
    }

    fn names(&mut self, key: &RecordKey, prefix: &str) -> Result<Vec<String>, BusError> {
        self.look_up(key)?;
        if let Some(state) = self.cache.whole(key) {
            return Ok(under(state, prefix).map(|(name, _)| name.clone()).collect());
        }
        let mut names = self.log.state_names(key)?;
        names.retain(|name| name.starts_with(prefix));
        Ok(names)
    }

    /// What is not in memory is read in one statement.
    fn entries(&mut self, key: &RecordKey, prefix: &str) -> Result<Vec<(String, Bytes)>, BusError> {
        self.look_up(key)?;
        if let Some(state) = self.cache.whole(key) {
            let entry = |(name, value): (&String, &Option<Bytes>)| Some((name.clone(), value.clone()?));
            let known: Option<Vec<(String, Bytes)>> = under(state, prefix).map(entry).collect();
            if let Some(known) = known {
                return Ok(known);
            }
        }
        let entries = self.log.states(key, prefix)?;
        for (name, value) in &entries {
            self.cache.fill(key, name, value);
        }
        Ok(entries)
    }

    /// All state of a key as the transaction has left it so far.
    pub(crate) fn with_pending(&self, key: &RecordKey, pending: &Pending) -> Result<Vec<(String, Bytes)>, BusError> {
        let changes = pending.keys.get(key);
        let wiped = changes.is_some_and(|changes| changes.wiped);
        let mut state: BTreeMap<String, Bytes> =
            if wiped { BTreeMap::new() } else { self.log.states(key, "")?.into_iter().collect() };
        for (name, value) in changes.iter().flat_map(|changes| &changes.values) {
            match value {
                Some(value) => state.insert(name.clone(), value.clone()),
                None => state.remove(name),
            };
        }
        Ok(state.into_iter().collect())
    }
}

/// The handler's view while it handles one input.
pub(crate) struct RecordContext<'a> {
    pub(crate) spec: &'a StepSpec,
    pub(crate) outputs: &'a HashMap<String, usize>,
    pub(crate) record_bytes: usize,
    pub(crate) key: RecordKey,
    pub(crate) partition: u32,
    pub(crate) time: Timestamp,
    pub(crate) control: &'a ControlTable,
    pub(crate) committed: CommittedState<'a>,
    pub(crate) pending: &'a mut Pending,
    changes: KeyChanges,
    emitted: Vec<(usize, Record)>,
    fault: Option<&'static str>,
    undecodable: bool,
    failure: Option<BusError>,
}

/// What a context is made of.
pub(crate) struct ContextParts<'a> {
    pub(crate) spec: &'a StepSpec,
    pub(crate) outputs: &'a HashMap<String, usize>,
    pub(crate) record_bytes: usize,
    pub(crate) key: RecordKey,
    pub(crate) partition: u32,
    pub(crate) time: Timestamp,
    pub(crate) control: &'a ControlTable,
    pub(crate) committed: CommittedState<'a>,
    pub(crate) pending: &'a mut Pending,
}

impl<'a> RecordContext<'a> {
    pub(crate) fn new(parts: ContextParts<'a>) -> Self {
        let ContextParts { spec, outputs, record_bytes, key, partition, time, control, committed, pending } = parts;
        Self {
            spec,
            outputs,
            record_bytes,
            key,
            partition,
            time,
            control,
            committed,
            pending,
            changes: KeyChanges::default(),
            emitted: Vec::new(),
            fault: None,
            undecodable: false,
            failure: None,
        }
    }

    /// The timer that is being handled is not set any more.
    pub(crate) fn timer_fired(&mut self, name: &str) {
        self.changes.timers.insert(name.to_owned(), None);
    }

    /// A read that failed: the whole transaction must be given up, whatever the handler made of it.
    pub(crate) fn failure(&mut self) -> Option<BusError> {
        self.failure.take()
    }

    /// Why the bus itself calls the input poison, if it does.
    pub(crate) const fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    pub(crate) const fn undecodable(&self) -> bool {
        self.undecodable
    }

    /// Merges what the input changed into what the transaction writes.
    pub(crate) fn accept(self, timers: &mut TimerWindow) {
        let Self { key, pending, changes, emitted, .. } = self;
        for (name, due) in &changes.timers {
            timers.set(key, name, *due);
        }
        pending.bytes += emitted.iter().map(|(_, record)| record.value.len() + 64).sum::<usize>();
        pending.emitted.extend(emitted);
        if !changes.values.is_empty() || !changes.timers.is_empty() {
            pending.merge(key, changes);
        }
    }

    /// Whether nothing of what the file holds of the key counts any more.
    fn is_wiped(&self) -> bool {
        self.pending.keys.get(&self.key).is_some_and(|changes| changes.wiped)
    }

    /// What earlier inputs of the transaction changed of the key, and then what this one did, under a prefix.
    fn changed<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = (&'c String, &'c Option<Bytes>)> {
        let earlier = self.pending.keys.get(&self.key).map(|changes| &changes.values);
        earlier.into_iter().chain([&self.changes.values]).flat_map(move |values| under(values, prefix))
    }

    fn or_fail<R: Default>(&mut self, result: Result<R, BusError>) -> R {
        result.unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            R::default()
        })
    }
}

impl StepContext for RecordContext<'_> {
    fn key(&self) -> RecordKey {
        self.key
    }

    fn partition(&self) -> u32 {
        self.partition
    }

    fn partition_time(&self) -> Timestamp {
        self.time
    }

    fn get(&mut self, name: &str) -> Option<Bytes> {
        if let Some(changed) = self.changes.values.get(name) {
            return changed.clone();
        }
        if let Some(changed) = self.pending.value(&self.key, name) {
            return changed;
        }
        let value = self.committed.get(&self.key, name);
        self.or_fail(value)
    }

    fn put(&mut self, name: &str, value: Bytes) {
        if value.len() > self.spec.limits.state_value_bytes {
            self.fault.get_or_insert(REASON_LIMIT_EXCEEDED);
        } else {
            self.changes.values.insert(name.to_owned(), Some(value));
        }
    }

    fn delete(&mut self, name: &str) {
        self.changes.values.insert(name.to_owned(), None);
    }

    fn names(&mut self, prefix: &str) -> Vec<String> {
        let stored = if self.is_wiped() { Ok(Vec::new()) } else { self.committed.names(&self.key, prefix) };
        let mut names: BTreeSet<String> = self.or_fail(stored).into_iter().collect();
        for (name, value) in self.changed(prefix) {
            if value.is_some() {
                names.insert(name.clone());
            } else {
                names.remove(name);
            }
        }
        names.into_iter().collect()
    }

    fn entries(&mut self, prefix: &str) -> Vec<(String, Bytes)> {
        let stored = if self.is_wiped() { Ok(Vec::new()) } else { self.committed.entries(&self.key, prefix) };
        let mut entries: BTreeMap<String, Bytes> = self.or_fail(stored).into_iter().collect();
        for (name, value) in self.changed(prefix) {
            match value {
                Some(value) => entries.insert(name.clone(), value.clone()),
                None => entries.remove(name),
            };
        }
        entries.into_iter().collect()
    }

    fn set_timer(&mut self, name: &str, due: Timestamp) {
        self.changes.timers.insert(name.to_owned(), Some(due));
    }

    fn cancel_timer(&mut self, name: &str) {
        self.changes.timers.insert(name.to_owned(), None);
    }

    fn emit(&mut self, topic: &str, record: Record) {
        match self.outputs.get(topic) {
            None => {
                self.fault.get_or_insert(REASON_UNDECLARED_OUTPUT);
            }
            Some(_) if record.value.len() > self.record_bytes => {
                self.fault.get_or_insert(REASON_LIMIT_EXCEEDED);
            }
            Some(output) => self.emitted.push((*output, record)),
        }
    }

    fn control(&self, kind: &str, subject: &str) -> Option<Bytes> {
        self.control.get(kind, subject).cloned()
    }

    fn undecodable(&mut self, _name: &str) {
        self.undecodable = true;
    }
}
