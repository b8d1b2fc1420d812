//! What proposes edits, as far as serving must know: one call that hands out actions while it decodes.

use std::path::Path;
use std::time::Duration;

use edit_model::{DecodeOptions, EditModel, ModelError, StopReason};
use events::{EditAction, EditContext, TenantId};
use metrics::counter;

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
        let options = DecodeOptions {
            max_actions: decoding.max_actions,
            threshold: decoding.threshold,
            force_edit: decoding.force_edit,
            draft_tokens: decoding.draft_tokens,
            tenant: tenant.to_string(),
            ..DecodeOptions::default()
        };
        let completion =
            Self::complete(self, context, &options, cancelled, on_action).map_err(|error| match error {
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
}

/// Loads and verifies a model directory, and asks it once, so that the first request finds everything in memory. It may
/// keep `prefix_cache_bytes` bytes of the prompts that it reads, each for `prefix_lifetime`.
pub(crate) fn load(
    directory: &Path,
    prefix_cache_bytes: usize,
    prefix_lifetime: Duration,
) -> Result<EditModel, ModelError> {
    let model = EditModel::load(directory)?.with_prefix_cache(prefix_cache_bytes, prefix_lifetime);
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
