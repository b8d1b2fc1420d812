//! What proposes edits, as far as serving must know: one call that hands out actions while it decodes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edit_model::{DecodeOptions, EditModel, ModelError, Question, ServedWeights, StopReason};
use events::{EditAction, EditContext, TenantId};
use metrics::counter;

use crate::asking::Asking;

/// How to decode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decoding {
    /// Least gate score at which the model speaks.
    pub(crate) threshold: f32,
    /// Speak whatever the gate score.
    pub(crate) force_edit: bool,
    pub(crate) max_actions: usize,
    /// Most tokens that are guessed and read ahead.
    pub(crate) draft_tokens: usize,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Completion {
    pub(crate) actions: Vec<EditAction>,
    /// The model's estimate that an edit is wanted, before masking or threshold.
    pub(crate) gate_score: f32,
    /// Log-probability under the model of everything that was decoded; of silence when it chose silence.
    pub(crate) log_p_text: f32,
    /// Whether decoding was broken off; such an answer is not complete.
    pub(crate) cancelled: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The context cannot be written for this model.
    #[error("the context does not fit the model")]
    Context,
    /// Anything else.
    #[error("decoding failed: {0}")]
    Failed(String),
}

/// Something that proposes edits. Shared between threads; a call keeps its own state.
pub(crate) trait Engine: Send + Sync + std::fmt::Debug {
    /// Answers the `context` of `tenant`; every action goes to `on_action` as soon as it is complete, and `cancelled` is
    /// asked before every token. Tenants may share an engine; nothing of an answer, its time included, may tell one what
    /// another asked.
    fn complete(
        &self,
        tenant: &TenantId,
        context: &EditContext,
        decoding: Decoding,
        cancelled: &dyn Fn() -> bool,
        on_action: &mut dyn FnMut(EditAction),
    ) -> Result<Completion, EngineError>;

    /// Answers what `next` hands out, at most `most` questions at once; all of them are asked of this engine. One that
    /// answers one at a time takes the first and leaves the others to whichever thread is free next.
    fn complete_together(&self, most: usize, next: &mut dyn FnMut() -> Option<Asking>) {
        let _ = most;
        if let Some(asking) = next() {
            let started = Instant::now();
            let cancelled = || asking.cancel.is_cancelled();
            let result = self.complete(&asking.tenant, &asking.context, asking.decoding, &cancelled, &mut |action| {
                asking.show(action);
            });
            asking.end(started, result);
        }
    }
}

/// How the model is asked.
fn options(tenant: &TenantId, decoding: Decoding) -> DecodeOptions {
    DecodeOptions {
        max_actions: decoding.max_actions,
        threshold: decoding.threshold,
        force_edit: decoding.force_edit,
        draft_tokens: decoding.draft_tokens,
        tenant: tenant.to_string(),
        ..DecodeOptions::default()
    }
}

/// What the model answered, counted.
fn answered(result: Result<edit_model::Completion, ModelError>) -> Result<Completion, EngineError> {
    let completion = result.map_err(|error| match error {
        ModelError::Context(_) => EngineError::Context,
        other => EngineError::Failed(other.to_string()),
    })?;
    counter!("flywheel_serving_prompt_tokens_total").increment(completion.prompt_tokens as u64);
    counter!("flywheel_serving_reused_prompt_tokens_total").increment(completion.reused_tokens as u64);
    counter!("flywheel_serving_drafted_tokens_total").increment(completion.drafted_tokens as u64);
    counter!("flywheel_serving_kept_draft_tokens_total").increment(completion.kept_draft_tokens as u64);
    if !completion.gate_score.is_finite() {
        return Err(EngineError::Failed("the gate score is not a finite number".to_owned()));
    }
    Ok(Completion {
        actions: completion.actions.actions,
        gate_score: completion.gate_score,
        log_p_text: if completion.log_p_text.is_finite() { completion.log_p_text } else { f32::MIN },
        cancelled: completion.stopped_reason == StopReason::Cancelled,
    })
}

/// A question that a model answers beside others.
struct Begun {
    asking: Asking,
    started: Instant,
}

impl Question for Begun {
    fn context(&self) -> Arc<EditContext> {
        Arc::clone(&self.asking.context)
    }

    fn options(&self) -> DecodeOptions {
        options(&self.asking.tenant, self.asking.decoding)
    }

    fn is_cancelled(&self) -> bool {
        self.asking.cancel.is_cancelled()
    }

    fn on_action(&self, action: EditAction) {
        self.asking.show(action);
    }

    fn on_end(self, result: Result<edit_model::Completion, ModelError>) {
        self.asking.end(self.started, answered(result));
    }
}

impl Engine for EditModel {
    fn complete(
        &self,
        tenant: &TenantId,
        context: &EditContext,
        decoding: Decoding,
        cancelled: &dyn Fn() -> bool,
        on_action: &mut dyn FnMut(EditAction),
    ) -> Result<Completion, EngineError> {
        answered(Self::complete(self, context, &options(tenant, decoding), cancelled, on_action))
    }

    fn complete_together(&self, most: usize, next: &mut dyn FnMut() -> Option<Asking>) {
        let mut begun = || next().map(|asking| Begun { asking, started: Instant::now() });
        if let Err(error) = Self::complete_together::<Begun>(self, most, &mut begun) {
            // Those who wait see their channels close.
            tracing::error!(%error, "a pass failed");
        }
    }
}

/// How models are loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loading {
    /// By which weights they decode.
    pub(crate) weights: ServedWeights,
    /// What each may keep of the prompts that it reads.
    pub(crate) prefix_cache_bytes: usize,
    /// How long it keeps that.
    pub(crate) prefix_lifetime: Duration,
}

/// Loads and verifies a model directory, and asks it once, so that the first request finds everything in memory.
pub(crate) fn load(directory: &Path, loading: Loading) -> Result<EditModel, ModelError> {
    let model = EditModel::load(directory)?.served_with(loading.weights)?;
    let model = model.with_prefix_cache(loading.prefix_cache_bytes, loading.prefix_lifetime);
    let context = EditContext {
        repository: "warm".to_owned(),
        path: "warm.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: Vec::new(),
        window: events::Window { start_byte: 0, first_line: 0, text: "let warm = true;\n".to_owned() },
        cursor_byte: 0,
    };
    model.gate_score(&context)?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use edit_model::{CodeTokenizer, ModelConfig, Network};
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use tokio::sync::mpsc;

    use super::*;
    use crate::answer::Progress;
    use crate::pool::CancelFlag;

    const TEXT: &str = "let user = users.get(1);\nlet name = get_name(user);\nprintln!(name);\n";

    fn model() -> EditModel {
        let tokenizer = CodeTokenizer::train(std::iter::repeat_n(TEXT, 3), 330).unwrap();
        let special = tokenizer.special();
        let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
        (config.hidden_size, config.intermediate_size, config.num_hidden_layers) = (32, 48, 2);
        (config.num_attention_heads, config.num_key_value_heads) = (2, 2);
        let network = Network::new(config.clone()).unwrap();
        let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(1));
        EditModel::new(config, weights, tokenizer).unwrap()
    }

    fn context(cursor_byte: u64) -> EditContext {
        EditContext {
            repository: "acme/shop".to_owned(),
            path: "src/users.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: events::Window { start_byte: 0, first_line: 0, text: TEXT.to_owned() },
            cursor_byte,
        }
    }

    #[test]
    fn askings_that_are_answered_together_hear_what_each_would_hear_alone() {
        let model = Arc::new(model());
        let tenant = TenantId::default();
        // The last context is none: its cursor is outside.
        let contexts = [0, 30, 60, 900].map(|cursor| Arc::new(context(cursor)));
        let decoding = Decoding { threshold: 0.5, force_edit: true, max_actions: 4, draft_tokens: 0 };
        let (mut askings, mut receivers) = (Vec::new(), Vec::new());
        for (number, context) in contexts.iter().enumerate() {
            let (progress, receiver) = mpsc::channel(decoding.max_actions + 1);
            receivers.push(receiver);
            let engine: Arc<dyn Engine> = model.clone();
            askings.push(Asking {
                engine,
                tenant: tenant.clone(),
                context: Arc::clone(context),
                decoding,
                explores: number == 1,
                cancel: CancelFlag::default(),
                progress,
                batch: 2,
            });
        }
        let mut left = askings.into_iter();
        Engine::complete_together(&*model, 2, &mut || left.next());
        for (number, (context, receiver)) in contexts.iter().zip(&mut receivers).enumerate() {
            let mut shown = Vec::new();
            let wanted =
                Engine::complete(&*model, &tenant, context, decoding, &|| false, &mut |action| shown.push(action));
            let (mut heard, mut end) = (Vec::new(), None);
            while let Ok(progress) = receiver.try_recv() {
                match progress {
                    Progress::Action(action) => heard.push(action),
                    Progress::Done(result) => end = Some(result),
                }
            }
            assert_eq!(heard, if number == 1 { Vec::new() } else { shown });
            match (end.unwrap(), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted),
                (Err(EngineError::Context), Err(EngineError::Context)) => assert_eq!(number, 3),
                (got, wanted) => panic!("{number}: {got:?} {wanted:?}"),
            }
        }
    }
}
