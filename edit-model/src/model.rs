//! A model that can be asked: network, weights and tokenizer together, and greedy or sampled decoding inside the
//! grammar.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{ActionList, EditAction, EditContext};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::dialect::{AnswerParser, MAX_ANSWER_TOKENS, ParsedToken, encode_prompt};
use crate::draft::Drafter;
use crate::error::ModelError;
use crate::network::{KeyValueCache, Network, ReadBuffers, Reading};
use crate::prefix::PrefixCache;
use crate::tokenizer::CodeTokenizer;

/// A model in memory. It is shared between threads; each call keeps its own state, and no answer depends on another.
#[derive(Debug, Clone)]
pub struct EditModel {
    network: Arc<Network>,
    weights: Arc<Vec<f32>>,
    tokenizer: Arc<CodeTokenizer>,
    prefixes: Option<Arc<PrefixCache>>,
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
        Ok(Self { network, weights, tokenizer, prefixes: None })
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
        Ok(Self { weights: Arc::new(weights), prefixes, ..self.clone() })
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
        BUFFERS.with_borrow_mut(|buffers| self.network.read_tokens(&self.weights, readings, buffers))
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
        let prompt = encode_prompt(&self.tokenizer, context)?;
        let no_edit = self.tokenizer.special().no_edit;
        let (mut cache, reused_tokens, logits) = self.read_prompt(&options.tenant, &prompt.tokens)?;
        let mut log_probabilities = logits.clone();
        Network::log_softmax(&mut log_probabilities);
        let silence = log_probabilities.get(no_edit as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let mut completion = Completion {
            actions: ActionList::default(),
            gate_score: (1.0 - silence.exp()).clamp(0.0, 1.0),
            log_p_text: 0.0,
            prompt_tokens: prompt.tokens.len(),
            reused_tokens,
            drafted_tokens: 0,
            kept_draft_tokens: 0,
            generated_tokens: 0,
            stopped_reason: StopReason::Length,
        };
        if !options.force_edit && completion.gate_score < options.threshold {
            completion.actions = ActionList::no_edit();
            completion.log_p_text = silence;
            completion.generated_tokens = 1;
            completion.stopped_reason = StopReason::NoEdit;
            return Ok(completion);
        }
        let mut random = (options.temperature > 0.0).then(|| ChaCha8Rng::seed_from_u64(options.seed));
        let mut parser = AnswerParser::new(&self.tokenizer, context, &prompt);
        let mut drafter = Drafter::new(&self.tokenizer, &prompt.tokens);
        let mut ahead = Ahead::new(logits);
        loop {
            if cancelled() {
                completion.stopped_reason = StopReason::Cancelled;
                break;
            }
            if completion.actions.actions.len() >= options.max_actions && parser.is_between_actions() {
                completion.stopped_reason = StopReason::Actions;
                break;
            }
            if completion.generated_tokens >= options.max_tokens {
                break;
            }
            let permitted = |token: u32| token != no_edit && parser.allows(token);
            let chosen = match &mut random {
                None => likeliest(ahead.logits(), permitted),
                Some(random) => sample(ahead.logits(), options.temperature, permitted, random.random()),
            };
            let Some(token) = chosen else {
                completion.stopped_reason = StopReason::Grammar;
                break;
            };
            completion.log_p_text += log_probabilities.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
            completion.generated_tokens += 1;
            match parser.push(token) {
                ParsedToken::Continue => {}
                ParsedToken::Action(action) => {
                    completion.actions.actions.push(action.clone());
                    on_action(action);
                }
                ParsedToken::End => {
                    completion.actions.closed = true;
                    completion.stopped_reason = StopReason::Stop;
                    break;
                }
                ParsedToken::Invalid => {
                    completion.stopped_reason = StopReason::Grammar;
                    break;
                }
            }
            let length = prompt.tokens.len() + completion.generated_tokens;
            let room = self.network.config().max_position_embeddings.saturating_sub(length);
            if room == 0 {
                break;
            }
            drafter.push(token);
            if ahead.take(token) {
                completion.kept_draft_tokens += 1;
            } else {
                // Wrong guesses are forgotten.
                cache.truncate(length - 1);
                let left = options.max_tokens.saturating_sub(completion.generated_tokens + 1);
                let drafted = drafter.draft(options.draft_tokens.min(room).min(left));
                completion.drafted_tokens += drafted.len();
                let tokens: Vec<u32> = std::iter::once(token).chain(drafted).collect();
                let rows = self.read_tokens(&mut [Reading { tokens: &tokens, cache: &mut cache }])?;
                ahead = Ahead { tokens, rows, row: 0 };
            }
            log_probabilities.copy_from_slice(ahead.logits());
            Network::log_softmax(&mut log_probabilities);
        }
        Ok(completion)
    }
}

/// Logits behind the token that was written last, and behind those that were guessed to follow it.
struct Ahead {
    tokens: Vec<u32>,
    /// A row behind each of `tokens`.
    rows: Vec<f32>,
    /// The row behind the token that was written last.
    row: usize,
}

impl Ahead {
    /// Behind a prompt.
    fn new(logits: Vec<f32>) -> Self {
        Self { tokens: vec![0], rows: logits, row: 0 }
    }

    fn logits(&self) -> &[f32] {
        let width = self.rows.len() / self.tokens.len();
        &self.rows[self.row * width..][..width]
    }

    /// Goes on to the row behind `token`, if it is the one that was guessed.
    fn take(&mut self, token: u32) -> bool {
        let is_guessed = self.tokens.get(self.row + 1) == Some(&token);
        self.row += usize::from(is_guessed);
        is_guessed
    }
}

/// The permitted token with the greatest logit. The grammar is asked only about tokens that would win.
pub(crate) fn likeliest(logits: &[f32], permitted: impl Fn(u32) -> bool) -> Option<u32> {
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
fn sample(logits: &[f32], temperature: f32, permitted: impl Fn(u32) -> bool, point: f64) -> Option<u32> {
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
