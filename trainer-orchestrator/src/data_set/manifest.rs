//! A data set as it is named, stored, shown and compared: ids, digests and counts. No text, and no person by name.

use std::collections::BTreeMap;

use events::{PairId, PersonPseudonym, Sha256Digest, Timestamp};
use model_registry::lineage::{MemberEntry, Purpose, SnapshotFilters, Support, snapshot_digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::composition::{Composition, Reason};
use super::policy::DataSetPolicy;

/// Why there is no data set, or not the one that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataSetError {
    /// No pair is left to train on.
    #[error("data set: no pair is left to train on{}", listed(.left_out))]
    Empty {
        /// How many were left out, by reason.
        left_out: Vec<(Reason, usize)>,
    },
    /// Weights by inverse probability need decisions that were all left to chance.
    #[error(
        "data set: data_set.inverse_p_show weights pairs by how likely their decision was, but that of {certain} of \
         the {pairs} that train was not left to chance; let serving explore, or turn it off"
    )]
    NoRandomisation {
        /// Pairs whose decision was certain.
        certain: usize,
        /// Pairs that would be weighted.
        pairs: usize,
    },
    /// The manifest is not what its digest names.
    #[error(
        "data set {expected}: its rows are not what the digest names{}; restore the database, or build the data set anew",
        found(.actual.as_ref())
    )]
    WrongDigest {
        /// The name.
        expected: Sha256Digest,
        /// What the rows give; nothing when the formula is unknown.
        actual: Option<Sha256Digest>,
    },
    /// A newer release made it.
    #[error("data set: formula {formula} of the digest is not known to this release; ask the one that made it")]
    UnknownFormula {
        /// Its number.
        formula: u32,
    },
    /// None has this digest.
    #[error("data set {digest}: not known here; `flywheel dataset show` lists those that are")]
    Unknown {
        /// What was asked for.
        digest: Sha256Digest,
    },
}

fn listed(left_out: &[(Reason, usize)]) -> String {
    let reasons: Vec<String> = left_out.iter().map(|(reason, count)| format!("{count} {}", reason.as_str())).collect();
    if reasons.is_empty() { String::new() } else { format!("; left out: {}", reasons.join(", ")) }
}

fn found(actual: Option<&Sha256Digest>) -> String {
    actual.map_or_else(String::new, |actual| format!(" (they give {actual})"))
}

/// A pair of a planned data set.
#[derive(Debug, Clone)]
pub struct Member {
    /// What the digest covers.
    pub entry: MemberEntry,
    /// Whose it is.
    pub person: PersonPseudonym,
    /// When it was labeled.
    pub labeled_at: Timestamp,
    /// Newest signal that it rests on.
    pub last_signal_at: Timestamp,
    /// Whether there is something to learn from it, wherever it stands.
    pub teaches: bool,
}

/// A candidate that is in no set.
#[derive(Debug, Clone)]
pub struct LeftOutPair {
    /// The pair.
    pub pair_id: PairId,
    /// Whose it is.
    pub person: PersonPseudonym,
    /// Why.
    pub reason: Reason,
    /// The pair that trains in its place, with its weight.
    pub merged_into: Option<PairId>,
}

/// A data set, decided and named, not yet stored.
#[derive(Debug, Clone)]
pub struct SnapshotPlan {
    /// Names the data set for ever.
    pub digest: Sha256Digest,
    /// What decided it.
    pub filters: SnapshotFilters,
    /// Sorted by pair id.
    pub members: Vec<Member>,
    /// Candidates that are no members. Sorted by pair id.
    pub left_out: Vec<LeftOutPair>,
    /// Counts of every stage and set.
    pub composition: Composition,
    /// Oldest label inside.
    pub first_labeled_at: Timestamp,
    /// Newest label inside.
    pub last_labeled_at: Timestamp,
    /// Newest signal inside: a turn's time counts from here.
    pub last_signal_at: Timestamp,
}

impl SnapshotPlan {
    /// How many pairs serve a purpose.
    #[must_use]
    pub fn count(&self, purpose: Purpose) -> usize {
        self.members.iter().filter(|member| member.entry.purpose == purpose).count()
    }

    /// Whether enough is held out for the gate to judge what is learned from this.
    #[must_use]
    pub fn can_be_judged(&self, policy: &DataSetPolicy) -> bool {
        let general = !policy.require_general || self.count(Purpose::General) >= policy.general_opportunities;
        general && self.count(Purpose::Gate) >= self.filters.gate_opportunities
    }

    /// As it will be shown.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        Manifest {
            digest: self.digest,
            filters: self.filters.clone(),
            members: self.members.iter().map(|member| ManifestMember::of(&member.entry)).collect(),
            left_out: self.left_out.iter().map(|pair| (pair.pair_id, pair.reason.as_str().to_owned())).collect(),
            composition: Some(self.composition.clone()),
        }
    }
}

/// A pair of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestMember {
    /// The pair.
    pub pair_id: PairId,
    /// What it says.
    pub content_digest: Sha256Digest,
    /// What it is used for.
    pub purpose: Purpose,
    /// What stands behind it.
    #[serde(flatten)]
    pub support: Support,
}

impl ManifestMember {
    /// What the digest covers of it.
    #[must_use]
    pub fn of(entry: &MemberEntry) -> Self {
        let MemberEntry { pair_id, content_digest, purpose, support } = *entry;
        Self { pair_id, content_digest, purpose, support }
    }

    fn entry(&self) -> MemberEntry {
        let Self { pair_id, content_digest, purpose, support } = *self;
        MemberEntry { pair_id, content_digest, purpose, support }
    }
}

/// A stored data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub digest: Sha256Digest,
    /// What decided it.
    pub filters: SnapshotFilters,
    /// Sorted by pair id.
    pub members: Vec<ManifestMember>,
    /// Candidates that were not taken, and why.
    pub left_out: BTreeMap<PairId, String>,
    /// Counts of every stage and set; none of data sets of earlier releases.
    pub composition: Option<Composition>,
}

impl Manifest {
    /// Whether it is what its digest names.
    ///
    /// # Errors
    /// [`DataSetError::Empty`] when nothing trains, [`DataSetError::WrongDigest`], or
    /// [`DataSetError::UnknownFormula`].
    pub fn verify(&self) -> Result<(), DataSetError> {
        if self.members.iter().all(|member| member.purpose != Purpose::Training) {
            return Err(DataSetError::Empty { left_out: Vec::new() });
        }
        let entries: Vec<MemberEntry> = self.members.iter().map(ManifestMember::entry).collect();
        let actual = snapshot_digest(&self.filters, &entries)
            .ok_or(DataSetError::UnknownFormula { formula: self.filters.formula })?;
        if actual == self.digest {
            Ok(())
        } else {
            Err(DataSetError::WrongDigest { expected: self.digest, actual: Some(actual) })
        }
    }

    /// What is different in `other`.
    #[must_use]
    pub fn diff(&self, other: &Self) -> ManifestDiff {
        let by_id = |members: &[ManifestMember]| -> BTreeMap<PairId, ManifestMember> {
            members.iter().map(|member| (member.pair_id, member.clone())).collect()
        };
        let (before, after) = (by_id(&self.members), by_id(&other.members));
        let mut diff = ManifestDiff {
            from: self.digest,
            to: other.digest,
            settings: changed_settings(&self.filters, &other.filters),
            came: Vec::new(),
            left: Vec::new(),
            moved: Vec::new(),
            reweighted: Vec::new(),
        };
        let absent = |manifest: &Self, pair: &PairId| match manifest.left_out.get(pair) {
            Some(reason) => format!("left out: {reason}"),
            None => NO_CANDIDATE.to_owned(),
        };
        for (pair_id, member) in &before {
            let from = member.purpose.as_str().to_owned();
            match after.get(pair_id) {
                None => diff.left.push(PairChange { pair_id: *pair_id, from, to: absent(other, pair_id) }),
                Some(now) if now.purpose != member.purpose => {
                    diff.moved.push(PairChange { pair_id: *pair_id, from, to: now.purpose.as_str().to_owned() });
                }
                Some(now) if now.support != member.support => diff.reweighted.push(*pair_id),
                Some(_) => {}
            }
        }
        for (pair_id, member) in after.iter().filter(|(pair_id, _)| !before.contains_key(*pair_id)) {
            let to = member.purpose.as_str().to_owned();
            diff.came.push(PairChange { pair_id: *pair_id, from: absent(self, pair_id), to });
        }
        diff
    }
}

/// Not in the lake at the time, older than the newest that were asked, or not allowed by rules, consent or erasure.
const NO_CANDIDATE: &str = "no candidate";

/// A setting that two data sets do not share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// Its name; settings of the policy have `policy.` before it.
    pub name: String,
    /// What it was.
    pub from: Value,
    /// What it became.
    pub to: Value,
}

/// A pair that two data sets use in different ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairChange {
    /// The pair.
    pub pair_id: PairId,
    /// What it was: a purpose, why it was left out, or `no candidate`.
    pub from: String,
    /// What it became.
    pub to: String,
}

/// What is different in a second data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestDiff {
    /// The first.
    pub from: Sha256Digest,
    /// The second.
    pub to: Sha256Digest,
    /// Filters and policies that differ.
    pub settings: Vec<SettingChange>,
    /// Pairs that only the second one has.
    pub came: Vec<PairChange>,
    /// Pairs that only the first one has.
    pub left: Vec<PairChange>,
    /// Pairs that both have for different purposes.
    pub moved: Vec<PairChange>,
    /// Pairs that others stand behind, or that count for more or less.
    pub reweighted: Vec<PairId>,
}

impl ManifestDiff {
    /// How often each change happened, most frequent first.
    #[must_use]
    pub fn summary(&self) -> Vec<(String, String, usize)> {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for change in self.came.iter().chain(&self.left).chain(&self.moved) {
            *counts.entry((change.from.as_str(), change.to.as_str())).or_default() += 1;
        }
        let mut summary: Vec<_> =
            counts.into_iter().map(|((from, to), count)| (from.to_owned(), to.to_owned(), count)).collect();
        summary.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        summary
    }
}

fn changed_settings(before: &SnapshotFilters, after: &SnapshotFilters) -> Vec<SettingChange> {
    let (before, after) = (settings(before), settings(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |settings: &BTreeMap<String, Value>, name: &String| settings.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| SettingChange { name: name.clone(), from: value(&before, name), to: value(&after, name) })
        .filter(|change| change.from != change.to)
        .collect()
}

/// Every setting by its name.
fn settings(filters: &SnapshotFilters) -> BTreeMap<String, Value> {
    let mut settings = BTreeMap::new();
    // Names and numbers always become JSON.
    let Ok(Value::Object(fields)) = serde_json::to_value(filters) else { return settings };
    for (name, value) in fields {
        match value {
            Value::Object(inside) if name == "policy" => {
                settings.extend(inside.into_iter().map(|(name, value)| (format!("policy.{name}"), value)));
            }
            // Data sets of the first formula have no policy.
            Value::Null => {}
            value => {
                settings.insert(name, value);
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use events::TenantId;
    use model_registry::lineage::FORMULA;

    use super::*;

    fn member(number: u8, purpose: Purpose) -> ManifestMember {
        let digest = Sha256Digest::of(&[number]);
        ManifestMember {
            pair_id: serde_json::from_value(Value::String(digest.to_string())).unwrap(),
            content_digest: digest,
            purpose,
            support: Support { weight_millionths: Some(1_000_000), ..Support::default() },
        }
    }

    fn manifest(members: Vec<ManifestMember>, left_out: &[(u8, &str)]) -> Manifest {
        let filters = SnapshotFilters {
            tenant: TenantId::default(),
            model: "edit".parse().unwrap(),
            audience: "everyone".parse().unwrap(),
            label_policy_version: 1,
            code_version: "test".to_owned(),
            maximum_pairs: 100,
            gate_opportunities: 2,
            placebo_exchange_repositories: false,
            formula: FORMULA,
            policy: DataSetPolicy::default().value(),
        };
        let entries: Vec<MemberEntry> = members.iter().map(ManifestMember::entry).collect();
        let left_out =
            left_out.iter().map(|(number, reason)| (member(*number, Purpose::Gate).pair_id, (*reason).to_owned()));
        Manifest {
            digest: snapshot_digest(&filters, &entries).unwrap(),
            filters,
            left_out: left_out.collect(),
            members,
            composition: None,
        }
    }

    #[test]
    fn a_manifest_is_what_its_digest_names_or_says_what_is_wrong() {
        let whole = manifest(vec![member(1, Purpose::Training), member(2, Purpose::Gate)], &[]);
        whole.verify().unwrap();
        let read: Manifest = serde_json::from_str(&serde_json::to_string(&whole).unwrap()).unwrap();
        assert_eq!(read, whole);
        let mut altered = whole.clone();
        altered.members[0].support.weight_millionths = Some(2_000_000);
        assert!(
            matches!(altered.verify(), Err(DataSetError::WrongDigest { expected, .. }) if expected == whole.digest)
        );
        let mut newer = whole.clone();
        newer.filters.formula = FORMULA + 1;
        assert_eq!(newer.verify(), Err(DataSetError::UnknownFormula { formula: FORMULA + 1 }));
        let nothing = manifest(vec![member(2, Purpose::Gate)], &[]);
        assert_eq!(nothing.verify(), Err(DataSetError::Empty { left_out: Vec::new() }));
    }

    #[test]
    fn a_difference_says_what_came_what_left_and_why() {
        let training = |number| member(number, Purpose::Training);
        let one = manifest(vec![training(1), training(2), member(3, Purpose::Gate), training(4)], &[(5, "duplicate")]);
        let mut heavier = training(4);
        heavier.support.people = 2;
        let mut two =
            manifest(vec![training(3), heavier, training(5), training(6)], &[(1, "merged"), (7, "parse_errors")]);
        two.filters.policy["most_of_person_permille"] = 20.into();
        two.filters.code_version = "next".to_owned();
        let diff = one.diff(&two);
        let told = |changes: &[PairChange]| {
            let mut told: Vec<_> = changes.iter().map(|change| format!("{} -> {}", change.from, change.to)).collect();
            told.sort();
            told
        };
        assert_eq!(told(&diff.came), ["left out: duplicate -> training", "no candidate -> training"]);
        assert_eq!(told(&diff.left), ["training -> left out: merged", "training -> no candidate"]);
        assert_eq!(told(&diff.moved), ["gate -> training"]);
        assert_eq!(diff.reweighted, [training(4).pair_id]);
        let settings: Vec<_> = diff.settings.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(settings, ["code_version", "policy.most_of_person_permille"]);
        assert_eq!(diff.summary().iter().map(|(_, _, count)| count).sum::<usize>(), 5);
        let none = one.diff(&one);
        assert!(none.came.is_empty() && none.left.is_empty() && none.settings.is_empty() && none.reweighted.is_empty());
    }
}
