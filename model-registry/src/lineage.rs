//! Where a version comes from, and where a person's data went: one chain, walked both ways.
//!
//! ```text
//! person -> pairs -> snapshots -> versions that trained on them -> versions that started from those weights
//! ```
//!
//! Every link is a digest. A snapshot's digest covers the sorted list of its members and what chose them; it is
//! computed again from the stored rows when a version that names it is registered and before the version serves, so that
//! lineage is checked, not believed. It does not cover the parts of the lake that the pairs were read from: how pairs lie in
//! files may change, what was learned from may not. The formula has a number, which the filters carry: what an earlier
//! one named stays verified.

use std::borrow::Cow;

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
    /// Number of the formula that gave the digest; rows of earlier releases do not say it.
    #[serde(default = "first_formula")]
    pub formula: u32,
    /// How pairs were filtered, merged, capped, held out and weighted: names and whole numbers, kept as they were
    /// written, so that a release that knows more of them gives an old snapshot the same digest.
    #[serde(default)]
    pub policy: serde_json::Value,
}

/// Covers pair ids, content digests and purposes.
pub const FIRST_FORMULA: u32 = 1;
/// Covers support and weight of every member, and the policy, too. What this release writes, as soon as the release
/// before may use the database no more.
pub const FORMULA: u32 = 2;

fn first_formula() -> u32 {
    FIRST_FORMULA
}

/// What a pair of a snapshot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Gradients.
    Training,
    /// Held out by time, in the repositories that train: judges what the candidate gained (the set *adapt*).
    Gate,
    /// Of repositories and people that train nothing: judges whether the candidate does harm elsewhere.
    General,
}

impl Purpose {
    /// The symbol in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Gate => "gate",
            Self::General => "general",
        }
    }
}

/// A text that names no purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("purpose: expected \"training\", \"gate\" or \"general\"")]
pub struct UnknownPurpose;

impl std::str::FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        match text {
            "training" => Ok(Self::Training),
            "gate" => Ok(Self::Gate),
            "general" => Ok(Self::General),
            _ => Err(UnknownPurpose),
        }
    }
}

/// How many people and repositories stand behind a pair, and how much it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Support {
    /// Persons who made this correction.
    pub people: u32,
    /// Repositories in which they made it.
    pub repositories: u32,
    /// Weight in training, in millionths; none in snapshots of the first formula, which left it to the pair.
    pub weight_millionths: Option<i64>,
}

impl Default for Support {
    /// One person in one repository.
    fn default() -> Self {
        Self { people: 1, repositories: 1, weight_millionths: None }
    }
}

/// What a snapshot's digest covers of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberEntry {
    /// The pair.
    pub pair_id: PairId,
    /// What it says.
    pub content_digest: Sha256Digest,
    /// What it is used for.
    pub purpose: Purpose,
    /// What stands behind it.
    pub support: Support,
}

/// Names a data set for ever: what chose it, and the sorted list of its members. None for a formula that only a newer
/// release knows.
// Inlined, it is compiled as fast as whoever names a million pairs; this crate is not.
#[inline]
#[must_use]
pub fn snapshot_digest(filters: &SnapshotFilters, members: &[MemberEntry]) -> Option<Sha256Digest> {
    if !(FIRST_FORMULA..=FORMULA).contains(&filters.formula) {
        return None;
    }
    let is_first = filters.formula == FIRST_FORMULA;
    // Most come sorted.
    let mut members = Cow::Borrowed(members);
    if !members.is_sorted() {
        members.to_mut().sort_unstable();
    }
    let mut list = Vec::with_capacity(members.len() * 81);
    for member in members.iter() {
        list.extend_from_slice(member.pair_id.digest().as_bytes());
        list.extend_from_slice(member.content_digest.as_bytes());
        list.push(member.purpose as u8);
        if !is_first {
            list.extend_from_slice(&member.support.people.to_be_bytes());
            list.extend_from_slice(&member.support.repositories.to_be_bytes());
            // A weight is never negative.
            list.extend_from_slice(&member.support.weight_millionths.unwrap_or(-1).to_be_bytes());
        }
    }
    let label_policy_version = filters.label_policy_version.to_be_bytes();
    let maximum_pairs = (filters.maximum_pairs as u64).to_be_bytes();
    let gate_opportunities = (filters.gate_opportunities as u64).to_be_bytes();
    let placebo = [u8::from(filters.placebo_exchange_repositories)];
    let first: [&[u8]; 9] = [
        &list,
        filters.tenant.as_str().as_bytes(),
        filters.model.as_str().as_bytes(),
        filters.audience.as_str().as_bytes(),
        &label_policy_version,
        filters.code_version.as_bytes(),
        &maximum_pairs,
        &gate_opportunities,
        &placebo,
    ];
    if is_first {
        return Some(Sha256Digest::of_parts("flywheel snapshot", &first));
    }
    // The names of an object are sorted.
    let policy = filters.policy.to_string();
    let formula = filters.formula.to_be_bytes();
    let parts: Vec<&[u8]> = first.into_iter().chain([policy.as_bytes(), &formula[..]]).collect();
    Some(Sha256Digest::of_parts("flywheel snapshot, by policy", &parts))
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

#[cfg(test)]
mod tests {
    use events::SuggestionId;

    use super::*;

    fn filters() -> SnapshotFilters {
        SnapshotFilters {
            tenant: TenantId::default(),
            model: "edit".parse().unwrap(),
            audience: "everyone".parse().unwrap(),
            label_policy_version: 1,
            code_version: "test".to_owned(),
            maximum_pairs: 1000,
            gate_opportunities: 2,
            placebo_exchange_repositories: false,
            formula: FIRST_FORMULA,
            policy: serde_json::Value::Null,
        }
    }

    fn members() -> Vec<MemberEntry> {
        (1..=6_u32)
            .map(|number| {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                let opportunity = format!("{:032x}", u128::from_be_bytes(bytes)).parse().unwrap();
                let suggestion: SuggestionId = format!("{:032x}", u128::from_be_bytes(bytes)).parse().unwrap();
                let tenant = TenantId::default();
                MemberEntry {
                    pair_id: PairId::derive(&tenant, opportunity, Some(suggestion), 0, "accepted_kept", 1),
                    content_digest: Sha256Digest::of(&number.to_be_bytes()),
                    purpose: if number > 4 { Purpose::Gate } else { Purpose::Training },
                    support: Support::default(),
                }
            })
            .collect()
    }

    #[test]
    fn what_an_earlier_formula_named_stays_verified() {
        // Versions name their data sets by it: a change of the formula breaks the lineage of everything registered.
        let digest = snapshot_digest(&filters(), &members()).unwrap();
        assert_eq!(digest.to_string(), "9a4f04f8e6998aed39820039ff9046f82dbf81354ff3db4fb5681778046cbcab");
        let stored = r#"{"tenant":"default","model":"edit","audience":"everyone","label_policy_version":1,
            "code_version":"test","maximum_pairs":1000,"gate_opportunities":2,"placebo_exchange_repositories":false}"#;
        let read: SnapshotFilters = serde_json::from_str(stored).unwrap();
        assert_eq!(read, filters());
    }

    #[test]
    fn what_the_second_formula_named_stays_verified() {
        let mut members = members();
        members[0].support = Support { people: 5, repositories: 2, weight_millionths: Some(2_584_963) };
        // The order in which a policy is written down is no part of it.
        let policy = serde_json::json!({ "most_of_person_permille": 10, "inverse_p_show": false });
        let digest = snapshot_digest(&SnapshotFilters { formula: 2, policy, ..filters() }, &members).unwrap();
        assert_eq!(digest.to_string(), "41504879cc8cee49389acd28e0e2d21f1da0c99ee893f72c1a342840fead3637");
    }

    #[test]
    fn the_formula_of_today_covers_support_weight_and_policy() {
        let today = SnapshotFilters { formula: FORMULA, ..filters() };
        let known = snapshot_digest(&today, &members());
        assert_ne!(known, snapshot_digest(&filters(), &members()));
        let mut reversed = members();
        reversed.reverse();
        assert_eq!(known, snapshot_digest(&today, &reversed));
        let changes: [fn(&mut Support); 3] = [
            |support| support.people = 2,
            |support| support.repositories = 2,
            |support| support.weight_millionths = Some(1_000_000),
        ];
        for change in changes {
            let mut members = members();
            change(&mut members[0].support);
            assert_ne!(known, snapshot_digest(&today, &members));
            assert_eq!(snapshot_digest(&filters(), &members), snapshot_digest(&filters(), &super::tests::members()));
        }
        let policy = serde_json::json!({ "most_of_person_permille": 10 });
        assert_ne!(known, snapshot_digest(&SnapshotFilters { policy, ..today.clone() }, &members()));
        assert_eq!(snapshot_digest(&SnapshotFilters { formula: FORMULA + 1, ..today }, &members()), None);
    }
}
