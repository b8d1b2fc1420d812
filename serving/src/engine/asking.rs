//! A question on its way through a decoding thread, alone or beside others of the same model.

use std::sync::Arc;
use std::time::Instant;

use events::EditAction;
use metrics::histogram;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Ask, Completion, EngineError, Model, Progress};
use crate::pool::Work;

/// What is asked, and who hears the answer. With `explores` nothing is shown before the gate score is known.
pub(crate) struct Asking {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) ask: Ask,
    pub(crate) progress: mpsc::Sender<Progress>,
    pub(crate) cancel: CancellationToken,
}

impl Asking {
    /// An action is complete.
    pub(crate) fn show(&self, action: EditAction) {
        // The channel holds every action that the limit allows; a full or closed one means that nobody listens.
        if !self.ask.explores && self.progress.try_send(Progress::Action(action)).is_err() {
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
    // Whoever runs the work holds the model, so no other is at its address.
    type Kind = *const ();

    fn kind(&self) -> Self::Kind {
        Arc::as_ptr(&self.model).cast()
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn run(self, more: &mut dyn FnMut() -> Option<Self>) {
        let (model, batch) = (Arc::clone(&self.model), self.ask.decoding.batch);
        let mut first = Some(self);
        model.answer(batch, &mut || first.take().or_else(&mut *more));
    }
}
