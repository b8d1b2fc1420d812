//! The tokenizer of a base model, used as a trainer uses it: text in, tokens out, control tokens in the text included.

use std::collections::{BTreeMap, HashSet};

use tokenizers::Tokenizer;

use super::Refusal;
use crate::error::ModelError;

/// A tokenizer in the layout of Hugging Face's `tokenizer.json`.
#[derive(Debug, Clone)]
pub(super) struct BaseTokenizer {
    tokenizer: Tokenizer,
    control: BTreeMap<String, u32>,
    ids: HashSet<u32>,
}

/// The library's reason, as ours.
fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

impl BaseTokenizer {
    /// Reads `tokenizer.json` from its bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
        tokenizer.set_encode_special_tokens(false);
        // A length that the file sets would hide how long a text is.
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        let mut control = BTreeMap::new();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            // Some vocabularies have their runs of spaces as added tokens: these are text.
            if !token.content.trim().is_empty() {
                control.insert(token.content, id);
            }
        }
        let ids = control.values().copied().collect();
        Ok(Self { tokenizer, control, ids })
    }

    /// Whatever the tokenizer takes out of a text before it tokenizes the rest, whether flagged as special or not.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.control.keys().map(String::as_str)
    }

    /// The id of a control token.
    pub(super) fn control_token(&self, name: &str) -> Option<u32> {
        self.control.get(name).copied()
    }

    /// Whether a token is a control token.
    pub(super) fn is_control(&self, token: u32) -> bool {
        self.ids.contains(&token)
    }

    /// The name of a token, as the vocabulary writes it.
    pub(super) fn name(&self, token: u32) -> Option<String> {
        self.tokenizer.id_to_token(token)
    }

    /// The tokens of `text`, without any that a trainer would put around it.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, Refusal> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|_| Refusal::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }
}
