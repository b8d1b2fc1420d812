//! A model that can be asked: network, weights and tokenizer together, and greedy or sampled decoding inside the
//! grammar.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{ActionList, EditAction, EditContext};
use serde::{Deserialize, Serialize};

use crate::answering::Answering;
use crate::config::ModelConfig;
use crate::dialect::MAX_ANSWER_TOKENS;
use crate::error::ModelError;
use crate::network::{Int8Weights, KeyValueCache, Network, ReadBuffers, Reading};
use crate::prefix::PrefixCache;
use crate::tokenizer::CodeTokenizer;

/// A model in memory. It is shared between threads; each call keeps its own state, and no answer depends on another.
#[derive(Debug, Clone)]
pub struct EditModel {
    network: Arc<Network>,
    weights: Arc<Vec<f32>>,
    /// The matrices once more, for reading written tokens.
    int8: Option<Arc<Int8Weights>>,
    tokenizer: Arc<CodeTokenizer>,
    prefixes: Option<Arc<PrefixCache>>,
}

/// The weights by which written tokens are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServedWeights {
    /// As they are stored.
    #[default]
    Full,
    /// Rounded to 8 bits when a model is loaded ([`EditModel::in_int8`]).
    Int8,
}

/// How to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOptions {
    /// Most tokens to write.
    pub max_tokens: usize,
    /// Most actions to write.
    pub max_actions: usize,
    /// 0 takes the likeliest token; above, tokens are sampled with `seed`.
    pub temperature: f32,
    /// Seed of sampling.
    pub seed: u64,
    /// Least gate score at which the model speaks.
    pub threshold: f32,
    /// Speak whatever the gate score: `<no_edit>` is masked.
    pub force_edit: bool,
    /// Most tokens that are guessed from the text being edited and read together with a written one; 0 reads them one by
    /// one. The answer is the same to the bit. A right guess saves reading all weights once more, a wrong one costs the
    /// arithmetic of a token.
    pub draft_tokens: usize,
    /// Whose question it is. What was kept of a prompt ([`EditModel::with_prefix_cache`]) is known to its own tenant alone,
    /// or the time that an answer takes would say what others asked.
    pub tenant: String,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            max_tokens: MAX_ANSWER_TOKENS,
            max_actions: 4,
            temperature: 0.0,
            seed: 0,
            threshold: 0.5,
            force_edit: false,
            draft_tokens: 0,
            tenant: String::new(),
        }
    }
}

/// Why decoding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote `<stop>`.
    Stop,
    /// The gate score is below the threshold.
    NoEdit,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// `max_actions` was reached.
    Actions,
    /// The caller went away.
    Cancelled,
    /// Nothing that the grammar allows was likely enough to exist.
    Grammar,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The actions in the order written; `closed` when the model wrote `<stop>` or chose to change nothing.
    pub actions: ActionList,
    /// Probability that the first answer token is not `<no_edit>`, before any masking or threshold.
    pub gate_score: f32,
    /// Sum of the log-probabilities of the written tokens under the model, masked tokens included in its total. For
    /// silence the log-probability of `<no_edit>`.
    pub log_p_text: f32,
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were not read again, because an earlier prompt began with them.
    pub reused_tokens: usize,
    /// How many tokens were guessed ([`DecodeOptions::draft_tokens`]).
    pub drafted_tokens: usize,
    /// How many of the guessed tokens were written.
    pub kept_draft_tokens: usize,
    /// Number of tokens written.
    pub generated_tokens: usize,
    /// Why it ended.
    pub stopped_reason: StopReason,
}

thread_local! {
    // Prompts are read on many threads; each keeps its buffers between calls.
    static BUFFERS: RefCell<ReadBuffers> = RefCell::new(ReadBuffers::default());
}

impl EditModel {
    /// Puts parts together.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the weights do not fit the configuration, [`ModelError::Vocabulary`] when the tokenizer
    /// does not.
    pub fn new(config: ModelConfig, weights: Vec<f32>, tokenizer: CodeTokenizer) -> Result<Self, ModelError> {
        let network = Network::new(config)?;
        if weights.len() != network.parameter_count() {
            return Err(ModelError::Config("the number of weights does not fit the configuration".to_owned()));
        }
        let (tokens, vocab_size) = (tokenizer.vocabulary_size(), network.config().vocab_size);
        if tokens != vocab_size {
            return Err(ModelError::Vocabulary { tokens, vocab_size });
        }
        let (network, weights, tokenizer) = (Arc::new(network), Arc::new(weights), Arc::new(tokenizer));
        Ok(Self { network, weights, int8: None, tokenizer, prefixes: None })
    }

    /// The same model, which keeps keys and values of the prompts that it reads in at most `bytes` bytes and for `lifetime`,
    /// for prompts of the same tenant that begin as they do; 0 keeps none. Its answers are the same to the bit. A prompt
    /// takes `8 * layers * num_key_value_heads * head_dim` bytes for each token. Clones share what is kept.
    #[must_use]
    pub fn with_prefix_cache(mut self, bytes: usize, lifetime: Duration) -> Self {
        self.prefixes = (bytes > 0).then(|| Arc::new(PrefixCache::new(bytes, lifetime)));
        self
    }

    /// The same architecture and tokenizer with other weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the number of weights differs.
    pub fn with_weights(&self, weights: Vec<f32>) -> Result<Self, ModelError> {
        if weights.len() != self.weights.len() {
            return Err(ModelError::Config("the number of weights does not fit the configuration".to_owned()));
        }
        // What other weights left is of no use to these.
        let prefixes = self.prefixes.as_ref().map(|prefixes| Arc::new(prefixes.emptied()));
        Ok(Self { weights: Arc::new(weights), int8: None, prefixes, ..self.clone() })
    }

    /// The same model with its matrices rounded to 8 bits, a scale for each row, by which written tokens are read: a quarter
    /// of the bytes come from memory for each. Prompts are read by the same weights in 32 bits, so it takes a quarter more
    /// memory. [`EditModel::weights`] are the rounded ones, and other weights of the same architecture are not rounded.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] for weights that are no numbers.
    pub fn in_int8(&self) -> Result<Self, ModelError> {
        let mut weights = self.weights.to_vec();
        let int8 = Int8Weights::round(&self.network, &mut weights)?;
        Ok(Self { int8: Some(Arc::new(int8)), ..self.with_weights(weights)? })
    }

    /// The model as it is served with `weights`.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] for weights that are no numbers.
    pub fn served_with(self, weights: ServedWeights) -> Result<Self, ModelError> {
        match weights {
            ServedWeights::Full => Ok(self),
            ServedWeights::Int8 => self.in_int8(),
        }
    }

    /// The architecture.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All weights, in the order of [`Network::tensors`].
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &CodeTokenizer {
        &self.tokenizer
    }

    /// Probability that the first answer token is not `<no_edit>`.
    ///
    /// # Errors
    /// [`ModelError::Context`] when the context is unusable.
    pub fn gate_score(&self, context: &EditContext) -> Result<f32, ModelError> {
        let options = DecodeOptions { max_actions: 0, ..DecodeOptions::default() };
        Ok(self.complete(context, &options, &|| false, &mut |_| {})?.gate_score)
    }

    /// What reading `tokens` left, how many of them were known, and the logits of the next token.
    pub(crate) fn read_prompt(
        &self,
        tenant: &str,
        tokens: &[u32],
    ) -> Result<(KeyValueCache, usize, Vec<f32>), ModelError> {
        let known = self.prefixes.as_ref().and_then(|prefixes| prefixes.longest(tenant, tokens, Instant::now()));
        let mut cache = known.unwrap_or_else(|| self.network.empty_cache());
        let reused = cache.len();
        let logits = BUFFERS.with_borrow_mut(|buffers| {
            self.network.read_prompt(&self.weights, &tokens[reused..], &mut cache, buffers)
        })?;
        if let Some(prefixes) = &self.prefixes {
            prefixes.keep(tenant, tokens, &cache, Instant::now());
        }
        Ok((cache, reused, logits))
    }

    /// Reads written tokens of several sequences in one pass; the logits behind each, a row each.
    pub(crate) fn read_tokens(&self, readings: &mut [Reading<'_>]) -> Result<Vec<f32>, ModelError> {
        BUFFERS
            .with_borrow_mut(|buffers| self.network.read_tokens(&self.weights, self.int8.as_deref(), readings, buffers))
    }

    /// Answers `context`. Every action is handed to `on_action` as soon as it is complete; `cancelled` is asked before
    /// every token.
    ///
    /// # Errors
    /// [`ModelError::Context`] when the context is unusable.
    pub fn complete(
        &self,
        context: &EditContext,
        options: &DecodeOptions,
        cancelled: &dyn Fn() -> bool,
        on_action: &mut dyn FnMut(EditAction),
    ) -> Result<Completion, ModelError> {
        let mut answering = Answering::start(self, context, options.clone())?;
        while answering.advance(cancelled, on_action) {
            let rows = self.read_tokens(&mut [answering.reading()])?;
            answering.take(&rows);
        }
        Ok(answering.completion)
    }
}

/// The permitted token with the greatest logit. The grammar is asked only about tokens that would win.
pub(crate) fn likeliest(logits: &[f32], permitted: impl Fn(u32) -> bool) -> Option<u32> {
    // Most often it is the very first: nothing needs an order then. Of equals, the one with the least number is before.
    let (first, _) = (0_u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?;
    if permitted(first) {
        return Some(first);
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let value = |token: &u32| logits.get(*token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let mut end = order.len();
    // Most often the first few decide; sort them in growing blocks from the top.
    let mut block = 8;
    while end > 0 {
        let count = block.min(end);
        let rest = &mut order[..end];
        let split = end - count;
        if split > 0 {
            rest.select_nth_unstable_by(split, |a, b| value(a).total_cmp(&value(b)).then(b.cmp(a)));
        }
        let top = &mut rest[split..];
        top.sort_unstable_by(|a, b| value(b).total_cmp(&value(a)).then(a.cmp(b)));
        if let Some(token) = top.iter().find(|token| permitted(**token)) {
            return Some(*token);
        }
        end = split;
        block *= 8;
    }
    None
}

/// A permitted token drawn with probability proportional to `exp(logit / temperature)`.
pub(crate) fn sample(logits: &[f32], temperature: f32, permitted: impl Fn(u32) -> bool, point: f64) -> Option<u32> {
    let candidates: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token as u32, *logit / temperature))
        .filter(|(token, _)| permitted(*token))
        .collect();
    let largest = candidates.iter().map(|(_, value)| *value).fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = candidates.iter().map(|(_, value)| f64::from(value - largest).exp()).sum();
    let mut left = point * total;
    for (token, value) in &candidates {
        left -= f64::from(value - largest).exp();
        if left <= 0.0 {
            return Some(*token);
        }
    }
    candidates.last().map(|(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_likeliest_permitted_token_is_found() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 7919) % 500) as f32).collect();
        for limit in [1, 3, 50, 499] {
            let expected = (0..500_u32)
                .filter(|token| logits[*token as usize] < limit as f32)
                .max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]));
            assert_eq!(likeliest(&logits, |token| logits[token as usize] < limit as f32), expected);
        }
        assert_eq!(likeliest(&logits, |_| false), None);
        assert_eq!(likeliest(&[], |_| true), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { fork: false, ..ProptestConfig::default() })]

        #[test]
        fn the_likeliest_token_is_the_first_that_is_permitted_in_order(
            tokens in proptest::collection::vec((-3_i8..3, any::<bool>()), 0..80),
        ) {
            // Many are equal.
            let logits: Vec<f32> = tokens.iter().map(|(value, _)| f32::from(*value)).collect();
            let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            let permitted = |token: u32| tokens[token as usize].1;
            prop_assert_eq!(likeliest(&logits, permitted), order.into_iter().find(|token| permitted(*token)));
        }
    }

    #[test]
    fn sampling_stays_inside_the_grammar() {
        let logits = vec![0.0, 5.0, 1.0, 1.0];
        for step in 0..20 {
            let token = sample(&logits, 1.0, |token| token != 1, f64::from(step) / 20.0).unwrap();
            assert_ne!(token, 1);
        }
    }
}
