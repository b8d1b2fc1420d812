//! Several questions answered at the same time: the tokens that all of them wrote are read in one pass over the weights. An
//! answer is to the bit what it is alone, so nothing of it tells what stood beside it; its time does, as it does of whoever
//! else uses the same processor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use events::{EditAction, EditContext};

use crate::answering::Answering;
use crate::error::ModelError;
use crate::model::{Completion, DecodeOptions, EditModel};
use crate::network::Reading;

/// A question, and who hears the answer.
pub trait Question {
    /// What is asked.
    fn context(&self) -> Arc<EditContext>;

    /// How to decode.
    fn options(&self) -> DecodeOptions;

    /// Whether nobody waits any more; asked before every token.
    fn is_cancelled(&self) -> bool;

    /// An action is complete.
    fn on_action(&self, action: EditAction);

    /// The answer is complete, or there is none.
    fn on_end(self, result: Result<Completion, ModelError>);
}

/// What breaks over one question is that question's alone.
fn guarded<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ModelError::Panicked))
}

impl EditModel {
    /// Answers what `next` hands out, at most `most` questions at once, until all are answered and it hands out no more. It
    /// is asked between passes while there is room: a question joins those that are being answered. One joins at a time, so
    /// that an answer waits for one prompt between its tokens, and not for several.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when a pass fails, which no question can bring about; the open ones are dropped without an
    /// end.
    pub fn complete_together<Q: Question>(
        &self,
        most: usize,
        next: &mut dyn FnMut() -> Option<Q>,
    ) -> Result<(), ModelError> {
        let mut open: Vec<(Q, Answering<'_, Arc<EditContext>>)> = Vec::new();
        loop {
            let newcomer = if open.len() < most.max(1) { next() } else { None };
            if newcomer.is_none() && open.is_empty() {
                return Ok(());
            }
            if let Some(question) = newcomer {
                match guarded(|| Answering::start(self, question.context(), question.options())) {
                    Ok(answering) => open.push((question, answering)),
                    Err(error) => question.on_end(Err(error)),
                }
            }
            let mut waiting = Vec::with_capacity(open.len());
            for (question, mut answering) in open {
                let advanced = guarded(|| {
                    Ok(answering.advance(&|| question.is_cancelled(), &mut |action| question.on_action(action)))
                });
                match advanced {
                    Ok(true) => waiting.push((question, answering)),
                    Ok(false) => question.on_end(Ok(answering.completion)),
                    Err(error) => question.on_end(Err(error)),
                }
            }
            open = waiting;
            if open.is_empty() {
                continue;
            }
            let mut readings: Vec<Reading<'_>> = open.iter_mut().map(|(_, answering)| answering.reading()).collect();
            let rows = self.read_tokens(&mut readings)?;
            let mut rest = rows.as_slice();
            for (_, answering) in &mut open {
                rest = answering.take(rest);
            }
        }
    }
}
