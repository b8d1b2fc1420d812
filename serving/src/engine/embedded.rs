//! Models of this process: they decode on threads of the pool, questions of the same model together.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use edit_model::{DecodeOptions, EditModel, ModelError, Question, ServedWeights, StopReason};
use events::{EditAction, EditContext};
use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Ask, Asking, Completion, Engine, EngineError, Overloaded, Progress, warm_context};
use crate::pool::{DecodePool, QueueFull};

/// A model in memory. Shared between threads.
pub(crate) trait Model: Send + Sync + std::fmt::Debug {
    /// Answers what `next` hands out, at most `most` questions at once; all of them are asked of this model. One that
    /// answers one at a time takes the first and leaves the others to whichever thread is free next.
    fn answer(&self, most: usize, next: &mut dyn FnMut() -> Option<Asking>);
}

#[async_trait]
impl<M: Model + 'static> Engine for M {
    fn begin(
        self: Arc<Self>,
        threads: &DecodePool<Asking>,
        ask: Ask,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<(), Overloaded> {
        threads.submit(Asking { model: self, ask, progress, cancel }).map_err(|QueueFull| Overloaded)
    }
}

/// How the model is asked.
fn options(ask: &Ask) -> DecodeOptions {
    let decoding = ask.decoding;
    DecodeOptions {
        max_actions: decoding.max_actions,
        threshold: decoding.threshold,
        force_edit: decoding.force_edit,
        draft_tokens: decoding.draft_tokens,
        tenant: ask.tenant.to_string(),
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
        Arc::clone(&self.asking.ask.context)
    }

    fn options(&self) -> DecodeOptions {
        options(&self.asking.ask)
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

impl Model for EditModel {
    fn answer(&self, most: usize, next: &mut dyn FnMut() -> Option<Asking>) {
        let mut begun = || next().map(|asking| Begun { asking, started: Instant::now() });
        if let Err(error) = self.complete_together::<Begun>(most, &mut begun) {
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
    model.gate_score(&warm_context())?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use edit_model::{CodeTokenizer, ModelConfig, Network};
    use events::TenantId;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::engine::Decoding;

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
        // The last context is none: its cursor is outside.
        let contexts = [0, 30, 60, 900].map(|cursor| Arc::new(context(cursor)));
        let decoding = Decoding { threshold: 0.5, force_edit: true, max_actions: 4, draft_tokens: 0, batch: 2 };
        let ask = |number: usize| Ask {
            tenant: TenantId::default(),
            context: Arc::clone(&contexts[number]),
            decoding,
            explores: number == 1,
        };
        let (mut askings, mut receivers) = (Vec::new(), Vec::new());
        for number in 0..contexts.len() {
            let (progress, receiver) = mpsc::channel(decoding.max_actions + 1);
            receivers.push(receiver);
            askings.push(Asking { model: model.clone(), ask: ask(number), progress, cancel: CancellationToken::new() });
        }
        let mut left = askings.into_iter();
        model.answer(decoding.batch, &mut || left.next());
        for (number, (context, receiver)) in contexts.iter().zip(&mut receivers).enumerate() {
            let mut shown = Vec::new();
            let alone = model.complete(context, &options(&ask(number)), &|| false, &mut |action| shown.push(action));
            let wanted = answered(alone);
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
