//! Immutable data sets: which pairs train, which are held out by time, and the digest that names the choice.
//!
//! The digest covers the sorted list of (pair id, content digest, purpose), the filters, the label policy, the code
//! version and the audience. It does not cover the lake's parts: how pairs lie in files may change, what was learned
//! from may not.

use std::collections::{BTreeMap, BTreeSet};

use events::{Audience, ModelName, PairReason, PreferencePair, Sha256Digest, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// What decides membership. Part of the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
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

/// What a pair is used for.
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
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Gate => "gate",
        }
    }
}

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

/// Whether the chosen side of a pair is `NO_EDIT`.
fn chooses_no_edit(reason: PairReason) -> bool {
    matches!(reason, PairReason::Dismissed)
}

/// Chooses the data set from all `pairs` of the lake, in any order; duplicates by id count once.
///
/// The newest `gate_opportunities` are held out, with every pair of theirs; silence confirmed (weight 0) is evidence for
/// the gate only. Of the rest, `NO_EDIT`-chosen pairs never outnumber `NO_EDIT`-rejected ones: a model that is taught to
/// fall silent wins acceptance and loses its use.
#[must_use]
pub fn plan(filters: Filters, pairs: Vec<PreferencePair>) -> Option<SnapshotPlan> {
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
        } else if pair.audience != filters.audience {
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

    // Some opportunities have no wanted side that a candidate could be judged by; a tenth more makes up for them.
    let to_hold_out = filters.gate_opportunities + filters.gate_opportunities / 10;
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
    let mut list = Vec::with_capacity((training.len() + gate.len()) * 65);
    let mut members: Vec<_> = training
        .iter()
        .map(|pair| (pair.pair_id, pair.content_digest, Purpose::Training))
        .chain(gate.iter().map(|pair| (pair.pair_id, pair.content_digest, Purpose::Gate)))
        .collect();
    members.sort_unstable();
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

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
