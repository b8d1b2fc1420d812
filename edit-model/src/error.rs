//! What can go wrong with a model directory, a prompt or a sequence.

use std::path::{Path, PathBuf};

/// Errors of this crate. None of them contains code text.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The architecture is not one that the network implements.
    #[error("config.json is not usable: {0}")]
    Config(String),
    /// A file of the model directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no room for a file; what stood in its place is kept.
    #[error("{path}: no space for {bytes} bytes ({source}); what stood there before is kept")]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the model directory is truncated, altered or malformed.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The tokenizer is that of another model.
    #[error(
        "the tokenizer has {tokens} tokens and config.json a vocab_size of {vocab_size}: they are of different models"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// Weights that cannot be rounded: they have no scale.
    #[error("some weights are no numbers")]
    NotFinite,
    /// A batch that the network cannot take.
    #[error("sequence refused: {0}")]
    Sequence(&'static str),
    /// The device that should compute the network is not there, or failed.
    #[error("{0}")]
    Backend(String),
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// Sequences of the dialect are longer than a model takes, or than is allowed.
    #[error("too few tokens for this dialect: its prompts and answers take up to {needed} together")]
    Room {
        /// Tokens of the longest sequence.
        needed: usize,
    },
    /// A defect of this program: an answer ended in a panic.
    #[error("answering panicked")]
    Panicked,
    /// The context does not fit the dialect.
    #[error("context refused: {0}")]
    Context(#[from] crate::dialect::DialectError),
}

impl ModelError {
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}
