//! Models and adapters as llama.cpp reads them: GGUF, version 3 (ggml's `docs/gguf.md`).
//!
//! A file is a header, named values, the names and shapes of all tensors, and behind them the tensors, each at a multiple
//! of 32 bytes. Numbers are little-endian. Shapes are written with the fastest dimension first.

mod file;
mod parts;
mod vocabulary;

use std::borrow::Cow;
use std::path::Path;

use file::{Tensor, Value, write};
use parts::{check, describe, query_heads, tensor_name};
use vocabulary::vocabulary;

use crate::error::ModelError;
use crate::lora::{Lora, PREFIX};
use crate::model::EditModel;
use crate::network::Network;

/// How weights are stored. Vectors (norms and biases) are always in f32, as llama.cpp wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufWeights {
    /// As they are served here and stored in safetensors: nothing is lost. llama.cpp rounds what it multiplies them with to
    /// bf16 as well.
    Bf16,
    /// Twice as large; what they are multiplied with stays in f32, so greedy answers are ours.
    F32,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufSummary {
    /// Size of the file.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
}

/// What was written of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufModelSummary {
    /// The file.
    pub file: GgufSummary,
    /// How llama.cpp is told to split text before it merges bytes.
    pub pre_tokenizer: &'static str,
    /// Whether the tokenizer splits like that. Where it does not, llama.cpp makes other tokens of a text, so it is to be
    /// given tokens.
    pub splits_alike: bool,
}

impl EditModel {
    /// Writes the model with its tokenizer to `path`, in whose place it comes whole or not at all. `name` is what people
    /// see. The tokens from `written_vocab_size` on are only read: whoever decodes must not choose them.
    ///
    /// # Errors
    /// [`ModelError::Config`] for what llama.cpp does not compute, [`ModelError::Tokenizer`] for a tokenizer that cannot be
    /// written, [`ModelError::File`] when the file cannot be written.
    pub fn export_gguf(&self, path: &Path, name: &str, weights: GgufWeights) -> Result<GgufModelSummary, ModelError> {
        let config = self.network().config();
        check(config)?;
        let vocabulary = vocabulary(self.tokenizer(), config)?;
        let mut metadata = describe(config, name, weights)?;
        metadata.extend(vocabulary.metadata);
        let mut tensors = Vec::new();
        for tensor in self.network().tensors() {
            tensors.push(Tensor {
                name: tensor_name(&tensor.name)?,
                interleaved_heads: query_heads(config, &tensor.name),
                weights: if tensor.shape.len() > 1 { weights } else { GgufWeights::F32 },
                shape: tensor.shape,
                values: Cow::Borrowed(&self.weights()[tensor.range]),
            });
        }
        if let Some(factors) = parts::frequency_factors(config)? {
            tensors.push(Tensor {
                name: "rope_freqs.weight".to_owned(),
                interleaved_heads: None,
                weights: GgufWeights::F32,
                shape: vec![factors.len()],
                values: Cow::Owned(factors),
            });
        }
        let file = write(path, &metadata, &tensors)?;
        Ok(GgufModelSummary { file, pre_tokenizer: vocabulary.pre_tokenizer, splits_alike: vocabulary.splits_alike })
    }
}

impl Lora {
    /// Writes `adapter` to `path`, for llama.cpp to put over the model of `network`; whole or not at all.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for an adapter or a network of another architecture, [`ModelError::Config`] for what
    /// llama.cpp does not compute, [`ModelError::File`] when the file cannot be written.
    pub fn export_gguf(
        &self,
        adapter: &[f32],
        network: &Network,
        path: &Path,
        name: &str,
    ) -> Result<GgufSummary, ModelError> {
        let config = network.config();
        check(config)?;
        let of_network = Self::new(self.config().clone(), network)?;
        if adapter.len() != self.parameter_count() || of_network.tensors() != self.tensors() {
            return Err(ModelError::Sequence("the adapter does not fit the architecture"));
        }
        let text = |text: &str| Value::Text(text.to_owned());
        let metadata = [
            ("general.type", text("adapter")),
            ("general.architecture", text(parts::architecture(config))),
            ("general.name", text(name)),
            ("adapter.type", text("lora")),
            ("adapter.lora.alpha", Value::F32(self.config().alpha as f32)),
        ];
        let mut tensors = Vec::new();
        for tensor in self.tensors() {
            let unknown = || ModelError::Config(format!("{} has no name in GGUF", tensor.name));
            let changed = tensor.name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            let (module, side) = match changed.strip_suffix(".lora_A.weight") {
                Some(module) => (module, "lora_a"),
                None => (changed.strip_suffix(".lora_B.weight").ok_or_else(unknown)?, "lora_b"),
            };
            let matrix = format!("{module}.weight");
            tensors.push(Tensor {
                name: format!("{}.{side}", tensor_name(&matrix)?),
                // What a head is made of are the rows of the product, hence those of B.
                interleaved_heads: query_heads(config, &matrix).filter(|_| side == "lora_b"),
                weights: GgufWeights::F32,
                values: Cow::Borrowed(&adapter[tensor.range.clone()]),
                shape: tensor.shape,
            });
        }
        write(path, &metadata.map(|(key, value)| (key.to_owned(), value)), &tensors)
    }
}
