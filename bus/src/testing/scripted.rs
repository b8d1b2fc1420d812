//! A handler that does what its records say, for tests of implementations of the bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use events::Timestamp;
use parking_lot::Mutex;

use crate::dead_letter::Affected;
use crate::record::{CommittedRecord, Record, RecordKey};
use crate::step::{Failed, FailedInput, Input, Outcome, Prepared, Sealed, StepContext, StepHandler};

/// One thing that a record tells the handler to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The record was received then (seconds since the epoch).
    At(i64),
    /// Add to the state `sum` and emit the new sum.
    Add(i64),
    /// Put a value of that many bytes under that name.
    Put(String, usize),
    /// Delete the state of that name.
    Delete(String),
    /// Emit the names of the state.
    Names,
    /// Emit the state under names that start so: each name, and how many bytes it has.
    Entries(String),
    /// Set the timer of that name, that many seconds after partition time. See [`Scripted`] for what names mean.
    Timer(String, i64),
    /// Unset the timer of that name.
    Cancel(String),
    /// Emit what control records said last about that subject.
    Control(String),
    /// Be poison.
    Poison,
    /// Panic.
    Panic,
    /// Find the state undecodable: the key is poisoned.
    Undecodable,
    /// Emit to a topic that is no output of the step.
    EmitElsewhere,
    /// Be unavailable while this is not provided.
    Need(String),
    /// `prepare` is unavailable while this is not provided.
    PrepareNeeds(String),
    /// `prepare` finds the record poison.
    PreparePoison,
    /// `prepare` panics.
    PreparePanic,
    /// End the process: see [`Scripted::ended`].
    Deadly,
}

/// The value of a record that tells the handler to do these, in order.
#[must_use]
pub fn script(actions: &[Action]) -> Bytes {
    let lines: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::At(seconds) => format!("at {seconds}"),
            Action::Add(amount) => format!("add {amount}"),
            Action::Put(name, bytes) => format!("put {name} {bytes}"),
            Action::Delete(name) => format!("delete {name}"),
            Action::Names => "names".into(),
            Action::Entries(prefix) => format!("entries {prefix}"),
            Action::Timer(name, seconds) => format!("timer {name} {seconds}"),
            Action::Cancel(name) => format!("cancel {name}"),
            Action::Control(subject) => format!("control {subject}"),
            Action::Poison => "poison".into(),
            Action::Panic => "panic".into(),
            Action::Undecodable => "undecodable".into(),
            Action::EmitElsewhere => "emit-elsewhere".into(),
            Action::Need(name) => format!("need {name}"),
            Action::PrepareNeeds(name) => format!("prepare-needs {name}"),
            Action::PreparePoison => "prepare-poison".into(),
            Action::PreparePanic => "prepare-panic".into(),
            Action::Deadly => "deadly".into(),
        })
        .collect();
    Bytes::from(lines.join("\n"))
}

/// A record that tells the handler to do these.
#[must_use]
pub fn scripted(key: RecordKey, actions: &[Action]) -> Record {
    Record { key, value: script(actions) }
}

/// The handler. Emits text to its output, keeps no hidden state but what is provided.
///
/// A timer emits its name, when it was due, the partition time and the sum; named `bad...` it is poison, `panic...` it
/// panics, `need-X` it is unavailable while X is not provided, `again-N` (N > 0) it sets `again-(N-1)` one second
/// later.
pub struct Scripted {
    output: String,
    provided: Mutex<HashSet<String>>,
    asked: Mutex<Vec<String>>,
    provides_itself: bool,
    ended: AtomicBool,
}

impl Scripted {
    /// A handler that emits to `output`.
    #[must_use]
    pub fn new(output: &str) -> Arc<Self> {
        Arc::new(Self {
            output: output.to_owned(),
            provided: Mutex::default(),
            asked: Mutex::default(),
            provides_itself: false,
            ended: AtomicBool::new(false),
        })
    }

    /// A handler whose `make_available` provides what is asked for.
    #[must_use]
    pub fn providing(output: &str) -> Arc<Self> {
        Arc::new(Self {
            output: output.to_owned(),
            provided: Mutex::default(),
            asked: Mutex::default(),
            provides_itself: true,
            ended: AtomicBool::new(false),
        })
    }

    /// From now on this is (or is not) available.
    pub fn provide(&self, name: &str, available: bool) {
        let mut provided = self.provided.lock();
        if available {
            provided.insert(name.to_owned());
        } else {
            provided.remove(name);
        }
    }

    /// What `make_available` was asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    /// Whether the process would have ended since this was last asked: a test then drops what was computed, as the end
    /// of a process does.
    pub fn ended(&self) -> bool {
        self.ended.swap(false, Ordering::Relaxed)
    }

    fn has(&self, name: &str) -> bool {
        self.provided.lock().contains(name)
    }

    fn emit(&self, context: &mut dyn StepContext, text: String) {
        let key = context.key();
        context.emit(&self.output, Record { key, value: Bytes::from(text) });
    }

    fn act(&self, line: &str, context: &mut dyn StepContext) -> Outcome {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let first = words.next().unwrap_or_default();
        let second: i64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match verb {
            "add" => {
                let sum = sum(context) + first.parse::<i64>().unwrap_or(0);
                context.put("sum", Bytes::from(sum.to_string()));
                let time = context.partition_time();
                self.emit(context, format!("sum {sum} at {time}"));
            }
            "put" => context.put(first, Bytes::from(vec![b'x'; usize::try_from(second).unwrap_or(0)])),
            "delete" => context.delete(first),
            "names" => {
                let names = context.names("").join(",");
                self.emit(context, format!("names {names}"));
            }
            "entries" => {
                let entries = context.entries(first).into_iter();
                let entries: Vec<String> = entries.map(|(name, value)| format!("{name}={}", value.len())).collect();
                self.emit(context, format!("entries {}", entries.join(",")));
            }
            "timer" => {
                let due = Timestamp::from_micros(context.partition_time().as_micros() + second * 1_000_000);
                context.set_timer(first, due);
            }
            "cancel" => context.cancel_timer(first),
            "control" => {
                let value = context.control("policy", first).unwrap_or_default();
                self.emit(context, format!("control {first} {}", hex::encode(value)));
            }
            "poison" => return Outcome::Poison("scripted".into()),
            "panic" => std::panic::resume_unwind(Box::new("scripted")),
            "undecodable" => {
                context.undecodable("sum");
                return Outcome::Poison("undecodable_state".into());
            }
            "emit-elsewhere" => {
                let key = context.key();
                context.emit("elsewhere", Record { key, value: Bytes::new() });
            }
            "deadly" => {
                self.ended.store(true, Ordering::Relaxed);
                return Outcome::Poison("the process has ended".into());
            }
            "need" if !self.has(first) => return Outcome::Unavailable(first.to_owned()),
            _ => {}
        }
        Outcome::Ok
    }

    fn timer(&self, name: &str, due: Timestamp, context: &mut dyn StepContext) -> Outcome {
        let (sum, time) = (sum(context), context.partition_time());
        self.emit(context, format!("timer {name} due {due} at {time} sum {sum}"));
        if name.starts_with("bad") {
            return Outcome::Poison("scripted_timer".into());
        }
        if name.starts_with("panic") {
            std::panic::resume_unwind(Box::new("scripted"));
        }
        if let Some(needed) = name.strip_prefix("need-")
            && !self.has(needed)
        {
            return Outcome::Unavailable(needed.to_owned());
        }
        if let Some(again) = name.strip_prefix("again-").and_then(|count| count.parse::<u32>().ok())
            && again > 0
        {
            let next = Timestamp::from_micros(due.as_micros() + 1_000_000);
            context.set_timer(&format!("again-{}", again - 1), next);
        }
        Outcome::Ok
    }
}

fn sum(context: &mut dyn StepContext) -> i64 {
    let sum = context.get("sum");
    sum.and_then(|sum| std::str::from_utf8(&sum).ok()?.parse().ok()).unwrap_or(0)
}

fn lines(value: &Bytes) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value).unwrap_or_default().lines()
}

#[async_trait]
impl StepHandler for Scripted {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        let prepare = |record: &CommittedRecord| {
            for line in lines(&record.value) {
                match line.split_once(' ').unwrap_or((line, "")) {
                    ("prepare-needs", name) if !self.has(name) => return Prepared::Unavailable(vec![name.to_owned()]),
                    ("prepare-poison", _) => return Prepared::Poison("scripted_prepare".into()),
                    ("prepare-panic", _) => std::panic::resume_unwind(Box::new("scripted")),
                    _ => {}
                }
            }
            Prepared::ready(record.value.len())
        };
        records.iter().map(prepare).collect()
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        match input {
            Input::Timer { name, due } => self.timer(name, due, context),
            Input::Record { record, prepared } => {
                if prepared.take::<usize>() != Some(record.value.len()) {
                    return Outcome::Poison("prepared_for_another_record".into());
                }
                for line in lines(&record.value) {
                    match self.act(line, context) {
                        Outcome::Ok => {}
                        other => return other,
                    }
                }
                Outcome::Ok
            }
        }
    }

    fn partition_time_of(&self, record: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        let seconds = lines(&record.value).find_map(|line| line.strip_prefix("at "))?.parse().ok()?;
        Some(Timestamp::from_seconds(seconds))
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        let payload = match &failed.input {
            FailedInput::Record(record) => Some(record.value.clone()),
            FailedInput::Timer { .. } => None,
        };
        let affected = failed.lost_state.iter().map(|(name, value)| Affected {
            event_id: format!("{name}:{}", value.len()),
            received_at: failed.partition_time,
        });
        Sealed { payload, affected: affected.collect() }
    }

    async fn make_available(&self, dependencies: &[String]) {
        self.asked.lock().extend_from_slice(dependencies);
        if self.provides_itself {
            self.provided.lock().extend(dependencies.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::StepSpec;
    use crate::testing::{Paused, ReferenceStep};

    fn texts(step: &ReferenceStep) -> Vec<String> {
        step.emitted("out").iter().map(|record| String::from_utf8(record.value.to_vec()).unwrap()).collect()
    }

    fn step(handler: &Arc<Scripted>) -> ReferenceStep {
        ReferenceStep::new(StepSpec::new("step", "in", ["out"], "dead"), Arc::clone(handler) as Arc<dyn StepHandler>, 1)
    }

    #[test]
    fn due_timers_fire_before_the_record_that_made_them_due() {
        let mut step = step(&Scripted::new("out"));
        let key = RecordKey([1; 16]);
        step.publish(scripted(
            key,
            &[Action::At(100), Action::Add(1), Action::Timer("late".into(), 20), Action::Timer("early".into(), 5)],
        ));
        step.publish(scripted(key, &[Action::At(120), Action::Add(1)]));
        assert_eq!(step.run(), vec![]);
        assert_eq!(
            texts(&step),
            [
                "sum 1 at 1970-01-01T00:01:40.000000Z",
                "timer early due 1970-01-01T00:01:45.000000Z at 1970-01-01T00:02:00.000000Z sum 1",
                "timer late due 1970-01-01T00:02:00.000000Z at 1970-01-01T00:02:00.000000Z sum 1",
                "sum 2 at 1970-01-01T00:02:00.000000Z",
            ]
        );
    }

    #[test]
    fn changes_of_poison_vanish_and_a_bad_timer_ends_its_key() {
        let mut step = step(&Scripted::new("out"));
        let key = RecordKey([1; 16]);
        step.publish(scripted(key, &[Action::At(1), Action::Add(1)]));
        step.publish(scripted(key, &[Action::Add(5), Action::Timer("t".into(), 1), Action::Poison]));
        step.publish(scripted(key, &[Action::Add(5), Action::Panic]));
        step.run();
        assert_eq!(step.state(&key)["sum"], "1");
        assert!(step.timers(&key).is_empty());
        step.publish(scripted(key, &[Action::Timer("bad".into(), 1)]));
        step.advance_to(Timestamp::from_seconds(10));
        step.publish(scripted(key, &[Action::Add(1)]));
        step.run();
        let reasons: Vec<&str> = step.dead_letters().iter().map(|letter| letter.reason.as_str()).collect();
        assert_eq!(reasons, ["scripted", "panic", "scripted_timer", "key_poisoned"]);
        assert_eq!(step.dead_letters()[2].affected[0].event_id, "sum:1");
        assert!(step.is_poisoned(&key) && step.state(&key).is_empty());
        step.publish_control(crate::control::RELEASE_KEY, &key.to_string(), Bytes::from_static(b"1"));
        step.publish(scripted(key, &[Action::Add(7)]));
        step.run();
        assert_eq!(step.state(&key)["sum"], "7");
    }

    #[test]
    fn behind_another_step_no_silence_is_longer_than_what_that_one_concluded() {
        let handler = Scripted::new("out");
        let (mut first, mut second) = (step(&handler), step(&Scripted::new("out")));
        let (key, hours) = (RecordKey([1; 16]), Timestamp::from_seconds(9_000));
        let held = [Action::At(100), Action::Timer("need-k".into(), 60)];
        first.publish(scripted(key, &held));
        first.run();
        second.advance_behind(hours, &first);
        assert_eq!(second.partition_time(0), Some(Timestamp::from_seconds(100)));
        // The timer is due, and waits for something.
        first.advance_to(hours);
        second.advance_behind(hours, &first);
        assert_eq!(second.partition_time(0), Some(Timestamp::from_micros(160_000_000 - 1)));
        handler.provide("k", true);
        first.advance_to(hours);
        second.advance_behind(hours, &first);
        assert_eq!(second.partition_time(0), Some(hours - crate::IDLE_AFTER));
    }

    #[test]
    fn a_dependency_makes_a_partition_wait() {
        let handler = Scripted::new("out");
        let mut step = step(&handler);
        step.publish(scripted(RecordKey([1; 16]), &[Action::Add(1), Action::Need("k".into())]));
        assert_eq!(step.run(), vec![Paused { partition: 0, dependencies: vec!["k".into()] }]);
        assert!(texts(&step).is_empty());
        handler.provide("k", true);
        assert_eq!(step.run(), vec![]);
        assert_eq!(texts(&step).len(), 1);
    }
}
