//! One answer while it is written: which tokens must be read before it can go on, and how it goes on then. Whoever has
//! several of them reads the tokens of all in one pass.

use std::ops::Deref;

use events::{ActionList, EditAction, EditContext};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::dialect::{AnswerParser, ParsedToken, encode_prompt};
use crate::draft::Drafter;
use crate::error::ModelError;
use crate::model::{Completion, DecodeOptions, EditModel, StopReason, likeliest, sample};
use crate::network::{KeyValueCache, Network, Reading};

/// The answer to the context in `C`.
pub(crate) struct Answering<'m, C> {
    options: DecodeOptions,
    no_edit: u32,
    /// Most tokens of prompt and answer together.
    most: usize,
    cache: KeyValueCache,
    random: Option<ChaCha8Rng>,
    parser: AnswerParser<'m, C>,
    drafter: Drafter<'m>,
    ahead: Ahead,
    log_probabilities: Vec<f32>,
    /// What is to be read next.
    tokens: Vec<u32>,
    /// What was answered so far.
    pub(crate) completion: Completion,
}

impl<'m, C: Deref<Target = EditContext>> Answering<'m, C> {
    /// Reads the prompt.
    ///
    /// # Errors
    /// [`ModelError::Context`] when the context is unusable.
    pub(crate) fn start(model: &'m EditModel, context: C, options: DecodeOptions) -> Result<Self, ModelError> {
        let tokenizer = model.tokenizer();
        let prompt = encode_prompt(tokenizer, &context)?;
        let no_edit = tokenizer.special().no_edit;
        let (cache, reused_tokens, logits) = model.read_prompt(&options.tenant, &prompt.tokens)?;
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
        }
        Ok(Self {
            no_edit,
            most: model.network().config().max_position_embeddings,
            cache,
            random: (options.temperature > 0.0).then(|| ChaCha8Rng::seed_from_u64(options.seed)),
            parser: AnswerParser::new(tokenizer, context, &prompt),
            drafter: Drafter::new(tokenizer, &prompt.tokens),
            ahead: Ahead::new(logits),
            log_probabilities,
            tokens: Vec::new(),
            completion,
            options,
        })
    }

    /// Writes on. True when [`Answering::reading`] must be read before it can go on, false at the end of the answer. Every
    /// action is handed to `on_action` as soon as it is complete; `cancelled` is asked before every token.
    pub(crate) fn advance(&mut self, cancelled: &dyn Fn() -> bool, on_action: &mut dyn FnMut(EditAction)) -> bool {
        if self.completion.stopped_reason == StopReason::NoEdit {
            return false;
        }
        loop {
            if cancelled() {
                return self.stop(StopReason::Cancelled);
            }
            if self.completion.actions.actions.len() >= self.options.max_actions && self.parser.is_between_actions() {
                return self.stop(StopReason::Actions);
            }
            if self.completion.generated_tokens >= self.options.max_tokens {
                return self.stop(StopReason::Length);
            }
            let permitted = |token: u32| token != self.no_edit && self.parser.allows(token);
            let chosen = match &mut self.random {
                None => likeliest(self.ahead.logits(), permitted),
                Some(random) => sample(self.ahead.logits(), self.options.temperature, permitted, random.random()),
            };
            let Some(token) = chosen else { return self.stop(StopReason::Grammar) };
            let log_p = self.log_probabilities.get(token as usize).copied();
            self.completion.log_p_text += log_p.unwrap_or(f32::NEG_INFINITY);
            self.completion.generated_tokens += 1;
            match self.parser.push(token) {
                ParsedToken::Continue => {}
                ParsedToken::Action(action) => {
                    self.completion.actions.actions.push(action.clone());
                    on_action(action);
                }
                ParsedToken::End => {
                    self.completion.actions.closed = true;
                    return self.stop(StopReason::Stop);
                }
                ParsedToken::Invalid => return self.stop(StopReason::Grammar),
            }
            let length = self.completion.prompt_tokens + self.completion.generated_tokens;
            let room = self.most.saturating_sub(length);
            if room == 0 {
                return self.stop(StopReason::Length);
            }
            self.drafter.push(token);
            if !self.ahead.take(token) {
                // Wrong guesses are forgotten.
                self.cache.truncate(length - 1);
                let left = self.options.max_tokens.saturating_sub(self.completion.generated_tokens + 1);
                let drafted = self.drafter.draft(self.options.draft_tokens.min(room).min(left));
                self.completion.drafted_tokens += drafted.len();
                self.tokens = std::iter::once(token).chain(drafted).collect();
                return true;
            }
            self.completion.kept_draft_tokens += 1;
            self.weigh();
        }
    }

    fn stop(&mut self, reason: StopReason) -> bool {
        self.completion.stopped_reason = reason;
        false
    }

    /// What must be read before the answer can go on.
    pub(crate) fn reading(&mut self) -> Reading<'_> {
        Reading { tokens: &self.tokens, cache: &mut self.cache }
    }

    /// It was read: the first of `rows` are the logits behind its tokens. Returns the others.
    pub(crate) fn take<'r>(&mut self, rows: &'r [f32]) -> &'r [f32] {
        let tokens = std::mem::take(&mut self.tokens);
        let (own, others) = rows.split_at(tokens.len() * self.log_probabilities.len());
        self.ahead = Ahead { tokens, rows: own.to_vec(), row: 0 };
        self.weigh();
        others
    }

    fn weigh(&mut self) {
        self.log_probabilities.copy_from_slice(self.ahead.logits());
        Network::log_softmax(&mut self.log_probabilities);
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
