//! Which pairs of the lake may be asked at all, before any text is opened: whose they are, for whom, and whether rules
//! and consent of now allow it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use events::{Audience, OpportunityId, PairId, PairReason, PersonPseudonym, PreferencePair, Timestamp};
use model_registry::lineage::SnapshotFilters;

use super::caps;
use super::composition::{Census, Reason};
use super::policy::DataSetPolicy;
use crate::allow_list::AllowList;

/// Whether it is known what the developer wanted. It is not after a rejection with nothing in place of the suggestion:
/// such a pair has a rejected side only, and so no place where two sides part.
pub(crate) fn says_what_was_wanted(pair: &PreferencePair) -> bool {
    let rejects = matches!(pair.reason, PairReason::Dismissed | PairReason::AcceptedThenUndone);
    !rejects || pair.divergence.is_some()
}

/// Sorts the newest opportunity first, and in it the first action.
pub(crate) fn newest_first(pair: &PreferencePair) -> (Reverse<Timestamp>, Reverse<OpportunityId>, i32, PairId) {
    (Reverse(pair.opened_at), Reverse(pair.opportunity_id), pair.action_index, pair.pair_id)
}

/// Why rules and consents of now allow nobody of `audience` to be served what is learned from a pair; none: they do.
/// `allowed` says which repositories may be trained on (the licence), `sharing` who agrees that code is used.
#[must_use]
pub fn forbidden(
    pair: &PreferencePair,
    audience: &Audience,
    allowed: &AllowList,
    sharing: &BTreeSet<PersonPseudonym>,
) -> Option<Reason> {
    let now = allowed.audience_of(&pair.repository);
    if now.is_none() {
        Some(Reason::RepositoryWithoutRule)
    } else if pair.audience != *audience || now != Some(audience) {
        Some(Reason::AnotherAudience)
    } else if !sharing.contains(&pair.person) {
        Some(Reason::WithoutConsent)
    } else {
        None
    }
}

/// Why a pair is no candidate, however few there are; none: it is one.
#[must_use]
pub fn refusal(
    pair: &PreferencePair,
    filters: &SnapshotFilters,
    allowed: &AllowList,
    sharing: &BTreeSet<PersonPseudonym>,
) -> Option<Reason> {
    if pair.tenant != filters.tenant || pair.model != filters.model {
        return Some(Reason::AnotherTenantOrModel);
    }
    let forbidden = forbidden(pair, &filters.audience, allowed, sharing);
    forbidden.or_else(|| {
        if pair.label_policy_version != filters.label_policy_version {
            Some(Reason::AnotherLabelPolicy)
        } else if pair.sealed.is_none() {
            Some(Reason::WithoutText)
        } else {
            None
        }
    })
}

/// Those of `pairs`, in any order, that may be in a data set, newest first, and how many of the others there are, by
/// reason. The same pair twice is one. Rules and consents are those of now ([`forbidden`]), whatever held when a pair was
/// labeled. `policy` says how much of the newest may be one person's. What trains nothing has places of its own, as many again, and never displaces what trains.
#[must_use]
pub fn choose(
    filters: &SnapshotFilters,
    policy: &DataSetPolicy,
    allowed: &AllowList,
    sharing: &BTreeSet<PersonPseudonym>,
    pairs: Vec<PreferencePair>,
) -> (Vec<PreferencePair>, Census) {
    let mut left_out = Census::new();
    // A pair is never revised; were it, the choice must not depend on which came first.
    let mut once: HashMap<PairId, usize> = HashMap::with_capacity(pairs.len());
    for (place, pair) in pairs.iter().enumerate() {
        let known = once.entry(pair.pair_id).or_insert(place);
        if pair.content_digest < pairs[*known].content_digest {
            *known = place;
        }
    }
    let (training, calibrating): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .enumerate()
        .filter(|(place, pair)| once.get(&pair.pair_id) == Some(place))
        .map(|(_, pair)| pair)
        .filter(|pair| match refusal(pair, filters, allowed, sharing) {
            None => true,
            Some(reason) => {
                *left_out.entry(reason).or_default() += 1;
                false
            }
        })
        .partition(|pair| pair.weight > 0.0);
    let mut chosen = newest(policy, filters.maximum_pairs, training, &mut left_out);
    chosen.extend(newest(policy, filters.maximum_pairs, calibrating, &mut left_out));
    // Pairs are large: what they are sorted by is sorted, and each is moved once.
    chosen.sort_by_cached_key(newest_first);
    (chosen, left_out)
}

/// The newest `most` of `pairs`. Where there are more, one person has no more of these places than limits will allow
/// of a whole that large: what runs away for one person displaces nobody else, whom no later limit could bring back.
fn newest(
    policy: &DataSetPolicy,
    most: usize,
    mut pairs: Vec<PreferencePair>,
    left_out: &mut Census,
) -> Vec<PreferencePair> {
    if pairs.len() <= most {
        return pairs;
    }
    pairs.sort_by_cached_key(newest_first);
    let mut counts: HashMap<&PersonPseudonym, usize> = HashMap::new();
    let places: Vec<usize> = pairs
        .iter()
        .map(|pair| {
            let count = counts.entry(&pair.person).or_default();
            *count += 1;
            *count
        })
        .collect();
    let share = caps::share(most, counts.len(), caps::Dimension::Person.permille(policy)).max(1);
    let before = pairs.len();
    let mut places = places.into_iter();
    pairs.retain(|_| places.next().is_some_and(|place| place <= share));
    let mut leave = |reason, pairs: usize| {
        if pairs > 0 {
            *left_out.entry(reason).or_default() += pairs;
        }
    };
    leave(Reason::BeyondShareOfNewest, before - pairs.len());
    leave(Reason::OlderThanTheNewest, pairs.len().saturating_sub(most));
    pairs.truncate(most);
    pairs
}
