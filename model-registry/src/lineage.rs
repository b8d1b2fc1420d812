//! Where a version comes from, and where a person's data went: one chain, walked both ways.
//!
//! ```text
//! person -> pairs -> snapshots -> versions that trained on them -> versions that started from those weights
//! ```
//!
//! Every link is a digest. A snapshot's digest covers the sorted list of (pair id, content digest, purpose) and what
//! chose it; it is computed again from the stored rows when a version that names it is registered and before the
//! version serves, so that lineage is checked, not believed. It does not cover the parts of the lake that the pairs
//! were read from: how pairs lie in files may change, what was learned from may not.

use events::{Audience, ModelName, ModelVersion, PairId, PersonPseudonym, RunId, Sha256Digest, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// What decides which pairs a snapshot holds. Part of its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFilters {
    /// Owner of the data.
    pub tenant: TenantId,
    /// The model that it trains.
    pub model: ModelName,
    /// The one audience.
    pub audience: Audience,
    /// Version of the label table.
    pub label_policy_version: i32,
    /// Version of the code that selects and trains.
    pub code_version: String,
    /// Newest pairs that are kept.
    pub maximum_pairs: usize,
    /// Opportunities held out by time.
    pub gate_opportunities: usize,
    /// Whether prompts are trained with exchanged repository names (placebo).
    pub placebo_exchange_repositories: bool,
}

/// What a pair of a snapshot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Gradients.
    Training,
    /// Held out; judges the candidate.
    Gate,
}

impl Purpose {
    /// The symbol in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Gate => "gate",
        }
    }
}

/// A text that names no purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("purpose: expected \"training\" or \"gate\"")]
pub struct UnknownPurpose;

impl std::str::FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        match text {
            "training" => Ok(Self::Training),
            "gate" => Ok(Self::Gate),
            _ => Err(UnknownPurpose),
        }
    }
}

/// Names a data set for ever: what chose it, and the sorted list of its members.
#[must_use]
pub fn snapshot_digest(filters: &SnapshotFilters, members: &[(PairId, Sha256Digest, Purpose)]) -> Sha256Digest {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut list = Vec::with_capacity(members.len() * 65);
    for (pair, content, purpose) in members {
        list.extend_from_slice(pair.digest().as_bytes());
        list.extend_from_slice(content.as_bytes());
        list.push(purpose as u8);
    }
    Sha256Digest::of_parts(
        "flywheel snapshot",
        &[
            &list,
            filters.tenant.as_str().as_bytes(),
            filters.model.as_str().as_bytes(),
            filters.audience.as_str().as_bytes(),
            &filters.label_policy_version.to_be_bytes(),
            filters.code_version.as_bytes(),
            &(filters.maximum_pairs as u64).to_be_bytes(),
            &(filters.gate_opportunities as u64).to_be_bytes(),
            &[u8::from(filters.placebo_exchange_repositories)],
        ],
    )
}

/// Digest of an evaluation, over its JSON text with sorted names.
#[must_use]
pub fn evaluation_digest(evaluation: &serde_json::Value) -> Sha256Digest {
    Sha256Digest::of_parts("flywheel evaluation", &[evaluation.to_string().as_bytes()])
}

/// A pair of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMember {
    /// The pair.
    pub pair_id: PairId,
    /// What it said when the snapshot was made.
    pub content_digest: Sha256Digest,
    /// Whose it is.
    pub person: PersonPseudonym,
    /// What it is used for.
    pub purpose: Purpose,
}

/// A part of the lake that a snapshot was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// Digest of the Parquet object.
    pub digest: Sha256Digest,
    /// Partition of the pair topic.
    pub partition: i64,
    /// First position inside.
    pub first_position: String,
    /// Last position inside.
    pub last_position: String,
}

/// A data set, as lineage shows it. It says how many persons, never which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLineage {
    /// Its name.
    pub digest: Sha256Digest,
    /// Whether the stored rows still give this digest.
    pub is_verified: bool,
    /// Who may be served what is learned from it.
    pub audience: Audience,
    /// Version of the label table.
    pub label_policy_version: i64,
    /// Version of the code that chose it.
    pub code_version: String,
    /// Pairs that train.
    pub training_pairs: i64,
    /// Pairs that judge.
    pub gate_pairs: i64,
    /// Distinct persons.
    pub persons: i64,
    /// Oldest label.
    pub first_labeled_at: Timestamp,
    /// Newest label.
    pub last_labeled_at: Timestamp,
    /// Where the pairs were read.
    pub parts: Vec<SnapshotPart>,
}

/// One version in a chain of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionLineage {
    /// The version.
    pub version: ModelVersion,
    /// Digest of its artifact's manifest.
    pub artifact_digest: Sha256Digest,
    /// The version that served when its data was collected.
    pub parent: Option<ModelVersion>,
    /// The version whose weights it started from.
    pub anchor: Option<ModelVersion>,
    /// Version of the code that trained it.
    pub code_version: String,
    /// How it was trained.
    pub method: String,
    /// The training run.
    pub run_id: Option<RunId>,
    /// Digest of what the offline evaluation said.
    pub evaluation_digest: Sha256Digest,
    /// Whether the stored evaluation still gives that digest.
    pub is_evaluation_verified: bool,
    /// The data set; none for a base.
    pub snapshot: Option<SnapshotLineage>,
}

/// A data set that somebody's pairs went into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedSnapshot {
    /// Its name.
    pub digest: Sha256Digest,
    /// The model that it trains.
    pub model: ModelName,
    /// How many of the pairs asked about train.
    pub training_pairs: i64,
    /// How many of them judge.
    pub gate_pairs: i64,
}

/// A version that learned from somebody's pairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedVersion {
    /// The model.
    pub model: ModelName,
    /// Its number.
    pub version: ModelVersion,
    /// Digest of its artifact's manifest.
    pub artifact_digest: Sha256Digest,
    /// The data set through which the pairs came.
    pub snapshot_digest: Sha256Digest,
    /// The version that trained on that data set: this one, or the one that it descends from by its anchors.
    pub through: ModelVersion,
    /// Whether anybody may be served by it now.
    pub is_served: bool,
}

/// Where data went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trace {
    /// Data sets, by digest.
    pub snapshots: Vec<TracedSnapshot>,
    /// Versions, by model and number.
    pub versions: Vec<TracedVersion>,
}

/// Whose or which data is traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceOf {
    /// Everything of a person.
    Person(PersonPseudonym),
    /// One pair.
    Pair(PairId),
}
