//! Data sets, made in stages: every stage is a pure function of pairs, takes time in proportion to their number, and
//! says of each pair that it leaves out why.
//!
//! ```text
//! candidates -> quality -> duplicates within person and day -> caps -> hold-outs (general, adapt)
//!   -> of what trains: merging of equals -> balance of NO_EDIT and caps -> weights -> manifest
//! ```
//!
//! Nothing depends on the order in which pairs arrived or on how they lie in the lake: the first thing that is done to
//! them is to sort them. What the text of a pair has to say is taken from it once ([`lesson`]); text itself enters no
//! stage and stays in no memory.

pub mod candidates;
pub(crate) mod caps;
pub mod composition;
mod duplicates;
mod entry;
pub mod groups;
pub mod header;
pub mod hold_out;
pub mod lesson;
pub mod manifest;
mod merging;
pub mod minhash;
pub mod policy;
mod quality;
mod silence;
pub mod sources;
pub mod stored;
pub mod watch;
mod weights;

use std::collections::HashSet;
use std::sync::Arc;

use events::PreferencePair;
use model_registry::lineage::{FIRST_FORMULA, MemberEntry, Purpose, SnapshotFilters, Support, snapshot_digest};

use self::candidates::says_what_was_wanted;
use self::composition::{Census, Composition, Reason, SetStatistics};
use self::entry::{ByNumber, Entry, LeftOut, newest_first};
use self::lesson::Lesson;
use self::manifest::{DataSetError, LeftOutPair, Member, SnapshotPlan};
use self::policy::DataSetPolicy;

/// A pair that may be in a data set, with what is known of its text.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The pair; whether it is sealed does not matter here.
    pub pair: PreferencePair,
    /// What its text says.
    pub lesson: Arc<Lesson>,
}

impl Candidate {
    /// Whether others can be judged by it.
    fn judges(&self) -> bool {
        self.lesson.judges && says_what_was_wanted(&self.pair)
    }
}

/// Makes the data set of `candidates`, in any order. `before` says how many pairs were left out before their text was
/// looked at; `filters` say for whom it is and by which formula it is named, and are given the policy. By the first
/// formula it is one that the release before can read: without a set *general*, and weighted by labels alone.
///
/// # Errors
/// [`DataSetError::Empty`] when nothing is left to train on, [`DataSetError::NoRandomisation`] when the policy wants
/// weights and not all decisions were left to chance.
pub fn build(
    filters: SnapshotFilters,
    policy: &DataSetPolicy,
    candidates: &[Candidate],
    before: &Census,
) -> Result<SnapshotPlan, DataSetError> {
    let is_first = filters.formula == FIRST_FORMULA;
    let policy = &if is_first { policy.of_the_first_formula() } else { policy.clone() };
    // The first formula covers no policy.
    let value = if is_first { serde_json::Value::Null } else { policy.value() };
    let filters = SnapshotFilters { policy: value, ..filters };
    let mut left_out = LeftOut::default();
    let entries = newest_first(candidates);
    let entries = quality::without_faults(policy, entries, &mut left_out);
    let entries = duplicates::within_person_and_day(entries, &mut left_out);
    let entries = caps::apply(policy, entries, &mut left_out);
    let general = hold_out::general(policy, filters.gate_opportunities, entries, &mut left_out);
    let adapt = hold_out::adapt(policy, filters.gate_opportunities, &general.rest, &mut left_out);
    let mut sets = [adapt.rest, adapt.held_out, general.held_out];
    if is_first {
        for entry in sets.iter_mut().flatten() {
            (entry.people, entry.repositories) = (1, 1);
        }
    }
    let [training, adapt, general] = sets;

    let mut census = before.clone();
    for (_, reason) in &left_out.0 {
        *census.entry(*reason).or_default() += 1;
    }
    if training.is_empty() {
        return Err(DataSetError::Empty { left_out: census.into_iter().collect() });
    }
    let (weights, weight_statistics) = weights::of(policy, &training)?;
    let composition = Composition {
        read: candidates.len() + before.values().sum::<usize>(),
        last_labeled_at: candidates.iter().map(|candidate| candidate.pair.labeled_at).max(),
        stages: Composition::stages(candidates.len() + before.values().sum::<usize>(), &census),
        training: SetStatistics::of(&training),
        adapt: SetStatistics::of(&adapt),
        adapt_identifiers_seen: identifiers_seen(&training, &adapt),
        general: SetStatistics::of(&general),
        weights: weight_statistics,
    };
    // No two that train say the same. One that was merged may have been left out with the one that stood for it.
    let mut by_correction: ByNumber<Option<&Candidate>> = ByNumber::default();
    for entry in &training {
        *by_correction.of(entry.correction) = Some(entry.candidate);
    }
    let stands_for = |entry: &Entry<'_>| by_correction.get(entry.correction).map(|candidate| candidate.pair.pair_id);
    let mut left_out: Vec<LeftOutPair> = left_out
        .0
        .into_iter()
        .map(|(entry, reason)| LeftOutPair {
            pair_id: entry.candidate.pair.pair_id,
            person: entry.candidate.pair.person.clone(),
            reason,
            merged_into: if reason == Reason::Merged { stands_for(&entry) } else { None },
        })
        .collect();
    left_out.sort_by_cached_key(|pair| pair.pair_id);
    let training = training.into_iter().zip(weights).map(|(entry, weight)| member(entry, Purpose::Training, weight));
    let judging = [(adapt, Purpose::Gate), (general, Purpose::General)].into_iter().flat_map(|(set, purpose)| {
        let own = |entry: &Entry<'_>| (entry.weight.max(0.0) * 1e6).round() as i64;
        set.into_iter().map(move |entry| member(entry, purpose, own(&entry)))
    });
    let mut members: Vec<Member> = training.chain(judging).collect();
    if is_first {
        for member in &mut members {
            member.entry.support = Support::default();
        }
    }
    // Members are large: their ids are sorted, and each is moved once.
    members.sort_by_cached_key(|member| member.entry.pair_id);
    let entries: Vec<MemberEntry> = members.iter().map(|member| member.entry).collect();
    let digest =
        snapshot_digest(&filters, &entries).ok_or(DataSetError::UnknownFormula { formula: filters.formula })?;
    let labeled = || members.iter().map(|member| member.labeled_at);
    let empty = || DataSetError::Empty { left_out: Vec::new() };
    Ok(SnapshotPlan {
        digest,
        filters,
        first_labeled_at: labeled().min().ok_or_else(empty)?,
        last_labeled_at: labeled().max().ok_or_else(empty)?,
        last_signal_at: members.iter().map(|member| member.last_signal_at).max().ok_or_else(empty)?,
        members,
        left_out,
        composition,
    })
}

/// What trains of `entries`, which are what nothing holds out. Equal corrections are merged only here: a person who is
/// held out must not raise the weight of a pair that trains, and what judges is one pair of each opportunity. Limits
/// held for all that entered the hold-outs, not for what is left of it; and what balance leaves out lowers them again,
/// as they make what it balances fewer. Both are applied until both hold.
fn training<'a>(policy: &DataSetPolicy, entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let trains = |entry: &Entry<'a>| if entry.trains() { Ok(()) } else { Err(Reason::CalibrationOnly) };
    let entries = left_out.retain(entries, trains);
    let mut entries = merging::equal_corrections(entries, left_out);
    loop {
        let before = entries.len();
        entries = caps::apply(policy, silence::balance(entries, left_out), left_out);
        if entries.len() == before {
            return entries;
        }
    }
}

/// How many of `judging` write no name that `training` does not write.
fn identifiers_seen(training: &[Entry<'_>], judging: &[Entry<'_>]) -> usize {
    // What judges is few: the names of what trains are many.
    let mut unseen: HashSet<u64> = judging.iter().flat_map(names).copied().collect();
    for entry in training {
        if unseen.is_empty() {
            break;
        }
        for name in names(entry) {
            unseen.remove(name);
        }
    }
    judging.iter().filter(|entry| names(entry).iter().all(|name| !unseen.contains(name))).count()
}

fn names<'a>(entry: &Entry<'a>) -> &'a [u64] {
    &entry.candidate.lesson.identifiers
}

fn member(entry: Entry<'_>, purpose: Purpose, weight_millionths: i64) -> Member {
    let pair = &entry.candidate.pair;
    Member {
        entry: MemberEntry {
            pair_id: pair.pair_id,
            content_digest: pair.content_digest,
            purpose,
            support: Support {
                people: entry.people,
                repositories: entry.repositories,
                weight_millionths: Some(weight_millionths),
            },
        },
        person: pair.person.clone(),
        labeled_at: pair.labeled_at,
        last_signal_at: pair.last_signal_at,
        teaches: entry.trains(),
    }
}

#[cfg(test)]
mod tests;
