//! Why a training run ended without a result.

use std::path::PathBuf;

use edit_model::ModelError;

/// Errors of this crate. None of them contains code text or a person.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The model could not be read, written or run.
    #[error(transparent)]
    Model(ModelError),
    /// A file could not be read or written.
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
    /// All examples say the same.
    #[error("the data set has one class only: {method} needs {needs}")]
    OneClass {
        /// Name of the method.
        method: &'static str,
        /// What the data set would have to hold.
        needs: &'static str,
    },
    /// The absolute deadline passed; what was done since the last checkpoint is lost.
    #[error("the deadline passed at step {step}")]
    Deadline {
        /// Steps done.
        step: usize,
    },
    /// A loss or gradient stopped being a number, or grew beyond what a model can recover from.
    #[error("training diverged at step {step}: {reason}; the step's batch: {batch}")]
    Diverged {
        /// Number of the step, counted from 1.
        step: usize,
        /// What shows it.
        reason: String,
        /// What the step was made of: ids of pairs, or numbers of tasks.
        batch: String,
    },
    /// The result failed a health check.
    #[error("health check failed: {0}")]
    Unhealthy(String),
}

impl From<ModelError> for TrainerError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::File { path, source } => Self::File { path, source },
            ModelError::NoSpace { path, bytes, source } => Self::NoSpace { path, bytes, source },
            other => Self::Model(other),
        }
    }
}

impl TrainerError {
    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &std::path::Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}
