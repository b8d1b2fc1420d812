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
mod caps;
pub mod composition;
mod duplicates;
pub mod groups;
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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use events::{PairId, PreferencePair, Sha256Digest};
use model_registry::lineage::{FIRST_FORMULA, MemberEntry, Purpose, SnapshotFilters, Support, snapshot_digest};

use self::candidates::says_what_was_wanted;
use self::composition::{Census, Composition, Reason, SetStatistics};
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

    /// Whether there is anything to learn from it.
    fn trains(&self) -> bool {
        self.pair.weight > 0.0
    }
}

/// A candidate on its way through the stages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    candidate: &'a Candidate,
    /// Persons who stand behind it.
    people: u32,
    /// Repositories of theirs.
    repositories: u32,
}

/// What was left out on the way.
#[derive(Debug, Default)]
pub(crate) struct LeftOut<'a>(Vec<(&'a Candidate, Reason)>);

impl<'a> LeftOut<'a> {
    fn leave(&mut self, candidate: &'a Candidate, reason: Reason) {
        self.0.push((candidate, reason));
    }

    /// Those of `entries` that `decide` keeps, in their order; the others are left out for the reason that it gives.
    fn retain(
        &mut self,
        mut entries: Vec<Entry<'a>>,
        mut decide: impl FnMut(&Entry<'a>) -> Result<(), Reason>,
    ) -> Vec<Entry<'a>> {
        entries.retain(|entry| match decide(entry) {
            Ok(()) => true,
            Err(reason) => {
                self.leave(entry.candidate, reason);
                false
            }
        });
        entries
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
    let entries = quality::without_faults(entries, &mut left_out);
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
    let by_correction: HashMap<Sha256Digest, PairId> =
        training.iter().map(|entry| (entry.candidate.lesson.correction, entry.candidate.pair.pair_id)).collect();
    let training = training.into_iter().zip(weights).map(|(entry, weight)| member(entry, Purpose::Training, weight));
    let judging = [(adapt, Purpose::Gate), (general, Purpose::General)].into_iter().flat_map(|(set, purpose)| {
        let own = |entry: &Entry<'_>| (entry.candidate.pair.weight.max(0.0) * 1e6).round() as i64;
        set.into_iter().map(move |entry| member(entry, purpose, own(&entry)))
    });
    let mut members: Vec<Member> = training.chain(judging).collect();
    if is_first {
        for member in &mut members {
            member.entry.support = Support::default();
        }
    }
    members.sort_unstable_by_key(|member| member.entry.pair_id);
    let mut left_out: Vec<LeftOutPair> = left_out
        .0
        .into_iter()
        .map(|(candidate, reason)| LeftOutPair {
            pair_id: candidate.pair.pair_id,
            person: candidate.pair.person.clone(),
            reason,
            merged_into: by_correction.get(&candidate.lesson.correction).filter(|_| reason == Reason::Merged).copied(),
        })
        .collect();
    left_out.sort_unstable_by_key(|pair| pair.pair_id);
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

/// The one order in which every stage sees pairs: the newest opportunity first.
fn newest_first(candidates: &[Candidate]) -> Vec<Entry<'_>> {
    let entry = |candidate| Entry { candidate, people: 1, repositories: 1 };
    let mut entries: Vec<Entry<'_>> = candidates.iter().map(entry).collect();
    entries.sort_unstable_by_key(|entry| candidates::newest_first(&entry.candidate.pair));
    entries
}

/// What trains of `entries`, which are what nothing holds out. Equal corrections are merged only here: a person who is
/// held out must not raise the weight of a pair that trains, and what judges is one pair of each opportunity. Limits held for all that entered the hold-outs, not for
/// what is left of it; and what balance leaves out lowers them again, as they make what it balances fewer. Both are
/// applied until both hold.
fn training<'a>(policy: &DataSetPolicy, entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let trains = |entry: &Entry<'a>| if entry.candidate.trains() { Ok(()) } else { Err(Reason::CalibrationOnly) };
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
    let known: HashSet<u64> =
        training.iter().flat_map(|entry| entry.candidate.lesson.identifiers.iter().copied()).collect();
    let are_known = |entry: &&Entry<'_>| entry.candidate.lesson.identifiers.iter().all(|name| known.contains(name));
    judging.iter().filter(are_known).count()
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
        teaches: entry.candidate.trains(),
    }
}

#[cfg(test)]
mod tests;
