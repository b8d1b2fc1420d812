//! The model that proposes edits: a decoder of the Llama, Qwen2 or Qwen3 family, its tokenizer, its dialect, its directory
//! and its decoding; and what it takes to teach other models the same.

mod adopt;
mod answering;
mod backend;
mod checkpoint;
mod config;
mod continuation;
mod directory;
mod draft;
mod error;
mod gguf;
mod lora;
mod model;
mod network;
mod prefix;
mod together;
mod tokenizer;
mod whole;

pub mod dialect;
pub mod export;

pub use backend::{CpuBackend, Device, NetworkBackend};
pub use config::{Family, ModelConfig, RopeParameters, TokenIds};
pub use continuation::Continuation;
pub use directory::{MANIFEST_FILE, ModelManifest};
pub use error::ModelError;
pub use gguf::{GgufModelSummary, GgufSummary, GgufWeights};
pub use lora::{Lora, LoraBackend, LoraConfig, Projection};
pub use model::{Completion, DecodeOptions, EditModel, ServedWeights, StopReason};
pub use network::{NamedTensor, Network, Sequence, Workspace};
pub use together::Question;
pub use tokenizer::{CodeTokenizer, HABIT_TOKENS, MAX_LINES, REPOSITORY_SLOTS, SpecialTokens};
pub use whole::write_whole;
