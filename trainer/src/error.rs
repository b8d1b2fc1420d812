//! Why a training run ended without a result.

use std::path::PathBuf;

use edit_model::ModelError;

/// Errors of this crate. None of them contains code text or a person.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The model could not be read, written or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The job file asks for something impossible.
    #[error("the job is refused: {0}")]
    Job(String),
    /// There is nothing to train on.
    #[error("no usable training example: {0}")]
    NoExamples(String),
    /// The absolute deadline passed; a checkpoint was written.
    #[error("the deadline passed at step {step}")]
    Deadline {
        /// Steps done.
        step: usize,
    },
    /// A number stopped being a number.
    #[error("training diverged at step {step}")]
    Diverged {
        /// Steps done.
        step: usize,
    },
    /// The result failed a health check.
    #[error("health check failed: {0}")]
    Unhealthy(String),
}

impl TrainerError {
    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &std::path::Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}
