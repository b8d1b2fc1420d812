//! What the registry knows about a version of a model, and what it takes to register one.

use std::fmt;
use std::str::FromStr;

use events::{Audience, ModelName, ModelVersion, RunId, Sha256Digest, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// A name that points to one version of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// The promoted version.
    Current,
    /// The version that the hold-back keeps using.
    Reference,
}

impl Alias {
    /// As SQL, proto and audit write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Reference => "reference",
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that names no alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("alias: expected \"current\" or \"reference\"")]
pub struct UnknownAlias;

impl FromStr for Alias {
    type Err = UnknownAlias;

    fn from_str(text: &str) -> Result<Self, UnknownAlias> {
        match text {
            "current" => Ok(Self::Current),
            "reference" => Ok(Self::Reference),
            _ => Err(UnknownAlias),
        }
    }
}

/// A version to be registered. Its number is given by the registry, from 1 upwards within (tenant, model).
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// The model; made with its first version.
    pub model: ModelName,
    /// Digest of the artifact's manifest. The artifact must be stored already; every file is verified.
    pub artifact_digest: Sha256Digest,
    /// The version that served when the training data was collected.
    pub parent: Option<ModelVersion>,
    /// The version whose weights the training started from.
    pub anchor: Option<ModelVersion>,
    /// The data set.
    pub snapshot_digest: Option<Sha256Digest>,
    /// The training run; registering the same run and artifact again gives the same version.
    pub run_id: Option<RunId>,
    /// Version of the code that trained.
    pub code_version: String,
    /// How it was trained (`base`, `sft`, `dpo`, `actionrl`, ...).
    pub method: String,
    /// Who may be served; none: everybody. Never wider than the anchor's, and the snapshot's own.
    pub audience: Option<Audience>,
    /// What the offline evaluation said: a JSON object.
    pub evaluation: serde_json::Value,
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Owner.
    pub tenant: TenantId,
    /// The model.
    pub model: ModelName,
    /// Its number.
    pub version: ModelVersion,
    /// Digest of the artifact's manifest.
    pub artifact_digest: Sha256Digest,
    /// The artifact's manifest.
    pub manifest: serde_json::Value,
    /// See [`NewVersion::parent`].
    pub parent: Option<ModelVersion>,
    /// See [`NewVersion::anchor`].
    pub anchor: Option<ModelVersion>,
    /// See [`NewVersion::snapshot_digest`].
    pub snapshot_digest: Option<Sha256Digest>,
    /// See [`NewVersion::run_id`].
    pub run_id: Option<RunId>,
    /// See [`NewVersion::code_version`].
    pub code_version: String,
    /// See [`NewVersion::method`].
    pub method: String,
    /// See [`NewVersion::audience`].
    pub audience: Option<Audience>,
    /// See [`NewVersion::evaluation`].
    pub evaluation: serde_json::Value,
    /// Digest of the evaluation, as of its registration.
    pub evaluation_digest: Sha256Digest,
    /// When.
    pub registered_at: Timestamp,
    /// By which API key.
    pub registered_by: String,
    /// When it last became current.
    pub promoted_at: Option<Timestamp>,
}

/// A model at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Owner.
    pub tenant: TenantId,
    /// Its name.
    pub model: ModelName,
    /// How many versions are registered.
    pub versions: i64,
    /// The promoted version.
    pub current: Option<ModelVersion>,
    /// The pinned version of the hold-back.
    pub reference: Option<ModelVersion>,
    /// Share of all persons held back.
    pub holdback_share: f64,
    /// The rollout that runs, if one does.
    pub active_rollout: Option<events::RolloutId>,
    /// Grows by one with every change; the audit log has one row for each.
    pub revision: i64,
}

/// One change, written in the same transaction as the change itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Owner.
    pub tenant: TenantId,
    /// The model that changed.
    pub model: ModelName,
    /// Its revision after the change.
    pub revision: i64,
    /// When.
    pub at: Timestamp,
    /// The API key, the reconciler, or the person a decision names.
    pub actor: String,
    /// A stable code such as `alias_set`.
    pub action: String,
    /// The version or rollout it is about.
    pub subject: String,
    /// Numbers and ids.
    pub detail: serde_json::Value,
}
