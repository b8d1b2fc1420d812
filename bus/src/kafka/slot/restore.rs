//! Building the state of a partition from its changelog, and showing how far that is and how long it takes at most.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Gauge;

use super::{LOOK, SlotLog};
use crate::error::BusError;
use crate::kafka::changelog::{self, MARK, Mark, PROGRESS};
use crate::kafka::client::{Isolation, RESTORE};
use crate::kafka::reader::{Found, Gone, Reading};
use crate::kafka::state::Copied;
use crate::record::Position;

/// Messages of the changelog that one transaction of the copy holds.
const RESTORE_BATCH: usize = 2_000;
/// How often the progress of a restore is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The pace is taken that often, and the slowest of so many counts.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: usize = 30;

impl SlotLog {
    /// Reads the changelog from where the copy ends, up to everything that was ever written. `incarnation`: what is told
    /// beside the committed position; none: there is no such position.
    pub(super) fn restore(&mut self, incarnation: Option<&str>) -> Result<(), BusError> {
        let stored = self.topics.changelog.clone();
        let (inner, partition) = (Arc::clone(&self.inner), self.partition);
        let end = inner.questions.end(Isolation::Uncommitted, &stored, partition)?;
        let mut copied = self.state.copied(end, incarnation)?;
        let begun = Instant::now();
        // Marks and transactions of others (there are none but stopped owners') end within their time-out.
        let deadline = begun + Duration::from_millis(inner.config.delivery_timeout_ms) + inner.request_timeout();
        while inner.questions.end(Isolation::Committed, &stored, partition)? < end {
            if Instant::now() > deadline {
                return Err(BusError::Storage(format!("the changelog {stored}/{partition} has an open transaction")));
            }
            std::thread::sleep(LOOK);
        }
        if copied.next < end {
            let first = copied.next;
            let oldest = inner.questions.oldest(&stored, &[partition])?.into_iter().next().unwrap_or(0);
            // Compaction leaves the beginning where it was.
            if oldest > first {
                let (oldest, first) = (Position::from_offset(oldest), Position::from_offset(first));
                return Err(BusError::Invalid(format!(
                    "step {}, partition {partition}: the changelog {stored} begins at {oldest}, and is needed from \
                     {first} on: it was deleted from, and state is lost; its cleanup policy must be `compact` alone",
                    self.topics.step
                )));
            }
            let topic = Arc::from(self.topics.changelog.strip_prefix(&inner.config.prefix).unwrap_or(&stored));
            let mut reading = Reading::open(inner, topic, RESTORE, Gone::Told, &[(partition, first)])?.raw();
            let mut shown = Shown::new(&self.topics.step, partition, end - first);
            let mut idle = Instant::now();
            while reading.next(partition) < end {
                reading.look(LOOK)?;
                let found = std::mem::take(&mut *reading.buffer.lock());
                if found.is_empty() && idle.elapsed() > Duration::from_secs(60) {
                    return Err(BusError::Storage(format!("the changelog {stored}/{partition} can not be read")));
                }
                if !found.is_empty() {
                    idle = Instant::now();
                }
                let found: Vec<Found> = found.into();
                for batch in found.chunks(RESTORE_BATCH) {
                    copied = self.apply(copied, batch)?;
                }
                let messages = found.iter().filter(|found| matches!(found, Found::Change { .. })).count();
                shown.go_on(reading.next(partition).saturating_sub(first), messages as u64);
            }
            let from = copied.next;
            let to = Copied { next: reading.next(partition), ..copied };
            if !self.state.write(from, &to, true, |_| Ok(()))? {
                return Err(self.fenced());
            }
            copied = to;
        }
        self.copied = copied;
        self.counts = self.state.counts()?;
        Ok(())
    }

    /// Applies messages of the changelog to the copy.
    fn apply(&self, copied: Copied, batch: &[Found]) -> Result<Copied, BusError> {
        let from = copied.next;
        let mut to = copied;
        for found in batch {
            match found {
                Found::Passed { next, .. } => to.next = to.next.max(*next),
                Found::Change { position, key, value } => {
                    to.next = position + 1;
                    let unreadable = |error: serde_json::Error| {
                        let (changelog, partition) = (&self.topics.changelog, self.partition);
                        BusError::Invalid(format!("the changelog {changelog}/{partition} can not be read: {error}"))
                    };
                    match (key.as_slice(), value) {
                        (PROGRESS, Some(value)) => {
                            to.progress = Some(serde_json::from_slice(value).map_err(unreadable)?);
                            to.mark = None;
                        }
                        (MARK, Some(value)) => {
                            let mark: Mark = serde_json::from_slice(value).map_err(unreadable)?;
                            let newest = to.mark.as_ref().map_or(0, |mark| mark.epoch);
                            if mark.epoch >= newest {
                                to.mark = Some(mark);
                            }
                        }
                        _ => {}
                    }
                }
                Found::Record { .. } => {}
            }
        }
        let written = self.state.write(from, &to, false, |connection| {
            for found in batch {
                if let Found::Change { key, value, .. } = found {
                    changelog::apply(connection, key, value.as_deref())?;
                }
            }
            Ok(())
        })?;
        if written { Ok(to) } else { Err(self.fenced()) }
    }
}

/// How fast messages came in the last intervals.
#[derive(Debug)]
struct Pace {
    /// Messages a second.
    paces: VecDeque<f64>,
    since: Instant,
    messages: u64,
}

impl Pace {
    const fn new(since: Instant) -> Self {
        Self { paces: VecDeque::new(), since, messages: 0 }
    }

    fn count(&mut self, messages: u64, now: Instant) {
        self.messages += messages;
        let lasted = now.saturating_duration_since(self.since);
        if lasted >= INTERVAL {
            // Without a message in it there would be no bound at all.
            self.paces.push_back(self.messages.max(1) as f64 / lasted.as_secs_f64());
            if self.paces.len() > INTERVALS {
                self.paces.pop_front();
            }
            (self.since, self.messages) = (now, 0);
        }
    }

    /// How long so many positions take at most, at the slowest pace that was seen; none: none was seen yet. There is a
    /// message at most at each of them: those that compaction took away make it shorter.
    fn at_most(&self, positions: u64) -> Option<Duration> {
        let slowest = self.paces.iter().copied().min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(positions as f64 / slowest).ok()
    }
}

/// How far a restore is, for whoever looks at metrics and the log. When it is dropped, nothing is left to be done here.
struct Shown {
    step: String,
    partition: u32,
    all: u64,
    pace: Pace,
    told: Instant,
    of_done: Gauge,
    of_at_most: Gauge,
}

impl Shown {
    fn new(step: &str, partition: u32, all: u64) -> Self {
        let labels = [("step", step.to_owned()), ("partition", partition.to_string())];
        let of_done = metrics::gauge!("flywheel_bus_restore_records_done", &labels);
        let of_at_most = metrics::gauge!("flywheel_bus_restore_at_most_seconds", &labels);
        of_done.set(0.0);
        metrics::gauge!("flywheel_bus_restore_records", &labels).set(all as f64);
        let now = Instant::now();
        Self { step: step.to_owned(), partition, all, pace: Pace::new(now), told: now, of_done, of_at_most }
    }

    /// So many positions are done, and so many messages came since this was called last.
    fn go_on(&mut self, done: u64, messages: u64) {
        self.of_done.set(done as f64);
        self.pace.count(messages, Instant::now());
        let Some(at_most) = self.pace.at_most(self.all.saturating_sub(done)) else { return };
        self.of_at_most.set(at_most.as_secs_f64());
        if self.told.elapsed() > TELL_EVERY {
            self.told = Instant::now();
            let (step, partition, all, at_most_s) = (&self.step, self.partition, self.all, at_most.as_secs() + 1);
            tracing::info!(
                step,
                partition,
                done,
                all,
                "building the state of a partition takes at most {at_most_s} s more"
            );
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.of_done.set(self.all as f64);
        self.of_at_most.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_at_most_what_it_takes_at_the_slowest_pace() {
        let begun = Instant::now();
        let at = |millis: u64| begun + Duration::from_millis(millis);
        let mut pace = Pace::new(begun);
        pace.count(500, at(500));
        assert_eq!(pace.at_most(1_000), None, "nothing is known yet");
        // 1000 a second, and then 100: the average of both would promise too much.
        pace.count(500, at(1_000));
        assert_eq!(pace.at_most(1_000), Some(Duration::from_secs(1)));
        pace.count(200, at(3_000));
        assert_eq!(pace.at_most(1_000), Some(Duration::from_secs(10)));
        // What was slow long ago counts no more.
        for second in 4..=33 {
            pace.count(500, at(second * 1_000));
        }
        assert_eq!(pace.at_most(1_000), Some(Duration::from_secs(2)));
        pace.count(0, at(35_000));
        assert_eq!(pace.at_most(1_000), Some(Duration::from_secs(2_000)), "it stands still");
        assert_eq!(pace.at_most(0), Some(Duration::ZERO));
    }
}
