//! Keyed state in memory: what the file holds, by (key, name), bounded by bytes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::record::RecordKey;

/// Bytes that an entry costs besides its name and value.
const ENTRY_OVERHEAD: usize = 128;

/// An owner's view of committed state. It is right as long as the partition is owned: nobody else writes it.
pub(crate) struct StateCache {
    limit: usize,
    bytes: usize,
    entries: HashMap<RecordKey, HashMap<String, Entry>>,
    /// By time of last use; the least goes first.
    used: BTreeMap<u64, (RecordKey, String)>,
    ticks: u64,
}

struct Entry {
    /// None: the file holds no such state, which is worth knowing for new keys.
    value: Option<Bytes>,
    tick: u64,
}

impl StateCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, entries: HashMap::new(), used: BTreeMap::new(), ticks: 0 }
    }

    /// What the file holds, if it is known here: `Some(None)` means that it holds nothing.
    pub(crate) fn get(&mut self, key: &RecordKey, name: &str) -> Option<Option<Bytes>> {
        let entry = self.entries.get_mut(key)?.get_mut(name)?;
        self.ticks += 1;
        let place = self.used.remove(&entry.tick)?;
        entry.tick = self.ticks;
        self.used.insert(entry.tick, place);
        Some(entry.value.clone())
    }

    /// The file holds this now.
    pub(crate) fn put(&mut self, key: RecordKey, name: &str, value: Option<Bytes>) {
        self.remove(&key, name);
        self.ticks += 1;
        self.bytes += cost(name, value.as_ref());
        self.used.insert(self.ticks, (key, name.to_owned()));
        self.entries.entry(key).or_default().insert(name.to_owned(), Entry { value, tick: self.ticks });
        while self.bytes > self.limit {
            let Some((_, (key, name))) = self.used.first_key_value() else { break };
            let (key, name) = (*key, name.clone());
            self.remove(&key, &name);
        }
    }

    /// Nothing is known about the key any more.
    pub(crate) fn forget_key(&mut self, key: &RecordKey) {
        for (name, entry) in self.entries.remove(key).unwrap_or_default() {
            self.used.remove(&entry.tick);
            self.bytes -= cost(&name, entry.value.as_ref());
        }
    }

    fn remove(&mut self, key: &RecordKey, name: &str) {
        let Some(names) = self.entries.get_mut(key) else { return };
        if let Some(entry) = names.remove(name) {
            self.used.remove(&entry.tick);
            self.bytes -= cost(name, entry.value.as_ref());
        }
        if names.is_empty() {
            self.entries.remove(key);
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

    proptest! {
        /// Whatever the cache answers is what was put last, and it never holds more than its bound.
        #[test]
        fn answers_truth_or_nothing(
            operations in prop::collection::vec((0..4_u8, 0..3_u8, prop::option::of(0..600_usize), 0..10_u8), 1..200)
        ) {
            let mut cache = StateCache::new(2_000);
            let mut truth: HashMap<(RecordKey, String), Option<Bytes>> = HashMap::new();
            for (key, name, value, action) in operations {
                let (key, name) = (RecordKey([key; 16]), format!("n{name}"));
                match action {
                    0 => {
                        cache.forget_key(&key);
                        truth.retain(|(known, _), _| *known != key);
                        prop_assert_eq!(cache.get(&key, &name), None);
                    }
                    1..=5 => {
                        let value = value.map(|bytes| Bytes::from(vec![1; bytes]));
                        cache.put(key, &name, value.clone());
                        truth.insert((key, name), value);
                    }
                    _ => {
                        if let Some(answer) = cache.get(&key, &name) {
                            prop_assert_eq!(Some(&answer), truth.get(&(key, name)));
                        }
                    }
                }
                let entries = cache.entries.values().flatten();
                let held: usize = entries.map(|(name, entry)| cost(name, entry.value.as_ref())).sum();
                prop_assert_eq!(held, cache.bytes);
                prop_assert!(cache.bytes <= cache.limit);
                prop_assert_eq!(cache.used.len(), cache.entries.values().map(HashMap::len).sum::<usize>());
            }
        }
    }
}
