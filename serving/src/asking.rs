//! A question on its way through a decoding thread, alone or beside others of the same model.

use std::sync::Arc;
use std::time::Instant;

use events::{EditAction, EditContext, TenantId};
use metrics::histogram;
use tokio::sync::mpsc;

use crate::answer::Progress;
use crate::engine::{Completion, Decoding, Engine, EngineError};
use crate::pool::{CancelFlag, Work};

/// What is asked, and who hears the answer. With `explores` nothing is shown before the gate score is known.
pub(crate) struct Asking {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) tenant: TenantId,
    pub(crate) context: Arc<EditContext>,
    pub(crate) decoding: Decoding,
    pub(crate) explores: bool,
    pub(crate) cancel: CancelFlag,
    pub(crate) progress: mpsc::Sender<Progress>,
    /// Most answers that are decoded together.
    pub(crate) batch: usize,
}

impl Asking {
    /// An action is complete.
    pub(crate) fn show(&self, action: EditAction) {
        // The channel holds every action that the limit allows; a full or closed one means that nobody listens.
        if !self.explores && self.progress.try_send(Progress::Action(action)).is_err() {
            self.cancel.cancel();
        }
    }

    /// Decoding, which began at `started`, ended.
    pub(crate) fn end(self, started: Instant, result: Result<Completion, EngineError>) {
        histogram!("flywheel_serving_decode_seconds").record(started.elapsed());
        let _ = self.progress.try_send(Progress::Done(result));
    }
}

impl Work for Asking {
    // Whoever runs the work holds the engine, so no other is at its address.
    type Kind = *const ();

    fn kind(&self) -> Self::Kind {
        Arc::as_ptr(&self.engine).cast()
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn run(self, more: &mut dyn FnMut() -> Option<Self>) {
        let (engine, batch) = (Arc::clone(&self.engine), self.batch);
        let mut first = Some(self);
        engine.complete_together(batch, &mut || first.take().or_else(&mut *more));
    }
}
