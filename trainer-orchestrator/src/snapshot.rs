//! Immutable data sets: which pairs train, which are held out by time, and the digest that names the choice.
//!
//! The digest covers the sorted list of (pair id, content digest, purpose), the filters, the label policy, the code
//! version and the audience; the registry computes it again from the stored rows (`model_registry::lineage`).

use std::collections::{BTreeMap, BTreeSet};

use events::{PairReason, PreferencePair, Sha256Digest, Timestamp};
use model_registry::lineage::snapshot_digest;
pub use model_registry::lineage::{Purpose, SnapshotFilters as Filters};

use crate::allow_list::AllowList;

/// A data set, decided and named, not yet stored.
#[derive(Debug, Clone)]
pub struct SnapshotPlan {
    /// Names the data set for ever.
    pub digest: Sha256Digest,
    /// What decided it.
    pub filters: Filters,
    /// Sorted by pair id.
    pub training: Vec<PreferencePair>,
    /// Sorted by pair id.
    pub gate: Vec<PreferencePair>,
    /// How many pairs were left out, by reason.
    pub left_out: BTreeMap<&'static str, usize>,
    /// Oldest label inside.
    pub first_labeled_at: Timestamp,
    /// Newest label inside.
    pub last_labeled_at: Timestamp,
    /// Newest signal inside: a turn's time counts from here.
    pub last_signal_at: Timestamp,
}

impl SnapshotPlan {
    /// Whether enough is held out for the gate to judge what is learned from this.
    #[must_use]
    pub fn can_be_judged(&self) -> bool {
        let held_out: BTreeSet<_> = self.gate.iter().map(|pair| pair.opportunity_id).collect();
        held_out.len() >= self.filters.gate_opportunities
    }
}

/// Whether the chosen side of a pair is `NO_EDIT`.
fn chooses_no_edit(reason: PairReason) -> bool {
    matches!(reason, PairReason::Dismissed)
}

/// Chooses the data set from all `pairs` of the lake, in any order; duplicates by id count once. A repository that `allowed`
/// does not name is left out, and so is one whose audience is another now.
///
/// The newest `gate_opportunities` (half of all while there are no more) are held out, with every pair of theirs; silence
/// confirmed (weight 0) is evidence for the gate only. Of the rest, `NO_EDIT`-chosen pairs never outnumber
/// `NO_EDIT`-rejected ones: a model that is taught to fall silent wins acceptance and loses its use.
#[must_use]
pub fn plan(filters: Filters, allowed: &AllowList, pairs: Vec<PreferencePair>) -> Option<SnapshotPlan> {
    let mut left_out: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut leave = |reason, count: usize| {
        if count > 0 {
            *left_out.entry(reason).or_default() += count;
        }
    };
    let mut by_id = BTreeMap::new();
    for pair in pairs {
        if pair.tenant != filters.tenant || pair.model != filters.model {
            leave("another_tenant_or_model", 1);
        } else if allowed.audience_of(&pair.repository).is_none() {
            leave("repository_without_rule", 1);
        } else if pair.audience != filters.audience || allowed.audience_of(&pair.repository) != Some(&filters.audience)
        {
            leave("another_audience", 1);
        } else if pair.label_policy_version != filters.label_policy_version {
            leave("another_label_policy", 1);
        } else if pair.sealed.is_none() {
            leave("without_text", 1);
        } else {
            by_id.insert(pair.pair_id, pair);
        }
    }
    let mut newest_first: Vec<PreferencePair> = by_id.into_values().collect();
    newest_first.sort_by_key(|pair| {
        (std::cmp::Reverse(pair.opened_at), std::cmp::Reverse(pair.opportunity_id), pair.action_index, pair.pair_id)
    });
    let beyond = newest_first.len().saturating_sub(filters.maximum_pairs);
    leave("older_than_the_newest", beyond);
    newest_first.truncate(filters.maximum_pairs);

    // Some opportunities have no wanted side that a candidate could be judged by; a tenth more makes up for them. While
    // nothing would be left to train on, half of them train all the same: the gate then says that it cannot judge, with
    // its figures.
    let opportunities = newest_first.iter().map(|pair| pair.opportunity_id).collect::<BTreeSet<_>>().len();
    let wanted = filters.gate_opportunities + filters.gate_opportunities / 10;
    let to_hold_out = if opportunities > wanted { wanted } else { opportunities / 2 };
    let mut held_out = BTreeSet::new();
    for pair in &newest_first {
        if held_out.len() >= to_hold_out {
            break;
        }
        held_out.insert(pair.opportunity_id);
    }
    let (mut gate, rest): (Vec<_>, Vec<_>) =
        newest_first.into_iter().partition(|pair| held_out.contains(&pair.opportunity_id));
    let before = rest.len();
    let mut training: Vec<_> = rest.into_iter().filter(|pair| pair.weight > 0.0).collect();
    leave("calibration_only", before - training.len());

    let missed = training.iter().filter(|pair| pair.reason == PairReason::Missed).count();
    let mut silences = 0;
    let before = training.len();
    training.retain(|pair| {
        if !chooses_no_edit(pair.reason) {
            return true;
        }
        silences += 1;
        silences <= missed
    });
    leave("no_edit_outnumbers", before - training.len());

    training.sort_by_key(|pair| pair.pair_id);
    gate.sort_by_key(|pair| pair.pair_id);
    let times = || training.iter().chain(&gate);
    let first_labeled_at = times().map(|pair| pair.labeled_at).min()?;
    let last_labeled_at = times().map(|pair| pair.labeled_at).max()?;
    let last_signal_at = times().map(|pair| pair.last_signal_at).max()?;
    if training.is_empty() {
        return None;
    }
    let digest = digest(&filters, &training, &gate);
    Some(SnapshotPlan { digest, filters, training, gate, left_out, first_labeled_at, last_labeled_at, last_signal_at })
}

fn digest(filters: &Filters, training: &[PreferencePair], gate: &[PreferencePair]) -> Sha256Digest {
    let members: Vec<_> = training
        .iter()
        .map(|pair| (pair.pair_id, pair.content_digest, Purpose::Training))
        .chain(gate.iter().map(|pair| (pair.pair_id, pair.content_digest, Purpose::Gate)))
        .collect();
    snapshot_digest(filters, &members)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
