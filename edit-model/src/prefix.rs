//! Keys and values of prompts that were read before, so that a prompt which begins as one of them is read from where it
//! departs. Prompts put first what changes least, so a keystroke leaves most of a prompt as it was.
//!
//! Only what [`Network::read_prompt`](crate::Network) computed is kept: reading a prompt in parts leaves the bits that
//! reading it at once leaves, so an answer is the same with and without, whoever asked before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::network::KeyValueCache;

/// Prompts within a bound of memory; the one that was of use longest ago goes first.
pub(crate) struct PrefixCache {
    limit_bytes: usize,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    tokens: Vec<u32>,
    cache: Arc<KeyValueCache>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.cache.bytes() + size_of_val(self.tokens.as_slice())
    }
}

// Prompts are people's code: they are not shown.
impl std::fmt::Debug for PrefixCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PrefixCache").field("limit_bytes", &self.limit_bytes).finish_non_exhaustive()
    }
}

fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

impl PrefixCache {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, kept: Mutex::new(VecDeque::new()) }
    }

    /// An empty one with the same bound.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.limit_bytes)
    }

    /// What the longest known beginning of `tokens` left, without their last token: what follows it is asked for.
    pub(crate) fn longest(&self, tokens: &[u32]) -> Option<KeyValueCache> {
        let most = tokens.len().checked_sub(1)?;
        let (cache, length) = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let lengths = kept.iter().map(|prompt| common(&prompt.tokens, tokens).min(most));
            let (place, length) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
            if length == 0 {
                return None;
            }
            let prompt = kept.remove(place)?;
            let cache = Arc::clone(&prompt.cache);
            kept.push_back(prompt);
            (cache, length)
        };
        Some(cache.prefix(length))
    }

    /// Keeps what reading all of `tokens` left.
    pub(crate) fn keep(&self, tokens: &[u32], cache: &KeyValueCache) {
        if cache.bytes() + size_of_val(tokens) > self.limit_bytes {
            return;
        }
        let prompt = Kept { tokens: tokens.to_vec(), cache: Arc::new(cache.clone()) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The same prompt some keystrokes ago: most of it is known from the new one.
        kept.retain(|older| 2 * common(&older.tokens, tokens) <= older.tokens.len());
        let mut bytes = prompt.bytes() + kept.iter().map(Kept::bytes).sum::<usize>();
        while bytes > self.limit_bytes
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.bytes();
        }
        kept.push_back(prompt);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().unwrap().iter().map(Kept::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::config::ModelConfig;
    use crate::network::{Network, ReadBuffers};

    #[test]
    fn what_is_kept_stays_within_its_bound_and_the_longest_beginning_is_found() {
        let mut config = ModelConfig::base(50, 0, 1);
        config.hidden_size = 16;
        config.intermediate_size = 16;
        config.num_hidden_layers = 2;
        config.num_attention_heads = 2;
        config.num_key_value_heads = 2;
        let network = Network::new(config).unwrap();
        let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(1));
        let mut buffers = ReadBuffers::default();
        let mut read = |tokens: &[u32]| {
            let mut cache = network.empty_cache();
            network.read_prompt(&weights, tokens, &mut cache, &mut buffers).unwrap();
            cache
        };
        // Two layers of 16 keys and 16 values, and the token.
        let token_bytes = 2 * 32 * 4 + 4;
        let prefixes = PrefixCache::new(25 * token_bytes);
        let [first, second, third]: [Vec<u32>; 3] = [1, 2, 3].map(|token| vec![token; 10]);
        assert_eq!(prefixes.longest(&first), None);
        prefixes.keep(&first, &read(&first));
        assert_eq!(prefixes.bytes(), 10 * token_bytes);
        // The last token is always read.
        assert_eq!(prefixes.longest(&first), Some(read(&first[..9])));
        assert_eq!(prefixes.longest(&second), None);
        assert_eq!(prefixes.longest(&[]), None);
        // Some keystrokes later: the new prompt takes the place of the old.
        let later: Vec<u32> = first[..6].iter().copied().chain([4; 4]).collect();
        prefixes.keep(&later, &read(&later));
        assert_eq!(prefixes.bytes(), 10 * token_bytes);
        assert_eq!(prefixes.longest(&first), Some(read(&first[..6])));
        // The one of use longest ago goes.
        prefixes.keep(&second, &read(&second));
        assert!(prefixes.longest(&later).is_some());
        prefixes.keep(&third, &read(&third));
        assert_eq!(prefixes.bytes(), 20 * token_bytes);
        assert_eq!(prefixes.longest(&second), None);
        assert!(prefixes.longest(&later).is_some() && prefixes.longest(&third).is_some());
        // What is larger than all room is not kept, and takes nothing else's place.
        let long = vec![5; 26];
        prefixes.keep(&long, &read(&long));
        assert_eq!((prefixes.longest(&long), prefixes.bytes()), (None, 20 * token_bytes));
    }
}
