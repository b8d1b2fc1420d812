//! Keys and values of prompts that were read before, so that a prompt which begins as one of them is read from where it
//! departs. Prompts put first what changes least, so a keystroke leaves most of a prompt as it was.
//!
//! Only what [`Network::read_prompt`](crate::Network) computed is kept: reading a prompt in parts leaves the bits that
//! reading it at once leaves, so an answer is the same with and without, whoever asked before. Only how fast it comes
//! tells what was asked; so nobody is answered from another tenant's prompts, and none is kept for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::network::KeyValueCache;

/// Prompts within a bound of memory, whosever they are; the one that was of use longest ago goes first. One that was read
/// `lifetime` ago goes as well, at the next prompt.
pub(crate) struct PrefixCache {
    limit_bytes: usize,
    lifetime: Duration,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    tenant: String,
    read: Instant,
    tokens: Vec<u32>,
    cache: Arc<KeyValueCache>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.cache.bytes() + size_of_val(self.tokens.as_slice())
    }

    /// How many of the first `tokens` are known from it to `tenant`.
    fn known(&self, tenant: &str, tokens: &[u32]) -> usize {
        if self.tenant == tenant { common(&self.tokens, tokens) } else { 0 }
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
    pub(crate) fn new(limit_bytes: usize, lifetime: Duration) -> Self {
        Self { limit_bytes, lifetime, kept: Mutex::new(VecDeque::new()) }
    }

    /// An empty one with the same bounds.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.limit_bytes, self.lifetime)
    }

    /// Forgets what is too old at `now`.
    fn forget(&self, kept: &mut VecDeque<Kept>, now: Instant) {
        kept.retain(|prompt| now.saturating_duration_since(prompt.read) < self.lifetime);
    }

    /// What the longest beginning of `tokens` that is known to `tenant` left, without their last token: what follows it is
    /// asked for.
    pub(crate) fn longest(&self, tenant: &str, tokens: &[u32], now: Instant) -> Option<KeyValueCache> {
        let most = tokens.len().checked_sub(1)?;
        let (cache, length) = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            self.forget(&mut kept, now);
            let lengths = kept.iter().map(|prompt| prompt.known(tenant, tokens).min(most));
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

    /// Keeps for `tenant` what reading all of `tokens` left at `now`.
    pub(crate) fn keep(&self, tenant: &str, tokens: &[u32], cache: &KeyValueCache, now: Instant) {
        if cache.bytes() + size_of_val(tokens) > self.limit_bytes {
            return;
        }
        let (tokens, cache) = (tokens.to_vec(), Arc::new(cache.clone()));
        let prompt = Kept { tenant: tenant.to_owned(), read: now, tokens, cache };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget(&mut kept, now);
        // The same prompt some keystrokes ago: most of it is known from the new one.
        kept.retain(|older| 2 * older.known(tenant, &prompt.tokens) <= older.tokens.len());
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

    fn network() -> (Network, Vec<f32>) {
        let mut config = ModelConfig::base(50, 0, 1);
        config.hidden_size = 16;
        config.intermediate_size = 16;
        config.num_hidden_layers = 2;
        config.num_attention_heads = 2;
        config.num_key_value_heads = 2;
        let network = Network::new(config).unwrap();
        let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(1));
        (network, weights)
    }

    fn read((network, weights): &(Network, Vec<f32>), tokens: &[u32]) -> KeyValueCache {
        let mut cache = network.empty_cache();
        network.read_prompt(weights, tokens, &mut cache, &mut ReadBuffers::default()).unwrap();
        cache
    }

    #[test]
    fn what_is_kept_stays_within_its_bound_and_the_longest_beginning_is_found() {
        let model = network();
        let read = |tokens: &[u32]| read(&model, tokens);
        let now = Instant::now();
        // Two layers of 16 keys and 16 values, and the token.
        let token_bytes = 2 * 32 * 4 + 4;
        let prefixes = PrefixCache::new(25 * token_bytes, Duration::from_secs(30));
        let [first, second, third]: [Vec<u32>; 3] = [1, 2, 3].map(|token| vec![token; 10]);
        assert_eq!(prefixes.longest("a", &first, now), None);
        prefixes.keep("a", &first, &read(&first), now);
        assert_eq!(prefixes.bytes(), 10 * token_bytes);
        // The last token is always read.
        assert_eq!(prefixes.longest("a", &first, now), Some(read(&first[..9])));
        assert_eq!(prefixes.longest("a", &second, now), None);
        assert_eq!(prefixes.longest("a", &[], now), None);
        // Some keystrokes later: the new prompt takes the place of the old.
        let later: Vec<u32> = first[..6].iter().copied().chain([4; 4]).collect();
        prefixes.keep("a", &later, &read(&later), now);
        assert_eq!(prefixes.bytes(), 10 * token_bytes);
        assert_eq!(prefixes.longest("a", &first, now), Some(read(&first[..6])));
        // The one of use longest ago goes.
        prefixes.keep("a", &second, &read(&second), now);
        assert!(prefixes.longest("a", &later, now).is_some());
        prefixes.keep("a", &third, &read(&third), now);
        assert_eq!(prefixes.bytes(), 20 * token_bytes);
        assert_eq!(prefixes.longest("a", &second, now), None);
        assert!(prefixes.longest("a", &later, now).is_some() && prefixes.longest("a", &third, now).is_some());
        // What is larger than all room is not kept, and takes nothing else's place.
        let long = vec![5; 26];
        prefixes.keep("a", &long, &read(&long), now);
        assert_eq!((prefixes.longest("a", &long, now), prefixes.bytes()), (None, 20 * token_bytes));
    }

    #[test]
    fn what_was_read_is_forgotten_after_its_lifetime() {
        let model = network();
        let read_at = Instant::now();
        let after = |seconds: u64| read_at + Duration::from_secs(seconds);
        let prefixes = PrefixCache::new(usize::MAX, Duration::from_secs(30));
        let (first, second) = (vec![1; 10], vec![2; 10]);
        prefixes.keep("a", &first, &read(&model, &first), read_at);
        // Being of use makes nothing younger.
        assert!(prefixes.longest("a", &first, after(29)).is_some());
        assert_eq!(prefixes.longest("a", &first, after(30)), None);
        assert_eq!(prefixes.bytes(), 0);
        prefixes.keep("a", &first, &read(&model, &first), after(40));
        prefixes.keep("a", &second, &read(&model, &second), after(69));
        assert!(prefixes.longest("a", &first, after(69)).is_some());
        let bytes = prefixes.bytes();
        // Nor does anybody have to ask for it.
        prefixes.keep("a", &second, &read(&model, &second), after(70));
        assert_eq!(prefixes.bytes(), bytes / 2);
        let forgetful = PrefixCache::new(usize::MAX, Duration::ZERO);
        forgetful.keep("a", &first, &read(&model, &first), read_at);
        assert_eq!(forgetful.longest("a", &first, read_at), None);
    }

    #[test]
    fn nobody_is_told_by_the_time_it_takes_what_another_tenant_asked() {
        let model = network();
        let now = Instant::now();
        let prefixes = PrefixCache::new(usize::MAX, Duration::from_secs(30));
        let prompt = vec![1; 10];
        prefixes.keep("a", &prompt, &read(&model, &prompt), now);
        assert_eq!(prefixes.longest("b", &prompt, now), None);
        // Nor does it take the other's place.
        prefixes.keep("b", &prompt, &read(&model, &prompt), now);
        assert!(prefixes.longest("a", &prompt, now).is_some() && prefixes.longest("b", &prompt, now).is_some());
    }
}
