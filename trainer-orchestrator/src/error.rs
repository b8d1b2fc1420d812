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
    /// A stored pair of a data set serves no purpose that this release knows.
    #[error("stored row: {0}")]
    Purpose(#[from] model_registry::lineage::UnknownPurpose),
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
    /// What the job left is of no use: it is not what it says, or the registry refuses it for good.
    #[error("result of the training job: {0}")]
    Result(String),
    /// Another process leads now.
    #[error(transparent)]
    Lease(#[from] service::lease::LeaseError),
    /// The allow-list can not be read.
    #[error(transparent)]
    Rules(#[from] service::repositories::RepositoryRuleError),
    /// The key store failed.
    #[error(transparent)]
    Keys(#[from] service::keys::KeyStoreError),
    /// A fact for the bus that does not fit its schema.
    #[error("event: {0}")]
    Event(#[from] events::avro::AvroError),
    /// A data set that can not be, or is not what its digest names.
    #[error(transparent)]
    DataSet(#[from] crate::data_set::manifest::DataSetError),
    /// Consents can not be read.
    #[error(transparent)]
    Consents(#[from] service::consent::ConsentError),
    /// A setting is not usable.
    #[error("orchestrator.{key}: {reason}")]
    Config {
        /// Key within `[orchestrator]`.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
