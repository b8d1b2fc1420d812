//! What can go wrong between a trigger and a registered version.

/// Errors of the orchestrator. Messages carry ids, codes and numbers, never text of pairs.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// The database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A stored id does not read back.
    #[error("stored row: {0}")]
    Row(#[from] events::InvalidId),
    /// A stored or produced JSON does not read back.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A file of a run could not be written or read.
    #[error("run directory: {0}")]
    Files(#[from] std::io::Error),
    /// The lake could not be read.
    #[error("pair lake: {0}")]
    Lake(String),
    /// The registry did not answer, or refused.
    #[error("model registry: {0}")]
    Registry(String),
    /// The job ended without a result.
    #[error("training job: {0}")]
    Job(String),
    /// A setting is not usable.
    #[error("orchestrator.{key}: {reason}")]
    Config {
        /// Key within `[orchestrator]`.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
