//! Data keys in memory, bounded. Lookups are synchronous: a step's `prepare` must not wait for the database.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use events::{DataKey, KeyId};
use parking_lot::Mutex;

/// What is known about a data key.
#[derive(Debug, Clone)]
pub enum KeyLookup {
    /// Here it is.
    Found(Arc<DataKey>),
    /// Not known (in the cache: not loaded; in the store: no such row).
    Missing,
    /// Its person was erased.
    Erased,
}

#[derive(Debug, Clone)]
enum Entry {
    Living(Arc<DataKey>),
    Erased,
}

/// A bounded map that forgets what was not used for a while: when the young half is full it becomes the old half, and
/// what was in the old half is dropped. A hit moves an entry to the young half.
#[derive(Debug)]
pub(super) struct BoundedMap<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> BoundedMap<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(key.clone(), value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.young.retain(|key, value| keep(key, value));
        self.old.retain(|key, value| keep(key, value));
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The data keys that this process has loaded. Clones share their content.
#[derive(Debug, Clone)]
pub struct DataKeyCache(Arc<Mutex<BoundedMap<KeyId, Entry>>>);

impl DataKeyCache {
    /// A cache of at most `capacity` keys.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(capacity))))
    }

    /// What the cache knows. `Missing` says nothing about the store: load it with [`super::KeyStore::load`].
    #[must_use]
    pub fn get(&self, key_id: &KeyId) -> KeyLookup {
        match self.0.lock().get(key_id) {
            Some(Entry::Living(key)) => KeyLookup::Found(key),
            Some(Entry::Erased) => KeyLookup::Erased,
            None => KeyLookup::Missing,
        }
    }

    /// Forgets a key for good: the erasure has passed.
    pub fn mark_erased(&self, key_id: KeyId) {
        self.0.lock().insert(key_id, Entry::Erased);
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&self, key: Arc<DataKey>) {
        let mut entries = self.0.lock();
        // A load that began before an erasure must not bring the key back.
        if !matches!(entries.get(&key.id()), Some(Entry::Erased)) {
            entries.insert(key.id(), Entry::Living(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8) -> Arc<DataKey> {
        Arc::new(DataKey::new(KeyId::from_uuid(uuid::Uuid::from_bytes([number; 16])), [number; 32]))
    }

    proptest! {
        #[test]
        fn never_larger_than_its_capacity_and_never_wrong(
            capacity in 2_usize..20,
            uses in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let cache = DataKeyCache::new(capacity);
            for number in uses {
                cache.insert(key(number));
                prop_assert!(cache.len() <= capacity);
                match cache.get(&key(number).id()) {
                    KeyLookup::Found(found) => prop_assert_eq!(found.expose_secret(), &[number; 32]),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn what_is_used_stays() {
        let cache = DataKeyCache::new(10);
        cache.insert(key(1));
        for number in 2..100 {
            cache.insert(key(number));
            assert!(matches!(cache.get(&key(1).id()), KeyLookup::Found(_)));
        }
        assert!(matches!(cache.get(&key(2).id()), KeyLookup::Missing));
    }

    #[test]
    fn an_erased_key_does_not_come_back() {
        let cache = DataKeyCache::new(10);
        cache.insert(key(1));
        cache.mark_erased(key(1).id());
        cache.insert(key(1));
        assert!(matches!(cache.get(&key(1).id()), KeyLookup::Erased));
        assert!(!format!("{cache:?}").contains("1, 1"));
    }
}
