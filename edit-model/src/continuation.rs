//! Prompts continued greedily outside of the grammar: what other engines do with the same weights, so that answers and
//! rates can be held against theirs.

use crate::error::ModelError;
use crate::model::{EditModel, likeliest};
use crate::network::{KeyValueCache, Reading};

/// Sequences that are continued together, a token of each in one pass over the weights.
#[derive(Debug)]
pub struct Continuation<'m> {
    model: &'m EditModel,
    caches: Vec<KeyValueCache>,
    /// What is likeliest behind each.
    next: Vec<u32>,
}

impl EditModel {
    /// Reads `prompts`. What is kept of earlier ones is used ([`EditModel::with_prefix_cache`]).
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for an empty or too long prompt or an unknown token.
    pub fn continuing(&self, prompts: &[Vec<u32>]) -> Result<Continuation<'_>, ModelError> {
        let mut continuation = Continuation { model: self, caches: Vec::new(), next: Vec::new() };
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(ModelError::Sequence("a prompt is empty"));
            }
            let (cache, _, logits) = self.read_prompt("", prompt)?;
            continuation.caches.push(cache);
            continuation.next.extend(likeliest(&logits, |_| true));
        }
        Ok(continuation)
    }
}

impl Continuation<'_> {
    /// Writes the likeliest token behind each sequence, and returns these in the order of the prompts.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when one of them is full.
    pub fn write(&mut self) -> Result<Vec<u32>, ModelError> {
        let written = std::mem::take(&mut self.next);
        let mut readings: Vec<Reading<'_>> = written
            .iter()
            .zip(&mut self.caches)
            .map(|(token, cache)| Reading { tokens: std::slice::from_ref(token), cache })
            .collect();
        let rows = self.model.read_tokens(&mut readings)?;
        let width = self.model.network().config().written();
        self.next = rows.chunks_exact(width).filter_map(|logits| likeliest(logits, |_| true)).collect();
        Ok(written)
    }
}
