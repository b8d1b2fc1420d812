//! The reference model: a step executed one record at a time over plain maps, without a log, threads or transactions.
//!
//! It says what a step means. Rooms test their handlers with it, and the property tests of this crate compare every
//! implementation of the bus with it under random schedules of crashes, fencing, poison, timers and pauses.

pub mod scripted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use events::Timestamp;

use crate::control::{Control, ControlTable, RELEASE_KEY};
use crate::dead_letter::{DeadLetter, DeadLetterKind};
use crate::partition::partition_for;
use crate::record::{CommittedRecord, Position, Record, RecordKey};
use crate::step::{Failed, FailedInput, Input, Outcome, Prepared, StepContext, StepHandler, StepSpec};
use crate::{IDLE_AFTER, REASON_KEY_POISONED, REASON_LIMIT_EXCEEDED, REASON_PANIC, REASON_UNDECLARED_OUTPUT};

enum Entry {
    Data(CommittedRecord),
    Control(Control),
}

#[derive(Default)]
struct KeyState {
    values: BTreeMap<String, Bytes>,
    timers: BTreeMap<String, Timestamp>,
}

/// What stood there before a handler changed it.
enum Before {
    Value(String, Option<Bytes>),
    Timer(String, Option<Timestamp>),
}

impl KeyState {
    /// Takes changes back, last first.
    fn revert(&mut self, changes: Vec<Before>) {
        for change in changes.into_iter().rev() {
            match change {
                Before::Value(name, Some(value)) => {
                    self.values.insert(name, value);
                }
                Before::Value(name, None) => {
                    self.values.remove(&name);
                }
                Before::Timer(name, Some(due)) => {
                    self.timers.insert(name, due);
                }
                Before::Timer(name, None) => {
                    self.timers.remove(&name);
                }
            }
        }
    }
}

#[derive(Default)]
struct Partition {
    waiting: VecDeque<Entry>,
    next: Position,
    end: Position,
    time: Option<Timestamp>,
    keys: BTreeMap<RecordKey, KeyState>,
    /// The timers of all keys, in the order in which they fire.
    due: BTreeSet<(Timestamp, RecordKey, String)>,
    poisoned: BTreeSet<RecordKey>,
    control: ControlTable,
}

impl Partition {
    /// Brings the order of firing in line with what a handler did to timers of a key.
    fn reschedule(&mut self, key: RecordKey, changes: Vec<Before>) {
        for change in changes {
            let Before::Timer(name, before) = change else { continue };
            if let Some(before) = before {
                self.due.remove(&(before, key, name.clone()));
            }
            if let Some(due) = self.keys.get(&key).and_then(|state| state.timers.get(&name)) {
                self.due.insert((*due, key, name));
            }
        }
    }

    /// Everything that was kept of a key, which goes with this.
    fn forget(&mut self, key: RecordKey) -> BTreeMap<String, Bytes> {
        let KeyState { values, timers } = self.keys.remove(&key).unwrap_or_default();
        for (name, due) in timers {
            self.due.remove(&(due, key, name));
        }
        values
    }
}

/// A step over plain maps, driven by hand.
pub struct ReferenceStep {
    spec: StepSpec,
    handler: Arc<dyn StepHandler>,
    topic: Arc<str>,
    partitions: Vec<Partition>,
    emitted: Vec<(String, Record)>,
    dead_letters: Vec<DeadLetter>,
    now: Timestamp,
}

/// A partition that waits, and the names of what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// The partition.
    pub partition: u32,
    /// What the handler named.
    pub dependencies: Vec<String>,
}

impl ReferenceStep {
    /// A step without records, state or timers.
    #[must_use]
    pub fn new(spec: StepSpec, handler: Arc<dyn StepHandler>, partitions: u32) -> Self {
        let topic = Arc::from(spec.input.as_str());
        let partitions = (0..partitions.max(1)).map(|_| Partition::default()).collect();
        let (emitted, dead_letters) = (Vec::new(), Vec::new());
        Self { spec, handler, topic, partitions, emitted, dead_letters, now: Timestamp::EPOCH }
    }

    /// Appends a record to the input; [`ReferenceStep::run`] handles it. Its `appended_at` is the time of the last
    /// [`ReferenceStep::advance_to`].
    pub fn publish(&mut self, record: Record) -> CommittedRecord {
        let partition = self.partition_of(&record.key);
        let state = &mut self.partitions[partition];
        let position = state.end;
        state.end = position.next();
        let committed = CommittedRecord {
            topic: Arc::clone(&self.topic),
            partition: u32::try_from(partition).unwrap_or(u32::MAX),
            position,
            key: record.key,
            value: record.value,
            appended_at: self.now,
        };
        state.waiting.push_back(Entry::Data(committed.clone()));
        committed
    }

    /// Appends a control record to every partition of the input. Ignored when kind or subject cannot be used.
    pub fn publish_control(&mut self, kind: &str, subject: &str, value: Bytes) {
        let Some(control) = Control::new(kind, subject, value) else { return };
        for partition in &mut self.partitions {
            partition.end = partition.end.next();
            partition.waiting.push_back(Entry::Control(control.clone()));
        }
    }

    /// Handles what waits, until it is done or waits for a dependency. Empty when nothing waits any more.
    pub fn run(&mut self) -> Vec<Paused> {
        (0..self.partitions.len())
            .filter_map(|index| {
                let partition = u32::try_from(index).unwrap_or(u32::MAX);
                self.run_partition(index).err().map(|dependencies| Paused { partition, dependencies })
            })
            .collect()
    }

    /// The own clock goes on to `now`: every partition that was read to its end is idle for long enough, its time
    /// becomes `now` less 2 s, and its due timers fire. As far as this step knows, no other one writes its input: see
    /// [`ReferenceStep::advance_behind`].
    pub fn advance_to(&mut self, now: Timestamp) -> Vec<Paused> {
        let idle = Some(now - IDLE_AFTER);
        let reached = vec![idle; self.partitions.len()];
        self.advance(now, &reached)
    }

    /// The same behind the step that writes the input: no partition's time passes what that step has concluded there.
    pub fn advance_behind(&mut self, now: Timestamp, before: &Self) -> Vec<Paused> {
        let idle = now - IDLE_AFTER;
        let concluded = |index: usize| before.concluded(index).map(|concluded| concluded.min(idle));
        let reached: Vec<Option<Timestamp>> = (0..self.partitions.len()).map(concluded).collect();
        self.advance(now, &reached)
    }

    /// Up to where everything of a partition is emitted: a timer that is due and has not fired holds that back.
    fn concluded(&self, index: usize) -> Option<Timestamp> {
        let partition = self.partitions.get(index)?;
        let before_due = partition.due.first().map(|(due, ..)| Timestamp::from_micros(due.as_micros() - 1));
        partition.time.map(|time| before_due.map_or(time, |before_due| time.min(before_due)))
    }

    fn advance(&mut self, now: Timestamp, reached: &[Option<Timestamp>]) -> Vec<Paused> {
        self.now = self.now.max(now);
        let mut paused = self.run();
        for (index, reached) in reached.iter().enumerate() {
            if self.partitions[index].waiting.is_empty() {
                self.partitions[index].time = self.partitions[index].time.max(*reached);
                let partition = u32::try_from(index).unwrap_or(u32::MAX);
                if let Err(dependencies) = self.fire_due(index)
                    && paused.iter().all(|known| known.partition != partition)
                {
                    paused.push(Paused { partition, dependencies });
                }
            }
        }
        paused
    }

    /// Everything emitted to a topic, in order.
    #[must_use]
    pub fn emitted(&self, topic: &str) -> Vec<Record> {
        self.emitted.iter().filter(|(to, _)| to == topic).map(|(_, record)| record.clone()).collect()
    }

    /// Everything emitted to a topic since the last time it was taken.
    pub fn take_emitted(&mut self, topic: &str) -> Vec<Record> {
        let (taken, rest) = std::mem::take(&mut self.emitted).into_iter().partition(|(to, _)| to == topic);
        self.emitted = rest;
        let taken: Vec<(String, Record)> = taken;
        taken.into_iter().map(|(_, record)| record).collect()
    }

    /// The dead letters, in order.
    #[must_use]
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// The keyed state of a key, by name.
    #[must_use]
    pub fn state(&self, key: &RecordKey) -> BTreeMap<String, Bytes> {
        self.key_state(key).map(|state| state.values.clone()).unwrap_or_default()
    }

    /// The timers of a key, by name.
    #[must_use]
    pub fn timers(&self, key: &RecordKey) -> BTreeMap<String, Timestamp> {
        self.key_state(key).map(|state| state.timers.clone()).unwrap_or_default()
    }

    /// Whether the key is poisoned.
    #[must_use]
    pub fn is_poisoned(&self, key: &RecordKey) -> bool {
        self.partitions[self.partition_of(key)].poisoned.contains(key)
    }

    /// The time of a partition, once it has one.
    #[must_use]
    pub fn partition_time(&self, partition: u32) -> Option<Timestamp> {
        self.partitions.get(partition as usize)?.time
    }

    fn partition_of(&self, key: &RecordKey) -> usize {
        partition_for(key, u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)) as usize
    }

    fn key_state(&self, key: &RecordKey) -> Option<&KeyState> {
        self.partitions[self.partition_of(key)].keys.get(key)
    }

    fn run_partition(&mut self, index: usize) -> Result<(), Vec<String>> {
        loop {
            self.fire_due(index)?;
            let Some(entry) = self.partitions[index].waiting.front() else { return Ok(()) };
            match entry {
                Entry::Control(control) => {
                    let control = control.clone();
                    let partition = &mut self.partitions[index];
                    if control.kind == RELEASE_KEY
                        && let Ok(key) = control.subject.parse()
                    {
                        partition.poisoned.remove(&key);
                    }
                    partition.control.apply(control);
                }
                Entry::Data(record) => {
                    let record = record.clone();
                    self.record(index, &record)?;
                }
            }
            let partition = &mut self.partitions[index];
            partition.waiting.pop_front();
            partition.next = partition.next.next();
        }
    }

    fn record(&mut self, index: usize, record: &CommittedRecord) -> Result<(), Vec<String>> {
        let prepared = catch_unwind(AssertUnwindSafe(|| self.handler.prepare(std::slice::from_ref(record))))
            .map_or_else(|_| Some(Prepared::Poison(REASON_PANIC.to_owned())), |mut prepared| prepared.pop())
            .unwrap_or(Prepared::Nothing);
        let received = catch_unwind(AssertUnwindSafe(|| self.handler.partition_time_of(record, &prepared)));
        let partition = &mut self.partitions[index];
        partition.time = partition.time.max(received.unwrap_or(None));
        self.fire_due(index)?;
        let failed = FailedInput::Record(record);
        let is_poisoned = self.partitions[index].poisoned.contains(&record.key);
        match prepared {
            Prepared::Unavailable(names) => return Err(names),
            _ if is_poisoned => self.dead_letter(index, record.key, failed, REASON_KEY_POISONED, false),
            Prepared::Poison(reason) => self.dead_letter(index, record.key, failed, &reason, false),
            prepared => match self.handle(index, record.key, Input::Record { record, prepared })? {
                Ok(()) => {}
                Err((reason, poisons_key)) => self.dead_letter(index, record.key, failed, &reason, poisons_key),
            },
        }
        Ok(())
    }

    fn fire_due(&mut self, index: usize) -> Result<(), Vec<String>> {
        loop {
            let partition = &self.partitions[index];
            let Some(time) = partition.time else { return Ok(()) };
            let first = partition.due.first().filter(|(due, ..)| *due <= time);
            let Some((due, key, name)) = first.cloned() else { return Ok(()) };
            if let Err((reason, _)) = self.handle(index, key, Input::Timer { name: &name, due })? {
                self.dead_letter(index, key, FailedInput::Timer { name: &name, due }, &reason, true);
            }
        }
    }

    /// Runs the handler on the key's state; what it did there is taken back unless all is well. The inner error is the
    /// reason of poison and whether the key is poisoned with it.
    fn handle(
        &mut self,
        index: usize,
        key: RecordKey,
        input: Input<'_>,
    ) -> Result<Result<(), (String, bool)>, Vec<String>> {
        let partition = &mut self.partitions[index];
        let was_known = partition.keys.contains_key(&key);
        let mut context = Context {
            spec: &self.spec,
            key,
            partition: u32::try_from(index).unwrap_or(u32::MAX),
            time: partition.time.unwrap_or(Timestamp::EPOCH),
            control: &partition.control,
            state: partition.keys.entry(key).or_default(),
            changes: Vec::new(),
            emitted: Vec::new(),
            fault: None,
            undecodable: false,
        };
        if let Input::Timer { name, .. } = &input {
            context.cancel_timer(name);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.handler.handle(input, &mut context)))
            .unwrap_or_else(|_| Outcome::Poison(REASON_PANIC.to_owned()));
        let Context { state, changes, mut emitted, fault, undecodable, .. } = context;
        let failed = match (outcome, fault) {
            (Outcome::Ok, None) => {
                self.emitted.append(&mut emitted);
                partition.reschedule(key, changes);
                return Ok(Ok(()));
            }
            (Outcome::Unavailable(dependency), _) => Err(vec![dependency]),
            (Outcome::Poison(reason), _) => Ok(Err((reason, undecodable))),
            (Outcome::Ok, Some(fault)) => Ok(Err((fault.to_owned(), false))),
        };
        state.revert(changes);
        if !was_known {
            partition.keys.remove(&key);
        }
        failed
    }

    fn dead_letter(&mut self, index: usize, key: RecordKey, input: FailedInput<'_>, reason: &str, poisons_key: bool) {
        let partition = &mut self.partitions[index];
        let mut lost_state = Vec::new();
        if poisons_key {
            partition.poisoned.insert(key);
            lost_state.extend(partition.forget(key));
        }
        let partition_time = partition.time.unwrap_or(Timestamp::EPOCH);
        let (kind, position, timer) = match input {
            FailedInput::Record(record) => (DeadLetterKind::Record, record.position, None),
            FailedInput::Timer { name, due } => (DeadLetterKind::Timer, partition.next, Some((name.to_owned(), due))),
        };
        let failed = Failed { key, reason, partition_time, input, lost_state: &lost_state };
        let sealed = catch_unwind(AssertUnwindSafe(|| self.handler.dead_letter(&failed))).unwrap_or_default();
        self.dead_letters.push(DeadLetter {
            step: self.spec.name.clone(),
            topic: self.spec.input.clone(),
            partition: u32::try_from(index).unwrap_or(u32::MAX),
            position,
            key,
            kind,
            timer_name: timer.as_ref().map(|(name, _)| name.clone()),
            due_at: timer.map(|(_, due)| due),
            reason: reason.to_owned(),
            key_poisoned: poisons_key,
            partition_time,
            payload: sealed.payload,
            affected: sealed.affected,
        });
    }
}

struct Context<'a> {
    spec: &'a StepSpec,
    key: RecordKey,
    partition: u32,
    time: Timestamp,
    control: &'a ControlTable,
    state: &'a mut KeyState,
    changes: Vec<Before>,
    emitted: Vec<(String, Record)>,
    fault: Option<&'static str>,
    undecodable: bool,
}

impl StepContext for Context<'_> {
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
        self.state.values.get(name).cloned()
    }

    fn put(&mut self, name: &str, value: Bytes) {
        if value.len() > self.spec.limits.state_value_bytes {
            self.fault.get_or_insert(REASON_LIMIT_EXCEEDED);
        } else {
            let before = self.state.values.insert(name.to_owned(), value);
            self.changes.push(Before::Value(name.to_owned(), before));
        }
    }

    fn delete(&mut self, name: &str) {
        if let Some((name, before)) = self.state.values.remove_entry(name) {
            self.changes.push(Before::Value(name, Some(before)));
        }
    }

    fn names(&mut self, prefix: &str) -> Vec<String> {
        self.entries(prefix).into_iter().map(|(name, _)| name).collect()
    }

    fn entries(&mut self, prefix: &str) -> Vec<(String, Bytes)> {
        let from = self.state.values.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let under = from.take_while(|(name, _)| name.starts_with(prefix));
        under.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn set_timer(&mut self, name: &str, due: Timestamp) {
        let before = self.state.timers.insert(name.to_owned(), due);
        self.changes.push(Before::Timer(name.to_owned(), before));
    }

    fn cancel_timer(&mut self, name: &str) {
        if let Some((name, before)) = self.state.timers.remove_entry(name) {
            self.changes.push(Before::Timer(name, Some(before)));
        }
    }

    fn emit(&mut self, topic: &str, record: Record) {
        if self.spec.outputs.iter().any(|output| output == topic) {
            self.emitted.push((topic.to_owned(), record));
        } else {
            self.fault.get_or_insert(REASON_UNDECLARED_OUTPUT);
        }
    }

    fn control(&self, kind: &str, subject: &str) -> Option<Bytes> {
        self.control.get(kind, subject).cloned()
    }

    fn undecodable(&mut self, _name: &str) {
        self.undecodable = true;
    }
}
