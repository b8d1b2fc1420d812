//! What the pairs of a part have in common: day, audience and language. A part belongs to one tenant in any case.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use events::{Audience, PreferencePair};
use migrations::storable;
use serde::{Deserialize, Serialize};

use super::part::PlacedPair;

/// What all pairs of a part have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartGroup {
    /// Day of the labels (UTC), counted from 1970-01-01.
    pub day: i64,
    /// Who may be served what is learned from them.
    pub audience: Audience,
    /// Language id as in LSP, as a database stores it.
    pub language: String,
}

impl PartGroup {
    /// Where a pair belongs.
    #[must_use]
    pub fn of(pair: &PreferencePair) -> Self {
        Self {
            day: pair.labeled_at.day(),
            audience: pair.audience.clone(),
            language: storable(&pair.language).into_owned(),
        }
    }
}

/// Parts pairs by their group. At most `most` parts come out, and one more: what does not belong to the groups with the
/// most pairs stays together, without a group, until it is written again. Thousands of audiences in one batch are not
/// thousands of objects.
pub(crate) fn grouped(pairs: Vec<PlacedPair>, most: usize) -> BTreeMap<Option<PartGroup>, Vec<PlacedPair>> {
    let mut groups: BTreeMap<PartGroup, Vec<PlacedPair>> = BTreeMap::new();
    for (place, pair) in pairs {
        groups.entry(PartGroup::of(&pair)).or_default().push((place, pair));
    }
    let mut by_size: Vec<(PartGroup, Vec<PlacedPair>)> = groups.into_iter().collect();
    // Stable: of equals the first group.
    by_size.sort_by_key(|(_, pairs)| Reverse(pairs.len()));
    let mut parts: BTreeMap<Option<PartGroup>, Vec<PlacedPair>> = BTreeMap::new();
    for (number, (group, pairs)) in by_size.into_iter().enumerate() {
        let group = (number < most.max(1)).then_some(group);
        parts.entry(group).or_default().extend(pairs);
    }
    parts
}
