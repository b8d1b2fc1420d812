//! Answers to repeated questions: the same context, the same model, the same decoding. Greedy decoding gives the same
//! answer again, so an answer from here differs from a fresh one in its latency alone. In memory only, and short-lived.

use std::time::{Duration, Instant};

use events::Sha256Digest;
use metrics::counter;
use parking_lot::Mutex;

use crate::bounded::BoundedMap;
use crate::engine::Completion;

/// What an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub(crate) artifact: Sha256Digest,
    pub(crate) context: Sha256Digest,
    pub(crate) forced: bool,
}

/// The answers.
pub(crate) struct ResultCache {
    entries: Mutex<BoundedMap<CacheKey, (Completion, Instant)>>,
    capacity: usize,
    lifetime: Duration,
}

impl ResultCache {
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { entries: Mutex::new(BoundedMap::new(capacity)), capacity, lifetime }
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<Completion> {
        if self.capacity == 0 {
            return None;
        }
        let (completion, made) = self.entries.lock().get(key)?;
        if made.elapsed() >= self.lifetime {
            return None;
        }
        counter!("flywheel_serving_cache_hits_total").increment(1);
        Some(completion)
    }

    pub(crate) fn insert(&self, key: CacheKey, completion: Completion) {
        if self.capacity > 0 {
            self.entries.lock().insert(key, (completion, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_for_its_own_key_while_it_lives() {
        let key = |forced| CacheKey { artifact: Sha256Digest::of(b"a"), context: Sha256Digest::of(b"c"), forced };
        let completion = Completion { actions: Vec::new(), gate_score: 0.1, log_p_text: -0.1, cancelled: false };
        let cache = ResultCache::new(4, Duration::from_secs(60));
        cache.insert(key(false), completion.clone());
        assert_eq!(cache.get(&key(false)), Some(completion.clone()));
        assert_eq!(cache.get(&key(true)), None);
        let dead = ResultCache::new(4, Duration::ZERO);
        dead.insert(key(false), completion.clone());
        assert_eq!(dead.get(&key(false)), None);
        let off = ResultCache::new(0, Duration::from_secs(60));
        off.insert(key(false), completion);
        assert_eq!(off.get(&key(false)), None);
    }
}
