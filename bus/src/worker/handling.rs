//! Handling what a turn works on: records, timers and control records, one at a time, and giving up what is poison.
//!
//! Everything goes into [`Computed`]; only its commit makes it visible.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use events::Timestamp;

use super::log::PartitionLog;
use super::pending::{CommittedState, ContextParts, RecordContext};
use super::timers::NextTimer;
use super::{Computed, Entry, MOST_ATTEMPTS, PartitionWorker, Work};
use crate::control::{Control, RELEASE_KEY};
use crate::dead_letter::{DeadLetter, DeadLetterKind};
use crate::error::BusError;
use crate::record::{Position, Record, RecordKey};
use crate::step::{Failed, FailedInput, Input, Outcome, Prepared};
use crate::{REASON_KEY_POISONED, REASON_KILLED_PROCESS, REASON_PANIC};

/// How one input ended.
enum Handled {
    Done,
    Wait(Vec<String>),
}

impl<L: PartitionLog> PartitionWorker<L> {
    /// Handles the work. Nothing of it is visible outside until it is committed.
    pub(super) fn compute(&mut self, work: Work) -> Result<Computed, BusError> {
        let mut computed = self.nothing_but_time();
        let done = match work {
            Work::Batch { records } => self.compute_batch(&mut computed, records),
            Work::Alone { record: None, attempts } => self.fire(&mut computed, attempts).map(|_| ()),
            Work::Alone { record: Some(entry), attempts } => {
                self.compute_entry(&mut computed, entry, attempts).map(|_| ())
            }
        };
        done.map(|()| {
            computed.time = self.loaded.as_ref().and_then(|loaded| loaded.time);
            computed
        })
    }

    fn compute_batch(&mut self, computed: &mut Computed, entries: Vec<Entry>) -> Result<(), BusError> {
        // A batch that waits for keys names all keys that it lacks, so that they are fetched at once.
        let mut missing: Vec<String> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Data { prepared: Prepared::Unavailable(names), .. } => Some(names.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let limits = self.shared.spec.limits.clone();
        let mut fired = 0;
        for entry in entries {
            // Timers that the last input set and made due at once, at the time that it had: whether a batch ended
            // between the two must make no difference.
            if !self.fire_all(computed, &mut fired)? {
                return Ok(());
            }
            if let Entry::Data { record, prepared } = &entry {
                let received = self.received_at(record, prepared);
                let loaded = self.loaded()?;
                loaded.time = loaded.time.max(received);
                if !self.fire_all(computed, &mut fired)? {
                    return Ok(());
                }
            }
            if !self.compute_entry(computed, entry, 0)? {
                if let Some(paused) =
                    computed.paused.as_mut().filter(|paused| paused.iter().any(|name| missing.contains(name)))
                {
                    // What the record itself waits for stands first: that is what is shown.
                    missing.retain(|name| !paused.contains(name));
                    missing.sort();
                    missing.dedup();
                    paused.append(&mut missing);
                }
                return Ok(());
            }
            if computed.pending.bytes > limits.batch_bytes.saturating_mul(4) {
                return Ok(());
            }
        }
        self.fire_all(computed, &mut fired).map(drop)
    }

    /// Fires every due timer. False: the batch ends here.
    fn fire_all(&mut self, computed: &mut Computed, fired: &mut usize) -> Result<bool, BusError> {
        loop {
            let most = self.shared.spec.limits.batch_timers.max(1);
            let loaded = self.loaded()?;
            match loaded.timers.next(loaded.time) {
                NextTimer::None => return Ok(true),
                NextTimer::Load => {
                    self.reload_timers = true;
                    return Ok(false);
                }
                NextTimer::Due { .. } if *fired >= most => return Ok(false),
                NextTimer::Due { .. } => {
                    if !self.fire(computed, 0)? {
                        return Ok(false);
                    }
                    *fired += 1;
                }
            }
        }
    }

    /// Fires the next timer. False: the partition waits.
    fn fire(&mut self, computed: &mut Computed, attempts: u32) -> Result<bool, BusError> {
        let loaded = self.loaded()?;
        let NextTimer::Due { due, key, name } = loaded.timers.next(loaded.time) else { return Ok(true) };
        computed.handled += 1;
        let failed = FailedInput::Timer { name: &name, due };
        if attempts >= MOST_ATTEMPTS {
            self.give_up(computed, key, failed, REASON_KILLED_PROCESS, true, attempts == MOST_ATTEMPTS)?;
            return Ok(true);
        }
        match self.handle(computed, key, Input::Timer { name: &name, due })? {
            Err((reason, _)) => self.give_up(computed, key, failed, &reason, true, true)?,
            Ok(Handled::Done) => {}
            Ok(Handled::Wait(dependencies)) => {
                computed.paused = Some(dependencies);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Handles one record or control record. False: the partition waits, and the position stays before it.
    fn compute_entry(&mut self, computed: &mut Computed, entry: Entry, attempts: u32) -> Result<bool, BusError> {
        let position = match entry {
            Entry::Control { position, control } => {
                if let Some(control) = control {
                    self.apply_control(computed, control)?;
                }
                position
            }
            Entry::Data { record, prepared } => {
                computed.handled += 1;
                let key = record.key;
                let failed = FailedInput::Record(&record);
                if attempts >= MOST_ATTEMPTS {
                    let sealing = attempts == MOST_ATTEMPTS;
                    self.give_up(computed, key, failed, REASON_KILLED_PROCESS, false, sealing)?;
                } else if let Prepared::Unavailable(names) = prepared {
                    // Also of a poisoned key: what cannot be read yet cannot be accounted for in a dead letter.
                    computed.paused = Some(names);
                    return Ok(false);
                } else if self.loaded()?.poisoned.contains(&key) {
                    self.give_up(computed, key, failed, REASON_KEY_POISONED, false, true)?;
                } else if let Prepared::Poison(reason) = prepared {
                    self.give_up(computed, key, failed, &reason, false, true)?;
                } else {
                    match self.handle(computed, key, Input::Record { record: &record, prepared })? {
                        Err((reason, poisons_key)) => {
                            self.give_up(computed, key, failed, &reason, poisons_key, true)?
                        }
                        Ok(Handled::Done) => {}
                        Ok(Handled::Wait(dependencies)) => {
                            computed.paused = Some(dependencies);
                            return Ok(false);
                        }
                    }
                }
                record.position.offset()
            }
        };
        computed.position = position + 1;
        Ok(true)
    }

    fn apply_control(&mut self, computed: &mut Computed, control: Control) -> Result<(), BusError> {
        let loaded = self.loaded()?;
        if control.kind == RELEASE_KEY
            && let Ok(key) = control.subject.parse()
            && loaded.poisoned.remove(&key)
        {
            computed.pending.poisoned.insert(key, None);
        }
        loaded.control.apply(control.clone());
        computed.pending.control.push(control);
        Ok(())
    }

    /// Runs the handler. The inner error is the reason of poison, and whether the key is poisoned with it.
    fn handle(
        &mut self,
        computed: &mut Computed,
        key: RecordKey,
        input: Input<'_>,
    ) -> Result<Result<Handled, (String, bool)>, BusError> {
        let Some(loaded) = self.loaded.as_mut() else { return Err(BusError::Closed) };
        let mut context = RecordContext::new(ContextParts {
            spec: &self.shared.spec,
            outputs: &self.shared.output_index,
            record_bytes: self.shared.record_bytes,
            key,
            partition: self.log.partition(),
            time: loaded.time.unwrap_or(Timestamp::EPOCH),
            control: &loaded.control,
            committed: CommittedState { log: &self.log, cache: &mut self.cache },
            pending: &mut computed.pending,
        });
        if let Input::Timer { name, .. } = &input {
            context.timer_fired(name);
        }
        let handler = self.shared.handler.as_ref();
        let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(input, &mut context)))
            .unwrap_or_else(|_| Outcome::Poison(REASON_PANIC.to_owned()));
        if let Some(failure) = context.failure() {
            return Err(failure);
        }
        Ok(match (outcome, context.fault()) {
            (Outcome::Unavailable(dependency), _) => Ok(Handled::Wait(vec![dependency])),
            (Outcome::Poison(reason), _) => Err((reason, context.undecodable())),
            (Outcome::Ok, Some(fault)) => Err((fault.to_owned(), false)),
            (Outcome::Ok, None) => {
                context.accept(&mut loaded.timers);
                Ok(Handled::Done)
            }
        })
    }

    /// Writes a dead letter; with `poisons_key` the key's state and timers go.
    fn give_up(
        &mut self,
        computed: &mut Computed,
        key: RecordKey,
        input: FailedInput<'_>,
        reason: &str,
        poisons_key: bool,
        sealing: bool,
    ) -> Result<(), BusError> {
        let shared = Arc::clone(&self.shared);
        let mut lost_state = Vec::new();
        if poisons_key {
            let committed = CommittedState { log: &self.log, cache: &mut self.cache };
            lost_state = committed.with_pending(&key, &computed.pending)?;
            computed.pending.wipe(key);
            computed.pending.poisoned.insert(key, Some(reason.to_owned()));
            let loaded = self.loaded()?;
            loaded.timers.remove_key(&key);
            loaded.poisoned.insert(key);
        }
        let partition_time = self.loaded()?.time.unwrap_or(Timestamp::EPOCH);
        let (kind, position, timer) = match input {
            FailedInput::Record(record) => (DeadLetterKind::Record, record.position, None),
            FailedInput::Timer { name, due } => {
                (DeadLetterKind::Timer, Position::from_offset(computed.position), Some((name.to_owned(), due)))
            }
        };
        let failed = Failed { key, reason, partition_time, input, lost_state: &lost_state };
        let sealed = if sealing {
            catch_unwind(AssertUnwindSafe(|| shared.handler.dead_letter(&failed))).unwrap_or_default()
        } else {
            Default::default()
        };
        let mut letter = DeadLetter {
            step: shared.spec.name.clone(),
            topic: shared.spec.input.clone(),
            partition: self.log.partition(),
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
        };
        let encode = |letter: &DeadLetter| letter.encode().map_err(|error| BusError::Invalid(error.to_string()));
        let mut value: Bytes = encode(&letter)?;
        if value.len() > shared.dead_letter_bytes {
            // That an event ended here must go all the way; content for which there is no room stays behind.
            letter.payload = None;
            value = encode(&letter)?;
        }
        computed.pending.bytes += value.len();
        computed.pending.dead_letters.push(Record { key, value });
        let labels = [("step", shared.spec.name.clone()), ("reason", reason.to_owned())];
        metrics::counter!("flywheel_bus_dead_letters_total", &labels).increment(1);
        Ok(())
    }
}
