//! What proposes edits, behind one trait. An answer is begun at once or refused at once; what comes of it is told piece by
//! piece, and it ends when nobody wants it any more.
//!
//! `embedded` models that compute on threads of this process · `asking` a question on its way through such a thread ·
//! `foreign` servers that others run.

mod asking;
mod embedded;
mod foreign;

use std::sync::Arc;

use async_trait::async_trait;
use events::{EditAction, EditContext, TenantId, Window};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use asking::Asking;
pub(crate) use embedded::{Loading, Model, load};
pub use foreign::EngineConfig;
pub(crate) use foreign::{Description, ForeignEngine, ForeignEngines, ForeignModel};

use crate::models::Unservable;
use crate::pool::DecodePool;

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
    /// Most answers that are decoded together.
    pub(crate) batch: usize,
}

/// What is asked.
pub(crate) struct Ask {
    /// Who asks. Tenants may share an engine; nothing of an answer, its time included, may tell one what another asked.
    pub(crate) tenant: TenantId,
    pub(crate) context: Arc<EditContext>,
    pub(crate) decoding: Decoding,
    /// Whether actions are kept back until the whole answer is known.
    pub(crate) explores: bool,
}

impl std::fmt::Debug for Ask {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Ask(..)")
    }
}

/// What an engine answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Completion {
    pub(crate) actions: Vec<EditAction>,
    /// The engine's estimate that an edit is wanted, before masking or threshold.
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
    /// Nobody answered in time, or somebody broke off: nothing was decided. Names the engine.
    #[error("engine {0} gave no answer")]
    Unanswered(String),
    /// Anything else.
    #[error("decoding failed: {0}")]
    Failed(String),
}

/// What an engine tells of an answer.
pub(crate) enum Progress {
    /// An action that is to be shown is complete.
    Action(EditAction),
    /// The answer ended.
    Done(Result<Completion, EngineError>),
}

/// There is no room for another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overloaded;

/// Something that proposes edits.
#[async_trait]
pub(crate) trait Engine: Send + Sync + std::fmt::Debug {
    /// Begins an answer and returns at once. `progress` has room for every action that the limit allows and for the end;
    /// an answer that ends without one failed. One that nobody wants any more is cancelled and stops soon, with what it
    /// has. `threads` are for what computes in this process.
    fn begin(
        self: Arc<Self>,
        threads: &DecodePool<Asking>,
        ask: Ask,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<(), Overloaded>;

    /// Shows, before anybody is routed to it, that it answers. A model in memory was asked when it was loaded.
    async fn prove(&self) -> Result<(), Unservable> {
        Ok(())
    }
}

/// What an engine is asked before anybody else asks it.
fn warm_context() -> EditContext {
    EditContext {
        repository: "warm".to_owned(),
        path: "warm.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: Vec::new(),
        window: Window { start_byte: 0, first_line: 0, text: "let warm = true;\n".to_owned() },
        cursor_byte: 0,
    }
}
