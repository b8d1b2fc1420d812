//! Keyed state in memory: what the file holds, by key, bounded by bytes.
//!
//! A key is known as a whole, unless it has very many names: all its names, and with each its value, unless that is
//! large and nobody asked for it yet. So the file is asked once about a key, and not about every name that it does not
//! have.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::log::Outline;
use crate::record::RecordKey;

/// Bytes that a key costs besides its state: its places in two maps, and one node of its own.
const KEY_OVERHEAD: usize = 640;

/// Bytes that an entry costs besides its name and value.
const ENTRY_OVERHEAD: usize = 160;

/// An owner's view of committed state. It is right as long as the partition is owned: nobody else writes it.
pub(crate) struct StateCache {
    limit: usize,
    bytes: usize,
    keys: HashMap<RecordKey, Known>,
    /// By time of last use; the least goes first.
    used: BTreeMap<u64, RecordKey>,
    ticks: u64,
}

/// The state of a key. No value: only the file holds it.
type State = BTreeMap<String, Option<Bytes>>;

struct Known {
    state: State,
    /// Whether the file holds no other names.
    is_whole: bool,
    bytes: usize,
    tick: u64,
}

/// What is known of one name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The file holds this value, or none.
    Known(Option<Bytes>),
    /// The file must be asked.
    Unknown,
}

impl StateCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, keys: HashMap::new(), used: BTreeMap::new(), ticks: 0 }
    }

    /// Whether the key is known here. It is used now, and stays longer than keys that are not.
    pub(crate) fn uses(&mut self, key: &RecordKey) -> bool {
        let Some(known) = self.keys.get_mut(key) else { return false };
        if known.tick != self.ticks {
            self.ticks += 1;
            self.used.remove(&known.tick);
            known.tick = self.ticks;
            self.used.insert(known.tick, *key);
        }
        true
    }

    pub(crate) fn get(&self, key: &RecordKey, name: &str) -> Answer {
        let Some(known) = self.keys.get(key) else { return Answer::Unknown };
        match known.state.get(name) {
            Some(Some(value)) => Answer::Known(Some(value.clone())),
            None if known.is_whole => Answer::Known(None),
            Some(None) | None => Answer::Unknown,
        }
    }

    /// All names of the key, if they are known here.
    pub(crate) fn whole(&self, key: &RecordKey) -> Option<&State> {
        self.keys.get(key).filter(|known| known.is_whole).map(|known| &known.state)
    }

    /// The file holds exactly this of the key; none: it holds more than can be said at once. It is not kept where there
    /// is no room for it.
    pub(crate) fn learn(&mut self, key: RecordKey, state: Option<Outline>) {
        self.forget_key(&key);
        let is_whole = state.is_some();
        let state: State = state.into_iter().flatten().collect();
        let entries: usize = state.iter().map(|(name, value)| cost(name, value.as_ref())).sum();
        let bytes = KEY_OVERHEAD + entries;
        if bytes > self.limit {
            return;
        }
        self.ticks += 1;
        self.bytes += bytes;
        self.used.insert(self.ticks, key);
        self.keys.insert(key, Known { state, is_whole, bytes, tick: self.ticks });
        self.trim();
    }

    /// The file holds this value under a name of the key. It is not kept where there is no room for it.
    pub(crate) fn fill(&mut self, key: &RecordKey, name: &str, value: &Bytes) {
        let Some(known) = self.keys.get(key) else { return };
        if known.bytes + cost(name, Some(value)) <= self.limit {
            self.put(key, name, Some(value.clone()));
        }
    }

    /// The file holds this now, or nothing.
    pub(crate) fn put(&mut self, key: &RecordKey, name: &str, value: Option<Bytes>) {
        let Some(known) = self.keys.get_mut(key) else { return };
        let (added, before) = match value {
            Some(value) => {
                let added = cost(name, Some(&value));
                let before = match known.state.get_mut(name) {
                    Some(place) => Some(place.replace(value)),
                    None => {
                        known.state.insert(name.to_owned(), Some(value));
                        None
                    }
                };
                (added, before)
            }
            None => (0, known.state.remove(name)),
        };
        let removed = before.map_or(0, |before| cost(name, before.as_ref()));
        known.bytes = known.bytes + added - removed;
        self.bytes = self.bytes + added - removed;
        self.trim();
    }

    /// Nothing is known about the key any more.
    pub(crate) fn forget_key(&mut self, key: &RecordKey) {
        let Some(known) = self.keys.remove(key) else { return };
        self.used.remove(&known.tick);
        self.bytes -= known.bytes;
    }

    fn trim(&mut self) {
        while self.bytes > self.limit {
            let Some((_, key)) = self.used.first_key_value() else { break };
            let key = *key;
            self.forget_key(&key);
        }
    }
}

fn cost(name: &str, value: Option<&Bytes>) -> usize {
    ENTRY_OVERHEAD + name.len() + value.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What a file would hold.
    type File = HashMap<RecordKey, BTreeMap<String, Bytes>>;

    const NAMES: usize = 4;
    const BYTES: usize = 300;

    fn outline(file: &File, key: RecordKey) -> Option<Vec<(String, Option<Bytes>)>> {
        let Some(state) = file.get(&key) else { return Some(Vec::new()) };
        let entry =
            |(name, value): (&String, &Bytes)| (name.clone(), Some(value.clone()).filter(|value| value.len() <= BYTES));
        (state.len() <= NAMES).then(|| state.iter().map(entry).collect())
    }

    proptest! {
        /// Whatever the cache says of a key is what the file holds; and it never holds more than its bound.
        #[test]
        fn answers_truth_or_nothing(
            operations in prop::collection::vec((0..4_u8, 0..6_u8, prop::option::of(0..600_usize), 0..12_u8), 1..200)
        ) {
            let mut cache = StateCache::new(5_000);
            let mut file = File::new();
            for (key, name, value, action) in operations {
                let (key, name) = (RecordKey([key; 16]), format!("n{name}"));
                match action {
                    0 => {
                        cache.forget_key(&key);
                        file.remove(&key);
                        prop_assert_eq!(cache.get(&key, &name), Answer::Unknown);
                    }
                    1..=5 => {
                        let value = value.map(|bytes| Bytes::from(vec![action; bytes]));
                        cache.put(&key, &name, value.clone());
                        let state = file.entry(key).or_default();
                        match value {
                            Some(value) => state.insert(name, value),
                            None => state.remove(&name),
                        };
                    }
                    6..=8 => {
                        if !cache.uses(&key) {
                            cache.learn(key, outline(&file, key));
                        }
                    }
                    _ => {
                        if let Some(value) = file.get(&key).and_then(|state| state.get(&name)) {
                            cache.fill(&key, &name, value);
                        }
                    }
                }
                for key in (0..4).map(|number| RecordKey([number; 16])) {
                    let held = file.get(&key).cloned().unwrap_or_default();
                    for name in (0..6).map(|number| format!("n{number}")) {
                        if let Answer::Known(value) = cache.get(&key, &name) {
                            prop_assert_eq!(value.as_ref(), held.get(&name));
                        }
                    }
                    if let Some(whole) = cache.whole(&key) {
                        prop_assert_eq!(whole.keys().collect::<Vec<_>>(), held.keys().collect::<Vec<_>>());
                    }
                    if let Some(known) = cache.keys.get(&key) {
                        let entries: usize = known.state.iter().map(|(name, value)| cost(name, value.as_ref())).sum();
                        prop_assert_eq!(known.bytes, KEY_OVERHEAD + entries);
                        prop_assert_eq!(cache.used.get(&known.tick), Some(&key));
                    }
                }
                prop_assert_eq!(cache.keys.values().map(|known| known.bytes).sum::<usize>(), cache.bytes);
                prop_assert!(cache.bytes <= cache.limit);
                prop_assert_eq!(cache.used.len(), cache.keys.len());
            }
        }
    }

    #[test]
    fn the_key_that_was_used_last_stays() {
        let mut cache = StateCache::new(3 * KEY_OVERHEAD);
        let key = |number: u8| RecordKey([number; 16]);
        for number in 0..3 {
            cache.learn(key(number), Some(Vec::new()));
        }
        assert!(cache.uses(&key(0)));
        cache.learn(key(3), Some(Vec::new()));
        let known: Vec<bool> = (0..4).map(|number| cache.uses(&key(number))).collect();
        assert_eq!(known, [true, false, true, true]);
    }

    #[test]
    fn a_key_without_state_is_known_and_one_with_too_much_is_not() {
        let mut cache = StateCache::new(1 << 20);
        let key = RecordKey([1; 16]);
        cache.learn(key, Some(Vec::new()));
        assert_eq!(cache.get(&key, "n"), Answer::Known(None));
        cache.learn(key, None);
        assert_eq!(cache.get(&key, "n"), Answer::Unknown);
        cache.fill(&key, "n", &Bytes::from_static(b"value"));
        assert_eq!(cache.get(&key, "n"), Answer::Known(Some(Bytes::from_static(b"value"))));
        assert_eq!(cache.whole(&key), None);
    }
}
