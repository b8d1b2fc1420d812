//! The model that proposes edits: a small Llama-shaped network, its tokenizer, its dialect, its directory and its
//! decoding; and what it takes to teach other models the same.

mod backend;
mod config;
mod directory;
mod error;
mod model;
mod network;
mod tokenizer;

pub mod dialect;
pub mod export;

pub use backend::{CpuBackend, Device, NetworkBackend};
pub use config::{ModelConfig, RopeParameters};
pub use directory::{MANIFEST_FILE, ModelManifest};
pub use error::ModelError;
pub use model::{Completion, DecodeOptions, EditModel, StopReason};
pub use network::{NamedTensor, Network, Sequence, Workspace};
pub use tokenizer::{CodeTokenizer, HABIT_TOKENS, MAX_LINES, REPOSITORY_SLOTS, SpecialTokens};
