//! A map with a bound: two generations, the older of which is forgotten when the younger is half of the bound.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// At most `capacity` entries (rounded up to an even number); entries that are asked for stay.
#[derive(Debug)]
pub(crate) struct BoundedMap<K, V> {
    generation: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V: Clone> BoundedMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { generation: capacity.div_ceil(2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(self.old.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_bound_and_keeps_what_is_used() {
        let mut map = BoundedMap::new(8);
        for number in 0..1000 {
            map.insert(number, number);
            assert_eq!(map.get(&number), Some(number));
            map.insert(-1, -1);
            assert!(map.iter().count() <= 8);
        }
        assert_eq!(map.get(&-1), Some(-1));
        assert_eq!(map.get(&1), None);
        map.remove(&-1);
        assert_eq!(map.get(&-1), None);
    }
}
