//! The timers of a partition that are due next, in memory; the rest stays in the file.
//!
//! Invariant: the window holds every timer, committed or pending, that is due before its horizon. So its first timer is
//! the next of all timers, and only when none is left in it that is due must the file be asked again.

use std::collections::{BTreeSet, HashMap};

use events::Timestamp;
use rusqlite::{Connection, params};

use crate::record::RecordKey;

/// Timers that a window holds after it was loaded; it is cut back to that when it holds twice as many. One of them
/// takes about 300 bytes here, and to load as many takes a few milliseconds, once they have fired.
const WINDOW: usize = 4_096;

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextTimer {
    /// This timer is due.
    Due { due: Timestamp, key: RecordKey, name: String },
    /// None is due.
    None,
    /// Timers beyond the horizon may be due: commit what is pending, and load.
    Load,
}

/// The timers that are due next.
pub(crate) struct TimerWindow {
    limit: usize,
    by_due: BTreeSet<(Timestamp, RecordKey, String)>,
    by_key: HashMap<RecordKey, HashMap<String, Timestamp>>,
    /// None: the window holds all timers.
    horizon: Option<Timestamp>,
}

impl TimerWindow {
    /// Loads the next timers of a slot.
    pub(crate) fn load(connection: &Connection, slot: i64) -> rusqlite::Result<Self> {
        Self::load_limited(connection, slot, WINDOW)
    }

    fn load_limited(connection: &Connection, slot: i64, limit: usize) -> rusqlite::Result<Self> {
        let mut window = Self { limit, by_due: BTreeSet::new(), by_key: HashMap::new(), horizon: None };
        let mut query = connection
            .prepare_cached("SELECT due, key, name FROM timers WHERE slot = ?1 ORDER BY due, key, name LIMIT ?2")?;
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = query.query([slot, most])?;
        let mut loaded = 0;
        let mut last = Timestamp::EPOCH;
        while let Some(row) = rows.next()? {
            last = Timestamp::from_micros(row.get(0)?);
            window.insert(RecordKey(row.get(1)?), row.get(2)?, last);
            loaded += 1;
        }
        if loaded < limit {
            return Ok(window);
        }
        // More timers may be due at the same moment as the last one.
        let mut query = connection
            .prepare_cached("SELECT key, name FROM timers WHERE slot = ?1 AND due = ?2 ORDER BY key, name")?;
        let mut rows = query.query(params![slot, last.as_micros()])?;
        while let Some(row) = rows.next()? {
            window.insert(RecordKey(row.get(0)?), row.get(1)?, last);
        }
        window.horizon = Some(Timestamp::from_micros(last.as_micros().saturating_add(1)));
        Ok(window)
    }

    /// The next timer that is due at `time`.
    pub(crate) fn next(&self, time: Option<Timestamp>) -> NextTimer {
        let Some(time) = time else { return NextTimer::None };
        match self.by_due.first() {
            Some((due, key, name)) if *due <= time => NextTimer::Due { due: *due, key: *key, name: name.clone() },
            _ if self.horizon.is_some_and(|horizon| horizon <= time) => NextTimer::Load,
            _ => NextTimer::None,
        }
    }

    /// A moment before which no timer is due; none when there are no timers at all.
    pub(crate) fn nothing_before(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, ..)| *due).or(self.horizon)
    }

    /// The timer is set to `due` now, or not at all.
    pub(crate) fn set(&mut self, key: RecordKey, name: &str, due: Option<Timestamp>) {
        self.remove(&key, name);
        if let Some(due) = due.filter(|due| self.horizon.is_none_or(|horizon| *due < horizon)) {
            self.insert(key, name.to_owned(), due);
            if self.by_due.len() >= self.limit.saturating_mul(2) {
                self.cut();
            }
        }
    }

    /// The key has no timers any more.
    pub(crate) fn remove_key(&mut self, key: &RecordKey) {
        for (name, due) in self.by_key.remove(key).unwrap_or_default() {
            self.by_due.remove(&(due, *key, name));
        }
    }

    fn insert(&mut self, key: RecordKey, name: String, due: Timestamp) {
        self.by_due.insert((due, key, name.clone()));
        self.by_key.entry(key).or_default().insert(name, due);
    }

    fn remove(&mut self, key: &RecordKey, name: &str) {
        let Some(names) = self.by_key.get_mut(key) else { return };
        if let Some(due) = names.remove(name) {
            self.by_due.remove(&(due, *key, name.to_owned()));
        }
        if names.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// Forgets the farthest half. The horizon becomes the first moment that is forgotten, as a whole.
    fn cut(&mut self) {
        let Some(horizon) = self.by_due.iter().nth(self.limit).map(|(due, ..)| *due) else { return };
        if self.by_due.first().is_none_or(|(first, ..)| *first >= horizon) {
            return;
        }
        while let Some((due, key, name)) = self.by_due.last() {
            if *due < horizon {
                break;
            }
            let (key, name) = (*key, name.clone());
            self.remove(&key, &name);
        }
        self.horizon = Some(horizon);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn file() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE timers (slot INTEGER, key BLOB, name TEXT, due INTEGER, PRIMARY KEY (slot, key, name))",
            )
            .unwrap();
        connection
    }

    proptest! {
        /// Firing through a small window, reloading when it says so, fires all timers in the order of a plain sorted
        /// list.
        #[test]
        fn a_window_fires_as_a_sorted_list(
            operations in prop::collection::vec((0..20_u8, 0..2_u8, prop::option::weighted(0.8, 0..40_i64)), 1..120),
            limit in 1..6_usize,
        ) {
            let connection = file();
            let mut window = TimerWindow::load_limited(&connection, 1, limit).unwrap();
            let mut truth: BTreeMap<(RecordKey, String), Timestamp> = BTreeMap::new();
            let mut time = 0;
            for (step, (key, name, due)) in operations.into_iter().enumerate() {
                let (key, name) = (RecordKey([key; 16]), format!("t{name}"));
                let due = due.map(|ahead| Timestamp::from_micros(time + ahead));
                window.set(key, &name, due);
                match due {
                    Some(due) => truth.insert((key, name), due),
                    None => truth.remove(&(key, name)),
                };
                if step % 5 == 4 {
                    time += 7;
                }
                let now = Timestamp::from_micros(time);
                loop {
                    let expected = truth.iter().map(|((key, name), due)| (*due, *key, name.clone())).min();
                    let expected = expected.filter(|(due, ..)| *due <= now);
                    match window.next(Some(now)) {
                        NextTimer::Due { due, key, name } => {
                            prop_assert_eq!(Some((due, key, name.clone())), expected);
                            window.set(key, &name, None);
                            truth.remove(&(key, name));
                        }
                        NextTimer::None => {
                            prop_assert_eq!(expected, None);
                            break;
                        }
                        NextTimer::Load => {
                            connection.execute("DELETE FROM timers", []).unwrap();
                            for ((key, name), due) in &truth {
                                let insert = "INSERT INTO timers VALUES (1, ?1, ?2, ?3)";
                                connection.execute(insert, params![key.0, name, due.as_micros()]).unwrap();
                            }
                            window = TimerWindow::load_limited(&connection, 1, limit).unwrap();
                        }
                    }
                }
            }
        }
    }
}
