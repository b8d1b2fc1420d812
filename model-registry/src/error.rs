//! What the registry refuses, each with a stable code.

use artifacts::ArtifactError;
use events::{Audience, ModelName, ModelVersion, RolloutId, Sha256Digest};
use migrations::Trouble;

use crate::policy::InvalidPolicy;
use crate::rollout::IllegalTransition;
use crate::version::Alias;

/// An operation that was not done. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No version of this model was ever registered.
    #[error("there is no model {model}")]
    UnknownModel {
        /// Its name.
        model: ModelName,
    },
    /// No such version.
    #[error("model {model} has no version {version}")]
    UnknownVersion {
        /// The model.
        model: ModelName,
        /// The version.
        version: ModelVersion,
    },
    /// No such rollout.
    #[error("there is no rollout {rollout}")]
    UnknownRollout {
        /// Its id.
        rollout: RolloutId,
    },
    /// Nothing can be served or rolled out before a version is current.
    #[error("model {model} has no current version")]
    NoCurrentVersion {
        /// The model.
        model: ModelName,
    },
    /// The data set that a version claims to come from is not known.
    #[error("there is no snapshot {snapshot}")]
    UnknownSnapshot {
        /// Its digest.
        snapshot: Sha256Digest,
    },
    /// The version would be served to more than those who may know what it learned.
    #[error("the audience must be that of the {of}: {expected}")]
    AudienceMismatch {
        /// Anchor or snapshot.
        of: &'static str,
        /// The only audience allowed.
        expected: Audience,
    },
    /// The artifact is not stored.
    #[error("artifact {digest} is not stored completely: {source}")]
    ArtifactMissing {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// What is missing.
        source: Box<ArtifactError>,
    },
    /// The artifact is not what its digest promises.
    #[error("artifact {digest} does not hold what its digest promises: {source}")]
    ArtifactCorrupt {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Which part.
        source: Box<ArtifactError>,
    },
    /// The rows of a data set do not give the digest that names it.
    #[error("snapshot {snapshot} does not hold what its digest promises")]
    SnapshotCorrupt {
        /// Its digest.
        snapshot: Sha256Digest,
    },
    /// What the evaluation said is not what it says now.
    #[error("the evaluation of version {version} is not what was registered")]
    EvaluationCorrupt {
        /// The version.
        version: ModelVersion,
    },
    /// The artifact cannot be read at the moment.
    #[error("artifact {digest} cannot be read: {source}")]
    ArtifactUnavailable {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Why.
        source: ArtifactError,
    },
    /// The training run was registered before, with something else.
    #[error("this training run is registered as version {version}, with another artifact or lineage")]
    VersionConflict {
        /// The version.
        version: ModelVersion,
    },
    /// Compare-and-set: the alias points elsewhere.
    #[error("alias {alias} points to {}, not to {}", show(*.found), show(*.expected))]
    AliasConflict {
        /// Which alias.
        alias: Alias,
        /// What the caller expected.
        expected: Option<ModelVersion>,
        /// What it points to.
        found: Option<ModelVersion>,
    },
    /// One rollout at a time; and the versions that it compares stay while it runs.
    #[error("rollout {rollout} of model {model} is running")]
    RolloutActive {
        /// The model.
        model: ModelName,
        /// The rollout that runs.
        rollout: RolloutId,
    },
    /// The candidate serves everybody already.
    #[error("version {version} is current already")]
    AlreadyCurrent {
        /// The version.
        version: ModelVersion,
    },
    /// The rollout cannot take this step from where it stands.
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// A policy by which nothing can be judged.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// A field that does not fit.
    #[error("{field}: expected {expected}")]
    InvalidArgument {
        /// The field.
        field: &'static str,
        /// What would fit.
        expected: String,
    },
    /// Others changed the same model again and again.
    #[error("the model was changed by others at the same time; try again")]
    Contended,
    /// A row that this release cannot read.
    #[error("stored {what} cannot be read by this release")]
    Unreadable {
        /// What it is.
        what: &'static str,
    },
    /// The database failed.
    #[error("registry database: {0}")]
    Database(#[from] sqlx::Error),
    /// A fact for the bus that does not fit its schema.
    #[error("registry event: {0}")]
    Event(#[from] events::avro::AvroError),
}

fn show(version: Option<ModelVersion>) -> String {
    version.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"))
}

impl RegistryError {
    /// The stable code that clients may rely on.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "unknown_model",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::UnknownRollout { .. } => "unknown_rollout",
            Self::NoCurrentVersion { .. } => "no_current_version",
            Self::UnknownSnapshot { .. } => "unknown_snapshot",
            Self::AudienceMismatch { .. } => "audience_mismatch",
            Self::ArtifactMissing { .. } => "artifact_missing",
            Self::ArtifactCorrupt { .. } => "artifact_corrupt",
            Self::SnapshotCorrupt { .. } => "snapshot_corrupt",
            Self::EvaluationCorrupt { .. } => "evaluation_corrupt",
            Self::ArtifactUnavailable { .. } => "artifact_unavailable",
            Self::VersionConflict { .. } => "version_conflict",
            Self::AliasConflict { .. } => "alias_conflict",
            Self::RolloutActive { .. } => "rollout_active",
            Self::AlreadyCurrent { .. } => "already_current",
            Self::IllegalTransition(_) => "illegal_transition",
            Self::Policy(_) => "invalid_policy",
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::Contended => "contended",
            Self::Unreadable { .. } => "unreadable",
            Self::Database(_) => "database_unavailable",
            Self::Event(_) => "internal",
        }
    }

    /// Whether something that a version serves with is missing or altered.
    pub(crate) const fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::ArtifactMissing { .. }
                | Self::ArtifactCorrupt { .. }
                | Self::SnapshotCorrupt { .. }
                | Self::EvaluationCorrupt { .. }
                | Self::UnknownSnapshot { .. }
        )
    }

    /// Why the whole operation may succeed when done again.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Contended => Some(Trouble::Conflict),
            error => migrations::trouble(error),
        }
    }

    /// What is left to say when it did not.
    pub(crate) fn after_retries(self) -> Self {
        if self.trouble() == Some(Trouble::Conflict) { Self::Contended } else { self }
    }
}
