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
    /// What the gate judges by: one pair of each held-out opportunity. Sorted by pair id.
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
        self.gate.len() >= self.filters.gate_opportunities
    }
}

/// Whether the chosen side of a pair is `NO_EDIT`, or nothing is known of it but what it is not.
fn chooses_no_edit(reason: PairReason) -> bool {
    matches!(reason, PairReason::Dismissed)
}

/// Whether it is known what the developer wanted. It is not after a rejection with nothing in place of the suggestion:
/// such a pair has a rejected side only, and so no place where two sides part.
pub(crate) fn says_what_was_wanted(pair: &PreferencePair) -> bool {
    let rejects = matches!(pair.reason, PairReason::Dismissed | PairReason::AcceptedThenUndone);
    !rejects || pair.divergence.is_some()
}

/// Chooses the data set from all `pairs` of the lake, in any order; duplicates by id count once. A repository that
/// `allowed` does not name is left out, and so is one whose audience is another now.
///
/// The newest `gate_opportunities` by which a candidate can be judged (half of them while there are no more) are held
/// out, each with the one pair that judges: exactly that many are judged. Whatever else is as new as they are, or
/// belongs to them, is left out. Silence confirmed (weight 0) is evidence for the gate only. Of the rest,
/// `NO_EDIT`-chosen pairs never outnumber `NO_EDIT`-rejected ones: a model that is taught to fall silent wins
/// acceptance and loses its use.
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

    let before = newest_first.len();
    let (mut gate, rest) = hold_out(newest_first, filters.gate_opportunities);
    leave("held_out_without_judging", before - gate.len() - rest.len());
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

/// Parts what the gate judges by from what may train: one pair of each of the newest `wanted` opportunities that say
/// what was wanted, and every pair of the opportunities that opened before all of those.
fn hold_out(newest_first: Vec<PreferencePair>, wanted: usize) -> (Vec<PreferencePair>, Vec<PreferencePair>) {
    let judgeable: BTreeSet<_> =
        newest_first.iter().filter(|pair| says_what_was_wanted(pair)).map(|pair| pair.opportunity_id).collect();
    // While nothing would be left to train on, half of them train all the same: the gate then says that it can not
    // judge, with its figures.
    let count = if judgeable.len() > wanted { wanted } else { judgeable.len() / 2 };
    let (mut gate, mut rest, mut held_out) = (Vec::with_capacity(count), Vec::new(), BTreeSet::new());
    for pair in newest_first {
        if gate.len() < count {
            if says_what_was_wanted(&pair) && held_out.insert(pair.opportunity_id) {
                gate.push(pair);
            }
        } else if !held_out.contains(&pair.opportunity_id) {
            rest.push(pair);
        }
    }
    (gate, rest)
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
